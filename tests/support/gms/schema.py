"""Holds an aspect's JSON to its schema, to the last field, and every URN in it to its rules.

The rules are compiled from the avro schema that comes with acryl-datahub, not taken from its generated classes: those
made the aspect, and they let unknown fields and wrong types in maps pass. Like the server, it knows from the schema
which fields are URNs, of which type, and where a declared relationship may lead (`EntityRegistryUrnValidator`).

The form is that of rest.li: no `pegasus2avro` in names, no nulls, unions as `{"<branch>": value}`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from datahub.metadata.schema_classes import ASPECT_NAME_MAP

from . import urns

Check = Callable[[Any, str, list[str]], None]
"""Takes a value, the path to it, and a list to which it adds a message for all that is wrong."""

INTEGER_BITS = {"int": 31, "long": 63}


@dataclass(frozen=True, slots=True)
class UrnRule:
    """Says that the strings at `path` ("*" is any element) are URNs; `types` is None where any entity may be meant."""

    path: tuple[str, ...]
    types: frozenset[str] | None

    def below(self, step: str) -> Iterator[UrnRule]:
        if self.path[:1] == (step,):
            yield replace(self, path=self.path[1:])


Rules = tuple[UrnRule, ...]


def problems(aspect: str, value: Any) -> list[str]:
    """What the server would say about this value of the aspect; empty if it is valid."""
    found: list[str] = []
    _aspect_check(aspect)(value, "", found)
    return found


def java_name(aspect: str) -> str:
    """The class name under which rest.li answers an aspect: `com.linkedin.common.Status`."""
    return _without_avro(ASPECT_NAME_MAP[aspect].RECORD_SCHEMA.fullname)


@cache
def _aspect_check(aspect: str) -> Check:
    return _compile(ASPECT_NAME_MAP[aspect].RECORD_SCHEMA, ())


def _without_avro(name: str) -> str:
    return name.replace(".pegasus2avro.", ".")


def _compile(schema: Any, rules: Rules) -> Check:
    return _COMPILERS[schema.type](schema, rules)


def _below(rules: Rules, step: str) -> Rules:
    return tuple(rule for above in rules for rule in above.below(step))


def _expected(what: str, value: Any, path: str) -> str:
    return f"ERROR :: {path} :: {str(value)[:200]} cannot be coerced to {what}"


def _record(schema: Any, rules: Rules) -> Check:
    checks = {
        field.name: _compile(field.type, _field_rules(field) + _below(rules, field.name)) for field in schema.fields
    }
    if "fieldDiscriminator" in checks:
        return _one_of(checks)
    required = [field.name for field in schema.fields if not field.has_default]

    def check(value: Any, path: str, found: list[str]) -> None:
        if not isinstance(value, dict):
            found.append(_expected("a record", value, path))
            return
        found.extend(
            f"ERROR :: {path}/{name} :: field is required but not found and has no default value"
            for name in required
            if name not in value
        )
        for name, item in value.items():
            if (field := checks.get(name)) is None:
                found.append(f"ERROR :: {path}/{name} :: unrecognized field found but not allowed")
            else:
                field(item, f"{path}/{name}", found)

    return check


def _one_of(checks: dict[str, Check]) -> Check:
    """A union whose branches have names of their own (`cost`); avro adds a discriminator that is never sent."""
    branches = {name: check for name, check in checks.items() if name != "fieldDiscriminator"}
    return _tagged(branches)


def _tagged(branches: dict[str, Check]) -> Check:
    def check(value: Any, path: str, found: list[str]) -> None:
        if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= branches.keys():
            found.append(_expected(f"a union of {sorted(branches)}", value, path))
            return
        ((name, item),) = value.items()
        branches[name](item, f"{path}/{name}", found)

    return check


def _union(schema: Any, rules: Rules) -> Check:
    """An optional value is sent plain or not at all; any other union names its branch."""
    branches = [branch for branch in schema.schemas if branch.type != "null"]
    if len(branches) < len(schema.schemas):
        return _compile(branches[0], rules)
    names = [_without_avro(getattr(branch, "fullname", branch.type)) for branch in branches]
    return _tagged({name: _compile(branch, _below(rules, name)) for name, branch in zip(names, branches, strict=True)})


def _array(schema: Any, rules: Rules) -> Check:
    item_check = _compile(schema.items, _below(rules, "*"))

    def check(value: Any, path: str, found: list[str]) -> None:
        if not isinstance(value, list):
            found.append(_expected("an array", value, path))
            return
        for index, item in enumerate(value):
            item_check(item, f"{path}/{index}", found)

    return check


def _map(schema: Any, rules: Rules) -> Check:
    item_check = _compile(schema.values, _below(rules, "*"))

    def check(value: Any, path: str, found: list[str]) -> None:
        if not isinstance(value, dict):
            found.append(_expected("a map", value, path))
            return
        for key, item in value.items():
            item_check(item, f"{path}/{key}", found)

    return check


def _string(_schema: Any, rules: Rules) -> Check:
    here = [rule.types for rule in rules if not rule.path]

    def check(value: Any, path: str, found: list[str]) -> None:
        if not isinstance(value, str):
            found.append(_expected("String", value, path))
        elif here:
            found.extend(_urn_problems(value, path, here))

    return check


def _urn_problems(urn: str, path: str, allowed: list[frozenset[str] | None]) -> Iterator[str]:
    try:
        entity_type = urns.check(urn).entity_type
    except urns.UrnError as error:
        yield f'ERROR :: {path} :: "Provided urn {urn}" is invalid: {error}'
        return
    for types in allowed:
        if types is not None and entity_type not in types:
            yield (
                f'ERROR :: {path} :: "Provided urn {urn}" is invalid: Entity type for urn: {urn} is not a valid '
                f"destination for field path: {path} (it takes {', '.join(sorted(types))})"
            )


def _field_rules(field: Any) -> Rules:
    """What the field itself declares. `Urn` is the type, `Relationship` and `UrnValidation` the allowed entities."""
    properties = field.other_props
    elements = ("*",) if properties.get("urn_is_array") else ()
    rules = []
    if kind := properties.get("Urn"):
        entity = urns.TYPED_URNS.get(kind.lower())
        rules.append(UrnRule(elements, frozenset([entity]) if entity else None))
    if validation := properties.get("UrnValidation"):
        rules.append(UrnRule(elements, frozenset(validation["entityTypes"])))
    relationship = properties.get("Relationship", {})
    by_path = {"": relationship} if "entityTypes" in relationship else relationship
    for path, target in by_path.items():
        rules.append(UrnRule(tuple(path.split("/")[1:]), frozenset(target["entityTypes"])))
    return tuple(rules)


def _enum(schema: Any, _rules: Rules) -> Check:
    symbols = frozenset(schema.symbols)

    def check(value: Any, path: str, found: list[str]) -> None:
        if not isinstance(value, str) or value not in symbols:
            found.append(f'ERROR :: {path} :: "{str(value)[:200]}" is not an enum symbol')

    return check


def _integer(schema: Any, _rules: Rules) -> Check:
    limit = 1 << INTEGER_BITS[schema.type]

    def check(value: Any, path: str, found: list[str]) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not -limit <= value < limit:
            found.append(_expected(schema.type, value, path))

    return check


def _decimal(schema: Any, _rules: Rules) -> Check:
    def check(value: Any, path: str, found: list[str]) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            found.append(_expected(schema.type, value, path))

    return check


def _boolean(_schema: Any, _rules: Rules) -> Check:
    def check(value: Any, path: str, found: list[str]) -> None:
        if not isinstance(value, bool):
            found.append(_expected("Boolean", value, path))

    return check


_COMPILERS: dict[str, Callable[[Any, Rules], Check]] = {
    "record": _record,
    "union": _union,
    "array": _array,
    "map": _map,
    "string": _string,
    "bytes": _string,
    "enum": _enum,
    "int": _integer,
    "long": _integer,
    "float": _decimal,
    "double": _decimal,
    "boolean": _boolean,
}
