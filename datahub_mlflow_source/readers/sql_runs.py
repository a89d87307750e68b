"""Runs out of MLflow's tables: a range of run ids at a time, with all that belongs to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import sqlalchemy as sa

from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.readers.base import RunScope, Shard
from datahub_mlflow_source.readers.by_key import pairs
from datahub_mlflow_source.readers.database import Reading
from datahub_mlflow_source.readers.rows import time_of
from datahub_mlflow_source.readers.schema import DATASETS, INPUT_TAGS, INPUTS, LATEST_METRICS, PARAMS, RUNS, TAGS
from datahub_mlflow_source.records import DatasetInput, Metric, Run, Tags

_RUN_NAME = "mlflow.runName"
_NAN = float("nan")
_NO_RUN = Run("", "", "", "", "", 0, 0, "", "", params=(), metrics=(), tags=(), datasets=())


class RunKey(NamedTuple):
    """What decides whether a run is wanted, before the rest of it is read."""

    run_id: str
    experiment_id: int
    lifecycle_stage: str | None
    start_time: int | None

    def __str__(self) -> str:
        return self.run_id

    def in_scope(self, experiment_ids: frozenset[str], scope: RunScope) -> bool:
        """As MLflow's search has it, which doesn't find a run of neither lifecycle stage."""
        stages = ("active", "deleted") if scope.include_deleted else ("active",)
        late_enough = scope.started_after is None or (self.start_time or 0) > scope.started_after
        return late_enough and self.lifecycle_stage in stages and str(self.experiment_id) in experiment_ids


def key_of(run: Run) -> RunKey:
    """As it is now."""
    return RunKey(run.run_id, int(run.experiment_id), run.lifecycle_stage, run.start_time)


_KEY = sa.select(RUNS.c.run_uuid, RUNS.c.experiment_id, RUNS.c.lifecycle_stage, RUNS.c.start_time).order_by(
    RUNS.c.run_uuid
)


def run_keys(reading: Reading, after: RunKey | None, size: int, shard: Shard) -> list[RunKey]:
    """The next so many runs of the shard. There is no index but that of run ids, so all are passed."""
    statement = _KEY.where(*_within(shard))
    if after:
        statement = statement.where(RUNS.c.run_uuid > after.run_id)
    return [RunKey(*row) for row in reading.rows(statement.limit(size))]


def keys_of(reading: Reading, run_ids: Sequence[str], shard: Shard) -> list[RunKey]:
    """Those of these runs that are there, and in the shard."""
    return [RunKey(*row) for row in reading.rows(_KEY.where(RUNS.c.run_uuid.in_(run_ids), *_within(shard)))]


def count_runs(reading: Reading, shard: Shard, scope: RunScope) -> list[tuple[int, int]]:
    """Experiments, and how many runs each has in the shard."""
    stages = ("active", "deleted") if scope.include_deleted else ("active",)
    statement = sa.select(RUNS.c.experiment_id, sa.func.count()).where(
        RUNS.c.lifecycle_stage.in_(stages), *_within(shard)
    )
    return [(row[0], row[1]) for row in reading.rows(statement.group_by(RUNS.c.experiment_id))]


def _within(shard: Shard) -> list[Any]:
    """As conditions. The database alone compares, so that no run is in two shards or none, whatever its collation."""
    low, high = shard.run_ids()
    from_low = [] if low is None else [RUNS.c.run_uuid >= low]
    return from_low if high is None else [*from_low, RUNS.c.run_uuid < high]


def read_runs(reading: Reading, run_ids: Sequence[str], *, whole_range: bool) -> list[Run]:
    """These runs, in the order of their ids. `whole_range`: they were all from the first to the last just before."""
    if not run_ids:
        return []

    def among(column: Any) -> Any:
        return column.between(run_ids[0], run_ids[-1]) if whole_range else column.in_(run_ids)

    params = _by_run(reading, PARAMS, among)
    tags = _by_run(reading, TAGS, among)
    metrics = _metrics(reading, among)
    datasets = _datasets(reading, among)
    models = _model_inputs(reading, among)
    statement = sa.select(
        *(RUNS.c.run_uuid, RUNS.c.name, RUNS.c.experiment_id, RUNS.c.user_id, RUNS.c.status),
        *(RUNS.c.start_time, RUNS.c.end_time, RUNS.c.artifact_uri, RUNS.c.lifecycle_stage),
    )
    rows = reading.rows(statement.where(among(RUNS.c.run_uuid)).order_by(RUNS.c.run_uuid))
    wanted = frozenset(run_ids)  # others may have begun meanwhile
    return [
        Run(
            run_id=run_id,
            name=name or _name(tags[run_id]) or run_id,
            experiment_id=str(experiment_id),
            user_id=user or "",
            status=status or "",
            start_time=time_of(start),
            end_time=time_of(end),
            artifact_uri=uri or "",
            lifecycle_stage=stage,
            params=tuple(params[run_id]),
            metrics=tuple(metrics[run_id]),
            tags=tuple(tags[run_id]),
            datasets=tuple(datasets[run_id]),
            model_inputs=tuple(sorted(models[run_id])),
        )
        for run_id, name, experiment_id, user, status, start, end, uri, stage in rows
        if run_id in wanted
    ]


Among = Callable[[Any], Any]


def _by_run(reading: Reading, table: Any, among: Among) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for run_id, key, value in reading.rows(
        sa.select(table.c.run_uuid, table.c.key, table.c.value).where(among(table.c.run_uuid))
    ):
        found[run_id].append((key, value or ""))
    for of_run in found.values():
        of_run.sort()
    return found


def _metrics(reading: Reading, among: Among) -> dict[str, list[Metric]]:
    table = LATEST_METRICS
    columns = (table.c.run_uuid, table.c.key, table.c.value, table.c.timestamp, table.c.step, table.c.is_nan)
    found: dict[str, list[Metric]] = defaultdict(list)
    for run_id, key, value, timestamp, step, is_nan in reading.rows(sa.select(*columns).where(among(table.c.run_uuid))):
        found[run_id].append(Metric(key, _NAN if is_nan else float(value), int(timestamp or 0), int(step or 0)))
    for metrics in found.values():
        metrics.sort()  # by key: a run has each once
    return found


def _datasets(reading: Reading, among: Among) -> dict[str, list[DatasetInput]]:
    """Inputs by run. A dataset may be that of a thousand runs, and its schema long: each is fetched once."""
    of_runs = (INPUTS.c.source_type == "DATASET", INPUTS.c.destination_type == "RUN", among(INPUTS.c.destination_id))
    links = reading.rows(sa.select(INPUTS.c.destination_id, INPUTS.c.source_id, INPUTS.c.input_uuid).where(*of_runs))
    found: dict[str, list[DatasetInput]] = defaultdict(list)
    if not links:
        return found
    its_tags = sa.select(INPUT_TAGS.c.input_uuid, INPUT_TAGS.c.name, INPUT_TAGS.c.value)
    its_tags = its_tags.select_from(sa.join(INPUT_TAGS, INPUTS, INPUT_TAGS.c.input_uuid == INPUTS.c.input_uuid))
    tags: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for input_id, name, value in reading.rows(its_tags.where(*of_runs)):
        tags[input_id].append((name, value))
    columns = [column for column in DATASETS.c]
    ids = sorted({dataset_id for _, dataset_id, _ in links})
    datasets = {row[0]: row[1:] for row in reading.rows(sa.select(*columns).where(DATASETS.c.dataset_uuid.in_(ids)))}
    for run_id, dataset_id, input_id in links:
        if dataset_id in datasets:
            found[run_id].append(_dataset(datasets[dataset_id], pairs(tags[input_id])))
    for inputs in found.values():
        inputs.sort(key=lambda dataset: (dataset.name, dataset.digest, dataset.tags))
    return found


def _model_inputs(reading: Reading, among: Among) -> dict[str, list[str]]:
    """Logged models by the run that used them, an evaluation for instance (MLflow 3.0 and newer)."""
    of_runs = (INPUTS.c.source_type == "RUN_INPUT", INPUTS.c.destination_type == "MODEL_INPUT")
    used = sa.select(INPUTS.c.source_id, INPUTS.c.destination_id).where(*of_runs, among(INPUTS.c.source_id))
    found: dict[str, list[str]] = defaultdict(list)
    for run_id, model_id in reading.rows(used):
        found[run_id].append(model_id)
    return found


def _dataset(row: Sequence[Any], tags: Tags) -> DatasetInput:
    name, digest, source_type, source, schema, profile = row
    return DatasetInput(name, digest, source_type or "", source or "", schema or None, profile or None, tags)


def _name(tags: Sequence[tuple[str, str | None]]) -> str | None:
    return next((value for key, value in tags if key == _RUN_NAME), None)


def filter_of(scope: RunScope) -> Callable[[list[Run]], list[Run]]:
    """What `run_filter` leaves of some runs, by MLflow's own parser and comparisons (mlflow/utils/search_utils.py).

    Raises:
        ServerError: MLflow can't parse it, or has no such comparison.
    """
    condition = scope.filter
    if not condition:
        return lambda runs: runs
    from mlflow.exceptions import MlflowException
    from mlflow.utils.search_utils import SearchUtils

    search: Any = SearchUtils
    try:
        # Which comparisons there are MLflow looks up with a run at hand, up to the first clause that doesn't fit it.
        for clause in search.parse_search_filter(condition):
            search._does_run_match_clause(_as_mlflow_sees_it(_NO_RUN), clause)
    except (MlflowException, ValueError) as error:  # the latter of a number that is none
        reason = getattr(error, "message", str(error)).rstrip(".")
        raise ServerError(f"MLflow can't read the filter: {reason}. Check `run_filter`.") from error

    def keep(runs: list[Run]) -> list[Run]:
        kept = search.filter([_as_mlflow_sees_it(run) for run in runs], condition)
        ids = {run.info.run_id for run in kept}
        return [run for run in runs if run.run_id in ids]

    return keep


def _as_mlflow_sees_it(run: Run) -> SimpleNamespace:
    """With the attributes that its filter looks at."""
    inputs = [
        SimpleNamespace(dataset=dataset, tags=[SimpleNamespace(key=key, value=value) for key, value in dataset.tags])
        for dataset in run.datasets
    ]
    return SimpleNamespace(
        info=SimpleNamespace(
            run_id=run.run_id,
            run_name=run.name,
            experiment_id=run.experiment_id,
            user_id=run.user_id,
            status=run.status,
            start_time=run.start_time,
            end_time=run.end_time,
            artifact_uri=run.artifact_uri,
            lifecycle_stage=run.lifecycle_stage,
        ),
        data=SimpleNamespace(
            metrics={metric.key: metric.value for metric in run.metrics}, params=dict(run.params), tags=dict(run.tags)
        ),
        inputs=SimpleNamespace(dataset_inputs=inputs),
    )
