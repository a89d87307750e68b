"""The same content on servers of older MLflow versions: `make test-matrix`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from datahub_mlflow_source.readers import rest
from tests.support.content import FRAUD, bad_run_row, plain_runs, rich_content
from tests.support.gms import GmsStandIn
from tests.support.ingest import Ingested, ingest, ingest_into
from tests.support.servers import MlflowServer, mlflow_server

pytestmark = pytest.mark.matrix

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["2.10", "2.22"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    python = ROOT / f".venv-server-{request.param}" / "bin" / "python"
    with mlflow_server(tmp_path_factory.mktemp("matrix"), python=python) as server:
        assert server.version.startswith(request.param)
        rich_content(server)
        yield server


@pytest.fixture(scope="module")
def ingested(server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    return ingest({"tracking_uri": server.url}, tmp_path_factory.mktemp("ingested") / "out.json")


def test_everything_is_read(server: MlflowServer, ingested: Ingested) -> None:
    assert not ingested.failed
    assert list(ingested.report.warnings) == []
    counts = {
        "container": server.execute("SELECT count(*) FROM experiments WHERE lifecycle_stage = 'active'")[0][0] + 1,
        "dataProcessInstance": server.execute("SELECT count(*) FROM runs WHERE lifecycle_stage = 'active'")[0][0],
        "mlModelGroup": server.execute("SELECT count(*) FROM registered_models")[0][0],
        "mlModel": server.execute("SELECT count(*) FROM model_versions")[0][0],
    }
    assert {entity_type: len(ingested.urns(entity_type)) for entity_type in counts} == counts


def test_aliases_are_there(ingested: Ingested) -> None:
    _, version = ingested.named("mlModel", f"{FRAUD}_1")
    assert [alias["versionTag"] for alias in version["versionProperties"]["aliases"]] == ["champion", "eu-champion"]


def test_params_metrics_and_datasets_are_there(ingested: Ingested) -> None:
    _, version = ingested.named("mlModel", f"{FRAUD}_1")
    assert {"max_depth": "7", "学习率": "0.1"}.items() <= {
        param["name"]: param["value"] for param in version["mlModelProperties"]["hyperParams"]
    }.items()
    assert len(version["mlModelTrainingData"]["trainingData"]) > 5


def test_datahub_takes_all_of_it(server: MlflowServer) -> None:
    with GmsStandIn() as gms:
        assert not ingest_into(gms, {"tracking_uri": server.url}).has_failures()
        assert gms.rejections == []


def test_traces_that_the_server_does_not_count_are_counted_by_the_database(
    server: MlflowServer, tmp_path: Path
) -> None:
    if server.version.startswith("2.10"):
        pytest.skip("traces came with 2.13")
    experiment_id, _ = plain_runs(server, "traced", 1)
    for number in range(3):
        began = {"experiment_id": experiment_id, "timestamp_ms": 1_700_000_000_000 + number}
        server.post("traces", **began, request_metadata=[], tags=[])
    config = {"tracking_uri": server.url, "experiment_pattern": {"allow": ["traced"]}, "include_traces": True}
    over_rest = ingest(config, tmp_path / "rest.json")
    from_database = ingest({**config, "backend_store_uri": server.backend_uri}, tmp_path / "sql.json")
    counts = [
        found.named("container", "traced")[1]["containerProperties"]["customProperties"].get("mlflow_source.traces")
        for found in (over_rest, from_database)
    ]
    assert counts == [None, "3"]


def test_the_history_of_more_runs_than_one_request_holds(server: MlflowServer, tmp_path: Path) -> None:
    """gunicorn, which serves MLflow before 3.3, takes addresses of 4,094 bytes."""
    _, runs = plain_runs(server, "with a metric", 130)
    for run_id in runs:
        server.post("runs/log-metric", run_id=run_id, key="validation_auc", value=0.5, timestamp=1, step=3)
    config = {
        "tracking_uri": server.url,
        "experiment_pattern": {"allow": ["with a metric"]},
        "metric_history_pattern": {"allow": [".*auc"]},
    }
    ingested = ingest(config, tmp_path / "out.json")
    assert list(ingested.report.warnings) == []
    properties = [
        ingested.aspects[urn]["dataProcessInstanceProperties"]["customProperties"]
        for urn in ingested.urns("dataProcessInstance")
    ]
    assert [said["mlflow_source.metric.validation_auc.best_step"] for said in properties] == ["3"] * 130


def test_bad_rows_leave_out_only_themselves(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "_SECONDS_TO_NAME_BAD_RUNS", 0.01)
    experiment_id, runs = plain_runs(server, "with bad rows", 10)
    bad = {bad_run_row(server, experiment_id, position) for position in (4, 6)}
    config = {"tracking_uri": server.url, "experiment_pattern": {"allow": ["with bad rows"]}}
    ingested = ingest(config, tmp_path / "out.json")
    read = {ingested.aspects[urn]["mlTrainingRunProperties"]["id"] for urn in ingested.urns("dataProcessInstance")}
    assert read == set(runs) - bad
    assert any(run_id in str(list(ingested.report.failures)) for run_id in bad)
