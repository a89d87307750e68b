"""What a shard leaves behind for the closing step: of what only all shards together know.

Under a job of its own beside that of the removal, so that a shard neither removes anything nor takes over what an
ingestion without shards, or with another number of them, remembers.
"""

from __future__ import annotations

from collections.abc import Iterable

from datahub.ingestion.api.common import PipelineContext
from datahub.ingestion.api.ingestion_job_checkpointing_provider_base import JobId
from datahub.ingestion.source.state.checkpoint import Checkpoint, CheckpointStateBase
from datahub.ingestion.source.state.stale_entity_removal_handler import StaleEntityRemovalHandler
from datahub.ingestion.source.state.stateful_ingestion_base import StateProviderWrapper
from datahub.ingestion.source.state.use_case_handler import StatefulIngestionUsecaseHandlerBase
from pydantic import BaseModel, Field

from datahub_mlflow_source.errors import RecipeError
from datahub_mlflow_source.mapping.urns import PLATFORM
from datahub_mlflow_source.readers.base import Shard

NEEDED = (
    "`stateful_ingestion.enabled: true` and `pipeline_name` are needed, in the shards' recipe too: there they leave "
    "what the closing step reads"
)


class Held(BaseModel):
    """A dataset, or the task that started runs, as the latest run of one shard has it, ready to be sent."""

    start_time: int
    run_id: str
    proposals: list[dict[str, object]]  # MetadataChangeProposalWrapper.to_obj()

    @property
    def said_at(self) -> tuple[int, str]:
        """The latest word stands, whichever shard has it."""
        return self.start_time, self.run_id


class ShardState(CheckpointStateBase):
    """One shard's part of what removal has to know, and of what runs say about others."""

    complete: bool = False  # it came to its end, without a failure that makes all of it doubtful
    failed: bool = False  # something of it could not be read, or was not sent
    sent: list[str] = Field(default_factory=list)  # URNs, apart from runs, which are never removed
    keep: list[str] = Field(default_factory=list)  # URNs of what could not be read or mapped
    handed_over: list[str] = Field(default_factory=list)  # URNs of models that another shard sends with their run
    registered: dict[str, str] = Field(default_factory=dict)  # ids of logged models, URNs of the versions made of them
    incomplete: list[str] = Field(default_factory=list)  # entity types of which something is missing
    experiments: dict[str, str] = Field(default_factory=dict)  # all that MLflow lists, names by id
    registry: str = ""  # URN of its container
    held: dict[str, Held] = Field(default_factory=dict)  # by URN


class ShardHandler(StatefulIngestionUsecaseHandlerBase[ShardState]):
    """Has DataHub's framework keep a shard's state, once the shard has come to its end."""

    def __init__(self, shard: Shard | None, provider: StateProviderWrapper, ctx: PipelineContext) -> None:
        """`shard`: None for the closing step, which leaves a mark that it has read what they left."""
        self._shard, self._provider, self._ctx = shard, provider, ctx
        self._state: ShardState | None = None
        provider.register_stateful_ingestion_usecase_handler(self)

    @property
    def job_id(self) -> JobId:
        return _job(self._shard)

    def is_checkpointing_enabled(self) -> bool:
        return self._provider.is_stateful_ingestion_configured()

    def create_checkpoint(self) -> Checkpoint[ShardState] | None:
        if self._state is None:
            return None
        name = self._ctx.pipeline_name or ""
        return Checkpoint(job_name=self.job_id, pipeline_name=name, run_id=self._ctx.run_id, state=self._state)

    def leave(self, state: ShardState) -> None:
        """To be committed with the ingestion."""
        self._state = state
        self._provider.get_current_checkpoint(self.job_id)


def left_behind(count: int, provider: StateProviderWrapper, ctx: PipelineContext) -> list[ShardState]:
    """What so many shards left, each after the closing step before.

    Raises:
        RecipeError: nothing can be remembered, or one of them has left nothing.
    """
    where, name = provider.ingestion_checkpointing_state_provider, ctx.pipeline_name
    if where is None or not name:
        raise RecipeError(NEEDED)
    # What an ingestion without shards, or with others, has removed since, they would not know of.
    others = [_job(None), StaleEntityRemovalHandler.compute_job_id(PLATFORM)]
    after = max(mark.timestampMillis if (mark := where.get_latest_checkpoint(name, job)) else 0 for job in others)
    states: list[ShardState] = []
    missing: list[int] = []
    for index in range(count):
        job = _job(Shard(index, count))
        aspect = where.get_latest_checkpoint(name, job)
        found = Checkpoint.create_from_checkpoint_aspect(job, aspect, ShardState)
        if aspect is None or found is None or aspect.timestampMillis <= after:
            missing.append(index)
        else:
            states.append(found.state)
    if missing:
        raise RecipeError(
            f"{_shards(missing)} of {count} left nothing since the closing step before: run {_it(missing)} to the end, "
            f"with `shard.count: {count}` and the same `pipeline_name` ({name})"
        )
    return states


def _job(shard: Shard | None) -> JobId:
    if shard is None:
        return JobId(f"{PLATFORM}_shards_closed")
    return JobId(f"{PLATFORM}_shard_{shard.index}_of_{shard.count}")


def _shards(indexes: Iterable[int]) -> str:
    numbers = [str(index) for index in indexes]
    return f"shard {numbers[0]}" if len(numbers) == 1 else f"shards {', '.join(numbers)}"


def _it(indexes: list[int]) -> str:
    return "it" if len(indexes) == 1 else "them"
