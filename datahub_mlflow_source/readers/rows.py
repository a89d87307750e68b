"""MLflow's JSON as records. Empty lists and empty fields are absent from it (protobuf)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from datahub_mlflow_source.records import (
    GATEWAY,
    TOKENS,
    DatasetInput,
    EvaluationDataset,
    Experiment,
    LoggedModel,
    Metric,
    ModelDeployment,
    ModelMetric,
    ModelVersion,
    RegisteredModel,
    Run,
    Scorer,
    Tags,
    Unreadable,
    Workspace,
)

Row = dict[str, Any]

# Of taking apart an answer that is not MLflow's: a field is absent, or of another type, or no number.
NOT_FORMED = (KeyError, TypeError, AttributeError, ValueError, OverflowError)

_LOGGED_MODEL = re.compile(r"models:/(m-[0-9a-f]{32})/?")
# MLflow's words for LoggedModelStatus in its API, its database, and its client (which are ours).
_STATUS = {"LOGGED_MODEL_PENDING": "PENDING", "LOGGED_MODEL_READY": "READY", "LOGGED_MODEL_UPLOAD_FAILED": "FAILED"}
STATUS_OF_NUMBER = {1: "PENDING", 2: "READY", 3: "FAILED"}
UNSPECIFIED = "UNSPECIFIED"

LATEST_TIME = 1 << 62  # milliseconds: far beyond any calendar, and still a number that DataHub takes, with room to add


def workspace(row: Row) -> Workspace:
    archival = row.get("trace_archival_config") or {}
    return Workspace(
        name=_text(row["name"]),
        description=_text(row.get("description") or ""),
        artifact_root=_text(row.get("default_artifact_root") or ""),
        trace_archival_location=_text(archival.get("location") or ""),
        trace_archival_retention=_text(archival.get("retention") or ""),
    )


def experiment(row: Row) -> Experiment:
    return Experiment(
        experiment_id=_id(row["experiment_id"]),
        name=_text(row["name"]),
        artifact_location=_text(row.get("artifact_location") or ""),
        lifecycle_stage=_text(row.get("lifecycle_stage", "active")),
        creation_time=time_of(row.get("creation_time")),
        last_update_time=time_of(row.get("last_update_time")),
        tags=_pairs(row.get("tags")),
    )


def run(row: Row) -> Run:
    info, data = row["info"], row.get("data", {})
    run_id = _text(info.get("run_id") or info["run_uuid"])
    return Run(
        run_id=run_id,
        name=_text(info.get("run_name") or run_id),
        experiment_id=_id(info["experiment_id"]),
        user_id=_text(info.get("user_id") or ""),
        status=_text(info["status"]),
        start_time=time_of(info.get("start_time")),
        end_time=time_of(info.get("end_time")),
        artifact_uri=_text(info.get("artifact_uri") or ""),
        lifecycle_stage=_text(info.get("lifecycle_stage", "active")),
        params=_pairs(data.get("params")),
        metrics=_metrics(data.get("metrics")),
        tags=_pairs(data.get("tags")),
        datasets=_datasets(row.get("inputs", {}).get("dataset_inputs")),
    )


def registered_model(row: Row) -> RegisteredModel:
    return RegisteredModel(
        name=_text(row["name"]),
        creation_time=time_of(row.get("creation_timestamp")),
        last_updated_time=time_of(row.get("last_updated_timestamp")),
        description=_text(row.get("description") or ""),
        tags=_pairs(row.get("tags")),
        aliases=tuple(sorted((_text(alias["alias"]), _id(alias["version"])) for alias in row.get("aliases") or ())),
    )


def model_version(row: Row, aliases: tuple[str, ...] | None) -> ModelVersion:
    """`aliases`: of the registered model, None where nobody knows; a listing of versions has none (2.10 to 3.17)."""
    source = _text(row.get("source") or "")
    return ModelVersion(
        name=_text(row["name"]),
        version=_id(row["version"]),
        creation_time=time_of(row.get("creation_timestamp")),
        last_updated_time=time_of(row.get("last_updated_timestamp")),
        description=_text(row.get("description") or ""),
        user_id=_text(row.get("user_id") or ""),
        stage=_text(row.get("current_stage") or "None"),
        source=source,
        run_id=_text(row.get("run_id") or ""),
        status=_text(row.get("status") or ""),
        status_message=_text(row.get("status_message") or ""),
        run_link=_text(row.get("run_link") or ""),
        tags=_pairs(row.get("tags")),
        aliases=aliases or (),
        aliases_known=aliases is not None,
        model_id=_text(row.get("model_id") or "") or model_id_of(source),
    )


def model_id_of(source: str) -> str:
    """The logged model that a version is made of; "" for any other source. MLflow itself leaves the field empty."""
    found = _LOGGED_MODEL.fullmatch(source)
    return found[1] if found else ""


def logged_model(row: Row) -> LoggedModel:
    info, data = row["info"], row.get("data", {})
    model_id = _text(info["model_id"])
    return LoggedModel(
        model_id=model_id,
        name=_text(info.get("name") or model_id),
        experiment_id=_id(info["experiment_id"]),
        source_run_id=_text(info.get("source_run_id") or ""),
        model_type=_text(info.get("model_type") or ""),
        status=_STATUS.get(info.get("status", ""), UNSPECIFIED),
        status_message=_text(info.get("status_message") or ""),
        artifact_uri=_text(info.get("artifact_uri") or ""),
        creation_time=time_of(info.get("creation_timestamp_ms")),
        last_updated_time=time_of(info.get("last_updated_timestamp_ms")),
        params=_pairs(data.get("params")),
        metrics=last_metrics(map(_model_metric, data.get("metrics") or ())),
        tags=_pairs(info.get("tags")),
    )


def evaluation_dataset(row: Row) -> EvaluationDataset:
    """With `experiment_ids`, which MLflow gives apart. Its tags are JSON in a text."""
    tags = json.loads(row.get("tags") or "{}")
    return EvaluationDataset(
        dataset_id=_text(row["dataset_id"]),
        name=_text(row["name"]),
        digest=_text(row.get("digest") or ""),
        schema=row.get("schema") or None,
        profile=row.get("profile") or None,
        creation_time=time_of(row.get("created_time")),
        last_updated_time=time_of(row.get("last_update_time")),
        created_by=_text(row.get("created_by") or ""),
        last_updated_by=_text(row.get("last_updated_by") or ""),
        tags=tuple(sorted((key, value or "") for key, value in tags.items())),
        experiment_ids=tuple(sorted(map(_id, row["experiment_ids"]))),
    )


def gateway_endpoint(row: Row) -> ModelDeployment:
    """The keys of its models are secrets, of which not even the names are told."""
    endpoint_id = _text(row["endpoint_id"])
    fallback = row.get("fallback_config") or {}
    mappings = [_served(mapping) for mapping in row.get("model_mappings") or ()]
    said = {
        "created_by": _text(row.get("created_by") or ""),
        "last_updated_by": _text(row.get("last_updated_by") or ""),
        "routing_strategy": _text(row.get("routing_strategy") or ""),
        "fallback_strategy": _text(fallback.get("strategy") or ""),
        "fallback_max_attempts": str(fallback.get("max_attempts") or ""),
        "usage_tracking": "true" if row.get("usage_tracking") in (None, True) else "false",
    }
    for name, served, _ in sorted(mappings):  # one may be there twice, in its own place and behind another
        key = f"model.{name}"
        said[key] = f"{said[key]}; {served}" if key in said else served
    return ModelDeployment(
        target=GATEWAY,
        name=_text(row.get("name") or endpoint_id),
        # There is no word for it: MLflow's server answers for it, as long as it has a key to a model.
        status="ready" if any(has_key for _, _, has_key in mappings) else "disabled",
        creation_time=time_of(row.get("created_at")),
        last_updated_time=time_of(row.get("last_updated_at")),
        said=tuple(said.items()),
        tags=tuple(sorted((_text(tag["key"]), _text(tag.get("value") or "")) for tag in row.get("tags") or ())),
        endpoint_id=endpoint_id,
        experiment_id=_id(row["experiment_id"]) if row.get("experiment_id") else "",
    )


def in_order(endpoints: Iterable[ModelDeployment | Unreadable]) -> list[ModelDeployment | Unreadable]:
    """By workspace and name; what can't be read behind them."""
    both = list(endpoints)
    known = [endpoint for endpoint in both if isinstance(endpoint, ModelDeployment)]
    known.sort(key=lambda endpoint: (endpoint.workspace, endpoint.name, endpoint.endpoint_id))
    return [*known, *(endpoint for endpoint in both if isinstance(endpoint, Unreadable))]


def _served(mapping: Row) -> tuple[str, str, bool]:
    """Name of the model's definition, what it is, and whether there is a key to it."""
    definition = mapping["model_definition"]
    kind, order = _text(mapping.get("linkage_type") or "PRIMARY"), mapping.get("fallback_order")
    parts = [
        f"{_text(definition['provider'])} {_text(definition['model_name'])}",
        f"{kind} {order}" if order is not None else kind,
        f"weight {float(mapping.get('weight', 1.0))}",
    ]
    return _text(definition["name"]), ", ".join(parts), bool(definition.get("secret_id"))


def scorer(row: Row) -> Scorer:
    return Scorer(
        _id(row["experiment_id"]),
        _text(row["scorer_name"]),
        int(row["scorer_version"]),
        _text(row["serialized_scorer"]),
    )


def token_counts(sums: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """Those that are known, in their order."""
    return tuple((name, int(sums[name])) for name in TOKENS if sums.get(name) is not None)


def _model_metric(row: Row) -> ModelMetric:
    return ModelMetric(
        row["key"],
        float(row.get("value", 0.0)),
        int(row.get("timestamp", 0)),
        int(row.get("step", 0)),
        row.get("run_id", ""),
        row.get("dataset_name", ""),
        row.get("dataset_digest", ""),
    )


def last_metrics(metrics: Iterable[ModelMetric]) -> tuple[ModelMetric, ...]:
    """Of each key and dataset the last, as MLflow itself chooses: by time, step, and the smaller run id."""
    last: dict[tuple[str, str, str], ModelMetric] = {}
    for metric in metrics:
        key = (metric.key, metric.dataset_name, metric.dataset_digest)
        known = last.get(key)
        if known is None or _is_later(metric, known):
            last[key] = metric
    return tuple(last[key] for key in sorted(last))


def _is_later(one: ModelMetric, other: ModelMetric) -> bool:
    return (one.timestamp, one.step, other.run_id) > (other.timestamp, other.step, one.run_id)


def name_of(row: object) -> str:
    """For messages about a row that is no record."""
    if not isinstance(row, dict):
        return f"a {type(row).__name__}"
    info = row.get("info", row)
    if not isinstance(info, dict):
        return "a row without info"
    keys = ("run_id", "run_uuid", "model_id") if "info" in row else ("name", "experiment_id")
    name = next((info[key] for key in keys if info.get(key)), "a row without a name")
    return f"{name} version {row['version']}" if "version" in row else str(name)


def _text(value: Any) -> str:
    """Text as it is. Anything else would break what comes behind, far from the row that it is in."""
    if type(value) is not str:
        raise TypeError(f"{type(value).__name__} where text is expected")
    return value


def _id(value: Any) -> str:
    """An id or a number of a version, which some servers send as a number."""
    if type(value) is int:
        return str(value)
    return _text(value)


def time_of(value: Any) -> int | None:
    """Epoch milliseconds, which older servers send as text. 0 is how some say "never". No later than `LATEST_TIME`."""
    if value is None:
        return None
    return max(-LATEST_TIME, min(int(value), LATEST_TIME)) or None


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
    return tuple(sorted(records))


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
