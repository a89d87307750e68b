"""Evaluation datasets and scorers over REST (MLflow 3.4 and newer)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from datahub_mlflow_source.errors import GONE, PageError, ServerError
from datahub_mlflow_source.readers import rows
from datahub_mlflow_source.readers.http import MlflowHttp
from datahub_mlflow_source.readers.paging import BadRow, Moved, Page, Row, batches, walk
from datahub_mlflow_source.readers.workers import in_order
from datahub_mlflow_source.records import EvaluationDataset, Scorer, Unreadable

_DATASETS = "/api/3.0/mlflow/datasets"
_SCORERS = "/api/3.0/mlflow/scorers/list"
_MOST_DATASETS = 50_000  # MLflow's limit, per page
_EXPERIMENTS_PER_REQUEST = 100
_ASKED_AT_ONCE = 4


def is_absent(error: ServerError) -> bool:
    """This server has no such thing: it is older, or keeps everything in files, where MLflow has it switched off."""
    return error.error_code == "FEATURE_DISABLED" or (error.status in (404, 405, 501) and error.error_code != GONE)


class RestEvaluation:
    """Of one tracking server."""

    def __init__(self, server: MlflowHttp, page_of: Callable[[Row, str], Page], page_size: int) -> None:
        """`page_of`: rows and token of an answer, which stand under this key."""
        self._server, self._page_of, self._page_size = server, page_of, page_size

    def pages(self, experiment_ids: Sequence[str]) -> Iterator[list[Row] | BadRow | Moved] | None:
        """The listing, oldest first; None where this server has none, or we may see none. Raises ServerError.

        Who is no administrator may not ask for all, but for those of experiments.
        """
        for among in (None, list(experiment_ids[:_EXPERIMENTS_PER_REQUEST])):
            try:
                self._server.post(f"{_DATASETS}/search", {"max_results": 1, **_of(among)})
            except PageError as error:  # of a bad row the listing finds its way around
                if is_absent(error):
                    return None
            except ServerError as error:
                if error.status == 403:
                    continue
                if is_absent(error):
                    return None
                raise
            return self._all_pages() if among is None else self._pages_of(experiment_ids)
        return None

    def _all_pages(self, among: list[str] | None = None) -> Iterator[list[Row] | BadRow | Moved]:
        def fetch(token: str | None, size: int, backwards: bool) -> Page:
            order = [f"created_time {'DESC' if backwards else 'ASC'}"]
            query: dict[str, Any] = {"max_results": size, "order_by": order, **_of(among)}
            if token:
                query["page_token"] = token
            return self._page_of(self._server.post(f"{_DATASETS}/search", query), "datasets")

        return walk(fetch, self._page_size, _id_of, _MOST_DATASETS - self._page_size)

    def _pages_of(self, experiment_ids: Sequence[str]) -> Iterator[list[Row] | BadRow | Moved]:
        seen: set[object] = set()  # a dataset may be of several
        for batch in batches(experiment_ids, _EXPERIMENTS_PER_REQUEST):
            for page in self._all_pages(batch):
                yield [row for row in page if _id_of(row) not in seen] if isinstance(page, list) else page
                seen.update(map(_id_of, page) if isinstance(page, list) else ())

    def datasets(self, found: Sequence[Row]) -> Iterator[EvaluationDataset | Unreadable]:
        """Rows as records, with the ids of their experiments, which are asked for one by one: there are few.

        Raises ServerError where the server doesn't answer.
        """
        for dataset in in_order(self._dataset, found, _ASKED_AT_ONCE):
            if dataset:
                yield dataset

    def _dataset(self, row: Row) -> EvaluationDataset | Unreadable | None:
        """None: it is gone meanwhile."""
        shown = f"{rows.name_of(row)} ({_id_of(row)})"
        try:
            answer = self._server.get(f"{_DATASETS}/{quote(str(_id_of(row)), safe='')}/experiment-ids", {})
            ids = answer.get("experiment_ids") or []
        except ServerError as error:
            if error.status == 404 and error.error_code == GONE:
                return None
            if error.status is None:
                raise
            if error.status != 403 and not is_absent(error):
                return Unreadable("evaluation dataset", shown, str(error))
            ids = []  # one of them we may not see
        try:
            return rows.evaluation_dataset({**row, "experiment_ids": ids})
        except rows.NOT_FORMED as error:
            reason = f"its row is not formed as MLflow's: {type(error).__name__}: {error}"
            return Unreadable("evaluation dataset", shown, reason)

    def scorers(self, experiment_ids: Sequence[str]) -> tuple[list[Scorer], list[str]]:
        """The newest version of each; and what could not be read.

        In one request, where that lists those of all experiments; the first releases don't, nor does any with one that
        is broken: then experiment by experiment.
        """
        try:
            return self._listed_scorers({}), []
        except ServerError as error:
            if is_absent(error):
                return [], []
            if error.status not in (400, 500):
                return [], [str(error)]
            if self._is_switched_off():
                return [], []
        found: list[Scorer] = []
        problems: list[str] = []
        for scorers, problem in in_order(self._scorers_of, experiment_ids, _ASKED_AT_ONCE):
            found += scorers
            problems += [problem] if problem else []
        return sorted(found), problems

    def _is_switched_off(self) -> bool:
        """A server that keeps everything in files fails on scorers without a word, and says it of datasets."""
        try:
            self._server.post(f"{_DATASETS}/search", {"max_results": 1})
        except ServerError as error:
            return is_absent(error)
        return False

    def _scorers_of(self, experiment_id: str) -> tuple[list[Scorer], str]:
        try:
            return self._listed_scorers({"experiment_id": experiment_id}), ""
        except ServerError as error:
            return [], "" if is_absent(error) else f"of experiment {experiment_id}: {error}"

    def _listed_scorers(self, query: dict[str, str]) -> list[Scorer]:
        found = self._server.get(_SCORERS, query).get("scorers", [])
        try:
            return sorted(map(rows.scorer, found))
        except rows.NOT_FORMED as error:
            raise ServerError(f"MLflow's scorers are not formed as MLflow's: {error}") from error


def _of(experiment_ids: list[str] | None) -> dict[str, list[str]]:
    return {} if experiment_ids is None else {"experiment_ids": experiment_ids}


def _id_of(row: Row) -> object:
    return row.get("dataset_id") if isinstance(row, dict) else None
