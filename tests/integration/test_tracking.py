"""The producer side against a real server: what it writes is what MLflow's own API then tells."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.numpy_dataset import from_numpy

from datahub_mlflow_source.tracking import TrackingClient, setup_mlflow, setup_mlflow_for_dolphinscheduler
from tests.support.servers import MlflowServer, mlflow_server

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tracking.md").read_text(encoding="utf-8")
TABLE = "urn:li:dataset:(urn:li:dataPlatform:snowflake,crm.public.customers,PROD)"
IN_AIRFLOW = {
    "AIRFLOW_CTX_DAG_ID": "churn",
    "AIRFLOW_CTX_TASK_ID": "training.fit",
    "AIRFLOW_CTX_DAG_RUN_ID": "manual__2024-04-05T06:37:28+00:00",
}
OF_AIRFLOW = {
    "orchestrator.name": "airflow",
    "orchestrator.flow": "churn",
    "orchestrator.task": "training.fit",
    "orchestrator.run_id": "manual__2024-04-05T06:37:28+00:00",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One of its own: the others' is not written to."""
    with mlflow_server(tmp_path_factory.mktemp("tracking")) as server:
        yield server


@pytest.fixture(autouse=True)
def in_a_task(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process logs to the server; what MLflow keeps in the process is put back."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
    yield
    left = []
    while run := mlflow.active_run():
        left.append(run.info.run_id)
        mlflow.end_run()
    assert left == []


@pytest.fixture
def client(request: pytest.FixtureRequest) -> TrackingClient:
    """With an experiment of its own for each test."""
    return setup_mlflow(request.node.name[:100], {"team": "retention"})


def run_of(server: MlflowServer, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] = server.get("runs/get", run_id=run_id)["run"]
    return run


def runs_of(server: MlflowServer, client: TrackingClient) -> list[dict[str, Any]]:
    """Of its experiment, the oldest first."""
    asked = {"experiment_ids": [client.experiment_id], "max_results": 100, "order_by": ["attributes.start_time ASC"]}
    runs: list[dict[str, Any]] = server.post("runs/search", **asked).get("runs", [])
    return runs


def tags_of(run: dict[str, Any]) -> dict[str, str]:
    """Without MLflow's own."""
    return {tag["key"]: tag["value"] for tag in run["data"]["tags"] if not tag["key"].startswith("mlflow.")}


def inputs_of(run: dict[str, Any]) -> list[tuple[dict[str, str], dict[str, str]]]:
    """The datasets, and the tags of each as an input."""
    return [
        (given["dataset"], {tag["key"]: tag["value"] for tag in given.get("tags", [])})
        for given in run["inputs"]["dataset_inputs"]
    ]


# Runs and their tags


def test_a_task_of_dolphinscheduler_is_on_its_run(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOLPHINSCHEDULER_PROJECT_CODE", "9371954021472")
    monkeypatch.setenv("DOLPHINSCHEDULER_WORKFLOW_CODE", "9371959172704")
    monkeypatch.setenv("DOLPHINSCHEDULER_WORKFLOW_NAME", "${system.workflow.definition.name}")
    client = setup_mlflow_for_dolphinscheduler("by DolphinScheduler", {"team": "retention"}, task_code=9371956842592)
    with client.start_run("nightly", tags={"team": "churn"}, description="Every night.") as run:
        client.log_params({"depth": 6})
        client.log_metrics({"auc": 0.5})
        client.log_metrics({"auc": 0.75}, step=2)
        client.set_tag("checked", True)
    logged = run_of(server, run.info.run_id)
    assert logged["info"]["run_name"] == "nightly"
    assert logged["info"]["status"] == "FINISHED"
    assert logged["info"]["experiment_id"] == client.experiment_id
    assert (
        server.get("experiments/get", experiment_id=client.experiment_id)["experiment"]["name"] == "by DolphinScheduler"
    )
    assert tags_of(logged) == {
        "source": "dolphinscheduler",
        "dolphinscheduler_project_code": "9371954021472",
        "dolphinscheduler_workflow_code": "9371959172704",
        "dolphinscheduler_task_code": "9371956842592",
        "team": "churn",
        "checked": "True",
    }
    assert {"key": "mlflow.note.content", "value": "Every night."} in logged["data"]["tags"]
    assert logged["data"]["params"] == [{"key": "depth", "value": "6"}]
    ((key, value, step),) = [(m["key"], m["value"], m["step"]) for m in logged["data"]["metrics"]]
    assert (key, value, step) == ("auc", 0.75, 2)


def test_a_task_of_any_scheduler_is_on_its_run(
    server: MlflowServer, client: TrackingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is when the run starts: a client may be older than the task."""
    for name, value in IN_AIRFLOW.items():
        monkeypatch.setenv(name, value)
    with client.start_run() as run:
        pass
    assert tags_of(run_of(server, run.info.run_id)) == {**OF_AIRFLOW, "team": "retention"}


def test_what_has_no_run_yet_starts_one_with_the_tags(server: MlflowServer, client: TrackingClient) -> None:
    client.log_params({"depth": 6})
    client.end_run("KILLED")
    (run,) = runs_of(server, client)
    assert tags_of(run) == {"team": "retention"}
    assert run["info"]["status"] == "KILLED"


def test_tags_of_the_convention_may_be_given_as_others_are(
    server: MlflowServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As scripts did before there were variables. What was not substituted doesn't hide what is known."""
    monkeypatch.setenv("DOLPHINSCHEDULER_TASK", "fit")
    tags = {"dolphinscheduler_process_id": 7, "dolphinscheduler_task": "${task}", "note": "${kept}", "nothing": None}
    with setup_mlflow_for_dolphinscheduler("by tags", tags).start_run() as run:
        pass
    assert tags_of(run_of(server, run.info.run_id)) == {
        "source": "dolphinscheduler",
        "dolphinscheduler_process_id": "7",
        "dolphinscheduler_task": "fit",
        "note": "${kept}",
    }
    assert [record.getMessage()[:35] for record in caplog.records if record.levelname == "WARNING"] == [
        "dolphinscheduler_task: not written "
    ]


def test_secrets_are_in_no_tag(server: MlflowServer, client: TrackingClient) -> None:
    with client.start_run(tags={"database": "postgresql://ada:s3cr3t@db/x", "db_password": "s3cr3t"}) as run:
        client.set_tag("how", "curl --token s3cr3t https://x")
    written = tags_of(run_of(server, run.info.run_id))
    assert written == {
        "team": "retention",
        "database": "postgresql://db/x",
        "db_password": "***",
        "how": "curl --token *** https://x",
    }


def test_a_hostile_environment_stops_no_run(
    server: MlflowServer, client: TrackingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_NAME", "luigi")
    monkeypatch.setenv("ORCHESTRATOR_FLOW", "x" * 100_000)
    monkeypatch.setenv("ORCHESTRATOR_TASK", "one\ntwo\x07")
    monkeypatch.setenv("ORCHESTRATOR_RUN_ID", "\udcff\udcfe")
    monkeypatch.setenv("ORCHESTRATOR_URL", "urn:li:corpuser:(\"'; DROP TABLE runs; --")
    monkeypatch.setenv("DOLPHINSCHEDULER_TASK_CODE", "{{{" * 1000)
    with client.start_run() as run:
        pass
    assert tags_of(run_of(server, run.info.run_id)) == {
        "orchestrator.name": "luigi",
        "orchestrator.url": "urn:li:corpuser:(\"'; DROP TABLE runs; --",
        "team": "retention",
    }


def test_a_run_is_resumed_with_the_tags(server: MlflowServer, client: TrackingClient) -> None:
    run_id = mlflow.MlflowClient().create_run(client.experiment_id).info.run_id
    with client.start_run(run_id=run_id) as run:
        assert run.info.run_id == run_id
    assert tags_of(run_of(server, run_id)) == {"team": "retention"}


# How a run ends

ENDS = [
    pytest.param(ValueError("bad data"), "FAILED", id="an error"),
    pytest.param(KeyboardInterrupt(), "KILLED", id="Ctrl-C"),
    pytest.param(SystemExit(2), "FAILED", id="exit 2"),
    pytest.param(SystemExit("no data"), "FAILED", id="exit with a text"),
    pytest.param(SystemExit(0), "FINISHED", id="exit 0"),
    pytest.param(SystemExit(), "FINISHED", id="exit"),
]


@pytest.mark.parametrize(("error", "status"), ENDS)
def test_a_body_that_raises_ends_its_run_and_the_error_goes_on(
    server: MlflowServer, client: TrackingClient, error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)) as caught, client.start_run("x"):
        raise error
    assert caught.value is error
    (run,) = runs_of(server, client)
    assert (run["info"]["run_name"], run["info"]["status"]) == ("x", status)
    assert run["info"]["end_time"] >= run["info"]["start_time"]


@pytest.mark.parametrize(("error", "status"), ENDS)
def test_the_block_of_a_client_is_a_run_that_ends_likewise(
    server: MlflowServer, client: TrackingClient, error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)) as caught, client:
        raise error
    assert caught.value is error
    assert [run["info"]["status"] for run in runs_of(server, client)] == [status]


def test_a_task_that_its_scheduler_stops_is_killed_with_the_line_of_the_page(
    server: MlflowServer, client: TrackingClient
) -> None:
    line = "signal.signal(signal.SIGTERM, signal.default_int_handler)"
    assert f"`{line}`" in PAGE
    before = signal.getsignal(signal.SIGTERM)
    exec(line)  # noqa: S102 - as it stands there
    try:
        with pytest.raises(KeyboardInterrupt), client.start_run():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [run["info"]["status"] for run in runs_of(server, client)] == ["KILLED"]


def test_the_first_run_that_is_started_in_the_block_is_the_run_of_the_block(
    server: MlflowServer, client: TrackingClient
) -> None:
    def body() -> None:
        with client as same:
            assert same is client
            run = client.start_run("nightly", tags={"split": "2024"}, description="Every night.")
            assert run.info.run_name == "nightly"
            with pytest.raises(Exception, match="is already active"):
                client.start_run("another")
            client.log_params({"depth": 6})
            raise ValueError("bad data")

    with pytest.raises(ValueError, match="bad data"):
        body()
    (logged,) = runs_of(server, client)
    assert (logged["info"]["run_name"], logged["info"]["status"]) == ("nightly", "FAILED")
    assert tags_of(logged) == {"team": "retention", "split": "2024"}
    assert {"key": "mlflow.note.content", "value": "Every night."} in logged["data"]["tags"]


def test_more_than_one_run_can_be_made_in_the_block(server: MlflowServer, client: TrackingClient) -> None:
    with client:
        for name in ("a", "b"):
            with client.start_run(name):
                client.log_params({"name": name})
    found = [(run["info"]["run_name"], run["info"]["status"], run["data"]["params"]) for run in runs_of(server, client)]
    assert found == [(name, "FINISHED", [{"key": "name", "value": name}]) for name in ("a", "b")]


def test_a_second_run_at_once_is_mlflows_error(server: MlflowServer, client: TrackingClient) -> None:
    with client.start_run("a"):
        with pytest.raises(Exception, match="is already active"):
            client.start_run("b")
        with pytest.raises(Exception, match="is already active"), client:
            pytest.fail("there is no second one")
        client.log_params({"still": "a"})
    (run,) = runs_of(server, client)
    assert (run["info"]["status"], run["data"]["params"]) == ("FINISHED", [{"key": "still", "value": "a"}])


def test_what_was_started_within_and_left_open_ends_with_it(server: MlflowServer, client: TrackingClient) -> None:
    def body() -> None:
        with client.start_run("inner", nested=True):
            client.start_run("innermost", nested=True)
            raise ValueError("bad data")

    with client.start_run("outer"):
        with pytest.raises(ValueError, match="bad data"):
            body()
        open_run = mlflow.active_run()
        assert open_run is not None
        assert open_run.info.run_name == "outer"
    ends = {run["info"]["run_name"]: run["info"]["status"] for run in runs_of(server, client)}
    assert ends == {"outer": "FINISHED", "inner": "FAILED", "innermost": "FAILED"}


def test_a_run_that_was_ended_within_keeps_its_end_and_the_outer_one_goes_on(
    server: MlflowServer, client: TrackingClient
) -> None:
    with client.start_run("outer"):
        with client.start_run("inner", nested=True):
            client.end_run("KILLED")
        client.log_params({"on": "outer"})
    ends = {run["info"]["run_name"]: run["info"]["status"] for run in runs_of(server, client)}
    assert ends == {"outer": "FINISHED", "inner": "KILLED"}
    assert mlflow.active_run() is None


# Files


def test_a_file_and_a_folder(client: TrackingClient, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    with client.start_run() as run:
        client.log_artifact(tmp_path / "folder" / "a.txt")
        client.log_artifact(str(tmp_path / "folder"), "in")
    listed = mlflow.MlflowClient()
    assert [file.path for file in listed.list_artifacts(run.info.run_id)] == ["a.txt", "in"]
    assert [file.path for file in listed.list_artifacts(run.info.run_id, "in/folder")] == ["in/folder/a.txt"]


# Datasets


def test_a_dataset_of_datahub(server: MlflowServer, client: TrackingClient) -> None:
    encoded = "urn:li:dataset:(urn:li:dataPlatform:s3,acme/a%2Cb c,NON_PROD)"
    with client.start_run() as run:
        client.log_dataset(TABLE)
        client.log_dataset(TABLE, name="customers", context="test", digest="2024-04-05")
        client.log_dataset(encoded, context=None)
    found = {dataset["name"]: (dataset, tags) for dataset, tags in inputs_of(run_of(server, run.info.run_id))}
    assert {name: (json.loads(dataset["source"]), tags) for name, (dataset, tags) in found.items()} == {
        "crm.public.customers": ({"urn": TABLE}, {"mlflow.data.context": "training"}),
        "customers": ({"urn": TABLE}, {"mlflow.data.context": "test"}),
        "acme/a%2Cb c": ({"urn": encoded}, {}),
    }
    assert {dataset["source_type"] for dataset, _ in found.values()} == {"datahub"}
    assert found["customers"][0]["digest"] == "2024-04-05"


def test_the_same_source_has_the_same_digest_in_every_run_and_another_has_another(
    server: MlflowServer, client: TrackingClient
) -> None:
    digests = []
    for address in ("s3://acme/a/train.csv", "s3://acme/a/train.csv", "s3://acme/b/train.csv"):
        with client.start_run() as run:
            client.log_dataset(address)
        ((dataset, _),) = inputs_of(run_of(server, run.info.run_id))
        assert json.loads(dataset["source"]) == {"uri": address}
        digests.append(dataset["digest"])
    assert digests[0] == digests[1] != digests[2]
    assert all(1 <= len(digest) <= 36 for digest in digests)


@pytest.mark.filterwarnings("ignore:The specified dataset source can be interpreted in multiple ways")
@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("s3://acme/churn/2024.parquet", "2024.parquet"),
        ("gs://acme/churn/", "churn"),
        ("abfss://data@acme.dfs.core.windows.net/churn", "churn"),
        ("hdfs://namenode:8020/data/churn", "churn"),
        ("https://example.com/churn.csv?version=3", "churn.csv"),
        ("http://example.com/", "example.com"),
        ("/data/churn#1.csv", "churn#1.csv"),
        ("churn.csv", "churn.csv"),
        ("file:///data/churn.csv", "churn.csv"),
    ],
)
def test_an_address_is_logged_as_mlflow_itself_would(
    server: MlflowServer, client: TrackingClient, address: str, name: str
) -> None:
    with client.start_run() as run:
        client.log_dataset(address)
    ((dataset, tags),) = inputs_of(run_of(server, run.info.run_id))
    its_own = resolve_dataset_source(address)
    assert (dataset["source_type"], dataset["source"]) == (its_own._get_source_type(), its_own.to_json())
    assert dataset["name"] == name
    assert tags == {"mlflow.data.context": "training"}


@pytest.mark.parametrize(
    ("address", "source_type", "source"),
    [
        ("s3a://acme/churn", "s3", {"uri": "s3a://acme/churn"}),
        ("dbfs:/data/churn", "dbfs", {"uri": "dbfs:/data/churn"}),
        ("jdbc:postgresql://ada:s3cr3t@db/x", "jdbc", {"uri": "jdbc:postgresql://db/x"}),
        ("s3://AKIA123:s3cr3t@acme/churn", "s3", {"uri": "s3://acme/churn"}),
        ("https://acme.s3.amazonaws.com/x?X-Amz-Signature=s3cr3t", "http", {"url": "https://acme.s3.amazonaws.com/x?X-Amz-Signature=***"}),
        ("C:\\data\\churn.csv", "local", {"uri": "C:\\data\\churn.csv"}),
        ("/data/需求.csv", "local", {"uri": "/data/需求.csv"}),
    ],
)  # fmt: skip
def test_an_address_that_mlflow_does_not_know_and_credentials_in_one(
    server: MlflowServer, client: TrackingClient, address: str, source_type: str, source: dict[str, str]
) -> None:
    with client.start_run() as run:
        client.log_dataset(address)
    ((dataset, _),) = inputs_of(run_of(server, run.info.run_id))
    assert (dataset["source_type"], json.loads(dataset["source"])) == (source_type, source)


def test_a_path_object_and_a_name_without_end(server: MlflowServer, client: TrackingClient, tmp_path: Path) -> None:
    with client.start_run() as run:
        client.log_dataset(tmp_path / "churn.csv", name="n" * 1000)
    ((dataset, _),) = inputs_of(run_of(server, run.info.run_id))
    assert dataset["name"] == "n" * 500
    assert json.loads(dataset["source"]) == {"uri": str(tmp_path / "churn.csv")}


def test_a_dataset_of_mlflow(server: MlflowServer, client: TrackingClient) -> None:
    dataset = from_numpy(np.array([[1.0, 2.0]]), source="s3://acme/churn.parquet", name="churn")
    with client.start_run() as run:
        with pytest.raises(TypeError, match="has its own `name` and `digest`"):
            client.log_dataset(dataset, name="other")
        client.log_dataset(dataset, context="validation")
    ((logged, tags),) = inputs_of(run_of(server, run.info.run_id))
    assert (logged["name"], logged["digest"]) == ("churn", dataset.digest)
    assert "float64" in logged["schema"]
    assert tags == {"mlflow.data.context": "validation"}


def test_a_dataset_without_a_run_starts_one(server: MlflowServer, client: TrackingClient) -> None:
    client.log_dataset(TABLE)
    client.end_run()
    (run,) = runs_of(server, client)
    assert len(inputs_of(run_of(server, run["info"]["run_id"]))) == 1
    assert tags_of(run) == {"team": "retention"}


# The plugin, and what the page shows

PLAIN = """
import warnings
warnings.simplefilter("error", UserWarning)  # MLflow warns of a plugin that can't be loaded
{first}
import mlflow
mlflow.set_experiment("plain")
with mlflow.start_run(tags={{"orchestrator.task": "by hand"}}) as run:
    pass
print(run.info.run_id)
"""


def declared_plugin() -> str:
    """The line of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    match = re.search(r'entry-points\."mlflow\.run_context_provider"\]\n(\S+) = "(\S+)"', text)
    assert match
    return f"[mlflow.run_context_provider]\n{match[1]} = {match[2]}\n"


def run_script(
    code: str, server: MlflowServer, folder: Path, python: Path, environ: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """In a process that has our plugin as an installed package has it."""
    installed = folder / "declared-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: declared\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(declared_plugin())
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment = {
        **inherited,
        **environ,
        "HOME": str(folder),
        "MLFLOW_TRACKING_URI": server.url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    done = subprocess.run([python, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.parametrize("first", ["", "import datahub_mlflow_source.tracking"], ids=["MLflow first", "ours first"])
def test_a_plain_run_gets_the_tags_where_the_package_is_installed(
    first: str, server: MlflowServer, tmp_path: Path
) -> None:
    done = run_script(PLAIN.format(first=first), server, tmp_path, Path(sys.executable), IN_AIRFLOW)
    assert tags_of(run_of(server, done.stdout.splitlines()[-1])) == {**OF_AIRFLOW, "orchestrator.task": "by hand"}


SYSTEM = {
    "project.code": "9371954021472",
    "project.name": "需求 churn",
    "workflow.definition.code": "9371959172704",
    "workflow.definition.name": "nightly",
    "workflow.instance.id": "41",
    "task.definition.code": "9371956842592",
    "task.definition.name": "fit the model",
    "task.instance.id": "42",
}
OF_DOLPHINSCHEDULER = {
    "source": "dolphinscheduler",
    "dolphinscheduler_project_code": "9371954021472",
    "dolphinscheduler_project_name": "需求 churn",
    "dolphinscheduler_workflow_code": "9371959172704",
    "dolphinscheduler_workflow_name": "nightly",
    "dolphinscheduler_workflow_instance_id": "41",
    "dolphinscheduler_task_code": "9371956842592",
    "dolphinscheduler_task_name": "fit the model",
    "dolphinscheduler_task_instance_id": "42",
    "dolphinscheduler_ui_url": "https://ds.example.com/dolphinscheduler/ui",
}


def shown(language: str, containing: str) -> str:
    """The block of the page with this text in it."""
    (block,) = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if containing in text]
    return str(block)


def substituted(task: str) -> str:
    """As DolphinScheduler does it with the text of a task."""
    return re.sub(r"\$\{system\.([\w.]+)\}", lambda match: SYSTEM[match[1]], task)


def run_task(task: str, train: str, server: MlflowServer, folder: Path) -> tuple[dict[str, Any], str]:
    """A Shell task, with `train.py` beside it: the latest run of the server, and what the task wrote to its log."""
    (folder / "train.py").write_text(train)
    task = task.replace("https://mlflow.example.com", server.url)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment = {
        **inherited,
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    done = subprocess.run(["sh", "-e", "-c", task], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    everywhere = [experiment["experiment_id"] for experiment in experiments_of(server)]
    latest = server.post("runs/search", experiment_ids=everywhere, max_results=1)["runs"]
    return run_of(server, latest[0]["info"]["run_id"]), done.stderr


def experiments_of(server: MlflowServer) -> list[dict[str, Any]]:
    experiments: list[dict[str, Any]] = server.get("experiments/search", max_results=1000)["experiments"]
    return experiments


SHELL_TASK = shown("sh", "python train.py")
TRAIN = shown("python", "depth")


def test_the_shell_task_of_the_page_works(server: MlflowServer, tmp_path: Path) -> None:
    run, log = run_task(substituted(SHELL_TASK), TRAIN, server, tmp_path)
    assert (run["info"]["run_name"], run["info"]["status"]) == ("nightly", "FINISHED")
    assert tags_of(run) == {**OF_DOLPHINSCHEDULER, "team": "retention"}
    assert [dataset["name"] for dataset, _ in inputs_of(run)] == ["crm.public.customers"]
    assert "not written" not in log


def test_run_by_hand_it_works_and_says_what_is_missing(server: MlflowServer, tmp_path: Path) -> None:
    run, log = run_task(SHELL_TASK, TRAIN, server, tmp_path)
    assert tags_of(run) == {
        "source": "dolphinscheduler",
        "dolphinscheduler_ui_url": "https://ds.example.com/dolphinscheduler/ui",
        "team": "retention",
    }
    assert log.count("not written to MLflow") == 1


def test_the_python_task_of_the_page_works(server: MlflowServer, tmp_path: Path) -> None:
    task = substituted(shown("python", "${system.project.code}")).replace("https://mlflow.example.com", server.url)
    code = "from datahub_mlflow_source.tracking import setup_mlflow_for_dolphinscheduler\n" + task
    run, _ = run_task("python train.py", f"{code}\nwith client:\n    pass\n", server, tmp_path)
    codes = ("source", "project_code", "workflow_code", "task_code", "task_name")
    assert tags_of(run) == {key: value for key, value in OF_DOLPHINSCHEDULER.items() if key.endswith(codes)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "dolphinscheduler_project_code",
            {
                key: value
                for key, value in OF_DOLPHINSCHEDULER.items()
                if key not in ("dolphinscheduler_project_name", "dolphinscheduler_task_instance_id")
            },
        ),
        (
            "orchestrator.name",
            {
                "orchestrator.name": "argo",
                "orchestrator.flow": "ml.train",
                "orchestrator.task": "fit",
                "orchestrator.run_id": "train-x7k2p",
            },
        ),
    ],
)
def test_the_variable_of_the_page_works_without_our_package(
    name: str, expected: dict[str, str], server: MlflowServer, tmp_path: Path
) -> None:
    task = substituted(shown("sh", f'"{name}"')) + f"export MLFLOW_TRACKING_URI={server.url}\npython train.py\n"
    run, _ = run_task(task, "import mlflow\nwith mlflow.start_run():\n    pass\n", server, tmp_path)
    assert tags_of(run) == expected


EVERYTHING = """
import warnings
from datahub_mlflow_source.tracking import setup_mlflow_for_dolphinscheduler
import mlflow
from sklearn.linear_model import LogisticRegression

class Doubles(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        return model_input * 2

warnings.filterwarnings("error", module="datahub_mlflow_source")
client = setup_mlflow_for_dolphinscheduler("all of it", {"team": "retention"})
with client:
    run = client.start_run("nightly")
    client.log_params({"depth": 6})
    client.log_metrics({"auc": 0.75})
    client.set_tag("checked", "yes")
    client.log_dataset("urn:li:dataset:(urn:li:dataPlatform:snowflake,crm.public.customers,PROD)")
    client.log_artifact(mlflow.__file__)
    fitted = LogisticRegression().fit([[1.0], [2.0]], [0, 1])
    options = {"registered_model_name": "tracking-churn", "pip_requirements": ["scikit-learn"]}
    client.log_model(fitted, "classifier", "sklearn", **options)
    doubles = client.log_model(Doubles(), "doubles", "pyfunc", pip_requirements=["mlflow"])
assert mlflow.pyfunc.load_model(doubles.model_uri).predict([2]) == [2, 2]
print(run.info.run_id)  # MLflow itself prints before
"""


def check_everything(server: MlflowServer, python: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    done = run_script(EVERYTHING, server, folder, python, {"DOLPHINSCHEDULER_TASK_CODE": "5"})
    assert "artifact_path" not in done.stderr  # MLflow 3 warns of the old name
    run_id = done.stdout.splitlines()[-1]
    run = run_of(server, run_id)
    assert (run["info"]["run_name"], run["info"]["status"]) == ("nightly", "FINISHED")
    assert tags_of(run) == {
        "source": "dolphinscheduler",
        "dolphinscheduler_task_code": "5",
        "team": "retention",
        "checked": "yes",
    }
    ((dataset, tags),) = inputs_of(run)
    assert (dataset["source_type"], json.loads(dataset["source"])) == ("datahub", {"urn": TABLE})
    assert (dataset["name"], tags) == ("crm.public.customers", {"mlflow.data.context": "training"})
    (version,) = server.get("model-versions/search", filter="name='tracking-churn'")["model_versions"]
    assert version["run_id"] == run_id
    assert logged_models(server, run) == ["classifier", "doubles"]


def logged_models(server: MlflowServer, run: dict[str, Any]) -> list[str]:
    if server.release < (3, 0):
        files = server.get("artifacts/list", run_id=run["info"]["run_id"])["files"]
        return [file["path"] for file in files if file["is_dir"]]
    experiment_ids = [run["info"]["experiment_id"]]
    logged = server.post("logged-models/search", experiment_ids=experiment_ids, max_results=5)
    return sorted(model["info"]["name"] for model in logged["models"])


def test_all_of_it_in_a_process_of_its_own(server: MlflowServer, tmp_path: Path) -> None:
    check_everything(server, Path(sys.executable), tmp_path)


@pytest.mark.matrix
@pytest.mark.parametrize("release", ["2.10", "2.22"])
def test_all_of_it_with_older_ones(release: str, tmp_path: Path) -> None:
    python = ROOT / f".venv-server-{release}" / "bin" / "python"
    with mlflow_server(tmp_path / "server", python=python) as server:
        check_everything(server, python, tmp_path / "home")
