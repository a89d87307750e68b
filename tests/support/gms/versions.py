"""Version sets: what the server refuses in versionProperties and versionSetProperties, and what it adds by itself.

From the server's `VersionPropertiesValidator`, `VersionSetPropertiesValidator`, `VersionPropertiesSideEffect` and
`VersionSetSideEffect`.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import urns
from .store import Aspect, Store

GENERATED = "ALPHANUMERIC_GENERATED_BY_DATAHUB"  # a scheme whose sort ids are eight capital letters
DEFAULT_SCHEME = "LEXICOGRAPHIC_STRING"


def version_problems(store: Store, urn: str, value: Aspect, is_patch: bool) -> Iterator[str]:
    """What is wrong with the versionProperties of an entity, given the set that it wants to be in."""
    if "isLatest" in value and not is_patch:
        yield "IsLatest should not be specified, this is a computed field."
    version_set = value["versionSet"]
    of_type = urns.check(version_set).key["entityType"]
    if of_type != urns.check(urn).entity_type:
        yield f"Version Set specified entity type does not match, expected type: {of_type}"
    scheme = _scheme(value)
    properties = store.aspect(version_set, "versionSetProperties")
    if properties and _scheme(properties) != scheme:
        yield f"Versioning Scheme does not match Version Set properties: {_scheme(properties)}"
    if scheme == GENERATED and not _is_generated(value["sortId"]):
        yield f"Invalid sortID for Versioning Scheme. ID: {value['sortId']} Scheme: {scheme}"
    yield from _clashes(store, urn, value)


def _scheme(value: Aspect) -> str:
    return str(value.get("versioningScheme", DEFAULT_SCHEME))


def _is_generated(sort_id: str) -> bool:
    return len(sort_id) == 8 and sort_id.isalpha() and sort_id.isupper()


def _clashes(store: Store, urn: str, value: Aspect) -> Iterator[str]:
    """Sort id and label are each unique in the set. The server asks its search index, which leaves out removed ones."""
    for other, properties in store.versions(value["versionSet"]):
        if other == urn or store.is_removed(other):
            continue
        if properties["sortId"] == value["sortId"] or _label(properties) == _label(value):
            yield (
                f"Sort Id and Version label must be unique: sort ID: {value['sortId']} "
                f"version label: {_label(value)} (they are those of {other})"
            )


def _label(value: Aspect) -> str | None:
    label: str | None = value["version"].get("versionTag")
    return label


def version_set_problems(store: Store, urn: str, value: Aspect, _is_patch: bool) -> Iterator[str]:
    """What is wrong with versionSetProperties that a client writes itself, instead of leaving them to the server."""
    properties = store.aspect(urn, "versionSetProperties")
    if properties and _scheme(properties) != _scheme(value):
        yield f"Versioning Scheme cannot change. Expected Scheme: {_scheme(properties)}"
    if not store.aspect(value["latest"], "versionProperties"):
        yield f"Cannot set latest version to unversioned entity: {value['latest']}"


def put_version(store: Store, urn: str, value: Aspect) -> None:
    """Write versionProperties; make the set if there is none, and move its `latest` to a greater sort id.

    Sort ids are compared as strings. `isLatest` of both entities follows.
    """
    store.put(urn, "versionProperties", {name: item for name, item in value.items() if name != "isLatest"})
    version_set = value["versionSet"]
    properties = store.aspect(version_set, "versionSetProperties")
    before = store.aspect(properties["latest"], "versionProperties") if properties else None
    if properties and before and properties["latest"] != urn and value["sortId"] <= before["sortId"]:
        return
    put_version_set(store, version_set, {"versioningScheme": _scheme(value), "latest": urn})


def put_version_set(store: Store, urn: str, value: Aspect) -> None:
    """Write versionSetProperties and mark which entity is the latest of the set, and which no longer is."""
    before = store.aspect(urn, "versionSetProperties")
    if before and before["latest"] != value["latest"]:
        _mark(store, before["latest"], is_latest=False)
    _mark(store, value["latest"], is_latest=True)
    store.put(urn, "versionSetProperties", value)


def _mark(store: Store, urn: str, *, is_latest: bool) -> None:
    if properties := store.aspect(urn, "versionProperties"):
        store.put(urn, "versionProperties", properties | {"isLatest": is_latest})
