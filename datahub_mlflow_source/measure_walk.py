"""Evaluation datasets, scorers and traces in numbers: read before the runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from datahub_mlflow_source.mapping.evaluation import Measured, map_evaluation_dataset
from datahub_mlflow_source.mapping.rules import Rules
from datahub_mlflow_source.mapping.urns import evaluation_dataset_urn
from datahub_mlflow_source.outgoing import Outgoing, Units
from datahub_mlflow_source.readers.base import Reader
from datahub_mlflow_source.records import EvaluationDataset, Experiment, Scorer, TraceCounts, Unreadable
from datahub_mlflow_source.redaction import redact
from datahub_mlflow_source.removal import RemovalGuard
from datahub_mlflow_source.report import MlflowSourceReport, Tally
from datahub_mlflow_source.selection import Selection

# What could be read of a listing; the rest goes into the report.
Read = Callable[[Iterator[EvaluationDataset | Unreadable], Tally], Iterator[EvaluationDataset]]


class MeasureWalk:
    """Of one ingestion: the first shard's."""

    def __init__(
        self,
        reader: Reader,
        rules: Rules,
        selection: Selection,
        outgoing: Outgoing,
        guard: RemovalGuard,
        report: MlflowSourceReport,
        read: Read,
    ) -> None:
        self._reader, self._rules, self._selection = reader, rules, selection
        self._outgoing, self._guard, self._report, self._read = outgoing, guard, report, read
        self._scorers: dict[str, list[Scorer]] = defaultdict(list)
        self._traces: dict[str, TraceCounts] = {}

    def read_of_experiments(self, experiment_ids: Sequence[str]) -> None:
        """What goes into these experiments. What can't be read is told, and they go out without."""
        scorers, problems = self._reader.scorers(experiment_ids)
        for scorer in scorers:
            self._scorers[scorer.experiment_id].append(scorer)
        for problem in problems:
            self._report.warning(
                title="Scorers can't be read", message="Their experiments go out without.", context=problem
            )
        if not self._selection.include_traces:
            return
        found = self._reader.trace_counts(experiment_ids)
        if found is None:
            self._report.info(
                title="No traces",
                message="This MLflow does not count them: over REST it does from 3.9 on, its database from 2.13 on.",
                log=False,
            )
            return
        counted, problems = found
        self._traces = {counts.experiment_id: counts for counts in counted}
        for problem in problems:
            self._report.warning(
                title="Traces can't be counted", message="Their experiments go out without.", context=problem
            )

    def of_experiment(self, experiment: Experiment) -> Measured:
        """What was read for this one."""
        id_ = experiment.experiment_id
        return Measured(self._scorers.get(id_, ()), self._traces.get(id_))

    def datasets(self, experiments: Mapping[str, Experiment]) -> Units:
        """Those of an experiment that is sent, by id, and those of none at all."""
        found = self._reader.evaluation_datasets(list(experiments))
        if found is None:
            self._report.info(
                title="No evaluation datasets",
                message="This MLflow is older than 3.4, keeps everything in files, or lets this user see none. Those "
                "that were sent before stay.",
                log=False,
            )
            self._guard.listing_incomplete("evaluation dataset")
            return
        tally = self._report.evaluation_datasets
        for dataset in self._read(found, tally):
            if dataset.experiment_ids and experiments.keys().isdisjoint(dataset.experiment_ids):
                tally.filtered += 1
                continue
            yield from self._outgoing.send(
                tally,
                f"{redact(dataset.name)} ({dataset.dataset_id})",
                partial(evaluation_dataset_urn, dataset.dataset_id, self._rules.naming),
                partial(map_evaluation_dataset, dataset, experiments, self._rules),
            )
