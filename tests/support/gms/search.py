"""The one GraphQL query that is answered: scrollAcrossEntities, as `DataHubGraph.get_urns_by_filter` sends it.

Filters on removal and on platform work; anything else gets an error, never a wrong answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from datahub.ingestion.graph.client import entity_type_to_graphql
from datahub.metadata.schema_classes import KEY_ASPECTS

from . import urns
from .store import Store


class SearchError(ValueError):
    """A query that the stand-in cannot answer."""


def execute(store: Store, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    """The `data` of a GraphQL answer. Raises SearchError."""
    if "scrollAcrossEntities" not in query:
        raise SearchError(f"the stand-in answers scrollAcrossEntities only, not {query[:200]}")
    if variables.get("query", "*") != "*" or variables.get("sortInput"):
        raise SearchError("the stand-in knows no full-text search and no sorting")
    found = list(_search(store, variables))
    start, count = int(variables.get("scrollId") or 0), variables["batchSize"]
    following = str(start + count) if start + count < len(found) else None
    results = [{"entity": {"urn": urn}, "extraProperties": []} for urn in found[start : start + count]]
    return {"scrollAcrossEntities": {"nextScrollId": following, "searchResults": results}}


def _search(store: Store, variables: dict[str, Any]) -> Iterator[str]:
    types = variables.get("types")
    unknown = set(types or ()) - set(_graphql_types().values())
    if unknown:
        raise SearchError(f"unknown entity types: {sorted(unknown)}")
    choices = [choice["and"] for choice in variables.get("orFilters") or [{"and": []}]]
    for urn in sorted(store.urns()):
        if types and _graphql_types()[urns.check(urn).entity_type] not in types:
            continue
        if store.is_removed(urn) and not variables.get("includeSoftDeleted"):
            continue
        if any(all(_passes(store, urn, rule) for rule in choice) for choice in choices):
            yield urn


def _passes(store: Store, urn: str, rule: dict[str, Any]) -> bool:
    field = rule["field"].removesuffix(".keyword")
    if field not in ("removed", "platform") or rule.get("condition", "EQUAL") != "EQUAL":
        raise SearchError(f"the stand-in can't filter by {rule}")
    value = str(store.is_removed(urn)).lower() if field == "removed" else _platform(store, urn)
    return (value in rule["values"]) != bool(rule.get("negated"))


def _platform(store: Store, urn: str) -> str | None:
    instance = store.aspect(urn, "dataPlatformInstance") or {}
    platform: str | None = urns.check(urn).key.get("platform") or instance.get("platform")
    return platform


@cache
def _graphql_types() -> dict[str, str]:
    return {entity_type: entity_type_to_graphql(entity_type) for entity_type in KEY_ASPECTS}
