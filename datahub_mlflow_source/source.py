"""The source, as DataHub's framework knows it: opens a reader, walks it once, closes it."""

from __future__ import annotations

import atexit
import gc
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from datahub.ingestion.api.common import PipelineContext
from datahub.ingestion.api.decorators import (
    SupportStatus,
    capability,
    config_class,
    platform_name,
    support_status,
)
from datahub.ingestion.api.source import (
    CapabilityReport,
    SourceCapability,
    TestableSource,
    TestConnectionReport,
)
from datahub.ingestion.api.workunit import MetadataWorkUnit
from datahub.ingestion.source.state.stateful_ingestion_base import StatefulIngestionSourceBase
from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.config_blocks import RemovalConfig
from datahub_mlflow_source.connection import DatabricksAuth, Deployment, deployment, workspaces_of
from datahub_mlflow_source.errors import GivenUpError, RecipeError, ServerError
from datahub_mlflow_source.ingestion import Ingestion
from datahub_mlflow_source.mapping.lineage import PlatformNaming
from datahub_mlflow_source.mapping.rules import Limits, Rules, Web
from datahub_mlflow_source.mapping.urns import PLATFORM, Naming
from datahub_mlflow_source.readers.artifacts import Artifacts
from datahub_mlflow_source.readers.base import WHOLE, Reader, RunScope, Shard
from datahub_mlflow_source.readers.rest_workspaces import RestWorkspaces
from datahub_mlflow_source.readers.serving import ModelServer, Serving
from datahub_mlflow_source.readers.stores import S3Settings, Stores
from datahub_mlflow_source.removal import RemovalGuard
from datahub_mlflow_source.report import MlflowSourceReport
from datahub_mlflow_source.selection import DeploymentTags, Selection
from datahub_mlflow_source.state.shards import ShardHandler, ShardState

# Python would go through all that DataHub has loaded once more before the process ends: a third of a second.
atexit.register(gc.freeze)

_FILES_FOR_EACH_WORKER = 8  # small ones, for which the server mostly waits
_DAY_MILLIS = 24 * 60 * 60 * 1000


@platform_name("MLflow", id=PLATFORM)
@config_class(MlflowSourceConfig)
@support_status(SupportStatus.BETA)
@capability(SourceCapability.PLATFORM_INSTANCE, "By `platform_instance`")
@capability(SourceCapability.CONTAINERS, "Experiments and the model registry")
@capability(SourceCapability.DESCRIPTIONS, "Notes of experiments, descriptions of models and versions")
@capability(SourceCapability.TAGS, "Stages of model versions; MLflow's own tags are custom properties")
@capability(SourceCapability.LINEAGE_COARSE, "From datasets to runs to model versions")
@capability(SourceCapability.SCHEMA_METADATA, "Columns of datasets, as far as runs logged them")
@capability(SourceCapability.DELETION_DETECTION, "With `stateful_ingestion.enabled: true`; not of runs")
@capability(SourceCapability.TEST_CONNECTION, "By `datahub recipe test-connection`")
@(
    capability(SourceCapability.PROBE, "By `datahub recipe probe`")
    if hasattr(SourceCapability, "PROBE")  # since acryl-datahub 1.7.0.15
    else lambda source: source
)
class MlflowSource(StatefulIngestionSourceBase, TestableSource):
    """MLflow into DataHub, in bulk: experiments, runs, dataset inputs, registered models and versions.

    Attributes:
        closing_follows: set by who runs shards and the closing step behind them: datasets are left to that.
        given_up: set, from another thread, when nobody waits for this any more.
        shard_state: what a shard leaves for the closing step, once it has come to its end.
    """

    platform = PLATFORM

    def __init__(self, config: MlflowSourceConfig, ctx: PipelineContext) -> None:
        """Opens nothing yet. Raises ValidationError where recipe and environment name no server to read."""
        _removal_is_possible(config, ctx)
        if config.shard and config.stateful_ingestion:  # which is done once for all shards, by the closing step
            removal = config.stateful_ingestion.model_copy(update={"remove_stale_metadata": False})
            config = config.model_copy(update={"stateful_ingestion": removal})
        super().__init__(config, ctx)
        self.config = config
        self.closing_follows = False
        self.given_up = False
        self.shard_state: ShardState | None = None
        self._shard_handler: ShardHandler | None = None
        if config.shard and config.stateful_ingestion and config.stateful_ingestion.enabled:
            self._shard_handler = ShardHandler(_shard(config), self.state_provider, ctx)
        self.ctx = ctx
        self.report: MlflowSourceReport = MlflowSourceReport()
        try:
            where = deployment(config, os.environ)
            self._reader = _reader(where, config)
            self._serving = _serving(config)
        except RecipeError as error:
            raise _as_validation_error(error) from error
        self._artifacts = _artifacts(where, config)
        for warning in where.warnings:
            self.report.warning(title="Secret in an address", message="It is not shown here.", context=warning)
        self._rules = _rules(config, *(server.url for server in where.servers or ()))
        self._tell_about_recipe()

    @staticmethod
    def test_connection(config_dict: dict[str, Any]) -> TestConnectionReport:
        """Can MLflow be reached and read? For `datahub recipe test-connection` and DataHub's executor."""
        try:
            config = MlflowSourceConfig.model_validate(config_dict)
            reader = _reader(deployment(config, os.environ), config)
            try:
                reader.check(config.run_filter)
            finally:
                reader.close()
        except ValidationError as error:
            reason = "; ".join(_in_one_line(line) for line in error.errors())
            return TestConnectionReport(basic_connectivity=CapabilityReport(capable=False, failure_reason=reason))
        except (RecipeError, ServerError) as error:
            failed = CapabilityReport(capable=False, failure_reason=str(error))
            return TestConnectionReport(basic_connectivity=failed)
        return TestConnectionReport(basic_connectivity=CapabilityReport(capable=True))

    def get_report(self) -> MlflowSourceReport:
        return self.report

    def get_excluded_workunit_processors(self) -> list[Any]:
        """The one that looks through every URN of every aspect for tags and terms that nobody sends.

        The only ones we name are those of stages, which we send ourselves. A twelfth of an ingestion's time.
        """
        return ["AutoMaterializeReferencedTagsTermsProcessor"]

    def get_workunits_internal(self) -> Iterable[MetadataWorkUnit]:
        """Everything there is, or one failure that says why nothing is."""
        if self._shard_handler and not self.closing_follows and self._remembers_in_a_file():
            self.report.failure(
                title="A shard can't remember in a file",
                message="Nothing was ingested. Each shard would overwrite what the others and the removal left there: "
                "leave `stateful_ingestion.state_provider` out, or run the shards by `datahub-mlflow ingest`.",
            )
            return
        try:
            self._reader.check(self.config.run_filter)
        except ServerError as error:
            self.report.requests_sent = self._reader.requests_sent
            self.report.failure(title="MLflow can't be read", message="Nothing was ingested.", context=str(error))
            return
        self.report.mlflow_version = self._reader.server_version()
        shard = self.config.shard is not None
        guard = RemovalGuard(self.config.stateful_ingestion, self.state_provider, self.ctx, self.report, collects=shard)
        selection = replace(
            selection_of(self.config),
            stage_tags=self._stage_tags_are_taken(),
            patches=self._patches_are_taken(),
            hold_datasets=shard and (self.closing_follows or self._shard_handler is not None),
        )
        rules = self._rules.with_workspaces() if self._reader.workspaces() else self._rules
        ingestion = Ingestion(
            self._reader, self._artifacts, self._serving, rules, selection, guard, self.report, self.ctx.graph
        )
        try:
            for unit in ingestion.work_units():
                if self.given_up:
                    raise GivenUpError("nobody waits for this any more")
                yield unit
            if shard:
                self.shard_state = ingestion.shard_state()
                if self._shard_handler and not self.closing_follows:
                    self._shard_handler.leave(self.shard_state)
        finally:
            of_files = self._artifacts.requests_sent if self._artifacts else 0
            self.report.requests_sent = self._reader.requests_sent + of_files
            if millis := self._reader.query_millis():
                self.report.query_p95_millis, self.report.query_slowest_millis = millis

    def close(self) -> None:
        self._reader.close()
        if self._artifacts:
            self._artifacts.close()
        self.report.report_entity_failures()
        super().close()

    def _stage_tags_are_taken(self) -> bool:
        """Whether the recipe asks for stage tags and DataHub's server, if it is known, takes the patches of them.

        Servers before 1.2.0 refuse those of today's clients, see docs/compatibility.md.
        """
        server = self.ctx.graph.server_config if self.ctx.graph else None
        known = server is not None and not server.is_datahub_cloud and any(server.parsed_version or ())
        if self.config.stage_tags and server and known and not server.is_version_at_least(1, 2, 0):
            self.report.info(
                title="Stage tags are left out",
                message="This DataHub server does not take patches of tags as newer clients send them: 1.2.0 does.",
                context=f"server {server.service_version}",
            )
            return False
        return self.config.stage_tags

    def _patches_are_taken(self) -> bool:
        """By DataHub's server, straight or through Kafka."""
        recipe = self.ctx.pipeline_config
        sink = recipe.sink.type if recipe and recipe.sink else ""
        return self.ctx.graph is not None or sink == "datahub-kafka"

    def _remembers_in_a_file(self) -> bool:
        removal = self.config.stateful_ingestion
        return bool(removal and removal.state_provider and removal.state_provider.type == "file")

    def _tell_about_recipe(self) -> None:
        config = self.config
        if config.env != "PROD" and not config.platform_instance:
            self.report.warning(
                title="Experiments of several environments would meet",
                message="The URN of an experiment holds no `env`: give each MLflow server that goes into this DataHub "
                "its own `platform_instance`.",
                context=f"env={config.env}",
            )
        if not config.model_name_separator:
            self.report.warning(
                title="Versions of different models may meet",
                message="Without a separator, version 2 of `m1` and version 12 of `m` have one URN.",
                context="model_name_separator",
            )
        if config.materialize_dataset_inputs:
            self.report.info(
                title="No datasets are written on other platforms",
                message="`materialize_dataset_inputs` has no effect: the connectors of those platforms own them.",
                log=False,
            )


def _in_one_line(error: ErrorDetails) -> str:
    """`tls.ca_bundle: what is wrong`"""
    key = ".".join(str(part) for part in error["loc"])
    return f"{key}: {error['msg']}" if key else error["msg"]


def _as_validation_error(error: RecipeError) -> ValidationError:
    """What DataHub's CLI prints without a traceback (`datahub.configuration.common.should_show_stack_trace`)."""
    details = PydanticCustomError("recipe", "{message}", {"message": str(error)})
    return ValidationError.from_exception_data(
        "source.config", [InitErrorDetails(type=details, input=None)], hide_input=True
    )


def _reader(where: Deployment, config: MlflowSourceConfig) -> Reader:
    """Raises RecipeError where something that it needs is not installed."""
    workspaces = workspaces_of(config, os.environ)
    if where.databases:
        from datahub_mlflow_source.readers.sql import SqlReader  # SQLAlchemy: half a second to import

        return SqlReader(*where.databases, config.page_size, workspaces)
    if where.servers:
        return RestWorkspaces(*where.servers, config.page_size, config.max_workers, workspaces)
    raise AssertionError("a deployment is one or the other")


def _artifacts(where: Deployment, config: MlflowSourceConfig) -> Artifacts | None:
    """None where the recipe wants no model files, or Databricks has them, which gives them otherwise."""
    if config.include_artifacts == "none" or (where.servers and isinstance(where.servers[0].auth, DatabricksAuth)):
        return None
    store = config.artifact_store
    secret = store.secret_access_key if store else None
    settings = (
        S3Settings(
            endpoint_url=store.endpoint_url,
            region=store.region,
            access_key_id=store.access_key_id,
            secret_access_key=secret.get_secret_value() if secret else None,
        )
        if store
        else S3Settings()
    )
    return Artifacts(where.servers, Stores(settings), read_straight=store is not None)


def _serving(config: MlflowSourceConfig) -> Serving:
    """What the recipe says is served beside MLflow."""
    servers = [ModelServer(server.name, server.url, server.model or "") for server in config.deployments.servers]
    return Serving(servers, config.deployments.targets)


def _rules(config: MlflowSourceConfig, tracking_url: str | None = None, registry_url: str | None = None) -> Rules:
    """Without the address of a server there are no links, unless the recipe says where people open MLflow."""
    limits = config.limits
    return Rules(
        naming=Naming(config.env, config.platform_instance, config.model_name_separator),
        limits=Limits(**limits.model_dump()),
        web=Web(config.base_external_url or tracking_url),
        registry_web=Web(registry_url if registry_url != tracking_url else config.base_external_url or tracking_url),
        platform_of_type=config.source_mapping_to_platform or {},
        naming_of_platform={
            platform: PlatformNaming(each.platform_instance, each.env, each.convert_urns_to_lowercase)
            for platform, each in config.dataset_platform_map.items()
        },
        code_url_templates=config.code_url_templates,
    )


def _removal_is_possible(config: MlflowSourceConfig, ctx: PipelineContext) -> None:
    """Raises ValidationError in place of what the framework would say, with a traceback."""
    removal = config.stateful_ingestion
    if removal is None or not removal.enabled:
        return
    if not ctx.pipeline_name:
        missing = "`stateful_ingestion.enabled` needs a `pipeline_name` in the recipe, beside `source` and `sink`"
    elif removal.state_provider and removal.state_provider.type == "datahub" and not _has_graph(removal, ctx):
        missing = (
            "`stateful_ingestion.enabled` remembers in DataHub what was sent: it needs the sink `datahub-rest`, or "
            "`datahub_api` in the recipe"
        )
    else:
        return
    raise _as_validation_error(RecipeError(missing))


def _has_graph(removal: RemovalConfig, ctx: PipelineContext) -> bool:
    own = removal.state_provider.config if removal.state_provider else None
    return ctx.graph is not None or bool(own and "datahub_api" in own)


def _shard(config: MlflowSourceConfig) -> Shard:
    return Shard(config.shard.index, config.shard.count) if config.shard else WHOLE


def selection_of(config: MlflowSourceConfig) -> Selection:
    """What the recipe leaves in, as of now."""
    days = config.run_retention_days
    scope = RunScope(
        include_deleted=config.include_deleted,
        filter=config.run_filter,
        started_after=int(time.time() * 1000) - days * _DAY_MILLIS if days else None,
        latest_per_experiment=config.max_runs_per_experiment,
        shard=_shard(config),
    )
    tags = config.deployments.tags
    return Selection(
        experiment=config.experiment_pattern.allowed,
        model=config.model_pattern.allowed,
        run_name=config.run_name_pattern.allowed,
        run_user=config.run_user_pattern.allowed,
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
        versions_in_memory=config.versions_in_memory,
    )
