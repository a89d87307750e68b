"""The reader for a tracking server: MLflow's REST API in large pages."""

from __future__ import annotations

import heapq
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from operator import attrgetter, itemgetter
from typing import Any, TypeVar

from datahub_mlflow_source.connection import Connection
from datahub_mlflow_source.errors import PageError, ServerError
from datahub_mlflow_source.readers import rows
from datahub_mlflow_source.readers.bad_runs import SERVABLE, BadRuns, run_id_of, spell_out, walk_runs
from datahub_mlflow_source.readers.base import RunScope, Shard, aliases_by_version
from datahub_mlflow_source.readers.http import MlflowHttp
from datahub_mlflow_source.readers.paging import BadRow, Moved, Page, Row, batches, read_ahead, walk
from datahub_mlflow_source.readers.rest_evaluation import RestEvaluation, is_absent
from datahub_mlflow_source.readers.rest_histories import RestHistories
from datahub_mlflow_source.readers.rest_logged_models import fetch_logged_models
from datahub_mlflow_source.readers.rest_traces import read_trace_counts
from datahub_mlflow_source.records import (
    PROMPT_TAG,
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
)

logger = logging.getLogger(__name__)

# MLflow's own limits, per page. What is above ours is room for the rows that a page shares with the one before.
_MOST_MODELS, _MOST_ROWS = 1000, 50_000
_MODELS_PER_PAGE = 900
_ROWS_PER_PAGE = 49_000
_LOGGED_MODELS_PER_PAGE = 250  # each with all the steps of its metrics
_EXPERIMENTS_PER_REQUEST = 500
_MOST_EXPERIMENTS = 10_000  # each is a bound variable in the server's database, SQLite's limit is 32,766
_RUN_ID = re.compile(r"[a-zA-Z0-9][\w-]{0,255}")  # MLflow's own rule; a version may claim to be from another
_RUN_IDS_PER_REQUEST = 500  # of 4996 that MLflow's filter parser takes
# In one ingestion. Each costs some 270 small requests, of 0.02 s each, or 0.1 s on a 3.17 server that keeps no bytecode
# and has no Flask-WTF, which it tries to import anew for every search of runs.
_SECONDS_TO_NAME_BAD_RUNS = 60.0

_GATEWAY_ENDPOINTS = "/api/3.0/mlflow/gateway/endpoints/list"  # not in pages
_PROMPTS = "tags.`{}` = '{}'".format(*PROMPT_TAG)

T = TypeVar("T")
Pages = Iterator[list[Row] | BadRow | Moved]


class RestReader:
    """MLflow over HTTP: experiments and runs from one server, models and versions from it or another."""

    def __init__(self, tracking: Connection, registry: Connection, page_size: int, max_workers: int) -> None:
        self._tracking = MlflowHttp(tracking)
        self._registry = self._tracking if registry == tracking else MlflowHttp(registry)
        self._histories = RestHistories(self._tracking)
        self._page_size = min(page_size, _ROWS_PER_PAGE)
        self._evaluation = RestEvaluation(self._tracking, _page, self._page_size)
        self._max_workers = max_workers
        self._bad_runs: list[str] = []
        self._naming_seconds = 0.0

    @property
    def requests_sent(self) -> int:
        """HTTP requests so far, retries included."""
        other = 0 if self._registry is self._tracking else self._registry.requests_sent
        return self._tracking.requests_sent + other

    def query_millis(self) -> None:
        """Of a database only."""
        return

    def check(self, run_filter: str | None = None) -> None:
        checks = [(self._tracking, "experiments/search")]
        if self._registry is not self._tracking:
            checks.append((self._registry, "registered-models/search"))
        with ThreadPoolExecutor(len(checks)) as pool:  # both known within the time that one may take
            for done in [pool.submit(server.check, path, {"max_results": 1}) for server, path in checks]:
                done.result()
        if run_filter:
            self._check_filter(run_filter)

    def _check_filter(self, run_filter: str) -> None:
        """Before anything is sent. Whatever else is wrong with this search is told when runs are read."""
        try:
            # Of the experiment that every server begins with; which one it is makes no difference to the filter.
            self._search_runs({"experiment_ids": ["0"], "filter": run_filter, "max_results": 1}, None)
        except ServerError as error:
            if error.status == 400:
                raise

    def server_version(self) -> str | None:
        return self._tracking.version()

    def close(self) -> None:
        self._tracking.close()
        self._registry.close()

    def experiments(self) -> Iterator[Experiment | Unreadable]:
        def fetch(token: str | None, size: int, backwards: bool) -> Page:
            order = f"experiment_id {'DESC' if backwards else 'ASC'}"
            query = {"max_results": size, "view_type": "ALL", "order_by": [order]}
            return _page(self._tracking.post("experiments/search", _with(query, token)), "experiments")

        pages = walk(fetch, self._page_size, rows.name_of, _MOST_ROWS - self._page_size)
        return _records("experiment", pages, rows.experiment, "ordered by id")

    def registry(self) -> Iterator[RegisteredModel | ModelVersion | Unreadable]:
        """Servers before 2.21 list prompts of newer clients as models."""
        yield from (found for found in self._registered("") if not _is_prompt(found))

    def prompts(self) -> Iterator[RegisteredModel | ModelVersion | Unreadable]:
        """One request, where there are none."""
        try:
            if not self._registry.get("registered-models/search", {"max_results": 1, "filter": _PROMPTS}):
                return
        except ServerError as error:
            if error.status in (400, 404, 501):
                logger.info("This registry knows no prompts: %s", error)
                return
            # Else the listing says so, or finds its way around a bad row.
        yield from self._registered(_PROMPTS)

    def _registered(self, condition: str) -> Iterator[RegisteredModel | ModelVersion | Unreadable]:
        aliases: dict[str, dict[str, list[str]]] = {}
        for model in self._models(condition):
            if isinstance(model, RegisteredModel):
                aliases[model.name] = aliases_by_version(model)
            yield model
        yield from self._versions(condition, aliases)

    def _models(self, condition: str) -> Iterator[RegisteredModel | Unreadable]:
        def fetch(token: str | None, size: int, backwards: bool) -> Page:
            query = {
                "max_results": size,
                "order_by": [f"name {'DESC' if backwards else 'ASC'}"],
                **_filtered(condition),
            }
            return _page(self._registry.get("registered-models/search", _with(query, token)), "registered_models")

        page_size = min(self._page_size, _MODELS_PER_PAGE)
        pages = walk(fetch, page_size, rows.name_of, _MOST_MODELS - page_size)
        return _records("registered model", pages, rows.registered_model, "ordered by name")

    def _versions(
        self, condition: str, aliases: Mapping[str, Mapping[str, list[str]]]
    ) -> Iterator[ModelVersion | Unreadable]:
        def fetch(token: str | None, size: int, backwards: bool) -> Page:
            direction = "DESC" if backwards else "ASC"
            order = [f"name {direction}", f"version_number {direction}"]
            query = {"max_results": size, "order_by": order, **_filtered(condition)}
            return _page(self._registry.get("model-versions/search", _with(query, token)), "model_versions")

        def version(row: Row) -> ModelVersion:
            of_model = aliases.get(row["name"])
            known = None if of_model is None else tuple(sorted(of_model.get(str(row["version"]), ())))
            return rows.model_version(row, known)

        pages = read_ahead(walk(fetch, self._page_size, rows.name_of, _MOST_ROWS - self._page_size))
        return _records("model version", pages, version, "ordered by name and version")

    def logged_models(self, experiment_ids: Iterable[str]) -> Iterator[LoggedModel | Unreadable] | None:
        def search(body: Mapping[str, Any]) -> Page:
            return _page(self._tracking.post("logged-models/search", body), "models")

        page_size = min(self._page_size, _LOGGED_MODELS_PER_PAGE)

        def pages(ids: list[str]) -> Iterator[list[Row] | BadRow | Moved]:
            return walk(fetch_logged_models(search, ids), page_size, rows.name_of, _MOST_ROWS - page_size)

        parts = [pages(ids) for ids in batches(experiment_ids, _EXPERIMENTS_PER_REQUEST)]
        order = "ordered by id"
        try:
            first = list(islice(chain.from_iterable(parts), 1))
        except ServerError as error:
            if error.status == 404 and self._is_older_than_3():
                return None
            return iter((Unreadable("logged model", f"the listing, {order}", str(error), listing_broke_off=True),))
        return _records("logged model", chain(first, *parts), rows.logged_model, order)

    def _is_older_than_3(self) -> bool:
        """Or does not say: a server without this listing, behind a proxy without `/version`."""
        major = (self._tracking.version() or "").partition(".")[0]
        return not major.isdecimal() or int(major) < 3

    def is_in_shard(self, model: LoggedModel, shard: Shard) -> bool:
        return shard.has_experiment(model.experiment_id)

    def runs(self, experiment_ids: Iterable[str], scope: RunScope) -> Iterator[Run | Unreadable]:
        ids = list(filter(scope.shard.has_experiment, experiment_ids))
        if scope.latest_per_experiment:
            return _until_broken_off(self._latest_runs(id_, scope) for id_ in ids)
        parts = batches(ids, _EXPERIMENTS_PER_REQUEST)
        first = [self._runs_of_batch(batch, scope) for batch in islice(parts, 1)]  # its first pages are on the way now
        return chain(*first, chain.from_iterable(self._runs_of_batch(batch, scope) for batch in parts))

    def _runs_of_batch(self, experiment_ids: list[str], scope: RunScope) -> Iterator[Run | Unreadable]:
        """Several listings side by side, as MLflow's server has four processes unless told otherwise."""
        count = min(self._max_workers, len(experiment_ids))
        return _merged([self._runs_of(experiment_ids[index::count], scope) for index in range(count)])

    def _runs_of(self, experiment_ids: list[str], scope: RunScope) -> Iterator[Run | Unreadable]:
        query = {
            "experiment_ids": experiment_ids,
            "run_view_type": "ALL" if scope.include_deleted else "ACTIVE_ONLY",
        }

        def fetch(token: str | None, size: int, backwards: bool, servable: bool) -> Page:
            order = f"attributes.run_id {'DESC' if backwards else 'ASC'}"
            condition = _all(_filter(scope), SERVABLE if servable else "")
            return self._search_runs({**query, "order_by": [order], "max_results": size, "filter": condition}, token)

        def search(condition: str) -> Page:
            among = {"filter": _all(_filter(scope), condition), "max_results": _MOST_ROWS}
            return self._search_runs({**query, **among}, None)

        return self._run_records(read_ahead(walk_runs(fetch, self._page_size)), search)

    def _run_records(
        self, pages: Iterator[list[Row] | BadRuns | Moved], search: Callable[[str], object]
    ) -> Iterator[Run | Unreadable]:
        try:
            for page in pages:
                if isinstance(page, BadRuns):
                    yield from self._name_bad_runs(page, search)
                else:
                    yield from _records("run", iter((page,)), rows.run, "ordered by run id")
        except ServerError as error:
            yield Unreadable("run", "the listing, ordered by run id", str(error), listing_broke_off=True)

    def _name_bad_runs(self, gap: BadRuns, search: Callable[[str], object]) -> Iterator[Unreadable]:
        def fails(condition: str) -> bool:
            try:
                search(condition)
            except PageError:
                return True
            return False

        named = 0
        while named < gap.count and self._naming_seconds < _SECONDS_TO_NAME_BAD_RUNS:
            began = time.monotonic()
            run_id = spell_out(fails, gap, self._bad_runs)
            self._naming_seconds += time.monotonic() - began
            if run_id is None:
                break
            self._bad_runs.append(run_id)
            named += 1
            yield Unreadable("run", run_id, _reason(search, run_id) or gap.reason, run_id=run_id)
        for _ in range(gap.count - named):
            place = f"one whose id is between {gap.after or 'the first'} and {gap.before or 'the last'}"
            yield Unreadable("run", place, gap.reason)

    def _latest_runs(self, experiment_id: str, scope: RunScope) -> Iterator[Run | Unreadable]:
        latest = scope.latest_per_experiment or 0
        query = {
            "experiment_ids": [experiment_id],
            "run_view_type": "ALL" if scope.include_deleted else "ACTIVE_ONLY",
        }
        failures: list[PageError] = []

        def fetch(token: str | None, size: int, backwards: bool) -> Page:
            direction = ("ASC", "DESC") if backwards else ("DESC", "ASC")
            order = [f"attributes.start_time {direction[0]}", f"attributes.run_id {direction[1]}"]
            page = {**query, "order_by": order, "max_results": size}
            while len(failures) < 2:  # one may be a passing one
                try:
                    return self._search_runs({**page, "filter": _filter(scope)}, token)
                except PageError as error:
                    failures.append(error)
            # All runs up to here were good, and so stand at the same places among the servable ones.
            return self._search_runs({**page, "filter": _all(_filter(scope), SERVABLE)}, token)

        pages = walk(fetch, min(self._page_size, latest), run_id_of)
        yield from islice(_records("run", pages, rows.run, f"of experiment {experiment_id}, latest first"), latest)
        if len(failures) > 1:
            yield Unreadable("run", f"one of the latest of experiment {experiment_id}", str(failures[1]))

    def run_counts(self, experiment_ids: Iterable[str], scope: RunScope) -> None:  # noqa: ARG002 - as the protocol has it
        """MLflow's API counts nothing."""
        return

    def runs_by_id(
        self, run_ids: Iterable[str], experiment_ids: Iterable[str], scope: RunScope
    ) -> Iterator[Run | Unreadable]:
        ids = sorted(set(filter(_RUN_ID.fullmatch, run_ids)))
        for experiments in batches(filter(scope.shard.has_experiment, experiment_ids), _MOST_EXPERIMENTS):
            query = {
                "experiment_ids": experiments,
                "run_view_type": "ALL" if scope.include_deleted else "ACTIVE_ONLY",
            }
            parts = batches(ids, _RUN_IDS_PER_REQUEST)
            yield from _until_broken_off(self._runs_among(batch, query, _filter(scope)) for batch in parts)

    def evaluation_datasets(self, experiment_ids: Sequence[str]) -> Iterator[EvaluationDataset | Unreadable] | None:
        listing = "the listing, by time of creation"
        try:
            pages = self._evaluation.pages(experiment_ids)
            if pages is None:
                return None
            listed = list(_records("evaluation dataset", pages, dict, "by time of creation"))
            found = list(self._evaluation.datasets([row for row in listed if not isinstance(row, Unreadable)]))
        except ServerError as error:
            return iter((Unreadable("evaluation dataset", listing, str(error), listing_broke_off=True),))
        known = [record for record in found if isinstance(record, EvaluationDataset)]
        bad = [record for record in (*listed, *found) if isinstance(record, Unreadable)]
        return chain(sorted(known, key=attrgetter("dataset_id")), bad)

    def scorers(self, experiment_ids: Sequence[str]) -> tuple[list[Scorer], list[str]]:
        return self._evaluation.scorers(experiment_ids)

    def trace_counts(self, experiment_ids: Sequence[str]) -> tuple[list[TraceCounts], list[str]] | None:
        return read_trace_counts(self._tracking, experiment_ids) if experiment_ids else ([], [])

    def gateway_endpoints(self) -> list[ModelDeployment | Unreadable] | None:
        try:
            page = _page(self._tracking.get(_GATEWAY_ENDPOINTS, {}), "endpoints")
        except ServerError as error:
            if is_absent(error):
                return None
            raise
        return rows.in_order(_records("gateway endpoint", iter([page.rows]), rows.gateway_endpoint, "all at once"))

    def metric_histories(
        self,
        keys_of: Mapping[str, Sequence[str]],
        experiment_of: Mapping[str, str],  # noqa: ARG002 - as the protocol has it
    ) -> dict[str, tuple[MetricHistory, ...]]:
        try:
            return self._histories.read(keys_of)
        except rows.NOT_FORMED as error:
            raise PageError(f"MLflow's values of metrics are not formed as MLflow's: {error}") from error

    def _runs_among(self, run_ids: list[str], query: Row, condition: str) -> Iterator[Run | Unreadable]:
        """In one request; in halves, where MLflow fails, until only bad runs are left out."""
        quoted = ", ".join(f"'{run_id}'" for run_id in run_ids)
        among = {
            "filter": _all(f"attributes.run_id IN ({quoted})", condition),
            "order_by": ["attributes.run_id ASC"],
            "max_results": len(run_ids),
        }
        try:
            page = self._search_runs({**query, **among}, None)
        except PageError as error:
            if len(run_ids) == 1:
                yield Unreadable("run", run_ids[0], str(error), run_id=run_ids[0])
                return
            if len(run_ids) == _RUN_IDS_PER_REQUEST and self._fails_on_everything(query):
                yield Unreadable("run", "a search for runs by id", str(error), listing_broke_off=True)
                return
            middle = len(run_ids) // 2
            yield from self._runs_among(run_ids[:middle], query, condition)
            yield from self._runs_among(run_ids[middle:], query, condition)
            return
        except ServerError as error:
            yield Unreadable("run", "a search for runs by id", str(error), listing_broke_off=True)
            return
        yield from _records("run", iter([page.rows]), rows.run, "by id")

    def _fails_on_everything(self, query: Row) -> bool:
        """Whether even a search for a run that can't exist fails."""
        try:
            self._search_runs({**query, "filter": "attributes.run_id = '-'", "max_results": 1}, None)
        except ServerError:
            return True
        return False

    def _search_runs(self, query: Mapping[str, Any], token: str | None) -> Page:
        return _page(self._tracking.post("runs/search", _with(query, token)), "runs")


def _merged(listings: list[Iterator[Run | Unreadable]]) -> Iterator[Run | Unreadable]:
    """By run id, as each of them is; what has none behind the run before it."""

    def keyed(listing: Iterator[Run | Unreadable]) -> Iterator[tuple[str, Run | Unreadable]]:
        run_id = ""
        for record in listing:
            run_id = record.run_id or run_id
            yield run_id, record

    return (record for _, record in heapq.merge(*map(keyed, listings), key=itemgetter(0)))


def _reason(search: Callable[[str], object], run_id: str) -> str | None:
    """Why MLflow fails on this run: of a page with several bad ones it says that of the first."""
    try:
        search(f"attributes.run_id = '{run_id}'")
    except PageError as error:
        return str(error)
    return None


def _records(kind: Kind, pages: Pages, record: Callable[[Row], T], order: str) -> Iterator[T | Unreadable]:
    """Rows as records; what can't be one, and what breaks the listing off, as Unreadable."""
    while True:
        try:
            page = next(pages, None)
        except ServerError as error:
            yield Unreadable(kind, f"the listing, {order}", str(error), listing_broke_off=True)
            return
        if page is None:
            return
        if isinstance(page, Moved):
            place = f"behind {rows.name_of(page.after)}, {order}"
            yield Unreadable(kind, place, "MLflow deleted some before it while it was read", changed_meanwhile=True)
        elif isinstance(page, BadRow):
            after, before = rows.name_of(page.after or {}), rows.name_of(page.before or {})
            yield Unreadable(
                kind, f"the one at place {page.offset}, {order}, after {after}, before {before}", page.reason
            )
        elif isinstance(page, list):
            for row in page:
                try:
                    yield record(row)
                except rows.NOT_FORMED as error:
                    reason = f"its row is not formed as MLflow's: {type(error).__name__}: {error}"
                    yield Unreadable(kind, rows.name_of(row), reason, run_id=run_id_of(row) if kind == "run" else "")


def _until_broken_off(listings: Iterable[Iterator[T | Unreadable]]) -> Iterator[T | Unreadable]:
    """One after the other. Where one breaks off, the others would, each after many requests."""
    for listing in listings:
        for found in listing:
            yield found
            if isinstance(found, Unreadable) and found.listing_broke_off:
                return


def _page(answer: Mapping[str, Any], key: str) -> Page:
    found = answer.get(key, [])
    if not isinstance(found, list) or (key not in answer and answer.keys() - {"next_page_token"}):
        said = type(found).__name__ if key in answer else ", ".join(sorted(answer))
        raise ServerError(
            f"MLflow answered with {said[:100]} where a list of {key} was expected. Check for a proxy that answers "
            "in its place"
        )
    return Page(found, answer.get("next_page_token") or None)


def _filtered(condition: str) -> dict[str, str]:
    return {"filter": condition} if condition else {}


def _is_prompt(found: RegisteredModel | ModelVersion | Unreadable) -> bool:
    return not isinstance(found, Unreadable) and PROMPT_TAG in found.tags


def _with(query: Mapping[str, Any], token: str | None) -> dict[str, Any]:
    return {**query, "page_token": token} if token else dict(query)


def _filter(scope: RunScope) -> str:
    started = f"attributes.start_time > {scope.started_after}" if scope.started_after is not None else ""
    return _all(scope.filter or "", started)


def _all(*conditions: str) -> str:
    return " AND ".join(condition for condition in conditions if condition)
