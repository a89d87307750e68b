"""From the recipe to what mapping and the walk need of it."""

from __future__ import annotations

import re
import time
import warnings
from dataclasses import replace

import requests
from datahub.configuration.common import AllowDenyPattern, OperationalError
from datahub.emitter.mce_builder import validate_ownership_type
from datahub.ingestion.graph.client import DataHubGraph
from datahub.metadata.schema_classes import (
    DeprecationClass,
    DomainsClass,
    GlobalTagsClass,
    GlossaryTermsClass,
    InstitutionalMemoryClass,
    OwnershipClass,
    StructuredPropertiesClass,
)
from datahub.utilities.registries.domain_registry import DomainRegistry

from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.config_lineage import DatasetRuleConfig, OrchestratorConfig
from datahub_mlflow_source.config_meaning import OwnerConfig
from datahub_mlflow_source.errors import RecipeError
from datahub_mlflow_source.mapping.governance import Meanings, OwnerRule, UsersAsOwners
from datahub_mlflow_source.mapping.lineage import PlatformNaming
from datahub_mlflow_source.mapping.meta_mapping import MetaMapping
from datahub_mlflow_source.mapping.orchestrators import (
    CONVENTION,
    KNOWN,
    OF_NOBODY,
    OF_OTHERS,
    Orchestrator,
    Orchestrators,
)
from datahub_mlflow_source.mapping.rules import Limits, Rules, TableRule, Web
from datahub_mlflow_source.mapping.urns import Naming, domain_urn, owner_urn
from datahub_mlflow_source.readers.base import WHOLE, RunScope, Shard
from datahub_mlflow_source.selection import Allowed, DeploymentTags, Selection

# A key that the recipe has with nothing in it takes back what it said before.
_CLEARED_BY: dict[str, frozenset[str]] = {
    "alias_tags": frozenset({GlobalTagsClass.ASPECT_NAME}),
    "extract_owners": frozenset({OwnershipClass.ASPECT_NAME}),
    "owners": frozenset({OwnershipClass.ASPECT_NAME}),
    "domain": frozenset({DomainsClass.ASPECT_NAME}),
    "links": frozenset({InstitutionalMemoryClass.ASPECT_NAME}),
    "structured_properties": frozenset({StructuredPropertiesClass.ASPECT_NAME}),
    "deprecate_archived": frozenset({DeprecationClass.ASPECT_NAME}),
    "meta_mapping": frozenset(
        {GlobalTagsClass.ASPECT_NAME, GlossaryTermsClass.ASPECT_NAME, OwnershipClass.ASPECT_NAME}
    ),
}
_FILES_FOR_EACH_WORKER = 8  # small ones, for which the server mostly waits
_DAY_MILLIS = 24 * 60 * 60 * 1000


def rules_of(config: MlflowSourceConfig, tracking_url: str | None = None, registry_url: str | None = None) -> Rules:
    """Without the address of a server there are no links, unless the recipe says where people open MLflow."""
    return Rules(
        naming=Naming(config.env, config.platform_instance, config.model_name_separator),
        limits=Limits(**config.limits.model_dump()),
        web=Web(config.base_external_url or tracking_url),
        registry_web=Web(registry_url if registry_url != tracking_url else config.base_external_url or tracking_url),
        platform_of_type=config.source_mapping_to_platform or {},
        naming_of_platform={
            platform: PlatformNaming(each.platform_instance, each.env, each.convert_urns_to_lowercase)
            for platform, each in config.dataset_platform_map.items()
        },
        code_url_templates=config.code_url_templates,
        table_rules=tuple(map(_table_rule, config.dataset_rules)),
        orchestrators=Orchestrators(_orchestrators(config.orchestrators)),
    )


def _table_rule(rule: DatasetRuleConfig) -> TableRule:
    of, key = ("param", rule.param) if rule.param is not None else ("tag", rule.tag)
    return TableRule(
        "param" if of == "param" else "tag", key or "", rule.platform, rule.separator, rule.prefix, rule.context
    )


def _orchestrators(said: dict[str, OrchestratorConfig]) -> tuple[Orchestrator, ...]:
    """Those of the recipe before those that are known; of a known tool what the recipe says otherwise."""
    of_recipe: list[Orchestrator] = []
    known = list(KNOWN)
    for platform, config in said.items():
        texts = {key: value for key, value in config.model_dump(exclude={"when", "emit"}).items() if value is not None}
        is_ours = platform not in OF_OTHERS if config.emit is None else config.emit
        if config.flow or config.run:
            when = config.when or {}
            of_recipe.append(Orchestrator(platform, when=when, is_ours=is_ours, **texts))
            continue
        settings = {**texts, "is_ours": is_ours}
        known = [replace(each, **settings) if each.platform == platform else each for each in known]
        named = {"orchestrator.name": f"(?i:{re.escape(platform)})"}
        settings["is_ours"] = is_ours and (config.emit is True or platform in OF_NOBODY)
        of_recipe.append(replace(CONVENTION, platform=platform, when=named, **settings))
    return (*of_recipe, *known)


def meanings_of(config: MlflowSourceConfig, graph: DataHubGraph | None) -> Meanings:
    """Raises RecipeError where DataHub doesn't know a domain."""
    users = None
    kind, kind_urn = validate_ownership_type(config.owner_type)
    if config.extract_owners:
        denied = tuple(re.compile(pattern, re.IGNORECASE) for pattern in config.owner_deny_pattern)
        users = UsersAsOwners(denied, config.owner_urn_template, kind, kind_urn)
    return Meanings(
        mapping=MetaMapping(config.meta_mapping),
        owners=tuple(_owner_rule(owner, config) for owner in config.owners),
        users=users,
        domains=tuple((urn, config.domain[name].allowed) for name, urn in _domains(config, graph).items()),
        links=config.links,
        alias_tags=config.alias_tags,
        structured_properties=config.structured_properties,
        deprecate_archived=config.deprecate_archived,
        cleared=frozenset[str]().union(
            *(
                aspects
                for key, aspects in _CLEARED_BY.items()
                if key in config.model_fields_set and not getattr(config, key)
            )
        ),
    )


def _owner_rule(owner: OwnerConfig, config: MlflowSourceConfig) -> OwnerRule:
    kind, kind_urn = validate_ownership_type(owner.type or config.owner_type)
    of_group = owner.owner.startswith("urn:li:corpGroup:")
    prefix = "urn:li:corpGroup:" if of_group else "urn:li:corpuser:"
    urn = owner_urn(f"{prefix}{{user}}", owner.owner.removeprefix(prefix))
    return OwnerRule(str(urn), kind, kind_urn, owner.pattern.allowed)


def _domains(config: MlflowSourceConfig, graph: DataHubGraph | None) -> dict[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of DataHub's client, by DataHub's registry
            registry = DomainRegistry(list(config.domain), graph)
        return {name: str(domain_urn(registry.get_domain_urn(name))) for name in config.domain}
    except (ValueError, OperationalError, requests.RequestException) as error:
        raise RecipeError(f"`domain`: {error}") from error


def shard_of(config: MlflowSourceConfig) -> Shard:
    """Which part of the work is asked for."""
    return Shard(config.shard.index, config.shard.count) if config.shard else WHOLE


def selection_of(config: MlflowSourceConfig) -> Selection:
    """What the recipe leaves in, as of now."""
    days = config.run_retention_days
    scope = RunScope(
        include_deleted=config.include_deleted,
        filter=config.run_filter,
        started_after=int(time.time() * 1000) - days * _DAY_MILLIS if days else None,
        latest_per_experiment=config.max_runs_per_experiment,
        shard=shard_of(config),
    )
    tags = config.deployments.tags
    return Selection(
        experiment=config.experiment_pattern.allowed,
        model=config.model_pattern.allowed,
        run_name=_allowed(config.run_name_pattern),
        run_user=_allowed(config.run_user_pattern),
        runs=scope,
        include_runs=config.include_runs,
        metric_history=config.metric_history_pattern.allowed if config.metric_history_pattern else None,
        include_datasets=config.include_datasets,
        include_prompts=config.include_prompts,
        include_traces=config.include_traces,
        include_deployments=config.include_deployments,
        deployment_tags=DeploymentTags(tags.target, tags.name, tags.url or "", tags.status or "") if tags else None,
        include_logged_models=config.include_logged_models,
        include_artifacts=config.include_artifacts,
        artifacts_at_once=_FILES_FOR_EACH_WORKER * config.max_workers,
        logged_model=config.logged_models.pattern.allowed,
        most_logged_models=config.logged_models.max_per_run,
        stage_tags=config.stage_tags,
        patches=False,
        writes=False,
        stamps_terms=False,
        marks_domains=False,
        aspects_not_patched=frozenset(),
        versions_in_memory=config.versions_in_memory,
    )


def _allowed(pattern: AllowDenyPattern) -> Allowed:
    """What is asked of every run: a pattern that leaves all in doesn't have to look at it."""
    return (lambda _: True) if pattern == AllowDenyPattern.allow_all() else pattern.allowed
