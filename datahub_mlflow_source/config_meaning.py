"""The part of the recipe that says what experiments and models mean to people, and whose they are."""

from __future__ import annotations

import re
from typing import Any

from datahub.configuration.common import AllowDenyPattern
from datahub.emitter.mce_builder import validate_ownership_type
from datahub.metadata.schema_classes import OwnershipTypeClass
from datahub.metadata.urns import DomainUrn
from pydantic import Field, ValidationInfo, field_validator

from datahub_mlflow_source.addresses import is_web_address
from datahub_mlflow_source.config_blocks import RecipeModel, map_like, nearest, regex_compiles, regexes_compile
from datahub_mlflow_source.errors import RecipeError
from datahub_mlflow_source.mapping.meta_mapping import check
from datahub_mlflow_source.mapping.templates import places

_SHAPES = {
    "links": "{Runbook: 'https://wiki.acme.example/{name}'}",
    "domain": "{risk: {allow: ['^credit']}}",
    "meta_mapping": "{data_class: {match: '.*', operation: add_term, config: {term: '{{ $match }}'}}}",
}
_IN_LINKS = ("name", "version", "run_id", "experiment", "experiment_id")
_OWNERS = ("urn:li:corpuser:", "urn:li:corpGroup:")

# Accounts that services run under, by whole names.
_NOBODY = (
    "root|administrator|nobody|unknown|anonymous|default|system",
    "jovyan|ubuntu|debian|centos|ec2-user|vscode|codespace|app|appuser|user|worker|runner|jenkins|gitlab-runner|ci",
    "airflow|dagster|prefect|argo|dolphinscheduler|spark|hadoop|hdfs|hive|yarn|mlflow|databricks|sagemaker-user",
    r"svc[-_].*|.*[-_]svc|service[-_].*|system:serviceaccount:.*|.*\.gserviceaccount\.com",
)


class OwnerConfig(RecipeModel):
    """An owner of all experiments and models, or of some."""

    owner: str = Field(min_length=1, description="A user name, or the URN of a user or group.")
    type: str | None = Field(default=None, description="Kind of ownership; without, `owner_type`.")
    pattern: AllowDenyPattern = Field(
        default_factory=AllowDenyPattern.allow_all, description="Names of experiments and models that are meant."
    )

    _regexes_compile = field_validator("pattern")(regexes_compile)

    @field_validator("owner")
    @classmethod
    def _is_owner(cls, owner: str) -> str:
        owner = owner.strip()
        if owner.startswith("urn:") and not (owner.startswith(_OWNERS) and owner not in _OWNERS):
            raise RecipeError(f"`owners`: {owner!r} is no user or group: urn:li:corpuser:…, urn:li:corpGroup:…")
        if not owner or not owner.isprintable():
            raise RecipeError("`owners`: an owner is a user name, or urn:li:corpGroup:…")
        return owner

    @field_validator("type")
    @classmethod
    def _is_type(cls, kind: str | None) -> str | None:
        return type_of_owner(kind) if kind else None


class MeaningConfig(RecipeModel):
    """Beside what people say in DataHub itself, which stays."""

    stage_tags: bool = Field(
        default=True,
        description="Gives versions in stage Production, Staging or Archived a tag of DataHub, "
        "`mlflow_production` and so on, beside the tags that people gave them there.",
    )
    alias_tags: bool = Field(
        default=False, description="Gives versions with an alias a tag, `mlflow_alias_champion` and so on."
    )
    meta_mapping: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="What tags of experiments, models, versions and their runs mean, by key, in DataHub's own syntax: "
        "`{data_class: {match: pii, operation: add_term, config: {term: Classification.PII}}}`. Operations: `add_tag`, "
        "`add_term`, `add_terms`, `add_owner`, `add_domain`, `add_doc_link`, `add_structured_property`.",
    )
    extract_owners: bool = Field(
        default=False,
        description="Makes owners of those who registered versions (or, where MLflow doesn't say, trained them), of "
        "these versions and their models; of experiments where a tag `mlflow.ownerEmail` or `mlflow.user` tells.",
    )
    owner_type: str = Field(
        default=OwnershipTypeClass.TECHNICAL_OWNER,
        description="Kind of ownership: `TECHNICAL_OWNER`, `BUSINESS_OWNER`, `DATA_STEWARD`, or a "
        "`urn:li:ownershipType:…` of your own.",
    )
    owner_deny_pattern: list[str] = Field(
        default_factory=lambda: list(_NOBODY),
        description="Regular expressions of whole user names that are nobody's, case aside: accounts that services "
        "run under. A list of your own replaces this one.",
    )
    owner_urn_template: str = Field(
        default="urn:li:corpuser:{user}",
        description="How DataHub calls a user of MLflow's: `urn:li:corpuser:{user}@acme.example`.",
    )
    owners: list[OwnerConfig] = Field(
        default_factory=list,
        description="Owners of experiments and models, whatever MLflow says: user names, URNs of groups, or "
        "`{owner: …, type: …, pattern: {allow: [...]}}`, whose pattern is of names of experiments and models.",
    )
    domain: dict[str, AllowDenyPattern] = Field(
        default_factory=dict,
        description="By domain (URN, id or name in DataHub), names of the experiments and models in it: "
        "`{risk: {allow: ['^credit']}}`. Where several fit, the last one counts.",
    )
    links: dict[str, str] = Field(
        default_factory=dict,
        description="Links on experiments, models and versions, by label: `{Runbook: "
        "'https://wiki.acme.example/models/{name}'}`. Places are `{name}` and `{version}` of a model, `{run_id}`, "
        "`{experiment}`, `{experiment_id}`; a link goes where all its places are known.",
    )
    structured_properties: bool = Field(
        default=False,
        description="Gives versions structured properties to filter by: flavor, framework version, git commit, status "
        "of the training run, number of source datasets, who registered it, aliases. Their definitions are put into "
        "DataHub first.",
    )
    deprecate_archived: bool = Field(
        default=False,
        description="Deprecates versions in stage Archived, and versions and models with a tag `deprecated`, unless "
        "somebody decided otherwise in DataHub; and takes that back once MLflow says so no more.",
    )

    @field_validator("meta_mapping", mode="before")
    @classmethod
    def _are_rules(cls, rules: Any) -> Any:
        for key, rule in rules.items() if isinstance(rules, dict) else ():
            try:
                check(str(key), rule)
            except ValueError as error:
                raise RecipeError(str(error)) from error
        return rules

    @field_validator("links", "domain", "meta_mapping", mode="before")
    @classmethod
    def _are_maps(cls, values: Any, info: ValidationInfo) -> Any:
        return map_like(values, str(info.field_name), _SHAPES[str(info.field_name)])

    @field_validator("owner_type")
    @classmethod
    def _is_owner_type(cls, kind: str) -> str:
        return type_of_owner(kind)

    @field_validator("owner_deny_pattern")
    @classmethod
    def _compile(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            regex_compiles(pattern)
        return patterns

    @field_validator("owner_urn_template")
    @classmethod
    def _makes_owners(cls, template: str) -> str:
        if not template.startswith(_OWNERS) or template.count("{user}") != 1 or set(places(template)) != {"user"}:
            raise RecipeError("must be like urn:li:corpuser:{user} or urn:li:corpGroup:{user}")
        return template

    @field_validator("owners", mode="before")
    @classmethod
    def _may_be_names(cls, owners: Any) -> Any:
        if not isinstance(owners, list):
            return owners
        return [{"owner": owner} if isinstance(owner, str) else owner for owner in owners]

    @field_validator("domain")
    @classmethod
    def _are_domains(cls, domains: dict[str, AllowDenyPattern]) -> dict[str, AllowDenyPattern]:
        for name, pattern in domains.items():
            if not name.strip() or (
                name.startswith("urn:") and not name.startswith(f"urn:li:{DomainUrn.ENTITY_TYPE}:")
            ):
                raise RecipeError(f"`domain`: {name!r} is no domain: its name, its id, or urn:li:domain:…")
            regexes_compile(pattern)
        return domains

    @field_validator("links")
    @classmethod
    def _lead_somewhere(cls, links: dict[str, str]) -> dict[str, str]:
        for label, template in links.items():
            if "{" in (left := re.sub(r"\{[^{}]+\}", "", template)) or "}" in left:
                raise RecipeError(f"`links.{label}`: a place is like {{name}}, with one brace at each side")
            for place in places(template):
                if place not in _IN_LINKS:
                    raise RecipeError(f"`links.{label}`: {{{place}}} is not known. {nearest(place, list(_IN_LINKS))}")
            if not is_web_address(re.sub(r"[{}\[\]|]", "", template)) or "@" in template.partition("?")[0]:
                raise RecipeError(f"`links.{label}` must be an address, https://…, without a password")
            if not label.strip():
                raise RecipeError("`links`: a link needs a label")
        return links


def type_of_owner(kind: str) -> str:
    """As DataHub has it. Raises RecipeError."""
    try:
        known, urn = validate_ownership_type(kind)
    except ValueError as error:
        raise RecipeError(f"{kind!r} is no kind of ownership: TECHNICAL_OWNER, or urn:li:ownershipType:…") from error
    return urn or known
