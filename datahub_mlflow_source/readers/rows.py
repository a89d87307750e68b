"""MLflow's JSON as records. Empty lists and empty fields are absent from it (protobuf)."""

from __future__ import annotations

from typing import Any

from datahub_mlflow_source.records import (
    DatasetInput,
    Experiment,
    Metric,
    ModelVersion,
    RegisteredModel,
    Run,
    Tags,
)

Row = dict[str, Any]


def experiment(row: Row) -> Experiment:
    return Experiment(
        experiment_id=str(row["experiment_id"]),
        name=row["name"],
        artifact_location=row.get("artifact_location", ""),
        lifecycle_stage=row.get("lifecycle_stage", "active"),
        creation_time=_time(row.get("creation_time")),
        last_update_time=_time(row.get("last_update_time")),
        tags=_pairs(row.get("tags")),
    )


def run(row: Row) -> Run:
    info, data = row["info"], row.get("data", {})
    run_id = info.get("run_id") or info["run_uuid"]
    return Run(
        run_id=run_id,
        name=info.get("run_name") or run_id,
        experiment_id=str(info["experiment_id"]),
        user_id=info.get("user_id", ""),
        status=info["status"],
        start_time=_time(info.get("start_time")),
        end_time=_time(info.get("end_time")),
        artifact_uri=info.get("artifact_uri", ""),
        lifecycle_stage=info.get("lifecycle_stage", "active"),
        params=_pairs(data.get("params")),
        metrics=_metrics(data.get("metrics")),
        tags=_pairs(data.get("tags")),
        datasets=_datasets(row.get("inputs", {}).get("dataset_inputs")),
    )


def registered_model(row: Row) -> RegisteredModel:
    return RegisteredModel(
        name=row["name"],
        creation_time=_time(row.get("creation_timestamp")),
        last_updated_time=_time(row.get("last_updated_timestamp")),
        description=row.get("description", ""),
        tags=_pairs(row.get("tags")),
        aliases=tuple(sorted((alias["alias"], str(alias["version"])) for alias in row.get("aliases", ()))),
    )


def model_version(row: Row, aliases: tuple[str, ...]) -> ModelVersion:
    """`aliases`: of the registered model; a listing of versions has none (2.10 to 3.17)."""
    return ModelVersion(
        name=row["name"],
        version=str(row["version"]),
        creation_time=_time(row.get("creation_timestamp")),
        last_updated_time=_time(row.get("last_updated_timestamp")),
        description=row.get("description", ""),
        user_id=row.get("user_id", ""),
        stage=row.get("current_stage") or "None",
        source=row.get("source", ""),
        run_id=row.get("run_id", ""),
        status=row.get("status", ""),
        status_message=row.get("status_message", ""),
        run_link=row.get("run_link", ""),
        tags=_pairs(row.get("tags")),
        aliases=aliases,
    )


def name_of(row: object) -> str:
    """For messages about a row that is no record."""
    if not isinstance(row, dict):
        return f"a {type(row).__name__}"
    info = row.get("info", row)
    if not isinstance(info, dict):
        return "a row without info"
    keys = ("run_id", "run_uuid") if "info" in row else ("name", "experiment_id")
    name = next((info[key] for key in keys if info.get(key)), "a row without a name")
    return f"{name} version {row['version']}" if "version" in row else str(name)


def _time(value: Any) -> int | None:
    """Epoch milliseconds, which older servers send as text. 0 is how some say "never"."""
    return int(value) or None if value is not None else None


def _pairs(tags: list[Row] | None) -> Tags:
    if not tags:
        return ()
    return tuple(sorted((tag["key"], tag.get("value", "")) for tag in tags))


def _metrics(metrics: list[Row] | None) -> tuple[Metric, ...]:
    if not metrics:
        return ()
    records = [
        Metric(m["key"], float(m.get("value", 0.0)), int(m.get("timestamp", 0)), int(m.get("step", 0))) for m in metrics
    ]
    records.sort(key=lambda metric: metric.key)
    return tuple(records)


def _datasets(inputs: list[Row] | None) -> tuple[DatasetInput, ...]:
    if not inputs:
        return ()
    records = [_dataset(row["dataset"], _pairs(row.get("tags"))) for row in inputs]
    records.sort(key=lambda dataset: (dataset.name, dataset.digest, dataset.tags))
    return tuple(records)


def _dataset(row: Row, tags: Tags) -> DatasetInput:
    return DatasetInput(
        name=row["name"],
        digest=row.get("digest", ""),
        source_type=row.get("source_type", ""),
        source=row.get("source", ""),
        schema=row.get("schema") or None,
        profile=row.get("profile") or None,
        tags=tags,
    )
