"""The source, as DataHub's framework knows it: opens a reader, walks it once, closes it."""

from __future__ import annotations

import atexit
import gc
import os
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
from datahub.metadata.schema_classes import (
    BrowsePathsV2Class,
    DeprecationClass,
    DomainsClass,
    GlobalTagsClass,
    GlossaryTermsClass,
    InstitutionalMemoryClass,
    OwnershipClass,
    StructuredPropertiesClass,
)
from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.config_blocks import RemovalConfig
from datahub_mlflow_source.connection import DatabricksAuth, Deployment, deployment, workspaces_of
from datahub_mlflow_source.errors import GivenUpError, RecipeError, ServerError
from datahub_mlflow_source.ingestion import Ingestion
from datahub_mlflow_source.mapping.urns import PLATFORM
from datahub_mlflow_source.readers.artifacts import Artifacts
from datahub_mlflow_source.readers.base import Reader
from datahub_mlflow_source.readers.rest_workspaces import RestWorkspaces
from datahub_mlflow_source.readers.serving import ModelServer, Serving
from datahub_mlflow_source.readers.stores import S3Settings, Stores
from datahub_mlflow_source.recipe import meanings_of, rules_of, selection_of, shard_of
from datahub_mlflow_source.removal import RemovalGuard
from datahub_mlflow_source.report import MlflowSourceReport
from datahub_mlflow_source.state.shards import ShardHandler, ShardState
from datahub_mlflow_source.state.sizes import leave_out_too_large

# Releases of DataHub's server that take patches of these with a mark of whom they come from (docs/compatibility.md).
_TAKEN_SINCE = {
    GlobalTagsClass.ASPECT_NAME: (1, 2),
    GlossaryTermsClass.ASPECT_NAME: (1, 2),
    InstitutionalMemoryClass.ASPECT_NAME: (1, 3),  # of registered models
    OwnershipClass.ASPECT_NAME: (1, 3),
    StructuredPropertiesClass.ASPECT_NAME: (1, 3),
}
_FLOW, _JOB = "urn:li:dataFlow:", "urn:li:dataJob:"
_MERGED = frozenset({DomainsClass.ASPECT_NAME, DeprecationClass.ASPECT_NAME})  # read, and then written whole

# Python would go through all that DataHub has loaded once more before the process ends: a third of a second.
atexit.register(gc.freeze)


@platform_name("MLflow", id=PLATFORM)
@config_class(MlflowSourceConfig)
@support_status(SupportStatus.BETA)
@capability(SourceCapability.PLATFORM_INSTANCE, "By `platform_instance`")
@capability(SourceCapability.CONTAINERS, "Experiments and the model registry")
@capability(SourceCapability.DESCRIPTIONS, "Notes of experiments, descriptions of models and versions")
@capability(SourceCapability.TAGS, "Stages of model versions; aliases with `alias_tags`, others by `meta_mapping`")
@capability(SourceCapability.GLOSSARY_TERMS, "By `meta_mapping`")
@capability(SourceCapability.OWNERSHIP, "By `extract_owners`, `owners` and `meta_mapping`")
@capability(SourceCapability.DOMAINS, "By `domain` and `meta_mapping`")
@capability(SourceCapability.LINEAGE_COARSE, "From datasets to runs to model versions, and from tasks of orchestrators")
@capability(SourceCapability.LINEAGE_FINE, "To the columns behind a query, where it names them")
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
            self._shard_handler = ShardHandler(shard_of(config), self.state_provider, ctx)
        self.ctx = ctx
        self.report: MlflowSourceReport = MlflowSourceReport()
        try:
            where = deployment(config, os.environ)
            self._reader = _reader(where, config)
            self._serving = _serving(config)
            self._meanings = meanings_of(config, ctx.graph)
        except RecipeError as error:
            raise _as_validation_error(error) from error
        self._artifacts = _artifacts(where, config)
        for warning in where.warnings:
            self.report.warning(title="Secret in an address", message="It is not shown here.", context=warning)
        self._rules = rules_of(config, *(server.url for server in where.servers or ()))
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

    def get_workunit_processors(self) -> list[Any]:
        """The framework's, and behind them one that takes a browse path off flows and tasks of other tools.

        `AutoBrowsePathV2Processor` would put them below our platform instance.
        """
        ours = [_without_paths_of_tasks] if self.config.platform_instance else []
        return [*super().get_workunit_processors(), *ours]

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
            stage_tags=self.config.stage_tags and self._keyed_patches_are_taken(),
            patches=self._patches_are_taken(),
            writes=not (self.ctx.dry_run_mode or self.ctx.preview_mode),
            stamps_terms=self.ctx.graph is None or self._server_is_older_than(1, 6),
            marks_domains=not self._server_is_older_than(1, 7),
            aspects_not_patched=self._not_patched(),
            hold_said_by_runs=shard and (self.closing_follows or self._shard_handler is not None),
        )
        rules = self._rules.with_workspaces() if self._reader.workspaces() else self._rules
        ingestion = Ingestion(
            *(self._reader, self._artifacts, self._serving, rules, self._meanings, selection, guard, self.report),
            self.ctx.graph,
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
        self._tell_what_is_not_remembered()
        super().close()

    def _keyed_patches_are_taken(self) -> bool:
        """Whether DataHub's server, if it is known, takes patches as today's clients send them.

        Those before 1.2.0 don't, see docs/compatibility.md.
        """
        return not self._server_is_older_than(1, 2)

    def _not_patched(self) -> frozenset[str]:
        """Aspects of meaning that can't be said here without harm to what others said."""
        wanted = self._meanings.aspects()
        if not self._patches_are_taken():
            return frozenset()  # a file, which holds nothing of others
        stage_tags = {GlobalTagsClass.ASPECT_NAME} if self.config.stage_tags else set()
        left_out = {
            aspect
            for aspect in wanted | stage_tags
            if (aspect in _TAKEN_SINCE and self._server_is_older_than(*_TAKEN_SINCE[aspect]))
            or (aspect in _MERGED and self.ctx.graph is None)
        }
        if left_out:
            server = self.ctx.graph.server_config.service_version if self.ctx.graph else "Kafka, without `datahub_api`"
            self.report.info(
                title="Left out for this DataHub",
                message="It can't be told these without losing what others said: older servers take no such patches "
                "(tags and terms need 1.2.0, links, owners and structured properties 1.3.0), and domains and "
                "deprecations must be read first.",
                context=f"{server}: {', '.join(sorted(left_out))}",
            )
        return frozenset(left_out)

    def _server_is_older_than(self, major: int, minor: int) -> bool:
        """As far as it is known: not of DataHub Cloud, or a build of one's own."""
        server = self.ctx.graph.server_config if self.ctx.graph else None
        known = server is not None and not server.is_datahub_cloud and any(server.parsed_version or ())
        return bool(server and known and not server.is_version_at_least(major, minor, 0))

    def _patches_are_taken(self) -> bool:
        """By DataHub's server, straight or through Kafka."""
        recipe = self.ctx.pipeline_config
        sink = recipe.sink.type if recipe and recipe.sink else ""
        return self.ctx.graph is not None or sink == "datahub-kafka"

    def _tell_what_is_not_remembered(self) -> None:
        removal = self.config.stateful_ingestion
        if not removal or removal.ignore_new_state or self.ctx.dry_run_mode or self.ctx.preview_mode:
            return
        for job in leave_out_too_large(self.state_provider, removal.max_checkpoint_state_size):
            self.report.failure(
                title="Too much to be remembered",
                message="DataHub's framework keeps no state of this size, so that what goes from MLflow would not be "
                "found gone. Set `stateful_ingestion.max_checkpoint_state_size` higher; of shards, run more, or by "
                "`datahub-mlflow ingest`, which needs to keep none.",
                context=f"{job}, more than {removal.max_checkpoint_state_size:,} bytes",
            )

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


def _without_paths_of_tasks(units: Iterable[MetadataWorkUnit]) -> Iterable[MetadataWorkUnit]:
    ours = f"({PLATFORM},"
    for unit in units:
        urn = unit.get_urn()
        of_task = urn.startswith((_FLOW, _JOB)) and not urn.split(":", 3)[3].removeprefix(_FLOW).startswith(ours)
        if not (of_task and unit.get_aspect_of_type(BrowsePathsV2Class)):
            yield unit


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
