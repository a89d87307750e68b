"""A reverse proxy on loopback that counts requests and can misbehave, in front of a real server."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.support.servers import free_port

# What belongs to one connection only. Host too: MLflow 3 refuses names that it does not know.
NOT_RELAYED = {"host", "connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent."""

    method: str
    path: str  # with its query
    headers: Mapping[str, str]  # keys in lower case
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class _Fault:
    match: Callable[[Request], bool]
    answer: Answer | None
    cut_after: int | None
    delay: float
    left: int | None


def everything(request: Request) -> bool:
    """The match for all requests."""
    return True


class CountingProxy:
    """A context manager: while it is open, `url` relays to `target_url`, one thread for each connection."""

    def __init__(self, target_url: str) -> None:
        self.seen: list[Request] = []  # in the order of arrival, failed ones included
        self._target = urlsplit(target_url)
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", free_port()), _Handler)
        self._server.proxy = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> CountingProxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *details: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def requests(self) -> list[tuple[str, str]]:
        """Method and path (without the query) of each request so far."""
        return [(request.method, urlsplit(request.path).path) for request in self.seen]

    def fail(
        self,
        match: Callable[[Request], bool],
        *,
        status: int | None = None,
        body: str = "",
        headers: Mapping[str, str] | None = None,
        times: int | None = None,
        cut_after: int | None = None,
        delay: float = 0,
    ) -> None:
        """What happens to a request for which `match` is true, the first `times` times (always, if None).

        It waits `delay` seconds, then is answered with `status`, `body` and `headers`, or is relayed where
        there is no `status`. With `cut_after` the connection is closed after so many bytes of the body, though
        the headers promise all of it. Of several faults that match, the first one added counts.
        """
        answer = None if status is None else Answer(status, headers or {}, body.encode())
        self._faults.append(_Fault(match, answer, cut_after, delay, times))

    def require_headers(self, headers: Mapping[str, str]) -> None:
        """Answers 403 to all requests that don't carry these headers with these values."""
        wanted = {key.lower(): value for key, value in headers.items()}
        self.fail(lambda request: not wanted.items() <= request.headers.items(), status=403)

    def answer(self, request: Request) -> tuple[Answer, int | None]:
        """The answer, and after how many bytes of its body to hang up."""
        with self._lock:
            self.seen.append(request)
            fault = next((f for f in self._faults if f.left != 0 and f.match(request)), None)
            if fault and fault.left:
                fault.left -= 1
        if fault is None:
            return self._relay(request), None
        time.sleep(fault.delay)
        return fault.answer or self._relay(request), fault.cut_after

    def _relay(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection(self._target.hostname or "", self._target.port, timeout=120)
        try:
            headers = {key: value for key, value in request.headers.items() if key not in NOT_RELAYED}
            connection.request(request.method, self._target.path + request.path, request.body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        except OSError as error:
            return Answer(502, {}, str(error).encode())
        finally:
            connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a client that keeps its connection open does not hold up the end
    proxy: CountingProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silence: clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive
    wbufsize = -1  # headers and body in one packet, else Nagle's algorithm adds 40 ms
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {key.lower(): value for key, value in self.headers.items()}
        answer, cut_after = self.server.proxy.answer(Request(self.command, self.path, headers, body))
        self.send_response_only(answer.status)
        for key, value in answer.headers.items():
            if key.lower() not in NOT_RELAYED:
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[:cut_after])
        self.wfile.flush()
        if cut_after is not None:
            self.close_connection = True

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _serve  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""
