"""What an entity means to people: tags, terms, owners, domain, links and structured properties, by the recipe's rules.

Each of them is marked as ours (`attribution`, or who made a link), so that one patch says what holds now: it replaces
what we said before and leaves what people, and other sources, said. DataHub's own `set_attribution` transformer sends
such patches too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from datahub.emitter.mce_builder import validate_ownership_type
from datahub.emitter.mcp_patch_builder import UNIT_SEPARATOR, MetadataPatchProposal
from datahub.metadata.schema_classes import (
    AuditStampClass,
    DeprecationClass,
    DomainAssociationClass,
    DomainsClass,
    GlobalTagsClass,
    GlossaryTermAssociationClass,
    GlossaryTermsClass,
    InstitutionalMemoryClass,
    InstitutionalMemoryMetadataClass,
    MetadataAttributionClass,
    MetadataChangeProposalClass,
    OwnerClass,
    OwnershipClass,
    OwnershipTypeClass,
    StructuredPropertiesClass,
    StructuredPropertyValueAssignmentClass,
    TagAssociationClass,
    _Aspect,
)
from datahub.metadata.urns import Urn

from datahub_mlflow_source.addresses import is_web_address
from datahub_mlflow_source.mapping.meta_mapping import MetaMapping, Said
from datahub_mlflow_source.mapping.templates import filled
from datahub_mlflow_source.mapping.urns import PLATFORM_URN, URN_BYTES, alias_tag_urn, encoded_length, owner_urn
from datahub_mlflow_source.records import Tags
from datahub_mlflow_source.redaction import redact, redact_url

CONNECTOR = "urn:li:corpuser:datahub"
# Who made our links and deprecations, which have no attribution. Not the one above: so DataHub's first user is called.
OURSELVES = "urn:li:corpuser:datahub-mlflow-source"
_MOST_OWNERS = 20  # of one entity, from its users


@dataclass(frozen=True, slots=True)
class OwnerRule:
    """An owner that the recipe names."""

    urn: str
    type: str
    type_urn: str | None
    applies_to: Callable[[str], bool]  # names of experiments and models


@dataclass(frozen=True, slots=True)
class UsersAsOwners:
    """How MLflow's users become owners."""

    denied: tuple[re.Pattern[str], ...] = ()
    template: str = "urn:li:corpuser:{user}"
    type: str = OwnershipTypeClass.TECHNICAL_OWNER
    type_urn: str | None = None

    def denies(self, user: str) -> bool:
        """Whether this is an account that services run under."""
        return any(pattern.fullmatch(user) for pattern in self.denied)


@dataclass(frozen=True, slots=True)
class Meanings:
    """Everything that the recipe says about meaning."""

    mapping: MetaMapping = field(default_factory=MetaMapping)
    owners: tuple[OwnerRule, ...] = ()
    users: UsersAsOwners | None = None  # None: they own nothing
    domains: tuple[tuple[str, Callable[[str], bool]], ...] = ()  # URN, and which names are in it; the last one counts
    links: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # template, by label
    alias_tags: bool = False
    structured_properties: bool = False
    deprecate_archived: bool = False
    cleared: frozenset[str] = frozenset()  # aspects that the recipe says, in so many words, to say nothing in

    def aspects(self) -> frozenset[str]:
        """The aspects that rules may say something in: of these, what we said before is replaced."""
        said = {*self.mapping.aspects, *self.cleared}
        if self.owners or self.users:
            said.add(OwnershipClass.ASPECT_NAME)
        if self.domains:
            said.add(DomainsClass.ASPECT_NAME)
        if self.links:
            said.add(InstitutionalMemoryClass.ASPECT_NAME)
        if self.alias_tags:
            said.add(GlobalTagsClass.ASPECT_NAME)
        if self.structured_properties:
            said.add(StructuredPropertiesClass.ASPECT_NAME)
        if self.deprecate_archived:
            said.add(DeprecationClass.ASPECT_NAME)
        return frozenset(said)


@dataclass(frozen=True, slots=True)
class Subject:
    """An experiment, model or version, as far as rules look at it."""

    name: str  # of the experiment or registered model
    tags: Tags
    users: Sequence[str] = ()
    aliases: Sequence[str] = ()
    time: int | None = None  # when MLflow last changed it
    places: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # values for links
    properties: Mapping[str, tuple[str | float, ...]] = field(default_factory=lambda: MappingProxyType({}))  # by URN


def meaning(subject: Subject, meanings: Meanings) -> Said:
    """What the rules say of it."""
    said = meanings.mapping.of(subject.tags)
    said.owners.extend(
        (rule.urn, rule.type, rule.type_urn) for rule in meanings.owners if rule.applies_to(subject.name)
    )
    if meanings.users:
        said.owners.extend(_owners(subject.users, meanings.users, said.refused))
    said.domains.extend([urn for urn, holds in meanings.domains if holds(subject.name)][-1:])
    for label, template in meanings.links.items():
        address = filled(template, subject.places, lambda value: quote(value, safe=""), brackets=False)
        if address:
            said.links.append((address, label))
    if meanings.alias_tags:
        said.tags.extend(str(alias_tag_urn(alias)) for alias in subject.aliases if redact(alias) == alias)
    if meanings.structured_properties:
        said.properties.update(subject.properties)
    return _sound(said)


def _owners(users: Iterable[str], rule: UsersAsOwners, refused: list[str]) -> Iterator[tuple[str, str, str | None]]:
    people = [user for user in dict.fromkeys(map(str.strip, users)) if user and not rule.denies(user)]
    if len(people) > _MOST_OWNERS:
        refused.append(f"{len(people)} owners: {_MOST_OWNERS} sent")
    for user in people[:_MOST_OWNERS]:
        urn = owner_urn(rule.template, user) if redact(user) == user else None
        if urn is None:
            refused.append(f"owner {redact(user)[:100]!r}")
        else:
            yield str(urn), rule.type, rule.type_urn


def _sound(said: Said) -> Said:
    """Without what DataHub would refuse: a URN that is too long, a link that is none."""
    for name in ("tags", "terms", "domains"):
        urns: list[str] = getattr(said, name)
        urns[:] = [urn for urn in dict.fromkeys(urns) if _fits(urn, said.refused)]
    said.owners[:] = [owner for owner in dict.fromkeys(said.owners) if _fits(owner[0], said.refused)]
    links = [(redact_url(url).replace(" ", "%20"), label) for url, label in dict.fromkeys(said.links)]
    said.links[:] = [(url, label) for url, label in links if is_web_address(url)]
    said.refused.extend(f"link {url[:200]!r}" for url, _ in links if not is_web_address(url))
    return said


def _fits(urn: str, refused: list[str]) -> bool:
    if encoded_length(urn) <= URN_BYTES:
        return True
    refused.append(f"{urn[:100]}…")
    return False


# --- as patches: for DataHub's server


class _Patch(MetadataPatchProposal):
    """Sets what is ours in one aspect, by a branch of its own in the map that the server makes of the array."""

    def set_branch(self, aspect: str, array: str, keys: Sequence[str], ours: str, items: dict[str, Any]) -> None:
        """`items`: by their further keys, nested. Empty: nothing is ours any more."""
        plain = _as_json(items)
        self._add_patch(aspect, "add", path=(array, ours), value=plain, array_primary_keys={array: list(keys)})

    def set_field(self, aspect: str, name: str, array_keys: dict[str, list[str]], value: _Aspect | Any) -> None:
        """Beside a branch in an array, whose keys have to be the same."""
        self._add_patch(aspect, "add", path=(name,), value=value, array_primary_keys=array_keys)

    def set_item(self, aspect: str, array: str, key: str, name: str, item: _Aspect | Any) -> None:
        """Whoever said it: there may be one of that name."""
        self._add_patch(aspect, "add", path=(array, name), value=item, array_primary_keys={array: [key]})

    def remove_ours(self, aspect: str, array: str, keys: Sequence[str], name: str, ours: str) -> None:
        """Of that name, if it is ours."""
        self._add_patch(aspect, "remove", path=(array, name, ours), value={}, array_primary_keys={array: list(keys)})


def _as_json(items: Any) -> Any:
    """The builder itself looks into lists, and not into maps."""
    return {key: _as_json(item) for key, item in items.items()} if isinstance(items, dict) else items.to_obj()


_SOURCE = f"attribution{UNIT_SEPARATOR}source"
_WHO = f"createStamp{UNIT_SEPARATOR}actor"


def patches(
    urn: Urn,
    said: Said,
    time: int | None,
    in_use: frozenset[str],
    own_properties: Iterable[str],
    *,
    stamp_terms: bool = False,
) -> list[MetadataChangeProposalClass]:
    """What holds now, for each of the aspects that rules may speak in. `own_properties`: those that they may set.

    `stamp_terms`: for servers before 1.6, which don't add a stamp that they require.
    """
    patch = _Patch(str(urn))
    attributed = _attribution(time)
    if GlobalTagsClass.ASPECT_NAME in in_use:
        tags = {tag: TagAssociationClass(tag, attribution=attributed) for tag in said.tags}
        patch.set_branch(GlobalTagsClass.ASPECT_NAME, "tags", [_SOURCE, "tag"], PLATFORM_URN, tags)
    if GlossaryTermsClass.ASPECT_NAME in in_use:
        terms = {term: GlossaryTermAssociationClass(term, attribution=attributed) for term in said.terms}
        keys = [_SOURCE, "urn"]
        patch.set_branch(GlossaryTermsClass.ASPECT_NAME, "terms", keys, PLATFORM_URN, terms)
        if stamp_terms:
            patch.set_field(
                GlossaryTermsClass.ASPECT_NAME, "auditStamp", {"terms": keys}, AuditStampClass(0, CONNECTOR)
            )
    if OwnershipClass.ASPECT_NAME in in_use:
        owners: dict[str, Any] = {}
        for owner in _owner_aspects(said, attributed):
            owners.setdefault(owner.owner, {}).setdefault(str(owner.type), {})[owner.typeUrn or ""] = owner
        keys = [_SOURCE, "owner", "type", "typeUrn"]
        patch.set_branch(OwnershipClass.ASPECT_NAME, "owners", keys, PLATFORM_URN, owners)
    if InstitutionalMemoryClass.ASPECT_NAME in in_use:
        links: dict[str, Any] = {}
        for link in _link_aspects(said, time):
            links.setdefault(link.url, {})[link.description] = link
        keys = [_WHO, "url", "description"]
        patch.set_branch(InstitutionalMemoryClass.ASPECT_NAME, "elements", keys, OURSELVES, links)
    if StructuredPropertiesClass.ASPECT_NAME in in_use:
        _patch_properties(patch, said, attributed, own_properties)
    return patch.build()


def _patch_properties(
    patch: _Patch, said: Said, attributed: MetadataAttributionClass, own_properties: Iterable[str]
) -> None:
    """The server takes one value of each only, whoever said it (`StructuredPropertiesValidator`): ours replaces it."""
    aspect, array = StructuredPropertiesClass.ASPECT_NAME, "properties"
    for name in sorted(set(own_properties) - said.properties.keys()):
        patch.remove_ours(aspect, array, ["propertyUrn", _SOURCE], name, PLATFORM_URN)
    for name, values in sorted(said.properties.items()):
        item = StructuredPropertyValueAssignmentClass(name, list(values), attribution=attributed)
        patch.set_item(aspect, array, "propertyUrn", name, item)


def _attribution(time: int | None) -> MetadataAttributionClass:
    return MetadataAttributionClass(time or 0, CONNECTOR, source=PLATFORM_URN)


# --- as plain aspects: for a file, or DataHub Lite


def aspects(said: Said, time: int | None, further_tags: Sequence[str] = ()) -> Iterator[_Aspect]:
    """Which replace what is there. `further_tags` are ours too, without a rule: those of stages."""
    attributed = _attribution(time)
    tags = [TagAssociationClass(tag) for tag in further_tags]
    tags += [TagAssociationClass(tag, attribution=attributed) for tag in said.tags]
    if tags:
        yield GlobalTagsClass(tags)
    if said.terms:
        terms = [GlossaryTermAssociationClass(term, attribution=attributed) for term in said.terms]
        yield GlossaryTermsClass(terms, AuditStampClass(time or 0, CONNECTOR))
    if said.owners:
        yield OwnershipClass(list(_owner_aspects(said, attributed)))
    if said.links:
        yield InstitutionalMemoryClass(list(_link_aspects(said, time)))
    if said.properties:
        yield StructuredPropertiesClass(
            [
                StructuredPropertyValueAssignmentClass(name, list(values), attribution=attributed)
                for name, values in sorted(said.properties.items())
            ]
        )


def domain_of(said: Said) -> str | None:
    """The one that an entity is to be in: what a rule over tags says is more exact than its name."""
    return said.domains[0] if said.domains else None


def domains(urns: Sequence[str], time: int | None, *, marked: bool) -> DomainsClass:
    """`marked` as ours, which servers before 1.7 don't take."""
    associations = [DomainAssociationClass(urn, attribution=_attribution(time)) for urn in urns]
    return DomainsClass(list(urns), associations if marked else None)


def our_domains(present: DomainsClass) -> set[str]:
    """Those that we said."""
    marked = present.domainAssociations or []
    return {each.domain for each in marked if each.attribution and each.attribution.source == PLATFORM_URN}


_ARCHIVED, _TAGGED = "In stage Archived in MLflow.", "Tagged `deprecated` in MLflow."


def why_deprecated(tags: Tags, stage: str | None) -> str | None:
    """By MLflow; None where it is not."""
    if stage == "Archived":
        return _ARCHIVED
    tag = next((value for key, value in tags if key == "deprecated"), None)
    return _TAGGED if tag is not None and tag.strip().lower() not in ("false", "no", "0") else None


def deprecation(why: str | None) -> DeprecationClass:
    """None: not any more."""
    return DeprecationClass(deprecated=why is not None, note=why or "", actor=OURSELVES)


def is_our_deprecation(present: DeprecationClass) -> bool:
    """Or one that people made, which stays; as does one that they took back."""
    return present.actor == OURSELVES


def _owner_aspects(said: Said, attributed: MetadataAttributionClass) -> Iterator[OwnerClass]:
    for owner, kind, kind_urn in said.owners:
        yield OwnerClass(owner, kind, kind_urn, attribution=attributed)


def _link_aspects(said: Said, time: int | None) -> Iterator[InstitutionalMemoryMetadataClass]:
    for url, label in said.links:
        yield InstitutionalMemoryMetadataClass(url, label, AuditStampClass(time or 0, OURSELVES))


def owner_type(text: str) -> tuple[str, str | None]:
    """Type and URN of a type, of what the recipe says. Raises ValueError."""
    kind, kind_urn = validate_ownership_type(text)
    return kind, kind_urn
