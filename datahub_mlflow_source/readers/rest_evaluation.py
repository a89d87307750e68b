"""Evaluation datasets and scorers over REST (MLflow 3.4 and newer)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.readers import rows
from datahub_mlflow_source.readers.http import MlflowHttp
from datahub_mlflow_source.readers.paging import BadRow, Moved, Page, Row, walk
from datahub_mlflow_source.readers.workers import in_order
from datahub_mlflow_source.records import Scorer

_DATASETS = "/api/3.0/mlflow/datasets"
_SCORERS = "/api/3.0/mlflow/scorers/list"
_MOST_DATASETS = 50_000  # MLflow's limit, per page
_ASKED_AT_ONCE = 4
_NOT_THERE = (404, 405, 501)  # a server that has no such thing


def has_evaluation_datasets(server: MlflowHttp) -> bool:
    """Whether this MLflow knows of them. One request. Raises ServerError, where it doesn't say."""
    try:
        server.post(f"{_DATASETS}/search", {"max_results": 1})
    except ServerError as error:
        if error.status in _NOT_THERE:
            return False
        if error.status != 500:  # a bad row: the listing finds its way around it
            raise
    return True


def dataset_pages(
    server: MlflowHttp, page_of: Callable[[Row, str], Page], page_size: int
) -> Iterator[list[Row] | BadRow | Moved]:
    """Oldest first, each row with the ids of its experiments, which are asked for one by one: there are few."""

    def fetch(token: str | None, size: int, backwards: bool) -> Page:
        query: dict[str, Any] = {"max_results": size, "order_by": [f"created_time {'DESC' if backwards else 'ASC'}"]}
        if token:
            query["page_token"] = token
        return page_of(server.post(f"{_DATASETS}/search", query), "datasets")

    def with_experiments(row: Row) -> Row:
        if _id_of(row) is None:
            return row  # which is no record, as will be told
        answer = server.get(f"{_DATASETS}/{quote(str(_id_of(row)), safe='')}/experiment-ids", {})
        return {**row, "experiment_ids": answer.get("experiment_ids") or []}

    for page in walk(fetch, page_size, _id_of, _MOST_DATASETS - page_size):
        yield list(in_order(with_experiments, page, _ASKED_AT_ONCE)) if isinstance(page, list) else page


def _id_of(row: Row) -> object:
    return row.get("dataset_id") if isinstance(row, dict) else None


def read_scorers(server: MlflowHttp) -> list[Scorer]:
    """The newest version of each, of all active experiments; none where this MLflow doesn't list them so."""
    try:
        answer = server.get(_SCORERS, {})
    except ServerError as error:
        if error.status in (*_NOT_THERE, 400):  # the first releases wanted to hear an experiment
            return []
        raise
    found = answer.get("scorers", [])
    return sorted(map(rows.scorer, found if isinstance(found, list) else []))
