"""Traces in numbers over REST: the server counts (MLflow 3.9 and newer)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.readers.http import MlflowHttp
from datahub_mlflow_source.readers.rows import token_counts
from datahub_mlflow_source.readers.workers import in_order
from datahub_mlflow_source.records import TOKENS, TraceCounts

_METRICS = "/api/3.0/mlflow/traces/metrics"
_MOST_POINTS = 1000
_EXPERIMENTS_AT_ONCE = 2
_NOT_THERE = (404, 405, 501)

Point = dict[str, Any]


def read_trace_counts(server: MlflowHttp, experiment_ids: Iterable[str]) -> list[TraceCounts] | None:
    """Of those experiments that have traces, one request for each and five more for those; None before 3.9.

    Raises ServerError.
    """
    try:
        found = list(in_order(lambda id_: _counts(server, id_), experiment_ids, _EXPERIMENTS_AT_ONCE))
    except ServerError as error:
        if error.status in _NOT_THERE:
            return None
        raise
    return [counts for counts in found if counts]


def _counts(server: MlflowHttp, experiment_id: str) -> TraceCounts | None:
    def ask(
        view: str, metric: str, *aggregations: str, by: str | None = None
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        query: dict[str, Any] = {
            "experiment_ids": [experiment_id],
            "view_type": view,
            "metric_name": metric,
            "aggregations": [{"aggregation_type": kind} for kind in aggregations],
            "max_results": _MOST_POINTS,
        }
        if by:
            query["dimensions"] = [by]
        token = None
        while True:
            answer = server.post(_METRICS, {**query, "page_token": token} if token else query)
            for point in answer.get("data_points") or ():
                yield point.get("dimensions", {}).get(by, ""), point.get("values", {})
            token = answer.get("next_page_token")
            if not token:
                return

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
