"""Many runs and models in a moment: written straight into a database that MLflow made."""

from __future__ import annotations

import csv
import io
import json
import random
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

STARTED = 1_700_000_000_000  # of the first run; epoch milliseconds
MINUTE = 60_000
BATCH = 1000  # runs whose rows are in memory at a time
COLUMNS = [{"name": f"column_{i}", "type": "double", "required": True} for i in range(8)]
SYSTEM_TAGS = ("mlflow.runName", "mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.note.content")

Rows = Iterable[tuple[Any, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """How much of everything; the same numbers and seed give the same content."""

    experiments: int = 20
    runs: int = 5000
    params: int = 10  # for each run, as are metrics and tags
    metrics: int = 10
    tags: int = 6
    datasets: int = 40  # distinct ones; each run reads one of them
    models: int = 50
    versions: int = 20  # for each model; each from a run
    seed: int = 1


def bulk_content(database: Path | str, bulk: Bulk | None = None) -> None:
    """Fills a database whose tables MLflow has made, so that it holds this and nothing else.

    `database` is a SQLite file, or the address of one in PostgreSQL. Raises ValueError if it holds runs or models
    already. 5,000 runs take about a second.
    """
    bulk = bulk or Bulk()
    with _opened(database) as rows:
        if rows.count("runs") + rows.count("registered_models"):
            raise ValueError(f"{database} is not empty")
        rows.clear("experiments")  # "Default"
        rows.insert("experiments", _experiments(bulk))
        rows.insert("experiment_tags", _experiment_tags(bulk))
        rows.insert("datasets", _datasets(bulk))
        run_ids = _run_ids(bulk)
        numbered = enumerate(run_ids)
        while batch := list(islice(numbered, BATCH)):
            _insert_runs(rows, bulk, batch)
        _insert_models(rows, bulk, run_ids)


@contextmanager
def _opened(database: Path | str) -> Iterator[Filler]:
    if isinstance(database, Path):
        with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
            yield SqliteFiller(connection)
        return
    engine = sa.create_engine(database)
    with engine.begin() as transaction:
        yield PostgresFiller(transaction.connection.cursor())
        transaction.exec_driver_sql("ANALYZE")  # as its daemon would, in a while
    engine.dispose()


class Filler(Protocol):
    def count(self, table: str) -> int: ...
    def clear(self, table: str) -> None: ...
    def insert(self, table: str, rows: Rows) -> None: ...


class SqliteFiller:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def count(self, table: str) -> int:
        (found,) = self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - our own names
        return int(found)

    def clear(self, table: str) -> None:
        self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names

    def insert(self, table: str, rows: Rows) -> None:
        columns = WRITTEN[table]
        marks = ", ".join("?" * len(columns.split(",")))
        self._connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)  # noqa: S608


class PostgresFiller:
    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def count(self, table: str) -> int:
        self._cursor.execute(f"SELECT count(*) FROM {table}")  # noqa: S608 - our own names
        return int(self._cursor.fetchone()[0])

    def clear(self, table: str) -> None:
        self._cursor.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names

    def insert(self, table: str, rows: Rows) -> None:
        file = io.StringIO()
        csv.writer(file).writerows(rows)
        file.seek(0)
        self._cursor.copy_expert(f"COPY {table} ({WRITTEN[table]}) FROM STDIN WITH (FORMAT csv)", file)


WRITTEN = {
    "experiments": "experiment_id, name, artifact_location, lifecycle_stage, creation_time, last_update_time",
    "experiment_tags": "experiment_id, key, value",
    "datasets": "dataset_uuid, experiment_id, name, digest, dataset_source_type, dataset_source, dataset_schema,"
    " dataset_profile",
    "runs": "run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time,"
    " source_version, lifecycle_stage, artifact_uri, experiment_id",
    "params": "run_uuid, key, value",
    "tags": "run_uuid, key, value",
    "latest_metrics": "run_uuid, key, value, timestamp, step, is_nan",
    "inputs": "input_uuid, source_type, source_id, destination_type, destination_id",
    "input_tags": "input_uuid, name, value",
    "registered_models": "name, creation_time, last_updated_time, description",
    "registered_model_tags": "name, key, value",
    "registered_model_aliases": "name, alias, version",
    "model_versions": "name, version, creation_time, last_updated_time, description, current_stage, source,"
    " storage_location, run_id, status, run_link",
    "model_version_tags": "name, version, key, value",
}


def _experiments(bulk: Bulk) -> Rows:
    for i in range(1, bulk.experiments + 1):
        yield i, f"experiment {i:04}", f"mlflow-artifacts:/{i}", "active", STARTED, STARTED + i


def _experiment_tags(bulk: Bulk) -> Rows:
    for i in range(1, bulk.experiments + 1):
        yield i, "mlflow.note.content", f"About experiment {i}"
        yield i, "team", f"team {i % 5}"


def _experiment_of(run: int, bulk: Bulk) -> int:
    return run % bulk.experiments + 1


def _hex(random_: random.Random) -> str:
    return uuid.UUID(int=random_.getrandbits(128), version=4).hex


def _run_ids(bulk: Bulk) -> list[str]:
    random_ = random.Random(bulk.seed)
    return [_hex(random_) for _ in range(bulk.runs)]


def _dataset_uuid(experiment: int, dataset: int) -> str:
    return uuid.UUID(int=experiment << 64 | dataset, version=4).hex


def _datasets(bulk: Bulk) -> Rows:
    """MLflow keeps a dataset once for each experiment that logs it; the source says that it is the same."""
    schema, profile = json.dumps({"mlflow_colspec": COLUMNS}), json.dumps({"num_rows": 1000, "num_elements": 8000})
    for experiment in range(1, bulk.experiments + 1):
        for i in range(bulk.datasets):
            kind, source = _source(i)
            name, digest = f"dataset {i:03}", f"{i:08x}"
            yield _dataset_uuid(experiment, i), experiment, name, digest, kind, json.dumps(source), schema, profile


def _source(dataset: int) -> tuple[str, dict[str, Any]]:
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("s3", {"uri": f"s3://acme-data/set-{dataset}/train.parquet"}),
        ("gs", {"uri": f"gs://acme-data/set-{dataset}.csv"}),
        ("delta_table", {"delta_table_name": f"main.sales.set_{dataset}", "delta_table_version": 1}),
        ("spark", {"table_name": f"hive.sales.set_{dataset}"}),
        ("local", {"uri": f"/data/set-{dataset}.csv"}),
    ]
    return kinds[dataset % len(kinds)]


def _insert_runs(rows: Filler, bulk: Bulk, batch: list[tuple[int, str]]) -> None:
    metrics = [row for i, run_id in batch for row in _metrics(bulk, i, run_id)]
    rows.insert("runs", (_run(bulk, i, run_id) for i, run_id in batch))
    rows.insert("params", (row for i, run_id in batch for row in _params(bulk, i, run_id)))
    rows.insert("tags", (row for i, run_id in batch for row in _tags(bulk, i, run_id)))
    rows.insert("latest_metrics", metrics)
    # A run has one input, which therefore may have the run's id.
    rows.insert("inputs", (_input(bulk, i, run_id) for i, run_id in batch))
    rows.insert("input_tags", ((run_id, "mlflow.data.context", "training") for _, run_id in batch))


def _run(bulk: Bulk, i: int, run_id: str) -> tuple[Any, ...]:
    experiment, start = _experiment_of(i, bulk), STARTED + i * MINUTE
    status = "FAILED" if i % 50 == 49 else "FINISHED"
    artifacts = f"mlflow-artifacts:/{experiment}/{run_id}/artifacts"
    # Sources and entry points stay empty here: MLflow writes them to tags.
    return (
        *(run_id, f"run {i}", "UNKNOWN", "", "", f"user{i % 9}", status),
        *(start, start + MINUTE, "", "active", artifacts, experiment),
    )


def _params(bulk: Bulk, i: int, run_id: str) -> Rows:
    random_ = random.Random(f"params {bulk.seed} {i}")
    for k in range(bulk.params):
        yield run_id, f"param_{k}", f"{random_.random():.6f}"


def _metrics(bulk: Bulk, i: int, run_id: str) -> Iterator[tuple[Any, ...]]:
    random_ = random.Random(f"metrics {bulk.seed} {i}")
    for k in range(bulk.metrics):
        yield run_id, f"metric_{k}", random_.random(), STARTED + i * MINUTE, 10, 0


def _tags(bulk: Bulk, i: int, run_id: str) -> Rows:
    values = (f"run {i}", f"user{i % 9}", "train.py", "LOCAL", f"Attempt {i}.")
    for key, value in islice(zip(SYSTEM_TAGS, values, strict=True), bulk.tags):
        yield run_id, key, value
    for k in range(bulk.tags - len(SYSTEM_TAGS)):
        yield run_id, f"tag_{k}", f"value {i % 7}"


def _input(bulk: Bulk, i: int, run_id: str) -> tuple[Any, ...]:
    # Not `i % datasets`: that would tie each dataset to one experiment.
    dataset = _dataset_uuid(_experiment_of(i, bulk), i // bulk.experiments % bulk.datasets)
    return run_id, "DATASET", dataset, "RUN", run_id


def _insert_models(rows: Filler, bulk: Bulk, run_ids: list[str]) -> None:
    names = [f"model {i:04}" for i in range(bulk.models)]
    numbers = range(1, bulk.versions + 1)
    rows.insert("registered_models", ((name, STARTED, STARTED + 1, f"About {name}") for name in names))
    rows.insert("registered_model_tags", ((name, "team", "risk") for name in names))
    if bulk.versions:
        aliases = [("champion", bulk.versions), ("challenger", 1)]
        rows.insert("registered_model_aliases", ((name, *alias) for name in names for alias in aliases))
    rows.insert("model_versions", _versions(bulk, names, run_ids))
    rows.insert(
        "model_version_tags",
        ((name, number, "approved", "yes") for name in names for number in numbers),
    )


def _versions(bulk: Bulk, names: list[str], run_ids: list[str]) -> Rows:
    """Spread over all runs, each from another one as long as there are enough."""
    step = max(1, bulk.runs // max(1, bulk.models * bulk.versions))
    for i in range(bulk.models * bulk.versions):
        model, number = divmod(i, bulk.versions)
        run = i * step % bulk.runs
        time = STARTED + run * MINUTE + MINUTE
        stage = "Production" if number + 1 == bulk.versions else "None"
        source = f"mlflow-artifacts:/{_experiment_of(run, bulk)}/{run_ids[run]}/artifacts/model"
        about = f"Version {number + 1}"
        yield (
            *(names[model], number + 1, time, time, about, stage),
            *(source, source, run_ids[run], "READY", ""),
        )
