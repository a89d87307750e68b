"""Registered models, as groups; their versions, as models."""

from __future__ import annotations

from collections.abc import Sequence

from datahub.metadata.schema_classes import (
    AuditStampClass,
    ContainerClass,
    MetadataAttributionClass,
    MLModelGroupPropertiesClass,
    MLModelPropertiesClass,
    VersionPropertiesClass,
    VersionTagClass,
    _Aspect,
)
from datahub.metadata.urns import ContainerUrn, MlModelDeploymentUrn

from datahub_mlflow_source.mapping.copies import origin_of_version
from datahub_mlflow_source.mapping.datasets import InputDataset
from datahub_mlflow_source.mapping.features import features_of
from datahub_mlflow_source.mapping.histories import history_properties
from datahub_mlflow_source.mapping.logged_models import (
    CONNECTOR,
    folded_metrics,
    folded_params,
    folded_properties,
    origin,
)
from datahub_mlflow_source.mapping.model_files import card_of, file_properties, model_type, signature
from datahub_mlflow_source.mapping.prompts import (
    PROMPT,
    PROMPT_TEXT,
    PROMPT_VERSION,
    is_prompt,
    prompt_properties,
    prompt_text,
)
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
from datahub_mlflow_source.mapping.runs import hyper_params, metrics
from datahub_mlflow_source.mapping.subjects import creator_of
from datahub_mlflow_source.mapping.urns import (
    model_group_urn,
    model_version_urn,
    run_urn,
    user_urn,
    version_set_urn,
    workspace_urn,
)
from datahub_mlflow_source.records import FoundFile, LoggedModel, ModelVersion, RegisteredModel, Run, Tags
from datahub_mlflow_source.redaction import is_secret_key, redact

MODEL_GROUP = "ML Model Group"
MODEL = "ML Model"

_MOST_TRAINING_JOBS = 500  # of a group, the latest; DataHub's page shows 100
_OF_MLFLOW = ("mlflow.", "_mlflow_")
_MOST_PILLS, _LONGEST_PILL = 20, 60


def map_model(
    model: RegisteredModel,
    latest_version: str | None,
    run_ids: Sequence[str],
    registry: ContainerUrn,
    rules: Rules,
) -> Entity:
    """Everything DataHub shows about one registered model.

    `run_ids` are the emitted runs that its versions came from, the latest first.
    """
    trim = Trim(rules.limits)
    jobs = trim.first("training jobs", run_ids, _MOST_TRAINING_JOBS)
    prompt, web = is_prompt(model.tags), rules.registry_web.of(model.workspace)
    properties = MLModelGroupPropertiesClass(
        name=model.name,
        description=trim.description(model.description or tag_value(model.tags, NOTE)),
        customProperties=trim.properties(
            model.tags,
            [
                ("name", model.name),
                ("aliases", ", ".join(f"{a}={v}" for a, v in model.aliases)),
                ("workspace", model.workspace),
            ],
        ),
        externalUrl=web.prompt(model.name) if prompt else web.model(model.name),
        created=time_stamp(model.creation_time),
        lastModified=time_stamp(model.last_updated_time),
        version=_version_tag(latest_version, model.last_updated_time) if latest_version else None,
        trainingJobs=[str(run_urn(run_id, rules.naming)) for run_id in jobs],
    )
    aspects: list[_Aspect] = [
        properties,
        _in_container(model.workspace, registry, rules),
        *platform_aspects(PROMPT if prompt else MODEL_GROUP, rules.naming),
    ]
    return Entity(model_group_urn(model.full_name, rules.naming), aspects, trim.cut)


def map_version(
    version: ModelVersion,
    run: Run | None,
    run_is_emitted: bool,
    logged: LoggedModel | None,
    file: FoundFile | None,
    inputs: Sequence[InputDataset],
    deployments: Sequence[MlModelDeploymentUrn],
    registry: ContainerUrn,
    rules: Rules,
) -> Entity:
    """Everything DataHub shows about one model version.

    `run` is the one it came from, and `inputs` what that read: None and empty where the run is not there any more
    or was not asked for. `logged` is the logged model that was registered, since MLflow 3; `file` what became of its
    `MLmodel`, None where that was not asked for; `deployments` where it is served.
    """
    trim = Trim(rules.limits)
    properties = _properties(version, run, run_is_emitted, logged, file, rules, trim)
    properties.deployments = [str(urn) for urn in deployments] or None
    properties.mlFeatures = [str(urn) for urn in features_of(run)] or None
    aspects: list[_Aspect] = [
        properties,
        _version_properties(version, run, rules),
        _in_container(version.workspace, registry, rules),
        *platform_aspects(PROMPT_VERSION if is_prompt(version.tags) else MODEL, rules.naming),
        *origin(run, inputs, rules),
    ]
    return Entity(model_version_urn(version.full_name, version.version, rules.naming), aspects, trim.cut)


def _properties(
    version: ModelVersion,
    run: Run | None,
    run_is_emitted: bool,
    logged: LoggedModel | None,
    file: FoundFile | None,
    rules: Rules,
    trim: Trim,
) -> MLModelPropertiesClass:
    naming = rules.naming
    ours = [
        ("name", version.name),
        ("version", version.version),
        ("run_id", version.run_id),
        ("source", version.source),
        ("stage", version.stage),
        ("status", version.status),
        ("status_message", version.status_message),
        ("run_link", version.run_link),
        ("user_id", version.user_id),
        ("model_id", version.model_id),
        ("workspace", version.workspace),
        *(history_properties(run.histories, trim) if run else ()),
        *(folded_properties(logged, trim) if logged else ()),
        *file_properties(file, trim),
        *prompt_properties(version, trim),
        *origin_of_version(version),
    ]
    if logged:
        params, metrics_ = hyper_params(folded_params(run, logged), trim), folded_metrics(run, logged, trim)
    elif run:
        params, metrics_ = hyper_params(run.params, trim), metrics(run.metrics, trim)
    else:
        params, metrics_ = None, None
    user, web = creator_of(version, run), rules.registry_web.of(version.workspace)
    return MLModelPropertiesClass(
        name=f"{version.name}{naming.separator}{version.version}",
        description=trim.description(
            prompt_text(version.tags) or version.description or tag_value(version.tags, NOTE) or card_of(file)
        ),
        customProperties={**trim.properties(without(version.tags, PROMPT_TEXT), ours), **signature(file, trim)},
        type=model_type(file),
        externalUrl=web.prompt(version.name) if is_prompt(version.tags) else web.version(version.name, version.version),
        created=time_stamp(version.creation_time, user),
        lastModified=time_stamp(version.last_updated_time),
        hyperParams=params,
        trainingMetrics=metrics_,
        trainingJobs=[str(run_urn(version.run_id, naming))] if run_is_emitted else [],
        groups=[str(model_group_urn(version.full_name, naming))],
        tags=_pills(version.tags),
    )


def _in_container(workspace: str, registry: ContainerUrn, rules: Rules) -> ContainerClass:
    return ContainerClass(str(workspace_urn(workspace, rules.naming) if workspace else registry))


def _pills(tags: Tags) -> list[str]:
    """`key:value` as the built-in has it, for the group's table; only what a person can read there."""
    shown = [(key, value) for key, value in tags if not (key.startswith(_OF_MLFLOW) or is_secret_key(key))]
    texts = [f"{key}:{redact(value)}" if value else key for key, value in shown]
    return [text for text in texts if len(text) <= _LONGEST_PILL and "\n" not in text and "://" not in text][
        :_MOST_PILLS
    ]


def _version_properties(version: ModelVersion, run: Run | None, rules: Rules) -> VersionPropertiesClass:
    created = version.creation_time
    return VersionPropertiesClass(
        versionSet=str(version_set_urn(version.full_name, rules.naming)),
        version=_version_tag(version.version, created),
        aliases=[VersionTagClass(alias) for alias in version.aliases],
        # The server compares these as text; its latest is the greatest.
        sortId=version.version.zfill(10),
        sourceCreatedTimestamp=AuditStampClass(created, str(user_urn(creator_of(version, run))))
        if created is not None
        else None,
    )


def _version_tag(version: str, time: int | None) -> VersionTagClass:
    attribution = MetadataAttributionClass(time, CONNECTOR) if time is not None else None
    return VersionTagClass(version, attribution)
