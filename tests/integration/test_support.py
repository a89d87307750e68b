"""What the other tests stand on: the servers, what is in them, the proxy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow.entities import DatasetInput, Run, ViewType

from tests.support.bulk import Bulk, bulk_content
from tests.support.content import (
    DATASETS,
    FRAUD,
    Content,
    RunDefect,
    bad_experiment_row,
    bad_run_row,
    bad_version_row,
    plain_runs,
    rich_content,
)
from tests.support.proxy import CountingProxy, Request, everything
from tests.support.servers import MlflowServer, mlflow_server

BULK = Bulk(experiments=3, runs=1100, params=2, metrics=3, tags=6, datasets=4, models=5, versions=4)
SEARCH = "/api/2.0/mlflow/experiments/search"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("support")) as server:
        yield server


@pytest.fixture(scope="module")
def content(server: MlflowServer) -> Content:
    return rich_content(server)


@pytest.fixture
def client(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # else minutes for each error
    return mlflow.MlflowClient(server.url)


@pytest.fixture
def proxy(server: MlflowServer) -> Iterator[CountingProxy]:
    with CountingProxy(server.url) as proxy:
        yield proxy


# servers.py


def test_a_server_is_gone_with_all_its_processes_when_the_block_ends(tmp_path: Path) -> None:
    with mlflow_server(tmp_path) as server:
        assert _processes_that_name(tmp_path) != []
    assert _processes_that_name(tmp_path) == []
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{server.url}/health", timeout=5)


def _processes_that_name(directory: Path) -> list[str]:
    """By their environment: a server's names its artifact folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(directory / "artifacts").encode() in (process / "environ").read_bytes():
                found.append(process.name)
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return found


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "mlflow.py").write_text("raise ImportError('broken on purpose')")
    environment = {"PYTHONPATH": os.fspath(tmp_path)}
    with pytest.raises(RuntimeError, match="broken on purpose"), mlflow_server(tmp_path, extra_env=environment):
        pytest.fail("it started")


def test_a_server_does_not_outlive_killed_tests(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("import time; time.sleep(60)")
    script = (
        "import pathlib, sys; from tests.support.servers import mlflow_server\n"
        "with mlflow_server(pathlib.Path(sys.argv[1]), extra_env={'PYTHONPATH': sys.argv[1]}): pass"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=root) as tests:
        _wait_for(lambda: len(_processes_that_name(tmp_path)) >= 2)
        tests.kill()
    _wait_for(lambda: _processes_that_name(tmp_path) == [])


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# content.py: what MLflow's own client sees of it


def test_the_client_sees_every_run_that_content_names(client: mlflow.MlflowClient, content: Content) -> None:
    runs = client.search_runs(list(content.experiments.values()))
    assert {run.info.run_name: run.info.run_id for run in runs} == content.runs
    deleted = client.search_runs(["1", "4"], run_view_type=ViewType.DELETED_ONLY)
    assert {run.info.run_name: run.info.run_id for run in deleted} == content.deleted_runs


def test_the_client_sees_every_experiment_that_content_names(client: mlflow.MlflowClient, content: Content) -> None:
    seen = {found.name: found.experiment_id for found in client.search_experiments()}
    assert seen.items() >= content.experiments.items()
    assert content.deleted_experiments.keys().isdisjoint(seen)


def test_the_client_sees_every_model_and_version_that_content_names(
    client: mlflow.MlflowClient, content: Content
) -> None:
    assert {model.name for model in client.search_registered_models()} == set(content.models)
    versions = client.search_model_versions()
    assert {(v.name, str(v.version)): v.run_id or "" for v in versions} == content.versions
    assert content.gone_run in content.versions.values()
    with pytest.raises(mlflow.MlflowException, match="not found"):
        client.get_run(content.gone_run)


def test_the_full_run_holds_every_dataset(client: mlflow.MlflowClient, content: Content) -> None:
    inputs = _inputs(client.get_run(content.runs["full"]))
    expected = {(logged["dataset"]["name"], logged["dataset"]["source"]) for logged in DATASETS}
    assert len(inputs) == len(DATASETS)
    assert {(found.dataset.name, found.dataset.source) for found in inputs} == expected


def _inputs(run: Run) -> list[DatasetInput]:
    return run.inputs.dataset_inputs if run.inputs else []


@pytest.mark.parametrize("defect", ["start_time", "status", "user_id", "metric"])
def test_a_bad_run_row_spoils_its_page(server: MlflowServer, defect: RunDefect) -> None:
    experiment_id, run_ids = plain_runs(server, f"bad {defect}", 3)
    assert bad_run_row(server, experiment_id, 1, defect) == run_ids[1]
    url = f"{server.url}/api/2.0/mlflow/runs/search"
    answer = requests.post(url, json={"experiment_ids": [experiment_id]}, timeout=30)
    assert answer.status_code == 500
    expected = "Internal Server Error" if defect == "metric" else f"{defect} cannot be None"
    assert expected in answer.text


def test_bad_experiments_and_versions_spoil_their_listings(server: MlflowServer, content: Content) -> None:
    assert _statuses(server) == {"experiments": 200, "model-versions": 200, "registered-models": 200}
    bad_experiment_row(server, content.experiments["empty"])
    bad_version_row(server, FRAUD, "1")
    assert _statuses(server) == {"experiments": 500, "model-versions": 500, "registered-models": 500}
    server.execute("UPDATE experiments SET artifact_location = 'mended' WHERE artifact_location IS NULL")
    server.execute("UPDATE model_versions SET creation_time = 1 WHERE creation_time IS NULL")


def _statuses(server: MlflowServer) -> dict[str, int]:
    listings = ("experiments", "model-versions", "registered-models")
    urls = {name: f"{server.url}/api/2.0/mlflow/{name}/search?max_results=100" for name in listings}
    return {name: requests.get(url, timeout=30).status_code for name, url in urls.items()}


# bulk.py


@pytest.fixture(scope="module")
def bulk_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlflow.MlflowClient]:
    with mlflow_server(tmp_path_factory.mktemp("bulk")) as server:
        bulk_content(server.database, BULK)
        with pytest.raises(ValueError, match="not empty"):
            bulk_content(server.database, BULK)
        yield mlflow.MlflowClient(server.url)


def test_a_server_serves_exactly_the_runs_of_bulk_content(bulk_client: mlflow.MlflowClient) -> None:
    experiments = bulk_client.search_experiments(view_type=ViewType.ALL)
    assert len(experiments) == BULK.experiments
    runs = bulk_client.search_runs([found.experiment_id for found in experiments], max_results=5000)
    assert len({run.info.run_id for run in runs}) == BULK.runs
    for run in runs:
        data, inputs = run.data, _inputs(run)
        sizes = (len(data.params), len(data.metrics), len(data.tags), len(inputs))
        assert sizes == (BULK.params, BULK.metrics, BULK.tags, 1)
        assert [tag.value for tag in inputs[0].tags] == ["training"]
    assert len({_inputs(run)[0].dataset.source for run in runs}) == BULK.datasets


def test_a_server_serves_exactly_the_models_of_bulk_content(bulk_client: mlflow.MlflowClient) -> None:
    models = bulk_client.search_registered_models()
    assert [model.aliases for model in models] == [{"champion": "4", "challenger": "1"}] * BULK.models
    versions = bulk_client.search_model_versions()
    assert len(versions) == BULK.models * BULK.versions
    assert len({version.run_id for version in versions}) == len(versions)
    for version in versions:
        assert bulk_client.get_run(version.run_id or "").info.run_id == version.run_id


# proxy.py


def test_the_proxy_relays_and_counts(server: MlflowServer, proxy: CountingProxy) -> None:
    with requests.Session() as session:
        foreign = {"Host": "mlflow.acme.example"}  # which MLflow itself refuses
        through = session.get(f"{proxy.url}{SEARCH}?max_results=1", headers=foreign, timeout=30)
        session.post(proxy.url + SEARCH, json={"max_results": 2}, timeout=30).raise_for_status()
    assert through.json() == server.get("experiments/search", max_results=1)
    assert proxy.requests == [("GET", SEARCH), ("POST", SEARCH)]
    assert proxy.seen[1].body == b'{"max_results": 2}'


def test_the_proxy_fails_as_often_as_told(proxy: CountingProxy) -> None:
    proxy.fail(everything, status=429, body="slow down", headers={"Retry-After": "3"}, times=2)
    answers = [requests.get(f"{proxy.url}/health", timeout=30) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert (answers[0].text, answers[0].headers["Retry-After"]) == ("slow down", "3")


def test_the_proxy_fails_only_what_matches(proxy: CountingProxy) -> None:
    proxy.fail(lambda request: request.method == "POST", status=500)
    assert requests.get(f"{proxy.url}/health", timeout=30).status_code == 200
    assert requests.post(proxy.url + SEARCH, json={"max_results": 1}, timeout=30).status_code == 500


def test_the_proxy_refuses_requests_without_the_required_headers(proxy: CountingProxy) -> None:
    proxy.require_headers({"CF-Access-Client-Id": "id"})
    assert requests.get(f"{proxy.url}/health", timeout=30).status_code == 403
    right, wrong = {"cf-access-client-id": "id"}, {"CF-Access-Client-Id": "other"}
    assert requests.get(f"{proxy.url}/health", headers=right, timeout=30).status_code == 200
    assert requests.get(f"{proxy.url}/health", headers=wrong, timeout=30).status_code == 403


def test_the_proxy_hangs_up_midway_through_a_body(proxy: CountingProxy) -> None:
    proxy.fail(everything, cut_after=20, times=1)
    with requests.Session() as session:
        with pytest.raises(requests.exceptions.ChunkedEncodingError, match="20 bytes read"):
            session.get(f"{proxy.url}{SEARCH}?max_results=1", timeout=30)
        assert session.get(f"{proxy.url}{SEARCH}?max_results=1", timeout=30).status_code == 200


def test_the_proxy_waits_before_it_answers(proxy: CountingProxy) -> None:
    def slow(request: Request) -> bool:
        return request.path == "/health"

    proxy.fail(slow, delay=0.3, times=1)
    started = time.monotonic()
    assert requests.get(f"{proxy.url}/health", timeout=30).text == "OK"
    assert time.monotonic() - started >= 0.3
