"""The reader for a backend database: the records of the REST reader, straight from MLflow's tables.

By key and never by OFFSET, a page in each transaction, so that none is open while the sink is waited for.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, total_ordering
from itertools import chain
from typing import Any

import sqlalchemy as sa

from datahub_mlflow_source.backend_store import DatabaseConnection
from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.readers import schema
from datahub_mlflow_source.readers.base import RunScope, Shard, aliases_by_version, chosen_workspaces, own_name
from datahub_mlflow_source.readers.by_key import broke_off, grouped, in_halves, pairs, walk_by_key
from datahub_mlflow_source.readers.database import Database, Reading
from datahub_mlflow_source.readers.paging import batches
from datahub_mlflow_source.readers.rows import time_of
from datahub_mlflow_source.readers.schema import (
    ENTITY_ASSOCIATIONS,
    EVALUATION_DATASET_TAGS,
    EVALUATION_DATASETS,
    EXPERIMENT_TAGS,
    EXPERIMENTS,
    SCORER_VERSIONS,
    SCORERS,
    TRACE_INFO,
    Schema,
)
from datahub_mlflow_source.readers.sql_evaluation import dataset_keys, read_datasets, read_scorers
from datahub_mlflow_source.readers.sql_gateway import has_gateway, read_gateway_endpoints
from datahub_mlflow_source.readers.sql_histories import read_histories
from datahub_mlflow_source.readers.sql_logged_models import logged_model_keys, read_logged_models
from datahub_mlflow_source.readers.sql_registry import SqlRegistry, VersionKey
from datahub_mlflow_source.readers.sql_runs import RunKey, count_runs, filter_of, key_of, keys_of, read_runs, run_keys
from datahub_mlflow_source.readers.sql_traces import read_trace_counts
from datahub_mlflow_source.readers.sql_workspaces import read_workspaces
from datahub_mlflow_source.records import (
    DEFAULT_WORKSPACE,
    EvaluationDataset,
    Experiment,
    LoggedModel,
    MetricHistory,
    ModelDeployment,
    ModelVersion,
    RegisteredModel,
    Run,
    Scorer,
    TraceCounts,
    Unreadable,
    Workspace,
)

logger = logging.getLogger(__name__)

_MOST_IN_PAGE = 1000  # runs with 30 rows each are 30,000 rows


class SqlReader:
    """MLflow's database: experiments and runs from one, models and versions from it or another."""

    def __init__(
        self,
        tracking: DatabaseConnection,
        registry: DatabaseConnection,
        page_size: int,
        workspaces: Sequence[str] | None = None,
    ) -> None:
        """`workspaces`: names; None: all. Raises RecipeError where the database's driver is not installed."""
        self._tracking = Database(tracking)
        self._registry = self._tracking if registry == tracking else Database(registry)
        self._page_size = min(page_size, _MOST_IN_PAGE)
        self._schemas: dict[Database, Schema] = {}
        self._wanted = workspaces

    @property
    def requests_sent(self) -> int:
        """SQL statements so far, retries included."""
        other = 0 if self._registry is self._tracking else len(self._registry.query_seconds)
        return len(self._tracking.query_seconds) + other

    def query_millis(self) -> tuple[float, float] | None:
        """As the protocol says; None before the first."""
        # Twice the same where both are one, which moves neither figure.
        seconds = sorted([*self._tracking.query_seconds, *self._registry.query_seconds])
        return (1000 * seconds[int(0.95 * (len(seconds) - 1))], 1000 * seconds[-1]) if seconds else None

    def check(self, run_filter: str | None = None) -> None:
        if run_filter:
            filter_of(RunScope(filter=run_filter))
        self._schema(self._tracking)
        self._schema(self._registry)
        self._names  # noqa: B018 - raises where one that the recipe names is not there

    def workspaces(self) -> list[Workspace] | None:
        return self._chosen if [workspace.name for workspace in self._listed] != [DEFAULT_WORKSPACE] else None

    def doubt(self) -> None:
        """A database shows all it has."""
        return

    @cached_property
    def _listed(self) -> list[Workspace]:
        """All that anything is in, or that the database itself keeps: they may also be Kubernetes' namespaces."""
        found = {DEFAULT_WORKSPACE: Workspace(DEFAULT_WORKSPACE)}
        for database in (self._tracking, self._registry):
            for workspace in database.read(partial(read_workspaces, schema=self._schema(database))):
                if workspace.name not in found or workspace.name == DEFAULT_WORKSPACE:
                    found[workspace.name] = workspace
        return list(found.values())

    @cached_property
    def _chosen(self) -> list[Workspace]:
        return chosen_workspaces(self._listed, self._wanted)

    @property
    def _names(self) -> list[str]:
        return [workspace.name for workspace in self._chosen]

    def server_version(self) -> str | None:
        return self._schema(self._tracking).release

    def close(self) -> None:
        self._tracking.close()
        self._registry.close()

    def _schema(self, database: Database) -> Schema:
        if database not in self._schemas:
            self._schemas[database] = schema.look(database)
        return self._schemas[database]

    def experiments(self) -> Iterator[Experiment | Unreadable]:
        schema = self._schema(self._tracking)
        among = schema.in_workspaces(EXPERIMENTS, self._names)

        def keys(reading: Reading, after: int | None, size: int) -> list[int]:
            id_ = EXPERIMENTS.c.experiment_id
            statement = sa.select(id_).where(*among).order_by(id_).limit(size)
            return [row[0] for row in reading.rows(statement.where(id_ > after) if after is not None else statement)]

        read = partial(_experiments, workspace=schema.workspace_of(EXPERIMENTS))
        return chain.from_iterable(walk_by_key("experiment", self._tracking, keys, read, self._page_size))

    def registry(self) -> Iterator[RegisteredModel | ModelVersion | Unreadable]:
        return chain.from_iterable(self._registered(name, are_prompts=False) for name in self._names)

    def prompts(self) -> Iterator[RegisteredModel | ModelVersion | Unreadable]:
        return chain.from_iterable(self._registered(name, are_prompts=True) for name in self._names)

    def _registered(
        self, workspace: str, *, are_prompts: bool
    ) -> Iterator[RegisteredModel | ModelVersion | Unreadable]:
        """The tables are walked once for models and, where there are any, once more for prompts."""
        statements = SqlRegistry(self._schema(self._registry), workspace)
        try:
            prompts = self._registry.read(statements.prompts)
        except ServerError as error:
            yield broke_off("registered model", error)
            yield broke_off("model version", error)
            return
        if are_prompts and not prompts:
            return
        aliases: dict[str, dict[str, list[str]]] = {}

        def versions(reading: Reading, keys: Sequence[VersionKey]) -> list[ModelVersion]:
            return statements.versions(reading, keys, aliases)

        for found in chain.from_iterable(
            walk_by_key("registered model", self._registry, statements.model_keys, statements.models, self._page_size)
        ):
            if isinstance(found, RegisteredModel):
                if (found.name in prompts) is not are_prompts:
                    continue
                aliases[found.name] = aliases_by_version(found)
            yield found
        pages = walk_by_key("model version", self._registry, statements.version_keys, versions, self._page_size)
        for one in chain.from_iterable(pages):
            if isinstance(one, Unreadable) or (one.name in prompts) is are_prompts:
                yield one

    def logged_models(self, experiment_ids: Iterable[str]) -> Iterator[LoggedModel | Unreadable] | None:
        if not self._schema(self._tracking).has_logged_models:
            return None
        read = partial(read_logged_models, experiment_ids=frozenset(experiment_ids))
        pages = walk_by_key("logged model", self._tracking, logged_model_keys, read, self._page_size)
        return chain.from_iterable(pages)

    def is_in_shard(self, model: LoggedModel, shard: Shard) -> bool:
        return shard.has_run(model.source_run_id)

    def runs(self, experiment_ids: Iterable[str], scope: RunScope) -> Iterator[Run | Unreadable]:
        ids = frozenset(experiment_ids)
        if scope.latest_per_experiment:
            return self._latest_runs(ids, scope)
        return chain.from_iterable(self._runs(ids, scope))

    def _runs(self, experiment_ids: frozenset[str], scope: RunScope) -> Iterator[list[Run | Unreadable]]:
        try:
            keep = filter_of(scope)
        except ServerError as error:
            yield [broke_off("run", error)]
            return

        def read(reading: Reading, page: Sequence[RunKey]) -> list[Run]:
            wanted = [key.run_id for key in page if key.in_scope(experiment_ids, scope)]
            runs = read_runs(reading, wanted, whole_range=len(wanted) == len(page))
            # Once more, for the keys were read before, and a run may have been deleted since.
            return keep([run for run in runs if key_of(run).in_scope(experiment_ids, scope)])

        keys = partial(run_keys, shard=scope.shard)
        yield from walk_by_key("run", self._tracking, keys, read, self._page_size)

    def _latest_runs(self, experiment_ids: frozenset[str], scope: RunScope) -> Iterator[Run | Unreadable]:
        """Found out in one walk, read in another; by experiment, the latest first."""
        latest: dict[str, list[_Place]] = {id_: [] for id_ in sorted(experiment_ids, key=int)}
        most = scope.latest_per_experiment or 0
        for found in self._places(experiment_ids, scope):
            if isinstance(found, Unreadable):
                yield found
                continue
            heap = latest[found.experiment_id]
            if len(heap) < most:
                heapq.heappush(heap, found)
            else:
                heapq.heappushpop(heap, found)
        still = RunScope(include_deleted=scope.include_deleted)  # one may have been deleted since
        for id_, heap in latest.items():
            run_ids = [place.run_id for place in sorted(heap, reverse=True)]
            for batch in batches(run_ids, self._page_size):
                found_runs = list(self.runs_by_id(batch, [id_], still))
                yield from (found for found in found_runs if isinstance(found, Unreadable))
                read = [found for found in found_runs if isinstance(found, Run)]
                yield from sorted(read, key=lambda run: batch.index(run.run_id))

    def _places(self, experiment_ids: frozenset[str], scope: RunScope) -> Iterator[_Place | Unreadable]:
        """Of all runs in scope. Whole runs are read only where a filter has to see them."""

        def read(_: Reading, page: Sequence[RunKey]) -> list[_Place]:
            wanted = (key for key in page if key.in_scope(experiment_ids, scope))
            return [_Place(time_of(key.start_time) or 0, key.run_id, str(key.experiment_id)) for key in wanted]

        if scope.filter:
            for run in chain.from_iterable(self._runs(experiment_ids, scope)):
                if isinstance(run, Run):
                    yield _Place(run.start_time or 0, run.run_id, run.experiment_id)
                else:
                    yield run
            return
        pages = walk_by_key("run", self._tracking, partial(run_keys, shard=scope.shard), read, self._page_size)
        yield from chain.from_iterable(pages)

    def run_counts(self, experiment_ids: Iterable[str], scope: RunScope) -> dict[str, int] | None:
        """In sixteen statements, each over a sixteenth of the run ids."""
        found = dict.fromkeys(experiment_ids, 0)
        try:
            for part in scope.shard.parts(16):
                for id_, count in self._tracking.read(partial(count_runs, shard=part, scope=scope)):
                    if str(id_) in found:
                        found[str(id_)] += count
        except ServerError as error:
            logger.warning("Runs can't be counted: %s", error)
            return None
        return found

    def runs_by_id(
        self, run_ids: Iterable[str], experiment_ids: Iterable[str], scope: RunScope
    ) -> Iterator[Run | Unreadable]:
        experiments = frozenset(experiment_ids)
        try:
            keep = filter_of(scope)
        except ServerError as error:
            yield broke_off("run", error)
            return

        def read(reading: Reading, ids: Sequence[str]) -> list[Run]:
            wanted = [key.run_id for key in keys_of(reading, ids, scope.shard) if key.in_scope(experiments, scope)]
            return keep(read_runs(reading, wanted, whole_range=False))

        for batch in batches(sorted(set(run_ids)), self._page_size):
            yield from in_halves("run", self._tracking, batch, read)

    def evaluation_datasets(
        self,
        experiment_ids: Sequence[str],  # noqa: ARG002 - all may be read
    ) -> Iterator[EvaluationDataset | Unreadable] | None:
        schema = self._schema(self._tracking)
        if not schema.has_all(EVALUATION_DATASETS, EVALUATION_DATASET_TAGS, ENTITY_ASSOCIATIONS):
            return None
        keys = partial(dataset_keys, schema=schema, workspaces=self._names)
        pages = walk_by_key("evaluation dataset", self._tracking, keys, read_datasets, self._page_size)
        return chain.from_iterable(pages)

    def scorers(self, experiment_ids: Sequence[str]) -> tuple[list[Scorer], list[str]]:  # noqa: ARG002 - the same
        schema = self._schema(self._tracking)
        if not schema.has_all(SCORERS, SCORER_VERSIONS):
            return [], []
        try:
            return self._tracking.read(partial(read_scorers, schema=schema, workspaces=self._names)), []
        except ServerError as error:
            return [], [str(error)]

    def trace_counts(self, experiment_ids: Sequence[str]) -> tuple[list[TraceCounts], list[str]] | None:
        schema = self._schema(self._tracking)
        if not schema.has_all(TRACE_INFO):
            return None
        found: list[TraceCounts] = []
        try:
            for batch in batches(experiment_ids, self._page_size):
                found += self._tracking.read(partial(read_trace_counts, experiment_ids=batch, schema=schema))
        except ServerError as error:
            return found, [str(error)]
        return found, []

    def gateway_endpoints(self) -> list[ModelDeployment | Unreadable] | None:
        schema = self._schema(self._tracking)
        if not has_gateway(schema):
            return None
        return self._tracking.read(partial(read_gateway_endpoints, schema=schema, workspaces=self._names))

    def metric_histories(
        self,
        keys_of: Mapping[str, Sequence[str]],
        experiment_of: Mapping[str, str],  # noqa: ARG002 - as the protocol has it
    ) -> dict[str, tuple[MetricHistory, ...]]:
        return self._tracking.read(partial(read_histories, keys_of=keys_of))


def _experiments(reading: Reading, ids: Sequence[int], workspace: Any) -> list[Experiment]:
    table, tags = EXPERIMENTS.c, EXPERIMENT_TAGS.c
    of_experiment = grouped(
        reading.rows(sa.select(tags.experiment_id, tags.key, tags.value).where(tags.experiment_id.in_(ids)))
    )
    statement = sa.select(
        *(table.experiment_id, table.name, table.artifact_location, table.lifecycle_stage),
        *(table.creation_time, table.last_update_time, workspace),
    )
    rows = reading.rows(statement.where(table.experiment_id.in_(ids)).order_by(table.experiment_id))
    return [
        Experiment(
            experiment_id=str(id_),
            name=name,
            artifact_location=location or "",
            lifecycle_stage=stage or "active",
            creation_time=time_of(created),
            last_update_time=time_of(updated),
            tags=pairs(of_experiment[id_]),
            workspace=own_name(its_workspace),
        )
        for id_, name, location, stage, created, updated, its_workspace in rows
    ]


@total_ordering
@dataclass(frozen=True, slots=True)
class _Place:
    """Of a run among the latest: later starts are greater, and of two at once the smaller id is."""

    start_time: int
    run_id: str
    experiment_id: str

    def __lt__(self, other: _Place) -> bool:
        return (self.start_time, other.run_id) < (other.start_time, self.run_id)
