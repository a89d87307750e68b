"""One bad row never stops the rest, and is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datahub_mlflow_source.mapping.rules import Entity
from datahub_mlflow_source.mapping.runs import map_run
from datahub_mlflow_source.mapping.urns import Naming, run_urn
from datahub_mlflow_source.readers import rest
from datahub_mlflow_source.records import Run
from tests.support.content import (
    CHURN,
    FRAUD,
    Content,
    RunDefect,
    bad_experiment_row,
    bad_run_row,
    bad_version_row,
    plain_runs,
    rich_content,
)
from tests.support.ingest import Ingested, ingest
from tests.support.servers import MlflowServer, mlflow_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """Of this module alone: its rows are spoiled."""
    with mlflow_server(tmp_path_factory.mktemp("isolation")) as server:
        yield server


@pytest.fixture(scope="module")
def content(server: MlflowServer) -> Content:
    return rich_content(server)


def _only(server: MlflowServer, experiment: str, file: Path, page_size: int = 1000) -> Ingested:
    pattern = {"allow": [f"{experiment}$"]}
    return ingest({"tracking_uri": server.url, "experiment_pattern": pattern, "page_size": page_size}, file)


def _runs(ingested: Ingested) -> set[str]:
    return {ingested.aspects[urn]["mlTrainingRunProperties"]["id"] for urn in ingested.urns("dataProcessInstance")}


def _failures(ingested: Ingested) -> str:
    return " ".join(line for failure in ingested.report.failures for line in failure.context)


@pytest.mark.parametrize("page_size", [1, 3, 1000])
@pytest.mark.parametrize("positions", [(0,), (4,), (9,), (4, 5), (4, 6)], ids=str)
def test_around_runs_without_start_time_all_others_are_kept(
    server: MlflowServer,
    tmp_path: Path,
    positions: tuple[int, ...],
    page_size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rest, "_SECONDS_TO_NAME_BAD_RUNS", 0.0)  # which takes half a minute; the next test has it
    experiment = f"nulls {positions} {page_size}"
    experiment_id, runs = plain_runs(server, experiment, 10)
    bad = {bad_run_row(server, experiment_id, position) for position in positions}
    ingested = _only(server, re.escape(experiment), tmp_path / "out.json", page_size)
    assert _runs(ingested) == set(runs) - bad
    assert ingested.failed
    assert ingested.report.runs.unreadable == len(bad)
    assert ingested.report.runs.read == len(runs) - len(bad)


def test_a_run_without_start_time_is_named_and_the_good_one_beside_it_kept(
    server: MlflowServer, tmp_path: Path
) -> None:
    experiment_id, runs = plain_runs(server, "named", 10)
    bad = {bad_run_row(server, experiment_id, position) for position in (4, 6)}
    ingested = _only(server, "named", tmp_path / "out.json")
    assert _runs(ingested) == set(runs) - bad
    for run_id in bad:
        assert run_id in _failures(ingested)


@pytest.mark.parametrize("defect", ["status", "user_id", "metric"])
def test_other_defects_of_a_run_leave_out_only_that_run(
    server: MlflowServer, tmp_path: Path, defect: RunDefect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "_SECONDS_TO_NAME_BAD_RUNS", 0.0)
    experiment_id, runs = plain_runs(server, f"defect {defect}", 5)
    bad = bad_run_row(server, experiment_id, 2, defect)
    ingested = _only(server, f"defect {defect}", tmp_path / "out.json")
    assert _runs(ingested) == set(runs) - {bad}
    assert "one whose id is between" in _failures(ingested)


def test_a_version_whose_run_cannot_be_served_is_still_there_and_the_run_named(
    server: MlflowServer, content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "_SECONDS_TO_NAME_BAD_RUNS", 0.0)  # its id is known from the version
    bad = content.runs["child 1"]
    start = server.execute("SELECT start_time FROM runs WHERE run_uuid = ?", bad)[0][0]
    server.execute("UPDATE runs SET start_time = NULL WHERE run_uuid = ?", bad)
    try:
        ingested = _only(server, "forecast, EU .*", tmp_path / "out.json")
    finally:
        server.execute("UPDATE runs SET start_time = ? WHERE run_uuid = ?", start, bad)
    _, version = ingested.named("mlModel", f"{FRAUD}_3")
    assert version["mlModelProperties"]["trainingJobs"] == []
    assert bad in _failures(ingested)
    assert "parent" in {
        ingested.aspects[urn]["dataProcessInstanceProperties"]["name"] for urn in ingested.urns("dataProcessInstance")
    }


def test_an_entity_that_cannot_be_mapped_is_kept_alive_and_named(
    server: MlflowServer, content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = content.runs["full"]

    def fails_on_one(run: Run, *args: Any) -> Entity:
        if run.run_id == bad:
            raise ValueError("made up")
        return map_run(run, *args)

    monkeypatch.setattr("datahub_mlflow_source.ingestion.map_run", fails_on_one)
    ingested = _only(server, CHURN, tmp_path / "out.json")
    assert bad not in _runs(ingested)
    assert len(_runs(ingested)) == 6
    assert f"{bad}: ValueError: made up" in _failures(ingested)
    assert str(run_urn(bad, Naming())) not in ingested.aspects
    _, version = ingested.named("mlModel", f"{FRAUD}_1")
    assert version["mlModelProperties"]["trainingJobs"] == []
    assert version["mlModelProperties"]["hyperParams"] != []


def test_bad_rows_of_experiments_and_versions_leave_out_only_themselves(
    server: MlflowServer, content: Content, tmp_path: Path
) -> None:
    """Last in this module: what it spoils stays spoiled.

    A registered model whose newest version of a stage is bad can't be served either, so nobody knows the aliases of
    its other versions: they stay as they were.
    """
    whole = ingest({"tracking_uri": server.url, "include_runs": "none"}, tmp_path / "whole.json")
    bad_experiment_row(server, content.experiments["empty"])
    bad_version_row(server, FRAUD, "2")
    ingested = ingest({"tracking_uri": server.url, "include_runs": "none"}, tmp_path / "out.json")
    missing = set(whole.aspects) - set(ingested.aspects)
    names = {
        properties["name"]
        for urn in missing
        for name, properties in whole.aspects[urn].items()
        if name in ("containerProperties", "mlModelProperties", "mlModelGroupProperties")
    }
    assert names <= {"empty", FRAUD, *(f"{FRAUD}_{version}" for version in "1234")}
    assert "empty" in names
    assert f"{FRAUD}_2" in names
    assert ingested.failed
