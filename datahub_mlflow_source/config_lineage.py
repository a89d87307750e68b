"""The part of the recipe that says where data comes from, by which code, and what started the runs."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from datahub_mlflow_source.addresses import is_web_address
from datahub_mlflow_source.config_blocks import RecipeModel, env_of_datahub, map_like, part_of_urn, regex_compiles
from datahub_mlflow_source.errors import RecipeError
from datahub_mlflow_source.mapping.templates import places

_PLATFORM = re.compile(r"[a-z][a-z0-9_-]{0,49}")


class DatasetPlatformConfig(RecipeModel):
    """How the connector of one platform was told to name its datasets: as in its own recipe."""

    platform_instance: str | None = Field(default=None, description="Its `platform_instance`.")
    env: str | None = Field(default=None, description="Its `env`, where that is not ours.")
    convert_urns_to_lowercase: bool | None = Field(
        default=None,
        description="Whether it writes names in lower case. Without, as its connector does by itself; with false, as "
        "the run logged them.",
    )

    _is_env = field_validator("env")(env_of_datahub)
    _is_part_of_urn = field_validator("platform_instance")(part_of_urn)


class DatasetRuleConfig(RecipeModel):
    """A param or tag of runs that names tables or files which they read, without having logged them as datasets."""

    param: str | None = Field(default=None, min_length=1, description="Key of the param; or `tag`.")
    tag: str | None = Field(default=None, min_length=1, description="Key of the tag; or `param`.")
    platform: str = Field(description="The platform that the names are of: `iceberg`, `snowflake`, `s3`.")
    prefix: str = Field(
        default="", description="What the names lack in front: `warehouse.` for a table, `s3://bucket/` for a path."
    )
    separator: str = Field(
        default=",", min_length=1, description="What stands between several names. A JSON list is understood too."
    )
    context: Literal["training", "validation", "test", "evaluation"] = Field(
        default="training", description="What the run read them for."
    )

    @model_validator(mode="after")
    def _is_of_one(self) -> DatasetRuleConfig:
        if (self.param is None) == (self.tag is None):
            raise RecipeError("a rule of `dataset_rules` needs one of `param` and `tag`")
        return self

    @field_validator("platform")
    @classmethod
    def _is_platform(cls, platform: str) -> str:
        return platform_of_datahub("dataset_rules", platform)


class OrchestratorConfig(RecipeModel):
    """A tool that starts runs. For the tools that are known, what is said here is instead of what is known.

    Texts hold places, `{key}`, for the run's tags and params; `{a|b}` is the first of the two that is there; a part in
    brackets, `[{project}.]{flow}`, goes where its value is missing. Also known are `run_id`, `run_name`, `experiment`.
    """

    when: dict[str, str] = Field(
        default_factory=dict,
        description="Tags or params that a run must have, and regular expressions that their whole values must match. "
        "A group `(?P<name>…)` may be used as `{name}`. The first is looked for first: put the rarest there.",
    )
    flow: str | None = Field(
        default=None,
        description="Id of the flow, as its DataHub integration has it, or as you like where there is none.",
    )
    task: str | None = Field(default=None, description="Id of the task in it.")
    flow_name: str | None = Field(default=None, description="The flow's name for people, where the id is none.")
    task_name: str | None = Field(default=None, description="The task's name, likewise.")
    url: str | None = Field(default=None, description="Page of the flow, in the tool.")
    run_url: str | None = Field(default=None, description="Page of what started this run, in the tool.")
    run: str | None = Field(
        default=None,
        description="Id of the process instance that the tool's DataHub integration makes of what started the run, "
        "where it makes one.",
    )
    cluster: str | None = Field(
        default=None,
        description="Part of the URNs: what the tool's DataHub integration was told. By itself Airflow's has `prod`, "
        "others `PROD`; where there is none, our `env` stands there.",
    )
    platform_instance: str | None = Field(default=None, description="That of the tool, in DataHub.")
    emit: bool | None = Field(
        default=None,
        description="Whether we put its flows and tasks into DataHub. By itself: where DataHub is not known to have an "
        "integration of the tool.",
    )

    @field_validator("when")
    @classmethod
    def _compile(cls, when: dict[str, str]) -> dict[str, str]:
        for expression in when.values():
            regex_compiles(expression)
        return when

    @field_validator("flow", "task", "flow_name", "task_name", "url", "run_url", "run", "cluster", "platform_instance")
    @classmethod
    def _is_template(cls, template: str | None) -> str | None:
        left = re.sub(r"\{[^{}]+\}", "", template or "")
        if "{" in left or "}" in left or left.count("[") != left.count("]"):
            raise RecipeError(f"{template!r}: a place is like {{key}}, and what may be left out like [{{key}}.]")
        return template or None


class LineageConfig(RecipeModel):
    """From data, by code and pipeline."""

    code_url_templates: dict[str, str] = Field(
        default_factory=dict,
        description="Where people read code, by the host of the git repository, for hosts that the connector doesn't "
        "know: `{git.acme.example: '{repository}/tree/{commit}/{file}'}`. Known are GitHub, GitLab, Bitbucket, Azure "
        "DevOps and Gitea, also of a company's own, where the name of the host tells.",
    )
    dataset_platform_map: dict[str, DatasetPlatformConfig] = Field(
        default_factory=dict,
        description="By platform, how its own connector names the datasets that runs read, where not by its defaults: "
        "`{snowflake: {platform_instance: eu, convert_urns_to_lowercase: false}}`. Keys of each: `platform_instance`, "
        "`env`, `convert_urns_to_lowercase`, with the values of that connector's recipe.",
    )
    dataset_rules: list[DatasetRuleConfig] = Field(
        default_factory=list,
        description="Params or tags of runs that name what they read: `[{param: table_name, platform: iceberg}]`. "
        "Keys of each: `param` or `tag`, `platform`, `prefix`, `separator`, `context`.",
    )
    source_mapping_to_platform: dict[str, str] | None = Field(
        default=None,
        description="For source types of MLflow datasets that the connector doesn't know: the DataHub platform that "
        "the real dataset is on, for instance `{teradata_table: teradata}`. Its name comes from the source.",
    )
    materialize_dataset_inputs: bool | None = Field(
        default=None,
        description="Accepted for recipes of the built-in source. Has no effect: datasets on other platforms are "
        "linked to, and left to the connectors that own them.",
    )
    orchestrators: dict[str, OrchestratorConfig] = Field(
        default_factory=dict,
        description="By platform, tools that start runs, and how their tags tell which task it was: "
        "`{acme: {when: {source: acme}, flow: '{acme.flow}', task: '{acme.task}'}}`. Known without: DolphinScheduler, "
        "Airflow, Dagster, Prefect, Kubeflow Pipelines, Databricks jobs, ZenML, Kedro, MLflow Projects, and whatever "
        "writes the tags `orchestrator.…` (docs/orchestrators.md); of these only what differs need be said, "
        "`{airflow: {cluster: PROD, platform_instance: eu}}`.",
    )

    @field_validator("code_url_templates")
    @classmethod
    def _lead_to_pages(cls, templates: dict[str, str]) -> dict[str, str]:
        for host, template in templates.items():
            unknown = set(places(template)) - {"repository", "commit", "file"}
            if unknown:
                raise RecipeError(
                    f"`code_url_templates.{host}`: {{{min(unknown)}}} is none of {{repository}}, {{commit}}, {{file}}"
                )
            address = template.replace("{repository}", "https://host")
            if not is_web_address(re.sub(r"[{}]", "", address)) or "@" in template:
                raise RecipeError(
                    f"`code_url_templates.{host}` must start with {{repository}}, or be an address without a password"
                )
            if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", host):
                raise RecipeError(f"`code_url_templates`: {host!r} is no name of a host, like git.acme.example")
        return templates

    @field_validator("dataset_platform_map")
    @classmethod
    def _are_platforms(cls, platforms: dict[str, DatasetPlatformConfig]) -> dict[str, DatasetPlatformConfig]:
        for name in platforms:
            platform_of_datahub("dataset_platform_map", name)
        return platforms

    @field_validator("orchestrators", mode="before")
    @classmethod
    def _are_a_map(cls, orchestrators: Any) -> Any:
        return map_like(orchestrators, "orchestrators", "{airflow: {cluster: PROD}}")

    @field_validator("orchestrators")
    @classmethod
    def _are_orchestrators(cls, orchestrators: dict[str, OrchestratorConfig]) -> dict[str, OrchestratorConfig]:
        from datahub_mlflow_source.mapping.orchestrators import KNOWN, OF_NOBODY, OF_OTHERS  # imports DataHub's classes

        known = {each.platform for each in KNOWN} | OF_OTHERS.keys() | OF_NOBODY
        for name, said in orchestrators.items():
            if not _PLATFORM.fullmatch(name):
                raise RecipeError(
                    f"`orchestrators`: {name!r} is no platform as DataHub's URNs have them, in lower case: argo"
                )
            if name not in known and not (said.flow or said.run):
                raise RecipeError(
                    f"`orchestrators.{name}` is not known: it needs `flow`, from which tags its flow is told"
                )
            if said.emit and name in OF_OTHERS:
                raise RecipeError(
                    f"`orchestrators.{name}.emit`: DataHub's own integration of {name} has these entities"
                )
            if said.flow and not said.when and not any(places(said.flow)):
                raise RecipeError(f"`orchestrators.{name}`: every run would be of that flow: say `when`")
            if said.when and not (said.flow or said.run):
                raise RecipeError(f"`orchestrators.{name}`: `when` needs `flow`, from which tags its flow is told")
        return orchestrators


def platform_of_datahub(key: str, name: str) -> str:
    """A platform as URNs have it. Raises RecipeError."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or name == "postgresql":
        raise RecipeError(
            f"`{key}`: {name!r} is no platform as DataHub's URNs have them: snowflake, postgres, s3, delta-lake"
        )
    return name
