"""MLflow's tables, as far as they are read (models.py of its two SQL stores, 2.10 to 3.17), and what a database has.

Columns have no types: whatever the driver gives is what MLflow's own store would see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.readers.database import Database
from datahub_mlflow_source.records import DEFAULT_WORKSPACE

_WORKSPACE = "workspace"  # column since 3.10

# alembic_version.version_num after a server of this release has made or migrated the database.
_RELEASES = {
    "acf3f17fdcc7": "2.10",
    "4465047574b1": "2.15",
    "0584bdc529eb": "2.20 to 2.22",
    "bda7b8c39065": "3.0",
    "71994744cf8e": "3.4",
    "dc11669786a5": "3.17",
}


def _table(name: str, columns: str) -> Any:
    return sa.table(name, *(sa.column(column) for column in columns.split()))


EXPERIMENTS = _table(
    "experiments",
    "experiment_id name artifact_location lifecycle_stage creation_time last_update_time workspace",
)
EXPERIMENT_TAGS = _table("experiment_tags", "experiment_id key value")
RUNS = _table(
    "runs",
    "run_uuid name experiment_id user_id status start_time end_time artifact_uri lifecycle_stage",
)
TAGS = _table("tags", "run_uuid key value")
PARAMS = _table("params", "run_uuid key value")
LATEST_METRICS = _table("latest_metrics", "run_uuid key value timestamp step is_nan")
METRICS = _table("metrics", "run_uuid key value timestamp step is_nan")
DATASETS = _table(
    "datasets", "dataset_uuid name digest dataset_source_type dataset_source dataset_schema dataset_profile"
)
INPUTS = _table("inputs", "input_uuid source_type source_id destination_type destination_id")
INPUT_TAGS = _table("input_tags", "input_uuid name value")
WORKSPACES = _table(
    "workspaces", "name description default_artifact_root trace_archival_location trace_archival_retention"
)
REGISTERED_MODELS = _table("registered_models", "name creation_time last_updated_time description workspace")
REGISTERED_MODEL_TAGS = _table("registered_model_tags", "name key value workspace")
REGISTERED_MODEL_ALIASES = _table("registered_model_aliases", "name alias version workspace")
MODEL_VERSIONS = _table(
    "model_versions",
    "name version creation_time last_updated_time description user_id current_stage source run_id status "
    "status_message run_link storage_location workspace",
)
MODEL_VERSION_TAGS = _table("model_version_tags", "name version key value workspace")

LOGGED_MODELS = _table(
    "logged_models",
    "model_id experiment_id name artifact_location creation_timestamp_ms last_updated_timestamp_ms status "
    "lifecycle_stage model_type source_run_id status_message",
)
LOGGED_MODEL_PARAMS = _table("logged_model_params", "model_id param_key param_value")
LOGGED_MODEL_TAGS = _table("logged_model_tags", "model_id tag_key tag_value")
LOGGED_MODEL_METRICS = _table(
    "logged_model_metrics",
    "model_id metric_name metric_timestamp_ms metric_step metric_value run_id dataset_name dataset_digest",
)

EVALUATION_DATASETS = _table(
    "evaluation_datasets",
    "dataset_id name schema profile digest created_time last_update_time created_by last_updated_by workspace",
)
EVALUATION_DATASET_TAGS = _table("evaluation_dataset_tags", "dataset_id key value")
ENTITY_ASSOCIATIONS = _table("entity_associations", "source_type source_id destination_type destination_id")
SCORERS = _table("scorers", "experiment_id scorer_name scorer_id")
SCORER_VERSIONS = _table("scorer_versions", "scorer_id scorer_version serialized_scorer")
TRACE_INFO = _table("trace_info", "request_id experiment_id status execution_time_ms")
TRACE_METRICS = _table("trace_metrics", "request_id key value")
ASSESSMENTS = _table("assessments", "trace_id name valid")

GATEWAY_ENDPOINTS = _table(
    "endpoints",
    "endpoint_id name created_by created_at last_updated_by last_updated_at routing_strategy fallback_config_json "
    "experiment_id usage_tracking workspace",
)
GATEWAY_MAPPINGS = _table(
    "endpoint_model_mappings", "endpoint_id model_definition_id weight linkage_type fallback_order"
)
GATEWAY_MODELS = _table("model_definitions", "model_definition_id name secret_id provider model_name")
GATEWAY_TAGS = _table("endpoint_tags", "endpoint_id key value")

_TRACKING = (
    *(EXPERIMENTS, EXPERIMENT_TAGS, RUNS, TAGS, PARAMS, LATEST_METRICS, METRICS),
    *(DATASETS, INPUTS, INPUT_TAGS),
)
_REGISTRY = (
    *(REGISTERED_MODELS, REGISTERED_MODEL_TAGS, REGISTERED_MODEL_ALIASES),
    *(MODEL_VERSIONS, MODEL_VERSION_TAGS),
)
_SINCE_3_0_IN_INPUTS = "step"  # column
_SINCE_3_4 = (EVALUATION_DATASETS, EVALUATION_DATASET_TAGS, ENTITY_ASSOCIATIONS, SCORERS, SCORER_VERSIONS)
_SINCE_3_8 = (GATEWAY_ENDPOINTS, GATEWAY_MAPPINGS, GATEWAY_MODELS, GATEWAY_TAGS)
_OF_TRACES = (TRACE_INFO, TRACE_METRICS, ASSESSMENTS)  # since 2.13, 3.9 and 3.2
_SINCE_3_0 = (LOGGED_MODELS, LOGGED_MODEL_PARAMS, LOGGED_MODEL_TAGS, LOGGED_MODEL_METRICS)


@dataclass(frozen=True, slots=True)
class Schema:
    """What one database has."""

    release: str  # "database schema dc11669786a5, of MLflow 3.17"
    with_workspaces: frozenset[str]  # tables
    has_logged_models: bool
    columns: Mapping[str, frozenset[str]]  # of each table

    def has_all(self, *tables: Any) -> bool:
        """Whether there are these tables, with all that is read of them."""
        return all(map(self.has, tables))

    def has(self, table: Any, *columns: str) -> bool:
        """Whether there is such a table, with all that is read of it, and these columns too."""
        needed = {*(column.name for column in table.c), *columns} - {_WORKSPACE}
        return needed <= self.columns.get(table.name, frozenset())

    def or_empty(self, table: Any) -> list[Any]:
        """The columns of a table; in place of those that this database doesn't have, NULL."""
        there = self.columns.get(table.name, frozenset())
        return [column if column.name in there else sa.null().label(column.name) for column in table.c]

    def in_workspaces(self, table: Any, names: Sequence[str]) -> tuple[Any, ...]:
        """The condition that leaves only these workspaces' rows; all is in the default one where there are none yet."""
        if table.name in self.with_workspaces:
            return (table.c.workspace.in_(names),)
        return () if DEFAULT_WORKSPACE in names else (sa.false(),)

    def workspace_of(self, table: Any) -> Any:
        """The column, or what it would hold."""
        return table.c.workspace if table.name in self.with_workspaces else sa.literal(DEFAULT_WORKSPACE)


def look(database: Database) -> Schema:
    """Finds out what there is.

    Raises:
        ServerError: it is no database of MLflow's, or one that lacks what is read.
    """
    newer = (*_SINCE_3_0, *_SINCE_3_4, *_OF_TRACES, *_SINCE_3_8, WORKSPACES)
    there = database.columns([table.name for table in (*_TRACKING, *_REGISTRY, *newer)])
    where = database.connection.shown
    missing = dict(_missing(there))
    if EXPERIMENTS.name in missing or RUNS.name in missing:
        raise ServerError(
            f"{where} is not MLflow's: it has no tables `experiments` and `runs` that this user may see. Check the "
            f"name of the database in `{database.connection.key}` (for PostgreSQL also the schema, by "
            "`?options=-csearch_path=<schema>`), and that the user may SELECT from MLflow's tables."
        )
    if missing:
        parts = "; ".join(f"{table}: {', '.join(columns)}" for table, columns in sorted(missing.items()))
        raise ServerError(
            f"{where} has no {parts}, which this connector reads. It is known to work with databases of MLflow 2.10 to "
            "3.17: upgrade MLflow's database, or this connector, or read over REST by `tracking_uri`."
        )
    revision = database.read(_revision)
    of = f", of MLflow {_RELEASES[revision]}" if revision in _RELEASES else ""
    with_workspaces = frozenset(table for table, columns in there.items() if _WORKSPACE in columns)
    return Schema(f"database schema {revision}{of}", with_workspaces, LOGGED_MODELS.name in there, there)


def _missing(there: Mapping[str, frozenset[str]]) -> list[tuple[str, list[str]]]:
    """Tables and their columns that are needed and not there."""
    # MySQL doesn't even show tables that a user may not read: a column of another tells that they must be there.
    since_3_0 = _SINCE_3_0 if _SINCE_3_0_IN_INPUTS in there.get(INPUTS.name, ()) else ()
    return _lacking((*_TRACKING, *_REGISTRY, *since_3_0), there)


def _lacking(tables: Iterable[Any], there: Mapping[str, frozenset[str]]) -> list[tuple[str, list[str]]]:
    found = []
    for table in tables:
        needed = {column.name for column in table.c} - {_WORKSPACE}
        lacking = sorted(needed - there.get(table.name, frozenset()))
        if lacking:
            found.append((table.name, lacking))
    return found


def _revision(reading: Any) -> str:
    rows = reading.rows(sa.select(sa.column("version_num")).select_from(sa.table("alembic_version")))
    return str(rows[0][0]) if rows else "unknown"
