"""What the server refuses although the schema allows it, most of it because of what is stored already.

Each rule takes the store, the URN, the value (already held to the schema) and whether it is the result of a patch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

from datahub.metadata.schema_classes import KEY_ASPECTS

from . import urns
from .store import Aspect, Store
from .versions import version_problems, version_set_problems

Rule = Callable[[Store, str, Aspect, bool], Iterator[str]]

KEYWORD_BYTES = 32_766  # the longest term that the search index takes
TEXT_TYPES = {"string", "rich_text", "date", "urn"}


def identity_problems(urn: str, entity_type: str, aspect: str) -> Iterator[str]:
    """Is there such an entity type, does it have this aspect, and is the URN one of it?"""
    if entity_type not in KEY_ASPECTS:
        yield f"Failed to find entity with name {entity_type} in EntityRegistry"
        return
    key = KEY_ASPECTS[entity_type]
    if aspect != key.ASPECT_NAME and aspect not in key.get_aspect_info()["entityAspects"]:
        yield f"Unknown aspect {aspect} for entity {entity_type}"
    try:
        found = urns.check(urn).entity_type
    except urns.UrnError as error:
        yield f"Invalid urn: {urn}: {error}"
        return
    if found != entity_type:
        yield f"URN entity type does not match MCP entity type. {found} != {entity_type}"


def state_problems(store: Store, urn: str, aspect: str, value: Aspect, is_patch: bool) -> list[str]:
    """What is wrong with a value that its schema allows."""
    parsed = urns.check(urn)
    if aspect == KEY_ASPECTS[parsed.entity_type].ASPECT_NAME:
        return [] if value == parsed.key else [f"the key aspect {value} is not that of {urn}"]
    rule = RULES.get(aspect)
    return list(rule(store, urn, value, is_patch)) if rule else []


def _schema_metadata(_store: Store, _urn: str, value: Aspect, _is_patch: bool) -> Iterator[str]:
    yield from _field_path_problems("SchemaMetadata", value["fields"])


def _editable_schema_metadata(_store: Store, _urn: str, value: Aspect, _is_patch: bool) -> Iterator[str]:
    yield from _field_path_problems("EditableSchemaMetadata", value["editableSchemaFieldInfo"])


def _field_path_problems(aspect: str, fields: list[Any]) -> Iterator[str]:
    paths = Counter(field["fieldPath"] for field in fields)
    if "" in paths:
        yield f"{aspect} aspect has empty field path."
    if repeated := [path for path, times in paths.items() if times > 1]:
        yield f"{aspect} aspect has duplicated field paths: {repeated}"


def _status(store: Store, _urn: str, value: Aspect, _is_patch: bool) -> Iterator[str]:
    stage = value.get("lifecycleStage")
    if stage and not store.aspects(stage):
        yield f"Lifecycle stage {stage} does not exist"


def _structured_properties(store: Store, urn: str, value: Aspect, _is_patch: bool) -> Iterator[str]:
    """From `StructuredPropertiesValidator`; that a definition may be limited to platforms is not modelled."""
    assignments = value["properties"]
    counted = Counter(assignment["propertyUrn"] for assignment in assignments)
    for property_urn, times in counted.items():
        if times > 1:
            yield f"Property: {property_urn} has multiple entries"
    for assignment in assignments:
        yield from _assignment_problems(store, assignment)
    yield from _immutable_problems(store, urn, assignments)


def _assignment_problems(store: Store, assignment: Aspect) -> Iterator[str]:
    property_urn, values = assignment["propertyUrn"], assignment["values"]
    definition = store.aspect(property_urn, "propertyDefinition")
    if definition is None:
        yield f"Unexpected null value found for {property_urn} Structured Property Definition."
        return
    if store.is_removed(property_urn):
        yield f"Cannot apply a soft deleted Structured Property value: {property_urn}"
    if definition.get("cardinality", "SINGLE") == "SINGLE" and len(values) > 1:
        yield f"Property: {property_urn} has cardinality 1, but multiple values were assigned: {values}"
    allowed = [choice["value"] for choice in definition.get("allowedValues") or ()]
    kind = definition["valueType"].rpartition(".")[2]
    for value in values:
        if problem := _value_problem(kind, value, definition.get("typeQualifier") or {}):
            yield f"Property: {property_urn}, value: {value} {problem}"
        if allowed and value not in allowed:
            yield f"Property: {property_urn}, value: {value} should be one of {allowed}"


def _value_problem(kind: str, value: dict[str, Any], qualifier: dict[str, Any]) -> str | None:
    """Values are `{"string": …}` or `{"double": …}`; a number may come as text too."""
    ((branch, plain),) = value.items()
    if kind == "number":
        return None if branch == "double" or _parses(float, plain) else "should be a number"
    if kind not in TEXT_TYPES:
        return f"is of type {kind}, for which there is no validation"
    if branch != "string":
        return "should be a string"
    if len(plain.encode()) > KEYWORD_BYTES:
        return f"exceeds the maximum of {KEYWORD_BYTES} UTF-8 bytes"
    if kind == "date" and not _parses(date.fromisoformat, plain):
        return "should be a date with format YYYY-MM-DD"
    if kind == "urn":
        return _urn_value_problem(plain, qualifier.get("allowedTypes"))
    return None


def _urn_value_problem(value: str, allowed: list[str] | None) -> str | None:
    try:
        entity_type = urns.check(value).entity_type
    except urns.UrnError:
        return "should be an urn"
    names = [name.rpartition(".")[2].lower() for name in allowed or ()]
    return f"is not of any supported urn types: {allowed}" if names and entity_type.lower() not in names else None


def _parses(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _immutable_problems(store: Store, urn: str, assignments: list[Aspect]) -> Iterator[str]:
    now = {assignment["propertyUrn"]: assignment for assignment in assignments}
    for before in (store.aspect(urn, "structuredProperties") or {}).get("properties", ()):
        property_urn = before["propertyUrn"]
        definition = store.aspect(property_urn, "propertyDefinition") or {}
        if definition.get("immutable") and now.get(property_urn) != before:
            yield f"Cannot mutate or delete an immutable property: {property_urn}"


RULES: dict[str, Rule] = {
    "versionProperties": version_problems,
    "versionSetProperties": version_set_problems,
    "schemaMetadata": _schema_metadata,
    "editableSchemaMetadata": _editable_schema_metadata,
    "structuredProperties": _structured_properties,
    "status": _status,
}
