"""`python -m benchmarks.files`: the model files of a thousand versions, behind MLflow's artifact proxy on S3.

`make benchmark-files`; docs/performance.md says what is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import requests
import yaml

from benchmarks.bench import SOURCE_TYPES
from benchmarks.processes import FOLDER, LOGS, StepError, empty_folder, run
from benchmarks.results import table
from tests.support.s3 import BUCKET, s3_server
from tests.support.servers import MlflowServer, mlflow_server

MODELS = 50
SAMPLE = 100  # of the versions, for MLflow's client, which takes 0.2 s each
LIMIT_SECONDS = 30 * 60

COLUMNS = [{"type": "double", "name": f"column_{number:02}", "required": True} for number in range(30)]
MODEL_FILE = yaml.safe_dump(
    {
        "flavors": {
            "python_function": {
                "env": {"conda": "conda.yaml"},
                "loader_module": "mlflow.sklearn",
                "python_version": "3",
            },
            "sklearn": {"pickled_model": "model.pkl", "sklearn_version": "1.9.1"},
        },
        "mlflow_version": "3.17.2",
        "signature": {"inputs": json.dumps(COLUMNS), "outputs": json.dumps(COLUMNS[:1]), "params": None},
    }
).encode()


@contextmanager
def filled(versions: int, processes: int) -> Iterator[MlflowServer]:
    """An MLflow server whose proxy keeps files in S3: so many versions of 50 models, each with its run and file."""
    with s3_server() as s3:
        environment = {**s3.environment, "_MLFLOW_SERVER_ARTIFACT_DESTINATION": f"s3://{BUCKET}"}
        folder = FOLDER / f"mlflow-{processes}"
        with mlflow_server(folder, extra_env=environment, workers=processes) as server:
            client = s3.client()
            experiment = server.post("experiments/create", name="files")["experiment_id"]
            for number in range(MODELS):
                server.post("registered-models/create", name=f"model {number}")
            for number in range(versions):
                info = server.post("runs/create", experiment_id=experiment, start_time=1)["run"]["info"]
                source = f"{info['artifact_uri']}/model"
                name = f"model {number % MODELS}"
                server.post("model-versions/create", name=name, source=source, run_id=info["run_id"])
                key = f"{source.partition(':/')[2]}/MLmodel"
                client.put_object(Bucket=BUCKET, Key=key, Body=MODEL_FILE)
            yield server


def by_client(server: MlflowServer, deadline: float) -> float:
    """Seconds for one file."""
    command = [sys.executable, "-m", "benchmarks.read_files", server.url, str(SAMPLE)]
    said = json.loads(run("files-client", command, deadline).stdout.splitlines()[-1])
    return float(said["seconds"]) / int(said["files"])


def by_requests(server: MlflowServer) -> float:
    """The same of nothing but the request that ours makes, over one connection."""
    sources = server.execute("SELECT source FROM model_versions ORDER BY run_id")
    began = time.perf_counter()
    with requests.Session() as session:
        for (source,) in sources:
            path = source.partition(":/")[2]
            answer = session.get(f"{server.url}/api/2.0/mlflow-artifacts/artifacts/{path}/MLmodel", timeout=60)
            answer.raise_for_status()
    return (time.perf_counter() - began) / len(sources)


def ours(server: MlflowServer, artifacts: str, deadline: float) -> tuple[float, float]:
    """Seconds of a whole ingestion into a sink that throws away, and peak memory in MB."""
    config = {"tracking_uri": server.url, "include_artifacts": artifacts}
    recipe = LOGS / f"files-{artifacts}.yml"
    source = {"type": SOURCE_TYPES["ours"], "config": config}
    recipe.write_text(json.dumps({"source": source, "sink": {"type": "blackhole"}}))
    used = run(f"files-{artifacts}", [sys.executable, "-m", "benchmarks.pipeline", recipe], deadline)
    return float(json.loads(used.stdout.splitlines()[-1])["seconds"]), used.peak_mb


def measured(versions: int, processes: int) -> list[list[str]]:
    """Rows of the table, for a server of so many processes."""
    deadline = time.monotonic() + LIMIT_SECONDS
    with filled(versions, processes) as server:
        client, plain = by_client(server, deadline), by_requests(server)
        without, without_mb = ours(server, "none", deadline)
        with_all, with_mb = ours(server, "all", deadline)
    each = max(with_all - without, 0.0001) / versions
    return [
        [f"{processes}", what, f"{1000 * seconds:.1f}", f"{seconds / each:.1f} x", memory]
        for what, seconds, memory in (
            ("one by one, MLflow's client", client, ""),
            ("one by one, requests alone", plain, ""),
            ("ours: what an ingestion takes longer", each, f"{without_mb:.0f} -> {with_mb:.0f}"),
        )
    ]


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.files", description=__doc__)
    parser.add_argument("--versions", type=int, default=1000)
    versions = parser.parse_args().versions
    empty_folder()
    header = ["processes of MLflow", f"{versions:,} model files", "ms each", "as long as ours", "peak MB"]
    try:
        rows = [row for processes in (1, 4) for row in measured(versions, processes)]
    except StepError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(table(header, rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
