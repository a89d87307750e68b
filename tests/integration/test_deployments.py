"""Where models are served, asked for real: MLflow's gateway, its model server, and a target of its client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from datahub_mlflow_source.mapping.urns import Naming, deployment_urn, model_version_urn
from datahub_mlflow_source.records import ModelDeployment
from tests.support.content import CHURN, FRAUD, Content
from tests.support.gms import GmsStandIn
from tests.support.ingest import Ingested, ingest, ingest_into
from tests.support.servers import PYTHON, MlflowServer, free_port, guarded, mlflow_server, stopped

PROD = Naming()


# As small as a model can be. In a process of its own, as MLflow warns of it whatever one does.
SAVE = """\
import sys
import mlflow

class Doubles(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        return model_input * 2

mlflow.pyfunc.save_model(sys.argv[1], python_model=Doubles(), pip_requirements=[])
"""


@contextmanager
def serving(app: str, folder: Path, **environment: str) -> Iterator[str]:
    """The address of an application of MLflow's, once it answers."""
    port = free_port()
    command = [str(PYTHON), "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port), *app.split()]
    variables = {"HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", **environment}
    log = folder / "serving.log"
    with guarded(command, {**os.environ, **variables}, log) as guard:
        try:
            deadline = time.monotonic() + 120
            while not _answers(url := f"http://127.0.0.1:{port}"):
                if guard.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{app} did not start:\n{log.read_text()[-2000:]}")
                time.sleep(0.1)
            yield url
        finally:
            stopped(guard, port)


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).status_code == 200
    except requests.RequestException:
        return False


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "doubles"
    subprocess.run([sys.executable, "-W", "ignore", "-c", SAVE, str(folder)], check=True, capture_output=True)
    return folder


def deployment(ingested: Ingested, target: str, name: str) -> Mapping[str, Any]:
    urn = str(deployment_urn(ModelDeployment(target, name), PROD))
    properties: Mapping[str, Any] = ingested.aspects[urn]["mlModelDeploymentProperties"]
    return properties


def deployments_of(ingested: Ingested, version: str) -> list[str]:
    properties = ingested.aspects[str(model_version_urn(FRAUD, version, PROD))]["mlModelProperties"]
    found: list[str] = properties.get("deployments", [])
    return found


def test_none_are_read_unless_the_recipe_says_so(ingested: Ingested) -> None:
    assert ingested.urns("mlModelDeployment") == set()


def test_endpoints_of_the_gateway_are_there(server: MlflowServer, content: Content, tmp_path: Path) -> None:
    found = ingest({"tracking_uri": server.url, "include_deployments": True}, tmp_path / "out.json")
    assert not found.failed
    assert len(found.urns("mlModelDeployment")) == len(content.gateway_endpoints) == 2
    chat = deployment(found, "gateway", "chat")
    assert chat["status"] == "IN_SERVICE"
    assert chat["externalUrl"] == f"{server.url}/#/gateway/endpoints/{content.gateway_endpoints['chat']}"
    assert chat["customProperties"]["mlflow_source.model.clever"] == "openai gpt-clever, PRIMARY, weight 0.75"
    assert chat["customProperties"]["mlflow_source.experiment"] == CHURN
    assert chat["customProperties"]["team"] == "desk"
    assert deployment(found, "gateway", "old-chat")["status"] == "OUT_OF_SERVICE"
    assert found.report.deployments.sent == 2


def test_those_of_a_gateway_that_is_switched_off_are_in_the_database(server: MlflowServer, tmp_path: Path) -> None:
    switched_off = {"MLFLOW_ENABLE_AI_GATEWAY": "false"}
    with mlflow_server(tmp_path / "off", backend_uri=server.backend_uri, extra_env=switched_off) as off:
        config = {"tracking_uri": off.url, "include_deployments": True}
        over_rest = ingest(config, tmp_path / "rest.json")
        from_database = ingest({**config, "backend_store_uri": off.backend_uri}, tmp_path / "sql.json")
    assert not over_rest.failed
    assert over_rest.urns("mlModelDeployment") == set()
    assert len(from_database.urns("mlModelDeployment")) == 2


def test_a_scorers_endpoint_is_a_name_by_the_server_and_an_id_in_the_database(
    server: MlflowServer, content: Content, tmp_path: Path
) -> None:
    experiment_id = server.post("experiments/create", name="judged")["experiment_id"]
    asked = {"model": "gateway:/chat", "instructions": "Is {{ outputs }} fair?"}
    judge = {"name": "fair", "serialization_version": 1, "mlflow_version": server.version}
    text = json.dumps({**judge, "instructions_judge_pydantic_data": asked})
    server.post_3("scorers/register", experiment_id=experiment_id, name="fair", serialized_scorer=text)
    config = {"tracking_uri": server.url, "experiment_pattern": {"allow": ["judged"]}}
    over_rest = ingest(config, tmp_path / "rest.json")
    from_database = ingest({**config, "backend_store_uri": server.backend_uri}, tmp_path / "sql.json")
    server.post("experiments/delete", experiment_id=experiment_id)
    endpoints = [
        found.named("container", "judged")[1]["containerProperties"]["customProperties"][
            "mlflow_source.scorer.fair.model"
        ]
        for found in (over_rest, from_database)
    ]
    assert endpoints == ["gateway:/chat", f"gateway:/{content.gateway_endpoints['chat']}"]


def test_datahub_takes_them(server: MlflowServer) -> None:
    tags = {"name": "approved by", "target": "k8s"}
    with GmsStandIn() as gms:
        config = {"tracking_uri": server.url, "include_deployments": True, "deployments": {"tags": tags}}
        assert not ingest_into(gms, config).has_failures()
        assert not gms.rejections


def test_tags_of_versions_name_deployments(server: MlflowServer, tmp_path: Path) -> None:
    """All versions of the content have one."""
    tags = {"name": "approved by", "target": "k8s", "status": "no value"}
    config = {"tracking_uri": server.url, "include_deployments": True, "deployments": {"tags": tags}}
    found = ingest(config, tmp_path / "out.json")
    assert not found.failed
    urn = str(deployment_urn(ModelDeployment("k8s", "grace"), PROD))
    assert urn in found.urns("mlModelDeployment")
    assert deployments_of(found, "1") == deployments_of(found, "3") == [urn]
    assert deployment(found, "k8s", "grace")["status"] == "UNKNOWN"


def test_a_model_server_tells_how_it_is(server: MlflowServer, model_folder: Path, tmp_path: Path) -> None:
    app = "mlflow.pyfunc.scoring_server.app:app"
    with serving(app, tmp_path, __pyfunc_model_path__=str(model_folder)) as url:
        servers = [
            {"name": "doubles", "url": url, "model": f"models:/{FRAUD}@champion"},
            {"name": "nobody", "url": f"http://127.0.0.1:{free_port()}"},
        ]
        config = {"tracking_uri": server.url, "include_deployments": True, "deployments": {"servers": servers}}
        found = ingest(config, tmp_path / "out.json")
    assert not found.failed
    doubles = deployment(found, "server", "doubles")
    assert doubles["status"] == "IN_SERVICE"
    assert doubles["customProperties"]["mlflow_source.mlflow_version"] == server.version
    assert doubles["customProperties"]["mlflow_source.http_status"] == "200"
    assert doubles["version"]["versionTag"] == "1"
    assert doubles["externalUrl"] == url
    assert deployments_of(found, "1") == [str(deployment_urn(ModelDeployment("server", "doubles"), PROD))]
    assert deployments_of(found, "2") == []
    assert deployment(found, "server", "nobody")["status"] == "UNKNOWN"
    assert "nobody at http://127.0.0.1" in str(found.report.warnings)


GATEWAY = """\
endpoints:
  - name: chat-at-the-edge
    endpoint_type: llm/v1/chat
    model:
      provider: openai
      name: gpt-5
      config:
        openai_api_key: s3cr3t-gateway
"""


def test_a_target_of_mlflows_client_tells_its_endpoints(server: MlflowServer, tmp_path: Path) -> None:
    (tmp_path / "gateway.yml").write_text(GATEWAY)
    app = "--factory mlflow.gateway.app:create_app_from_env"
    with serving(app, tmp_path, MLFLOW_GATEWAY_CONFIG=str(tmp_path / "gateway.yml")) as url:
        targets = {"targets": [url, "no-such-plugin"]}
        config = {"tracking_uri": server.url, "include_deployments": True, "deployments": targets}
        found = ingest(config, tmp_path / "out.json")
    assert not found.failed
    edge = deployment(found, url, "chat-at-the-edge")
    assert "gpt-5" in edge["customProperties"]["mlflow_source.model"]
    assert edge["externalUrl"].startswith(url)
    assert "no-such-plugin" in str(found.report.warnings)
    assert "s3cr3t" not in str(found.proposals)


def test_what_is_deployed_no_more_is_removed_and_what_cannot_be_read_stays(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(**deployments: Any) -> dict[str, Any]:
        return {
            "tracking_uri": server.url,
            "include_deployments": True,
            "deployments": deployments,
            "stateful_ingestion": {"enabled": True, "fail_safe_threshold": 100},
        }

    first, second = ({"name": name, "url": "http://127.0.0.1:9"} for name in ("first", "second"))
    gone = str(deployment_urn(ModelDeployment("server", "second"), PROD))
    with GmsStandIn() as gms:
        ingest_into(gms, config(servers=[first, second]))
        ingest_into(gms, config(servers=[first], targets=["no-such-plugin"]))
        assert not gms.is_removed(gone)  # a target could not be read: it may be of that
        ingest_into(gms, config(servers=[first]))
        assert gms.is_removed(gone)
