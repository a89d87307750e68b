"""What entities mean to people goes out behind each of them: by patches where DataHub's server takes them."""

from __future__ import annotations

import logging
from collections.abc import Callable

import requests
from datahub.configuration.common import OperationalError
from datahub.emitter.mcp import MetadataChangeProposalWrapper
from datahub.ingestion.api.workunit import MetadataWorkUnit
from datahub.ingestion.graph.client import DataHubGraph
from datahub.metadata.schema_classes import (
    DeprecationClass,
    DomainsClass,
    GlobalTagsClass,
    GlossaryTermsClass,
    OwnershipClass,
    StatusClass,
    StructuredPropertiesClass,
)
from datahub.metadata.urns import GlossaryTermUrn, TagUrn, Urn

from datahub_mlflow_source.mapping.governance import (
    Meanings,
    Subject,
    aspects,
    domain_of,
    meaning,
    patches,
    why_deprecated,
)
from datahub_mlflow_source.mapping.meta_mapping import Said
from datahub_mlflow_source.mapping.rules import Entity
from datahub_mlflow_source.mapping.stages import stage_patch, stage_tag
from datahub_mlflow_source.mapping.subjects import PROPERTIES, alias_tag, property_definitions
from datahub_mlflow_source.merges import Merges
from datahub_mlflow_source.outgoing import Outgoing, Units
from datahub_mlflow_source.removal import datahub_has
from datahub_mlflow_source.report import MlflowSourceReport
from datahub_mlflow_source.selection import Selection
from datahub_mlflow_source.text import printable

logger = logging.getLogger(__name__)


class Governance:
    """Of one ingestion."""

    def __init__(
        self,
        meanings: Meanings,
        selection: Selection,
        outgoing: Outgoing,
        report: MlflowSourceReport,
        graph: DataHubGraph | None,
    ) -> None:
        self._meanings, self._selection, self._outgoing = meanings, selection, outgoing
        self._report, self._graph = report, graph
        self._in_use = meanings.aspects() - selection.aspects_not_patched
        self._properties = PROPERTIES | meanings.mapping.properties
        self._unknown_properties: frozenset[str] = frozenset()  # that DataHub has no definition of
        self._keys_used: set[str] = set()
        self._merges = Merges(
            graph,
            report,
            reads_domains=DomainsClass.ASPECT_NAME in self._in_use,
            reads_deprecations=DeprecationClass.ASPECT_NAME in self._in_use,
            marks_domains=selection.marks_domains,
        )
        self._users: dict[str, set[str]] = {}  # by model
        self._owners_unknown: set[str] = set()  # models
        self._told: set[str] = set()  # tags and terms that DataHub knows by now

    def definitions(self) -> Units:
        """Of structured properties, before any value of one: written and awaited where DataHub can be asked.

        Those that it has stay as people made them.
        """
        if StructuredPropertiesClass.ASPECT_NAME not in self._in_use:
            return
        for entity in property_definitions() if self._meanings.structured_properties else ():
            if datahub_has(self._graph, str(entity.urn)):
                continue
            if not self._is_written(entity):
                return
            yield from self._outgoing.not_ours_alone(entity)
        if self._graph and self._selection.writes:
            graph = self._graph
            self._unknown_properties = frozenset(urn for urn in self._properties if not _is_defined(graph, urn))
            for urn in sorted(self._unknown_properties & self._meanings.mapping.properties):
                self._report.refused_by_rules.append(f"{urn}: DataHub has no such structured property; define it first")

    def _is_written(self, definition: Entity) -> bool:
        """Where DataHub can be asked, and refuses, no value of any is sent."""
        if self._graph is None or not self._selection.writes:
            return True
        try:
            for proposal in MetadataChangeProposalWrapper.construct_many(str(definition.urn), definition.aspects):
                self._graph.emit_mcp(proposal)
        except (requests.RequestException, OperationalError, ValueError) as error:
            self._report.entity_failure(
                title="Structured properties can't be defined",
                message="No value of any is sent. The user of `datahub_api`, or of the sink, needs the privilege to "
                "manage them.",
                context=str(error),
            )
            self._in_use -= {StructuredPropertiesClass.ASPECT_NAME}
            return False
        return True

    def note_user(self, model: str, user: str) -> None:
        """Who registered a version of this model, or trained it."""
        if self._meanings.users and user and not self._meanings.users.denies(user):
            self._users.setdefault(model, set()).add(user)

    def user_unknown(self, model: str) -> None:
        """Some version of it could not be read whole: its owners stay as they are."""
        self._owners_unknown.add(model)

    def users_of(self, model: str) -> list[str]:
        """Of all its versions that were there so far."""
        return sorted(self._users.get(model, ()))

    def units(self, urn: Urn, subject: Callable[[], Subject], stage: str | None = None, *, model: str = "") -> Units:
        """Behind the entity itself. `stage`: of a version; `model`: the full name of a registered model."""
        in_use = self._in_use
        if not in_use and (stage is None or not self._selection.stage_tags):
            return
        if model in self._owners_unknown:
            in_use -= {OwnershipClass.ASPECT_NAME}
        try:
            units = list(self._units(urn, subject() if in_use else Subject("", ()), stage, in_use))
        except Exception as error:
            self._report.entity_failure(
                title="The recipe's rules failed",
                message="What they say of it stays in DataHub as it was. Please report this as a bug.",
                context=f"{urn}: {type(error).__name__}: {error}",
            )
            logger.debug("Rules failed on %s", urn, exc_info=True)
            return
        yield from units

    def _units(self, urn: Urn, subject: Subject, stage: str | None, in_use: frozenset[str]) -> Units:
        said = meaning(subject, self._meanings) if in_use else Said()
        self._keys_used |= said.by_keys
        for urn_of_property in self._unknown_properties & said.properties.keys():
            del said.properties[urn_of_property]
        for refused in said.refused:
            self._report.refused_by_rules.append(printable(f"{subject.name}: {refused}"))
        yield from self._referenced(said, subject)
        yield from self._merges.want(urn, domain_of(said), self._deprecated(subject, stage), subject.time)
        if self._selection.patches:
            if stage is not None and self._selection.stage_tags:
                for proposal in stage_patch(urn, stage):
                    yield MetadataWorkUnit(id=f"{urn}-stage", mcp_raw=proposal)
            set_by_rules = self._properties - self._unknown_properties
            stamp = self._selection.stamps_terms
            made = patches(urn, said, subject.time, in_use, set_by_rules, stamp_terms=stamp)
            for number, proposal in enumerate(made):
                yield MetadataWorkUnit(id=f"{urn}-meaning-{number}", mcp_raw=proposal)
            return
        tag = stage_tag(stage) if stage is not None and self._selection.stage_tags else None
        for aspect in aspects(said, subject.time, [str(tag)] if tag else []):
            yield MetadataChangeProposalWrapper(entityUrn=str(urn), aspect=aspect).as_workunit()

    def rest(self) -> Units:
        """What waited for others, to be looked up in DataHub together."""
        yield from self._merges.rest()
        unused = [key for key in self._meanings.mapping.keys if key not in self._keys_used]
        self._report.rules_that_said_nothing.extend(unused)

    def _deprecated(self, subject: Subject, stage: str | None) -> str | None:
        return why_deprecated(subject.tags, stage) if self._meanings.deprecate_archived else None

    def _referenced(self, said: Said, subject: Subject) -> Units:
        """Tags and terms, so that they are there: a term or tag that people made keeps all that they wrote on it."""
        tags = said.tags if GlobalTagsClass.ASPECT_NAME in self._in_use else []
        terms = said.terms if GlossaryTermsClass.ASPECT_NAME in self._in_use else []
        of_aliases: dict[str, Entity] = {}
        if self._meanings.alias_tags:
            of_aliases = {str(tag.urn): tag for tag in map(alias_tag, subject.aliases)}
        for text in (*tags, *terms):
            if text in self._told:
                continue
            self._told.add(text)
            if (tag := of_aliases.get(text)) and not datahub_has(self._graph, text):
                yield from self._outgoing.not_ours_alone(tag)
                continue
            urn = Urn.from_string(text)
            if isinstance(urn, (TagUrn, GlossaryTermUrn)):
                yield from self._outgoing.not_ours_alone(Entity(urn, [urn.to_key_aspect()]))


def _is_defined(graph: DataHubGraph, urn: str) -> bool:
    """A structured property, which nobody has removed."""
    if not datahub_has(graph, urn):
        return False
    try:
        status = graph.get_aspect(urn, StatusClass)
    except (requests.RequestException, OperationalError, ValueError) as error:
        logger.warning("DataHub does not say whether %s is removed: %s", urn, error)
        return True
    return not (status and status.removed)
