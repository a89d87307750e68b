"""Aspects that can't be patched without harm: read, a hundred entities at a time, and written only where that is right.

A domain: an entity is in one, as DataHub's pages have it, and whoever put it in another one meant that. Patches of
domains would also lose what servers before 1.7 stored (`DomainsSyncMutationHook`). A deprecation: there is one, and
ours must not replace what people decided.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import requests
from datahub.configuration.common import OperationalError
from datahub.emitter.mcp import MetadataChangeProposalWrapper
from datahub.ingestion.graph.client import DataHubGraph
from datahub.metadata.schema_classes import DeprecationClass, DomainsClass, _Aspect
from datahub.metadata.urns import Urn

from datahub_mlflow_source.mapping.governance import deprecation, domains, is_our_deprecation, our_domains
from datahub_mlflow_source.outgoing import Units
from datahub_mlflow_source.report import MlflowSourceReport

logger = logging.getLogger(__name__)

_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Wanted:
    """What MLflow and the recipe say of one entity."""

    urn: str
    domain: str | None
    deprecated: str | None  # why
    time: int | None


class Merges:
    """Of one ingestion."""

    def __init__(
        self,
        graph: DataHubGraph | None,
        report: MlflowSourceReport,
        *,
        reads_domains: bool,
        reads_deprecations: bool,
        marks_domains: bool,
    ) -> None:
        """`marks_domains`: where not, nobody can tell ours from another, and only where there is none one is set."""
        self._graph, self._report = graph, report
        self._aspects = [DomainsClass.ASPECT_NAME] * reads_domains + [DeprecationClass.ASPECT_NAME] * reads_deprecations
        self._marks_domains = marks_domains
        self._waiting: dict[str, list[Wanted]] = {}  # by entity type

    def want(self, urn: Urn, domain: str | None, deprecated: str | None, time: int | None) -> Units:
        """Goes out with others of its kind, or at once where there is nobody to ask."""
        if not self._aspects:
            return
        wanted = Wanted(str(urn), domain, deprecated, time)
        if self._graph is None:
            yield from self._proposals(wanted, {})
            return
        waiting = self._waiting.setdefault(urn.entity_type, [])
        waiting.append(wanted)
        if len(waiting) >= _AT_ONCE:
            yield from self._flush(urn.entity_type, self._graph)

    def rest(self) -> Units:
        """Those that wait still."""
        for entity_type in sorted(self._waiting):
            if self._graph:
                yield from self._flush(entity_type, self._graph)

    def _flush(self, entity_type: str, graph: DataHubGraph) -> Units:
        waiting = self._waiting.pop(entity_type)
        try:
            found = graph.get_entities(entity_type, [wanted.urn for wanted in waiting], self._aspects)
        except (requests.RequestException, OperationalError, ValueError) as error:
            self._report.warning(
                title="DataHub doesn't say what it has",
                message="Domains and deprecations of these stay as they are this time.",
                context=f"{len(waiting)} entities, as {waiting[0].urn}: {error}",
            )
            return
        for wanted in waiting:
            present = {name: aspect for name, (aspect, _) in found.get(wanted.urn, {}).items()}
            yield from self._proposals(wanted, present)

    def _proposals(self, wanted: Wanted, present: dict[str, _Aspect]) -> Units:
        for aspect in self._aspects_of(wanted, present):
            yield MetadataChangeProposalWrapper(entityUrn=wanted.urn, aspect=aspect).as_workunit()

    def _aspects_of(self, wanted: Wanted, present: dict[str, _Aspect]) -> Iterator[_Aspect]:
        if DomainsClass.ASPECT_NAME in self._aspects:
            there = present.get(DomainsClass.ASPECT_NAME)
            known = there.domains if isinstance(there, DomainsClass) else []
            wished = [wanted.domain] if wanted.domain else []
            ours = our_domains(there) if isinstance(there, DomainsClass) else set()
            if known != wished and ours.issuperset(known):
                yield domains(wished, wanted.time, marked=self._marks_domains)
        if DeprecationClass.ASPECT_NAME in self._aspects:
            now = present.get(DeprecationClass.ASPECT_NAME)
            is_ours = not isinstance(now, DeprecationClass) or is_our_deprecation(now)
            was = isinstance(now, DeprecationClass) and now.deprecated
            note = now.note if isinstance(now, DeprecationClass) and was else None
            if is_ours and note != wanted.deprecated:
                yield deprecation(wanted.deprecated)
