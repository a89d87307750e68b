"""Flows and tasks of orchestrators that DataHub has no integration of: entities of ours, which runs point to."""

from __future__ import annotations

from datahub.metadata.schema_classes import (
    DataFlowInfoClass,
    DataJobInfoClass,
    DataPlatformInfoClass,
    DataPlatformInstanceClass,
    PlatformTypeClass,
    SubTypesClass,
    _Aspect,
)
from datahub.metadata.urns import DataPlatformUrn

from datahub_mlflow_source.mapping.orchestrators import Task
from datahub_mlflow_source.mapping.rules import Entity, Rules, Trim
from datahub_mlflow_source.mapping.urns import PLATFORM, data_platform_instance_urn

FLOW, JOB = "Workflow", "Task"

# Names of platforms for people. DataHub knows databricks and mlflow by itself (`bootstrap_mcps/data-platforms.yaml`).
_NAMES = {
    "argo": "Argo Workflows",
    "dolphinscheduler": "DolphinScheduler",
    "kedro": "Kedro",
    "kubeflow": "Kubeflow Pipelines",
    "metaflow": "Metaflow",
    "zenml": "ZenML",
}
_KNOWN_TO_DATAHUB = frozenset({"databricks", PLATFORM})


def map_flow(task: Task, rules: Rules) -> Entity:
    """The flow of a task of ours."""
    trim = Trim(rules.limits)
    if task.flow is None:
        raise ValueError("a task of ours has a flow")
    info = DataFlowInfoClass(
        name=trim.value("flow", task.flow_name), externalUrl=task.url or None, env=rules.naming.env
    )
    return Entity(task.flow, [info, *_platform_aspects(task, FLOW)], trim.cut)


def map_job(task: Task, rules: Rules) -> Entity:
    """The task itself, of ours."""
    if task.job is None:
        raise ValueError("only its flow is known")
    trim = Trim(rules.limits)
    info = DataJobInfoClass(
        name=trim.value("task", task.task_name),
        type="COMMAND",
        flowUrn=str(task.flow),
        externalUrl=task.url or None,
        env=rules.naming.env,
    )
    return Entity(task.job, [info, *_platform_aspects(task, JOB)], trim.cut)


def platform_of_task(task: Task) -> Entity | None:
    """The tool as a platform, where DataHub may not know it."""
    if task.orchestrator in _KNOWN_TO_DATAHUB:
        return None
    name = _NAMES.get(task.orchestrator, task.orchestrator)
    info = DataPlatformInfoClass(
        name=task.orchestrator, type=PlatformTypeClass.OTHERS, datasetNameDelimiter=".", displayName=name
    )
    return Entity(DataPlatformUrn(task.orchestrator), [info])


def _platform_aspects(task: Task, subtype: str) -> list[_Aspect]:
    platform = str(DataPlatformUrn(task.orchestrator))
    instance = data_platform_instance_urn(task.orchestrator, task.platform_instance) if task.platform_instance else None
    return [SubTypesClass([subtype]), DataPlatformInstanceClass(platform, str(instance) if instance else None)]
