"""What an ingestion did: read, sent, left out, failed; shown by the CLI and kept by DataHub with the run."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from datahub.ingestion.api.report import Report
from datahub.ingestion.source.state.stale_entity_removal_handler import StaleEntityRemovalSourceReport
from datahub.utilities.lossy_collections import LossyList
from datahub.utilities.perf_timer import PerfTimer
from typing_extensions import LiteralString

logger = logging.getLogger(__name__)


@dataclass
class Tally(Report):
    """One kind of entity. read = sent + filtered + failed; `unreadable` ones were never read."""

    read: int = 0
    sent: int = 0
    filtered: int = 0
    failed: int = 0
    unreadable: int = 0


@dataclass
class ModelFilesTally(Report):
    """Files `MLmodel` of those models that the recipe chooses."""

    read: int = 0  # from the store, or as a run kept it
    missing: int = 0  # not there, or not any more
    unreadable: int = 0
    not_tried: int = 0  # once their store was given up
    out_of_reach: int = 0  # behind a server that the recipe doesn't name, or in a store of another kind


@dataclass
class MlflowSourceReport(StaleEntityRemovalSourceReport):
    """Counts by kind, requests and the time they took, what was cut, and what went wrong."""

    mlflow_version: str | None = None
    requests_sent: int = 0  # to MLflow, or statements to its database; retries included
    query_p95_millis: float | None = None  # where MLflow's database is read: 95 of 100 statements took no longer
    query_slowest_millis: float | None = None
    waiting_for_mlflow: PerfTimer = field(default_factory=PerfTimer)
    progress: str = ""  # of the runs
    share_of_runs: float = 0.0  # passed so far, from 0 to 1, as far as their ids tell
    runs_by_experiment: dict[str, str] = field(default_factory=dict)  # read, of how many; the largest experiments
    workspaces: Tally = field(default_factory=Tally)  # other than the default one
    experiments: Tally = field(default_factory=Tally)
    runs: Tally = field(default_factory=Tally)
    datasets: Tally = field(default_factory=Tally)
    tasks: Tally = field(default_factory=Tally)  # flows and tasks of orchestrators that nobody else has
    runs_started_by: dict[str, int] = field(default_factory=dict)  # by orchestrator
    # With tags of an orchestrator that name no task: too few of them, or none that was filled in.
    runs_without_their_task: LossyList[str] = field(default_factory=LossyList)
    models: Tally = field(default_factory=Tally)
    versions: Tally = field(default_factory=Tally)
    logged_models: Tally = field(default_factory=Tally)  # that no version was made of
    evaluation_datasets: Tally = field(default_factory=Tally)
    deployments: Tally = field(default_factory=Tally)
    model_files: ModelFilesTally = field(default_factory=ModelFilesTally)
    kept_although_not_read: int = 0  # entities of an earlier ingestion, not removed because of an error
    unresolved_datasets: LossyList[str] = field(default_factory=LossyList)  # without a real dataset behind them
    rules_that_said_nothing: list[str] = field(default_factory=list)  # keys of `meta_mapping` that no tag has
    refused_by_rules: LossyList[str] = field(default_factory=LossyList)  # what rules made that is no URN, or no link
    cut: LossyList[str] = field(default_factory=LossyList)  # more than `limits` allow
    names_shortened: LossyList[str] = field(default_factory=LossyList)  # longer than DataHub's URNs may be
    _entity_failures: list[tuple[LiteralString, LiteralString, str]] = field(default_factory=list)

    def entity_failure(self, title: LiteralString, message: LiteralString, context: str) -> None:
        """A failure that concerns some entities only, which are kept alive.

        It becomes a `failure` (and the exit code 1) when the source is closed: DataHub's removal of stale entities,
        which runs before, stops altogether at any failure, and one row that is bad for ever must not stop the
        removal of everything else for ever.
        """
        logger.error("%s: %s => %s", title, message, context)
        self._entity_failures.append((title, message, context))

    @property
    def has_entity_failures(self) -> bool:
        """Whether there are some that did not become failures yet."""
        return bool(self._entity_failures)

    def report_entity_failures(self) -> None:
        """Turns what `entity_failure` collected into failures of the run."""
        for title, message, context in self._entity_failures:
            self.failure(title=title, message=message, context=context, log=False)
        self._entity_failures.clear()
