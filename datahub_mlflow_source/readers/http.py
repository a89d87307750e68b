"""MLflow's REST API as calls: one pooled session, short retries, and answers turned into errors people can use.

Plain HTTP and not MlflowClient: that one hides page boundaries, filters listings in a way that servers before
2.21 answer with nothing, and retries a 500 for four minutes (measured on mlflow 3.17).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from threading import Lock
from typing import Any, TypeVar

import requests
import tenacity
import urllib3
from requests.adapters import HTTPAdapter

from datahub_mlflow_source.config import WORKSPACE_HEADER
from datahub_mlflow_source.connection import Connection
from datahub_mlflow_source.errors import PageError, ServerError
from datahub_mlflow_source.readers.collector import without_collecting
from datahub_mlflow_source.readers.paging import BEYOND_THE_END, offset_token
from datahub_mlflow_source.readers.workers import beside
from datahub_mlflow_source.redaction import HIDDEN, redact

logger = logging.getLogger(__name__)

T = TypeVar("T")

_API = "/api/2.0/mlflow/"
_LISTINGS = {"experiments", "registered_models", "next_page_token"}  # what an answer to `check` holds, if anything
_TRIED_AGAIN = (429, 502, 503, 504, 520, 521, 522, 523, 524)  # from 520 on: Cloudflare, of the server behind it
_MOST_TIMEOUTS = 5  # so many times as long as MLflow may take to begin an answer, it may take to end it
_CONNECT_SECONDS = 5.0  # a host that is there accepts sooner; with retries an absent one is known in 20 s
_FIRST_ANSWER_SECONDS = 10.0
_KNOWN_WITHIN_SECONDS = 27.0
_LONGEST_WAIT_SECONDS = 60.0
_FILE_SECONDS = 10.0
_LONGEST_FILE_WAIT = 5.0
_LONGEST_FIRST_WAIT_SECONDS = 2.0
_MOST_OF_VERSION = 40  # bytes
_backoff = tenacity.wait_random_exponential(multiplier=0.5, max=8)


class _Session(requests.Session):
    """That does not even look where a redirect leads: the address may be none, and the body endless."""

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002 - as requests has it
        return None


class MlflowHttp:
    """Calls to one MLflow server. Safe to use from several threads.

    Attributes:
        requests_sent: how many HTTP requests were made, retries included.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.requests_sent = 0
        self._counting = Lock()
        self._session = _Session()
        self._session.headers.update({"Accept": "application/json", **connection.headers})
        self._session.auth = connection.auth
        self._session.cert = connection.cert
        for prefix in ("http://", "https://"):
            self._session.mount(prefix, HTTPAdapter(pool_connections=2, pool_maxsize=64))

    def close(self) -> None:
        self._session.close()

    def check(self, path: str, params: Mapping[str, Any]) -> None:
        """Is MLflow there, and does it let us in? Known within 25 seconds, whatever it asks us to wait.

        `path` is a listing. One whose first row is bad is no reason to stop: what comes behind it may be good.

        Raises:
            ServerError: it isn't, or doesn't.
        """
        try:
            _ended_within(_KNOWN_WITHIN_SECONDS, lambda: self._look(path, params))
        except _EndlessError as error:
            raise self._no_answer(error) from error

    def _look(self, path: str, params: Mapping[str, Any]) -> None:
        try:
            answer = self._first_call(path, params)
        except PageError as error:
            try:
                answer = self._first_call(path, {**params, "page_token": offset_token(BEYOND_THE_END)})
            except ServerError:
                raise ServerError(
                    f"{error}. This was {self.connection.host}: check the server's log.", status=error.status
                ) from error
        if answer and not answer.keys() & _LISTINGS:
            raise self._not_mlflow(path, "other JSON", 200)

    def _first_call(self, path: str, params: Mapping[str, Any]) -> dict[str, Any]:
        timeout = min(self.connection.timeout_seconds, _FIRST_ANSWER_SECONDS)
        wait = _LONGEST_FIRST_WAIT_SECONDS
        return self._call("GET", path, params=params, tries=2, timeout=timeout, longest_wait=wait)

    def version(self) -> str | None:
        """What `GET /version` says, for the report; None where the server (Databricks, a proxy) doesn't say."""
        try:
            url, seconds = self.connection.url + "/version", _FIRST_ANSWER_SECONDS
            response = _ended_within(
                seconds, lambda: self._send("GET", url, timeout=seconds, most_bytes=_MOST_OF_VERSION)
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError):
            return None
        text = response.content.decode("ascii", "replace").strip()
        fits = len(text) < _MOST_OF_VERSION and text.isprintable() and "<" not in text
        return text if response.status_code == 200 and fits else None

    def status(self, path: str) -> int:
        """HTTP status of GET, from the server's root. Raises ServerError where there is no answer."""
        seconds = self.connection.timeout_seconds
        url = self.connection.url + path
        try:
            return _ended_within(2 * seconds, lambda: self._send("GET", url, timeout=seconds, most_bytes=1)).status_code
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise self._no_answer(error) from error

    def get(self, path: str, params: Mapping[str, Any], workspace: str = "") -> dict[str, Any]:
        """GET, below /api/2.0/mlflow/, or from the server's root with a / in front. Raises ServerError, PageError."""
        return self._call("GET", path, params=params, workspace=workspace)

    def file(self, path: str, params: Mapping[str, Any], most: int, workspace: str = "") -> bytes:
        """The first `most` bytes of what is there, and perhaps one more. Path and errors as `get`.

        In haste, for it is one of many, and none of them is needed.
        """
        timeout = min(self.connection.timeout_seconds, _FILE_SECONDS)
        response = self._answer(
            *("GET", path),
            params=params,
            workspace=workspace,
            most_bytes=most + 1,
            tries=2,
            timeout=timeout,
            longest_wait=_LONGEST_FILE_WAIT,
        )
        kind = response.headers.get("Content-Type", "").split(";")[0]
        if kind == "text/html":
            raise self._not_mlflow(path, kind, response.status_code, "the file")
        return response.content

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST of JSON, below /api/2.0/mlflow/; only for searches, as it may be sent twice. Raises as `get`."""
        return self._call("POST", path, body=body)

    def _call(self, method: str, path: str, **how: Any) -> dict[str, Any]:
        return self._as_json(path, self._answer(method, path, **how))

    def _answer(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        workspace: str = "",
        tries: int | None = None,
        timeout: float | None = None,
        longest_wait: float = _LONGEST_WAIT_SECONDS,
        most_bytes: int | None = None,
    ) -> requests.Response:
        url = self.connection.url + (path if path.startswith("/") else _API + path)
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(tries or 1 + self.connection.max_retries),
            wait=lambda state: min(_wait_seconds(state), longest_wait),
            retry=tenacity.retry_if_exception(is_transient),
            before_sleep=_log_retry,
            reraise=True,
        )
        try:
            headers = {WORKSPACE_HEADER: workspace} if workspace else None
            how = {"params": params, "json": body, "headers": headers, "timeout": timeout, "most_bytes": most_bytes}
            response: requests.Response = retrying(self._checked, method, url, **how)
        except requests.HTTPError as error:
            raise self._refusal(path, error.response) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:  # requests lets some through
            raise self._no_answer(error) from error
        return response

    def _checked(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        response = self._send(method, url, **kwargs)
        if not 200 <= response.status_code < 300:
            raise requests.HTTPError(response=response)
        return response

    def _send(
        self, method: str, url: str, *, timeout: float | None = None, most_bytes: int | None = None, **kwargs: Any
    ) -> requests.Response:
        with self._counting:
            self.requests_sent += 1
        # Redirects are not followed: they lead to login pages, and would carry our secret headers there.
        read_seconds = timeout or self.connection.timeout_seconds
        timeouts = (min(_CONNECT_SECONDS, read_seconds), read_seconds)
        # `verify` with each request: REQUESTS_CA_BUNDLE in the environment replaces the session's.
        verify = self.connection.verify
        how = {**kwargs, "timeout": timeouts, "verify": verify, "allow_redirects": False}

        def call() -> requests.Response:
            if most_bytes is None:
                return self._session.request(method, url, **how)
            with self._session.request(method, url, stream=True, **how) as response:
                # As `requests` itself keeps what it has read; the rest is never asked for.
                response._content = _first_bytes(response, most_bytes)
            return response

        return _ended_within(_MOST_TIMEOUTS * read_seconds, call)

    def _as_json(self, path: str, response: requests.Response) -> dict[str, Any]:
        kind = response.headers.get("Content-Type", "something without a type").split(";")[0]
        try:
            with without_collecting():
                answer = response.json()
        except ValueError as error:
            raise self._not_mlflow(path, kind, response.status_code) from error
        if not isinstance(answer, dict):
            raise self._not_mlflow(path, kind, response.status_code)
        return answer

    def _not_mlflow(self, path: str, kind: str, status: int, instead_of: str = "MLflow's JSON") -> ServerError:
        return ServerError(
            f"{self.connection.host} answered {path} with {kind} instead of {instead_of}, most likely a login page "
            "or another site. Check `tracking_uri` (and `registry_uri`), and what the proxy in front of MLflow "
            "wants (`token`, `headers_secret`).",
            status=status,
        )

    def _no_answer(self, error: Exception) -> ServerError:
        if isinstance(error, requests.exceptions.SSLError):
            advice = (
                "Check `tls`: `ca_bundle` for a private authority, `client_cert` where the server asks who we are; "
                "and whether `tracking_uri` (or `registry_uri`) should start with http://."
            )
        elif isinstance(error, requests.exceptions.ProxyError):
            advice = "Check the proxy in HTTPS_PROXY or HTTP_PROXY, or put the host into NO_PROXY."
        elif isinstance(error, requests.exceptions.ReadTimeout):
            advice = "The server took the request and did not answer: check its load, or set `timeout_seconds` higher."
        else:
            advice = "Check `tracking_uri` (and `registry_uri`), and that this machine can reach that host and port."
        return ServerError(f"No answer from MLflow at {self.connection.host}: {_root_cause(error)}. {advice}")

    def _refusal(self, path: str, response: requests.Response) -> ServerError:
        status = response.status_code
        code, message = _mlflow_error(response, self.connection.secrets)
        if status == 500:
            return PageError(
                f"MLflow failed on {path} with 500: {message or 'no reason given'}",
                status=status,
                error_code=code,
            )
        said = f" ({code}: {message})" if message else ""
        return ServerError(
            f"{self.connection.host} answered {path} with {status}{said}. {_advice(response, code)}",
            status=status,
            error_code=code,
        )


def _first_bytes(response: requests.Response, most: int) -> bytes:
    """So many at most; all of a shorter answer, or an error where it breaks off."""
    content = bytearray()
    for chunk in response.iter_content(65_536):
        content += chunk
        if len(content) >= most:
            break
    return bytes(content[:most])


class _EndlessError(requests.exceptions.ReadTimeout):
    """An answer that has begun, goes on and on, and is given up."""


def _ended_within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` gives or raises; _EndlessError where that takes longer.

    In a thread of its own: the timeout of a socket is for each byte, and a server may send one a second for ever.
    """
    answer = beside(call)
    try:
        return answer.result(seconds)
    except FutureTimeoutError:
        if answer.done():
            raise
        raise _EndlessError("its answer does not come to an end") from None


def is_transient(error: BaseException) -> bool:
    """Worth another try: no answer, a broken one, 429, 502, 503, 504. A 500 is MLflow failing on a row, for ever."""
    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code in _TRIED_AGAIN
    if isinstance(error, (requests.exceptions.SSLError, _EndlessError)):
        return False
    return isinstance(
        error,
        (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError),
    )


def _wait_seconds(state: tenacity.RetryCallState) -> float:
    """As long as the server asks for (`Retry-After` in seconds); else up to 0.5, 1, 2 … 8, at random."""
    error = state.outcome.exception() if state.outcome else None
    response = getattr(error, "response", None)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return float(asked) if asked.isdecimal() else _backoff(state)


def _log_retry(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    response = getattr(error, "response", None)
    why = response.status_code if response is not None else type(error).__name__
    logger.info("MLflow: %s, attempt %d; trying again", why, state.attempt_number)


def _mlflow_error(response: requests.Response, secrets: Collection[str]) -> tuple[str | None, str]:
    """MLflow's error code and message, or None and "" where the answer isn't MLflow's.

    Without credentials: MLflow's message may be that of its database, and a proxy's what we sent.
    """
    try:
        answer = json.loads(response.content[:100_000])
    except ValueError:
        return None, ""
    if not isinstance(answer, dict):
        return None, ""
    code, message = str(answer.get("error_code") or ""), str(answer.get("message", ""))
    for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
        code, message = code.replace(secret, HIDDEN), message.replace(secret, HIDDEN)
    return redact(code) or None, redact(message)[:600]


def _advice(response: requests.Response, code: str | None) -> str:
    status = response.status_code
    if 300 <= status < 400:
        where = re.split(r"[?#;]", redact(response.headers.get("Location", "")))[0]
        return (
            f"It redirects to {where[:200]}: a login page, if that is one, wants `token` or `headers_secret` "
            "(Cloudflare Access: CF-Access-Client-Id and CF-Access-Client-Secret); else set `tracking_uri` to it."
        )
    if status == 400 and code is None:
        return (
            "This is not MLflow's: check whether `tracking_uri` (or `registry_uri`) should start with https://, and "
            "`tls.client_cert`, where the server in front of MLflow asks who we are."
        )
    if status == 400:
        return "Check `run_filter`, where the recipe has one; else the server's log."
    if status == 401:
        return "Check `username` and `password`, or `token`."
    if status == 403:
        return (
            "Check that this user may read MLflow, what the proxy in front of it wants (`headers_secret`), and, "
            "where it says Invalid Host, MLflow's `--allowed-hosts`."
        )
    if status == 404 and code is None:
        return "There is no MLflow API at this address: check `tracking_uri` (and `registry_uri`), path included."
    if status in _TRIED_AGAIN:
        return "It was tried several times: check the server's load and logs, or set `max_retries` higher."
    return "Check the server's log."


def _root_cause(error: BaseException) -> str:
    """The innermost reason, without the address that every level repeats, and without a proxy's password."""
    reason = error
    while inner := _reason_of(reason):
        reason = inner
    text = re.sub(r"^<?[\w.]*Connection\w*(\(host=.*?\)| object at \w+>): ", "", str(reason))
    return redact(text)[:300].rstrip(".") or type(error).__name__


def _reason_of(error: BaseException) -> BaseException | None:
    """urllib3 keeps it in `reason` or `original_error`, and everybody else among the arguments."""
    candidates = (getattr(error, "reason", None), getattr(error, "original_error", None), *reversed(error.args))
    return next((candidate for candidate in candidates if isinstance(candidate, BaseException)), None)
