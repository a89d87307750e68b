"""What the stand-in keeps: the newest value of each aspect, and events by document id, as the server does."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from datahub.metadata.schema_classes import KEY_ASPECTS

from . import urns

Aspect = dict[str, Any]

# Two events with the same values in these fields, and the same URN, are one document: the later replaces the earlier.
# So a run's STARTED and COMPLETE event of the same millisecond are one (DataHub's `TimeseriesAspectTransformer`).
DOCUMENT_ID = ("timestampMillis", "eventGranularity", "messageId", "partitionSpec")


class Store:
    """Not thread-safe: the stand-in holds a lock around each request."""

    def __init__(self) -> None:
        self._aspects: dict[str, dict[str, Aspect]] = {}
        self._events: defaultdict[tuple[str, str], dict[str, Aspect]] = defaultdict(dict)
        self._version_sets: defaultdict[str, set[str]] = defaultdict(set)
        self._undo: list[Callable[[], None]] | None = None

    def aspect(self, urn: str, name: str) -> Aspect | None:
        return self._aspects.get(urn, {}).get(name)

    def aspects(self, urn: str) -> dict[str, Aspect]:
        """All versioned aspects of an entity, its key aspect among them; empty if there is no such entity."""
        return self._aspects.get(urn, {})

    def urns(self) -> Iterator[str]:
        return iter(self._aspects)

    def is_removed(self, urn: str) -> bool:
        return bool((self.aspect(urn, "status") or {}).get("removed"))

    def events(self, urn: str, name: str) -> list[Aspect]:
        """Oldest first."""
        return sorted(self._events.get((urn, name), {}).values(), key=lambda event: int(event["timestampMillis"]))

    def put(self, urn: str, name: str, value: Aspect) -> None:
        """Write a versioned aspect. The first write of an entity also writes its key aspect, as the server does."""
        self._ensure_key(urn)
        self._set(self._aspects[urn], name, value)
        if name == "versionProperties":
            self._version_sets[value["versionSet"]].add(urn)

    def add_event(self, urn: str, name: str, value: Aspect) -> None:
        """Write a timeseries aspect; one with the same document id is replaced."""
        self._ensure_key(urn)
        document = json.dumps([value.get(field) for field in DOCUMENT_ID], sort_keys=True)
        self._set(self._events[urn, name], document, value)

    def delete(self, urn: str, only: str | None = None) -> tuple[int, int]:
        """Forget an entity, or `only` one of its timeseries aspects; how many aspects and how many events that were."""
        rows = 0 if only else len(self._aspects.pop(urn, {}))
        series = [key for key in self._events if key[0] == urn and only in (None, key[1])]
        return rows, sum(len(self._events.pop(key)) for key in series)

    def versions(self, version_set: str) -> Iterator[tuple[str, Aspect]]:
        """The entities that are in a version set now, with their versionProperties."""
        for urn in sorted(self._version_sets.get(version_set, ())):
            properties = self.aspect(urn, "versionProperties")
            if properties and properties["versionSet"] == version_set:
                yield urn, properties

    @contextmanager
    def undoable(self) -> Iterator[Callable[[], None]]:
        """Gives a function that undoes what was put or added inside the `with` block so far."""
        steps: list[Callable[[], None]] = []
        self._undo = steps
        try:
            yield partial(_run_backwards, steps)
        finally:
            self._undo = None

    def _ensure_key(self, urn: str) -> None:
        if urn not in self._aspects:
            parsed = urns.check(urn)
            self._set(self._aspects, urn, {KEY_ASPECTS[parsed.entity_type].ASPECT_NAME: parsed.key})

    def _set(self, where: dict[str, Any], key: str, value: Any) -> None:
        if self._undo is not None:
            self._undo.append(_restore(where, key))
        where[key] = value


def _run_backwards(steps: list[Callable[[], None]]) -> None:
    while steps:
        steps.pop()()


def _restore(where: dict[str, Any], key: str) -> Callable[[], None]:
    if key not in where:
        return lambda: where.pop(key, None)
    before = where[key]
    return lambda: where.__setitem__(key, before)
