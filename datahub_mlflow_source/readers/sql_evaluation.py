"""Evaluation datasets and scorers, out of MLflow's tables (3.4 and newer)."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from datahub_mlflow_source.readers.by_key import grouped, pairs
from datahub_mlflow_source.readers.database import Reading
from datahub_mlflow_source.readers.rows import time_of
from datahub_mlflow_source.readers.schema import (
    ENTITY_ASSOCIATIONS,
    EVALUATION_DATASET_TAGS,
    EVALUATION_DATASETS,
    EXPERIMENTS,
    SCORER_VERSIONS,
    SCORERS,
    Schema,
)
from datahub_mlflow_source.records import EvaluationDataset, Scorer


def dataset_keys(
    reading: Reading, after: str | None, size: int, schema: Schema, workspaces: Sequence[str]
) -> list[str]:
    """The next so many ids."""
    table = EVALUATION_DATASETS.c
    among = schema.in_workspaces(EVALUATION_DATASETS, workspaces)
    statement = sa.select(table.dataset_id).where(*among).order_by(table.dataset_id)
    if after:
        statement = statement.where(table.dataset_id > after)
    return [row[0] for row in reading.rows(statement.limit(size))]


def read_datasets(reading: Reading, ids: Sequence[str]) -> list[EvaluationDataset]:
    """Those with these ids, in order."""
    table, tags, links = EVALUATION_DATASETS.c, EVALUATION_DATASET_TAGS.c, ENTITY_ASSOCIATIONS.c
    tags_of = grouped(reading.rows(sa.select(tags.dataset_id, tags.key, tags.value).where(tags.dataset_id.in_(ids))))
    of_experiments = (links.source_type == "evaluation_dataset", links.destination_type == "experiment")
    linked = sa.select(links.source_id, links.destination_id).where(*of_experiments, links.source_id.in_(ids))
    experiments_of = grouped(reading.rows(linked))
    columns = (
        *(table.dataset_id, table.name, table.digest, table.schema, table.profile, table.created_time),
        *(table.last_update_time, table.created_by, table.last_updated_by),
    )
    return [
        EvaluationDataset(
            dataset_id=id_,
            name=name,
            digest=digest or "",
            schema=schema or None,
            profile=profile or None,
            creation_time=time_of(created),
            last_updated_time=time_of(updated),
            created_by=by or "",
            last_updated_by=updated_by or "",
            tags=pairs(tags_of[id_]),
            experiment_ids=tuple(sorted(experiment_id for (experiment_id,) in experiments_of[id_])),
        )
        for id_, name, digest, schema, profile, created, updated, by, updated_by in reading.rows(
            sa.select(*columns).where(table.dataset_id.in_(ids)).order_by(table.dataset_id)
        )
    ]


def read_scorers(reading: Reading, schema: Schema, workspaces: Sequence[str]) -> list[Scorer]:
    """The newest version of each, of active experiments, as MLflow lists them."""
    scorers, versions, experiments = SCORERS.c, SCORER_VERSIONS.c, EXPERIMENTS.c
    newest = (
        sa.select(versions.scorer_id, sa.func.max(versions.scorer_version).label("version"))
        .group_by(versions.scorer_id)
        .subquery()
    )
    statement = (
        sa.select(scorers.experiment_id, scorers.scorer_name, versions.scorer_version, versions.serialized_scorer)
        .select_from(
            sa.join(SCORERS, newest, scorers.scorer_id == newest.c.scorer_id)
            .join(
                SCORER_VERSIONS,
                sa.and_(versions.scorer_id == newest.c.scorer_id, versions.scorer_version == newest.c.version),
            )
            .join(EXPERIMENTS, experiments.experiment_id == scorers.experiment_id)
        )
        .where(experiments.lifecycle_stage == "active", *schema.in_workspaces(EXPERIMENTS, workspaces))
    )
    return sorted(Scorer(str(id_), name, int(version), text) for id_, name, version, text in reading.rows(statement))
