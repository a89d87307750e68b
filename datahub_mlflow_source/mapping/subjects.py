"""Experiments, models and versions as the recipe's rules of meaning look at them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from datahub.metadata.schema_classes import (
    PropertyCardinalityClass,
    StructuredPropertyDefinitionClass,
    StructuredPropertySettingsClass,
    TagPropertiesClass,
)
from datahub.metadata.urns import DataTypeUrn, EntityTypeUrn, MlModelUrn

from datahub_mlflow_source.mapping.code import commit_of
from datahub_mlflow_source.mapping.datasets import InputDataset
from datahub_mlflow_source.mapping.governance import Subject
from datahub_mlflow_source.mapping.model_files import library_version, model_type
from datahub_mlflow_source.mapping.rules import Entity, tag_value
from datahub_mlflow_source.mapping.urns import alias_tag_urn, structured_property_urn
from datahub_mlflow_source.records import (
    Experiment,
    FoundFile,
    LoggedModel,
    ModelVersion,
    RegisteredModel,
    Run,
    Tags,
)
from datahub_mlflow_source.redaction import redact

# Of an experiment: Databricks says who made it; open-source MLflow doesn't, but tags of people's own may.
_OWNERS_OF_EXPERIMENT = ("mlflow.ownerEmail", "mlflow.user")
_LONGEST_VALUE = 1000  # characters; a filter shows no more

# Values that auditors filter by: id, name, type, description, whether there may be several.
_PROPERTIES = (
    ("mlflow.flavor", "MLflow flavor", "string", "Form in which the model was saved: sklearn, xgboost, …", False),
    ("mlflow.framework_version", "Framework version", "string", "Version of the library it was made with.", False),
    ("mlflow.git_commit", "Git commit", "string", "Commit of the code that trained it.", False),
    ("mlflow.training_run_status", "Training run status", "string", "How its training run ended.", False),
    ("mlflow.source_dataset_count", "Source datasets", "number", "How many datasets its training run read.", False),
    ("mlflow.registered_by", "Registered by", "string", "Who registered it, or else who trained it.", False),
    ("mlflow.alias", "MLflow alias", "string", "Names that stand for this version: champion, …", True),
)
PROPERTIES = frozenset(str(structured_property_urn(name)) for name, *_ in _PROPERTIES)


def subject_of_experiment(experiment: Experiment) -> Subject:
    users = [tag_value(experiment.tags, key) for key in _OWNERS_OF_EXPERIMENT]
    places = {"experiment": experiment.name, "experiment_id": experiment.experiment_id}
    time = experiment.last_update_time or experiment.creation_time
    return Subject(experiment.name, experiment.tags, users=users, time=time, places=places)


def subject_of_model(model: RegisteredModel, users: Sequence[str]) -> Subject:
    """`users`: who registered its versions, or trained them."""
    time = model.last_updated_time or model.creation_time
    return Subject(model.name, model.tags, users=users, time=time, places={"name": model.name})


def subject_of_version(
    version: ModelVersion,
    run: Run | None,
    experiment: Experiment | None,
    file: FoundFile | None,
    inputs: Sequence[InputDataset],
) -> Subject:
    """With the tags of its run, where it has none of that key itself: a run has no place for what rules say."""
    places = {"name": version.name, "version": version.version, "run_id": version.run_id}
    if experiment:
        places |= {"experiment": experiment.name, "experiment_id": experiment.experiment_id}
    user = creator_of(version, run)
    said: dict[str, Sequence[str | float]] = {
        "mlflow.flavor": [model_type(file) or ""],
        "mlflow.framework_version": [library_version(file)],
        "mlflow.git_commit": [commit_of(run.tags) if run else ""],
        "mlflow.training_run_status": [run.status if run else ""],
        "mlflow.source_dataset_count": [float(len({str(each.urn) for each in inputs}))] if run else [],
        "mlflow.registered_by": [user],
        "mlflow.alias": list(version.aliases),
    }
    return Subject(
        version.name,
        _with_those_of(run, version.tags),
        users=[user],
        aliases=version.aliases,
        time=version.last_updated_time or version.creation_time,
        places=places,
        properties={
            str(structured_property_urn(name)): clean for name, values in said.items() if (clean := _clean(values))
        },
    )


def subject_of_logged_model(model: LoggedModel, run: Run | None, experiment: Experiment) -> Subject:
    """A model that no version was made of."""
    places = {"run_id": model.source_run_id, "experiment": experiment.name, "experiment_id": experiment.experiment_id}
    users = [tag_value(model.tags, "mlflow.user") or (run.user_id if run else "")]
    time = model.last_updated_time or model.creation_time
    return Subject(model.name, _with_those_of(run, model.tags), users=users, time=time, places=places)


def creator_of(version: ModelVersion, run: Run | None) -> str:
    """Open-source MLflow doesn't say who registered a version; whoever trained it comes nearest."""
    return version.user_id or (run.user_id if run else "")


def _with_those_of(run: Run | None, tags: Tags) -> Tags:
    return tuple({**dict(run.tags), **dict(tags)}.items()) if run else tags


def _clean(values: Sequence[str | float]) -> tuple[str | float, ...]:
    clean = (redact(value)[:_LONGEST_VALUE] if isinstance(value, str) else value for value in values)
    return tuple(value for value in clean if value != "")


def property_definitions() -> Iterator[Entity]:
    """What the structured properties are: DataHub takes no value of one that it doesn't know."""
    for name, display_name, kind, description, several in _PROPERTIES:
        definition = StructuredPropertyDefinitionClass(
            qualifiedName=name,
            valueType=str(DataTypeUrn(f"datahub.{kind}")),
            entityTypes=[str(EntityTypeUrn(f"datahub.{MlModelUrn.ENTITY_TYPE}"))],
            displayName=display_name,
            description=description,
            cardinality=PropertyCardinalityClass.MULTIPLE if several else PropertyCardinalityClass.SINGLE,
        )
        settings = StructuredPropertySettingsClass(showInSearchFilters=True)
        yield Entity(structured_property_urn(name), [definition, settings])


def alias_tag(alias: str) -> Entity:
    """The tag of an alias."""
    text = f"Alias {alias} of a model version in MLflow's registry."
    return Entity(alias_tag_urn(alias), [TagPropertiesClass(name=f"mlflow_alias_{alias}", description=text)])
