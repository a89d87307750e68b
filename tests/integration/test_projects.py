"""A run of an MLflow Project, really started by `mlflow run` from a git repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ingest import ingest
from tests.support.servers import MlflowServer, mlflow_server

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/acme/churn"

MLPROJECT = """\
name: churn
python_env: python_env.yaml
entry_points:
  train:
    parameters:
      alpha: {type: float, default: 0.5}
    command: "python train.py {alpha}"
"""


def make_repository(folder: Path) -> str:
    """A project in the folder `model` of a repository; the id of its commit."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "MLproject").write_text(MLPROJECT)
    (folder / "model" / "python_env.yaml").write_text("python: '3.11'\n")
    (folder / "model" / "train.py").write_text("import mlflow\nmlflow.log_metric('auc', 0.9)\n")
    somebody = ("-c", "user.name=ada", "-c", "user.email=ada@example.com")
    for command in (["init", "-q"], ["add", "-A"], [*somebody, "commit", "-q", "-m", "A project"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return head.stdout.strip()


def run_project(server: MlflowServer, python: Path, repository: Path, home: Path) -> None:
    """As if it were on GitHub."""
    home.mkdir()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
        "HOME": str(home),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": server.url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{repository}.insteadOf",
        "GIT_CONFIG_VALUE_0": REPOSITORY,
    }
    options = ["-e", "train", "-P", "alpha=0.7", "--env-manager", "local"]
    command = [str(python), "-m", "mlflow", "run", f"{REPOSITORY}#model", *options]
    subprocess.run(command, cwd=home, env=environment, check=True, capture_output=True)


def check_project(server: MlflowServer, python: Path, tmp_path: Path) -> None:
    commit = make_repository(tmp_path / "repository")
    run_project(server, python, tmp_path / "repository", tmp_path / "home")
    (run,) = server.post("runs/search", experiment_ids=["0"], max_results=10)["runs"]
    server.post("registered-models/create", name="churn")
    source = f"{run['info']['artifact_uri']}/model"
    server.post("model-versions/create", name="churn", source=source, run_id=run["info"]["run_id"])
    ingested = ingest({"tracking_uri": server.url}, tmp_path / "out.json")
    assert not ingested.failed
    _, sent = ingested.named("dataProcessInstance", run["info"]["run_name"])
    custom = sent["dataProcessInstanceProperties"]["customProperties"]
    assert custom["mlflow.source.type"] == "PROJECT"
    assert custom["mlflow.source.name"] == f"{REPOSITORY}#model"
    assert custom["mlflow.source.git.commit"] == commit
    assert custom["mlflow.project.entryPoint"] == "train"
    assert custom["mlflow.project.backend"] == "local"
    params = {param["name"]: param["value"] for param in sent["mlTrainingRunProperties"]["hyperParams"]}
    assert params == {"alpha": "0.7"}
    _, version = ingested.named("mlModel", "churn_1")
    (code,) = version["sourceCode"]["sourceCode"]
    assert code["sourceCodeUrl"] == f"{REPOSITORY}/tree/{commit}/model"


def test_its_entry_point_repository_commit_and_backend_are_in_the_run_and_the_code_in_the_version(
    tmp_path: Path,
) -> None:
    with mlflow_server(tmp_path / "server") as server:
        check_project(server, Path(sys.executable), tmp_path)


@pytest.mark.matrix
@pytest.mark.parametrize("release", ["2.10", "2.22"])
def test_older_ones_too(release: str, tmp_path: Path) -> None:
    python = ROOT / f".venv-server-{release}" / "bin" / "python"
    with mlflow_server(tmp_path / "server", python=python) as server:
        check_project(server, python, tmp_path)
