"""What DataHub's server asks of a URN, as strict as it can be set up.

From DataHub's `Urn`, `EntityKeyUtils` and `UrnValidationUtil` (with `STRICT_URN_VALIDATION_ENABLED`): one parser of our
own, so that a URN is not judged by the client library that made it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote_plus

from datahub.metadata.schema_classes import KEY_ASPECTS

MAX_ENCODED_BYTES = 512
UNIT_SEPARATOR = "\u241f"  # DataHub separates browse path entries with it
PREFIX = "urn:li:"

# What the schema calls the type of a URN field ("TagUrn"), in lower case -> the entity type that it allows.
TYPED_URNS = {f"{entity}urn".lower(): entity for entity in KEY_ASPECTS}


class UrnError(ValueError):
    """A URN that the server would refuse; the message says why."""


@dataclass(frozen=True, slots=True)
class Urn:
    """A URN taken apart. `parts` are as written: nothing is decoded."""

    entity_type: str
    parts: tuple[str, ...]

    @property
    def key(self) -> dict[str, str]:
        """The fields of the entity's key aspect: parts are bound to them by position."""
        names = (field.name for field in KEY_ASPECTS[self.entity_type].RECORD_SCHEMA.fields)
        return dict(zip(names, self.parts, strict=True))


def encoded_length(urn: str) -> int:
    """Length in bytes as Java's URLEncoder writes it: all but letters, digits and `.-*_` is %XX, a space is one `+`."""
    return len(quote_plus(urn, safe="*").replace("~", "%7E"))


@lru_cache(maxsize=100_000)
def check(urn: str) -> Urn:
    """Take a URN apart and hold it to every rule; raises UrnError at the first that it breaks.

    The 512 bytes are always enforced by the server, except for schemaField. Commas and parentheses inside a part are
    only warned about by a server with default settings; here they are refused.
    """
    parsed = _parse(urn)
    if urn != urn.strip():
        raise UrnError("cannot provide an URN with leading or trailing whitespace")
    if parsed.entity_type != "schemaField" and encoded_length(urn) > MAX_ENCODED_BYTES:
        raise UrnError(f"cannot provide an URN longer than {MAX_ENCODED_BYTES} bytes (when URL encoded)")
    if UNIT_SEPARATOR in urn:
        raise UrnError(f"URN cannot contain {UNIT_SEPARATOR} character")
    _check_characters(parsed)
    _check_key(parsed)
    return parsed


def _parse(urn: str) -> Urn:
    if not urn.startswith(PREFIX):
        raise UrnError(f"Urn doesn't start with '{PREFIX}'")
    entity_type, colon, key = urn.removeprefix(PREFIX).partition(":")
    if not colon or not key:
        raise UrnError("Urn has no key")
    if entity_type not in KEY_ASPECTS:
        raise UrnError(f"Failed to find entity with name {entity_type} in EntityRegistry")
    return Urn(entity_type, tuple(_split(key)) if key.startswith("(") else (key,))


def _split(key: str) -> Iterator[str]:
    """The parts of `(a,b,c)`. Only commas outside inner parentheses separate; no part may be empty."""
    depth, start = 0, 1
    for position, character in enumerate(key):
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
        if depth < (0 if position == len(key) - 1 else 1):
            raise UrnError("unbalanced parentheses")
        if position == len(key) - 1 or (character == "," and depth == 1):
            if position == start:
                raise UrnError("a part of the tuple is empty")
            yield key[start:position]
            start = position + 1
    if depth:
        raise UrnError("unbalanced parentheses")


def _check_characters(urn: Urn) -> None:
    for part in urn.parts:
        if not part.startswith(PREFIX) and any(character in part for character in "(),"):
            raise UrnError(f"Illegal characters detected in URN component(s): [{part}]")


def _check_key(urn: Urn) -> None:
    """Bind the parts to the fields of the key aspect: as many, nested URNs of the right type, known environments."""
    fields: list[Any] = KEY_ASPECTS[urn.entity_type].RECORD_SCHEMA.fields
    if len(fields) != len(urn.parts):
        raise UrnError("Failed to convert urn to entity key: urns parts and key fields do not have same length")
    for field, part in zip(fields, urn.parts, strict=True):
        if field.type.type == "enum" and part not in field.type.symbols:
            raise UrnError(f'{field.name} :: "{part}" is not an enum symbol')
        if "Urn" in field.other_props:
            _check_nested(part, field)


def _check_nested(urn: str, field: Any) -> None:
    """Only some key fields declare what they point to; every `platform` points to a dataPlatform."""
    declared = field.other_props.get("entityTypes", [])
    allowed = ["dataPlatform"] if field.name == "platform" else declared
    found = check(urn).entity_type
    if allowed and found not in allowed:
        raise UrnError(f"Entity type for urn: {urn} is not a valid destination for key field {field.name}")
