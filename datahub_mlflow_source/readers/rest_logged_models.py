"""Searching logged models over REST (MLflow 3.0 and newer): its page tokens hold the whole question."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from datahub_mlflow_source.errors import PageError
from datahub_mlflow_source.readers.paging import Fetch, Page, place_of

Search = Callable[[Mapping[str, Any]], Page]


def fetch_logged_models(search: Search, experiment_ids: list[str]) -> Fetch:
    """Pages of the logged models of these experiments, by id; tokens as other listings have them.

    A token of theirs that stands for a place among the rows becomes one that MLflow gave for this search, with that
    place (SearchLoggedModelsPaginationToken in mlflow/utils/search_utils.py, which refuses any that differs otherwise).
    """
    given: dict[bool, dict[str, Any]] = {}

    def token_like(question: Mapping[str, Any], backwards: bool) -> dict[str, Any]:
        """One that was given; else one that is asked for; else, behind a bad first row, as MLflow 3.17 makes it."""
        if backwards not in given:
            with suppress(PageError):
                remember(search({**question, "max_results": 1}), backwards)
        order = [{"dataset_name": None, "dataset_digest": None, **part} for part in question["order_by"]]
        made_up = {"experiment_ids": experiment_ids, "filter_string": None, "order_by": order}
        return given.get(backwards, made_up)

    def remember(page: Page, backwards: bool) -> None:
        if page.next_token and place_of(page.next_token) is not None:
            given[backwards] = json.loads(base64.b64decode(page.next_token))

    def fetch(token: str | None, size: int, backwards: bool) -> Page:
        order = [{"field_name": "model_id", "ascending": not backwards}]
        body: dict[str, Any] = {"experiment_ids": experiment_ids, "order_by": order}
        if token:
            place = place_of(token)
            given_token = token if place is None else _encoded({**token_like(body, backwards), "offset": place})
            page = search({**body, "max_results": size, "page_token": given_token})
        else:
            page = search({**body, "max_results": size})
        remember(page, backwards)
        return page

    return fetch


def _encoded(token: Mapping[str, Any]) -> str:
    return base64.b64encode(json.dumps(token).encode()).decode()
