"""`meta_mapping`: rules over MLflow's tags, in the syntax of DataHub's `OperationProcessor`, which does the work.

That one logs what goes wrong and leaves the rest of the rules out, takes any text for part of a URN, and puts a value
into a replacement as it is. So each rule is checked when the recipe is read (`check`), is done by itself, and what
comes out is made into URNs anew.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from datahub.emitter.mce_builder import validate_ownership_type
from datahub.metadata.schema_classes import (
    DomainsClass,
    GlobalTagsClass,
    GlossaryTermsClass,
    InstitutionalMemoryClass,
    OwnershipClass,
    StructuredPropertiesClass,
)
from datahub.utilities.mapping import Constants, OperationProcessor
from datahub.utilities.urns.error import InvalidUrnError
from datahub.utilities.urns.structured_properties_urn import make_structured_property_urn

from datahub_mlflow_source.mapping.urns import clean_urn
from datahub_mlflow_source.records import Tags
from datahub_mlflow_source.redaction import redact

_LONGEST = 10_000  # characters of a value that rules look at
_ASPECT_OF = {
    Constants.ADD_TAG_OPERATION: GlobalTagsClass.ASPECT_NAME,
    Constants.ADD_TERM_OPERATION: GlossaryTermsClass.ASPECT_NAME,
    Constants.ADD_TERMS_OPERATION: GlossaryTermsClass.ASPECT_NAME,
    Constants.ADD_OWNER_OPERATION: OwnershipClass.ASPECT_NAME,
    Constants.ADD_DOMAIN_OPERATION: DomainsClass.ASPECT_NAME,
    Constants.ADD_DOC_LINK_OPERATION: InstitutionalMemoryClass.ASPECT_NAME,
    Constants.ADD_STRUCTURED_PROPERTY_OPERATION: StructuredPropertiesClass.ASPECT_NAME,
}
# Keys of `config`, by operation: those that it needs, and others that it takes.
_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Constants.ADD_TAG_OPERATION: ((Constants.TAG,), ()),
    Constants.ADD_TERM_OPERATION: ((Constants.TERM,), ()),
    Constants.ADD_TERMS_OPERATION: ((), (Constants.SEPARATOR,)),
    Constants.ADD_OWNER_OPERATION: ((), (Constants.OWNER_TYPE, Constants.OWNER_CATEGORY)),
    Constants.ADD_DOMAIN_OPERATION: ((Constants.DOMAIN,), ()),
    Constants.ADD_DOC_LINK_OPERATION: ((Constants.DOC_LINK, Constants.DOC_DESCRIPTION), ()),
    Constants.ADD_STRUCTURED_PROPERTY_OPERATION: (
        (Constants.STRUCTURED_PROPERTY_URN,),
        (Constants.STRUCTURED_PROPERTY_VALUE, Constants.STRUCTURED_PROPERTY_VALUE_TYPE),
    ),
}
_VALUE_TYPES = ("string", "number", "date", "urn", "rich_text")
_PLACES = re.compile(r"\{\{.*?(?:\}\}|\Z)", re.DOTALL)
_MATCH = re.compile(r"\{\{\s*\$match\s*\}\}")


@dataclass(slots=True)
class Said:
    """What rules say of one entity."""

    tags: list[str] = field(default_factory=list)  # URNs
    terms: list[str] = field(default_factory=list)
    owners: list[tuple[str, str, str | None]] = field(default_factory=list)  # URN, type, URN of a type of one's own
    domains: list[str] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)  # address, label
    properties: dict[str, tuple[str | float, ...]] = field(default_factory=dict)  # by URN
    refused: list[str] = field(default_factory=list)  # what is no URN, for the report
    by_keys: set[str] = field(default_factory=set)  # tags that rules had something to say of


class MetaMapping:
    """The rules of one recipe, by the tag that each looks at."""

    def __init__(self, rules: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Raises ValueError for a rule that could never do anything."""
        self._rules: dict[str, _Rule] = {}
        for key, rule in (rules or {}).items():
            check(key, rule)
            self._rules[key] = _Rule(key, dict(rule))

    @cached_property
    def aspects(self) -> frozenset[str]:
        """Names of those that the rules may say something in."""
        return frozenset(_ASPECT_OF[rule.operation] for rule in self._rules.values())

    @cached_property
    def properties(self) -> frozenset[str]:
        """URNs of the structured properties that the rules may set."""
        named = (rule.config.get(Constants.STRUCTURED_PROPERTY_URN) for rule in self._rules.values())
        return frozenset(make_structured_property_urn(name) for name in named if name)

    @property
    def keys(self) -> list[str]:
        """Of the tags that rules look at."""
        return sorted(self._rules)

    def of(self, tags: Tags) -> Said:
        """What the rules make of these."""
        said = Said()
        for key, value in tags:
            rule = self._rules.get(key)
            if rule is not None:
                rule.apply(value, said)
        return said


def check(key: str, rule: Any) -> None:
    """Raises ValueError, which says what is wrong with the rule."""
    where = f"`meta_mapping.{key}`"
    if key in ("match", "operation", "config"):
        raise ValueError(f"{where}: above it, the key of the tag that the rule looks at is missing")
    if not isinstance(rule, Mapping):
        raise ValueError(f"{where} must have `match`, `operation` and `config`")
    if unknown := rule.keys() - {"operation", "config", "match"}:
        raise ValueError(f"{where}: unknown key `{min(map(str, unknown))}`")
    operation, config, match = rule.get("operation"), rule.get("config"), rule.get("match")
    if operation not in _ASPECT_OF:
        raise ValueError(f"{where}: `operation` is none of {', '.join(sorted(_ASPECT_OF))}")
    if not isinstance(config, Mapping) or not config:
        raise ValueError(f"{where}: `config` is missing")
    _check_match(where, match)
    _check_config(where, operation, config)


def _check_match(where: str, match: Any) -> None:
    if not isinstance(match, (str, bool, int, float)):
        raise ValueError(f"{where}: `match` must be a regular expression, a number, or true or false")
    try:
        re.compile(str(match))
    except re.error as error:
        hint = "(This is no glob: `.*` matches anything.)"
        raise ValueError(f"{where}: `match` {match!r} is no regular expression: {error}. {hint}") from error


def _check_config(where: str, operation: str, config: Mapping[str, Any]) -> None:
    needed, taken = _KEYS[operation]
    if missing := [name for name in needed if not config.get(name)]:
        raise ValueError(f"{where}: `config.{missing[0]}` is missing, which `{operation}` needs")
    if unknown := sorted(map(str, config.keys() - {*needed, *taken})):
        raise ValueError(f"{where}: `{operation}` knows no `config.{unknown[0]}`, but {', '.join((*needed, *taken))}")
    for name, value in config.items():
        if not isinstance(value, str) and name != Constants.STRUCTURED_PROPERTY_VALUE:
            raise ValueError(f"{where}: `config.{name}` must be text, in quotes")
        if strange := [place for place in _PLACES.findall(str(value)) if not _MATCH.fullmatch(place)]:
            raise ValueError(f"{where}: in `config.{name}`, {strange[0]!r} is not {{{{ $match }}}}")
    _check_values(where, config)


def _check_values(where: str, config: Mapping[str, Any]) -> None:
    if config.get(Constants.OWNER_TYPE, Constants.USER_OWNER) not in (Constants.USER_OWNER, Constants.GROUP_OWNER):
        raise ValueError(f"{where}: `config.owner_type` is `user` or `group`")
    if config.get(Constants.SEPARATOR) == "":
        raise ValueError(f"{where}: `config.separator` is empty")
    if config.get(Constants.STRUCTURED_PROPERTY_VALUE_TYPE, "string") not in _VALUE_TYPES:
        raise ValueError(f"{where}: `config.value_type` is one of {', '.join(_VALUE_TYPES)}")
    try:
        if category := config.get(Constants.OWNER_CATEGORY):
            validate_ownership_type(category)
        if property_urn := config.get(Constants.STRUCTURED_PROPERTY_URN):
            make_structured_property_urn(property_urn)
    except (InvalidUrnError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


class _Rule:
    def __init__(self, key: str, rule: dict[str, Any]) -> None:
        self.operation: str = rule["operation"]
        self.config: Mapping[str, Any] = rule["config"]
        self._key, self._match = key, rule["match"]
        self._processor = OperationProcessor({key: rule})
        self._processor_of_any = OperationProcessor({key: {**rule, "match": "(?s).*"}})
        self._inserts = "$match" in str(self.config)

    def apply(self, value: str, said: Said) -> None:
        """Adds what it says of this value."""
        if len(value) > _LONGEST:
            said.refused.append(f"tag {self._key!r}: {len(value)} characters, no rule looks at more than {_LONGEST}")
            return
        found = self._found(redact(value))
        if found:
            said.by_keys.add(self._key)
        for aspect in found.values():
            self._take(aspect, said)

    def _found(self, value: str) -> dict[str, Any]:
        """Aspects, by operation. The processor takes a value for the template of a replacement, in which a backslash
        means something: then the value is matched here, and goes in with two for each.
        """
        if not (self._inserts and "\\" in value):
            return self._processor.process({self._key: self._typed(value)})
        match = re.match(str(self._match), value)
        if match is None:
            return {}
        best = next(filter(None, (*match.groupdict().values(), *match.groups())), match[0])
        return self._processor_of_any.process({self._key: best.replace("\\", "\\\\")})

    def _typed(self, value: str) -> str | bool | float:
        """MLflow's tags are texts; a rule may want true, or a number."""
        if isinstance(self._match, bool):
            return {"true": True, "false": False}.get(value.strip().lower(), value)
        if isinstance(self._match, (int, float)):
            try:
                return type(self._match)(value)
            except ValueError:
                return value
        return value

    def _take(self, aspect: Any, said: Said) -> None:
        if isinstance(aspect, GlobalTagsClass):
            _add(said.tags, (tag.tag for tag in aspect.tags), said)
        elif isinstance(aspect, GlossaryTermsClass):
            _add(said.terms, (term.urn for term in aspect.terms), said)
        elif isinstance(aspect, DomainsClass):
            _add(said.domains, aspect.domains, said)
        elif isinstance(aspect, OwnershipClass):
            for owner in aspect.owners:
                urn = clean_urn(owner.owner)
                if urn is None:
                    said.refused.append(owner.owner[:200])
                else:
                    said.owners.append((urn, str(owner.type), owner.typeUrn))
        elif isinstance(aspect, InstitutionalMemoryClass):
            said.links.extend((link.url, link.description) for link in aspect.elements)
        elif isinstance(aspect, StructuredPropertiesClass):
            for each in aspect.properties:
                self._take_values(each.propertyUrn, each.values, said)

    def _take_values(self, property_urn: str, values: Sequence[str | float], said: Said) -> None:
        """Beside those that another rule gives the same property. NaN is no number in JSON."""
        sound = [value for value in values if isinstance(value, str) or math.isfinite(value)]
        if len(sound) < len(values):
            said.refused.append(f"{property_urn}: {self._key!r} is no number")
        if together := tuple(dict.fromkeys((*said.properties.get(property_urn, ()), *sound))):
            said.properties[property_urn] = together


def _add(urns: list[str], raw: Sequence[str] | Any, said: Said) -> None:
    for text in raw:
        urn = clean_urn(text)
        if urn is None:
            said.refused.append(text[:200])
        else:
            urns.append(urn)
