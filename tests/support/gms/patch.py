"""PATCH as DataHub's server applies it: JSON Patch on an aspect whose arrays have become maps by key.

Two forms arrive. `{"arrayPrimaryKeys": {"tags": ["attribution␟source", "tag"]}, "patch": [...]}` says how arrays are
keyed; that is what nearly all builders of `datahub.specific` send since 1.7 (`GenericPatchTemplate`). A plain list of
operations relies on the template that the server has for the aspect, and templates have changed their keys between
releases: it is taken only if it means the same by each of them. `status` and `set_owners` are sent so.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .store import Aspect

SYSTEM_ACTOR = "urn:li:corpuser:__datahub_system"
NESTED = "\u241f"  # `attribution␟source` is the field `source` inside the field `attribution`
OPERATIONS = ("add", "remove", "replace")

ArrayKeys = Mapping[str, Sequence[str]]

SOURCE = f"attribution{NESTED}source"

# The aspects that may be patched, with the keys that templates of different releases give to their arrays.
# The server would take the keyed form for any aspect; what we never mean to patch is refused. So are domains: a patch
# of their associations loses what a server before 1.7 stored.
TEMPLATES: dict[str, list[ArrayKeys]] = {
    "globalTags": [{"tags": ["tag"]}],
    "glossaryTerms": [{"terms": ["urn"]}, {"terms": ["urn", SOURCE]}],
    "ownership": [
        {"owners": ["owner", "type"]},
        {"owners": ["owner", "type", "typeUrn"]},
        {"owners": ["owner", "type", "typeUrn", SOURCE]},
    ],
    "structuredProperties": [{"properties": ["propertyUrn"]}, {"properties": ["propertyUrn", SOURCE]}],
    "institutionalMemory": [],  # the server has no template: only patches that bring keys
    "documentation": [{"documentations": [SOURCE]}],
    "status": [{}],
}


class PatchError(ValueError):
    """A patch that the server could not apply; the message says why."""


def patched(aspect: str, current: Aspect | None, payload: Any) -> Aspect:
    """The aspect after the patch. `current` is None where the entity does not have it yet: templates have a default.

    Raises PatchError. What comes out has not been held to the schema.
    """
    if aspect not in TEMPLATES:
        raise PatchError(f"Patch not supported for aspect with name {aspect}.")
    keys, operations = _read(payload)
    before = copy.deepcopy(current) if current is not None else _default(aspect)
    if keys is None:
        return _apply_by_template(aspect, before, operations)
    if aspect == "structuredProperties":
        _check_assignments(operations)
    return _apply(before, keys, operations)


def _read(payload: Any) -> tuple[ArrayKeys | None, list[dict[str, Any]]]:
    """The array keys that a patch brings (None for the plain form) and its operations."""
    keys = None
    if isinstance(payload, dict) and "patch" in payload:
        if payload.get("arrayPrimaryKeys") or payload.get("forceGenericPatch"):
            keys = payload.get("arrayPrimaryKeys") or {}
        payload = payload["patch"]
    if not isinstance(payload, list) or not all(isinstance(operation, dict) for operation in payload):
        raise PatchError(f"Invalid JSON Patch: {str(payload)[:200]}")
    for operation in payload:
        if operation.get("op") not in OPERATIONS or not str(operation.get("path")).startswith("/"):
            raise PatchError(f"Unsupported PATCH operation: {str(operation)[:200]}")
    return keys, payload


def _default(aspect: str) -> Aspect:
    """What a template starts from. The stamps are required (glossaryTerms) or deprecated, and never sent by clients."""
    stamp = {"time": int(time.time() * 1000), "actor": SYSTEM_ACTOR}
    defaults: dict[str, Aspect] = {
        "glossaryTerms": {"terms": [], "auditStamp": stamp},
        "ownership": {"owners": [], "lastModified": stamp},
        "status": {"removed": False},
    }
    fields = TEMPLATES[aspect][0] if TEMPLATES[aspect] else ["elements"]
    return defaults.get(aspect, {field: [] for field in fields})


def _apply_by_template(aspect: str, before: Aspect, operations: list[dict[str, Any]]) -> Aspect:
    results: list[Aspect] = []
    errors: list[PatchError] = []
    for keys in TEMPLATES[aspect]:
        try:
            results.append(_apply(before, keys, operations))
        except PatchError as error:
            errors.append(error)
    if not results:
        raise errors[0] if errors else PatchError(f"no template for {aspect}: send arrayPrimaryKeys with it")
    if errors or any(result != results[0] for result in results):
        message = f"this plain patch of {aspect} depends on the release of the server: send arrayPrimaryKeys with it"
        raise PatchError(message)
    return results[0]


def _apply(before: Aspect, keys: ArrayKeys, operations: list[dict[str, Any]]) -> Aspect:
    document = copy.deepcopy(before)
    for field, fields in keys.items():
        document[field] = _to_map(document.get(field), fields)
    _make_parents(document, operations)
    for operation in operations:
        _operate(document, operation)
    for field, fields in keys.items():
        document[field] = _to_array(document.get(field), len(fields))
    return document


def _to_map(array: Any, fields: Sequence[str]) -> dict[str, Any]:
    """`[{"tag": t}]` keyed by `tag` -> `{t: {"tag": t}}`; a level for each key, "" where an item has none."""
    result: dict[str, Any] = {}
    for item in array if isinstance(array, list) else ():
        if not fields:  # an array of strings
            result[item] = item
            continue
        level = result
        for field in fields:
            level = level.setdefault(_key(item, field), {})
        level.update(item)
    return result


def _key(item: Any, field: str) -> str:
    for name in field.split(NESTED):
        item = item.get(name) if isinstance(item, dict) else None
    return "" if item is None else str(item)


def _to_array(node: Any, depth: int) -> list[Any]:
    """The way back. An operation may have replaced the whole array, or removed it."""
    if node is None:
        return []
    if isinstance(node, list):
        return node
    if depth == 0:
        return list(node.values())
    return _items(node, depth)


def _items(node: Any, depth: int) -> list[Any]:
    if depth == 0:
        return [node]
    if not isinstance(node, dict):
        raise PatchError(f"{str(node)[:200]} stands where a key of the array is expected")
    return [item for below in node.values() for item in _items(below, depth - 1)]


def _make_parents(document: Aspect, operations: list[dict[str, Any]]) -> None:
    """JSON Patch needs what leads to a path. For `remove` the server makes the target too, so removing never fails."""
    for operation in operations:
        steps = _steps(operation)
        node: Any = document
        for step in steps if operation["op"] == "remove" else steps[:-1]:
            if not isinstance(node, dict):
                raise PatchError(f"no way to {operation['path']}")
            node = node.setdefault(step, {})


def _steps(operation: dict[str, Any]) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]


def _operate(document: Aspect, operation: dict[str, Any]) -> None:
    *parents, last = _steps(operation)
    node: Any = document
    for step in parents:
        node = node.get(step) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise PatchError(f"{operation['path']} does not lead to a field")
    if operation["op"] != "add" and last not in node:
        raise PatchError(f"{operation['path']} does not exist")
    if operation["op"] == "remove":
        del node[last]
    else:
        node[last] = copy.deepcopy(operation.get("value"))


def _check_assignments(operations: list[dict[str, Any]]) -> None:
    """Each `add` must be one assignment: `StructuredPropertiesValidator`, by the time a request comes in (1.7)."""
    for operation in operations:
        value = operation.get("value")
        if operation["op"] == "add" and not (isinstance(value, dict) and {"propertyUrn", "values"} <= value.keys()):
            raise PatchError(f"no assignment of a structured property: {str(operation)[:200]}")
