"""A server workspace by workspace (MLflow 3.10 and newer), each read as if it were a server of its own.

Every request is for one, which a header names; ids of experiments and runs are of all of them together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby
from operator import attrgetter
from typing import TypeVar

from datahub_mlflow_source.connection import Connection
from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.readers.base import RunScope, Shard, chosen_workspaces, own_name
from datahub_mlflow_source.readers.http import MlflowHttp
from datahub_mlflow_source.readers.rest import RestReader
from datahub_mlflow_source.readers.rows import NOT_FORMED, workspace
from datahub_mlflow_source.records import (
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

_SERVER_INFO = "/api/3.0/mlflow/server-info"  # since 3.9, of everybody
_WORKSPACES = "/api/3.0/mlflow/workspaces"
# What a server with workspaces may answer to who names none: there is no default one, or not for us.
_FOR_LACK_OF_ONE = (400, 403, 404)

T = TypeVar("T")
Registered = RegisteredModel | ModelVersion


class RestWorkspaces:
    """The reader for a tracking server. Until `check` only the default workspace is known."""

    def __init__(
        self,
        tracking: Connection,
        registry: Connection,
        page_size: int,
        max_workers: int,
        wanted: Sequence[str] | None = None,
    ) -> None:
        """`wanted`: names of workspaces; None: all that we may list."""
        self._tracking, self._registry, self._wanted = tracking, registry, wanted
        self._how = page_size, max_workers
        self._servers = [MlflowHttp(tracking)]
        if registry != tracking:
            self._servers.append(MlflowHttp(registry))
        self._plain = RestReader(tracking, registry, *self._how)
        self._readers = {"": self._plain}
        self._of_registry = self._readers
        self._workspaces: list[Workspace] | None = None
        self._workspace_of: dict[str, str] = {}  # experiments

    @property
    def requests_sent(self) -> int:
        """HTTP requests so far, retries included."""
        return sum(each.requests_sent for each in self._opened())

    def query_millis(self) -> None:
        """Of a database only."""
        return

    def close(self) -> None:
        for each in self._opened():
            each.close()

    def _opened(self) -> Iterator[MlflowHttp | RestReader]:
        return chain(self._servers, {self._plain, *self._readers.values()})

    def check(self, run_filter: str | None = None) -> None:
        refused = None
        try:
            self._plain.check(run_filter)
        except ServerError as error:
            if error.status not in _FOR_LACK_OF_ONE:
                raise
            refused = error
        if not _has_workspaces(self._servers[0]):
            if refused:
                raise refused
            if any(map(own_name, self._wanted or ())):
                raise ServerError(
                    f"{self._tracking.host} has no workspaces, or none that are switched on (MLflow 3.10 and newer): "
                    "leave out `workspaces` (and MLFLOW_WORKSPACE)"
                )
            return
        self._workspaces = self._chosen()
        names = [workspace.name for workspace in self._workspaces]
        in_registry = len(self._servers) == 1 or _has_workspaces(self._servers[1])
        self._readers = {
            own_name(name): RestReader(
                self._tracking.in_workspace(name),
                self._registry.in_workspace(name) if in_registry else self._registry,
                *self._how,
            )
            for name in names
        }
        first, *_ = self._readers.values()
        self._of_registry = self._readers if in_registry else {"": first}
        if refused or "" not in self._readers:
            first.check(run_filter)

    def _chosen(self) -> list[Workspace]:
        try:
            rows = self._servers[0].get(_WORKSPACES, {}).get("workspaces", [])
            listed = [workspace(row) for row in rows]
        except NOT_FORMED as error:
            raise ServerError(f"MLflow's workspaces are not formed as MLflow's: {error}") from error
        except ServerError as error:
            if error.status != 403 or not self._wanted:
                raise
            listed = [Workspace(name) for name in self._wanted]  # who may not list them may read one
        if not listed:
            raise ServerError(
                f"{self._tracking.host} has workspaces and lets us see none: check this user's permissions"
            )
        return chosen_workspaces(listed, self._wanted)

    def workspaces(self) -> list[Workspace] | None:
        return self._workspaces

    def server_version(self) -> str | None:
        return self._plain.server_version()

    def experiments(self) -> Iterator[Experiment | Unreadable]:
        if self._workspaces is None:
            return self._plain.experiments()
        found: list[Experiment] = []
        unreadable: list[Unreadable] = []
        for name, reader in self._readers.items():
            for record in _marked(reader.experiments(), name):
                if isinstance(record, Unreadable):
                    unreadable.append(record)
                else:
                    self._workspace_of[record.experiment_id] = name
                    found.append(replace(record, workspace=name))
        found.sort(key=lambda experiment: (len(experiment.experiment_id), experiment.experiment_id))
        return chain(found, unreadable)

    def registry(self) -> Iterator[Registered | Unreadable]:
        for name, reader in self._of_registry.items():
            yield from _placed(reader.registry(), name)

    def prompts(self) -> Iterator[Registered | Unreadable]:
        for name, reader in self._of_registry.items():
            yield from _placed(reader.prompts(), name)

    def logged_models(self, experiment_ids: Iterable[str]) -> Iterator[LoggedModel | Unreadable] | None:
        listings = [(name, reader.logged_models(ids)) for name, reader, ids in self._by_workspace(experiment_ids)]
        known = [_marked(listing, name) for name, listing in listings if listing is not None]
        return chain.from_iterable(known) if known or not listings else None

    def is_in_shard(self, model: LoggedModel, shard: Shard) -> bool:
        return self._plain.is_in_shard(model, shard)

    def runs(self, experiment_ids: Iterable[str], scope: RunScope) -> Iterator[Run | Unreadable]:
        """One workspace after the other, as a server is to be asked for no more at a time than the recipe says."""
        if scope.latest_per_experiment:
            parts = groupby(experiment_ids, key=lambda id_: self._workspace_of.get(id_, ""))
            return chain.from_iterable(_marked(self._readers[name].runs(ids, scope), name) for name, ids in parts)
        listings = (_marked(reader.runs(ids, scope), name) for name, reader, ids in self._by_workspace(experiment_ids))
        first = next(listings, iter(()))  # its first pages are on the way now
        return chain(first, chain.from_iterable(listings))

    def run_counts(self, experiment_ids: Iterable[str], scope: RunScope) -> None:  # noqa: ARG002 - as the protocol has it
        """MLflow's API counts nothing."""
        return

    def runs_by_id(
        self, run_ids: Iterable[str], experiment_ids: Iterable[str], scope: RunScope
    ) -> Iterator[Run | Unreadable]:
        left = set(run_ids)
        for name, reader, ids in self._by_workspace(experiment_ids):
            for record in _marked(reader.runs_by_id(left, ids, scope), name):
                left.discard(record.run_id)
                yield record

    def evaluation_datasets(self, experiment_ids: Sequence[str]) -> Iterator[EvaluationDataset | Unreadable] | None:
        found: list[EvaluationDataset] = []
        unreadable: list[Unreadable] = []
        listings = [(name, reader.evaluation_datasets(ids)) for name, reader, ids in self._all(experiment_ids)]
        for name, listing in listings:
            for record in _marked(listing or (), name):
                if isinstance(record, Unreadable):
                    unreadable.append(record)
                else:
                    found.append(record)
        if all(listing is None for _, listing in listings):
            return None
        return chain(sorted(found, key=attrgetter("dataset_id")), unreadable)

    def scorers(self, experiment_ids: Sequence[str]) -> tuple[list[Scorer], list[str]]:
        found: list[Scorer] = []
        problems: list[str] = []
        for name, reader, ids in self._all(experiment_ids):
            scorers, its = reader.scorers(ids)
            found += scorers
            problems += [_said(problem, name) for problem in its]
        return sorted(found), problems

    def trace_counts(self, experiment_ids: Sequence[str]) -> tuple[list[TraceCounts], list[str]] | None:
        found: list[TraceCounts] = []
        problems: list[str] = []
        for name, reader, ids in self._all(experiment_ids):
            counted = reader.trace_counts(ids)
            if counted is None:
                return None
            found += counted[0]
            problems += [_said(problem, name) for problem in counted[1]]
        return found, problems

    def gateway_endpoints(self) -> list[ModelDeployment] | None:
        found: list[ModelDeployment] = []
        listings = [(name, reader.gateway_endpoints()) for name, reader in self._readers.items()]
        for name, listing in listings:
            found += [replace(endpoint, workspace=name) for endpoint in listing or ()]
        return None if all(listing is None for _, listing in listings) else found

    def metric_histories(
        self, keys_of: Mapping[str, Sequence[str]], experiment_of: Mapping[str, str]
    ) -> dict[str, tuple[MetricHistory, ...]]:
        parts: dict[str, dict[str, Sequence[str]]] = defaultdict(dict)
        for run_id, keys in keys_of.items():
            parts[self._workspace_of.get(experiment_of[run_id], "")][run_id] = keys
        found: dict[str, tuple[MetricHistory, ...]] = {}
        for name, part in sorted(parts.items()):
            found.update(self._readers[name].metric_histories(part, experiment_of))
        return found

    def _by_workspace(self, experiment_ids: Iterable[str]) -> Iterator[tuple[str, RestReader, list[str]]]:
        """Those workspaces that have any of these experiments."""
        return (part for part in self._all(experiment_ids) if part[2] or len(self._readers) == 1)

    def _all(self, experiment_ids: Iterable[str]) -> Iterator[tuple[str, RestReader, list[str]]]:
        ids: dict[str, list[str]] = defaultdict(list)
        for id_ in experiment_ids:
            ids[self._workspace_of.get(id_, next(iter(self._readers)))].append(id_)
        return ((name, reader, ids[name]) for name, reader in self._readers.items())


def _has_workspaces(server: MlflowHttp) -> bool:
    """Whether they are switched on. Raises ServerError where that can't be found out.

    For then what is in others would be taken for deleted.
    """
    try:
        info = server.get(_SERVER_INFO, {})
    except ServerError as error:
        if error.status is None or (error.status >= 500 and error.status != 501):
            raise
        return False  # older than 3.9, Databricks, or a proxy that lets through what it knows
    return info.get("workspaces_enabled") is True


def _marked(found: Iterable[T | Unreadable], workspace: str) -> Iterator[T | Unreadable]:
    """What can't be read says where."""
    for record in found:
        yield replace(record, what=_said(record.what, workspace)) if isinstance(record, Unreadable) else record


def _placed(found: Iterable[Registered | Unreadable], workspace: str) -> Iterator[Registered | Unreadable]:
    for record in found:
        if isinstance(record, Unreadable):
            yield replace(record, what=_said(record.what, workspace))
        else:
            yield replace(record, workspace=workspace)


def _said(what: str, workspace: str) -> str:
    return f"{what} (workspace {workspace})" if workspace else what
