"""The closing step behind shards: what only all of them together know is said once."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

from datahub.emitter.mcp import MetadataChangeProposalWrapper
from datahub.ingestion.api.workunit import MetadataWorkUnit
from datahub.metadata.urns import DatasetUrn
from datahub.utilities.urns.urn import guess_entity_type

from datahub_mlflow_source.errors import RecipeError
from datahub_mlflow_source.mapping.rules import alive
from datahub_mlflow_source.mapping.urns import logged_model_urn
from datahub_mlflow_source.outgoing import Outgoing
from datahub_mlflow_source.removal import RemovalGuard
from datahub_mlflow_source.source import MlflowSource
from datahub_mlflow_source.state.shards import NEEDED, Held, ShardHandler, ShardState, left_behind
from datahub_mlflow_source.superseded import superseded_units

logger = logging.getLogger(__name__)

_TRIED_AGAIN_AFTER_SECONDS = (2, 5, 10)


class ClosingSource(MlflowSource):
    """Sends what runs say about datasets and tasks, and removes what is gone, over the union of all shards.

    Reads nothing of MLflow.

    Attributes:
        count: how many shards there are.
        states: what they left; None: what they left in DataHub.
    """

    count: int = 0
    states: Sequence[ShardState] | None = None
    _nothing_closed = False

    def get_workunits_internal(self) -> Iterable[MetadataWorkUnit]:
        """Nothing is removed where a shard is missing, or broke off."""
        try:
            states = self._left_behind() if self.states is None else self.states
        except RecipeError as error:
            self.report.failure(title="The shards are not closed", message="Nothing was removed.", context=str(error))
            self._nothing_closed = True
            return
        if self.states is None:
            ShardHandler(None, self.state_provider, self.ctx).leave(ShardState())
        if len(states) < self.count or not all(state.complete for state in states):
            self.report.failure(
                title="A shard did not come to its end",
                message="Nothing is removed. Its own report says why: run the shards again.",
                context=f"{sum(state.complete for state in states)} of {self.count} are complete",
            )
        if failed := sum(state.failed for state in states):
            self.report.entity_failure(
                title="A shard had failures",
                message="What they concern stays as it was. Its own report says more.",
                context=f"{failed} of {self.count}",
            )
        yield from self._said_by_runs(states)
        if not states:
            return
        guard = RemovalGuard(self.config.stateful_ingestion, self.state_provider, self.ctx, self.report)
        for state in states:
            guard.take(state)
        self._keep_what_nobody_sent(states, guard)
        yield from self._superseded(states, guard)
        # The framework removes nothing where nothing was sent.
        yield MetadataChangeProposalWrapper(entityUrn=states[0].registry, aspect=alive()).as_workunit()
        yield from guard.work_units(states[0].experiments, states[0].registry)

    def close(self) -> None:
        """What the removal remembers stays as it was, where nothing was closed: so do the shards that are there."""
        if self._nothing_closed:
            self.state_provider.cur_checkpoints.clear()
        super().close()

    def _left_behind(self) -> list[ShardState]:
        """What the last shard left takes DataHub a moment to find. Raises RecipeError."""
        removal = self.config.stateful_ingestion
        if not (removal and removal.enabled):
            raise RecipeError(NEEDED)
        for seconds in _TRIED_AGAIN_AFTER_SECONDS:
            try:
                return left_behind(self.count, self.state_provider, self.ctx)
            except RecipeError as error:
                logger.info("%s; looking again in %s s", error, seconds)
                time.sleep(seconds)
        return left_behind(self.count, self.state_provider, self.ctx)

    def _keep_what_nobody_sent(self, states: Sequence[ShardState], guard: RemovalGuard) -> None:
        """Versions that the first shard left to another, which did not find their run, or could not read it."""
        unsent = {urn for state in states for urn in state.handed_over}
        for state in states:
            unsent.difference_update(state.sent)
        for urn in unsent:
            guard.keep(urn)
        if unsent:
            self.report.warning(
                title="Versions that no shard sent",
                message="Their run went away between the shards, or could not be read. They stay as they were.",
                context=f"{len(unsent)}, as {min(unsent)}",
            )

    def _superseded(self, states: Iterable[ShardState], guard: RemovalGuard) -> Iterable[MetadataWorkUnit]:
        registered = {
            model_id: version
            for state in states
            for model_id, version in state.registered.items()
            if guard.may_have_been_sent(str(logged_model_urn(model_id, self._rules.naming)))
        }
        outgoing = Outgoing(self.report, guard, says_status=self.ctx.graph is None)
        return superseded_units(registered, self._rules, outgoing, self.ctx.graph)

    def _said_by_runs(self, states: Iterable[ShardState]) -> Iterable[MetadataWorkUnit]:
        """Each as the latest run has it, whichever shard's that is."""
        latest: dict[str, Held] = {}
        for state in states:
            for urn, held in state.held.items():
                if urn not in latest or latest[urn].said_at < held.said_at:
                    latest[urn] = held
        for urn, held in sorted(latest.items()):
            is_dataset = guess_entity_type(urn) == DatasetUrn.ENTITY_TYPE
            tally = self.report.datasets if is_dataset else self.report.tasks
            tally.read += 1
            for proposal in held.proposals:
                wrapper = MetadataChangeProposalWrapper.from_obj_require_wrapper(proposal)
                yield wrapper.as_workunit(is_primary_source=is_dataset)
            tally.sent += 1
