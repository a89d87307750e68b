"""What every reader offers. A reader knows MLflow and nothing of DataHub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.records import (
    DEFAULT_WORKSPACE,
    EvaluationDataset,
    Experiment,
    LoggedModel,
    MetricHistory,
    ModelDeployment,
    ModelVersion,
    RegisteredModel,
    Run,
    Scorer,
    TraceCounts,
    Unreadable,
    Workspace,
)


@dataclass(frozen=True, slots=True)
class Shard:
    """One of so many parts of all runs, cut alike by every process that reads one of them, without asking the others.

    A database is cut by ranges of run ids, which are random hex digits. MLflow's API has no such range: it is cut by
    experiments, of which each is in one part.
    """

    index: int = 0
    count: int = 1

    def run_ids(self) -> tuple[str | None, str | None]:
        """From this one on, and up to but without the other. None: from the first, up to the last."""
        low, high = (f"{16**8 * place // self.count:08x}" for place in (self.index, self.index + 1))
        return low if self.index else None, high if self.index + 1 < self.count else None

    def has_experiment(self, experiment_id: str) -> bool:
        """Ids are counted, or random numbers."""
        number = int(experiment_id) if experiment_id.isdecimal() else crc32(experiment_id.encode())
        return number % self.count == self.index

    def has_run(self, run_id: str) -> bool:
        """As a database compares ids of hex digits, whatever its collation."""
        low, high = self.run_ids()
        return (low is None or run_id >= low) and (high is None or run_id < high)

    def parts(self, count: int) -> list[Shard]:
        """This one, cut further."""
        return [Shard(self.index * count + part, self.count * count) for part in range(count)]


WHOLE = Shard()


@dataclass(frozen=True, slots=True)
class RunScope:
    """Which runs a listing is to give."""

    include_deleted: bool = False
    filter: str | None = None  # MLflow's search syntax
    started_after: int | None = None  # epoch milliseconds
    latest_per_experiment: int | None = None  # so many of each experiment, the latest; None: all. Of the whole only.
    shard: Shard = WHOLE


def aliases_by_version(model: RegisteredModel) -> dict[str, list[str]]:
    """The model's aliases turned round, sorted: listings of versions carry none."""
    found: dict[str, list[str]] = {}
    for alias, version in sorted(model.aliases):
        found.setdefault(version, []).append(alias)
    return found


def own_name(workspace: str) -> str:
    """As records name it: the default one has none."""
    return "" if workspace == DEFAULT_WORKSPACE else workspace


def chosen_workspaces(listed: Iterable[Workspace], wanted: Sequence[str] | None) -> list[Workspace]:
    """Those that are wanted, the default one first. Raises ServerError where one is not there."""
    there: dict[str, Workspace] = {}
    for workspace in listed:
        there.setdefault(workspace.name, workspace)
    if missing := sorted(set(wanted or ()) - there.keys()):
        raise ServerError(
            f"MLflow has no workspace {', '.join(missing)}, or doesn't let us see it. "
            f"It has: {', '.join(sorted(there)) or 'none'}. Check `workspaces`"
        )
    names = there if wanted is None else set(wanted)
    return [there[name] for name in sorted(names, key=lambda name: (name != DEFAULT_WORKSPACE, name))]


class Reader(Protocol):
    """One MLflow deployment, opened for reading.

    What can't be read comes as an `Unreadable` in its place; an exception (ServerError) means that nothing
    more can be read at all. The order of what comes is the same at every reading.
    """

    @property
    def requests_sent(self) -> int:
        """HTTP requests, or SQL statements, so far; retries included."""
        ...

    def query_millis(self) -> tuple[float, float] | None:
        """How long a SELECT took: 95 of 100 not longer than the first figure, none longer than the second."""
        ...

    def check(self, run_filter: str | None = None) -> None:
        """Is MLflow there, may we read it, and can it read the filter? Raises ServerError, soon."""
        ...

    def workspaces(self) -> list[Workspace] | None:
        """Those that are read, the default one first, as `check` found them; None where there are no others."""
        ...

    def doubt(self) -> str | None:
        """After `check`: why MLflow may have more than is read, so that nothing is to be taken for gone."""
        ...

    def server_version(self) -> str | None:
        """For the report; None where it can't be known."""
        ...

    def experiments(self) -> Iterator[Experiment | Unreadable]:
        """All of them, the deleted ones too; by id."""
        ...

    def registry(self) -> Iterator[RegisteredModel | ModelVersion | Unreadable]:
        """All models by name, then all their versions with the model's aliases joined in; workspace by workspace.

        Of a version whose model could not be read nobody knows the aliases (`aliases_known`).
        """
        ...

    def prompts(self) -> Iterator[RegisteredModel | ModelVersion | Unreadable]:
        """The same of prompts, which `registry` leaves out; nothing where this MLflow knows none."""
        ...

    def logged_models(self, experiment_ids: Iterable[str]) -> Iterator[LoggedModel | Unreadable] | None:
        """Those of these experiments, by id; None where this MLflow has none, being older than 3.0."""
        ...

    def is_in_shard(self, model: LoggedModel, shard: Shard) -> bool:
        """Each logged model is in one: in that which reads its run, in all but odd cases."""
        ...

    def runs(self, experiment_ids: Iterable[str], scope: RunScope) -> Iterator[Run | Unreadable]:
        """The runs of these experiments, by run id; from a server workspace by workspace.

        Reading may begin with the call, before the first is asked for.
        """
        ...

    def run_counts(self, experiment_ids: Iterable[str], scope: RunScope) -> dict[str, int] | None:
        """How many runs each of these experiments has in the shard, before filters; None where that costs too much."""
        ...

    def runs_by_id(
        self, run_ids: Iterable[str], experiment_ids: Iterable[str], scope: RunScope
    ) -> Iterator[Run | Unreadable]:
        """Those of these runs that are in these experiments and in scope, in bulk.

        One that is not there (any more, or for us) is left out. `latest_per_experiment` doesn't apply.
        """
        ...

    def evaluation_datasets(self, experiment_ids: Sequence[str]) -> Iterator[EvaluationDataset | Unreadable] | None:
        """All that one may read, at least those of these experiments, by id.

        None where this MLflow has none, being older than 3.4, or lets us see none.
        """
        ...

    def scorers(self, experiment_ids: Sequence[str]) -> tuple[list[Scorer], list[str]]:
        """Of all active experiments, at least of these, by experiment and name; and what could not be read, in words.

        None of either where this MLflow has none.
        """
        ...

    def trace_counts(self, experiment_ids: Sequence[str]) -> tuple[list[TraceCounts], list[str]] | None:
        """Of those of these experiments that have traces; and what could not be read, in words.

        None where this MLflow can't count.
        """
        ...

    def gateway_endpoints(self) -> list[ModelDeployment | Unreadable] | None:
        """Of MLflow's gateway, by workspace and name; None where it has none, being older than 3.8 or switched off.

        Raises ServerError.
        """
        ...

    def metric_histories(
        self, keys_of: Mapping[str, Sequence[str]], experiment_of: Mapping[str, str]
    ) -> dict[str, tuple[MetricHistory, ...]]:
        """By run, of these metrics of each run; of what is gone meanwhile nothing. May be called by several threads.

        `experiment_of`: the experiments of these runs, among others.

        Raises ServerError.
        """
        ...

    def close(self) -> None:
        """Gives back connections."""
        ...
