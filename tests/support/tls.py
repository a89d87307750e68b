"""HTTPS on loopback: a made-up authority, and a relay that ends TLS in front of a plain HTTP server."""

from __future__ import annotations

import select
import socket
import socketserver
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trustme
from typing_extensions import Self

from tests.support.servers import free_port

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a made-up authority has issued, as the files that a recipe names."""

    authority: Path  # whom to trust
    client: Path  # certificate of a client
    client_key: Path
    client_with_key: Path  # both in one file
    _authority: trustme.CA
    _server: trustme.LeafCert

    def context(self, *, ask_client: bool = False) -> ssl.SSLContext:
        """For a server: it shows its certificate and, with `ask_client`, takes only clients of the same authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.configure_cert(context)
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            self._authority.configure_trust(context)
        return context


def issue_certificates(folder: Path) -> Certificates:
    """A new authority, a server at 127.0.0.1 and a client."""
    authority = trustme.CA()
    client = authority.issue_cert("client@acme.example")
    certificates = Certificates(
        authority=folder / "authority.pem",
        client=folder / "client.pem",
        client_key=folder / "client.key",
        client_with_key=folder / "client-with-key.pem",
        _authority=authority,
        _server=authority.issue_cert(HOST),
    )
    authority.cert_pem.write_to_path(certificates.authority)
    client.cert_chain_pems[0].write_to_path(certificates.client)
    client.private_key_pem.write_to_path(certificates.client_key)
    client.private_key_and_cert_chain_pem.write_to_path(certificates.client_with_key)
    return certificates


class TlsRelay:
    """A context manager: while it is open, `url` takes TLS and passes on what is inside, byte by byte."""

    def __init__(self, target_url: str, context: ssl.SSLContext) -> None:
        target = urlsplit(target_url)
        self._server = _Server((HOST, free_port()), _Handler)
        self._server.context = context
        self._server.target = (target.hostname or HOST, target.port or 80)
        self.url = f"https://{HOST}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *details: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True  # a client that keeps its connection open does not hold up the end
    block_on_close = False
    context: ssl.SSLContext
    target: tuple[str, int]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silence: clients that hang up are part of the tests."""


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        client = self.server.context.wrap_socket(self.request, server_side=True, do_handshake_on_connect=False)
        with client:
            try:
                client.do_handshake()
            except OSError:
                _hang_up(client)
                return
            with socket.create_connection(self.server.target) as target:
                _relay(client, target)


def _relay(client: ssl.SSLSocket, target: socket.socket) -> None:
    """Until one of them closes. In one thread: reading and writing at once is more than a TLS socket takes."""
    while True:
        ready = [client] if client.pending() else select.select([client, target], [], [])[0]
        for source in ready:
            data = source.recv(65_536)
            if not data:
                return
            (target if source is client else client).sendall(data)


def _hang_up(client: ssl.SSLSocket) -> None:
    """So that the alert which says why arrives: closed with bytes unread, the system sends a reset after it."""
    with suppress(OSError):
        client.shutdown(socket.SHUT_WR)  # from here on it is a plain socket
        while client.recv(65_536):
            pass
