"""What the metrics of a run were before their last values, for those that the recipe chooses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from datahub_mlflow_source.errors import PageError, ServerError
from datahub_mlflow_source.readers.base import Reader
from datahub_mlflow_source.readers.paging import batches
from datahub_mlflow_source.readers.workers import in_order
from datahub_mlflow_source.records import MetricHistory, Run
from datahub_mlflow_source.report import MlflowSourceReport
from datahub_mlflow_source.selection import Allowed

_RUNS_AT_ONCE = 100  # as many as MLflow gives in one answer
_BATCHES_AT_ONCE = 2
_GIVEN_UP_AFTER = 3  # failures on end


class MetricHistories:
    """Asked for as the runs pass by, so many at a time and ahead of who takes them."""

    def __init__(self, reader: Reader, wanted: Allowed, report: MlflowSourceReport) -> None:
        self._reader, self._wanted, self._report = reader, wanted, report
        self._failures = 0

    def ahead(self, runs: Iterator[Run]) -> Iterator[Run]:
        """The same runs with their histories; without, where those can't be read, which the report says."""
        for batch in in_order(self._with_histories, batches(runs, _RUNS_AT_ONCE), _BATCHES_AT_ONCE):
            yield from batch

    def _with_histories(self, runs: list[Run]) -> list[Run]:
        experiment_of = {run.run_id: run.experiment_id for run in runs}
        keys_of = {run.run_id: [metric.key for metric in run.metrics if self._wanted(metric.key)] for run in runs}
        found = self._read({run_id: keys for run_id, keys in keys_of.items() if keys}, experiment_of)
        return [replace(run, histories=found.get(run.run_id, ())) for run in runs]

    def _read(
        self, keys_of: dict[str, list[str]], experiment_of: Mapping[str, str]
    ) -> dict[str, tuple[MetricHistory, ...]]:
        """In halves, where a row can't be read, until only its run is left out."""
        if not keys_of or self._failures >= _GIVEN_UP_AFTER:
            return {}
        try:
            found = self._reader.metric_histories(keys_of, experiment_of)
        except PageError as error:
            if len(keys_of) > 1:
                items = list(keys_of.items())
                middle = len(items) // 2
                halves = dict(items[:middle]), dict(items[middle:])
                return {**self._read(halves[0], experiment_of), **self._read(halves[1], experiment_of)}
            self._tell(keys_of, error)
            return {}
        except ServerError as error:
            self._failures += 1
            self._tell(keys_of, error)
            return {}
        self._failures = 0
        return found

    def _tell(self, keys_of: dict[str, list[str]], error: ServerError) -> None:
        given_up = self._failures >= _GIVEN_UP_AFTER
        runs = f"{len(keys_of)} runs from {min(keys_of)} on" if len(keys_of) > 1 else f"run {min(keys_of)}"
        self._report.warning(
            title="Metric history can't be read",
            message="No more of it is asked for: runs and versions go out without."
            if given_up
            else "These runs, and the versions they made, go out without.",
            context=f"{runs}: {error}",
        )
