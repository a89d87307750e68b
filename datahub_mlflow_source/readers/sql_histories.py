"""All values of a metric, out of MLflow's table: summed up by the database, as there may be a million."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from datahub_mlflow_source.readers.database import Reading
from datahub_mlflow_source.readers.schema import METRICS
from datahub_mlflow_source.records import MetricHistory

_IS_NUMBER = sa.type_coerce(METRICS.c.is_nan, sa.Boolean()).is_(sa.false())


def read_histories(reading: Reading, keys_of: Mapping[str, Sequence[str]]) -> dict[str, tuple[MetricHistory, ...]]:
    """By run, sorted by key; `keys_of`: the metrics that are wanted of each run."""
    table = METRICS.c
    keys = sorted({key for keys in keys_of.values() for key in keys})
    among = (table.run_uuid.in_(sorted(keys_of)), table.key.in_(keys))
    which = (table.run_uuid, table.key)
    steps, times = sa.func.count(sa.distinct(table.step)), (sa.func.min(table.timestamp), sa.func.max(table.timestamp))
    extremes: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for run_id, key, value, step in reading.rows(_extremes(among)):
        extremes[run_id, key].append((float(value), int(step)))
    found: dict[str, list[MetricHistory]] = defaultdict(list)
    for run_id, key, count, first, last in reading.rows(
        sa.select(*which, steps, *times).where(*among).group_by(*which)
    ):
        of_this = extremes[run_id, key]
        highest, lowest = (max(of_this), min(of_this)) if of_this else ((None, None), (None, None))
        found[run_id].append(MetricHistory(key, int(count), int(first), int(last), *highest, *lowest))
    return {
        run_id: tuple(sorted(history for history in histories if history.key in keys_of[run_id]))
        for run_id, histories in found.items()
    }


def _extremes(among: Sequence[Any]) -> Any:
    """Highest and lowest value of each, and the first step that had it."""
    table = METRICS.c
    both = (
        sa.select(
            table.run_uuid,
            table.key,
            sa.func.max(table.value).label("highest"),
            sa.func.min(table.value).label("lowest"),
        )
        .where(*among, _IS_NUMBER)
        .group_by(table.run_uuid, table.key)
        .subquery()
    )
    same = sa.and_(table.run_uuid == both.c.run_uuid, table.key == both.c.key)
    return (
        sa.select(table.run_uuid, table.key, table.value, sa.func.min(table.step))
        .select_from(sa.join(METRICS, both, same))
        .where(*among, _IS_NUMBER, sa.or_(table.value == both.c.highest, table.value == both.c.lowest))
        .group_by(table.run_uuid, table.key, table.value)
    )
