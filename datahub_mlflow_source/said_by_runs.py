"""What runs say about others: the datasets that they read, the tasks that started them. Sent once all have spoken."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from datahub.emitter.mcp import MetadataChangeProposalWrapper
from datahub.ingestion.graph.client import DataHubGraph
from datahub.metadata.urns import Urn

from datahub_mlflow_source.latest_word import LatestWord, SaidAt
from datahub_mlflow_source.mapping.datasets import InputDataset, input_dataset, map_dataset, platform_of, upstreams_of
from datahub_mlflow_source.mapping.orchestrators import Task, task_of
from datahub_mlflow_source.mapping.pipelines import map_flow, map_job, platform_of_task
from datahub_mlflow_source.mapping.queries import Upstreams
from datahub_mlflow_source.mapping.rules import Entity, Rules
from datahub_mlflow_source.mapping.table_rules import tables_of, unresolved
from datahub_mlflow_source.outgoing import Outgoing, Units
from datahub_mlflow_source.query_process import QueryProcess
from datahub_mlflow_source.records import Experiment, ModelVersion, Run
from datahub_mlflow_source.redaction import redact
from datahub_mlflow_source.removal import datahub_has
from datahub_mlflow_source.report import MlflowSourceReport, Tally
from datahub_mlflow_source.state.shards import Held, ShardState
from datahub_mlflow_source.text import printable

_MOST_ORCHESTRATORS = 50  # counted one by one: tags may name any


class SaidByRuns:
    """Of what several runs say about one entity, the latest run's word stands."""

    def __init__(
        self,
        rules: Rules,
        outgoing: Outgoing,
        report: MlflowSourceReport,
        graph: DataHubGraph | None,
        state: ShardState,
        *,
        hold: bool,
    ) -> None:
        """`hold`: for the closing step of shards, where another one may have a later word."""
        self._rules, self._outgoing, self._report, self._graph = rules, outgoing, report, graph
        self._state, self._hold_them = state, hold
        self._datasets: LatestWord[InputDataset] = LatestWord()
        self._tasks: LatestWord[Task] = LatestWord()  # flows and tasks of ours
        self._platforms: set[str] = set()  # that DataHub knows by now
        self._inputs_of: tuple[Run | None, Sequence[InputDataset]] = None, ()
        self._queries = QueryProcess()
        self._told_of_parser = False

    def close(self) -> None:
        """Removes the temporary files, and ends the process that parses queries."""
        self._queries.close()
        self._datasets.close()
        self._tasks.close()

    # --- while runs pass by ---

    def inputs(self, run: Run, experiment: Experiment) -> Sequence[InputDataset]:
        """The run's datasets, and those of others that rules of the recipe find.

        Asked for by the run, and then by each model that it made.
        """
        if self._inputs_of[0] is not run:
            logged = [input_dataset(dataset, experiment, self._rules, run.tags) for dataset in run.datasets]
            for dataset in logged:
                self._datasets.hear(str(dataset.urn), run, dataset)
            for name in unresolved(run, self._rules):
                self._report.unresolved_datasets.append(printable(f"run {run.run_id}: {name}"))
            self._inputs_of = run, [*logged, *tables_of(run, self._rules)]
        return self._inputs_of[1]

    def task(self, run: Run, experiment: Experiment, versions: Sequence[ModelVersion]) -> Task | None:
        """What started the run, which made these versions."""
        if not self._rules.orchestrators.may_fit(run, versions):
            return None
        task = task_of(run, experiment, versions, self._rules.orchestrators, self._rules.naming)
        if task is None:
            self._report.runs_without_their_task.append(run.run_id)
            return None
        started = self._report.runs_started_by
        if task.orchestrator in started or len(started) < _MOST_ORCHESTRATORS:
            started[task.orchestrator] = started.get(task.orchestrator, 0) + 1
        if task.is_ours:
            for urn in filter(None, (task.flow, task.job)):
                self._tasks.hear(str(urn), run, task)
        return task

    # --- once they have ---

    def datasets(self) -> Units:
        """Those of platform mlflow."""
        tally = Tally() if self._hold_them else self._report.datasets
        for urn, said_at, dataset in self._datasets:
            tally.read += 1
            platforms: list[Entity] = []
            mapped = partial(self._mapped, dataset, platforms)
            units = self._outgoing.send(tally, dataset.input.name, partial(getattr, dataset, "urn"), mapped)
            yield from self._held(urn, said_at, units)
            for platform in platforms:
                yield from self._platform(platform)

    def _mapped(self, dataset: InputDataset, platforms: list[Entity]) -> Entity:
        """The dataset; those platforms that the ones behind it are on are added."""
        upstreams = upstreams_of(dataset, self._rules, self._queries.read)
        self._tell_unresolved(dataset, upstreams)
        platforms.extend(filter(None, map(platform_of, upstreams.datasets)))
        return map_dataset(dataset, upstreams, self._rules)

    def tasks(self) -> Units:
        """Flows and tasks that no integration of DataHub's has.

        They stay, as runs do: other recipes may name them too.
        """
        tally = Tally() if self._hold_them else self._report.tasks
        for of_flows in (True, False):  # a flow before its tasks
            for urn, said_at, task in self._tasks:
                if (urn == str(task.flow)) is not of_flows:
                    continue
                if of_flows and (platform := platform_of_task(task)):
                    yield from self._platform(platform)
                tally.read += 1
                mapped = partial(map_flow if of_flows else map_job, task, self._rules)
                units = self._outgoing.send(tally, urn, partial(Urn.from_string, urn), mapped, alone=False)
                yield from self._held(urn, said_at, units)

    def _platform(self, platform: Entity) -> Units:
        """Once, where DataHub doesn't know it."""
        urn = str(platform.urn)
        if urn not in self._platforms:
            self._platforms.add(urn)
            if not datahub_has(self._graph, urn):
                yield from self._outgoing.not_ours_alone(platform)

    def _tell_unresolved(self, dataset: InputDataset, upstreams: Upstreams) -> None:
        """Datasets without a real one behind them, and queries of which some tables are known only."""
        if upstreams.problem == "no parser" and not self._told_of_parser:
            self._told_of_parser = True
            self._report.warning(
                title="Queries are not understood",
                message="Datasets that were read by a query are not linked to its tables: DataHub's SQL parser can't "
                "be imported. `pip install 'acryl-datahub[sql-parser]'` brings what it needs.",
            )
        if upstreams.datasets and not upstreams.unresolved:
            return
        tables = f"without {', '.join(upstreams.unresolved)}: " if upstreams.unresolved else ""
        tables = "took too long to parse: " if upstreams.problem == "given up" else tables
        source = f"{redact(dataset.input.source_type)} {tables}{dataset.source.display}"
        self._report.unresolved_datasets.append(printable(f"{dataset.input.name}: {source}"[:300]))

    def _held(self, urn: str, said_at: SaidAt, units: Units) -> Units:
        """Sent at once, or kept for the closing step."""
        if not self._hold_them:
            yield from units
            return
        proposals = [u.metadata.to_obj() for u in units if isinstance(u.metadata, MetadataChangeProposalWrapper)]
        if proposals:
            self._state.held[urn] = Held(start_time=said_at[0], run_id=said_at[1], proposals=proposals)
