"""What must not be taken for deleted.

DataHub's framework soft-deletes what the ingestion before had and this one has not. Whatever is missing because it
could not be read is kept alive here: by a primary `Status(removed=False)`, for entities that an earlier ingestion
sent, so that they stay in the state and their real deletion is found later.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import requests
from datahub.configuration.common import OperationalError
from datahub.emitter.mcp import MetadataChangeProposalWrapper
from datahub.ingestion.api.common import PipelineContext
from datahub.ingestion.api.workunit import MetadataWorkUnit
from datahub.ingestion.graph.client import DataHubGraph
from datahub.ingestion.source.state.entity_removal_state import GenericCheckpointState
from datahub.ingestion.source.state.stale_entity_removal_handler import (
    StaleEntityRemovalHandler,
    StatefulStaleMetadataRemovalConfig,
)
from datahub.ingestion.source.state.stateful_ingestion_base import StateProviderWrapper
from datahub.metadata.schema_classes import ContainerPropertiesClass, DataProcessInstanceInputClass
from datahub.metadata.urns import (
    ContainerUrn,
    DataFlowUrn,
    DataJobUrn,
    DataProcessInstanceUrn,
    DatasetUrn,
    MlModelDeploymentUrn,
    MlModelGroupUrn,
    MlModelUrn,
    TagUrn,
)
from datahub.utilities.urns.urn import guess_entity_type

from datahub_mlflow_source.mapping.rules import OURS, alive
from datahub_mlflow_source.mapping.urns import PLATFORM, PLATFORM_URN, stage_tag_urn
from datahub_mlflow_source.records import GATEWAY, Kind
from datahub_mlflow_source.report import MlflowSourceReport
from datahub_mlflow_source.state.shards import ShardState

logger = logging.getLogger(__name__)

# Entity types that something missing from such a listing may be of. A run names its datasets; runs themselves
# are never removed by the framework (STATEFUL_INGESTION_IGNORED_ENTITY_TYPES).
_LOGGED_MODEL_TYPE = "mlModel of a logged model"
_EVALUATION_TYPE = "dataset for evaluation"
_GATEWAY_TYPE = "mlModelDeployment of the gateway"
_TYPES_OF: dict[Kind, tuple[str, ...]] = {
    "experiment": (ContainerUrn.ENTITY_TYPE, DatasetUrn.ENTITY_TYPE, _LOGGED_MODEL_TYPE, _EVALUATION_TYPE),
    "run": (DatasetUrn.ENTITY_TYPE,),
    "registered model": (MlModelGroupUrn.ENTITY_TYPE, MlModelUrn.ENTITY_TYPE, MlModelDeploymentUrn.ENTITY_TYPE),
    "model version": (MlModelUrn.ENTITY_TYPE, _LOGGED_MODEL_TYPE, MlModelDeploymentUrn.ENTITY_TYPE),
    "logged model": (_LOGGED_MODEL_TYPE,),
    "evaluation dataset": (_EVALUATION_TYPE,),
    "deployment": (MlModelDeploymentUrn.ENTITY_TYPE,),
    "gateway endpoint": (_GATEWAY_TYPE,),
}
# Permission that was lost looks like deletion: MLflow leaves out of a search what one may not read. So what is gone is
# judged by its share, type by type, and with it what hangs on it. Not judged are datasets by name alone, which the
# built-in made: they are all missing on purpose after the change from it.
_KIND_OF: dict[str, Kind] = {
    ContainerUrn.ENTITY_TYPE: "experiment",
    DatasetUrn.ENTITY_TYPE: "run",
    MlModelGroupUrn.ENTITY_TYPE: "registered model",
    MlModelUrn.ENTITY_TYPE: "model version",
    _LOGGED_MODEL_TYPE: "logged model",
    _EVALUATION_TYPE: "evaluation dataset",
    MlModelDeploymentUrn.ENTITY_TYPE: "deployment",
    _GATEWAY_TYPE: "gateway endpoint",
}
_LOGGED_MODEL = re.compile(r"urn:li:mlModel:\(urn:li:dataPlatform:mlflow,(.*\.)?m-[0-9a-f]{32},\w+\)", re.DOTALL)
_FOR_EVALUATION = re.compile(r"urn:li:dataset:\(urn:li:dataPlatform:mlflow,(.*\.)?d-[0-9a-f]{32},\w+\)", re.DOTALL)
_OF_GATEWAY = re.compile(
    rf"urn:li:mlModelDeployment:\(urn:li:dataPlatform:mlflow,(.*\.)?{GATEWAY}\..*,\w+\)", re.DOTALL
)
_OUR_DATASET = re.compile(r"urn:li:dataset:\(urn:li:dataPlatform:mlflow,.*-[0-9a-f]{8},\w+\)", re.DOTALL)
# What DataHub's client raises when a question is not answered.
_ASKING_FAILED = (requests.RequestException, OperationalError, ValueError)
_RENAMES_LOOKED_UP = 20
_FOR_NO_STAGE = str(stage_tag_urn("None"))  # the built-in's, which nobody needs
_OF_EVERYBODY = tuple(f"urn:li:{kind.ENTITY_TYPE}:" for kind in (TagUrn, DataFlowUrn, DataJobUrn))
_NEVER_REMOVED = f"urn:li:{DataProcessInstanceUrn.ENTITY_TYPE}:"  # runs, of which there are many


def datahub_has(graph: DataHubGraph | None, urn: str) -> bool:
    """Whether DataHub has this entity; where it doesn't answer, it may."""
    try:
        return bool(graph and graph.exists(urn))
    except _ASKING_FAILED as error:
        logger.warning("DataHub does not say whether it has %s: %s", urn, error)
        return True


class RemovalGuard:
    """Follows one ingestion and, at its end, keeps alive what is missing for no good reason.

    Attributes:
        collects: it is a shard's, which judges nothing, and notes all for the closing step.
    """

    def __init__(
        self,
        config: StatefulStaleMetadataRemovalConfig | None,
        state_provider: StateProviderWrapper,
        ctx: PipelineContext,
        report: MlflowSourceReport,
        *,
        collects: bool = False,
    ) -> None:
        self._config = config
        self._state_provider = state_provider
        self._graph = ctx.graph
        self._report = report
        self.collects = collects
        self._sent: set[str] = set()
        self._keep: set[str] = set()
        self._incomplete: set[str] = set()  # entity types

    def sent(self, urn: str) -> None:
        """This entity is there. Remembered only of those that could be missed: memory must not grow with runs."""
        if urn in self._last_urns or (self.collects and not urn.startswith(_NEVER_REMOVED)):
            self._sent.add(urn)

    def keep(self, urn: str) -> None:
        """This one could not be read or mapped."""
        self._keep.add(urn)

    def listing_incomplete(self, kind: Kind) -> None:
        """Something of this kind is missing, and nobody knows what."""
        self._incomplete.update(_TYPES_OF[kind])

    def run_unreadable(self, urn: DataProcessInstanceUrn) -> None:
        """The datasets of such a run stay: those that DataHub knows of, or all where there is no one to ask."""
        if not (self._last_urns or self.collects):
            return
        try:
            inputs = self._graph.get_aspect(str(urn), DataProcessInstanceInputClass) if self._graph else None
        except _ASKING_FAILED as error:
            logger.warning("DataHub does not say what run %s read: %s", urn, error)
            inputs = None
        if inputs is None:
            self.listing_incomplete("run")
            return
        for edge in inputs.inputEdges or []:
            self.keep(edge.destinationUrn)

    def knows(self, urn: str) -> bool:
        """Whether an earlier ingestion sent it, as far as can be found out."""
        if self._last_urns:
            return urn in self._last_urns
        return datahub_has(self._graph, urn)

    def may_have_been_sent(self, urn: str) -> bool:
        """Whether an earlier ingestion sent it: a shard can't know."""
        return self.collects or urn in self._last_urns

    def leave(self, state: ShardState) -> None:
        """What this shard has noted, for the closing step."""
        state.sent, state.keep, state.incomplete = sorted(self._sent), sorted(self._keep), sorted(self._incomplete)

    def take(self, state: ShardState) -> None:
        """What a shard has noted."""
        self._keep.update(state.keep)
        self._incomplete.update(state.incomplete)
        handler = self._handler()
        for urn in state.sent:
            self.sent(urn)
            if handler:
                handler.add_entity_to_state("", urn)

    def work_units(self, experiments: Mapping[str, str], registry: str) -> Iterator[MetadataWorkUnit]:
        """At the end of the ingestion: what keeps alive the entities that must not go.

        `experiments` are all that MLflow listed, names by id; `registry` is the container that is always there.
        """
        missing = sorted(self._last_urns - self._sent - self._left_to_others())
        gone = [urn for urn in missing if urn not in self._keep]
        self._judge_by_count(gone, self._last_urns - {registry}, nothing_listed=not experiments)
        kept = [urn for urn in missing if urn in self._keep or _type_of(urn) in self._incomplete]
        for urn in kept:
            self._report.kept_although_not_read += 1
            yield MetadataChangeProposalWrapper(entityUrn=urn, aspect=alive()).as_workunit()
        self._tell_renames(set(missing) - set(kept), experiments)

    @cached_property
    def _last_urns(self) -> set[str]:
        """Everything that the ingestion before sent; empty where nothing will be removed anyway."""
        if not (self._config and self._config.enabled and self._config.remove_stale_metadata):
            return set()
        job = StaleEntityRemovalHandler.compute_job_id(PLATFORM)
        checkpoint = self._state_provider.get_last_checkpoint(job, GenericCheckpointState)
        return set(checkpoint.state.urns) if checkpoint else set()

    def _left_to_others(self) -> set[str]:
        """What is never removed for having gone from MLflow: the framework is told to skip it.

        Datasets of other platforms, which the built-in with `materialize_dataset_inputs` put into the state; tags,
        which are everybody's; flows and tasks, which runs of other servers and recipes may name too.
        """
        ours = f"urn:li:dataset:({PLATFORM_URN},"
        theirs = {
            urn
            for urn in self._last_urns
            if (urn.startswith(_OF_EVERYBODY) and urn != _FOR_NO_STAGE)
            or (urn.startswith("urn:li:dataset:(") and not urn.startswith(ours))
        }
        if handler := self._handler():
            for urn in theirs:
                handler.add_urn_to_skip(urn)
        return theirs

    def _handler(self) -> StaleEntityRemovalHandler | None:
        """The framework's, which removes."""
        job = StaleEntityRemovalHandler.compute_job_id(PLATFORM)
        handler = self._state_provider._usecase_handlers.get(job)
        return handler if isinstance(handler, StaleEntityRemovalHandler) else None

    def _judge_by_count(self, gone: Iterable[str], all_before: Iterable[str], *, nothing_listed: bool) -> None:
        """Too many of one kind gone at once are a failure, and stay, with what hangs on them.

        A single one may go, unless MLflow lists nothing at all: not even the experiment that it begins with.
        """
        threshold = self._config.fail_safe_threshold if self._config else 100.0
        before, missing = Counter(filter(None, map(_judged, all_before))), Counter(filter(None, map(_judged, gone)))
        for entity_type, kind in _KIND_OF.items():
            count, of = missing[entity_type], before[entity_type]
            if entity_type in self._incomplete or not count or threshold >= 100.0 or (of == 1 and not nothing_listed):
                continue
            if 100.0 * count / of > threshold:
                # A model stays with its versions, of which a registry may hold many where it holds one model.
                self.listing_incomplete("registered model" if kind == "model version" else kind)
                self._report.entity_failure(
                    title="Too much is gone at once",
                    message="None of it is removed from DataHub, as a lost permission looks the same. Check that this "
                    "user may still read it in MLflow. If it was really deleted, or is left out by the recipe on "
                    "purpose, run once with `stateful_ingestion.fail_safe_threshold: 100`.",
                    context=f"{count} of {of} entities of type {entity_type}",
                )

    def _tell_renames(self, removed: set[str], names: Mapping[str, str]) -> None:
        """A container's URN is made of its experiment's name: a rename removes one and adds another."""
        if not self._graph:
            return
        containers = sorted(urn for urn in removed if guess_entity_type(urn) == ContainerUrn.ENTITY_TYPE)
        for urn in containers[:_RENAMES_LOOKED_UP]:
            try:
                was = self._graph.get_aspect(urn, ContainerPropertiesClass)
            except _ASKING_FAILED as error:
                logger.warning("DataHub does not say how %s was called: %s", urn, error)
                return
            if was:
                self._tell_gone(urn, was, names)

    def _tell_gone(self, urn: str, was: ContainerPropertiesClass, names: Mapping[str, str]) -> None:
        experiment_id, workspace = (was.customProperties.get(f"{OURS}{key}") for key in ("experiment_id", "workspace"))
        now = names.get(experiment_id or "")
        if now is not None and now != was.name:
            self._report.info(
                title="Experiment renamed",
                message="DataHub has it under its new name; the entity with the old one is soft-deleted, with "
                "what people wrote on it.",
                context=f"{was.name!r} is now {now!r}; old entity {urn}",
            )
        elif now is not None and workspace:
            self._report.info(
                title="Experiment moved",
                message="It is in another workspace; the old entity is soft-deleted, with what people wrote on it.",
                context=f"{was.name!r} was in workspace {workspace}; old entity {urn}",
            )
        elif workspace and not experiment_id:
            self._report.warning(
                title="A workspace is gone",
                message="It is soft-deleted with all that was in it, as MLflow lists it no more. Check that it was "
                "really deleted, and not this user's permission to see it: then it comes back with that.",
                context=f"{workspace}; old entity {urn}",
            )


def _type_of(urn: str) -> str:
    """DataHub's, but for what comes from another listing than others of its type."""
    entity_type = guess_entity_type(urn)
    if entity_type == DatasetUrn.ENTITY_TYPE and _FOR_EVALUATION.fullmatch(urn):
        return _EVALUATION_TYPE
    if entity_type == MlModelDeploymentUrn.ENTITY_TYPE and _OF_GATEWAY.fullmatch(urn):
        return _GATEWAY_TYPE
    return _LOGGED_MODEL_TYPE if entity_type == MlModelUrn.ENTITY_TYPE and _LOGGED_MODEL.fullmatch(urn) else entity_type


def _judged(urn: str) -> str | None:
    """Its type, if what is gone of that is judged by its share."""
    entity_type = _type_of(urn)
    if entity_type == DatasetUrn.ENTITY_TYPE and not _OUR_DATASET.fullmatch(urn):
        return None
    return entity_type if entity_type in _KIND_OF else None
