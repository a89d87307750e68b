"""The recipe: one model, whose field descriptions are the reference documentation.

`make docs` writes `docs/configuration.md` and `recipes/schema.json` from it. A key is here from
the day it works; an unknown one is refused, naming the nearest known one.
"""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from datahub.configuration.common import AllowDenyPattern, TransparentSecretStr
from datahub.configuration.source_common import EnvConfigMixin, PlatformInstanceConfigMixin
from datahub.emitter.mce_builder import DEFAULT_ENV
from datahub.ingestion.source.state.stateful_ingestion_base import StatefulIngestionConfigBase
from pydantic import (
    Field,
    PositiveInt,
    PrivateAttr,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)

from datahub_mlflow_source.addresses import scheme_of, why_no_database, why_not, without_secrets
from datahub_mlflow_source.config_blocks import (
    ArtifactStoreConfig,
    DatabaseConfig,
    DeploymentsConfig,
    LimitsConfig,
    LoggedModelsConfig,
    RemovalConfig,
    ShardConfig,
    TlsConfig,
    nearest,
    part_of_urn,
    regexes_compile,
)
from datahub_mlflow_source.config_lineage import LineageConfig
from datahub_mlflow_source.config_meaning import MeaningConfig
from datahub_mlflow_source.errors import RecipeError

try:
    from datahub.configuration.common import Enables, Filters
except ImportError:  # an acryl-datahub without `datahub recipe probe`: nobody reads these
    Enables = Filters = str  # type: ignore[assignment,misc]

if TYPE_CHECKING:
    from datahub.ingestion.agent.verdicts import Verdict, VerdictContext

WORKSPACE_HEADER = "X-MLFLOW-WORKSPACE"  # names the one that a request is about
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_WORKSPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_OF_EACH_REQUEST = frozenset({"connection", "content-length", "transfer-encoding"})


class MlflowSourceConfig(
    StatefulIngestionConfigBase,  # type: ignore[type-arg] # with one, the framework takes no subclass of it
    EnvConfigMixin,
    PlatformInstanceConfigMixin,
    LineageConfig,
    MeaningConfig,
):
    """`source.config` of a recipe with `type: datahub-mlflow-source`."""

    # --- connection ---
    tracking_uri: str | None = Field(
        default=None,
        description="The MLflow tracking server, `https://mlflow.example.com` (a path behind it is fine), or "
        "`databricks` / `databricks://<profile>` with Databricks' own credentials, or MLflow's database, as in "
        "`backend_store_uri`. Falls back to `MLFLOW_TRACKING_URI`. Put no password into it: DataHub stores this key in "
        "clear.",
    )
    registry_uri: str | None = Field(
        default=None,
        description="The model registry, where it is on another server than the experiments. Credentials and "
        "headers are sent there too. Falls back to `MLFLOW_REGISTRY_URI`, else `tracking_uri`.",
    )
    backend_store_uri: str | None = Field(
        default=None,
        description="MLflow's database, to read it there and not through the server: "
        "`postgresql://user@host:5432/mlflow`, `mysql://…`, `sqlite:////data/mlflow.db`, with the driver's own options "
        "behind a `?` (`sslmode=verify-full`). Much faster, and spares the server. A user that may only SELECT is "
        "enough, and a replica best. With a server in `tracking_uri`, links in DataHub lead there. Put no password "
        "into it: DataHub stores this key in clear.",
    )
    backend_store_password: TransparentSecretStr | None = Field(
        default=None, description="Password of the user in `backend_store_uri` (or in a database as `tracking_uri`)."
    )
    database: DatabaseConfig = Field(
        default_factory=DatabaseConfig, description="How MLflow's database is read, where it is."
    )
    base_external_url: str | None = Field(
        default=None,
        description="Where people open MLflow in a browser, when that is not `tracking_uri`: links in DataHub "
        "start with it. A password or `?query` in it is left out, as everybody sees the links.",
    )
    username: str | None = Field(
        default=None, description="User name for basic authentication. Falls back to `MLFLOW_TRACKING_USERNAME`."
    )
    password: TransparentSecretStr | None = Field(
        default=None,
        description="Password for basic authentication, needed with a user name. "
        "Falls back to `MLFLOW_TRACKING_PASSWORD`.",
    )
    token: TransparentSecretStr | None = Field(
        default=None,
        description="Bearer token, instead of `username` and `password`. Falls back to `MLFLOW_TRACKING_TOKEN`.",
    )
    headers: dict[str, str] = Field(
        default_factory=dict,
        description="Further HTTP headers for every request, such as `X-Tenant`. Nothing secret: "
        "DataHub stores this key in clear.",
    )
    headers_secret: dict[str, TransparentSecretStr] = Field(
        default_factory=dict,
        description="Further HTTP headers that are secrets, such as `CF-Access-Client-Id` and "
        "`CF-Access-Client-Secret` for Cloudflare Access. DataHub masks the whole key.",
    )
    tls: TlsConfig = Field(default_factory=TlsConfig, description="Certificates: whom to trust, and who we are.")
    timeout_seconds: float = Field(
        default=120,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="How long one request may take until MLflow starts to answer. The first request, which finds "
        "out whether MLflow is there at all, has its own of 10 seconds at most.",
    )
    max_retries: int = Field(
        default=3,
        ge=0,
        le=10,
        description="How often a request is tried again after no answer, 429, 502, 503 or 504, waiting longer "
        "each time (half a second at first; as long as the server asks for, up to a minute).",
    )
    page_size: int = Field(
        default=1000,
        ge=1,
        le=50_000,
        description="Runs, experiments or versions per request (registered models, and whatever is read from a "
        "database: at most 1000). Lower it when a gateway in between times out.",
    )
    max_workers: int = Field(
        default=2,
        ge=1,
        le=8,
        description="How many listings of runs are read from the server at a time, each of some of the experiments. "
        "Two halve the time of a server with several processes, as MLflow's is unless told otherwise, and cost one "
        "of a single process nothing. Also an eighth of how many model files are. Set 1 to load it less.",
    )

    # --- naming ---
    platform_instance: str | None = Field(
        default=None,
        description="Name of this MLflow deployment in DataHub. Needed where several go into one DataHub: their "
        "experiments and models of the same name would be one entity there. It is part of nearly every URN, so "
        "setting or changing it makes new entities of everything. At most 100 characters; no comma and no brackets.",
    )
    env: str = Field(
        default=DEFAULT_ENV,
        description="Environment of models, versions and datasets, one of those that DataHub knows: PROD, DEV, TEST, "
        "QA and so on. It is part of their URNs, and not of those of experiments and runs: where each environment has "
        "an MLflow server of its own, give each a `platform_instance` too.",
    )
    model_name_separator: str = Field(
        default="_",
        description="What stands between a model's name and its version in the URN. Changing it renames every "
        "version in DataHub.",
    )

    # --- scope ---
    workspaces: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Which workspaces to read by name, where MLflow has several (3.10 and newer): `[default, team-a]`. "
        "Without, all that this user may list. What is in another than `default` is in DataHub inside a container of "
        "its own, and its models are called `<workspace>/<name>` in URNs. Falls back to `MLFLOW_WORKSPACE`.",
    )
    experiment_pattern: Annotated[AllowDenyPattern, Filters("Experiment")] = Field(
        default_factory=AllowDenyPattern.allow_all,
        description="Which experiments to take by name, with their runs.",
    )
    model_pattern: Annotated[AllowDenyPattern, Filters("Model")] = Field(
        default_factory=AllowDenyPattern.allow_all,
        description="Which registered models to take by name, with their versions.",
    )
    run_name_pattern: Annotated[AllowDenyPattern, Filters("Run")] = Field(
        default_factory=AllowDenyPattern.allow_all,
        description="Which runs to take by name. A version keeps the params and metrics of a run that is left out, "
        "but does not link to it.",
    )
    run_user_pattern: AllowDenyPattern = Field(
        default_factory=AllowDenyPattern.allow_all,
        description="Which runs to take by the user who started them, as `run_name_pattern`.",
    )
    run_filter: str | None = Field(
        default=None,
        description="Which runs to take, in MLflow's own search syntax, for instance "
        "`attributes.status = 'FINISHED' AND metrics.auc > 0.8`. The server does the filtering.",
    )
    run_retention_days: PositiveInt | None = Field(
        default=None,
        description="Takes only runs that started within so many days before the ingestion.",
    )
    max_runs_per_experiment: PositiveInt | None = Field(
        default=None,
        description="Takes only so many runs of each experiment, the latest. Costs one request per experiment.",
    )
    include_runs: Literal["all", "registered", "none"] = Field(
        default="all",
        description="`registered` takes only runs that a model version came from. `none` takes no runs; versions "
        "then carry no params, metrics and datasets either, for those are the run's.",
    )
    include_deleted: bool = Field(
        default=False,
        description="Takes experiments and runs too that were deleted in MLflow and not yet purged.",
    )
    include_datasets: Annotated[bool, Enables("Dataset")] = Field(
        default=True,
        description="Takes the dataset inputs of runs, as datasets of platform `mlflow` that link to the real "
        "dataset behind them.",
    )
    include_prompts: bool = Field(
        default=True,
        description="Takes MLflow's prompts, with their texts, as models of subtype `Prompt`, and links the runs that "
        "used them. `model_pattern` applies to their names too.",
    )
    include_logged_models: bool = Field(
        default=True,
        description="Takes the models that MLflow 3 keeps for each time one is logged: into the version that was made "
        "of one, with its params and metrics, and as models of their own where there is none.",
    )
    logged_models: LoggedModelsConfig = Field(
        default_factory=LoggedModelsConfig, description="Which of those that were not registered are taken."
    )
    include_artifacts: Literal["none", "current", "all"] = Field(
        default="current",
        description="Of which models the file `MLmodel` is read, which holds signature and flavors: `current` are "
        "versions that are the newest of their model, in stage Staging or Production, or have an alias. `all` (or "
        "true) are all versions, and logged models that were not registered. Costs one request each.",
    )
    artifact_store: ArtifactStoreConfig | None = Field(
        default=None, description="Where model files lie, to read them without MLflow's server."
    )
    include_traces: bool = Field(
        default=False,
        description="Counts the traces of each experiment: how many, how many failed, how long they took, tokens and "
        "assessments, among the experiment's custom properties. Never one entity for each. Over REST from MLflow 3.9 "
        "on, five requests for each experiment with traces; out of a database from 2.13 on.",
    )
    metric_history_pattern: AllowDenyPattern | None = Field(
        default=None,
        description="Of which metrics, by name, all values are looked at, for the best of them: `{allow: ['^val_']}`. "
        "It goes into the custom properties of the run and of the versions it made. Costs a request or two for each "
        "hundred runs and metric; a database sums up itself.",
    )
    include_deployments: bool = Field(
        default=False,
        description="Takes where models are served, as deployments that their versions link to: endpoints of MLflow's "
        "gateway (3.8 and newer), and what `deployments` names.",
    )
    deployments: DeploymentsConfig = Field(
        default_factory=DeploymentsConfig, description="Where else models are served, beside MLflow's own server."
    )
    limits: LimitsConfig = Field(default_factory=LimitsConfig, description="How much of one entity is sent to DataHub.")

    # --- scale ---
    shard: ShardConfig | None = Field(
        default=None, description="Does only a part of the work, where several processes share it."
    )
    versions_in_memory: PositiveInt = Field(
        default=100_000,
        description="The versions of so many runs are kept in memory until their run comes by, some 800 bytes each; "
        "those of further runs in a temporary file.",
    )

    # --- removal ---
    stateful_ingestion: RemovalConfig | None = Field(
        default=None,
        description="With `enabled: true`, what is no longer in MLflow is soft-deleted in DataHub, apart from runs. "
        "Needs `pipeline_name` in the recipe. What could not be read because of an error is never removed.",
    )

    _base_external_url_was_cleaned: bool = PrivateAttr(default=False)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What stands in the recipe and should not, without showing it."""
        if not self._base_external_url_was_cleaned:
            return ()
        return (
            "`base_external_url` holds a user name, password or query, which DataHub stores in clear. Links are made "
            "without: take it out of the recipe",
        )

    @classmethod
    def _accepted_for_other_recipes(cls) -> tuple[str, ...]:
        return ("experiments", "include_run_details")

    @model_validator(mode="before")
    @classmethod
    def _translate_other_recipes(cls, values: Any) -> Any:
        """Spellings that are documented elsewhere for MLflow recipes."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if "experiments" in values:
            values["experiment_pattern"] = _pattern_of_globs(values.pop("experiments"), values)
        if "include_run_details" in values:
            if "include_runs" in values:
                raise RecipeError("`include_run_details` and `include_runs` say the same: keep `include_runs`")
            details = TypeAdapter(bool).validate_python(values.pop("include_run_details"))
            values["include_runs"] = "all" if details else "none"
        if isinstance(values.get("include_artifacts"), bool):
            values["include_artifacts"] = "all" if values["include_artifacts"] else "none"
        return values

    _regexes_compile = field_validator(
        *("experiment_pattern", "model_pattern", "run_name_pattern", "run_user_pattern", "metric_history_pattern")
    )(regexes_compile)

    @field_validator("tracking_uri", "registry_uri")
    @classmethod
    def _can_be_read(cls, uri: str | None, info: ValidationInfo) -> str | None:
        refusal = why_not(str(info.field_name), uri) if uri else None
        if refusal:
            raise RecipeError(refusal)
        return uri

    @field_validator("backend_store_uri")
    @classmethod
    def _is_database(cls, uri: str | None) -> str | None:
        refusal = why_no_database("backend_store_uri", uri) if uri else None
        if refusal:
            raise RecipeError(refusal)
        return uri

    @field_validator("base_external_url")
    @classmethod
    def _is_web_address(cls, url: str | None) -> str | None:
        if not url:
            return None
        if scheme_of(url) not in ("http", "https"):
            raise RecipeError("must start with http:// or https://, as it does in a browser")
        refusal = why_not("base_external_url", url)
        if refusal:
            raise RecipeError(refusal)
        return url.strip()

    @model_validator(mode="after")
    def _links_hold_no_secret(self) -> MlflowSourceConfig:
        if self.base_external_url:
            given = urlsplit(self.base_external_url)
            self.base_external_url = without_secrets(self.base_external_url)
            self._base_external_url_was_cleaned = "@" in given.netloc or bool(given.query)
        return self

    @field_validator("workspaces")
    @classmethod
    def _are_names(cls, workspaces: list[str] | None) -> list[str] | None:
        """As MLflow has them (`WorkspaceNameValidator`, mlflow/store/workspace/abstract_store.py)."""
        for name in workspaces or ():
            if not _WORKSPACE.fullmatch(name):
                raise RecipeError(
                    f"`workspaces`: {name!r} is no name of a workspace: they hold lower-case letters, digits and "
                    "hyphens, up to 63. Patterns are not understood here"
                )
        return workspaces

    _is_part_of_urn = field_validator("platform_instance")(part_of_urn)

    @field_validator("headers", "headers_secret", mode="before")
    @classmethod
    def _names_can_be_sent(cls, headers: Any, info: ValidationInfo) -> Any:
        """Before the values are looked at, whose errors show the name; and it may be the secret, in a wrong place."""
        key = info.field_name
        for name in headers if isinstance(headers, dict) else ():
            if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
                which = repr(name) if key == "headers" else "one of the names"
                raise RecipeError(f"`{key}`: {which} is no name of an HTTP header")
            if name.lower() == WORKSPACE_HEADER.lower():
                raise RecipeError(f"`{key}`: {name} is what `workspaces` says: use that")
            if name.lower() in _OF_EACH_REQUEST:
                raise RecipeError(f"`{key}`: {name} is set by each request itself, leave it out")
        return headers

    @model_validator(mode="after")
    def _credentials_belong_together(self) -> MlflowSourceConfig:
        if self.token and (self.username or self.password):
            other = "username" if self.username else "password"
            raise RecipeError(f"`token` and `{other}` are two ways to log in: choose one")
        twice = {name.lower() for name in self.headers} & {name.lower() for name in self.headers_secret}
        if twice:
            raise RecipeError(f"in both `headers` and `headers_secret`: {', '.join(sorted(twice))}")
        return self

    @model_validator(mode="after")
    def _deployments_are_wanted(self) -> MlflowSourceConfig:
        if "deployments" in self.model_fields_set and not self.include_deployments:
            raise RecipeError("`deployments` needs `include_deployments: true`")
        return self

    @model_validator(mode="after")
    def _shards_need_no_others(self) -> MlflowSourceConfig:
        if self.shard and self.max_runs_per_experiment:
            raise RecipeError("`shard` and `max_runs_per_experiment`: only who reads all runs knows the latest. Choose")
        return self

    # --- what `datahub recipe probe` asks: answers are in probe.py, which an older acryl-datahub can't import ---

    @classmethod
    def probe_provider_class(cls) -> type:
        """Who lists what is in MLflow."""
        from datahub_mlflow_source.probe import MlflowProbe

        return MlflowProbe

    @classmethod
    def probe_unfiltered_kinds(cls) -> set[str]:
        """Kinds without a pattern of their own: they come with the model, and with the runs."""
        return {"Version", "Dataset"}

    def probe_ancestor_kinds(self, kind: str) -> tuple[str, ...]:
        """What must be taken for the kind to be reached."""
        return {"Run": ("Experiment",), "Dataset": ("Experiment",), "Version": ("Model",)}.get(kind, ())

    def probe_verdict_override(self, ctx: VerdictContext) -> Verdict | None:
        """What decides beside the patterns; None: nothing does."""
        from datahub_mlflow_source.probe import verdict

        return verdict(self, ctx)


def _pattern_of_globs(experiments: Any, values: dict[str, Any]) -> dict[str, list[str]]:
    """`experiments: [{name: "churn-*"}]` as an `experiment_pattern`."""
    if "experiment_pattern" in values:
        raise RecipeError("`experiments` and `experiment_pattern` say the same: keep `experiment_pattern`")
    entries = experiments if isinstance(experiments, list) else []
    unknown = {str(key) for entry in entries if isinstance(entry, dict) for key in entry} - {"name"}
    if unknown:
        raise RecipeError(f"unknown key `{min(unknown)}` in `experiments`. {nearest(min(unknown), ['name'])}")
    globs = [entry.get("name") if isinstance(entry, dict) else entry for entry in entries]
    named = [glob for glob in globs if isinstance(glob, str)]
    if not named or len(named) < len(globs):
        raise RecipeError('`experiments` must be a list like [{name: "churn-*"}]; or use `experiment_pattern`')
    return {"allow": [fnmatch.translate(glob) for glob in named]}
