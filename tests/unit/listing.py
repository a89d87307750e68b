"""A paged listing as MLflow's SQL store serves it, with rows that it can't convert: no server, no HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Sequence

from datahub_mlflow_source.errors import PageError
from datahub_mlflow_source.readers.bad_runs import run_id_of
from datahub_mlflow_source.readers.paging import BadRow, Page, Row


def make_row(run_id: str) -> Row:
    """Of a run, as far as walking needs it."""
    return {"info": {"run_id": run_id}}


def ids_of(pages: Sequence[object]) -> list[str]:
    """Of the good rows, in the order in which they came."""
    return [run_id_of(row) for page in pages if isinstance(page, list) for row in page]


def bad_places(pages: Sequence[object]) -> list[int]:
    return [page.offset for page in pages if isinstance(page, BadRow)]


class Listing:
    """These ids in this order. A page with a bad row fails whole.

    Args:
        bad: ids of the rows that can't be converted.
        looks_ahead: reads one row more than asked for, as MLflow does since 3.10.
        filter_helps: whether the filter for servable rows leaves the bad ones out.
    """

    def __init__(
        self, ids: Sequence[str], bad: Collection[str] = (), *, looks_ahead: bool = False, filter_helps: bool = True
    ) -> None:
        self.ids, self.bad, self.looks_ahead, self.filter_helps = list(ids), set(bad), looks_ahead, filter_helps
        self.requests = 0

    def fetch(self, token: str | None, size: int, backwards: bool) -> Page:
        """For `walk`."""
        return self.fetch_runs(token, size, backwards, False)

    def fetch_runs(self, token: str | None, size: int, backwards: bool, servable: bool) -> Page:
        """For `walk_runs`."""
        self.requests += 1
        ids = [id_ for id_ in self.ids if not (servable and self.filter_helps and id_ in self.bad)]
        if backwards:
            ids.reverse()
        start = json.loads(base64.b64decode(token))["offset"] if token else 0
        read = ids[start : start + size + self.looks_ahead]
        if self.bad.intersection(read):
            raise PageError("start_time cannot be None", status=500)
        more = start + size < len(ids)
        next_token = base64.b64encode(json.dumps({"offset": start + size}).encode()).decode() if more else None
        return Page([make_row(id_) for id_ in ids[start : start + size]], next_token)
