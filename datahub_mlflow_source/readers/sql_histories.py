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
    # Not by the table's own index, which begins with the key: all runs of the server have that.
    key_alone = sa.type_coerce(table.key, sa.String()).concat("")
    among = (table.run_uuid.in_(sorted(keys_of)), key_alone.in_(keys))
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
    """Highest and lowest value of each, and the first step that had it. Each value is looked at once."""
    table = METRICS.c
    of_each = (table.run_uuid, table.key)
    ranked = (
        sa.select(
            *(table.run_uuid, table.key, table.value, table.step),
            sa.func.max(table.value).over(partition_by=of_each).label("highest"),
            sa.func.min(table.value).over(partition_by=of_each).label("lowest"),
        )
        .where(*among, _IS_NUMBER)
        .subquery()
    )
    value = ranked.c.value
    return (
        sa.select(ranked.c.run_uuid, ranked.c.key, value, sa.func.min(ranked.c.step))
        .where(sa.or_(value == ranked.c.highest, value == ranked.c.lowest))
        .group_by(ranked.c.run_uuid, ranked.c.key, value)
    )
