"""Workspaces out of MLflow's tables (3.10 and newer)."""

from __future__ import annotations

import sqlalchemy as sa

from datahub_mlflow_source.readers.database import Reading
from datahub_mlflow_source.readers.schema import EXPERIMENTS, REGISTERED_MODELS, WORKSPACES, Schema
from datahub_mlflow_source.records import Workspace


def read_workspaces(reading: Reading, schema: Schema) -> list[Workspace]:
    """Those that the database keeps, and those that experiments or models are in, whoever keeps them."""
    found: dict[str, Workspace] = {}
    for table in (EXPERIMENTS, REGISTERED_MODELS):
        if table.name in schema.with_workspaces:
            names = reading.rows(sa.select(table.c.workspace).distinct())
            found.update((name, Workspace(name)) for (name,) in names)
    if "name" in schema.columns.get(WORKSPACES.name, ()):
        for name, *said in reading.rows(sa.select(*schema.or_empty(WORKSPACES))):
            found[name] = Workspace(name, *(text or "" for text in said))
    return [found[name] for name in sorted(found)]
