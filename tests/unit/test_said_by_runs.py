"""The report names every dataset that has no real one behind it, and every table of a query that isn't known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from datahub_mlflow_source.mapping.queries import Asked, Upstreams
from datahub_mlflow_source.mapping.rules import Rules
from datahub_mlflow_source.outgoing import Outgoing
from datahub_mlflow_source.query_process import QueryProcess
from datahub_mlflow_source.report import MlflowSourceReport
from datahub_mlflow_source.said_by_runs import SaidByRuns
from datahub_mlflow_source.state.shards import ShardState
from tests.unit.records import make_dataset_input, make_experiment, make_run


@pytest.fixture
def report() -> MlflowSourceReport:
    return MlflowSourceReport()


@pytest.fixture
def said(report: MlflowSourceReport) -> Iterator[SaidByRuns]:
    guard = cast("Any", SimpleNamespace(sent=lambda _: None, keep=lambda _: None))
    said = SaidByRuns(Rules(), Outgoing(report, guard, says_status=False), report, None, ShardState(), hold=False)
    yield said
    said.close()


def tell(said: SaidByRuns, **sources: str) -> list[str]:
    """A run with datasets of these names, by query; gives the URNs that are sent."""
    datasets = tuple(
        make_dataset_input(name=name, source_type="spark", source=json.dumps({"sql": sql}))
        for name, sql in sources.items()
    )
    said.inputs(make_run(datasets=datasets), make_experiment())
    return [unit.get_urn() for unit in said.datasets()]


def test_what_a_query_leads_to_is_sent_and_the_rest_is_told(said: SaidByRuns, report: MlflowSourceReport) -> None:
    sent = tell(
        said,
        all="SELECT * FROM sales.orders",
        some="SELECT * FROM sales.orders JOIN tmp JOIN other",
        none="SELECT * FROM tmp",
        no_query="CREATE TABLE x.y AS SELECT * FROM sales.orders",
    )
    assert len(set(sent)) == 4
    assert sorted(report.unresolved_datasets) == [
        "no_query: spark CREATE TABLE x.y AS SELECT * FROM sales.orders",
        "none: spark without tmp: SELECT * FROM tmp",
        "some: spark without other, tmp: SELECT * FROM sales.orders JOIN tmp JOIN other",
    ]
    assert not report.warnings


def test_a_query_that_takes_too_long_is_told(
    said: SaidByRuns, report: MlflowSourceReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(said, "_queries", QueryProcess(seconds=0.01))
    tell(said, slow="SELECT * FROM sales.orders")
    assert list(report.unresolved_datasets) == ["slow: spark took too long to parse: SELECT * FROM sales.orders"]


def test_where_there_is_no_parser_that_is_told_once(
    said: SaidByRuns,
    report: MlflowSourceReport,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def read(asked: Asked) -> Upstreams:
        return Upstreams(problem="no parser")

    monkeypatch.setattr(said._queries, "read", read)
    tell(said, one="SELECT * FROM sales.orders", other="SELECT * FROM sales.returns")
    (warning,) = report.warnings
    assert warning.title == "Queries are not understood"
    assert caplog.text.count(str(warning.title)) == 1
    assert sorted(report.unresolved_datasets) == [
        "one: spark SELECT * FROM sales.orders",
        "other: spark SELECT * FROM sales.returns",
    ]
