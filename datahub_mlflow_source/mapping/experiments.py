"""Experiments, the registry and workspaces, as containers."""

from __future__ import annotations

from datahub.metadata.schema_classes import ContainerClass, ContainerPropertiesClass, _Aspect
from datahub.metadata.urns import ContainerUrn

from datahub_mlflow_source.mapping.evaluation import Measured, measured_properties
from datahub_mlflow_source.mapping.rules import (
    NOTE,
    Entity,
    Rules,
    Trim,
    platform_aspects,
    tag_value,
    time_stamp,
    without,
)
from datahub_mlflow_source.mapping.urns import experiment_urn, workspace_urn
from datahub_mlflow_source.records import Experiment, Workspace

EXPERIMENT = "ML Experiment"  # the built-in's subtype (MLAssetSubTypes.MLFLOW_EXPERIMENT)
REGISTRY = "Model Registry"
WORKSPACE = "ML Workspace"


def map_experiment(experiment: Experiment, measured: Measured, rules: Rules) -> Entity:
    """Everything DataHub shows about one experiment."""
    trim = Trim(rules.limits)
    properties = trim.properties(
        without(experiment.tags, NOTE),
        [
            ("experiment_id", experiment.experiment_id),
            ("artifact_location", experiment.artifact_location),
            ("lifecycle_stage", experiment.lifecycle_stage),
            ("workspace", experiment.workspace),
            *measured_properties(measured, trim),
        ],
    )
    container = ContainerPropertiesClass(
        name=experiment.name,
        description=trim.description(tag_value(experiment.tags, NOTE)),
        customProperties=properties,
        externalUrl=rules.web.of(experiment.workspace).experiment(experiment.experiment_id),
        created=time_stamp(experiment.creation_time),
        lastModified=time_stamp(experiment.last_update_time),
    )
    aspects: list[_Aspect] = [container, *platform_aspects(EXPERIMENT, rules.naming)]
    if experiment.workspace:
        aspects.append(ContainerClass(str(workspace_urn(experiment.workspace, rules.naming))))
    return Entity(experiment_urn(experiment.name, rules.naming, experiment.workspace), aspects, trim.cut)


def map_workspace(workspace: Workspace, rules: Rules) -> Entity:
    """Everything DataHub shows about a workspace other than the default one."""
    trim = Trim(rules.limits)
    container = ContainerPropertiesClass(
        name=workspace.name,
        description=trim.description(workspace.description),
        customProperties=trim.properties(
            (),
            [
                ("workspace", workspace.name),
                ("artifact_root", workspace.artifact_root),
                ("trace_archival_location", workspace.trace_archival_location),
                ("trace_archival_retention", workspace.trace_archival_retention),
            ],
        ),
        externalUrl=rules.web.of(workspace.name).home(),
    )
    aspects = [container, *platform_aspects(WORKSPACE, rules.naming)]
    return Entity(workspace_urn(workspace.name, rules.naming), aspects, trim.cut)


def map_registry(urn: ContainerUrn, rules: Rules) -> Entity:
    """The container that registered models are in, for people who browse."""
    container = ContainerPropertiesClass(
        name="Model Registry",
        description="The models that are registered in this MLflow.",
        externalUrl=rules.registry_web.models(),
    )
    return Entity(urn, [container, *platform_aspects(REGISTRY, rules.naming)])
