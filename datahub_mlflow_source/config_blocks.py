"""The parts of the recipe that are blocks of their own, and what all of them have in common."""

from __future__ import annotations

import difflib
import re
from typing import Any

from datahub.configuration.common import AllowDenyPattern, ConfigModel, TransparentSecretStr
from datahub.emitter.mce_builder import ALL_ENV_TYPES
from datahub.ingestion.source.state.stale_entity_removal_handler import StatefulStaleMetadataRemovalConfig
from pydantic import ConfigDict, Field, PositiveInt, field_validator, model_validator

from datahub_mlflow_source.addresses import is_address, is_web_address
from datahub_mlflow_source.errors import RecipeError

_LONGEST_INSTANCE = 100  # characters: as part of a URN, which has 512 bytes and holds a name too


class RecipeModel(ConfigModel):
    """A part of the recipe, which names the nearest known key when one is unknown."""

    # Or DataHub's debug mode shows in every error all that was given, passwords included.
    # And a pydantic older than 2.10 warns of names that begin with `model_`.
    model_config = ConfigDict(hide_input_in_errors=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            known = [*cls.model_fields, *cls._accepted_for_other_recipes()]
            for key in values:
                if key not in known:
                    raise RecipeError(f"unknown key `{key}`. {nearest(str(key), known)}")
        return values

    @classmethod
    def _accepted_for_other_recipes(cls) -> tuple[str, ...]:
        """Keys that are no fields: documented elsewhere for MLflow recipes and translated here."""
        return ()


def nearest(key: str, known: list[str]) -> str:
    """What to say of an unknown key."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"Did you mean `{near[0]}`?" if near else f"Known keys: {', '.join(sorted(known))}."


def map_like(values: Any, key: str, example: str) -> Any:
    """For keys whose values are maps of maps, as a validator: says how they look."""
    if not isinstance(values, dict):
        raise RecipeError(f"`{key}` must be like {example}")
    return values


def part_of_urn(name: str | None) -> str | None:
    """For platform instances, as a validator."""
    if not name:
        return None
    if len(name) > _LONGEST_INSTANCE:
        raise RecipeError(f"`platform_instance` has {len(name)} characters: {_LONGEST_INSTANCE} are allowed")
    if name != name.strip() or not name.isprintable() or not set(name).isdisjoint(",()␟"):
        raise RecipeError(
            "`platform_instance` is part of URNs: no comma, brackets, control characters, nor blanks at its ends"
        )
    return name


def env_of_datahub(env: str | None) -> str | None:
    """For environments, as a validator."""
    if env and env.upper() not in ALL_ENV_TYPES:
        raise RecipeError(f"{env!r} is no environment of DataHub's: {', '.join(sorted(ALL_ENV_TYPES))}")
    return env.upper() if env else None


def regexes_compile(pattern: AllowDenyPattern) -> AllowDenyPattern:
    """For patterns, as a validator."""
    for expression in [*pattern.allow, *pattern.deny]:
        regex_compiles(expression)
    return pattern


def regex_compiles(expression: str) -> None:
    """Raises RecipeError."""
    try:
        re.compile(expression)
    except re.error as error:
        raise RecipeError(
            f"{expression!r} is no regular expression: {error}. (These are not globs: `.*` matches anything.)"
        ) from error


class TlsConfig(RecipeModel):
    """How HTTPS connections to MLflow are verified, and how we identify ourselves."""

    ca_bundle: str | None = Field(
        default=None,
        description="File with the certificates of the authorities to trust, where the server's certificate is "
        "of a private one. Falls back to `MLFLOW_TRACKING_SERVER_CERT_PATH`.",
    )
    client_cert: str | None = Field(
        default=None,
        description="File with our client certificate, for servers that ask for one (with its private key, "
        "unless `client_key_path` names it). Falls back to `MLFLOW_TRACKING_CLIENT_CERT_PATH`.",
    )
    client_key_path: str | None = Field(
        default=None, description="File with the private key of `client_cert`, without a pass phrase."
    )
    verify: bool = Field(
        default=True,
        description="Set to false to trust any certificate: only for a test. "
        "Falls back to the opposite of `MLFLOW_TRACKING_INSECURE_TLS`.",
    )

    @model_validator(mode="after")
    def _belong_together(self) -> TlsConfig:
        if self.client_key_path and not self.client_cert:
            raise RecipeError("`tls.client_key_path` needs `tls.client_cert`")
        if self.ca_bundle and not self.verify:
            raise RecipeError("`tls.ca_bundle` says whom to trust, `tls.verify: false` to trust anybody: choose")
        return self


class DatabaseConfig(RecipeModel):
    """How MLflow's database is read: never writing, and with no transaction open while DataHub is waited for."""

    statement_timeout_seconds: float = Field(
        default=60,
        ge=0.01,
        le=3600,
        allow_inf_nan=False,
        description="How long one statement may take. All are short, by key and a page at a time: one that takes "
        "longer is a sign of load, or of a lost index.",
    )
    pool_size: int = Field(
        default=2,
        ge=1,
        le=16,
        description="Connections to the database at most, at a time, each for one page. With one, nothing is read "
        "while what came before is sent.",
    )


class ShardConfig(RecipeModel):
    """Which part of the work this process does, where several share it: the same `count` for all of them, and for each
    an `index` of its own, from 0.

    A database is cut by run ids, a server by experiments. The first shard also sends experiments, registered models,
    and versions without a run. Needs nothing but that all shards run; `datahub-mlflow finish` then removes what is
    gone, once for all of them. `datahub-mlflow ingest --shards` does all of it by itself.
    """

    index: int = Field(ge=0, description="Which shard, from 0 to `count` - 1: `${JOB_COMPLETION_INDEX}` in Kubernetes.")
    count: PositiveInt = Field(description="How many shards there are; for all of them the same.")

    @model_validator(mode="after")
    def _is_one_of_them(self) -> ShardConfig:
        if self.index >= self.count:
            raise RecipeError(f"`shard.index` is {self.index}: of {self.count} shards the last is {self.count - 1}")
        return self


class LoggedModelsConfig(RecipeModel):
    """Which logged models become entities of their own. Those that were registered are part of their version."""

    pattern: AllowDenyPattern = Field(
        default_factory=AllowDenyPattern.allow_all,
        description="Which to take by name, as the code that logged them calls them.",
    )
    max_per_run: PositiveInt = Field(
        default=100, description="Takes only so many of one run, the latest: a training may log one at each checkpoint."
    )

    _regexes_compile = field_validator("pattern")(regexes_compile)


class ArtifactStoreConfig(RecipeModel):
    """An S3 store (MinIO, Ceph, …) that model files are read from straight, without asking MLflow's server.

    What is left out comes from where boto3 and MLflow look for it: `AWS_…` and `MLFLOW_S3_ENDPOINT_URL` in the
    environment, profiles, roles. Needs the extra `s3`.
    """

    endpoint_url: str | None = Field(default=None, description="Address of the store; without, Amazon's.")
    region: str | None = Field(default=None, description="Region of the buckets.")
    access_key_id: str | None = Field(default=None, description="Of a user who may read and list the bucket.")
    secret_access_key: TransparentSecretStr | None = Field(
        default=None, description="The user's secret key, as `${VARIABLE}`."
    )

    @field_validator("endpoint_url")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        if url and not url.lower().startswith(("http://", "https://")):
            raise RecipeError("must start with http:// or https://")
        return url

    @model_validator(mode="after")
    def _belong_together(self) -> ArtifactStoreConfig:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise RecipeError("`artifact_store.access_key_id` and `artifact_store.secret_access_key` need each other")
        return self


class ModelServerConfig(RecipeModel):
    """A server that answers as `mlflow models serve` does: to `/ping` or `/health`, and to `/version`."""

    name: str = Field(min_length=1, max_length=200, description="What it is called in DataHub.")
    url: str = Field(
        description="Where it is, `http://churn.models.svc:8080`. It is asked how it is, and nothing else."
    )
    model: str | None = Field(
        default=None,
        description="What it serves, as MLflow writes it: `models:/churn/3`, `models:/churn@champion`, "
        "`models:/churn/Production`, `models:/churn/latest`, or `models:/m-…`. That version links to it.",
    )

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        url = url.strip()
        if not is_web_address(url):
            raise RecipeError("must be like http://churn.models.svc:8080")
        return url

    @field_validator("name")
    @classmethod
    def _can_be_read(cls, name: str) -> str:
        if not name.strip() or not name.isprintable():
            raise RecipeError("must be a name that people can read")
        return name.strip()

    @field_validator("model")
    @classmethod
    def _is_model(cls, model: str | None) -> str | None:
        if model and not re.fullmatch(r"models:/.+(?:/[^/@]+|@[^/@]+)|models:/m-[0-9a-f]{32}", model):
            raise RecipeError("must be like models:/churn/3 or models:/churn@champion")
        return model


class DeploymentTagsConfig(RecipeModel):
    """Tags that people, or their pipelines, put on versions that they serve by means that MLflow doesn't know of."""

    name: str = Field(
        min_length=1,
        description="Key of the tag whose value names the deployment; several, with commas between them.",
    )
    target: str = Field(
        default="kubernetes",
        min_length=1,
        max_length=100,
        description="What serves them, as part of their names in DataHub.",
    )
    url: str | None = Field(default=None, description="Key of the tag that holds its address.")
    status: str | None = Field(
        default=None, description="Key of the tag that says how it is: `running`, `stopped`, `failed` and the like."
    )


class DeploymentsConfig(RecipeModel):
    """Serving that MLflow's server itself knows nothing of."""

    targets: list[str] = Field(
        default_factory=list,
        description="Targets of `mlflow.deployments`, as MLflow's client takes them: `databricks`, "
        "`sagemaker:/eu-west-1`, `http://gateway:5000`. Most need a plugin of MLflow's, whose own variables hold the "
        "credentials.",
    )
    servers: list[ModelServerConfig] = Field(
        default_factory=list, description="Model servers that nobody else knows of."
    )
    tags: DeploymentTagsConfig | None = Field(
        default=None, description="Tags on versions that say where they are served: without, none are looked at."
    )

    @field_validator("targets")
    @classmethod
    def _are_addresses(cls, targets: list[str]) -> list[str]:
        for target in targets:
            if not target.strip() or not target.isprintable() or "@" in target or not is_address(target):
                raise RecipeError(
                    "one of them is no target of MLflow's, like databricks or http://gateway:5000 (without user and "
                    "password: plugins have variables for them)"
                )
        return [target.strip() for target in targets]

    @field_validator("servers")
    @classmethod
    def _are_different(cls, servers: list[ModelServerConfig]) -> list[ModelServerConfig]:
        names = [server.name for server in servers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise RecipeError(f"two servers are called {twice[0]!r}: they would be one in DataHub")
        return servers


class LimitsConfig(RecipeModel):
    """How much of one entity is sent. What is cut is counted in the report, with examples.

    DataHub refuses an aspect over 16 MB whole, and its UI is slow long before.
    """

    max_params: PositiveInt = Field(default=2000, description="Params of one run or version, first by name.")
    max_metrics: PositiveInt = Field(default=2000, description="Metrics of one run or version, first by name.")
    max_tags: PositiveInt = Field(
        default=1000, description="Tags of one entity, first by name. MLflow's own count too."
    )
    max_value_chars: int = Field(
        default=10_000, ge=10, description="Characters of one tag, param or other single value."
    )
    max_description_chars: int = Field(default=65_000, ge=10, description="Characters of one description.")


class RemovalConfig(StatefulStaleMetadataRemovalConfig, RecipeModel):
    """DataHub's keys for what is gone from MLflow, described as they work here."""

    enabled: bool = Field(
        default=False,
        description="Remembers in DataHub, under the recipe's `pipeline_name`, what was sent, and so finds out the "
        "next time what is gone. Needs the sink `datahub-rest`, or `datahub_api` in the recipe.",
    )
    remove_stale_metadata: bool = Field(
        default=True,
        description="Soft-deletes what is gone: DataHub doesn't show it any more, and brings it back when it is sent "
        "again. With false nothing is removed, and nothing remembered.",
    )
    fail_safe_threshold: float = Field(
        default=75.0,
        ge=0.0,
        le=100.0,
        allow_inf_nan=False,
        description="Removes nothing, and fails, where more than so many percent of what was there would go: a lost "
        "permission or a slip in a pattern look like that. 100 switches it off.",
    )
