"""Logged models out of MLflow's tables (3.0 and newer)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from datahub_mlflow_source.readers.by_key import grouped, pairs
from datahub_mlflow_source.readers.database import Reading
from datahub_mlflow_source.readers.rows import STATUS_OF_NUMBER, UNSPECIFIED, last_metrics, time_of
from datahub_mlflow_source.readers.schema import (
    LOGGED_MODEL_METRICS,
    LOGGED_MODEL_PARAMS,
    LOGGED_MODEL_TAGS,
    LOGGED_MODELS,
)
from datahub_mlflow_source.records import LoggedModel, ModelMetric

_NAN = float("nan")


class LoggedModelKey(NamedTuple):
    """What decides whether a model is wanted, before the rest of it is read."""

    model_id: str
    experiment_id: int
    lifecycle_stage: str | None

    def __str__(self) -> str:
        return self.model_id


def logged_model_keys(reading: Reading, after: LoggedModelKey | None, size: int) -> list[LoggedModelKey]:
    """The next so many models. There is no index but that of their ids, so all are passed."""
    table = LOGGED_MODELS.c
    statement = sa.select(table.model_id, table.experiment_id, table.lifecycle_stage).order_by(table.model_id)
    if after:
        statement = statement.where(table.model_id > after.model_id)
    return [LoggedModelKey(*row) for row in reading.rows(statement.limit(size))]


def read_logged_models(
    reading: Reading, page: Sequence[LoggedModelKey], experiment_ids: frozenset[str]
) -> list[LoggedModel]:
    """Those that MLflow's search finds, which are not deleted, in the order of their ids."""
    wanted = [k.model_id for k in page if k.lifecycle_stage == "active" and str(k.experiment_id) in experiment_ids]
    if not wanted:
        return []

    def among(table: Any, *columns: str) -> Any:
        statement = sa.select(*(getattr(table.c, column) for column in ("model_id", *columns)))
        return statement.where(table.c.model_id.in_(wanted))

    params = grouped(reading.rows(among(LOGGED_MODEL_PARAMS, "param_key", "param_value")))
    tags = grouped(reading.rows(among(LOGGED_MODEL_TAGS, "tag_key", "tag_value")))
    metrics = grouped(reading.rows(_last_metrics(wanted)))
    statement = among(
        *(LOGGED_MODELS, "name", "experiment_id", "source_run_id", "model_type", "status", "status_message"),
        *("artifact_location", "creation_timestamp_ms", "last_updated_timestamp_ms"),
    )
    return [
        LoggedModel(
            model_id=model_id,
            name=name or model_id,
            experiment_id=str(experiment_id),
            source_run_id=run_id or "",
            model_type=model_type or "",
            status=STATUS_OF_NUMBER.get(status, UNSPECIFIED),
            status_message=message or "",
            artifact_uri=location or "",
            creation_time=time_of(created),
            last_updated_time=time_of(updated),
            params=pairs(params[model_id]),
            metrics=last_metrics(map(_metric, metrics[model_id])),
            tags=pairs(tags[model_id]),
        )
        for model_id, name, experiment_id, run_id, model_type, status, message, location, created, updated in (
            reading.rows(statement.order_by(LOGGED_MODELS.c.model_id))
        )
    ]


def _last_metrics(model_ids: Sequence[str]) -> Any:
    """Of each key and dataset, as `last_metrics` chooses: there may be a million steps."""
    table = LOGGED_MODEL_METRICS.c
    place = sa.func.row_number().over(
        partition_by=(table.model_id, table.metric_name, table.dataset_name, table.dataset_digest),
        order_by=(table.metric_timestamp_ms.desc(), table.metric_step.desc(), table.run_id),
    )
    ranked = sa.select(*LOGGED_MODEL_METRICS.c, place.label("place")).where(table.model_id.in_(model_ids)).subquery()
    columns = ("model_id", "metric_name", "metric_value", "metric_timestamp_ms", "metric_step", "run_id")
    return sa.select(*(ranked.c[name] for name in (*columns, "dataset_name", "dataset_digest"))).where(
        ranked.c.place == 1
    )


def _metric(row: Sequence[Any]) -> ModelMetric:
    key, value, timestamp, step, run_id, dataset, digest = row
    number = _NAN if value is None else float(value)
    return ModelMetric(key, number, int(timestamp or 0), int(step or 0), run_id or "", dataset or "", digest or "")
