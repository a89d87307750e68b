"""A server workspace by workspace (MLflow 3.10 and newer), each read as if it were a server of its own.

Every request is for one, which a header names; ids of experiments and runs are of all of them together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby, islice
from operator import attrgetter
from typing import TypeVar

from datahub_mlflow_source.connection import Connection
from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.readers.base import RunScope, Shard, chosen_workspaces, own_name
from datahub_mlflow_source.readers.http import MlflowHttp
from datahub_mlflow_source.readers.rest import RestReader
from datahub_mlflow_source.readers.rows import NOT_FORMED, workspace
from datahub_mlflow_source.records import (
    DEFAULT_WORKSPACE,
    EvaluationDataset,
    Experiment,
    Kind,
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
_PASSING = (408, 429, 500, 502, 503, 504, *range(520, 531))  # it may say something else the next time

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
        self._wanted = wanted
        self._tracking, self._registry = self._connections = tracking, registry
        self._how = page_size, max_workers
        self._servers = [MlflowHttp(tracking)]
        if registry != tracking:
            self._servers.append(MlflowHttp(registry))
        self._plain = RestReader(tracking, registry, *self._how)
        self._readers = {"": self._plain}
        self._of_registry = self._readers
        self._workspaces: list[Workspace] | None = None
        self._workspace_of: dict[str, str] = {}  # experiments
        self._doubt: str | None = None
        self._version: str | None = None

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
        return chain(self._servers, {self._plain, *self._readers.values(), *self._of_registry.values()})

    def check(self, run_filter: str | None = None) -> None:
        refused = None
        try:
            self._plain.check(run_filter)
        except ServerError as error:
            if error.status not in _FOR_LACK_OF_ONE:
                raise
            refused = error
        self._version = self._plain.server_version()
        listed = [self._listed(server) for server in self._servers]
        if not any(listed):
            if refused:
                raise refused
            if any(map(own_name, self._wanted or ())):
                raise ServerError(
                    self._doubt
                    or f"{self._tracking.host} has no workspaces, or none that are switched on (MLflow 3.10 and newer): "  # noqa: E501
                    "leave out `workspaces` (and MLflow's variable MLFLOW_WORKSPACE)"
                )
            return
        both = [workspace for of_server in listed for workspace in of_server or [Workspace(DEFAULT_WORKSPACE)]]
        chosen = chosen_workspaces(both, self._wanted)
        if {workspace.name for workspace in both} != {DEFAULT_WORKSPACE}:
            self._workspaces = chosen
        self._open([workspace.name for workspace in chosen], listed)
        if refused or "" not in self._readers:
            for reader in islice(self._readers.values(), 1):
                reader.check(run_filter)

    def _open(self, chosen: Sequence[str], listed: Sequence[list[Workspace] | None]) -> None:
        """A reader for each of those that a server has, of all `listed` by the one and the other."""
        connections = (self._tracking, self._registry)

        def there(place: int) -> dict[str, Connection]:
            names = {workspace.name for workspace in listed[place] or ()}
            if not names:
                return {"": connections[place]} if DEFAULT_WORKSPACE in chosen else {}
            return {own_name(name): connections[place].in_workspace(name) for name in chosen if name in names}

        of_tracking, of_registry = there(0), there(len(listed) - 1)
        self._connections = [*of_tracking.values(), self._tracking][0], [*of_registry.values(), self._registry][0]
        if len(listed) == 1:
            self._readers = {name: RestReader(here, here, *self._how) for name, here in of_tracking.items()}
            self._of_registry = self._readers
            return
        self._readers = {name: RestReader(here, self._registry, *self._how) for name, here in of_tracking.items()}
        self._of_registry = {name: RestReader(self._tracking, here, *self._how) for name, here in of_registry.items()}

    def first_connections(self) -> tuple[Connection, Connection]:
        """Of tracking server and registry, in the first workspace that is read."""
        return self._connections

    def _listed(self, server: MlflowHttp) -> list[Workspace] | None:
        """What we may list; None where there are no workspaces."""
        if not self._has_workspaces(server):
            return None
        try:
            rows = server.get(_WORKSPACES, {}).get("workspaces", [])
            listed = [workspace(row) for row in rows]
        except NOT_FORMED as error:
            raise ServerError(f"MLflow's workspaces are not formed as MLflow's: {error}") from error
        except ServerError as error:
            if error.status != 403 or not self._wanted:
                raise
            listed = [Workspace(name) for name in self._wanted]  # who may not list them may read one
        if not listed:
            raise ServerError(
                f"{server.connection.host} has workspaces and lets us see none: check this user's permissions"
            )
        return listed

    def _has_workspaces(self, server: MlflowHttp) -> bool:
        """Whether they are switched on. Raises ServerError where the server does not answer.

        Where it can't be found out, the default one is read, and nothing is taken for gone: what is in others would be.
        """
        try:
            info = server.get(_SERVER_INFO, {})
        except ServerError as error:
            if error.status is None or error.status in _PASSING:
                raise
            if error.status in (404, 405, 501) and not self._is_new(server):
                return False
            said = str(error)
        else:
            if isinstance(info.get("workspaces_enabled"), bool):
                return bool(info["workspaces_enabled"])
            if "store_type" in info:  # 3.9, which has no workspaces yet
                return False
            said = "the answer is not MLflow's"
        if list(self._wanted or ()) != [DEFAULT_WORKSPACE]:
            self._doubt = (
                f"{server.connection.host} does not say at {_SERVER_INFO} whether it has workspaces ({said}). Let that "
                "through the proxy, or set `workspaces: [default]` if there are no others"
            )
        return False

    def _is_new(self, server: MlflowHttp) -> bool:
        """3.9 or newer, which says whether it has workspaces; False where it doesn't say what it is, as Databricks."""
        version = self._version if server is self._servers[0] else server.version()
        parts = (version or "").split(".")
        return len(parts) > 1 and all(part.isdecimal() for part in parts[:2]) and tuple(map(int, parts[:2])) >= (3, 9)

    def doubt(self) -> str | None:
        return self._doubt

    def workspaces(self) -> list[Workspace] | None:
        return self._workspaces

    def server_version(self) -> str | None:
        return self._version

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
            if listing is None:
                unreadable.append(_not_shown("evaluation dataset", name))
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

    def gateway_endpoints(self) -> list[ModelDeployment | Unreadable] | None:
        found: list[ModelDeployment | Unreadable] = []
        listings = [(name, reader.gateway_endpoints()) for name, reader in self._readers.items()]
        for name, listing in listings:
            if listing is None:
                found.append(_not_shown("gateway endpoint", name))
            for endpoint in _marked(listing or (), name):
                found.append(endpoint if isinstance(endpoint, Unreadable) else replace(endpoint, workspace=name))
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
            ids[self._workspace_of.get(id_, "")].append(id_)
        return ((name, reader, ids[name]) for name, reader in self._readers.items())


def _not_shown(kind: Kind, workspace: str) -> Unreadable:
    what = f"all of workspace {workspace or DEFAULT_WORKSPACE}"
    return Unreadable(kind, what, "MLflow has none there, or lets this user see none", not_shown=True)


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
