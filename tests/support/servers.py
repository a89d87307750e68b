"""Real MLflow servers on loopback: whichever MLflow an interpreter has, on SQLite unless told otherwise.

A server takes 3 to 10 seconds to start, nearly all of it imports, so tests share one for a whole session.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import requests
import sqlalchemy as sa

START_SECONDS = 120  # a start takes 10 at most; two cores may be shared by several of them
FASTAPI = (3, 3)  # the first release that uvicorn serves
ADMIN = ("admin", "made-up-Passw0rd")
WITH_WORKSPACES = {"MLFLOW_ENABLE_WORKSPACES": "true"}  # since 3.10
# Where the tests themselves run without a server's packages (`make test-oldest`).
PYTHON = Path(os.environ.get("SERVER_PYTHON", sys.executable))

# Leads the process group of a server, and ends all of it when the server ends by itself or its own
# standard input does: so nothing stays behind, even where the tests were killed.
GUARD = '{ "$@"; kill -KILL 0; } </dev/null & read -r _; kill -KILL 0'

AUTH_CONFIG = """\
[mlflow]
default_permission = READ
database_uri = sqlite:///{directory}/auth.db
admin_username = {user}
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@dataclass(frozen=True, slots=True)
class MlflowServer:
    """A server that runs."""

    url: str  # without a trailing slash
    version: str  # of MLflow: "3.17.2"
    backend_uri: str
    artifacts: Path  # the folder behind mlflow-artifacts:/
    log: Path
    auth: tuple[str, str] | None = None  # user and password of the administrator, with basic_auth
    session: requests.Session = field(default_factory=requests.Session, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.session.trust_env = False  # no proxy, no .netrc
        self.session.auth = self.auth

    def in_workspace(self, name: str) -> MlflowServer:
        """The same server, asked for what is in this workspace (`WITH_WORKSPACES`)."""
        there = replace(self, session=requests.Session())
        there.session.headers["X-MLFLOW-WORKSPACE"] = name
        return there

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """GET /api/2.0/mlflow/<path>: the JSON. RuntimeError for any status but 200."""
        return self._call("GET", path, params=query)

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """POST /api/2.0/mlflow/<path>, as `get`."""
        return self._call("POST", path, json=body)

    def post_3(self, path: str, **body: Any) -> dict[str, Any]:
        """POST /api/3.0/mlflow/<path>, as `get`."""
        return self._call("POST", path, api="3.0", json=body)

    def patch(self, path: str, **body: Any) -> dict[str, Any]:
        """PATCH /api/2.0/mlflow/<path>, as `get`."""
        return self._call("PATCH", path, json=body)

    def put_artifact(self, path: str, content: bytes) -> None:
        """A file at this path of mlflow-artifacts:/. RuntimeError for any status but 200."""
        url = f"{self.url}/api/2.0/mlflow-artifacts/artifacts/{path}"
        answer = self.session.put(url, data=content, timeout=60)
        if answer.status_code != 200:
            raise RuntimeError(f"PUT {path}: {answer.status_code} {answer.text}")

    def _call(self, method: str, path: str, api: str = "2.0", **options: Any) -> dict[str, Any]:
        answer = self.session.request(method, f"{self.url}/api/{api}/mlflow/{path}", timeout=60, **options)
        if answer.status_code not in (200, 201):
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")
        content: dict[str, Any] = answer.json()
        return content

    def execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Runs SQL on its database, behind the server's back: what no client makes or sees. `?` is a value's place."""
        if not self.backend_uri.startswith("sqlite:"):
            return self._execute_elsewhere(statement.replace("?", "%s"), values)
        with closing(sqlite3.connect(self.database, timeout=60)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def _execute_elsewhere(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        engine = sa.create_engine(self.backend_uri)
        try:
            with engine.begin() as connection:
                result = connection.exec_driver_sql(statement, values)
                return [tuple(row) for row in result] if result.returns_rows else []
        finally:
            engine.dispose()

    @property
    def database(self) -> Path:
        """The SQLite file. Raises ValueError for a server on another database."""
        prefix = "sqlite:///"
        if not self.backend_uri.startswith(prefix):
            raise ValueError(f"{self.backend_uri} is no SQLite file")
        return Path(self.backend_uri.removeprefix(prefix))

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version, to compare with."""
        return _release(self.version)


@contextmanager
def mlflow_server(
    directory: Path,
    *,
    python: Path = PYTHON,
    backend_uri: str | None = None,
    extra_env: Mapping[str, str] | None = None,
    basic_auth: bool = False,
    workers: int = 1,
) -> Iterator[MlflowServer]:
    """The MLflow that `python` has, serving: ready for requests, its tables made, gone at the end.

    `directory` takes the database (unless `backend_uri` names one), the artifacts and the log. `workers`: how many
    processes serve, where `mlflow server` starts four.
    Raises RuntimeError with the end of the log when the server does not come up.
    """
    directory, python = directory.absolute(), python.absolute()  # the server's working folder is another
    directory.mkdir(parents=True, exist_ok=True)
    version, port = _installed_mlflow(python), free_port()
    server = MlflowServer(
        url=f"http://127.0.0.1:{port}",
        version=version,
        backend_uri=backend_uri or f"sqlite:///{directory / 'mlflow.db'}",
        artifacts=directory / "artifacts",
        log=directory / "server.log",
        auth=ADMIN if basic_auth else None,
    )
    command = _command(python, server.release, port, basic_auth, workers)
    environment = {**_environment(server, directory), **(extra_env or {})}
    with guarded(command, environment, server.log) as guard, server.session:
        try:
            _wait_until_ready(server, guard)
            yield server
        finally:
            stopped(guard, port)


def guarded(command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A process that ends with the one that started it, in the folder of its log."""
    with log.open("ab") as output:
        return subprocess.Popen(
            ["sh", "-c", GUARD, "sh", *command],
            env=environment,
            cwd=log.parent,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _command(python: Path, release: tuple[int, int], port: int, basic_auth: bool, workers: int) -> list[str]:
    """What `mlflow server` itself runs in the end, without its own imports: twice as fast."""
    if release >= FASTAPI:
        app = ["--factory", "mlflow.server.auth:create_app"] if basic_auth else ["mlflow.server.fastapi_app:app"]
        options = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
        return [str(python), "-m", "uvicorn", *options, *app]
    app = ["mlflow.server.auth:create_app()"] if basic_auth else ["mlflow.server:app"]
    return [str(python), "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", str(workers), *app]


def _environment(server: MlflowServer, directory: Path) -> dict[str, str]:
    """The variables by which `mlflow server` hands its options to its workers (mlflow/server/__init__.py)."""
    inherited = {key: value for key, value in os.environ.items() if "MLFLOW_" not in key}
    environment = {
        **inherited,
        "HOME": str(directory),
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "AWS_EC2_METADATA_DISABLED": "true",  # else it looks for credentials there, for seconds
        # Else 3.x starts eight more processes, which take seconds to stop.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "_MLFLOW_SERVER_FILE_STORE": server.backend_uri,
        "_MLFLOW_SERVER_REGISTRY_STORE": server.backend_uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(server.artifacts),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn" if server.release >= FASTAPI else "gunicorn",
    }
    if server.auth:
        config = directory / "auth.ini"
        user, password = server.auth
        config.write_text(AUTH_CONFIG.format(directory=directory, user=user, password=password))
        environment |= {"MLFLOW_AUTH_CONFIG_PATH": str(config), "MLFLOW_FLASK_SERVER_SECRET_KEY": "made-up"}
    return environment


def _wait_until_ready(server: MlflowServer, guard: subprocess.Popen[bytes]) -> None:
    """Until /health answers and both stores are open: MLflow makes its tables at the first request for each."""
    deadline = time.monotonic() + START_SECONDS
    while not _healthy(server):
        if guard.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"MLflow {server.version} did not start:\n{_tail(server.log)}")
        time.sleep(0.05)
    try:
        server.get("experiments/search", max_results=1)
        server.get("registered-models/search", max_results=1)
    except (RuntimeError, requests.RequestException) as error:
        raise RuntimeError(f"MLflow {server.version} does not serve: {error}\n{_tail(server.log)}") from error


def _healthy(server: MlflowServer) -> bool:
    try:
        return server.session.get(f"{server.url}/health", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def stopped(guard: subprocess.Popen[bytes], port: int) -> None:
    """Kills the whole process group: there is nothing in it that a polite end would save."""
    with suppress(ProcessLookupError):
        os.killpg(guard.pid, signal.SIGKILL)
    guard.wait()
    while _answers(port):  # the guard's children are no children of ours: we can't wait for them
        time.sleep(0.01)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _installed_mlflow(python: Path) -> str:
    code = "from importlib.metadata import version; print(version('mlflow'))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def free_port() -> int:
    """A free TCP port, outside the range from which the system gives ports to clients: none takes it meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        if not _answers(port):
            return port


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-60:])
