"""Model files, over MLflow's server and straight from S3: what they say arrives, whatever is wrong with some."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.content import MODEL_FILE
from tests.support.ingest import Ingested, ingest
from tests.support.proxy import CountingProxy
from tests.support.s3 import BUCKET, READER, S3Server, s3_server
from tests.support.servers import MlflowServer, mlflow_server

ROOT = Path(__file__).parents[2]

# As MLflow's server and its clients see the same store: through the proxy, and straight.
PROXIED, STRAIGHT = "mlflow-artifacts:/", f"s3://{BUCKET}/artifacts/"

FILES = {
    "good": MODEL_FILE,
    "too large": b"flavors: {sklearn: {}}\n#".ljust(50_000_000, b"x"),
    "no mapping": b"- a\n- b\n",
    "a bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(ord("b"), ord("k")))
    + b"flavors: {z: *j}\n",
    "deep": b"[" * 900_000,
    "an object": b"!!python/object/apply:os.system ['touch owned']\n",
    "empty": b"",
}
STATES = {**dict.fromkeys(FILES, "unreadable"), "good": "read", "missing": "missing"}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as s3:
        for name, content in FILES.items():
            s3.put(f"artifacts/{name}/MLmodel", content)
        yield s3


@pytest.fixture(scope="module")
def server(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """Whose proxy keeps everything in S3. The same files are registered by both of their addresses."""
    destination = {"_MLFLOW_SERVER_ARTIFACT_DESTINATION": STRAIGHT.rstrip("/")}
    with mlflow_server(tmp_path_factory.mktemp("files"), extra_env={**s3.environment, **destination}) as server:
        for way, start in (("proxied", PROXIED), ("straight", STRAIGHT)):
            for name in STATES:
                register(server, f"{way} {name}", f"{start}{name}")
        yield server


def register(server: MlflowServer, name: str, source: str, versions: int = 1) -> None:
    """By SQL as far as the source goes: MLflow wants it to be in the artifacts of a run."""
    server.post("registered-models/create", name=name)
    for _ in range(versions):
        server.post("model-versions/create", name=name, source="s3://bucket/model")
    statement = "UPDATE model_versions SET source = ?, storage_location = ? WHERE name = ?"
    server.execute(statement, source, source, name)


def of_models(way: str) -> dict[str, Any]:
    return {"model_pattern": {"allow": [f"{way} "]}}


def store(s3: S3Server, **instead: Any) -> dict[str, Any]:
    key, secret = READER
    settings = {"endpoint_url": s3.url, "region": "us-east-1", "access_key_id": key, "secret_access_key": secret}
    return {"artifact_store": {**settings, **instead}}


def states(ingested: Ingested) -> dict[str, str]:
    """What became of each model's file, by the model's name without the way."""
    assert not ingested.failed
    found = {}
    for urn in ingested.urns("mlModel"):
        custom = ingested.aspects[urn]["mlModelProperties"]["customProperties"]
        name = custom["mlflow_source.name"].partition(" ")[2]
        found[name] = custom.get("mlflow_source.model_file", "not asked for")
        assert ("signature.inputs" in custom) is (name == "good" and found[name] == "read")
    return found


def warnings(ingested: Ingested) -> list[str]:
    return [f"{entry.title}: {context}" for entry in ingested.report.warnings for context in entry.context]


@pytest.mark.parametrize("way", ["proxied", "straight"])
def test_over_the_server_each_comes_out_with_what_its_file_says(server: MlflowServer, way: str, tmp_path: Path) -> None:
    ingested = ingest({"tracking_uri": server.url, **of_models(way)}, tmp_path / "out.json")
    assert states(ingested) == STATES
    assert len(warnings(ingested)) == len(FILES) - 1
    _, good = ingested.named("mlModel", f"{way} good_1")
    said = good["mlModelProperties"]
    assert said["type"] == "sklearn"
    assert said["customProperties"]["mlflow_source.flavors"] == "python_function, sklearn 1.9.1"
    assert json.loads(said["customProperties"]["signature.inputs"])[0]["name"] == "tenure"


def test_straight_from_s3_it_is_the_same_and_the_server_is_not_asked(
    server: MlflowServer, s3: S3Server, tmp_path: Path
) -> None:
    with CountingProxy(server.url) as proxy:
        ingested = ingest({"tracking_uri": proxy.url, **store(s3), **of_models("straight")}, tmp_path / "out.json")
        assert [path for _, path in proxy.requests if "artifact" in path] == []
    assert states(ingested) == STATES


def test_from_the_database_alone_it_is_the_same(
    server: MlflowServer, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With credentials from the environment, as MLflow's own clients have them."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    config = {"backend_store_uri": server.backend_uri, **of_models("straight")}
    assert states(ingest(config, tmp_path / "out.json")) == STATES


def test_what_is_behind_the_proxy_is_out_of_reach_of_the_database_alone(server: MlflowServer, tmp_path: Path) -> None:
    config = {"backend_store_uri": server.backend_uri, **of_models("proxied")}
    ingested = ingest(config, tmp_path / "out.json")
    assert set(states(ingested).values()) == {"not asked for"}
    assert warnings(ingested) == []
    assert [entry.title for entry in ingested.report.infos if "reach" in (entry.title or "")]


WRONG: dict[str, tuple[Mapping[str, str], str]] = {
    "secret": ({"secret_access_key": "wrong"}, "SignatureDoesNotMatch"),
    "user": ({"access_key_id": "nobody"}, "InvalidAccessKeyId"),
    "address": ({"endpoint_url": "http://127.0.0.1:9"}, "artifact_store"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_store_that_refuses_is_told_once_and_given_up(
    server: MlflowServer, s3: S3Server, what: str, tmp_path: Path
) -> None:
    instead, said = WRONG[what]
    config = {"tracking_uri": server.url, **store(s3, **instead), **of_models("straight")}
    ingested = ingest(config, tmp_path / "out.json")
    tally = ingested.report.model_files
    assert sorted(states(ingested)) == sorted(STATES)
    assert (tally.read, tally.unreadable, tally.not_tried) == (0, 5, len(STATES) - 5)
    assert len(ingested.report.warnings) == 1
    assert said in warnings(ingested)[0]
    assert "wrong" not in json.dumps(ingested.report.as_obj())


def test_a_bucket_that_is_not_there_is_told(server: MlflowServer, s3: S3Server, tmp_path: Path) -> None:
    register(server, "elsewhere good", "s3://no-such-bucket/model")
    config = {"tracking_uri": server.url, **store(s3), **of_models("elsewhere")}
    ingested = ingest(config, tmp_path / "out.json")
    assert states(ingested) == {"good": "unreadable"}
    assert "S3 bucket no-such-bucket: NoSuchBucket" in warnings(ingested)[0]


def test_files_on_this_machine_are_read(server: MlflowServer, tmp_path: Path) -> None:
    """As in a small deployment without a proxy."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_bytes(MODEL_FILE)
    for name, source in {"local good": f"file://{tmp_path}/model", "local missing": f"{tmp_path}/none"}.items():
        register(server, name, source)
    config = {"backend_store_uri": server.backend_uri, **of_models("local")}
    assert states(ingest(config, tmp_path / "out.json")) == {"good": "read", "missing": "missing"}


@pytest.fixture(scope="module")
def chosen(server: MlflowServer) -> str:
    """Six versions, of which the second has an alias, the third a stage, and the fifth one that is out of use."""
    register(server, "chosen good", f"{PROXIED}good", versions=6)
    server.post("registered-models/alias", name="chosen good", alias="champion", version="2")
    for version, stage in (("3", "Staging"), ("5", "Archived")):
        server.post("model-versions/transition-stage", name="chosen good", version=version, stage=stage)
    return "chosen"


ALL = [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("artifacts", "expected"), [("none", []), ("current", [2, 3, 6]), ("all", ALL), (True, ALL)])
def test_each_that_is_chosen_costs_one_request(
    server: MlflowServer, chosen: str, artifacts: Any, expected: list[int], tmp_path: Path
) -> None:
    with CountingProxy(server.url) as proxy:
        config = {"tracking_uri": proxy.url, "include_artifacts": artifacts, **of_models(chosen)}
        ingested = ingest(config, tmp_path / "out.json")
        assert len([path for _, path in proxy.requests if "artifact" in path]) == len(expected)
    read = [
        int(ingested.aspects[urn]["versionProperties"]["version"]["versionTag"])
        for urn in ingested.urns("mlModel")
        if "signature.inputs" in ingested.aspects[urn]["mlModelProperties"]["customProperties"]
    ]
    assert sorted(read) == expected


def test_a_login_page_in_place_of_files_is_told_and_given_up(server: MlflowServer, tmp_path: Path) -> None:
    page = {"Content-Type": "text/html; charset=utf-8"}
    with CountingProxy(server.url) as proxy:
        proxy.fail(lambda request: "MLmodel" in request.path, status=200, body="<html>Sign in</html>", headers=page)
        ingested = ingest({"tracking_uri": proxy.url, **of_models("proxied")}, tmp_path / "out.json")
    assert not ingested.failed
    assert (ingested.report.model_files.unreadable, ingested.report.model_files.not_tried) == (5, len(STATES) - 5)
    assert "login page" in warnings(ingested)[0]


@pytest.mark.parametrize("status", [403, 429, 503])
def test_a_server_that_refuses_files_is_given_up_soon(server: MlflowServer, status: int, tmp_path: Path) -> None:
    began = time.monotonic()
    with CountingProxy(server.url) as proxy:
        wait = {"Retry-After": "60"}
        proxy.fail(lambda request: "MLmodel" in request.path, status=status, headers=wait)
        ingested = ingest({"tracking_uri": proxy.url, **of_models("proxied")}, tmp_path / "out.json")
    assert not ingested.failed
    assert (ingested.report.model_files.unreadable, ingested.report.model_files.not_tried) == (5, len(STATES) - 5)
    assert time.monotonic() - began < 50  # six seconds; not the minute that it asks for, let alone one for each


def test_addresses_that_lead_elsewhere_are_not_followed(server: MlflowServer, tmp_path: Path) -> None:
    """And spoil nothing for the others."""
    for number, path in enumerate(("../../mlflow/x", "a/%2e%2e/%2e%2e/b", "..\\..\\b")):
        register(server, f"leading {number}", f"{PROXIED}{path}")
    with CountingProxy(server.url) as proxy:
        ingested = ingest({"tracking_uri": proxy.url, **of_models("leading")}, tmp_path / "out.json")
        assert [request.path for request in proxy.seen if "MLmodel" in request.path] == []
    assert set(states(ingested).values()) == {"unreadable"}


LOG = """
import sys, mlflow
from mlflow.models import infer_signature
mlflow.set_tracking_uri(sys.argv[1])
class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input
open("README.md", "w").write("# Card\\nMade up.")
how = {
    "python_model": Model(), "artifacts": {"readme": "README.md"}, "registered_model_name": "real",
    "signature": infer_signature([{"a": 1.0}], [1.0], {"t": 0.5}), "pip_requirements": ["numpy"],
}
with mlflow.start_run():
    try:
        mlflow.pyfunc.log_model(name="model", **how)
    except TypeError:  # before 3.0
        mlflow.pyfunc.log_model(artifact_path="model", **how)
"""


def log_model(server: MlflowServer, python: Path, folder: Path, code: str = LOG) -> None:
    (folder / "log.py").write_text(code)
    environment = {**os.environ, "HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [str(python), str(folder / "log.py"), server.url]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


def check_real_model(server: MlflowServer, folder: Path, state: str, requests: int) -> None:
    with CountingProxy(server.url) as proxy:
        config = {"tracking_uri": proxy.url, "model_pattern": {"allow": ["real"]}}
        ingested = ingest(config, folder / "out.json")
        assert len([path for _, path in proxy.requests if "artifact" in path]) == requests
    assert warnings(ingested) == []
    _, model = ingested.named("mlModel", "real_1")
    said = model["mlModelProperties"]
    custom = said["customProperties"]
    assert custom["mlflow_source.model_file"] == state
    assert custom["mlflow_source.flavors"] == "python_function"
    assert custom["mlflow_source.mlmodel.mlflow_version"] == server.version
    assert [column["name"] for column in json.loads(custom["signature.inputs"])] == ["a"]
    assert json.loads(custom["signature.outputs"])[0]["type"] == "double"
    assert json.loads(custom["signature.parameters"])[0]["default"] == 0.5
    assert said["description"] == "# Card\nMade up."
    assert said["type"] == "python_function"


REGISTER = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input
client = mlflow.MlflowClient()
with mlflow.start_run() as run:
    how = {"python_model": Model(), "pip_requirements": ["numpy"]}
    info = mlflow.pyfunc.log_model(name="model", registered_model_name="ways original", **how)
client.copy_model_version("models:/ways original/1", "ways copied")
client.create_registered_model("ways by run")
client.create_model_version("ways by run", source=f"runs:/{run.info.run_id}/model", run_id=run.info.run_id)
"""


def test_however_it_was_registered_every_way_finds_it(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server without a proxy, whose clients write to S3 themselves."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    straight = {"_MLFLOW_SERVER_ARTIFACT_ROOT": f"s3://{BUCKET}/ways"}
    with mlflow_server(tmp_path / "server", extra_env={**s3.environment, **straight}) as server:
        log_model(server, Path(sys.executable), tmp_path, REGISTER)
        found = {}
        for way, config in {
            "server": {"tracking_uri": server.url},
            "store": {"tracking_uri": server.url, **store(s3)},
            "database": {"backend_store_uri": server.backend_uri},
            "both": {"backend_store_uri": server.backend_uri, "tracking_uri": server.url},
        }.items():
            ingested = ingest({**config, **of_models("ways")}, tmp_path / f"{way}.json")
            assert warnings(ingested) == []
            found[way] = states(ingested)
    everywhere = dict.fromkeys(("original", "copied", "by run"), "read")
    assert found == {way: everywhere for way in found}


def test_a_model_that_mlflow_logged_comes_with_signature_and_card(server: MlflowServer, tmp_path: Path) -> None:
    log_model(server, Path(sys.executable), tmp_path)
    check_real_model(server, tmp_path, "read", requests=2)


@pytest.mark.matrix
@pytest.mark.parametrize(("release", "state", "requests"), [("2.10", "tag", 1), ("2.22", "read", 2)])
def test_older_ones_too(release: str, state: str, requests: int, tmp_path: Path) -> None:
    """2.10 keeps what the file says with the run, so that only the card is asked for."""
    python = ROOT / f".venv-server-{release}" / "bin" / "python"
    with mlflow_server(tmp_path / "server", python=python) as server:
        log_model(server, python, tmp_path)
        check_real_model(server, tmp_path, state, requests)


@pytest.mark.matrix
@pytest.mark.parametrize("release", ["2.10", "2.22"])
def test_a_file_that_is_not_there_is_no_failure_of_an_older_server(release: str, tmp_path: Path) -> None:
    """They answer 500 for it."""
    python = ROOT / f".venv-server-{release}" / "bin" / "python"
    with mlflow_server(tmp_path / "server", python=python) as server:
        for number in range(8):
            register(server, f"old {number}", f"mlflow-artifacts:/gone/{number}")
        ingested = ingest({"tracking_uri": server.url}, tmp_path / "out.json")
    assert ingested.report.model_files.missing == 8
    assert warnings(ingested) == []
