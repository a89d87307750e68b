"""All values of a metric over REST: of many runs at a time, where the server has that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from datahub_mlflow_source.errors import GONE, ServerError
from datahub_mlflow_source.readers.http import MlflowHttp
from datahub_mlflow_source.readers.paging import batches
from datahub_mlflow_source.records import MetricHistory

_BULK = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"  # MLflow's own page asks so, from 1.x to 3.17; Databricks no
_RUNS_PER_REQUEST, _RUNS_PER_OLD_REQUEST = 100, 20  # MLflow's limit from 2.22 on at the latest, and in 2.10
_MOST_OF_A_URL = 3500  # gunicorn, which serves MLflow before 3.3, takes 4,094 bytes with what stands around
_MOST_VALUES = 25_000  # in one answer of it

Value = dict[str, Any]


class RestHistories:
    """Of one tracking server."""

    def __init__(self, server: MlflowHttp) -> None:
        self._server = server
        self._has_bulk = True
        self._most_runs = _RUNS_PER_REQUEST

    def read(self, keys_of: Mapping[str, Sequence[str]]) -> dict[str, tuple[MetricHistory, ...]]:
        """By run, sorted by key; `keys_of`: the metrics that are wanted of each run. Raises ServerError."""
        runs_with: dict[str, list[str]] = defaultdict(list)
        for run_id, keys in keys_of.items():
            for key in keys:
                runs_with[key].append(run_id)
        found: dict[str, list[MetricHistory]] = defaultdict(list)
        for key, run_ids in sorted(runs_with.items()):
            for run_id, values in self._in_parts(key, sorted(run_ids)):
                if values:
                    found[run_id].append(summed_up(key, values))
        return {run_id: tuple(histories) for run_id, histories in found.items()}

    def _in_parts(self, key: str, run_ids: list[str]) -> Iterator[tuple[str, list[Value]]]:
        for batch in batches(run_ids, min(self._most_runs, _room_for(key, run_ids))):
            try:
                values = list(self._values(key, batch))
            except ServerError as error:
                if error.status != 400 or len(batch) <= _RUNS_PER_OLD_REQUEST:
                    raise
                self._most_runs = _RUNS_PER_OLD_REQUEST
                yield from self._in_parts(key, batch)
            else:
                yield from values

    def _values(self, key: str, run_ids: list[str]) -> Iterator[tuple[str, list[Value]]]:
        """Runs in order, each with all of its values."""
        left = run_ids
        while left:
            values = self._bulk(key, left)
            if values is None:
                yield from ((run_id, self._of_one(key, run_id)) for run_id in left)
                return
            of_run: dict[str, list[Value]] = defaultdict(list)
            for value in values:
                of_run[value["run_id"]].append(value)
            if len(values) < _MOST_VALUES:
                yield from of_run.items()
                return
            # The answer was full: of the last run in it there may be more.
            last = max(of_run)
            yield from ((run_id, its) for run_id, its in of_run.items() if run_id != last)
            if len(of_run) == 1:
                yield last, self._of_one(key, last)
            left = [run_id for run_id in left if run_id > last or (run_id == last and len(of_run) > 1)]

    def _bulk(self, key: str, run_ids: list[str]) -> list[Value] | None:
        """None where this server doesn't have it, or not for one of these runs, which is gone."""
        if not self._has_bulk:
            return None
        try:
            answer = self._server.get(_BULK, {"run_id": run_ids, "metric_key": key, "max_results": _MOST_VALUES})
        except ServerError as error:
            if error.status not in (404, 405, 501):
                raise
            self._has_bulk = error.error_code == GONE
            return None
        return _listed(answer)

    def _of_one(self, key: str, run_id: str) -> list[Value]:
        """Nothing of a run that is gone."""
        try:
            return _listed(self._server.get("metrics/get-history", {"run_id": run_id, "metric_key": key}))
        except ServerError as error:
            if error.error_code != GONE:
                raise
            return []


def _room_for(key: str, run_ids: Iterable[str]) -> int:
    """How many runs fit into one request."""
    of_each = len("&run_id=") + max(map(len, run_ids))
    return max(1, (_MOST_OF_A_URL - len(quote(key))) // of_each)


def _listed(answer: Mapping[str, Any]) -> list[Value]:
    values = answer.get("metrics", [])
    if not isinstance(values, list):
        raise ServerError("MLflow answered without a list of metrics. Check for a proxy that answers in its place")
    return values


def summed_up(key: str, values: Iterable[Value]) -> MetricHistory:
    """What all values of one metric in one run come to. Numbers may be texts, as MLflow's JSON has NaN."""
    steps, times, by_value = set(), [], dict[float, int]()
    for each in values:
        step, value = int(each.get("step", 0)), float(each.get("value", 0.0))
        steps.add(step)
        times.append(int(each.get("timestamp", 0)))
        if value == value:  # not NaN
            by_value[value] = min(step, by_value.get(value, step))
    highest, lowest = (max(by_value), min(by_value)) if by_value else (None, None)
    return MetricHistory(
        key=key,
        steps=len(steps),
        first_time=min(times),
        last_time=max(times),
        highest=highest,
        highest_step=by_value[highest] if highest is not None else None,
        lowest=lowest,
        lowest_step=by_value[lowest] if lowest is not None else None,
    )
