"""What models are measured with comes out whole: evaluation datasets, scorers, traces in numbers (MLflow 3.4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.content import CHURN, EMPTY, FORECAST, Content, rich_content
from tests.support.gms import GmsStandIn
from tests.support.ingest import Ingested, ingest, ingest_into
from tests.support.proxy import CountingProxy, Request
from tests.support.servers import MlflowServer, mlflow_server

QUESTIONS = "questions, (EU)"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("evaluation")) as server:
        yield server


@pytest.fixture(scope="module")
def content(server: MlflowServer) -> Content:
    return rich_content(server)


@pytest.fixture(scope="module")
def ingested(server: MlflowServer, content: Content, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    assert content.evaluation_datasets
    config = {"tracking_uri": server.url, "include_traces": True}
    return ingest(config, tmp_path_factory.mktemp("ingested") / "out.json")


def dataset_urn(content: Content, name: str) -> str:
    return f"urn:li:dataset:(urn:li:dataPlatform:mlflow,{content.evaluation_datasets[name]},PROD)"


def test_a_dataset_says_all_that_mlflow_knows(server: MlflowServer, content: Content, ingested: Ingested) -> None:
    dataset = ingested.aspects[dataset_urn(content, QUESTIONS)]
    properties: dict[str, Any] = dict(dataset["datasetProperties"])
    said = properties["customProperties"]
    assert properties["name"] == QUESTIONS
    assert properties["externalUrl"].endswith(f"/datasets/{content.evaluation_datasets[QUESTIONS]}")
    assert properties["created"]["time"] > 1_700_000_000_000
    assert (said["team"], said["tok"]) == ("retention", "x")
    assert said["mlflow_source.records"] == "2"
    assert said["mlflow_source.experiments"] == f"{CHURN}, {FORECAST}"
    assert said["mlflow_source.dataset_id"] == content.evaluation_datasets[QUESTIONS]
    digest = server.execute("SELECT digest FROM evaluation_datasets WHERE name = ?", QUESTIONS)[0][0]
    assert said["mlflow_source.digest"] == digest
    assert dataset["subTypes"]["typeNames"] == ["Evaluation Dataset"]
    columns = {field["fieldPath"]: field["nativeDataType"] for field in dataset["schemaMetadata"]["fields"]}
    assert columns == {
        "inputs.question": "string",
        "inputs.k": "integer",
        "inputs.history": "array",
        "inputs.more": "object",
        "outputs": "string",
        "expectations.answer": "string",
    }


def test_a_dataset_is_in_its_experiment_if_it_has_one(content: Content, ingested: Ingested) -> None:
    experiment, _ = ingested.named("container", CHURN)
    assert ingested.aspects[dataset_urn(content, "of one")]["container"] == {"container": experiment}
    assert "container" not in ingested.aspects[dataset_urn(content, QUESTIONS)]
    assert "container" not in ingested.aspects[dataset_urn(content, "of none")]


def test_what_is_only_of_an_experiment_that_is_left_out_is_left_out(
    server: MlflowServer, content: Content, ingested: Ingested, tmp_path: Path
) -> None:
    assert dataset_urn(content, "of the retired") not in ingested.aspects
    assert ingested.report.evaluation_datasets.filtered == 1
    config = {"tracking_uri": server.url, "experiment_pattern": {"allow": [EMPTY]}}
    assert {urn for urn in ingest(config, tmp_path / "out.json").urns("dataset") if ",d-" in urn} == {
        dataset_urn(content, "of none")
    }


def test_what_a_run_read_leads_to_it(content: Content, ingested: Ingested) -> None:
    _, run = ingested.named("dataProcessInstance", "child 2")
    (edge,) = run["dataProcessInstanceInput"]["inputEdges"]
    upstreams = ingested.aspects[edge["destinationUrn"]]["upstreamLineage"]["upstreams"]
    assert [upstream["dataset"] for upstream in upstreams] == [dataset_urn(content, QUESTIONS)]


def test_an_experiment_names_its_scorers(ingested: Ingested) -> None:
    _, churn = ingested.named("container", CHURN)
    said = churn["containerProperties"]["customProperties"]
    assert {key: value for key, value in said.items() if key.startswith("mlflow_source.scorer.")} == {
        "mlflow_source.scorer.polite.version": "2",
        "mlflow_source.scorer.polite.kind": "instructions",
        "mlflow_source.scorer.polite.model": "openai:/gpt-5",
        "mlflow_source.scorer.polite.instructions": "Is {{ outputs }} polite?",
        "mlflow_source.scorer.safe.version": "1",
        "mlflow_source.scorer.safe.kind": "built-in Safety",
    }


def test_traces_are_counted(server: MlflowServer, ingested: Ingested, tmp_path: Path) -> None:
    _, churn = ingested.named("container", CHURN)
    said = churn["containerProperties"]["customProperties"]
    assert {key: value for key, value in said.items() if key.startswith("mlflow_source.traces")} == {
        "mlflow_source.traces": "4",
        "mlflow_source.traces.ok": "2",
        "mlflow_source.traces.error": "1",
        "mlflow_source.traces.in_progress": "1",
        "mlflow_source.traces.error_rate": "0.3333",
        "mlflow_source.traces.mean_millis": "667",
        "mlflow_source.traces.longest_millis": "1300",
        "mlflow_source.traces.input_tokens": "30",
        "mlflow_source.traces.output_tokens": "15",
        "mlflow_source.traces.total_tokens": "45",
        "mlflow_source.traces.assessments.polite.count": "2",
        "mlflow_source.traces.assessments.right?.count": "1",
    }
    _, forecast = ingested.named("container", FORECAST)
    assert "mlflow_source.traces" not in forecast["containerProperties"]["customProperties"]
    without = ingest({"tracking_uri": server.url}, tmp_path / "out.json")
    _, churn = without.named("container", CHURN)
    assert "mlflow_source.traces" not in churn["containerProperties"]["customProperties"]


def test_datahub_takes_all_of_it(server: MlflowServer, content: Content) -> None:
    assert content
    with GmsStandIn() as gms:
        assert not ingest_into(gms, {"tracking_uri": server.url, "include_traces": True}).has_failures()
        assert gms.rejections == []


# What is bad, gone, or can't be read


def make_dataset(server: MlflowServer, name: str) -> str:
    made = server.post_3("datasets/create", name=name)
    return f"urn:li:dataset:(urn:li:dataPlatform:mlflow,{made['dataset']['dataset_id']},PROD)"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[MlflowServer, list[str]]]:
    """A server with five datasets and nothing else; and their URNs."""
    with mlflow_server(tmp_path / "small") as server:
        yield server, [make_dataset(server, f"dataset {number}") for number in range(5)]


def test_a_bad_row_leaves_out_only_itself_and_is_named(small: tuple[MlflowServer, list[str]], tmp_path: Path) -> None:
    server, urns = small
    server.execute("UPDATE evaluation_datasets SET digest = NULL WHERE name = ?", "dataset 2")
    over_rest = ingest({"tracking_uri": server.url}, tmp_path / "rest.json")
    assert over_rest.urns("dataset") == {*urns} - {urns[2]}
    assert over_rest.report.evaluation_datasets.unreadable == 1
    assert "evaluation dataset the one at place 2" in str(list(over_rest.report.failures))
    from_sql = ingest({"tracking_uri": server.url, "backend_store_uri": server.backend_uri}, tmp_path / "sql.json")
    assert from_sql.urns("dataset") == {*urns}  # the database doesn't mind
    assert not from_sql.failed


def removal(gms: GmsStandIn, url: str) -> bool:
    """Ingests; whether it failed."""
    config = {"tracking_uri": url, "stateful_ingestion": {"enabled": True}, "max_retries": 0, "timeout_seconds": 5}
    return ingest_into(gms, config, name="removal").has_failures()


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_datasets_that_cannot_be_read_stay(small: tuple[MlflowServer, list[str]], status: int) -> None:
    server, urns = small
    with GmsStandIn() as gms, CountingProxy(server.url) as proxy:
        assert not removal(gms, server.url)
        proxy.fail(lambda request: "3.0/mlflow/datasets" in request.path, status=status, body="<html>no</html>")
        assert removal(gms, proxy.url) == (
            status in (500, 503)
        )  # else it is an older MLflow, or a user who may see none
        assert not any(gms.is_removed(urn) for urn in urns)


def test_a_deleted_dataset_goes(small: tuple[MlflowServer, list[str]]) -> None:
    server, urns = small
    with GmsStandIn() as gms:
        assert not removal(gms, server.url)
        server.execute("DELETE FROM evaluation_datasets WHERE name = ?", "dataset 2")
        assert not removal(gms, server.url)
        assert [urn for urn in urns if gms.is_removed(urn)] == [urns[2]]


def test_scorers_and_traces_that_cannot_be_read_are_told(
    server: MlflowServer, content: Content, tmp_path: Path
) -> None:
    assert content
    with CountingProxy(server.url) as proxy:
        proxy.fail(lambda request: "scorers" in request.path or "traces" in request.path, status=403, body="no")
        config = {"tracking_uri": proxy.url, "include_traces": True, "max_retries": 0}
        ingested = ingest(config, tmp_path / "out.json")
    assert not ingested.failed
    titles = {str(warning.title) for warning in ingested.report.warnings}
    assert titles == {"Scorers can't be read", "Traces can't be counted"}
    assert ingested.named("container", CHURN)


def test_nothing_is_asked_for_in_vain(server: MlflowServer, content: Content, tmp_path: Path) -> None:
    assert content
    with CountingProxy(server.url) as proxy:
        ingest({"tracking_uri": proxy.url, "include_datasets": False}, tmp_path / "out.json")
        asked = [path for _, path in proxy.requests]
    assert not any("datasets" in path or "traces" in path or "get-history" in path for path in asked)
    assert sum("scorers" in path for path in asked) == 1


def of(dataset: str, *, inside: str = "") -> Callable[[Request], bool]:
    """Requests about one dataset, by its URN."""
    id_ = dataset.split(",")[1]
    return lambda request: f"/datasets/{id_}/{inside}" in request.path


def test_who_may_not_ask_for_all_gets_those_of_the_experiments(
    server: MlflowServer, content: Content, tmp_path: Path
) -> None:
    """As MLflow's own authentication has it since 3.17, for all but administrators."""
    with CountingProxy(server.url) as proxy:
        proxy.fail(
            lambda request: "datasets/search" in request.path and b"experiment_ids" not in request.body, status=403
        )
        proxy.fail(of(dataset_urn(content, QUESTIONS), inside="experiment-ids"), status=403)
        ingested = ingest({"tracking_uri": proxy.url}, tmp_path / "out.json")
    assert not ingested.failed
    found = {urn for urn in ingested.urns("dataset") if ",d-" in urn}
    assert found == {dataset_urn(content, name) for name in (QUESTIONS, "of one")}
    said = ingested.aspects[dataset_urn(content, QUESTIONS)]["datasetProperties"]["customProperties"]
    assert "mlflow_source.experiments" not in said  # nobody knows which


@pytest.mark.parametrize("status", [404, 500])
def test_a_dataset_whose_experiments_are_not_told_leaves_out_only_itself(
    small: tuple[MlflowServer, list[str]], tmp_path: Path, status: int
) -> None:
    server, urns = small
    gone = '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"}'
    with CountingProxy(server.url) as proxy:
        proxy.fail(of(urns[2]), status=status, body=gone, headers={"Content-Type": "application/json"})
        ingested = ingest({"tracking_uri": proxy.url, "max_retries": 0}, tmp_path / "out.json")
    assert ingested.urns("dataset") == {*urns} - {urns[2]}
    assert ingested.failed == (status == 500)
    assert ("dataset 2" in str(list(ingested.report.failures))) == (status == 500)


def test_a_broken_scorer_leaves_out_only_its_experiment(tmp_path: Path) -> None:
    with mlflow_server(tmp_path / "server") as server:
        for name in ("good", "bad"):
            id_ = server.post("experiments/create", name=name)["experiment_id"]
            definition = {
                "name": "safe",
                "builtin_scorer_class": "Safety",
                "builtin_scorer_pydantic_data": {"name": "safe"},
            }
            server.post_3("scorers/register", experiment_id=id_, name="safe", serialized_scorer=json.dumps(definition))
        server.execute(
            "UPDATE scorer_versions SET serialized_scorer = 'none' WHERE scorer_id IN "
            "(SELECT scorer_id FROM scorers WHERE experiment_id = ?)",
            int(id_),
        )
        ingested = ingest({"tracking_uri": server.url}, tmp_path / "out.json")
    assert not ingested.failed
    said = {name: ingested.named("container", name)[1]["containerProperties"] for name in ("good", "bad")}
    assert said["good"]["customProperties"]["mlflow_source.scorer.safe.kind"] == "built-in Safety"
    assert not any("scorer" in key for key in said["bad"]["customProperties"])
    assert f"of experiment {id_}" in str(list(ingested.report.warnings))


def test_a_server_that_keeps_everything_in_files_has_none(tmp_path: Path) -> None:
    folder = tmp_path / "mlruns"
    folder.mkdir()
    files = {"MLFLOW_ALLOW_FILE_STORE": "true"}
    with mlflow_server(tmp_path / "server", backend_uri=str(folder), extra_env=files) as server:
        server.post("experiments/create", name="in files")
        config = {"tracking_uri": server.url, "include_traces": True}
        ingested = ingest(config, tmp_path / "out.json")
    assert not ingested.failed
    assert list(ingested.report.warnings) == []
    assert ingested.named("container", "in files")


def test_credentials_in_names_and_columns_never_come_out(small: tuple[MlflowServer, list[str]], tmp_path: Path) -> None:
    server, _ = small
    made = server.post_3(
        "datasets/create", name="https://ada:hunter2@host/a.csv?sig=hunter3", tags='{"password": "hunter4"}'
    )
    records = [{"inputs": {"https://ada:hunter5@host": 1}, "tags": {}}]
    server.post_3(f"datasets/{made['dataset']['dataset_id']}/records", records=json.dumps(records))
    ingested = ingest({"tracking_uri": server.url}, tmp_path / "out.json")
    assert "https://host/a.csv" in json.dumps(ingested.proposals)
    assert "hunter" not in json.dumps(ingested.proposals)
    assert "hunter" not in ingested.report.as_string()
