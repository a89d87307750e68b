"""Experiments and the registry, as containers."""

from __future__ import annotations

from datahub.metadata.schema_classes import ContainerPropertiesClass, TimeStampClass
from datahub.metadata.urns import ContainerUrn

from datahub_mlflow_source.mapping.evaluation import Measured, measured_properties
from datahub_mlflow_source.mapping.rules import NOTE, Entity, Rules, Trim, platform_aspects, tag_value, without
from datahub_mlflow_source.mapping.urns import experiment_urn
from datahub_mlflow_source.records import Experiment

EXPERIMENT = "ML Experiment"  # the built-in's subtype (MLAssetSubTypes.MLFLOW_EXPERIMENT)
REGISTRY = "Model Registry"


def map_experiment(experiment: Experiment, measured: Measured, rules: Rules) -> Entity:
    """Everything DataHub shows about one experiment."""
    trim = Trim(rules.limits)
    properties = trim.properties(
        without(experiment.tags, NOTE),
        [
            ("experiment_id", experiment.experiment_id),
            ("artifact_location", experiment.artifact_location),
            ("lifecycle_stage", experiment.lifecycle_stage),
            *measured_properties(measured, trim),
        ],
    )
    container = ContainerPropertiesClass(
        name=experiment.name,
        description=trim.description(tag_value(experiment.tags, NOTE)),
        customProperties=properties,
        externalUrl=rules.web.experiment(experiment.experiment_id),
        created=time_stamp(experiment.creation_time),
        lastModified=time_stamp(experiment.last_update_time),
    )
    urn = experiment_urn(experiment.name, rules.naming)
    return Entity(urn, [container, *platform_aspects(EXPERIMENT, rules.naming)], trim.cut)


def map_registry(urn: ContainerUrn, rules: Rules) -> Entity:
    """The container that registered models are in, for people who browse."""
    container = ContainerPropertiesClass(
        name="Model Registry",
        description="The models that are registered in this MLflow.",
        externalUrl=rules.registry_web.models(),
    )
    return Entity(urn, [container, *platform_aspects(REGISTRY, rules.naming)])


def time_stamp(time: int | None) -> TimeStampClass | None:
    """A time without an actor: MLflow doesn't say who."""
    return TimeStampClass(time) if time is not None else None
