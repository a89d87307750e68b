"""How proposals arrive and answers leave: rest.li's forms, and those of OpenAPI v3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from datahub.metadata.schema_classes import KEY_ASPECTS

from . import schema, urns
from .patch import SYSTEM_ACTOR
from .store import Aspect, Store
from .writer import Proposal

CONTENT_TYPES = {"UPSERT": "application/json", "PATCH": "application/json-patch+json"}


class BadRequestError(ValueError):
    """What arrived can't be read at all."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP status and what goes into the body as JSON."""

    status: int
    body: Any


def error(status: int, message: str) -> Reply:
    """As rest.li writes its errors; the client shows `message` and drops `stackTrace`."""
    name = "com.linkedin.restli.server.RestLiServiceException"
    trace = f"{name} [HTTP Status:{status}]: {message}"
    return Reply(status, {"exceptionClass": name, "message": message, "status": status, "stackTrace": trace})


def load(text: str | bytes) -> Any:
    """JSON as a Java server reads it: NaN and Infinity, which Python writes, are no JSON. Raises BadRequestError."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as problem:
        raise BadRequestError(f"not JSON: {problem}") from problem


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number in JSON")


def restli_proposal(raw: dict[str, Any]) -> Proposal:
    """A MetadataChangeProposal of `ingestProposal` or `ingestProposalBatch`. Raises BadRequestError."""
    try:
        urn, entity_type, change = raw["entityUrn"], raw["entityType"], raw["changeType"]
        name, generic = raw["aspectName"], raw["aspect"]
        text, content_type = generic["value"], generic["contentType"]
    except (KeyError, TypeError) as missing:
        raise BadRequestError(f"a proposal without {missing}: {str(raw)[:200]}") from missing
    if not all(isinstance(part, str) for part in (urn, entity_type, change, name, text)):
        raise BadRequestError(f"a proposal with a field that is no text: {str(raw)[:200]}")
    if content_type != CONTENT_TYPES.get(change, content_type):
        raise BadRequestError(f"{change} of {name} with content type {content_type}")
    if not text.isascii():
        raise BadRequestError(f"the value of {name} of {urn} is bytes, so anything but ASCII in it must be escaped")
    return Proposal(urn, entity_type, name, change, load(text))


def openapi_proposals(entity_type: str, items: Any, change: str) -> Iterator[Proposal]:
    """The items of POST (UPSERT) or PATCH /openapi/v3/entity/<type>: `{"urn": …, "<aspect>": {"value": …}}`."""
    for item in items if isinstance(items, list) else ():
        for aspect, envelope in item.items():
            if aspect != "urn":
                yield Proposal(item["urn"], entity_type, aspect, change, envelope["value"])


def versioned_aspect(name: str, value: Aspect) -> dict[str, Any]:
    """The answer of GET /aspects."""
    return {"version": 0, "aspect": {schema.java_name(name): value}}


def entity(store: Store, urn: str, names: list[str] | None) -> dict[str, Any]:
    """The answer of GET /entitiesV2: never a 404, and the key aspect is there even for an entity that is not."""
    parsed = urns.check(urn)
    key = KEY_ASPECTS[parsed.entity_type].ASPECT_NAME
    found = {key: parsed.key} | store.aspects(urn)
    wanted = [name for name in found if not names or name in [*names, key]]
    aspects = {name: _enveloped(name, found[name]) for name in wanted}
    return {"urn": urn, "entityName": parsed.entity_type, "aspects": aspects}


def entity_of_openapi(store: Store, wanted: dict[str, Any]) -> dict[str, Any]:
    """One of the answer of batchGet: `{"urn": …, "<aspect>": {"value": …}}`, of those that were asked for."""
    urn = wanted.pop("urn")
    urns.check(urn)
    found = store.aspects(urn)
    return {"urn": urn, **{name: {"value": found[name]} for name in wanted if name in found}}


def _enveloped(name: str, value: Aspect) -> dict[str, Any]:
    created = {"time": 0, "actor": SYSTEM_ACTOR}
    return {"name": name, "type": "VERSIONED", "version": 0, "value": value, "created": created}


def timeseries_values(store: Store, query: dict[str, Any]) -> dict[str, Any]:
    """The answer of getTimeseriesAspectValues: newest first, as JSON inside JSON."""
    urn, aspect, limit = query["urn"], query["aspect"], query.get("limit", 10_000)
    start, end = query.get("startTimeMillis") or 0, query.get("endTimeMillis") or float("inf")
    events = [
        event
        for event in reversed(store.events(urn, aspect))
        if start <= event["timestampMillis"] <= end and _matches(event, query.get("filter"))
    ]
    values = [{"aspect": {"value": json.dumps(event), "contentType": "application/json"}} for event in events[:limit]]
    return {"entityName": query.get("entity"), "aspectName": aspect, "limit": limit, "values": values}


def _matches(event: Aspect, criteria: dict[str, Any] | None) -> bool:
    """`{"or": [{"and": [{"field", "values", "condition": "EQUAL"}]}]}`, on the fields of the event."""
    return not criteria or any(
        all(str(event.get(rule["field"])) in rule["values"] for rule in choice["and"]) for choice in criteria["or"]
    )
