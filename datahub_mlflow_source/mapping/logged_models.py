"""Logged models: as models of their own, or folded into the version that they were registered as."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from datahub.metadata.schema_classes import (
    BaseDataClass,
    ContainerClass,
    DeprecationClass,
    EvaluationDataClass,
    MLMetricClass,
    MLModelPropertiesClass,
    SourceCodeClass,
    SourceCodeUrlClass,
    SourceCodeUrlTypeClass,
    TrainingDataClass,
    _Aspect,
)
from datahub.metadata.urns import MlModelUrn

from datahub_mlflow_source.mapping.code import source_code_url
from datahub_mlflow_source.mapping.datasets import InputDataset, is_evaluation
from datahub_mlflow_source.mapping.features import features_of
from datahub_mlflow_source.mapping.model_files import card_of, file_properties, model_type, signature
from datahub_mlflow_source.mapping.rules import (
    NOTE,
    Entity,
    Rules,
    Trim,
    alive,
    platform_aspects,
    tag_value,
    time_stamp,
)
from datahub_mlflow_source.mapping.runs import hyper_params
from datahub_mlflow_source.mapping.urns import experiment_urn, logged_model_urn, run_urn
from datahub_mlflow_source.records import Experiment, FoundFile, LoggedModel, Metric, ModelMetric, Run, Tags
from datahub_mlflow_source.redaction import redact

LOGGED_MODEL = "ML Logged Model"

CONNECTOR = "urn:li:corpuser:datahub"  # whom the built-in names as the one who attributes versions
_SUPERSEDED = "Registered in MLflow: see the version that replaces this entity."


def map_logged_model(
    model: LoggedModel,
    run: Run | None,
    run_is_emitted: bool,
    file: FoundFile | None,
    inputs: Sequence[InputDataset],
    experiment: Experiment,
    rules: Rules,
) -> Entity:
    """Everything DataHub shows about a logged model that no version was made of.

    `run` is the one that logged it, and `inputs` what that read: None and empty where there is none, or it was not
    asked for. `file` is what became of its `MLmodel`, None where that was not asked for.
    """
    trim = Trim(rules.limits)
    user = tag_value(model.tags, "mlflow.user") or (run.user_id if run else "")
    ours = [
        ("model_id", model.model_id),
        ("name", model.name),
        ("experiment_id", model.experiment_id),
        ("run_id", model.source_run_id),
        ("model_type", model.model_type),
        ("status", model.status),
        ("status_message", model.status_message),
        ("artifact_uri", model.artifact_uri),
        *file_properties(file, trim),
    ]
    properties = MLModelPropertiesClass(
        name=model.name,
        description=trim.description(tag_value(model.tags, NOTE) or card_of(file)),
        customProperties={**trim.properties(model.tags, ours), **signature(file, trim)},
        type=model_type(file),
        externalUrl=rules.web.of(experiment.workspace).logged_model(model.experiment_id, model.model_id),
        created=time_stamp(model.creation_time, user),
        lastModified=time_stamp(model.last_updated_time),
        hyperParams=hyper_params(model.params, trim),
        trainingMetrics=model_metrics(model.metrics, model.source_run_id, trim),
        trainingJobs=[str(run_urn(model.source_run_id, rules.naming))] if run_is_emitted else [],
        mlFeatures=[str(urn) for urn in features_of(run)] or None,
    )
    aspects: list[_Aspect] = [
        properties,
        ContainerClass(str(experiment_urn(experiment.name, rules.naming, experiment.workspace))),
        *platform_aspects(LOGGED_MODEL, rules.naming),
        *origin(run, inputs, rules),
    ]
    return Entity(logged_model_urn(model.model_id, rules.naming), aspects, trim.cut)


def origin(run: Run | None, inputs: Sequence[InputDataset], rules: Rules) -> Iterator[_Aspect]:
    """By which code a model was made, from which datasets, and measured on which."""
    code = source_code_url(run.tags, rules.code_url_templates) if run else None
    if code:
        yield SourceCodeClass([SourceCodeUrlClass(SourceCodeUrlTypeClass.TRAINING_PIPELINE_SOURCE_CODE, code)])
    training, evaluation = (
        sorted({str(dataset.urn) for dataset in inputs if is_evaluation(dataset.input) is wanted})
        for wanted in (False, True)
    )
    if training:
        yield TrainingDataClass([BaseDataClass(urn) for urn in training])
    if evaluation:
        yield EvaluationDataClass([BaseDataClass(urn) for urn in evaluation])


def superseded(model_id: str, version: MlModelUrn, rules: Rules) -> Entity:
    """An entity of before its registration: it stays, with what people wrote on it, and leads to the version."""
    deprecation = DeprecationClass(deprecated=True, note=_SUPERSEDED, actor=CONNECTOR, replacement=str(version))
    return Entity(logged_model_urn(model_id, rules.naming), [alive(), deprecation])


def is_ours(deprecation: DeprecationClass) -> bool:
    """Or one that people made, which stays."""
    return deprecation.actor == CONNECTOR and deprecation.note == _SUPERSEDED


def folded_properties(model: LoggedModel, trim: Trim) -> Iterator[tuple[str, str]]:
    """What a version's custom properties say about its logged model: keys without prefix, and values."""
    yield "logged_model_name", model.name
    yield "model_type", model.model_type
    yield "logged_model_status", model.status
    yield "logged_model_status_message", model.status_message
    yield "artifact_uri", model.artifact_uri
    for key, value in trim.tags("tags of the logged model", model.tags):
        yield f"logged_model.{key}", value


def folded_params(run: Run | None, model: LoggedModel) -> Tags:
    """The run's, which MLflow copies to the model, and those that were given to the model itself."""
    return tuple(sorted({**dict(run.params if run else ()), **dict(model.params)}.items()))


def folded_metrics(run: Run | None, model: LoggedModel, trim: Trim) -> list[MLMetricClass]:
    """The run's last ones, and those of the model that say something else, or say it of a dataset."""
    of_run = {metric.key: metric for metric in run.metrics} if run else {}
    copied = {metric.key for metric in model.metrics if _is_copy(metric, of_run.get(metric.key))}
    kept = [metric for key, metric in of_run.items() if key not in copied]
    of_model = [
        metric._replace(value=of_run[metric.key].value) if _is_copy(metric, of_run.get(metric.key)) else metric
        for metric in model.metrics
    ]
    together: list[Metric | ModelMetric] = sorted([*kept, *of_model], key=lambda metric: metric.key)
    return model_metrics(together, model.source_run_id, trim)


def _is_copy(metric: ModelMetric, of_run: Metric | None) -> bool:
    """Whether it is the run's own, which MLflow copies to the model, NaN as 0."""
    if of_run is None or (metric.timestamp, metric.step) != (of_run.timestamp, of_run.step):
        return False
    return metric.value == of_run.value or (math.isnan(of_run.value) and metric.value == 0.0)


def model_metrics(values: Sequence[Metric | ModelMetric], source_run_id: str, trim: Trim) -> list[MLMetricClass]:
    """Last values, with their step and time, and the dataset and other run that they are of."""
    kept = trim.first("metrics", values, trim.limits.max_metrics)
    return [
        MLMetricClass(
            metric.key, _said_of(metric, source_run_id), str(metric.value), createdAt=metric.timestamp or None
        )
        for metric in kept
    ]


def _said_of(metric: Metric | ModelMetric, source_run_id: str) -> str:
    said = f"step {metric.step}"
    if isinstance(metric, ModelMetric):
        if metric.dataset_name:
            digest = f" ({redact(metric.dataset_digest)})" if metric.dataset_digest else ""
            said += f", on {redact(metric.dataset_name)}{digest}"
        if metric.run_id not in ("", source_run_id):
            said += f", by run {metric.run_id}"
    return said
