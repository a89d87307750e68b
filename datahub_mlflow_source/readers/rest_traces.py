"""Traces in numbers over REST: the server counts (MLflow 3.9 and newer)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.readers.http import MlflowHttp
from datahub_mlflow_source.readers.rest_evaluation import is_absent
from datahub_mlflow_source.readers.rows import NOT_FORMED, token_counts
from datahub_mlflow_source.readers.workers import in_order
from datahub_mlflow_source.records import TOKENS, TraceCounts

_METRICS = "/api/3.0/mlflow/traces/metrics"
_MOST_POINTS = 1000
_EXPERIMENTS_AT_ONCE = 2

Point = tuple[str, Mapping[str, Any]]  # what is counted by, and the numbers


def read_trace_counts(server: MlflowHttp, experiment_ids: Sequence[str]) -> tuple[list[TraceCounts], list[str]] | None:
    """Of those experiments that have traces, and what could not be read; None before 3.9.

    One request for each, and five more for those that have some.
    """
    try:
        _points(server, experiment_ids[:1], "TRACES", "trace_count", "COUNT", by="trace_status")
    except ServerError as error:
        if is_absent(error):
            return None
    found: list[TraceCounts] = []
    problems: list[str] = []
    for counts in in_order(partial(_told, server), experiment_ids, _EXPERIMENTS_AT_ONCE):
        if isinstance(counts, TraceCounts):
            found.append(counts)
        elif counts:
            problems.append(counts)
    return found, problems


def _told(server: MlflowHttp, experiment_id: str) -> TraceCounts | str | None:
    """The counts, or why there are none; None: there are no traces."""
    try:
        return _counts(server, experiment_id)
    except ServerError as error:
        return f"of experiment {experiment_id}: {error}"
    except NOT_FORMED as error:
        return f"of experiment {experiment_id}: the answer is not formed as MLflow's: {type(error).__name__}: {error}"


def _counts(server: MlflowHttp, experiment_id: str) -> TraceCounts | None:
    ask = partial(_points, server, [experiment_id])
    by_status = {
        status: int(said["COUNT"]) for status, said in ask("TRACES", "trace_count", "COUNT", by="trace_status")
    }
    if not by_status:
        return None
    latency = next((said for _, said in ask("TRACES", "latency", "AVG", "MAX")), {})
    tokens = {name: next((said for _, said in ask("TRACES", name, "SUM")), {}).get("SUM") for name in TOKENS}
    assessments = ask("ASSESSMENTS", "assessment_count", "COUNT", by="assessment_name")
    return TraceCounts(
        experiment_id=experiment_id,
        by_status=tuple(sorted(by_status.items())),
        mean_millis=round(float(latency["AVG"])) if latency.get("AVG") is not None else None,
        longest_millis=int(latency["MAX"]) if latency.get("MAX") is not None else None,
        tokens=token_counts(tokens),
        assessments=tuple(sorted((name, int(said["COUNT"])) for name, said in assessments)),
    )


def _points(
    server: MlflowHttp, experiment_ids: Sequence[str], view: str, metric: str, *aggregations: str, by: str = ""
) -> list[Point]:
    query: dict[str, Any] = {
        "experiment_ids": list(experiment_ids),
        "view_type": view,
        "metric_name": metric,
        "aggregations": [{"aggregation_type": kind} for kind in aggregations],
        "max_results": _MOST_POINTS,
        **({"dimensions": [by]} if by else {}),
    }
    return list(_all_points(server, query, by))


def _all_points(server: MlflowHttp, query: dict[str, Any], by: str) -> Iterator[Point]:
    while True:
        answer = server.post(_METRICS, query)
        for point in answer.get("data_points") or ():
            yield point.get("dimensions", {}).get(by, ""), point.get("values", {})
        if not (token := answer.get("next_page_token")):
            return
        query = {**query, "page_token": token}
