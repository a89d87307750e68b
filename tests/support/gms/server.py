"""The stand-in itself: an HTTP server for DataHub's client, and what a test may ask of it."""

from __future__ import annotations

import copy
import json
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from datahub.emitter.mcp import MetadataChangeProposalWrapper
from datahub.metadata.schema_classes import _Aspect
from datahub.metadata.urns import Urn
from typing_extensions import Self

from . import search, wire
from .store import Aspect, Store
from .urns import UrnError, check
from .wire import BadRequestError, Reply
from .writer import Proposal, Refuse, Rejection, ServerError, Writer

WRITES = {
    ("POST", "/aspects?action=ingestProposal"),
    ("POST", "/aspects?action=ingestProposalBatch"),
    ("POST", "/openapi/v3/entity"),
    ("PATCH", "/openapi/v3/entity"),
}
POLL_SECONDS = 0.02  # how long it takes to notice that it shall stop
SUCCESS = Reply(200, {"value": "success"})


class GmsStandIn:
    """DataHub's metadata service (GMS) as far as an ingestion sees it, on a free port of 127.0.0.1.

    It keeps only what the real server would accept, and is stricter where the real one depends on its configuration.
    Aspects are given out as JSON in rest.li's form (no `pegasus2avro` in names). If the stand-in itself breaks on a
    request, leaving the `with` block raises.

    `version` and `patch_capable` are what it says of itself in /config, and keeps to. `validate=False` is for
    benchmarks: writes are answered at once and neither looked at nor kept. Told to work asynchronously, a real server
    answers before it has looked at everything, and drops what turns out to be bad: `validate_async=False` answers
    success and keeps the good. By default one bad proposal fails the whole request, as in a synchronous one, but the
    good ones beside it are kept; either way `rejections` has the bad ones.
    `refuse(urn, aspect)` may return an HTTP status to refuse a write with: 429 and 5xx fail the request as a whole,
    anything else is a rejection. It may be assigned at any time.
    """

    def __init__(
        self,
        *,
        version: str = "v1.7.0",
        patch_capable: bool = True,
        validate: bool = True,
        validate_async: bool = True,
        refuse: Refuse | None = None,
    ) -> None:
        self.rejections: list[Rejection] = []
        self.requests: Counter[tuple[str, str]] = Counter()
        """How often what was asked: ("POST", "/aspects?action=ingestProposalBatch"), ("GET", "/config"), …"""
        self.refuse = refuse
        self._version = version
        self._patch_capable = patch_capable
        self._validate = validate
        self._validate_async = validate_async
        self._store = Store()
        self._writer = Writer(self._store, version, patch_capable)
        self._lock = threading.Lock()
        self._failure: Exception | None = None
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        assert self._server, "the stand-in has not been started: use it in a `with` statement"
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._server = _Server(self)
        self._server.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        assert self._server
        self._server.stop()
        if self._failure and kind is None:
            raise self._failure

    def aspect(self, urn: str | Urn, name: str) -> Aspect | None:
        """A versioned aspect, None if the entity does not have it."""
        with self._lock:
            return copy.deepcopy(self._store.aspect(str(urn), name))

    def aspects(self, urn: str | Urn) -> dict[str, Aspect]:
        """All versioned aspects by name, the key aspect among them; empty if there is no such entity."""
        with self._lock:
            return copy.deepcopy(self._store.aspects(str(urn)))

    def urns(self, entity_type: str | None = None, include_removed: bool = True) -> list[str]:
        """Every entity that exists, sorted; the dataJobs in which DataHub keeps checkpoints are soft-deleted ones."""
        with self._lock:
            return sorted(
                urn
                for urn in self._store.urns()
                if entity_type in (None, check(urn).entity_type)
                and (include_removed or not self._store.is_removed(urn))
            )

    def is_removed(self, urn: str | Urn) -> bool:
        """Whether an entity is soft-deleted; False for one that does not exist."""
        with self._lock:
            return self._store.is_removed(str(urn))

    def timeseries(self, urn: str | Urn, aspect: str) -> list[Aspect]:
        """The events of a timeseries aspect, oldest first. Two of the same millisecond are one, the later."""
        with self._lock:
            return copy.deepcopy(self._store.events(str(urn), aspect))

    def write(self, urn: str | Urn, aspect: _Aspect) -> None:
        """Put in place what a person typed in the UI. Raises ValueError if the server would refuse it."""
        proposal = MetadataChangeProposalWrapper(entityUrn=str(urn), aspect=aspect).make_mcp().to_obj()
        with self._lock:
            rejections = self._writer.write([wire.restli_proposal(proposal)], refuse=None, keep_good=False)
        if rejections:
            raise ValueError(rejections[0].message)

    def answer(self, method: str, target: str, body: bytes) -> Reply:
        """Answer one HTTP request; never raises."""
        url = urlsplit(target)
        route = _route(url.path, parse_qs(url.query))
        with self._lock:
            self.requests[method, route] += 1
            if not self._validate and (method, route) in WRITES:
                return SUCCESS
            try:
                return self._answer(method, route, url.path.split("/")[1:], parse_qs(url.query), body)
            except (BadRequestError, UrnError) as problem:
                return wire.error(400, str(problem))
            except ServerError as problem:
                return wire.error(problem.status, str(problem))
            except Exception as problem:  # noqa: BLE001 - a defect of the stand-in must not look like a slow server
                self._failure = self._failure or problem
                return wire.error(400, f"the stand-in broke: {problem!r}")

    def _answer(self, method: str, route: str, path: list[str], query: dict[str, list[str]], body: bytes) -> Reply:
        if (method, route) in WRITES:
            return self._ingest(method, path, query, wire.load(body))
        if method == "POST" and route in (posts := self._posts()):
            return posts[route](wire.load(body))
        if (method, route) == ("DELETE", "/openapi/v3/entity"):
            return self._delete({"urn": unquote("/".join(path[4:]))})
        if method == "GET" and route == "/config":
            return Reply(200, self._config())
        if method == "GET" and route in ("/aspects", "/entitiesV2"):
            return self._get(route, unquote(path[1]), query)
        return wire.error(404, f"the stand-in knows no {method} {route}")

    def _posts(self) -> dict[str, Callable[[Any], Reply]]:
        return {
            "/aspects?action=getTimeseriesAspectValues": self._timeseries_values,
            "/entities?action=delete": self._delete,
            "/entities?action=listUrns": self._list_urns,
            "/api/graphql": self._graphql,
            "/openapi/v3/entity/batchGet": self._batch_get,
        }

    def _ingest(self, method: str, path: list[str], query: dict[str, list[str]], body: Any) -> Reply:
        if path[0] == "openapi":
            is_async = query.get("async") == ["true"]
            change = "PATCH" if method == "PATCH" else "UPSERT"
            return self._write(list(wire.openapi_proposals(path[3], body, change)), is_async)
        proposals = body["proposals"] if "proposals" in body else [body["proposal"]]
        try:
            return self._write([wire.restli_proposal(raw) for raw in proposals], body.get("async") == "true")
        except BadRequestError as problem:
            self.rejections.append(Rejection("", "", str(problem), 400))
            raise

    def _write(self, proposals: Sequence[Proposal], is_async: bool) -> Reply:
        rejections = self._writer.write(proposals, self.refuse, keep_good=is_async)
        self.rejections += rejections
        if not rejections or (is_async and not self._validate_async):
            return SUCCESS
        messages = [f"{rejection.urn} {rejection.aspect}: {rejection.message}" for rejection in rejections]
        return wire.error(rejections[0].status, "Failed to validate MCP due to: " + "\n".join(messages))

    def _get(self, route: str, urn: str, query: dict[str, list[str]]) -> Reply:
        if route == "/entitiesV2":
            names = "".join(query.get("aspects", [])).removeprefix("List(").removesuffix(")")
            return Reply(200, wire.entity(self._store, urn, names.split(",") if names else None))
        name = query["aspect"][0]
        if query.get("version", ["0"]) != ["0"]:
            return wire.error(400, "the stand-in keeps the newest version of an aspect only")
        value = self._store.aspect(urn, name)
        if value is None:
            return wire.error(404, f"Did not find urn: {urn} aspect: {name}")
        return Reply(200, wire.versioned_aspect(name, value))

    def _timeseries_values(self, query: dict[str, Any]) -> Reply:
        return Reply(200, {"value": wire.timeseries_values(self._store, query)})

    def _batch_get(self, wanted: list[dict[str, Any]]) -> Reply:
        return Reply(200, [wire.entity_of_openapi(self._store, dict(entity)) for entity in wanted])

    def _delete(self, query: dict[str, Any]) -> Reply:
        rows, events = self._store.delete(query["urn"], query.get("aspectName"))
        return Reply(200, {"value": {"urn": query["urn"], "rows": rows, "timeseriesRows": events}})

    def _list_urns(self, query: dict[str, Any]) -> Reply:
        found = sorted(urn for urn in self._store.urns() if check(urn).entity_type == query["entity"])
        page = found[query["start"] : query["start"] + query["count"]]
        return Reply(
            200, {"value": {"start": query["start"], "count": len(page), "total": len(found), "entities": page}}
        )

    def _graphql(self, query: dict[str, Any]) -> Reply:
        try:
            return Reply(200, {"data": search.execute(self._store, query["query"], query.get("variables") or {})})
        except search.SearchError as problem:
            return Reply(200, {"errors": [{"message": str(problem)}]})

    def _config(self) -> dict[str, Any]:
        """What clients look at before anything else. A serverType "quickstart" would make them ask GitHub."""
        return {
            "noCode": "true",
            "statefulIngestionCapable": True,
            "patchCapable": self._patch_capable,
            "supportsImpactAnalysis": True,
            "retention": "true",
            "versions": {"acryldata/datahub": {"version": self._version, "commit": ""}},
            "datahub": {"serverType": "prod", "serverEnv": "core"},
            "managedIngestion": {"enabled": True, "defaultCliVersion": self._version.removeprefix("v")},
            "telemetry": {"enabledCli": False, "enabledIngestion": False},
        }


def _route(path: str, query: dict[str, list[str]]) -> str:
    """The path without what varies (URNs, entity types), with rest.li's action."""
    steps = path.split("/")[1:]
    if steps[-1] == "batchGet":
        return "/openapi/v3/entity/batchGet"
    kept = steps[:3] if steps[0] == "openapi" else steps[:2] if steps[0] == "api" else steps[:1]
    action = query.get("action")
    return "/" + "/".join(kept) + (f"?action={action[0]}" if action else "")


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them
    request_queue_size = 128  # a sink opens 15 connections at once

    def __init__(self, gms: GmsStandIn) -> None:
        self.gms = gms
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(POLL_SECONDS,))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close what clients keep open too: DataHub's never close their sessions."""
        self.shutdown()
        self._thread.join()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed by the other side meanwhile
                continue
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error of ours; anything else is printed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16  # headers and body leave in one packet

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        reply = self.server.gms.answer(self.command, self.path, body)
        data = json.dumps(reply.body).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - names that http.server prescribes

    def log_message(self, *_: object) -> None:
        """Be quiet."""
