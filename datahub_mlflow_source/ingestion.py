"""One walk through an MLflow deployment: what is read, joined as it passes by, mapped and sent."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

from datahub.emitter.mcp import MetadataChangeProposalWrapper
from datahub.emitter.mcp_builder import entity_supports_aspect
from datahub.ingestion.api.workunit import MetadataWorkUnit
from datahub.ingestion.graph.client import DataHubGraph
from datahub.metadata.schema_classes import StatusClass
from datahub.metadata.urns import Urn
from datahub.utilities.urns.error import InvalidUrnError

from datahub_mlflow_source.mapping.datasets import (
    InputDataset,
    map_dataset,
    platform_of,
    upstream_of,
)
from datahub_mlflow_source.mapping.experiments import map_experiment, map_registry
from datahub_mlflow_source.mapping.models import map_model, map_version
from datahub_mlflow_source.mapping.rules import Entity, Rules, alive
from datahub_mlflow_source.mapping.runs import map_run
from datahub_mlflow_source.mapping.stages import stage_aspect, stage_patch, stage_tags
from datahub_mlflow_source.mapping.urns import (
    experiment_urn,
    is_shortened,
    model_group_urn,
    model_version_urn,
    registry_urn,
    run_urn,
)
from datahub_mlflow_source.progress import STAGE_OF_RUNS, Progress
from datahub_mlflow_source.readers.base import WHOLE, Reader, RunScope
from datahub_mlflow_source.records import Experiment, ModelVersion, RegisteredModel, Run, Unreadable
from datahub_mlflow_source.removal import RemovalGuard, datahub_has
from datahub_mlflow_source.report import MlflowSourceReport, Tally
from datahub_mlflow_source.run_inputs import RunInputs
from datahub_mlflow_source.state.shards import HeldDataset, ShardState
from datahub_mlflow_source.unread import Unread
from datahub_mlflow_source.versions import VersionIndex

logger = logging.getLogger(__name__)

T = TypeVar("T")
Allowed = Callable[[str], bool]
Units = Iterator[MetadataWorkUnit]


@dataclass(frozen=True, slots=True)
class Selection:
    """What the recipe leaves in."""

    experiment: Allowed
    model: Allowed
    run_name: Allowed
    run_user: Allowed
    runs: RunScope
    include_runs: Literal["all", "registered", "none"]
    include_datasets: bool
    stage_tags: bool
    patches: bool  # whether they go where patches are understood: not a file, not DataHub Lite
    versions_in_memory: int
    hold_datasets: bool = False  # for the closing step, as other shards may have a later word on them


class Ingestion:
    """Parents before children, each entity in one piece, nothing read twice."""

    def __init__(
        self,
        reader: Reader,
        rules: Rules,
        selection: Selection,
        guard: RemovalGuard,
        report: MlflowSourceReport,
        graph: DataHubGraph | None,  # DataHub's server, if it can be asked
    ) -> None:
        self._reader = reader
        self._rules = rules
        self._selection = selection
        self._guard = guard
        self._report = report
        self._graph = graph
        self._experiments: dict[str, Experiment] = {}
        self._models: list[RegisteredModel] = []
        self._versions = VersionIndex(selection.versions_in_memory)
        self._run_inputs = RunInputs()
        self._registry = registry_urn(rules.naming)
        self._shard = selection.runs.shard
        # Of what is sent once for all shards, the first one's.
        self._leads = self._shard.index == 0
        self._state = ShardState()
        self._unread = Unread(report, guard, rules.naming)

    def work_units(self) -> Units:
        """All of it, in the order in which DataHub wants it."""
        try:
            yield from self._stages()
        finally:
            self._versions.close()
            self._run_inputs.close()

    def shard_state(self) -> ShardState:
        """What the closing step has to know, once all work units are out."""
        self._guard.leave(self._state)
        self._state.experiments = self._experiment_names()
        self._state.registry = str(self._registry)
        self._state.complete = not self._report.failures
        return self._state

    def _stages(self) -> Units:
        with self._report.new_stage("Experiments"):
            if self._leads:
                yield from self._stage_tags()
            yield from self._all_experiments()
        runs = self._runs_of_selected()
        with self._report.new_stage("Registry"):
            self._read_registry()
        with self._report.new_stage(STAGE_OF_RUNS):
            yield from self._all_runs(runs)
        if self._leads:
            with self._report.new_stage("Versions of other runs or none"):
                self._leave_to_other_shards()
                yield from self._versions_left()
        with self._report.new_stage("Datasets"):
            yield from self._all_datasets()
        if self._leads:
            with self._report.new_stage("Registered models"):
                yield from self._all_models()
        if self._shard == WHOLE:
            yield from self._guard.work_units(self._experiment_names(), str(self._registry))

    # --- what is walked ---

    def _stage_tags(self) -> Units:
        for tag in stage_tags() if self._selection.stage_tags else ():
            if datahub_has(self._graph, str(tag.urn)):
                # People may have given it another text or colour, which are not ours to replace.
                yield from self._work_units(Entity(tag.urn, [alive()]))
            else:
                yield from self._work_units(tag)

    def _all_experiments(self) -> Units:
        tally = self._report.experiments if self._leads else Tally()
        for experiment in self._read(self._reader.experiments(), tally):
            self._experiments[experiment.experiment_id] = experiment
            if not self._selected(experiment):
                tally.filtered += 1
                continue
            if not self._leads:
                continue
            yield from self._send(
                tally,
                experiment.name,
                partial(experiment_urn, experiment.name, self._rules.naming),
                partial(map_experiment, experiment, self._rules),
            )
        same_name = any(e.name == "registry" and self._selected(e) for e in self._experiments.values())
        self._registry = registry_urn(self._rules.naming, beside_experiment_of_that_name=same_name)
        if self._leads:
            yield from self._work_units(map_registry(self._registry, self._rules))

    def _read_registry(self) -> None:
        """Before the runs, so that each finds its versions as it passes by."""
        # Every shard reads all of it, the first counts.
        models, versions = (self._report.models, self._report.versions) if self._leads else (Tally(), Tally())
        for record in self._timed(self._reader.registry()):
            if isinstance(record, Unreadable):
                self._unread.tell(record, models if record.kind == "registered model" else versions)
                continue
            tally = models if isinstance(record, RegisteredModel) else versions
            tally.read += 1
            if not self._selection.model(record.name):
                tally.filtered += 1
            elif isinstance(record, RegisteredModel):
                self._models.append(record)
            else:
                self._versions.add(record)

    def _runs_of_selected(self) -> Iterator[Run | Unreadable]:
        """Asked for before the registry is read: the first of them are on their way meanwhile."""
        if self._selection.include_runs != "all":
            return iter(())
        return self._reader.runs(self._selected_ids(), self._selection.runs)

    def _selected_ids(self) -> list[str]:
        return [e.experiment_id for e in self._experiments.values() if self._selected(e)]

    def _all_runs(self, runs: Iterator[Run | Unreadable]) -> Units:
        """Those that the recipe asks for, then those that only their versions need."""
        include = self._selection.include_runs
        if include == "none":
            return
        if include == "registered":
            runs = self._reader.runs_by_id(self._versions.run_ids(), self._selected_ids(), self._selection.runs)
        counts = self._reader.run_counts(self._selected_ids(), self._selection.runs) if include == "all" else None
        progress = Progress(self._report, self._experiment_names(), counts, self._shard)
        for run in self._read(runs, self._report.runs):
            progress.passed(run)
            yield from self._run(run)
        progress.finished()
        left = self._versions.run_ids()
        anywhere = RunScope(include_deleted=True, shard=self._shard)
        for run in self._read(self._reader.runs_by_id(left, self._experiments, anywhere), None):
            yield from self._versions_of(run, run_is_sent=False)

    def _leave_to_other_shards(self) -> None:
        """The versions that go out with another shard's run; those whose run is sent there, their model names."""
        if self._shard == WHOLE or self._selection.include_runs == "none":
            return
        scope = replace(self._selection.runs, shard=WHOLE)
        for run in self._elsewhere(self._reader.runs_by_id(self._versions.run_ids(), self._selected_ids(), scope)):
            self._hand_over(run, is_sent=self._run_selected(run))
        anywhere = RunScope(include_deleted=True)
        for run in self._elsewhere(self._reader.runs_by_id(self._versions.run_ids(), self._experiments, anywhere)):
            self._hand_over(run, is_sent=False)

    def _hand_over(self, run: Run, *, is_sent: bool) -> None:
        """Noted for the closing step: nobody sends them, where the run goes away before its shard reads it."""
        for version in self._versions.take(run.run_id):
            if is_sent:
                self._versions.run_sent(version)
            urn = model_version_urn(version.name, version.version, self._rules.naming)
            self._state.handed_over.append(str(urn))

    def _elsewhere(self, runs: Iterator[Run | Unreadable]) -> Iterator[Run]:
        """Runs of other shards. A bad one is told there; here its versions are dealt with."""
        for run in self._timed(runs):
            if isinstance(run, Run):
                yield run
            elif run.run_id:
                self._unread.run_ids.add(run.run_id)
            else:
                self._unread.tell(run, self._report.runs)

    def _run_selected(self, run: Run) -> bool:
        return self._selection.run_name(run.name) and self._selection.run_user(run.user_id)

    def _run(self, run: Run) -> Units:
        tally = self._report.runs
        if not self._run_selected(run):
            tally.filtered += 1
            yield from self._versions_of(run, run_is_sent=False)
            return
        versions = self._versions.of_run(run.run_id)
        sent = tally.sent
        yield from self._send(
            tally,
            run.run_id,
            partial(run_urn, run.run_id, self._rules.naming),
            lambda: map_run(run, self._experiment_of(run), versions, self._inputs(run), self._rules),
        )
        if tally.sent == sent:
            self._unread.run(run.run_id)
        yield from self._versions_of(run, run_is_sent=tally.sent > sent)

    def _versions_of(self, run: Run, *, run_is_sent: bool) -> Units:
        for version in self._versions.take(run.run_id):
            if run_is_sent:
                self._versions.run_sent(version)
            elif self._is_unread(run.run_id) and self._stays_as_it_was(version):
                continue
            yield from self._version(version, run, run_is_sent)

    def _versions_left(self) -> Units:
        """Versions without a run, and those whose run MLflow has no more or can't serve."""
        for version in self._versions.take_all():
            if version.run_id and self._is_unread(version.run_id) and self._stays_as_it_was(version):
                continue
            yield from self._version(version, None, run_is_sent=False)

    def _is_unread(self, run_id: str) -> bool:
        """Or may be: then its version would lose the link to a run that is in DataHub."""
        return self._unread.runs_missing or run_id in self._unread.run_ids

    def _stays_as_it_was(self, version: ModelVersion) -> bool:
        """Where part of what belongs to it could not be read: if DataHub has it, better as it was than without that."""
        urn = str(model_version_urn(version.name, version.version, self._rules.naming))
        if not self._guard.knows(urn):
            return False
        self._guard.keep(urn)
        self._report.versions.failed += 1
        return True

    def _version(self, version: ModelVersion, run: Run | None, run_is_sent: bool) -> Units:
        if not version.aliases_known and self._stays_as_it_was(version):
            return

        def mapped() -> Entity:
            inputs = self._inputs(run) if run and run_is_sent else []
            return map_version(version, run, run_is_sent, inputs, self._registry, self._rules)

        make_urn = partial(model_version_urn, version.name, version.version, self._rules.naming)
        sent = self._report.versions.sent
        yield from self._send(self._report.versions, f"{version.name} version {version.version}", make_urn, mapped)
        if not self._selection.stage_tags or self._report.versions.sent == sent:
            return
        urn = make_urn()
        if self._selection.patches:
            for proposal in stage_patch(urn, version.stage):
                yield MetadataWorkUnit(id=f"{urn}-stage", mcp_raw=proposal)
        elif tags := stage_aspect(version.stage):
            yield MetadataChangeProposalWrapper(entityUrn=str(urn), aspect=tags).as_workunit()

    def _all_datasets(self) -> Units:
        hold = self._selection.hold_datasets
        tally = Tally() if hold else self._report.datasets
        platforms: dict[str, Entity] = {}
        for said_at, dataset in self._run_inputs:
            tally.read += 1
            mapped = partial(map_dataset, dataset, self._rules)
            units = self._send(tally, dataset.input.name, partial(getattr, dataset, "urn"), mapped)
            if hold:
                self._hold(str(dataset.urn), said_at, units)
            else:
                yield from units
            upstream = upstream_of(dataset, self._rules)
            platform = platform_of(upstream) if upstream else None
            if platform:
                platforms[str(platform.urn)] = platform
        for urn, platform in sorted(platforms.items()):
            if not datahub_has(self._graph, urn):
                for aspect in platform.aspects:
                    proposal = MetadataChangeProposalWrapper(entityUrn=urn, aspect=aspect)
                    yield proposal.as_workunit(is_primary_source=False)

    def _hold(self, urn: str, said_at: tuple[int, str], units: Units) -> None:
        proposals = [u.metadata.to_obj() for u in units if isinstance(u.metadata, MetadataChangeProposalWrapper)]
        if proposals:
            self._state.datasets[urn] = HeldDataset(start_time=said_at[0], run_id=said_at[1], proposals=proposals)

    def _all_models(self) -> Units:
        for model in self._models:
            latest, run_ids = self._versions.latest(model.name), self._versions.runs_sent(model.name)
            yield from self._send(
                self._report.models,
                model.name,
                partial(model_group_urn, model.name, self._rules.naming),
                partial(map_model, model, latest, run_ids, self._registry, self._rules),
            )

    # --- how ---

    def _selected(self, experiment: Experiment) -> bool:
        wanted = experiment.lifecycle_stage == "active" or self._selection.runs.include_deleted
        return wanted and self._selection.experiment(experiment.name)

    def _experiment_names(self) -> dict[str, str]:
        return {id_: experiment.name for id_, experiment in self._experiments.items()}

    def _experiment_of(self, run: Run) -> str:
        return self._experiments[run.experiment_id].name

    def _inputs(self, run: Run) -> Sequence[InputDataset]:
        """The run's datasets."""
        if not self._selection.include_datasets:
            return []
        return self._run_inputs.of(run, self._experiment_of(run), self._rules)

    def _send(self, tally: Tally, name: str, urn: Callable[[], Urn], mapped: Callable[[], Entity]) -> Units:
        """The boundary behind which one odd entity stays: it goes out whole, or not at all and is kept alive."""
        try:
            entity = mapped()
        except Exception as error:
            tally.failed += 1
            with contextlib.suppress(InvalidUrnError, ValueError):  # what can't have a URN was never sent
                self._guard.keep(str(urn()))
            self._report.entity_failure(
                title="Not sent",
                message="It could not be mapped, and stays in DataHub as it was. Please report this as a bug.",
                context=f"{name}: {type(error).__name__}: {error}",
            )
            logger.debug("Mapping %s failed", name, exc_info=True)
            return
        tally.sent += 1
        for cut in entity.cut:
            self._report.cut.append(f"{name}: {cut}")
        if is_shortened(entity.urn):
            self._report.names_shortened.append(f"{name[:60]}… is {entity.urn}")
        yield from self._work_units(entity)

    def _work_units(self, entity: Entity) -> Units:
        urn = str(entity.urn)
        self._guard.sent(urn)
        for aspect in entity.aspects:
            yield MetadataChangeProposalWrapper(entityUrn=urn, aspect=aspect).as_workunit()
        if not self._graph and entity_supports_aspect(entity.urn.entity_type, StatusClass):
            # The framework would say it of all at the end, when MLflow has nothing to do any more; said now it costs
            # no time. A DataHub server gets it from the framework, by a patch that spares other fields.
            yield MetadataChangeProposalWrapper(entityUrn=urn, aspect=alive()).as_workunit()

    def _read(self, records: Iterator[T | Unreadable], tally: Tally | None) -> Iterator[T]:
        """What could be read; the rest goes into the report."""
        for record in self._timed(records):
            if isinstance(record, Unreadable):
                self._unread.tell(record, tally or self._report.runs)
                continue
            if tally:
                tally.read += 1
            yield record

    def _timed(self, records: Iterable[T]) -> Iterator[T]:
        """Counts the time in which MLflow is waited for."""
        iterator = iter(records)
        while True:
            with self._report.waiting_for_mlflow:
                try:
                    record = next(iterator)
                except StopIteration:
                    return
            yield record
