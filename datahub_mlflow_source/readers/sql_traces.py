"""Traces in numbers, out of MLflow's tables (2.13 and newer): the database counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from datahub_mlflow_source.readers.database import Reading
from datahub_mlflow_source.readers.rows import token_counts
from datahub_mlflow_source.readers.schema import ASSESSMENTS, TRACE_INFO, TRACE_METRICS, Schema
from datahub_mlflow_source.records import TOKENS, TraceCounts


def read_trace_counts(reading: Reading, experiment_ids: Sequence[str], schema: Schema) -> list[TraceCounts]:
    """Of those experiments that have traces, by id."""
    table = TRACE_INFO.c
    of_experiments = table.experiment_id.in_([int(id_) for id_ in experiment_ids])
    by_status: dict[int, dict[str, int]] = defaultdict(dict)
    for id_, status, count in reading.rows(
        sa.select(table.experiment_id, table.status, sa.func.count())
        .where(of_experiments)
        .group_by(table.experiment_id, table.status)
    ):
        by_status[id_][status] = int(count)
    latency = {
        id_: (round(float(mean)), int(longest))
        for id_, mean, longest in reading.rows(
            sa.select(table.experiment_id, sa.func.avg(table.execution_time_ms), sa.func.max(table.execution_time_ms))
            .where(of_experiments, table.execution_time_ms.is_not(None))
            .group_by(table.experiment_id)
        )
    }
    tokens = _tokens(reading, of_experiments, schema)
    assessments = _assessments(reading, of_experiments, schema)
    return [
        TraceCounts(
            experiment_id=str(id_),
            by_status=tuple(sorted(statuses.items())),
            mean_millis=latency.get(id_, (None, None))[0],
            longest_millis=latency.get(id_, (None, None))[1],
            tokens=token_counts(tokens[id_]),
            assessments=tuple(sorted(assessments[id_].items())),
        )
        for id_, statuses in sorted(by_status.items())
    ]


def _tokens(reading: Reading, of_experiments: Any, schema: Schema) -> dict[int, dict[str, Any]]:
    """In columns since 3.17; from 3.9 on in a table of their own, and before that only in JSON."""
    table, found = TRACE_INFO.c, defaultdict[int, dict[str, Any]](dict)
    if schema.has(TRACE_INFO, *TOKENS):
        sums: list[Any] = [sa.func.sum(sa.column(name)) for name in TOKENS]
        statement = sa.select(table.experiment_id, *sums).where(of_experiments).group_by(table.experiment_id)
        for id_, *totals in reading.rows(statement):
            found[id_] = dict(zip(TOKENS, totals, strict=True))
    elif schema.has(TRACE_METRICS):
        metric = TRACE_METRICS.c
        for id_, key, total in reading.rows(
            sa.select(table.experiment_id, metric.key, sa.func.sum(metric.value))
            .select_from(sa.join(TRACE_METRICS, TRACE_INFO, metric.request_id == table.request_id))
            .where(of_experiments, metric.key.in_(TOKENS))
            .group_by(table.experiment_id, metric.key)
        ):
            found[id_][key] = total
    return found


def _assessments(reading: Reading, of_experiments: Any, schema: Schema) -> dict[int, dict[str, int]]:
    """Those that were not overridden (3.2 and newer)."""
    found: dict[int, dict[str, int]] = defaultdict(dict)
    if not schema.has(ASSESSMENTS):
        return found
    table, traces = ASSESSMENTS.c, TRACE_INFO.c
    for id_, name, count in reading.rows(
        sa.select(traces.experiment_id, table.name, sa.func.count())
        .select_from(sa.join(ASSESSMENTS, TRACE_INFO, table.trace_id == traces.request_id))
        .where(of_experiments, sa.type_coerce(table.valid, sa.Boolean()).is_(sa.true()))
        .group_by(traces.experiment_id, table.name)
    ):
        found[id_][name] = int(count)
    return found
