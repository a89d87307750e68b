"""A server that never comes to the end of its answer is known for what it is, and soon."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from datahub_mlflow_source.connection import Connection
from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.readers import http


@pytest.fixture
def dripping() -> Iterator[str]:
    """Sends a byte every 50 ms, for ever: no timeout of a socket ends that."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
                    )
                    while not stop.wait(0.05):
                        connection.sendall(b" ")

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        stop.set()


def test_it_is_given_up(dripping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_KNOWN_WITHIN_SECONDS", 0.5)
    client = http.MlflowHttp(Connection(url=dripping))
    with pytest.raises(ServerError, match="its answer does not come to an end"):
        client.check("experiments/search", {"max_results": 1})


def test_a_listing_that_drips_is_given_up_and_not_asked_for_again(
    dripping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_MOST_TIMEOUTS", 0.1)
    client = http.MlflowHttp(Connection(url=dripping, timeout_seconds=5, max_retries=3))
    with pytest.raises(ServerError, match="its answer does not come to an end"):
        client.post("runs/search", {})
    assert client.requests_sent == 1


def test_a_version_that_drips_is_unknown(dripping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_FIRST_ANSWER_SECONDS", 0.5)
    assert http.MlflowHttp(Connection(url=dripping)).version() is None
