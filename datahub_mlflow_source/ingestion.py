"""One walk through an MLflow deployment: what is read, joined as it passes by, mapped and sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar, get_args

from datahub.ingestion.graph.client import DataHubGraph

from datahub_mlflow_source.deployments import DeploymentWalk
from datahub_mlflow_source.governance import Governance
from datahub_mlflow_source.histories import MetricHistories
from datahub_mlflow_source.mapping.datasets import (
    InputDataset,
)
from datahub_mlflow_source.mapping.experiments import map_experiment, map_registry, map_workspace
from datahub_mlflow_source.mapping.governance import Meanings
from datahub_mlflow_source.mapping.rules import Entity, Rules
from datahub_mlflow_source.mapping.runs import map_run
from datahub_mlflow_source.mapping.stages import stage_tags
from datahub_mlflow_source.mapping.subjects import subject_of_experiment
from datahub_mlflow_source.mapping.urns import experiment_urn, registry_urn, run_urn, workspace_urn
from datahub_mlflow_source.measure_walk import MeasureWalk
from datahub_mlflow_source.model_files import ModelFiles
from datahub_mlflow_source.outgoing import Outgoing, Units
from datahub_mlflow_source.progress import Progress
from datahub_mlflow_source.readers.artifacts import Artifacts
from datahub_mlflow_source.readers.base import WHOLE, Reader, RunScope
from datahub_mlflow_source.readers.serving import Serving
from datahub_mlflow_source.records import (
    DEFAULT_WORKSPACE,
    Experiment,
    Kind,
    LoggedModel,
    Run,
    Unreadable,
    in_workspace,
)
from datahub_mlflow_source.registry_walk import RegistryWalk
from datahub_mlflow_source.removal import RemovalGuard, datahub_has
from datahub_mlflow_source.report import MlflowSourceReport, Tally
from datahub_mlflow_source.said_by_runs import SaidByRuns
from datahub_mlflow_source.selection import Selection
from datahub_mlflow_source.state.shards import ShardState
from datahub_mlflow_source.superseded import superseded_units
from datahub_mlflow_source.unread import Unread

T = TypeVar("T")


class Ingestion:
    """Parents before children, each entity in one piece, nothing read twice."""

    def __init__(
        self,
        reader: Reader,
        artifacts: Artifacts | None,
        serving: Serving,
        rules: Rules,
        meanings: Meanings,
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
        self._workspaces = reader.workspaces() or []
        self._experiments: dict[str, Experiment] = {}
        self._registry = registry_urn(rules.naming)
        self._shard = selection.runs.shard
        # Of what is sent once for all shards, the first one's.
        self._leads = self._shard.index == 0
        self._state = ShardState()
        self._unread = Unread(report, guard, rules.naming)
        self._outgoing = Outgoing(report, guard, says_status=graph is None)
        self._said = SaidByRuns(*(rules, self._outgoing, report, graph, self._state), hold=selection.hold_said_by_runs)
        self._governance = Governance(meanings, selection, self._outgoing, report, graph)
        self._files = ModelFiles(artifacts, report, selection.artifacts_at_once) if artifacts else None
        wanted = selection.metric_history
        self._histories = MetricHistories(reader, wanted, report) if wanted else None
        self._measured = MeasureWalk(reader, rules, selection, self._outgoing, guard, report, self._read)
        self._deployments = (
            DeploymentWalk(
                *(reader, serving, selection, rules, self._outgoing, guard, report, self._unread),
            )
            if selection.include_deployments
            else None
        )
        self._made = RegistryWalk(
            *(rules, selection, self._outgoing, self._governance, guard, report, self._unread, self._state),
            *(self._files, self._inputs, self._deployments, self._experiments.__getitem__),
        )

    def work_units(self) -> Units:
        """All of it, in the order in which DataHub wants it."""
        self._heed_doubt()
        try:
            yield from self._stages()
        finally:
            self._made.close()
            if self._files:
                self._files.close()
            self._said.close()

    def _heed_doubt(self) -> None:
        """Whether all of MLflow is before us."""
        doubt = self._reader.doubt()
        if not doubt:
            return
        for kind in get_args(Kind):
            self._guard.listing_incomplete(kind)
        self._report.warning(
            title="There may be other workspaces",
            message="The default one is read, and nothing is removed from DataHub this time.",
            context=doubt,
        )

    def shard_state(self) -> ShardState:
        """What the closing step has to know, once all work units are out."""
        self._guard.leave(self._state)
        self._state.experiments = self._experiment_names()
        self._state.registry = str(self._registry)
        self._state.complete = not self._report.failures
        self._state.failed = self._report.has_entity_failures or not self._state.complete
        return self._state

    def _stages(self) -> Units:
        with self._report.new_stage("Experiments"):
            yield from self._governance.definitions()
            if self._leads:
                yield from self._stage_tags()
                yield from self._all_workspaces()
            yield from self._all_experiments()
        runs = self._runs_of_selected()
        if self._deployments:
            with self._report.new_stage("Deployments"):
                self._deployments.read()
        with self._report.new_stage("Registry"):
            self._read_registry()
        if self._leads and self._selection.include_datasets:
            with self._report.new_stage("Evaluation datasets"):
                yield from self._measured.datasets({id_: self._experiments[id_] for id_ in self._selected_ids()})
        if self._selection.include_logged_models:
            with self._report.new_stage("Logged models"):
                self._read_logged_models()
        with self._report.new_stage("Runs and the versions they made"):
            yield from self._all_runs(runs)
        if self._leads:
            with self._report.new_stage("Versions of other runs or none"):
                self._leave_to_other_shards()
                yield from self._made.versions_left(self._registry)
        with self._report.new_stage("Logged models of other runs or none"):
            yield from self._made.logged_models_left()
        with self._report.new_stage("Datasets"):
            yield from self._said.datasets()
        with self._report.new_stage("Workflows"):
            yield from self._said.tasks()
        if self._leads:
            with self._report.new_stage("Registered models"):
                yield from self._made.models(self._registry)
                if self._deployments:
                    yield from self._deployments.work_units(self._experiments)
        yield from self._governance.rest()
        if self._shard == WHOLE:
            registered = {} if self._guard.collects else self._state.registered
            yield from superseded_units(registered, self._rules, self._outgoing, self._graph)
            yield from self._guard.work_units(self._experiment_names(), str(self._registry))

    # --- what is walked ---

    def _stage_tags(self) -> Units:
        for tag in stage_tags() if self._selection.stage_tags else ():
            # One that is there stays as it is: people may have given it another text or colour, or removed it.
            if not datahub_has(self._graph, str(tag.urn)):
                yield from self._outgoing.not_ours_alone(tag)

    def _all_workspaces(self) -> Units:
        tally = self._report.workspaces
        for workspace in self._workspaces:
            if workspace.name == DEFAULT_WORKSPACE:
                continue
            tally.read += 1
            yield from self._outgoing.send(
                tally,
                workspace.name,
                partial(workspace_urn, workspace.name, self._rules.naming),
                partial(map_workspace, workspace, self._rules),
            )

    def _all_experiments(self) -> Units:
        tally = self._report.experiments if self._leads else Tally()
        for experiment in self._read(self._reader.experiments(), tally):
            self._experiments[experiment.experiment_id] = experiment
        if self._leads:
            self._measured.read_of_experiments(self._selected_ids())
        for experiment in self._experiments.values():
            if not self._selected(experiment):
                tally.filtered += 1
                continue
            if not self._leads:
                continue
            make_urn = partial(experiment_urn, experiment.name, self._rules.naming, experiment.workspace)
            mapped = partial(map_experiment, experiment, self._measured.of_experiment(experiment), self._rules)
            sent = tally.sent
            yield from self._outgoing.send(tally, experiment.name, make_urn, mapped)
            if tally.sent > sent:
                yield from self._governance.units(make_urn(), partial(subject_of_experiment, experiment))
        if self._workspaces and self._workspaces[0].name != DEFAULT_WORKSPACE:  # nothing of the registry's own is read
            self._registry = workspace_urn(self._workspaces[0].name, self._rules.naming)
            return
        same_name = any(
            e.name == "registry" and not e.workspace and self._selected(e) for e in self._experiments.values()
        )
        self._registry = registry_urn(self._rules.naming, beside_experiment_of_that_name=same_name)
        if self._leads:
            yield from self._outgoing.work_units(map_registry(self._registry, self._rules))

    def _read_registry(self) -> None:
        self._made.read_registry(self._timed(self._reader.registry()))
        if self._selection.include_prompts:
            self._made.read_registry(self._timed(self._reader.prompts()))
        if self._deployments:
            self._deployments.all_seen()

    def _read_logged_models(self) -> None:
        """Of all experiments: a version may be made of one that is left out."""
        found = self._reader.logged_models(self._experiments)
        if found is None:
            self._report.info(
                title="No logged models",
                message="This MLflow is older than 3.0, which began to keep them.",
                log=False,
            )
            return
        selected = frozenset(self._selected_ids())

        def is_wanted(model: LoggedModel) -> bool:
            return model.experiment_id in selected and self._reader.is_in_shard(model, self._shard)

        self._made.read_logged_models(self._timed(found), is_wanted)

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
            runs = self._reader.runs_by_id(self._made.waited_for(), self._selected_ids(), self._selection.runs)
        counts = self._reader.run_counts(self._selected_ids(), self._selection.runs) if include == "all" else None
        names = {id_: in_workspace(e.name, e.workspace) for id_, e in self._experiments.items()}
        # By their ids, and where the shard begins among those is known.
        in_order = counts is not None or (len(self._workspaces) < 2 and (include == "all" or self._shard == WHOLE))
        progress = Progress(self._report, names, counts, self._shard, in_order=in_order)
        for run in self._with_all(self._read(runs, self._report.runs)):
            progress.passed(run)
            yield from self._run(run)
        progress.finished()
        left = self._made.waited_for()
        anywhere = RunScope(include_deleted=True, shard=self._shard)
        others = self._read(self._reader.runs_by_id(left, self._experiments, anywhere), None)
        for run in self._with_all(others):
            yield from self._made_by(run, run_is_sent=False)

    def _with_all(self, runs: Iterator[Run]) -> Iterator[Run]:
        """The same runs, each once what is asked for by run is there too."""
        return self._made.with_files(self._histories.ahead(runs) if self._histories else runs)

    def _leave_to_other_shards(self) -> None:
        """The versions that go out with another shard's run; those whose run is sent there, their model names."""
        if self._shard == WHOLE or self._selection.include_runs == "none":
            return
        scope = replace(self._selection.runs, shard=WHOLE)
        for run in self._elsewhere(self._reader.runs_by_id(self._made.waited_for(), self._selected_ids(), scope)):
            self._made.hand_over(run, is_sent=self._run_selected(run))
        anywhere = RunScope(include_deleted=True)
        for run in self._elsewhere(self._reader.runs_by_id(self._made.waited_for(), self._experiments, anywhere)):
            self._made.hand_over(run, is_sent=False)

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
            yield from self._made_by(run, run_is_sent=False)
            return
        sent = tally.sent

        def mapped() -> Entity:
            versions, logged_models = self._made.made_by(run)
            experiment = self._experiments[run.experiment_id]
            used = self._made.models_used_by(run, logged_models)
            task = self._said.task(run, experiment, versions)
            return map_run(run, experiment, versions, logged_models, self._inputs(run), used, self._rules, task)

        make_urn = partial(run_urn, run.run_id, self._rules.naming)
        yield from self._outgoing.send(tally, run.run_id, make_urn, mapped)
        if tally.sent == sent:
            self._unread.run(run.run_id)
        yield from self._made_by(run, run_is_sent=tally.sent > sent)

    def _made_by(self, run: Run, *, run_is_sent: bool) -> Units:
        yield from self._made.of_run(run, self._registry, run_is_sent=run_is_sent)

    # --- how ---

    def _selected(self, experiment: Experiment) -> bool:
        wanted = experiment.lifecycle_stage == "active" or self._selection.runs.include_deleted
        return wanted and self._selection.experiment(experiment.name)

    def _experiment_names(self) -> dict[str, str]:
        return {id_: experiment.name for id_, experiment in self._experiments.items()}

    def _inputs(self, run: Run) -> Sequence[InputDataset]:
        wanted = self._selection.include_datasets
        return self._said.inputs(run, self._experiments[run.experiment_id]) if wanted else []

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
