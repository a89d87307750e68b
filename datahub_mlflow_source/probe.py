"""What `datahub recipe probe` answers: what is in MLflow, and what the recipe would take of it.

Imported only when the probe asks for it: an acryl-datahub older than 1.7.0.15 can't import this. Listings show what
the recipe's patterns leave out too, so that `probe filter` can say which key does it. They hold names, numbers and
states, never tags, params or anything else that people logged.
"""
# No `from __future__ import annotations`: the probe reads the parameters' types at run time, and takes no text for one.

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from datahub.ingestion.agent.probe_methods import MAX_PROBE_ITEMS, probe_method
from datahub.ingestion.agent.provider_helpers import ProbeProviderBase, echoed, take
from datahub.ingestion.agent.verdicts import ProbeArgumentError, ProbeConnectionError, Verdict, VerdictContext

from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.connection import Connection, deployment, workspaces_of
from datahub_mlflow_source.errors import GONE, PageError, RecipeError, ServerError
from datahub_mlflow_source.readers.http import MlflowHttp
from datahub_mlflow_source.readers.paging import offset_token
from datahub_mlflow_source.readers.rest import RestReader
from datahub_mlflow_source.readers.rest_workspaces import RestWorkspaces
from datahub_mlflow_source.recipe import selection_of
from datahub_mlflow_source.records import Unreadable

Listed = dict[str, Any]  # one entity; `name` is what patterns are matched against
P = ParamSpec("P")
T = TypeVar("T")

_MOST_EXPERIMENTS = 10_000  # each is a bound variable in the server's database
_NARROWED_BY_SERVER = ("run_filter", "run_retention_days")


def verdict(config: MlflowSourceConfig, asked: VerdictContext) -> Verdict | None:
    """What beside a pattern decides whether the recipe takes an entity. None: nothing, so the pattern does."""
    if asked.attributes.get("lifecycle_stage") == "deleted" and not config.include_deleted:
        return Verdict.exclude("include_deleted")
    if asked.kind in ("Run", "Dataset") and config.include_runs == "none":
        return Verdict.exclude("include_runs")
    return _run_verdict(config, asked) if asked.kind == "Run" else None


def _run_verdict(config: MlflowSourceConfig, asked: VerdictContext) -> Verdict | None:
    user = asked.attributes.get("user")
    if user is not None and not config.run_user_pattern.allowed(user):
        return Verdict.exclude("run_user_pattern", matched_target=user)
    listed = bool(asked.attributes)  # by `probe run runs`, and so narrowed by MLflow as the recipe says
    unjudged = {
        "`include_runs: registered`": config.include_runs == "registered",
        "`max_runs_per_experiment`": config.max_runs_per_experiment is not None,
        "`run_filter`": config.run_filter is not None and not listed,
        "`run_retention_days`": config.run_retention_days is not None and not listed,
        "`run_user_pattern`": not config.run_user_pattern.is_allow_all() and user is None,
    }
    if any(unjudged.values()):
        keys = ", ".join(key for key, is_unjudged in unjudged.items() if is_unjudged)
        hint = "" if listed else " (some can by a listing: --from-run, with what `probe run runs` wrote)"
        asked.warn(f"the recipe leaves out runs by what can't be judged by a name, too: {keys}{hint}")
    return None


def _told(method: Callable[P, T]) -> Callable[P, T]:
    """Our messages, for the probe to show: of exceptions that it doesn't know it shows the class only.

    It does so too for one that was raised from (or while handling) such another, hence the raise at the end.
    """

    @wraps(method)
    def telling(*args: P.args, **kwargs: P.kwargs) -> T:
        told: Exception
        try:
            return method(*args, **kwargs)
        except RecipeError as error:
            told = ProbeArgumentError(str(error))
        except ServerError as error:
            told = ProbeConnectionError(str(error))
        raise told

    return telling


class MlflowProbe(ProbeProviderBase):
    """One MLflow deployment, asked a few things. Nothing is kept, and no page is larger than 1000."""

    _reader: RestReader
    _tracking: MlflowHttp
    _registry: MlflowHttp

    def __init__(self, config: MlflowSourceConfig, tracking: Connection, registry: Connection) -> None:
        self.failures: list[str] = []  # what makes an answer incomplete
        self._config = config
        self._servers = tracking, registry

    @classmethod
    @_told
    def for_config(cls, config: MlflowSourceConfig) -> "MlflowProbe":
        """Where the recipe points to. Nothing is sent yet."""
        where = deployment(config, os.environ)
        if not where.servers:
            raise RecipeError("a database can't be probed: give the MLflow server in `tracking_uri`, beside it")
        probe = cls(config, *where.servers)
        probe.warnings.extend(where.warnings)
        return probe

    @_told
    def __enter__(self) -> "MlflowProbe":
        tracking, registry = self._in_first_workspace()
        page_size = min(self._config.page_size, MAX_PROBE_ITEMS)
        self._reader = RestReader(tracking, registry, page_size, max_workers=1)
        self._tracking, self._registry = MlflowHttp(tracking), MlflowHttp(registry)
        for opened in (self._reader, self._tracking, self._registry):
            self._on_exit(opened.close)
        return self

    def _in_first_workspace(self) -> tuple[Connection, Connection]:
        """Of those that an ingestion would read."""
        wanted = workspaces_of(self._config, os.environ)
        found = RestWorkspaces(*self._servers, self._config.page_size, 1, wanted)
        try:
            found.check()
            names = [workspace.name for workspace in found.workspaces() or ()]
            if len(names) > 1:
                self.warnings.append(
                    f"only the workspace {names[0]} is looked at, of {', '.join(names)}: name another in `workspaces`"
                )
            if doubt := found.doubt():
                self.warnings.append(doubt)
            return found.first_connections()
        finally:
            found.close()

    @probe_method()
    @_told
    def server(self) -> Listed:
        """Where MLflow is, and its version (null where it doesn't say, as on Databricks)."""
        return {
            "tracking": self._tracking.connection.url,
            "registry": self._registry.connection.url,
            "version": self._reader.server_version(),
        }

    @probe_method()
    @_told
    def counts(self) -> dict[str, int]:
        """How many experiments, runs, registered models and versions MLflow holds, whatever the recipe's filters.

        What was deleted is not counted. MLflow has no call for it: this takes up to 40 small requests for each number.
        """
        found = take(self._readable(self._reader.experiments()), _MOST_EXPERIMENTS)
        ids = [experiment.experiment_id for experiment in found if experiment.lifecycle_stage == "active"]
        if len(found) == _MOST_EXPERIMENTS:
            self._warn(f"only the first {_MOST_EXPERIMENTS} experiments were looked at")
        runs = {"experiment_ids": ids, "max_results": 1}
        return {
            "experiments": len(ids),
            "runs": _count(lambda place: self._tracking.post("runs/search", _at(place, runs)).get("runs")),
            "models": self._count_registered("registered-models/search", "registered_models"),
            "versions": self._count_registered("model-versions/search", "model_versions"),
        }

    @probe_method(kind="Experiment", row_limit_param="limit")
    @_told
    def experiments(self, limit: int = MAX_PROBE_ITEMS) -> list[Listed]:
        """Experiments by id, the deleted ones too (`lifecycle_stage` says so). Times are epoch milliseconds."""
        return [
            {
                "name": experiment.name,
                "experiment_id": experiment.experiment_id,
                "lifecycle_stage": experiment.lifecycle_stage,
                "last_update_time": experiment.last_update_time,
            }
            for experiment in take(self._readable(self._reader.experiments()), limit)
        ]

    @probe_method(kind="Run", parent_params=("experiment",), row_limit_param="limit")
    @_told
    def runs(self, experiment: str, limit: int = 100) -> list[Listed]:
        """Runs of one experiment, by its name: the latest first, the deleted ones too. Times are epoch milliseconds.

        What `run_filter` and `run_retention_days` of the recipe leave out is not listed: MLflow does that filtering.
        """
        for key in _NARROWED_BY_SERVER:
            if getattr(self._config, key) is not None:
                self._warn(f"`{key}` is set: what it leaves out is not listed, as an ingestion doesn't see it either")
        experiment_id = self._experiment_id(experiment)
        scope = replace(selection_of(self._config).runs, include_deleted=True, latest_per_experiment=limit)
        return [
            {
                "name": run.name,
                "run_id": run.run_id,
                "user": run.user_id,
                "status": run.status,
                "lifecycle_stage": run.lifecycle_stage,
                "start_time": run.start_time,
                "end_time": run.end_time,
            }
            for run in take(self._readable(self._reader.runs([experiment_id], scope)), limit)
        ]

    @probe_method(kind="Model", row_limit_param="limit")
    @_told
    def models(self, limit: int = MAX_PROBE_ITEMS) -> list[Listed]:
        """Registered models by name, with their aliases. Times are epoch milliseconds."""
        rows = self._registered("registered-models/search", "registered_models", {"order_by": "name ASC"})
        return [
            {
                "name": row["name"],
                "aliases": _aliases(row),
                "last_updated_time": row.get("last_updated_timestamp"),
            }
            for row in take(rows, limit)
        ]

    @probe_method(kind="Version", parent_params=("model",), row_limit_param="limit")
    @_told
    def versions(self, model: str, limit: int = MAX_PROBE_ITEMS) -> list[Listed]:
        """Versions of one registered model, by its name: the newest first."""
        named = {
            "filter": f"name={_quoted(model)}"
        }  # `registered-models/get` refuses names that hold / or : since 3.11
        found = next(self._registered("registered-models/search", "registered_models", named), None)
        if found is None:
            raise ProbeArgumentError(_nothing_named("registered model", model))
        of_version: dict[str, list[str]] = {}
        for alias, version in _aliases(found).items():
            of_version.setdefault(version, []).append(alias)
        query = {**named, "order_by": "version_number DESC"}
        return [
            {
                "name": str(row["version"]),
                "aliases": sorted(of_version.get(str(row["version"]), ())),
                "stage": row.get("current_stage"),
                "status": row.get("status"),
                "run_id": row.get("run_id", ""),
            }
            for row in take(self._registered("model-versions/search", "model_versions", query), limit)
        ]

    def _readable(self, records: Iterable[T | Unreadable]) -> Iterator[T]:
        """The rest is told beside the answer: as a warning, or as a failure where nobody knows what is missing."""
        for record in records:
            if not isinstance(record, Unreadable):
                yield record
                continue
            tell = self.failures.append if record.listing_broke_off else self._warn
            tell(f"{record.kind} {record.what}: {record.reason}")

    def _experiment_id(self, name: str) -> str:
        try:
            found = self._tracking.get("experiments/get-by-name", {"experiment_name": name})
        except ServerError as error:
            if error.error_code != GONE:
                raise
        else:
            return str(found["experiment"]["experiment_id"])
        raise ProbeArgumentError(_nothing_named("experiment", name))

    def _registered(self, path: str, key: str, query: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """A listing of the registry, page by page as it is read."""
        size, token = min(self._config.page_size, MAX_PROBE_ITEMS), ""
        while True:
            at = {"page_token": token} if token else {}
            answer = self._registry.get(path, {**query, **at, "max_results": size})
            yield from answer.get(key, ())
            token = answer.get("next_page_token", "")
            if not token:
                return

    def _count_registered(self, path: str, key: str) -> int:
        return _count(lambda place: self._registry.get(path, _at(place, {"max_results": 1})).get(key))


def _nothing_named(kind: str, name: str) -> str:
    return f"MLflow has no {kind} named {echoed(name)}, or doesn't let us see it"


def _aliases(row: Mapping[str, Any]) -> dict[str, str]:
    return {alias["alias"]: str(alias["version"]) for alias in row.get("aliases", ())}


def _quoted(name: str) -> str:
    """For a filter of MLflow's, which knows no escaping (2.10 to 3.17), but two sorts of quotes."""
    if "'" not in name:
        return f"'{name}'"
    if '"' not in name:
        return f'"{name}"'
    raise ProbeArgumentError(f"MLflow can't search for the versions of {echoed(name)}: the name holds both ' and \"")


def _at(place: int, query: Mapping[str, Any]) -> dict[str, Any]:
    token = offset_token(place)
    return {**query, "page_token": token} if token else dict(query)


def _count(rows_at: Callable[[int], object]) -> int:
    """How many rows a listing has, by looking whether there is one: at places twice as far each time, then between."""

    def exists(place: int) -> bool:
        try:
            return bool(rows_at(place))
        except PageError:
            return True  # a row that MLflow can't serve is a row

    high = 1
    while exists(high - 1):
        high *= 2
    low = high // 2
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if exists(middle) else (low, middle)
    return low
