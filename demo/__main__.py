"""`python -m demo`: start MLflow, train, ingest, show what the catalog holds. All of it stays in `.demo/`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import requests

from demo.tree import tree_lines

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".demo"
CATALOG = FOLDER / "datahub.db"
BIN = Path(sys.executable).parent  # of the environment that this runs in
START_SECONDS = 120  # for the server; 15 are usual, most of them for making its database
STOP_SECONDS = 10
LOG_LINES = 40  # shown of the log of a step that failed


class StepError(Exception):
    """A step failed: the message says which, the end of its log why."""

    def __init__(self, message: str, log: Path, exit_code: int = 1) -> None:
        super().__init__(message)
        self.log = log
        self.exit_code = exit_code


def main() -> int:
    """All steps in turn; the exit code of the one that failed, or 0."""
    for signum in (signal.SIGTERM, signal.SIGHUP):  # not without stopping the server
        signal.signal(signum, lambda received, _: sys.exit(128 + received))
    began = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name in ("home", "tmp", "data"):
        (FOLDER / name).mkdir(parents=True)
    try:
        with mlflow_server() as address:
            train(address)
            ingest(address)
        print("▸ The server is stopped. What follows is read from the catalog, .demo/datahub.db")
        show_catalog(CATALOG)
    except StepError as error:
        print(*error.log.read_text(errors="replace").splitlines()[-LOG_LINES:], sep="\n", file=sys.stderr)
        print(f"{error} Above is the end of {error.log.relative_to(ROOT)}.", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    print(f"\n{time.monotonic() - began:.0f} s in all. Logs, both databases and the training data are in .demo/")
    return 0


@contextmanager
def step(title: str) -> Iterator[None]:
    """Say what is going on, and afterwards how long it took."""
    print(f"▸ {title}", flush=True)
    began = time.monotonic()
    yield
    print(f"  {time.monotonic() - began:.1f} s", flush=True)


@contextmanager
def mlflow_server() -> Iterator[str]:
    """A new MLflow server on an SQLite file, stopped at the end whatever happens; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "artifacts"]
    log = FOLDER / "server.log"
    # A session of its own: the server has child processes, and all of them are to be stopped.
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, cwd=FOLDER, env=environment(), stdout=output, stderr=output, start_new_session=True
        ) as server,
    ):
        try:
            with step(f"Start an MLflow server: {address}, database .demo/mlflow.db"):
                wait_until_up(address, server, log)
            yield address
        finally:
            stop(server)


def wait_until_up(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server answers. Raises StepError when it has ended, or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    with requests.Session() as session:
        session.trust_env = False  # no proxy
        while server.poll() is None and time.monotonic() < deadline:
            with suppress(requests.RequestException):
                if session.get(f"{address}/health", timeout=STOP_SECONDS).ok:
                    return
            time.sleep(0.2)
    raise StepError("The MLflow server did not start.", log)


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its child processes, politely first."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # none of them is left
            os.killpg(server.pid, signum)
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)


def train(address: str) -> None:
    """Fill the server in a process of its own, whose warnings go to a log."""
    with step("Train and register models with scikit-learn"):
        log = FOLDER / "training.log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", "demo.seed", str(FOLDER / "data")]
            code = subprocess.run(command, cwd=ROOT, env=environment(address), stderr=output).returncode
        if code:
            raise StepError("Training failed.", log)


def ingest(address: str) -> None:
    """What a user does: `datahub ingest`. Its report of many pages goes to a log, the summary is shown."""
    with step(f"MLFLOW_TRACKING_URI={address} datahub ingest -c recipes/demo.yml"):
        log = FOLDER / "ingest.log"
        with log.open("wb") as output:
            command = [str(BIN / "datahub"), "ingest", "-c", "recipes/demo.yml"]
            code = subprocess.run(command, cwd=ROOT, env=environment(address), stdout=output, stderr=output).returncode
        if code:
            raise StepError("The ingestion failed.", log, code if code > 0 else 1)
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith("Pipeline finished"):
                print(f"  {line}")


def show_catalog(file: Path) -> None:
    """Print what DataHub Lite holds. Raises sqlite3.Error for what is no such file."""
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
        # Version 0 of an aspect is its newest (datahub/lite/sql_backed_lite.py).
        query = "SELECT urn, aspect_name, metadata FROM metadata_aspect_v2 WHERE version = 0 ORDER BY 1, 2"
        rows = database.execute(query).fetchall()
    print("", *tree_lines(rows), sep="\n")


def environment(address: str | None = None) -> dict[str, str]:
    """For child processes: nothing of the user's own MLflow or DataHub, nothing written outside `.demo/`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DATAHUB_"))}
    settings = {
        "HOME": str(FOLDER / "home"),
        "TMPDIR": str(FOLDER / "tmp"),
        "DEMO_CATALOG": str(CATALOG),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "DATAHUB_TELEMETRY_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # more processes, for things that nobody does here
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }
    if address:
        settings["MLFLOW_TRACKING_URI"] = address
    return kept | settings


if __name__ == "__main__":
    if len(sys.argv) > 1:  # `make try`: only show
        show_catalog(Path(sys.argv[1]))
    else:
        sys.exit(main())
