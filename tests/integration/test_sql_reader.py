"""Straight from the database comes what comes over REST, work unit for work unit; and nothing is written there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from sys import float_info
from threading import Event
from typing import Any

import pytest
import sqlalchemy as sa

from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.readers import by_key, database, sql
from datahub_mlflow_source.readers.sql_runs import read_runs
from tests.support.content import CHURN, FRAUD, MINUTE, STARTED, Content, bad_run_row, plain_runs, rich_content
from tests.support.databases import DatabaseServer, mariadb, postgres
from tests.support.gms import GmsStandIn
from tests.support.ingest import Ingested, ingest, ingest_into
from tests.support.interrupts import interruptible
from tests.support.servers import PYTHON, MlflowServer, mlflow_server

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Stored:
    """An MLflow server, and the address of its database for a user who may only SELECT."""

    server: MlflowServer
    content: Content
    uri: str
    databases: DatabaseServer | None  # None: a SQLite file

    def rest(self, file: Path, **config: Any) -> Ingested:
        return ingest({"tracking_uri": self.server.url, **config}, file)

    def sql(self, file: Path, **config: Any) -> Ingested:
        """Links lead to the server, as over REST."""
        return ingest({"tracking_uri": self.server.url, "backend_store_uri": self.uri, **config}, file)


def stored(folder: Path, stack: ExitStack, kind: str, python: Path | None = None) -> Stored:
    """An MLflow of this interpreter with the rich content, on a database of this kind."""
    databases = None
    if kind != "sqlite":
        if kind == "mariadb" and not has_mariadb():
            pytest.skip("no MariaDB here: apt-get install mariadb-server-core")
        databases = stack.enter_context(postgres() if kind == "postgresql" else mariadb())
    uri = databases.create("mlflow") if databases else None
    server = stack.enter_context(mlflow_server(folder, backend_uri=uri, python=python or PYTHON))
    content = rich_content(server)
    return Stored(server, content, databases.reader("mlflow") if databases else server.backend_uri, databases)


def has_mariadb() -> bool:
    """In CI it must be there."""
    found = shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    return bool(found) or "CI" in os.environ


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mariadb"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    with ExitStack() as stack:
        yield stored(tmp_path_factory.mktemp("stored"), stack, request.param)


@pytest.fixture(scope="module")
def sqlite_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    with ExitStack() as stack:
        yield stored(tmp_path_factory.mktemp("sqlite"), stack, "sqlite")


def work_units(ingested: Ingested) -> list[dict[str, Any]]:
    """All of them in order, without the time of the ingestion."""
    return [{**proposal, "systemMetadata": None} for proposal in ingested.proposals]


def failures(ingested: Ingested) -> str:
    return " ".join(line for failure in ingested.report.failures for line in failure.context)


# The same from both

CONFIGS: dict[str, dict[str, Any]] = {
    "everything": {},
    "small pages": {"page_size": 2},
    "pages of one": {"page_size": 1},
    "deleted ones too": {"include_deleted": True},
    "runs of versions": {"include_runs": "registered"},
    "no runs": {"include_runs": "none"},
    "one experiment": {"experiment_pattern": {"allow": [CHURN]}},
    "some users": {"run_user_pattern": {"allow": ["ada"]}},
    "a filter": {"run_filter": "params.max_depth = '7' AND metrics.auc > 0.1"},
    "a filter by attributes": {"run_filter": "attributes.status != 'FINISHED' AND tags.mlflow.user LIKE 'a%'"},
    "a filter by dataset": {"run_filter": "dataset.name = 'train' AND dataset.context = 'training'"},
    "the latest": {"max_runs_per_experiment": 2},
    "the latest that finished": {"max_runs_per_experiment": 2, "run_filter": "attributes.status = 'FINISHED'"},
    "recent": {"run_retention_days": 300},
    "traces": {"include_traces": True},
    "deployments": {"include_deployments": True},
    "histories of metrics": {"metric_history_pattern": {"allow": [".*"]}},
    "an instance": {"platform_instance": "acme", "env": "DEV"},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_both_readers_give_the_same_work_units(store: Stored, case: str, tmp_path: Path) -> None:
    over_rest = store.rest(tmp_path / "rest.json", **CONFIGS[case])
    from_sql = store.sql(tmp_path / "sql.json", **CONFIGS[case])
    assert not over_rest.failed
    assert not from_sql.failed
    assert work_units(from_sql) == work_units(over_rest)
    assert len(from_sql.proposals) > 10


def test_the_database_alone_is_enough_and_gives_the_same_without_links(sqlite_store: Stored, tmp_path: Path) -> None:
    """But for model files, which only the server has."""
    alone = ingest({"tracking_uri": sqlite_store.uri}, tmp_path / "alone.json")
    assert not alone.failed
    over_rest = sqlite_store.rest(tmp_path / "rest.json", include_artifacts="none")
    assert alone.aspects.keys() == over_rest.aspects.keys()
    assert "externalUrl" not in json.dumps(alone.proposals)
    linked = ingest(
        {"tracking_uri": sqlite_store.uri, "base_external_url": sqlite_store.server.url}, tmp_path / "linked.json"
    )
    assert work_units(linked) == work_units(over_rest)


def test_the_history_of_a_metric_is_in_the_run_and_its_versions(sqlite_store: Stored, tmp_path: Path) -> None:
    pattern = {"metric_history_pattern": {"allow": ["auc", "nan", "inf", "loss"]}}
    ingested = sqlite_store.sql(tmp_path / "sql.json", **pattern)
    _, run = ingested.named("dataProcessInstance", "full")
    _, version = ingested.named("mlModel", f"{FRAUD}_1")
    said = run["dataProcessInstanceProperties"]["customProperties"]
    of_auc = {key: value for key, value in said.items() if key.startswith("mlflow_source.metric.auc.")}
    assert of_auc == {
        "mlflow_source.metric.auc.best": "0.9",
        "mlflow_source.metric.auc.best_step": "2",
        "mlflow_source.metric.auc.best_is": "highest",
        "mlflow_source.metric.auc.steps": "3",
        "mlflow_source.metric.auc.first_time": in_words(STARTED),
        "mlflow_source.metric.auc.last_time": in_words(STARTED + 9 * MINUTE + 1),
    }
    assert said["mlflow_source.metric.nan.best"] == "nan"
    assert said["mlflow_source.metric.loss/validation.best_is"] == "lowest"
    assert said["mlflow_source.metric.inf.best"] == str(float_info.max)
    assert of_auc.items() <= version["mlModelProperties"]["customProperties"].items()


def in_words(millis: int) -> str:
    return f"{datetime.fromtimestamp(millis // 1000, tz=timezone.utc):%Y-%m-%dT%H:%M:%S}.{millis % 1000:03}Z"


@pytest.mark.matrix
@pytest.mark.parametrize("release", ["2.10", "2.22"])
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_older_schemas_give_the_same_too(release: str, kind: str, tmp_path: Path) -> None:
    python = ROOT / f".venv-server-{release}" / "bin" / "python"
    with ExitStack() as stack:
        old = stored(tmp_path / "server", stack, kind, python)
        config = {"include_deleted": True, "include_deployments": True, "metric_history_pattern": {"allow": [".*"]}}
        from_sql = old.sql(tmp_path / "sql.json", **config)
        assert work_units(from_sql) == work_units(old.rest(tmp_path / "rest.json", **config))
        assert not from_sql.failed
        assert f"MLflow 2.{'10' if release == '2.10' else '20'}" in (from_sql.report.mlflow_version or "")


# Nothing is written


def test_the_database_is_as_it_was(store: Stored, tmp_path: Path) -> None:
    before = fingerprint(store)
    assert not store.sql(tmp_path / "out.json").failed
    assert fingerprint(store) == before


def fingerprint(store: Stored) -> object:
    """Of a SQLite file its bytes and what lies beside it, else of all rows of all tables."""
    if store.databases is None:
        folder = store.server.database.parent
        files = sorted(path.name for path in folder.iterdir() if path.name.startswith(store.server.database.name))
        return files, hashlib.sha256(store.server.database.read_bytes()).hexdigest()
    schema = "public" if store.databases.kind == "postgresql" else "mlflow"
    listed = "SELECT table_name FROM information_schema.tables WHERE table_schema = :schema"
    tables = sorted(row[0] for row in store.databases.execute("mlflow", listed, schema=schema))
    rows = {table: store.databases.execute("mlflow", f"SELECT * FROM {table}") for table in tables}  # noqa: S608 - MLflow's own
    return {table: sorted(repr(list(map(_as_bytes, row))) for row in found) for table, found in rows.items()}


def _as_bytes(value: Any) -> Any:
    """psycopg2 gives a new view of bytes each time."""
    return bytes(value) if isinstance(value, memoryview) else value


def test_a_transaction_of_ours_cannot_write(store: Stored) -> None:
    """Not even as a user who may."""
    from datahub_mlflow_source.backend_store import database_connection
    from datahub_mlflow_source.config import MlflowSourceConfig

    connection, _ = database_connection("backend_store_uri", store.server.backend_uri, MlflowSourceConfig())
    opened = database.Database(connection)
    statement = "UPDATE runs SET name = 'changed'"
    with pytest.raises(Exception, match=r"(?i)read.?only"):
        opened.read(lambda reading: reading.connection.exec_driver_sql(statement))
    opened.close()


def copy_rows(connection: sqlite3.Connection, table: str, **instead: str) -> None:
    """All rows of a table once more; `instead` are expressions."""
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(instead.get(column, column) for column in columns)
    connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {table}")  # noqa: S608 - ours


def test_what_is_in_other_workspaces_can_be_left_out(sqlite_store: Stored, tmp_path: Path) -> None:
    """Though all of it is called as in the one that is read (MLflow 3.10 and newer)."""
    file = tmp_path / "workspaces.db"
    shutil.copy(sqlite_store.server.database, file)
    elsewhere = {"workspace": "'elsewhere'"}
    with closing(sqlite3.connect(file)) as connection:
        copy_rows(connection, "experiments", experiment_id="experiment_id + 1000", **elsewhere)
        copy_rows(connection, "runs", run_uuid="'x' || run_uuid", experiment_id="experiment_id + 1000")
        for table in ("registered_models", "registered_model_tags", "registered_model_aliases"):
            copy_rows(connection, table, **elsewhere)
        for table in ("model_versions", "model_version_tags"):
            copy_rows(connection, table, **elsewhere)
        connection.commit()
    config = {"tracking_uri": sqlite_store.server.url, "backend_store_uri": f"sqlite:///{file}"}
    found = ingest({**config, "workspaces": ["default"]}, tmp_path / "out.json")
    assert not found.failed
    links_there = json.dumps(work_units(found)).replace("?workspace=default", "")
    assert json.loads(links_there) == work_units(sqlite_store.sql(tmp_path / "sql.json"))


# What only one can see


def test_models_that_a_run_used_are_its_inputs(sqlite_store: Stored, tmp_path: Path) -> None:
    """Not one that it logged itself; the version, where one was made of it."""
    server, content = sqlite_store.server, sqlite_store.content
    rows = server.execute("SELECT source FROM model_versions WHERE name = 'logged' AND version = 1")
    registered = rows[0][0].removeprefix("models:/")
    checkpoint = content.logged_models["checkpoint"]  # of the run called full
    for run in ("child 2", "full"):
        models = [{"model_id": registered}, {"model_id": checkpoint}]
        server.post("runs/log-inputs", run_id=content.runs[run], models=models)
    try:
        over_rest, from_sql = sqlite_store.rest(tmp_path / "r"), sqlite_store.sql(tmp_path / "s")
    finally:
        server.execute("DELETE FROM inputs WHERE source_type = 'RUN_INPUT'")

    def used(ingested: Ingested, run: str) -> set[str]:
        found = {aspects["mlTrainingRunProperties"]["id"]: aspects for aspects in runs_of(ingested)}
        aspect = found[content.runs[run]].get("dataProcessInstanceInput", {"inputEdges": []})
        return {edge["destinationUrn"] for edge in aspect["inputEdges"] if ":mlModel:" in edge["destinationUrn"]}

    (version, _), (own, _) = from_sql.named("mlModel", "logged_1"), from_sql.named("mlModel", "checkpoint")
    assert used(from_sql, "child 2") == {version, own}
    assert used(from_sql, "full") == set()
    assert used(over_rest, "child 2") == set()


@pytest.mark.matrix  # MLflow 3 needs a package more for its login
def test_what_a_user_may_not_read_is_in_the_database(tmp_path: Path) -> None:
    python = ROOT / ".venv-server-2.10" / "bin" / "python"
    with mlflow_server(tmp_path / "server", python=python, basic_auth=True) as server:
        experiment_id, _ = plain_runs(server, "not for ada", 2)
        server.post("users/create", username="ada", password="made-up-Passw0rd")
        forbidden = {"experiment_id": experiment_id, "username": "ada", "permission": "NO_PERMISSIONS"}
        server.post("experiments/permissions/create", **forbidden)
        ada = {"tracking_uri": server.url, "username": "ada", "password": "made-up-Passw0rd"}
        over_rest = ingest(ada, tmp_path / "rest.json")
        from_sql = ingest({**ada, "backend_store_uri": server.backend_uri}, tmp_path / "sql.json")
    assert (len(over_rest.urns("dataProcessInstance")), len(from_sql.urns("dataProcessInstance"))) == (0, 2)
    from_sql.named("container", "not for ada")
    assert len(from_sql.urns("container")) == len(over_rest.urns("container")) + 1


def test_a_run_that_mlflow_cannot_serve_is_there(sqlite_store: Stored, tmp_path: Path) -> None:
    experiment_id, runs = plain_runs(sqlite_store.server, "null start", 3)
    bad = bad_run_row(sqlite_store.server, experiment_id, 1)
    only = {"experiment_pattern": {"allow": ["null start"]}}
    over_rest, from_sql = sqlite_store.rest(tmp_path / "r", **only), sqlite_store.sql(tmp_path / "s", **only)
    found = {aspects["mlTrainingRunProperties"]["id"] for aspects in runs_of(from_sql)}
    assert found == set(runs)
    assert {aspects["mlTrainingRunProperties"]["id"] for aspects in runs_of(over_rest)} == set(runs) - {bad}
    assert (over_rest.failed, from_sql.failed) == (True, False)
    sqlite_store.server.post("experiments/delete", experiment_id=experiment_id)


def test_a_logged_model_that_mlflow_cannot_serve_is_there(sqlite_store: Stored, tmp_path: Path) -> None:
    server = sqlite_store.server
    model_id = sqlite_store.content.logged_models["checkpoint"]
    server.execute("UPDATE logged_models SET status = 9 WHERE model_id = ?", model_id)
    server.execute("UPDATE logged_model_metrics SET metric_value = NULL WHERE model_id = ?", model_id)
    try:
        from_sql = sqlite_store.sql(tmp_path / "s")
        shown = from_sql.named("mlModel", "checkpoint")[1]["mlModelProperties"]
        assert shown["customProperties"]["mlflow_source.status"] == "UNSPECIFIED"
        assert {metric["value"] for metric in shown["trainingMetrics"]} == {"nan"}
        over_rest = sqlite_store.rest(tmp_path / "r")
        assert (over_rest.failed, from_sql.failed) == (True, False)
    finally:
        server.execute("UPDATE logged_models SET status = 2 WHERE model_id = ?", model_id)
        server.execute("UPDATE logged_model_metrics SET metric_value = 0.5 WHERE model_id = ?", model_id)


def runs_of(ingested: Ingested) -> list[Any]:
    return [ingested.aspects[urn] for urn in ingested.urns("dataProcessInstance")]


@pytest.mark.parametrize("column", ["status", "user_id", "artifact_uri", "name", "end_time"])
def test_null_where_the_schema_allows_it_stops_nothing(sqlite_store: Stored, tmp_path: Path, column: str) -> None:
    experiment_id, runs = plain_runs(sqlite_store.server, f"null {column}", 3)
    sqlite_store.server.execute(f"UPDATE runs SET {column} = NULL WHERE run_uuid = ?", runs[1])  # noqa: S608 - our own
    sqlite_store.server.execute("UPDATE tags SET value = NULL WHERE run_uuid = ?", runs[0])
    from_sql = sqlite_store.sql(tmp_path / "s", experiment_pattern={"allow": [f"null {column}"]})
    assert not from_sql.failed
    assert {aspects["mlTrainingRunProperties"]["id"] for aspects in runs_of(from_sql)} == set(runs)
    sqlite_store.server.post("experiments/delete", experiment_id=experiment_id)


def test_text_that_is_not_utf_8_leaves_out_only_its_run(sqlite_store: Stored, tmp_path: Path) -> None:
    experiment_id, runs = plain_runs(sqlite_store.server, "not UTF-8", 5)
    insert = "INSERT INTO params (run_uuid, key, value) VALUES (?, 'secret', CAST(x'ff686964646566ff' AS TEXT))"
    sqlite_store.server.execute(insert, runs[2])
    from_sql = sqlite_store.sql(tmp_path / "s", experiment_pattern={"allow": ["not UTF-8"]})
    assert {aspects["mlTrainingRunProperties"]["id"] for aspects in runs_of(from_sql)} == set(runs) - {runs[2]}
    assert runs[2] in failures(from_sql)
    assert "holds text that is not UTF-8" in failures(from_sql)
    assert "hidd" not in failures(from_sql)
    sqlite_store.server.execute("DELETE FROM params WHERE run_uuid = ? AND key = 'secret'", runs[2])
    sqlite_store.server.post("experiments/delete", experiment_id=experiment_id)


def set_of_run(column: str, value: str) -> tuple[str, str]:
    """Spoils, and mends."""
    update = f"UPDATE runs SET {column} = {{}} WHERE run_uuid = ?"  # noqa: S608 - our own
    return update.format(value), update.format("1" if column == "start_time" else "'x'")


@pytest.mark.parametrize("latest", [None, 10], ids=["all", "latest"])
@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        set_of_run("start_time", "'abc'"),
        set_of_run("start_time", "9e999"),
        set_of_run("name", "x'6869'"),
        set_of_run("user_id", "x'6869'"),
        (
            "INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan) "
            "VALUES (?, 'odd', 'high', 1, 1, 0)",
            "DELETE FROM latest_metrics WHERE run_uuid = ? AND key = 'odd'",
        ),
    ],
    ids=["text as time", "infinite time", "bytes as name", "bytes as user", "text as metric"],
)
def test_what_no_column_of_mlflows_holds_leaves_out_only_its_run(
    sqlite_store: Stored, tmp_path: Path, spoil: str, mend: str, latest: int | None
) -> None:
    """SQLite takes it."""
    name = f"odd {spoil.split('WHERE')[0]} {latest}".replace("(", "").replace(")", "")
    experiment_id, runs = plain_runs(sqlite_store.server, name, 5)
    sqlite_store.server.execute(spoil, runs[2])
    only = {"experiment_pattern": {"allow": [re.escape(name)]}, "run_user_pattern": {"deny": ["nobody"]}}
    from_sql = sqlite_store.sql(tmp_path / "s", max_runs_per_experiment=latest, **only)
    sqlite_store.server.execute(mend, runs[2])
    sqlite_store.server.post("experiments/delete", experiment_id=experiment_id)
    assert {aspects["mlTrainingRunProperties"]["id"] for aspects in runs_of(from_sql)} == set(runs) - {runs[2]}
    assert f"run {runs[2]}" in failures(from_sql)
    assert "holds a row that is none of MLflow's" in failures(from_sql)


# When something goes wrong


@pytest.mark.parametrize(("table", "column"), [("experiments", "name"), ("registered_models", "description")])
def test_bytes_in_place_of_text_leave_out_only_their_row(
    sqlite_store: Stored, table: str, column: str, tmp_path: Path
) -> None:
    file = tmp_path / "odd.db"
    shutil.copy(sqlite_store.server.database, file)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"UPDATE {table} SET {column} = x'6869' WHERE rowid = 2")  # noqa: S608 - our own
        connection.commit()
    whole = ingest({"backend_store_uri": sqlite_store.uri}, tmp_path / "whole.json")
    found = ingest({"backend_store_uri": f"sqlite:///{file}"}, tmp_path / "out.json")
    assert "Pipeline Error" not in failures(found)
    assert "bytes where a text or number should be" in failures(found)
    kind = "container" if table == "experiments" else "mlModelGroup"
    assert len(found.urns(kind)) == len(whole.urns(kind)) - 1


def test_runs_that_begin_or_go_while_a_page_is_read_are_as_they_are_then(sqlite_store: Stored, tmp_path: Path) -> None:
    """The keys of a page are read before what belongs to them."""
    server = sqlite_store.server
    experiment_id, runs = plain_runs(server, "changes", 5)
    other_id, _ = plain_runs(server, "changes elsewhere", 1)
    first, gone, last = sorted(runs)[0], sorted(runs)[1], sorted(runs)[-1]
    between = first[:-1] + "g"  # of another experiment
    assert first < between < last
    read, changed = read_runs, False

    def changing(*args: Any, **options: Any) -> Any:
        nonlocal changed
        if not changed:
            changed = True
            server.execute(
                "INSERT INTO runs (run_uuid, experiment_id, status, lifecycle_stage, start_time, name) "
                "VALUES (?, ?, 'FINISHED', 'active', 1, 'began meanwhile')",
                between,
                int(other_id),
            )
            server.execute("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", gone)
        return read(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql, "read_runs", changing)
        found = sqlite_store.sql(tmp_path / "s", experiment_pattern={"allow": ["changes$"]})
    for id_ in (experiment_id, other_id):
        server.post("experiments/delete", experiment_id=id_)
    assert changed
    assert {aspects["mlTrainingRunProperties"]["id"] for aspects in runs_of(found)} == set(runs) - {gone}


def test_one_of_the_latest_that_is_deleted_before_it_is_read_is_left_out(sqlite_store: Stored, tmp_path: Path) -> None:
    server = sqlite_store.server
    experiment_id, runs = plain_runs(server, "latest changes", 5)
    read_by_id = sql.SqlReader.runs_by_id
    gone = max(runs)

    def changed(self: sql.SqlReader, *args: Any) -> Iterator[Any]:
        server.execute("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", gone)
        return read_by_id(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql.SqlReader, "runs_by_id", changed)
        only: dict[str, Any] = {"experiment_pattern": {"allow": ["latest changes$"]}, "max_runs_per_experiment": 5}
        found = sqlite_store.sql(tmp_path / "s", **only)
    server.post("experiments/delete", experiment_id=experiment_id)
    assert {aspects["mlTrainingRunProperties"]["id"] for aspects in runs_of(found)} == set(runs) - {gone}


def test_who_finds_all_connections_in_use_waits_for_those_statements(
    sqlite_store: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are ours: of metric histories for instance, and end by themselves or by their timeout."""
    from datahub_mlflow_source.backend_store import database_connection
    from datahub_mlflow_source.config import MlflowSourceConfig

    monkeypatch.setattr(database, "_CONNECT_SECONDS", 0.1)
    settings = {"pool_size": 1, "statement_timeout_seconds": 0.3}
    config = MlflowSourceConfig.model_validate({"database": settings})
    opened = database.Database(database_connection("backend_store_uri", sqlite_store.uri, config)[0])
    begun, slow = Event(), "SELECT 1"

    def at_length(reading: database.Reading) -> None:
        begun.set()
        for _ in range(10):  # statements, each well below its timeout
            reading.connection.exec_driver_sql(slow)
            time.sleep(0.1)

    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(opened.read, at_length)
        assert begun.wait(10)
        assert opened.read(lambda reading: reading.rows(sa.select(sa.literal(1)))) == [(1,)]
        other.result()
    opened.close()


def test_a_database_that_goes_while_the_latest_are_read_is_a_listing_that_broke_off(
    sqlite_store: Stored, tmp_path: Path
) -> None:
    def gone(*_: Any, **__: Any) -> Any:
        raise ServerError("gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql, "read_runs", gone)
        found = sqlite_store.sql(tmp_path / "s", max_runs_per_experiment=2)
    assert "Pipeline Error" not in failures(found)
    assert "gone" in failures(found)


def test_ctrl_c_ends_what_waits_for_the_database(tmp_path: Path) -> None:
    """A driver that waits in C hears nothing."""
    with postgres() as databases, ExitStack() as stack:
        address = databases.create("mlflow")
        server = stack.enter_context(mlflow_server(tmp_path / "server", backend_uri=address))
        plain_runs(server, "waits", 3)
        engine = sa.create_engine(address)
        stack.callback(engine.dispose)
        for table in ("registered_models", "runs", "params"):
            with engine.connect() as locking:
                locking.exec_driver_sql(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                assert ended_by_ctrl_c(address, databases, tmp_path) not in (0, None), table
                locking.rollback()


def ended_by_ctrl_c(address: str, databases: DatabaseServer, folder: Path) -> int | None:
    """The exit code of an ingestion that waits for a lock, once it was told to end."""
    recipe = {
        "source": {"type": "datahub-mlflow-source", "config": {"backend_store_uri": address}},
        "sink": {"type": "file", "config": {"filename": str(folder / "out.json")}},
    }
    (folder / "recipe.yml").write_text(json.dumps(recipe))
    environment = os.environ | {"HOME": str(folder), "DATAHUB_TELEMETRY_ENABLED": "false", "PYTHONWARNINGS": "ignore"}
    command = interruptible([Path(sys.executable).parent / "datahub", "ingest", "-c", folder / "recipe.yml"])
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 120
        while not databases.execute("mlflow", waiting) and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        try:
            return running.wait(timeout=30)  # the statement itself would be ended after 60
        finally:
            running.kill()


@pytest.fixture
def gms() -> Iterator[GmsStandIn]:
    with GmsStandIn() as gms:
        yield gms


@pytest.mark.parametrize("after_pages", [0, 1, 2])
def test_a_database_that_goes_down_midway_removes_nothing(
    sqlite_store: Stored, gms: GmsStandIn, after_pages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "copy.db"
    shutil.copy(sqlite_store.server.database, file)
    config = {"backend_store_uri": f"sqlite:///{file}", "stateful_ingestion": {"enabled": True}, "max_retries": 0}
    ingest_into(gms, config, name="down")
    pages = 0
    read = read_runs

    def then_gone(*args: Any, **options: Any) -> Any:
        nonlocal pages
        pages += 1
        if pages > after_pages:
            file.write_bytes(b"no database any more" * 100)
        return read(*args, **options)

    monkeypatch.setattr(sql, "read_runs", then_gone)
    pipeline = ingest_into(gms, {**config, "page_size": 3}, name="down")
    assert pipeline.has_failures()
    assert [urn for urn in gms.urns() if gms.is_removed(urn) and not urn.startswith("urn:li:dataJob:")] == []


def test_a_connection_that_is_dropped_between_pages_is_opened_anew(store: Stored, tmp_path: Path) -> None:
    databases = store.databases
    if databases is None:
        pytest.skip("a file has no connections")
    drops = 0
    read = read_runs

    def dropping(*args: Any, **options: Any) -> Any:
        nonlocal drops
        if drops < 2:
            drops += 1
            kill_readers(databases)
        return read(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql, "read_runs", dropping)
        from_sql = store.sql(tmp_path / "sql.json", page_size=5)
    assert not from_sql.failed
    assert work_units(from_sql) == work_units(store.rest(tmp_path / "rest.json"))


def kill_readers(databases: DatabaseServer) -> None:
    if databases.kind == "postgresql":
        statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'"
        databases.execute("mlflow", statement)
        return
    for row in databases.execute("mlflow", "SELECT id FROM information_schema.processlist WHERE user = 'reader'"):
        with suppress(sa.exc.OperationalError):  # gone by itself meanwhile
            databases.execute("mlflow", f"KILL {row[0]}")


def test_a_statement_that_takes_too_long_is_ended_and_the_key_named(store: Stored, tmp_path: Path) -> None:
    if store.databases is None:
        slow = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    else:
        slow = "SELECT pg_sleep(30)" if store.databases.kind == "postgresql" else "SELECT SLEEP(30)"

    def slowly(reading: database.Reading, *_: Any, **__: Any) -> list[Any]:
        return list(reading.connection.exec_driver_sql(slow))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql, "read_runs", slowly)
        found = store.sql(tmp_path / "out.json", database={"statement_timeout_seconds": 0.5})
    assert "`database.statement_timeout_seconds` higher" in failures(found)
    assert "a statement that took longer than 0.5 s" in failures(found)


def test_no_transaction_is_open_while_what_was_read_is_used(store: Stored, tmp_path: Path) -> None:
    """A long one would keep PostgreSQL from cleaning up. The next page is read meanwhile, and that ends by itself."""
    if store.databases is None or store.databases.kind != "postgresql":
        pytest.skip("only PostgreSQL tells")
    databases, stayed_open = store.databases, []
    walk = by_key.walk_by_key
    statement = "SELECT xact_start FROM pg_stat_activity WHERE usename = 'reader' AND state <> 'idle'"

    def watched(*args: Any, **options: Any) -> Iterator[Any]:
        for page in walk(*args, **options):
            until = time.monotonic() + 3
            while (is_open := databases.execute("mlflow", statement)) and time.monotonic() < until:
                time.sleep(0.02)
            stayed_open.extend(is_open)
            yield page

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql, "walk_by_key", watched)
        assert not store.sql(tmp_path / "out.json", page_size=3).failed
    assert stayed_open == []


REFUSED: dict[str, tuple[Callable[[Path], str], str]] = {
    "no file": (lambda folder: f"sqlite:///{folder}/none.db", "there is no file"),
    "no database": (lambda folder: made(folder, b"text" * 1000), "not a database"),
    "empty": (lambda folder: made(folder, b""), "is not MLflow's: it has no tables `experiments` and `runs`"),
    "another's": (lambda folder: with_tables(folder, "CREATE TABLE runs (id int)"), "is not MLflow's"),
}


def made(folder: Path, content: bytes) -> str:
    (folder / "file.db").write_bytes(content)
    return f"sqlite:///{folder}/file.db"


def with_tables(folder: Path, statement: str) -> str:
    with closing(sqlite3.connect(folder / "file.db")) as connection:
        connection.execute(statement)
    return f"sqlite:///{folder}/file.db"


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_database_of_mlflow_is_told_in_one_message(case: str, tmp_path: Path) -> None:
    from datahub_mlflow_source.source import MlflowSource

    make, expected = REFUSED[case]
    report = MlflowSource.test_connection({"backend_store_uri": make(tmp_path)})
    assert report.basic_connectivity is not None
    assert expected in (report.basic_connectivity.failure_reason or "")


def test_a_schema_that_lacks_what_is_read_is_told(sqlite_store: Stored, tmp_path: Path) -> None:
    """As a release to come might."""
    file = tmp_path / "future.db"
    shutil.copy(sqlite_store.server.database, file)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("ALTER TABLE latest_metrics RENAME COLUMN step TO steps")
        connection.execute("DROP TABLE input_tags")
        connection.commit()
    found = ingest({"backend_store_uri": f"sqlite:///{file}"}, tmp_path / "out.json")
    assert found.proposals == []
    assert "has no input_tags: input_uuid, name, value; latest_metrics: step, which this connector reads" in failures(
        found
    )


def test_wrong_credentials_are_told_by_their_keys(store: Stored, tmp_path: Path) -> None:
    if store.databases is None or store.databases.kind != "mariadb":
        pytest.skip("where a password is asked for")
    wrong = store.databases.admin.set(password="made-up-and-wrong", database="mlflow").render_as_string(False)
    found = ingest({"backend_store_uri": wrong}, tmp_path / "out.json")
    assert "Check the user in `backend_store_uri`, and `backend_store_password`" in failures(found)
    assert "made-up-and-wrong" not in failures(found)


def test_a_user_without_rights_is_told_what_is_needed(store: Stored, tmp_path: Path) -> None:
    if store.databases is None or store.databases.kind != "postgresql":
        pytest.skip("MariaDB doesn't even show the tables")
    store.databases.execute("mlflow", "REVOKE SELECT ON params FROM reader")
    try:
        found = store.sql(tmp_path / "out.json")
    finally:
        store.databases.execute("mlflow", "GRANT SELECT ON params TO reader")
    assert "The user needs SELECT on MLflow's tables" in failures(found)
