"""Prompts that MLflow's own client made: they arrive, over both readers, and their runs are linked to them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gms import GmsStandIn
from tests.support.ingest import Ingested, ingest, ingest_into
from tests.support.proxy import CountingProxy
from tests.support.servers import MlflowServer, mlflow_server

ROOT = Path(__file__).parents[2]

MAKE = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
genai = getattr(mlflow, "genai", mlflow)
client = mlflow.MlflowClient()
client.create_registered_model("a model")
client.create_model_version("a model", "s3://bucket/model")
genai.register_prompt(name="greeting", template="Hello {{ name }}", commit_message="First.", tags={"team": "care"})
genai.register_prompt(name="greeting", template="Dear {{ name }}, {{ text }}", commit_message="Friendlier.")
genai.set_prompt_alias("greeting", alias="production", version=2)
if hasattr(genai, "load_prompt") and mlflow.__version__ >= "3":
    genai.register_prompt(name="chat", template=[{"role": "user", "content": "{{ question }}"}])
with mlflow.start_run(run_name="uses a prompt") as run:
    if hasattr(client, "link_prompt_version_to_run"):
        client.link_prompt_version_to_run(run.info.run_id, "prompts:/greeting/1")
    elif hasattr(client, "log_prompt"):
        client.log_prompt(run.info.run_id, "prompts:/greeting/1")
    else:
        genai.load_prompt("prompts:/greeting/1")
with mlflow.start_run(run_name="uses none"):
    pass
"""


def make_prompts(server: MlflowServer, python: Path, folder: Path) -> None:
    (folder / "make.py").write_text(MAKE)
    environment = {**os.environ, "HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [str(python), str(folder / "make.py"), server.url]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("prompts")
    with mlflow_server(folder / "server") as server:
        make_prompts(server, Path(sys.executable), folder)
        yield server


def kinds(ingested: Ingested) -> dict[str, str]:
    """The subtype of each group and version, by its name."""
    found = {}
    for entity_type, properties in (("mlModelGroup", "mlModelGroupProperties"), ("mlModel", "mlModelProperties")):
        for urn in ingested.urns(entity_type):
            found[ingested.aspects[urn][properties]["name"]] = ingested.aspects[urn]["subTypes"]["typeNames"][0]
    return found


def check_prompt(ingested: Ingested) -> None:
    assert not ingested.failed
    urn, first = ingested.named("mlModel", "greeting_1")
    _, second = ingested.named("mlModel", "greeting_2")
    assert first["mlModelProperties"]["description"] == "Hello {{ name }}"
    custom = second["mlModelProperties"]["customProperties"]
    assert custom["mlflow_source.variables"] == "name, text"
    assert custom["mlflow_source.commit_message"] == "Friendlier."
    assert [alias["versionTag"] for alias in second["versionProperties"]["aliases"]] == ["production"]
    _, run = ingested.named("dataProcessInstance", "uses a prompt")
    assert [edge["destinationUrn"] for edge in run["dataProcessInstanceInput"]["inputEdges"]] == [urn]
    _, other = ingested.named("dataProcessInstance", "uses none")
    assert "dataProcessInstanceInput" not in other


def test_they_arrive_with_text_variables_aliases_and_the_runs_that_used_them(
    server: MlflowServer, tmp_path: Path
) -> None:
    ingested = ingest({"tracking_uri": server.url}, tmp_path / "out.json")
    check_prompt(ingested)
    assert kinds(ingested) == {
        "a model": "ML Model Group",
        "a model_1": "ML Model",
        "greeting": "Prompt",
        "greeting_1": "Prompt Version",
        "greeting_2": "Prompt Version",
        "chat": "Prompt",
        "chat_1": "Prompt Version",
    }
    _, chat = ingested.named("mlModel", "chat_1")
    assert chat["mlModelProperties"]["description"] == "**user**: {{ question }}"


def test_the_database_gives_the_same(server: MlflowServer, tmp_path: Path) -> None:
    over_rest = ingest({"tracking_uri": server.url}, tmp_path / "rest.json")
    config = {"tracking_uri": server.url, "backend_store_uri": server.backend_uri}
    from_sql = ingest(config, tmp_path / "sql.json")
    same = ("entityUrn", "aspectName", "aspect")
    assert [[unit.get(key) for key in same] for unit in from_sql.proposals] == [
        [unit.get(key) for key in same] for unit in over_rest.proposals
    ]


def test_they_are_left_out_with_their_requests_and_links(server: MlflowServer, tmp_path: Path) -> None:
    with CountingProxy(server.url) as proxy:
        ingested = ingest({"tracking_uri": proxy.url, "include_prompts": False}, tmp_path / "out.json")
        assert [request.path for request in proxy.seen if "is_prompt" in request.path] == []
    assert kinds(ingested) == {"a model": "ML Model Group", "a model_1": "ML Model"}
    _, run = ingested.named("dataProcessInstance", "uses a prompt")
    assert "dataProcessInstanceInput" not in run
    by_pattern = ingest({"tracking_uri": server.url, "model_pattern": {"deny": ["greeting"]}}, tmp_path / "p.json")
    assert "greeting" not in kinds(by_pattern)
    assert "chat" in kinds(by_pattern)


def test_datahub_takes_all_of_it(server: MlflowServer) -> None:
    with GmsStandIn() as gms:
        assert not ingest_into(gms, {"tracking_uri": server.url}).has_failures()
        assert gms.rejections == []


@pytest.mark.parametrize("status", [400, 404])
def test_a_registry_that_knows_no_prompts_is_no_failure(server: MlflowServer, status: int, tmp_path: Path) -> None:
    with CountingProxy(server.url) as proxy:
        proxy.fail(lambda request: "is_prompt" in request.path, status=status)
        ingested = ingest({"tracking_uri": proxy.url}, tmp_path / "out.json")
    assert not ingested.failed
    assert kinds(ingested) == {"a model": "ML Model Group", "a model_1": "ML Model"}


def test_a_listing_of_prompts_that_fails_is_one(server: MlflowServer, tmp_path: Path) -> None:
    with CountingProxy(server.url) as proxy:
        proxy.fail(lambda request: "is_prompt" in request.path, status=403)
        assert ingest({"tracking_uri": proxy.url}, tmp_path / "out.json").failed


@pytest.mark.matrix
def test_those_of_mlflow_2_arrive_too(tmp_path: Path) -> None:
    python = ROOT / ".venv-server-2.22" / "bin" / "python"
    with mlflow_server(tmp_path / "server", python=python) as server:
        make_prompts(server, python, tmp_path)
        check_prompt(ingest({"tracking_uri": server.url}, tmp_path / "out.json"))
