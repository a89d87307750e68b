"""The four searches of a tracking server, in the process: rows in, JSON out, 500 for a page with a bad row."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
import responses

from datahub_mlflow_source.errors import PageError
from datahub_mlflow_source.readers.paging import Row, offset_of, offset_token
from tests.unit.records import START

URL = "http://mlflow.test"
Answer = tuple[int, dict[str, str], str]


def make_run_row(run_id: str = "a", **info: Any) -> Row:
    """As a server sends a run that logged nothing; `info` replaces fields of its info."""
    return {
        "info": {
            "run_id": run_id,
            "run_uuid": run_id,
            "run_name": f"name of {run_id}",
            "experiment_id": "1",
            "user_id": "ada",
            "status": "FINISHED",
            "start_time": START,
            "lifecycle_stage": "active",
            **info,
        },
        "data": {},
        "inputs": {},
    }


def make_logged_model_row(model_id: str = "m-a", **info: Any) -> Row:
    """As a server sends a logged model without params and metrics; `info` replaces fields of its info."""
    row = {"model_id": model_id, "experiment_id": "1", "name": "classifier", "status": "LOGGED_MODEL_READY", **info}
    return {"info": row, "data": {}}


def make_experiment_row(experiment_id: str, **fields: Any) -> Row:
    return {"experiment_id": experiment_id, "name": f"experiment {experiment_id}", **fields}


@dataclass
class FakeMlflow:
    """Holds these rows; `asked` is what was asked, in order.

    `bad` are run ids, experiment ids, model names and version numbers whose rows it can't convert. It reads one row
    more than it is asked for, as MLflow does since 3.10, if it `looks_ahead`.
    """

    experiments: list[Any] = field(default_factory=list)
    runs: list[Any] = field(default_factory=list)
    models: list[Any] = field(default_factory=list)
    versions: list[Any] = field(default_factory=list)
    logged_models: list[Any] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)
    looks_ahead: bool = True
    filter_helps: bool = True
    version: str | None = "3.17.2"
    asked: list[tuple[str, Row]] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)  # given instead, by path

    @contextmanager
    def served(self, url: str = URL) -> Iterator[FakeMlflow]:
        """At this address, for all of the process."""
        with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
            self.add_to(mock, url)
            yield self

    def add_to(self, mock: responses.RequestsMock, url: str) -> None:
        api = f"{url}/api/2.0/mlflow/"
        mock.add_callback("POST", api + "experiments/search", self._callback(self._experiments))
        mock.add_callback("GET", api + "experiments/search", self._callback(self._experiments))
        mock.add_callback("POST", api + "runs/search", self._callback(self._runs))
        mock.add_callback("GET", api + "registered-models/search", self._callback(self._models))
        mock.add_callback("GET", api + "model-versions/search", self._callback(self._versions))
        mock.add_callback("POST", api + "logged-models/search", self._callback(self._logged_models))
        mock.add_callback("GET", url + "/version", lambda _: (200 if self.version else 404, {}, self.version or ""))

    def queries(self, path: str) -> list[Row]:
        return [query for asked, query in self.asked if asked == path]

    def _callback(self, search: Callable[[Row], Answer]) -> Callable[[requests.PreparedRequest], Answer]:
        def answer(request: requests.PreparedRequest) -> Answer:
            path = urlsplit(str(request.url)).path.split("/mlflow/")[1]
            query = json.loads(request.body) if request.body else _one_each(str(request.url))
            self.asked.append((path, query))
            return self.answers.get(path) or search(query)

        return answer

    def _experiments(self, query: Row) -> Answer:
        return self._page("experiments", self.experiments, query, _experiment_id)

    def _models(self, query: Row) -> Answer:
        return self._page("registered_models", self.models, query, _name)

    def _versions(self, query: Row) -> Answer:
        return self._page("model_versions", self.versions, query, _version)

    def _logged_models(self, query: Row) -> Answer:
        """Its tokens hold the question, and are refused with any other (mlflow/utils/search_utils.py)."""
        order = [{"dataset_name": None, "dataset_digest": None, **part} for part in query["order_by"]]
        question = {"experiment_ids": query["experiment_ids"], "filter_string": None, "order_by": order}
        models = [row for row in self.logged_models if _experiment_of(row) in query["experiment_ids"]]
        models.sort(key=_model_id, reverse=not query["order_by"][0]["ascending"])
        offset = 0
        if "page_token" in query:
            token = json.loads(base64.b64decode(query["page_token"]))
            offset = token.pop("offset")
            if token != question:
                return 400, {}, json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "page token"})
        page = {"max_results": query["max_results"], "page_token": offset_token(offset)}
        status, headers, body = self._page("models", models, page, _model_id)
        answer = json.loads(body)
        if given := answer.get("next_page_token"):
            full = {**question, "offset": offset_of(given, PageError("not ours"))}
            answer["next_page_token"] = base64.b64encode(json.dumps(full).encode()).decode()
        return status, headers, json.dumps(answer)

    def _runs(self, query: Row) -> Answer:
        among = [run for run in self.runs if _experiment_of(run) in query["experiment_ids"]]
        runs = [run for run in among if self._meets(_run_id(run), query["filter"])]
        if "start_time" in query.get("order_by", [""])[0]:
            runs.sort(key=lambda run: -run["info"]["start_time"])
        elif "order_by" in query:
            runs.sort(key=_run_id)
        return self._page("runs", runs, query, _run_id)

    def _meets(self, run_id: str, condition: str) -> bool:
        if self.filter_helps and "status LIKE '%'" in condition and run_id in self.bad:
            return False
        for part in condition.split(" AND "):
            if found := re.fullmatch(r"attributes\.run_id (=|!=|LIKE|IN) (.*)", part):
                values = re.findall(r"'([^']*)'", found[2])
                met = run_id.startswith(values[0].removesuffix("%")) if found[1] == "LIKE" else run_id in values
                if met == (found[1] == "!="):
                    return False
        return True

    def _page(self, key: str, rows: list[Any], query: Row, name: Callable[[Any], str]) -> Answer:
        if "DESC" in query.get("order_by", [""])[0] and "start_time" not in query["order_by"][0]:
            rows = rows[::-1]
        start, size = offset_of(query.get("page_token"), PageError("not ours")), int(query["max_results"])
        if self.bad.intersection(map(name, rows[start : start + size + self.looks_ahead])):
            return 500, {}, json.dumps({"error_code": "INTERNAL_ERROR", "message": "start_time cannot be None"})
        answer: Row = {key: rows[start : start + size]} if rows[start : start + size] else {}
        if start + size < len(rows):
            answer["next_page_token"] = offset_token(start + size)
        return 200, {}, json.dumps(answer)


def _one_each(url: str) -> Row:
    return {name: values if name == "order_by" else values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def _run_id(row: Any) -> str:
    info = row.get("info") if isinstance(row, dict) else None
    return str(info.get("run_id")) if isinstance(info, dict) else ""


def _model_id(row: Any) -> str:
    return str(row["info"].get("model_id")) if isinstance(row, dict) else ""


def _experiment_of(row: Any) -> str:
    info = row.get("info") if isinstance(row, dict) else None
    return str(info.get("experiment_id")) if isinstance(info, dict) else "1"


def _experiment_id(row: Any) -> str:
    return str(row.get("experiment_id")) if isinstance(row, dict) else ""


def _name(row: Any) -> str:
    return str(row.get("name")) if isinstance(row, dict) else ""


def _version(row: Any) -> str:
    return str(row.get("version")) if isinstance(row, dict) else ""
