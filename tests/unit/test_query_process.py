"""Queries are parsed in another process, and one that keeps it busy for ever costs no more than its time."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from datahub.emitter.mce_builder import make_dataset_urn

from datahub_mlflow_source import query_process
from datahub_mlflow_source.mapping.lineage import PlatformNaming
from datahub_mlflow_source.mapping.queries import NONE, Asked, Upstreams, read
from datahub_mlflow_source.mapping.sources import Query, Uri
from datahub_mlflow_source.query_process import QueryProcess

FOR_EVER = "SELECT a FROM sales.orders" + " JOIN sales.orders" * 60  # the parser tries 2 to the power of 60 ways
GIVEN_UP = Upstreams(problem="given up")


@pytest.fixture
def process() -> Iterator[QueryProcess]:
    process = QueryProcess(seconds=60)
    yield process
    process.close()


def asked(sql: str) -> Asked:
    return Asked(Query(sql), "spark", "databricks", None, "PROD", ())


def tables(found: Upstreams) -> list[str]:
    return [str(dataset) for dataset in found.datasets]


def test_the_answer_is_the_same_as_here(process: QueryProcess) -> None:
    naming = (("snowflake", PlatformNaming("eu", "DEV", lower_case=False)),)
    query = Query('SELECT Id AS a -- who\nFROM "T" JOIN x', Uri("snowflake", "acct", "/D/S"))
    question = Asked(query, "mine", "snowflake", "snowflake", "PROD", naming)
    found = process.read(question)
    assert tables(found) == [
        "urn:li:dataset:(urn:li:dataPlatform:snowflake,eu.D.S.T,DEV)",
        "urn:li:dataset:(urn:li:dataPlatform:snowflake,eu.D.S.X,DEV)",
    ]
    assert found == read(question)
    assert process.read(asked("CREATE TABLE a.b AS SELECT * FROM c.d")) == NONE


def test_nothing_of_a_query_is_logged(process: QueryProcess, capfd: pytest.CaptureFixture[str]) -> None:
    sql = "SHOW hunter2 FROM sales.orders"  # sqlglot warns of what it does not understand, and shows it
    assert process.read(asked(sql)) == NONE
    assert process.read(asked("SELECT * FROM sales.orders")).datasets  # the answers came through untouched
    assert capfd.readouterr() == ("", "")


def test_what_takes_too_long_is_given_up_and_the_next_query_is_read(process: QueryProcess) -> None:
    process._seconds = 3
    began = time.monotonic()
    assert process.read(asked(FOR_EVER)) == GIVEN_UP
    assert process.read(asked(FOR_EVER)) == GIVEN_UP  # known by now
    assert 3 <= time.monotonic() - began < 30
    assert process._lost == 1
    process._seconds = 60
    assert tables(process.read(asked("SELECT * FROM sales.orders"))) == [make_dataset_urn("hive", "sales.orders")]


def test_after_some_of_that_kind_there_are_no_more_tries(
    process: QueryProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_process, "_MOST_LOST", 2)
    process._seconds = 1
    for number in range(2):
        assert process.read(asked(f"{FOR_EVER} -- {number}")) == GIVEN_UP
    process._seconds = 60
    assert process.read(asked("SELECT * FROM sales.orders")) == GIVEN_UP


def test_a_process_that_is_gone_is_replaced(process: QueryProcess) -> None:
    assert process.read(asked("SELECT * FROM sales.orders")).datasets
    assert process._process
    process._process.kill()
    process._process.wait()
    process.read(asked("SELECT * FROM sales.returns"))
    assert process.read(asked("SELECT * FROM sales.clicks")).datasets


@pytest.mark.skipif(sys.platform != "linux", reason="looked up in /proc")
def test_memory_is_bounded_and_so_is_time_should_nobody_be_there_to_end_it(process: QueryProcess) -> None:
    assert process.read(asked("SELECT * FROM sales.orders")).datasets
    assert process._process
    limits = Path(f"/proc/{process._process.pid}/limits").read_text()
    (memory,) = re.findall(r"^Max address space +(\d+)", limits, re.MULTILINE)
    (seconds,) = re.findall(r"^Max cpu time +(\d+)", limits, re.MULTILINE)
    assert int(memory) == query_process._BYTES
    assert 40 <= int(seconds) < 100


def test_nothing_is_started_without_a_query_and_nothing_left_behind() -> None:
    process = QueryProcess()
    assert process._process is None
    assert process.read(asked("SELECT * FROM sales.orders")).datasets
    pid = getattr(process._process, "pid", 0)
    os.kill(pid, 0)  # it is there
    process.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_where_no_process_can_be_started_a_query_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    process = QueryProcess()
    assert process.read(asked("SELECT * FROM sales.orders")) == GIVEN_UP
    process.close()
