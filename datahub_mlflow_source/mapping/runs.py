"""Runs, as process instances with what they read and what they made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from datahub.metadata.schema_classes import (
    AuditStampClass,
    ContainerClass,
    DataProcessInstanceInputClass,
    DataProcessInstanceOutputClass,
    DataProcessInstancePropertiesClass,
    DataProcessInstanceRelationshipsClass,
    DataProcessInstanceRunEventClass,
    DataProcessInstanceRunResultClass,
    DataProcessRunStatusClass,
    EdgeClass,
    MLHyperParamClass,
    MLMetricClass,
    MLTrainingRunPropertiesClass,
    PartitionSpecClass,
    PartitionTypeClass,
    RunResultTypeClass,
    _Aspect,
)
from datahub.metadata.urns import MlModelUrn

from datahub_mlflow_source.mapping.code import source_code_url
from datahub_mlflow_source.mapping.copies import origin_of_run
from datahub_mlflow_source.mapping.datasets import InputDataset, edges
from datahub_mlflow_source.mapping.histories import history_properties
from datahub_mlflow_source.mapping.orchestrators import Task
from datahub_mlflow_source.mapping.rules import Entity, Rules, Trim, Web, plain, platform_aspects, tag_value
from datahub_mlflow_source.mapping.urns import (
    Naming,
    experiment_urn,
    logged_model_urn,
    model_version_urn,
    run_urn,
    user_urn,
)
from datahub_mlflow_source.records import Experiment, LoggedModel, Metric, ModelVersion, Run, Tags

TRAINING_RUN = "ML Training Run"  # the built-in's subtype (MLAssetSubTypes.MLFLOW_TRAINING_RUN)

# The default of every event, which the class would parse from JSON each time: half the cost of mapping a run.
_WHOLE = PartitionSpecClass(partition="FULL_TABLE_SNAPSHOT", type=PartitionTypeClass.FULL_TABLE)

_RESULTS = {
    "FINISHED": RunResultTypeClass.SUCCESS,
    "FAILED": RunResultTypeClass.FAILURE,
    # DataHub has no word for it. Not SKIPPED, as the built-in says: a killed run did run.
    "KILLED": RunResultTypeClass.FAILURE,
}


def map_run(
    run: Run,
    experiment: Experiment,
    versions: Sequence[ModelVersion],
    logged_models: Sequence[LoggedModel],
    inputs: Sequence[InputDataset],
    used: Sequence[MlModelUrn],
    rules: Rules,
    task: Task | None = None,
) -> Entity:
    """Everything DataHub shows about one run.

    `versions` are those registered from it, `logged_models` those of its others that are sent, `inputs` what it read,
    `used` models and prompts that it used, `task` what started it.
    """
    trim = Trim(rules.limits)
    aspects: list[_Aspect] = [
        _properties(run, rules.web.of(experiment.workspace), rules.code_url_templates, task, trim),
        MLTrainingRunPropertiesClass(
            id=run.run_id,
            outputUrls=[trim.value("artifact_uri", run.artifact_uri)] if run.artifact_uri else None,
            hyperParams=hyper_params(run.params, trim),
            trainingMetrics=metrics(run.metrics, trim),
        ),
        _in_experiment(experiment.name, rules.naming, experiment.workspace),
        *platform_aspects(TRAINING_RUN, rules.naming),
        *_events(run),
    ]
    if related := _relationships(run, task, rules.naming):
        aspects.append(related)
    if inputs or used:
        of_models = [EdgeClass(str(urn)) for urn in used]
        aspects.append(DataProcessInstanceInputClass(inputs=[], inputEdges=[*edges(inputs, trim), *of_models]))
    if versions or logged_models:
        outputs = [EdgeClass(str(model_version_urn(v.full_name, v.version, rules.naming))) for v in versions]
        outputs += [EdgeClass(str(logged_model_urn(model.model_id, rules.naming))) for model in logged_models]
        aspects.append(DataProcessInstanceOutputClass(outputs=[], outputEdges=outputs))
    return Entity(run_urn(run.run_id, rules.naming), aspects, trim.cut)


@lru_cache(maxsize=4096)
def _in_experiment(name: str, naming: Naming, workspace: str) -> ContainerClass:
    return ContainerClass(str(experiment_urn(name, naming, workspace)))


def _relationships(run: Run, task: Task | None, naming: Naming) -> DataProcessInstanceRelationshipsClass | None:
    """The run that it is part of, and the task that started it: the tool's own run of that, where there is no other."""
    parent = tag_value(run.tags, "mlflow.parentRunId")
    parents = [str(run_urn(parent, naming))] if parent and parent != run.run_id else []
    if task and task.instance:
        parents.append(str(task.instance))
    template = task.template if task else None
    if not parents and template is None:
        return None
    return DataProcessInstanceRelationshipsClass(
        parentInstance=parents[0] if parents else None,
        parentTemplate=str(template) if template else None,
        upstreamInstances=parents[1:],
    )


def _properties(
    run: Run, web: Web, code_url_templates: Mapping[str, str], task: Task | None, trim: Trim
) -> DataProcessInstancePropertiesClass:
    ours = [
        ("run_id", run.run_id),
        ("experiment_id", run.experiment_id),
        ("status", run.status),
        ("user_id", run.user_id),
        ("artifact_uri", run.artifact_uri),
        ("lifecycle_stage", run.lifecycle_stage),
        ("code", source_code_url(run.tags, code_url_templates)),
        *(task.properties() if task else ()),
        *origin_of_run(run),
        *history_properties(run.histories, trim),
    ]
    return DataProcessInstancePropertiesClass(
        name=trim.value("name", run.name),
        created=AuditStampClass(run.start_time or 0, str(user_urn(run.user_id))),
        externalUrl=web.run(run.experiment_id, run.run_id),
        customProperties=trim.properties(run.tags, ours),
    )


def hyper_params(params: Tags, trim: Trim) -> list[MLHyperParamClass]:
    """Params under their own names, in order."""
    kept = trim.first("params", params, trim.limits.max_params)
    return [
        plain(MLHyperParamClass, name=name, description=None, value=trim.value(name, value), createdAt=None)
        for name, value in kept
    ]


def metrics(values: Sequence[Metric], trim: Trim) -> list[MLMetricClass]:
    """Last values, with their step and time."""
    kept = trim.first("metrics", values, trim.limits.max_metrics)
    return [
        plain(MLMetricClass, name=key, description=f"step {step}", value=str(value), createdAt=timestamp or None)
        for key, value, timestamp, step in kept
    ]


def _events(run: Run) -> Iterator[DataProcessInstanceRunEventClass]:
    """When it started, and how it ended."""
    if run.start_time is not None:
        yield DataProcessInstanceRunEventClass(run.start_time, DataProcessRunStatusClass.STARTED, partitionSpec=_WHOLE)
    result = _RESULTS.get(run.status)
    if result is None or (run.start_time is None and run.end_time is None):
        return
    # Without an end time, or with one before the start (clocks differ), it ended right after its start as far as
    # DataHub's time line goes: its last event is the run's state, and of two in one millisecond it keeps only one.
    after_start = run.start_time + 1 if run.start_time is not None else 0
    ended = max(run.end_time or 0, after_start)
    took = run.end_time - run.start_time if run.end_time is not None and run.start_time is not None else None
    yield DataProcessInstanceRunEventClass(
        ended,
        DataProcessRunStatusClass.COMPLETE,
        partitionSpec=_WHOLE,
        result=DataProcessInstanceRunResultClass(result, nativeResultType=run.status),
        durationMillis=took if took is not None and took >= 0 else None,
    )
