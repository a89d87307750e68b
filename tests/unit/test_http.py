"""Answers become errors that people can use; what passes is tried again; secrets go to MLflow and nowhere else."""

from __future__ import annotations

import base64
import logging
import re
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
import urllib3
from requests.auth import HTTPBasicAuth

from datahub_mlflow_source.connection import BearerAuth, Connection, HeaderAuth
from datahub_mlflow_source.errors import PageError, ServerError
from datahub_mlflow_source.readers.http import MlflowHttp, is_transient
from tests.unit.conftest import Received, Reply, WebServer

URL = "https://mlflow.test/behind/a/path"
PATH = "runs/search"
FULL = f"{URL}/api/2.0/mlflow/{PATH}"
SECRET = "hunter2"


def open_http(url: str = URL, **settings: Any) -> MlflowHttp:
    return MlflowHttp(Connection(url, **settings))


def error_of(call: Callable[[], object]) -> ServerError:
    with pytest.raises(ServerError) as raised:
        call()
    return raised.value


def refused(status: int, **answer: Any) -> ServerError:
    """What comes of this answer, at the first attempt."""
    with responses.RequestsMock() as mock:
        mock.post(FULL, status=status, **answer)
        return error_of(lambda: open_http(max_retries=0).post(PATH, {}))


def settings_of(call: responses.Call) -> dict[str, Any]:
    """What `requests` was told beside what goes to the server."""
    return dict(vars(call.request)["req_kwargs"])


class TestAnswers:
    def test_mlflows_json_comes_as_it_is(self) -> None:
        with responses.RequestsMock() as mock:
            mock.post(FULL, json={"runs": [{"info": {}}]}, match=[responses.matchers.json_params_matcher({"a": 1})])
            mock.get(FULL, json={"b": 2}, match=[responses.matchers.query_param_matcher({"max_results": 1})])
            http = open_http()
            assert http.post(PATH, {"a": 1}) == {"runs": [{"info": {}}]}
            assert http.get(PATH, {"max_results": 1}) == {"b": 2}
            assert http.requests_sent == 2

    def test_wrong_credentials(self) -> None:
        error = refused(401, body="")
        assert error.status == 401
        assert str(error) == ("mlflow.test answered runs/search with 401. Check `username` and `password`, or `token`.")

    def test_no_permission(self) -> None:
        answer = {"error_code": "PERMISSION_DENIED", "message": "Permission denied"}
        error = refused(403, json=answer)
        assert (error.status, error.error_code) == (403, "PERMISSION_DENIED")
        assert str(error).startswith(
            "mlflow.test answered runs/search with 403 (PERMISSION_DENIED: Permission denied). "
            "Check that this user may read MLflow, what the proxy in front of it wants (`headers_secret`)"
        )

    def test_nothing_of_mlflows_at_this_address(self) -> None:
        error = refused(404, body="<html>Not Found</html>", content_type="text/html")
        assert str(error) == (
            "mlflow.test answered runs/search with 404. There is no MLflow API at this address: "
            "check `tracking_uri` (and `registry_uri`), path included."
        )

    def test_something_that_mlflow_does_not_have_is_another_404(self) -> None:
        error = refused(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No Experiment with id=7"})
        assert error.error_code == "RESOURCE_DOES_NOT_EXIST"
        assert "No Experiment with id=7" in str(error)
        assert "no MLflow API" not in str(error)

    def test_a_filter_that_mlflow_does_not_understand(self) -> None:
        error = refused(400, json={"error_code": "INVALID_PARAMETER_VALUE", "message": "Invalid clause 'x'"})
        assert "Invalid clause 'x'" in str(error)
        assert "Check `run_filter`" in str(error)

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect_names_its_target_without_the_query(self, status: int) -> None:
        location = f"https://login.test/authorize?state={SECRET}#top"
        error = refused(status, headers={"Location": location})
        assert f"with {status}. It redirects to https://login.test/authorize: a login page" in str(error)
        assert "`token` or `headers_secret`" in str(error)
        assert SECRET not in str(error)

    @pytest.mark.parametrize(
        "location", [f"https://login.test/x;jsessionid={SECRET}?a=1", f"https://ada:{SECRET}?{SECRET}@login.test/x"]
    )
    def test_nor_with_a_session_or_a_login(self, location: str) -> None:
        error = refused(302, headers={"Location": location})
        assert "It redirects to https://login.test/x: a login page" in str(error)
        assert SECRET not in str(error)

    def test_a_redirect_within_the_server_names_the_path(self) -> None:
        assert "It redirects to /login:" in str(refused(302, headers={"Location": "/login?next=x"}))

    @pytest.mark.parametrize("status", [429, 502, 503, 504])
    def test_a_server_that_is_overloaded(self, status: int) -> None:
        assert f"answered runs/search with {status}. It was tried several times" in str(refused(status))

    def test_any_other_status(self) -> None:
        assert str(refused(418)) == "mlflow.test answered runs/search with 418. Check the server's log."

    def test_a_500_is_a_page_that_can_be_taken_apart(self) -> None:
        error = refused(500, json={"error_code": "INTERNAL_ERROR", "message": "start_time cannot be None"})
        assert isinstance(error, PageError)
        assert (error.status, error.error_code) == (500, "INTERNAL_ERROR")
        assert str(error) == "MLflow failed on runs/search with 500: start_time cannot be None"

    @pytest.mark.parametrize("body", ["", "<html>", "[]", "null", '"text"', "\udcff"])
    def test_a_500_may_say_anything(self, body: str) -> None:
        error = refused(500, body=body.encode("utf-8", "surrogateescape"))
        assert str(error) == "MLflow failed on runs/search with 500: no reason given"

    @pytest.mark.parametrize(
        ("body", "content_type", "named"),
        [
            ("<html>Sign in</html>", "text/html; charset=utf-8", "text/html"),
            ("", "text/plain", "text/plain"),
            ("[]", "application/json", "application/json"),
            ('"text"', "application/json", "application/json"),
            ("null", "application/json", "application/json"),
            ('{"cut": ', "application/json", "application/json"),
        ],
    )
    def test_a_200_that_is_no_object_is_told_as_a_login_page(self, body: str, content_type: str, named: str) -> None:
        error = refused(200, body=body, content_type=content_type)
        assert error.status == 200
        assert str(error) == (
            f"mlflow.test answered runs/search with {named} instead of MLflow's JSON, most likely a login page or "
            "another site. Check `tracking_uri` (and `registry_uri`), and what the proxy in front of MLflow wants "
            "(`token`, `headers_secret`)."
        )

    @pytest.mark.parametrize("status", [400, 403, 500])
    def test_a_message_that_holds_a_credential_is_told_without_it(self, status: int) -> None:
        message = f"can't connect to postgresql://mlflow:{SECRET}@db/mlflow with password: {SECRET}"
        error = refused(status, json={"error_code": "INTERNAL_ERROR", "message": message})
        assert "can't connect to postgresql://db/mlflow with password: ***" in str(error)
        assert SECRET not in shown(error)

    @pytest.mark.parametrize(
        "said", [SECRET, f"Bearer {SECRET}-2", base64.b64encode(f"ada:{SECRET}".encode()).decode()]
    )
    def test_what_was_sent_is_not_repeated(self, said: str) -> None:
        connection = Connection(URL, max_retries=0, secrets=frozenset({SECRET, f"{SECRET}-2", said}))
        with responses.RequestsMock() as mock:
            mock.post(FULL, status=403, json={"error_code": f"NO {said}", "message": f"{said}is wrong, {said}"})
            error = error_of(lambda: MlflowHttp(connection).post(PATH, {}))
        assert "(NO ***: ***is wrong, ***)" in str(error)
        assert SECRET not in shown(error) + repr(vars(error)) + repr(connection)

    def test_a_cut_leaves_no_half_of_a_credential(self) -> None:
        message = "x" * 265 + f" postgresql://mlflow:{SECRET * 5}@db/mlflow"
        assert SECRET not in str(refused(400, json={"error_code": "X", "message": message}))

    def test_a_long_message_of_the_server_is_cut(self) -> None:
        assert len(str(refused(400, json={"error_code": "X", "message": "y" * 10_000}))) < 800


@pytest.mark.usefixtures("waits")
class TestNoAnswer:
    """A message names the host, the reason and the keys to check."""

    def test_nobody_listens(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            error = error_of(lambda: open_http(f"http://127.0.0.1:{port}").get(PATH, {}))
        assert error.status is None
        assert re.fullmatch(
            rf"No answer from MLflow at 127\.0\.0\.1:{port}: Failed to establish a new connection: \[Errno \d+\] "
            r"Connection refused\. Check `tracking_uri` \(and `registry_uri`\), and that this machine can reach "
            r"that host and port\.",
            str(error),
        )

    def test_there_is_no_such_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*args: object) -> None:
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr("socket.getaddrinfo", unknown)
        error = error_of(lambda: open_http("http://mlflow.test").get(PATH, {}))
        assert "No answer from MLflow at mlflow.test: " in str(error)
        assert "Name or service not known" in str(error)
        assert "Check `tracking_uri`" in str(error)

    def test_a_host_that_no_host_can_be_called(self) -> None:
        error = error_of(lambda: open_http("https://mlflow..test").get(PATH, {}))
        assert "No answer from MLflow at mlflow..test: " in str(error)
        assert "Check `tracking_uri`" in str(error)

    def test_the_server_takes_too_long(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            http = open_http(f"http://127.0.0.1:{port}", timeout_seconds=0.05, max_retries=1)
            error = error_of(lambda: http.get(PATH, {}))
        assert "Read timed out. (read timeout=0.05)" in str(error)
        assert "or set `timeout_seconds` higher" in str(error)
        assert http.requests_sent == 2

    def test_https_to_a_server_without_it(self, web: WebServer) -> None:
        http = open_http(web.url.replace("http:", "https:"))
        error = error_of(lambda: http.get(PATH, {}))
        assert f"No answer from MLflow at {web.host}: [SSL" in str(error)
        assert "Check `tls`: `ca_bundle`" in str(error)
        assert http.requests_sent == 1

    def test_a_proxy_does_not_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            monkeypatch.setenv("HTTP_PROXY", f"http://user:{SECRET}@127.0.0.1:{closed.getsockname()[1]}")
            monkeypatch.delenv("http_proxy", raising=False)
            error = error_of(lambda: open_http("http://mlflow.test").get(PATH, {}))
        assert "Connection refused. Check the proxy in HTTPS_PROXY or HTTP_PROXY" in str(error)
        assert SECRET not in shown(error)

    def test_a_proxy_whose_address_is_none_is_told_without_its_password(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:{SECRET}@proxy.test:99999")
        monkeypatch.delenv("http_proxy", raising=False)
        error = error_of(lambda: open_http("http://mlflow.test").get(PATH, {}))
        assert "Failed to parse: http://proxy.test:99999" in str(error)
        assert SECRET not in str(error)


def shown(error: BaseException) -> str:
    """All that a log with the whole traceback would show."""
    return f"{error!r}\n{''.join(traceback.format_exception(error))}"


@pytest.mark.usefixtures("waits")
class TestWhatIsTriedAgain:
    @pytest.mark.parametrize(
        ("status", "expected"),
        {
            302: False,
            400: False,
            401: False,
            403: False,
            404: False,
            408: False,
            429: True,
            500: False,
            501: False,
            502: True,
            503: True,
            504: True,
        }.items(),
    )
    def test_by_status(self, status: int, expected: bool) -> None:
        response = requests.Response()
        response.status_code = status
        assert is_transient(requests.HTTPError(response=response)) is expected

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (requests.ConnectionError(), True),
            (requests.exceptions.ProxyError(), True),
            (requests.ConnectTimeout(), True),
            (requests.ReadTimeout(), True),
            (requests.exceptions.ChunkedEncodingError(), True),
            (requests.exceptions.SSLError(), False),
            (requests.exceptions.InvalidURL(), False),
            (requests.exceptions.ContentDecodingError(), False),
            (urllib3.exceptions.LocationParseError("x"), False),
            (ServerError("x"), False),
            (KeyboardInterrupt(), False),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_by_what_happened(self, error: BaseException, expected: bool) -> None:
        assert is_transient(error) is expected

    def test_it_helps(self, waits: list[float]) -> None:
        with responses.RequestsMock() as mock:
            for status in (503, 429, 502):
                mock.get(FULL, status=status)
            mock.get(FULL, json={"runs": []})
            http = open_http(max_retries=3)
            assert http.get(PATH, {}) == {"runs": []}
        assert http.requests_sent == 4
        assert len(waits) == 3

    def test_so_many_times_and_no_more(self) -> None:
        with responses.RequestsMock() as mock:
            mock.get(FULL, status=503)
            http = open_http(max_retries=2)
            assert error_of(lambda: http.get(PATH, {})).status == 503
        assert http.requests_sent == 3

    @pytest.mark.parametrize("status", [500, 401, 403, 404])
    def test_others_not_once(self, status: int, waits: list[float]) -> None:
        with responses.RequestsMock() as mock:
            mock.get(FULL, status=status)
            http = open_http(max_retries=3)
            error_of(lambda: http.get(PATH, {}))
        assert http.requests_sent == 1
        assert waits == []

    @pytest.mark.parametrize("breaks_off", [0, 5])
    def test_an_answer_that_breaks_off(self, web: WebServer, breaks_off: int) -> None:
        replies = iter([Reply('{"runs": []}', breaks_off=breaks_off), Reply('{"runs": []}')])
        web.reply = lambda _: next(replies)
        http = open_http(web.url)
        assert http.post(PATH, {}) == {"runs": []}
        assert http.requests_sent == len(web.received) == 2

    def test_one_that_breaks_off_each_time_is_an_error(self, web: WebServer) -> None:
        web.reply = lambda _: Reply('{"runs": []}', breaks_off=5)
        error = error_of(lambda: open_http(web.url, max_retries=1).post(PATH, {}))
        assert f"No answer from MLflow at {web.host}: IncompleteRead(5 bytes read, 7 more expected)" in str(error)

    def test_a_retry_is_logged_with_its_reason(self, caplog: pytest.LogCaptureFixture) -> None:
        with responses.RequestsMock() as mock, caplog.at_level(logging.INFO):
            mock.get(FULL, status=503)
            mock.get(FULL, json={})
            open_http().get(PATH, {})
        assert [record.getMessage() for record in caplog.records] == ["MLflow: 503, attempt 1; trying again"]


class TestWaiting:
    @pytest.mark.parametrize(("asked", "expected"), [("0", 0), ("7", 7), ("60", 60), ("61", 60), ("9" * 400, 60)])
    def test_as_long_as_the_server_asks_for_up_to_a_minute(
        self, waits: list[float], asked: str, expected: float
    ) -> None:
        self.fail_once(asked)
        assert waits == [expected]

    @pytest.mark.parametrize("asked", ["Wed, 21 Oct 2015 07:28:00 GMT", "soon", "-5", "1.5", "²", ""])
    def test_what_is_no_number_of_seconds_is_passed_over(self, waits: list[float], asked: str) -> None:
        self.fail_once(asked)
        assert len(waits) == 1
        assert 0 <= waits[0] <= 0.5

    def test_longer_each_time(self, waits: list[float]) -> None:
        with responses.RequestsMock() as mock:
            mock.get(FULL, status=503)
            error_of(lambda: open_http(max_retries=10).get(PATH, {}))
        assert len(waits) == 10
        for wait, longest in zip(waits, [0.5, 1, 2, 4, 8, 8, 8, 8, 8, 8], strict=True):
            assert 0 <= wait <= longest

    @staticmethod
    def fail_once(retry_after: str) -> None:
        with responses.RequestsMock() as mock:
            mock.get(FULL, status=429, headers={"Retry-After": retry_after})
            mock.get(FULL, json={})
            open_http().get(PATH, {})


@pytest.mark.usefixtures("waits")
class TestCheck:
    def test_two_attempts_of_ten_seconds_whatever_the_recipe_allows_later(self) -> None:
        with responses.RequestsMock() as mock:
            mock.get(FULL, body=requests.ReadTimeout())
            http = open_http(timeout_seconds=600, max_retries=10)
            error_of(lambda: http.check(PATH, {}))
            assert [settings_of(call)["timeout"] for call in mock.calls] == [(5, 10), (5, 10)]

    def test_a_server_that_asks_to_wait_is_not_waited_for(self, waits: list[float]) -> None:
        with responses.RequestsMock() as mock:
            mock.get(FULL, status=503, headers={"Retry-After": "60"})
            error_of(lambda: open_http().check(PATH, {}))
        assert waits == [2]

    def test_a_shorter_timeout_of_the_recipe_holds(self) -> None:
        with responses.RequestsMock() as mock:
            mock.get(FULL, json={})
            open_http(timeout_seconds=3).check(PATH, {})
            assert settings_of(mock.calls[0])["timeout"] == (3, 3)

    def test_later_requests_may_take_as_long_as_the_recipe_says(self) -> None:
        with responses.RequestsMock() as mock:
            mock.get(FULL, json={})
            open_http(timeout_seconds=600).get(PATH, {})
            assert settings_of(mock.calls[0])["timeout"] == (5, 600)


class TestVersion:
    def test_it_is_what_the_server_says(self) -> None:
        assert self.said(body="3.17.2\n") == "3.17.2"

    @pytest.mark.parametrize(
        "answer",
        [
            {"body": "3.17.2", "status": 401},
            {"body": "<html>Sign in</html>"},
            {"body": "a page without any tags that goes on and on"},
            {"body": requests.ConnectionError()},
            {"body": urllib3.exceptions.LocationParseError("x")},
        ],
        ids=["refused", "login page", "other page", "no answer", "no host"],
    )
    def test_none_where_it_is_not_said(self, answer: dict[str, Any]) -> None:
        assert self.said(**answer) is None

    @staticmethod
    def said(**answer: Any) -> str | None:
        with responses.RequestsMock() as mock:
            mock.get(f"{URL}/version", **answer)
            return open_http().version()


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of this user for the web server of the test."""
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 login from-netrc password from-netrc\n")
    monkeypatch.setenv("NETRC", str(path))


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class TestTheWayIn:
    @pytest.mark.usefixtures("netrc")
    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"auth": BearerAuth(SECRET)}, f"Bearer {SECRET}"),
            ({"auth": HTTPBasicAuth("ada", SECRET)}, basic("ada", SECRET)),
            ({"auth": HeaderAuth(), "headers": {"Authorization": f"Custom {SECRET}"}}, f"Custom {SECRET}"),
        ],
        ids=["token", "password", "header"],
    )
    def test_what_the_recipe_says_is_not_replaced_by_a_netrc(
        self, web: WebServer, settings: dict[str, Any], expected: str
    ) -> None:
        open_http(web.url, **settings).get(PATH, {})
        assert web.received[0].headers["authorization"] == expected

    def test_headers_go_with_every_request(self, web: WebServer) -> None:
        http = open_http(web.url, headers={"X-Tenant": "red"}, auth=BearerAuth(SECRET))
        http.check(PATH, {})
        http.version()
        http.get(PATH, {})
        http.post(PATH, {})
        assert {received.headers["x-tenant"] for received in web.received} == {"red"}
        assert {received.headers["authorization"] for received in web.received} == {f"Bearer {SECRET}"}
        assert len(web.received) == 4

    def test_an_address_with_a_path_keeps_it(self, web: WebServer) -> None:
        http = open_http(f"{web.url}/behind/a/path")
        http.post(PATH, {})
        http.version()
        assert [received.path for received in web.received] == [
            "/behind/a/path/api/2.0/mlflow/runs/search",
            "/behind/a/path/version",
        ]

    def test_redirects_are_not_followed_and_secrets_not_sent_elsewhere(
        self, web: WebServer, other_web: WebServer
    ) -> None:
        web.reply = lambda _: Reply(status=302, headers={"Location": f"{other_web.url}/login"})
        http = open_http(web.url, headers={"CF-Access-Client-Secret": SECRET}, auth=BearerAuth(SECRET))
        for call in (lambda: http.check(PATH, {}), lambda: http.get(PATH, {}), lambda: http.post(PATH, {})):
            assert f"It redirects to {other_web.url}/login" in str(error_of(call))
        assert http.version() is None
        assert len(web.received) == 4
        assert other_web.received == []

    def test_a_cookie_goes_back_to_the_server_that_gave_it(self, web: WebServer, other_web: WebServer) -> None:
        """Load balancers keep to one server by it."""
        web.reply = lambda _: Reply(headers={"Set-Cookie": "route=7"})
        http, other = open_http(web.url), open_http(other_web.url)
        for each in (http, http, other):
            each.get(PATH, {})
        assert [received.headers.get("cookie") for received in web.received] == [None, "route=7"]
        assert [received.headers.get("cookie") for received in other_web.received] == [None]

    @pytest.mark.parametrize("verify", [False, "/etc/ca.pem"])
    def test_whom_the_recipe_trusts_is_not_replaced_by_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, verify: bool | str
    ) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/other.pem")
        assert self.sent_with(verify=verify)["verify"] == verify

    def test_a_client_certificate_is_shown(self) -> None:
        assert self.sent_with(cert=("/c.pem", "/k.pem"))["cert"] == ("/c.pem", "/k.pem")

    @staticmethod
    def sent_with(**settings: Any) -> dict[str, Any]:
        with responses.RequestsMock() as mock:
            mock.get(FULL, json={})
            open_http(**settings).get(PATH, {})
            return settings_of(mock.calls[0])


@pytest.mark.usefixtures("waits")
class TestSecrets:
    REPLIES: tuple[Callable[[Received], Reply], ...] = (
        lambda _: Reply(),
        lambda _: Reply(status=401),
        lambda _: Reply(status=500),
        lambda _: Reply(status=503),
        lambda _: Reply("<html>"),
        lambda _: Reply(status=302, headers={"Location": "/login"}),
        lambda _: Reply(breaks_off=1),
    )

    @pytest.mark.parametrize("reply", REPLIES)
    def test_none_is_in_an_error_or_in_a_log_at_any_level(
        self, web: WebServer, caplog: pytest.LogCaptureFixture, reply: Callable[[Received], Reply]
    ) -> None:
        web.reply = reply
        connection = Connection(web.url, auth=BearerAuth(SECRET), headers={"X-Key": SECRET})
        told = repr(connection)
        with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "urllib3"):  # which DataHub sets lower
            http = MlflowHttp(connection)
            for call in (lambda: http.check(PATH, {}), lambda: http.get(PATH, {}), http.version):
                try:
                    call()
                except ServerError as error:
                    told += shown(error) + repr(vars(error))
        assert web.received[0].headers["x-key"] == SECRET
        assert caplog.text
        assert SECRET not in told + caplog.text + repr(vars(http))
