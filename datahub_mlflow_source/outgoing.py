"""What goes out: entity by entity, whole, and noted for the removal."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from datahub.emitter.mcp import MetadataChangeProposalWrapper
from datahub.emitter.mcp_builder import entity_supports_aspect
from datahub.ingestion.api.workunit import MetadataWorkUnit
from datahub.metadata.schema_classes import StatusClass, _Aspect
from datahub.metadata.urns import Urn
from datahub.utilities.urns.error import InvalidUrnError

from datahub_mlflow_source.mapping.rules import Entity, alive
from datahub_mlflow_source.mapping.urns import is_shortened
from datahub_mlflow_source.removal import RemovalGuard
from datahub_mlflow_source.report import MlflowSourceReport, Tally

logger = logging.getLogger(__name__)

Units = Iterator[MetadataWorkUnit]


class Outgoing:
    """Entities as work units."""

    def __init__(self, report: MlflowSourceReport, guard: RemovalGuard, *, says_status: bool) -> None:
        """`says_status`: where no server is known, to which the framework would say it by a patch."""
        self._report, self._guard, self._says_status = report, guard, says_status

    def send(
        self, tally: Tally, name: str, urn: Callable[[], Urn], mapped: Callable[[], Entity], *, alone: bool = True
    ) -> Units:
        """The boundary behind which one odd entity stays: it goes out whole, or not at all and is kept alive.

        `alone`: it is there by our doing only, see `not_ours_alone`.
        """
        try:
            entity = mapped()
        except Exception as error:
            tally.failed += 1
            with contextlib.suppress(InvalidUrnError, ValueError):  # what can't have a URN was never sent
                self._guard.keep(str(urn()))
            self._report.entity_failure(
                title="Not sent",
                message="It could not be mapped, and stays in DataHub as it was. Please report this as a bug.",
                context=f"{name}: {type(error).__name__}: {error}",
            )
            logger.debug("Mapping %s failed", name, exc_info=True)
            return
        tally.sent += 1
        for cut in entity.cut:
            self._report.cut.append(f"{name}: {cut}")
        if is_shortened(entity.urn):
            self._report.names_shortened.append(f"{name[:60]}… is {entity.urn}")
        yield from self.work_units(entity) if alone else self.not_ours_alone(entity)

    def not_ours_alone(self, entity: Entity) -> Units:
        """What others use too: it is never removed for having gone from MLflow."""
        for aspect in entity.aspects:
            proposal = MetadataChangeProposalWrapper(entityUrn=str(entity.urn), aspect=aspect)
            yield proposal.as_workunit(is_primary_source=False)

    def work_units(self, entity: Entity) -> Units:
        """All that is said about one entity."""
        urn = str(entity.urn)
        self._guard.sent(urn)
        for aspect in entity.aspects:
            yield _unit(urn, aspect)
        if self._says_status and entity_supports_aspect(entity.urn.entity_type, StatusClass):
            # The framework would say it of all at the end, when MLflow has nothing to do any more; said now it costs
            # no time. A DataHub server gets it from the framework, by a patch that spares other fields.
            yield _unit(urn, alive())


def _unit(urn: str, aspect: _Aspect) -> MetadataWorkUnit:
    """As `as_workunit()`, which imports the class each time: a fiftieth of an ingestion."""
    proposal = MetadataChangeProposalWrapper(entityUrn=urn, aspect=aspect)
    return MetadataWorkUnit(MetadataWorkUnit.generate_workunit_id(proposal), mcp=proposal)
