"""Registered models and their versions out of MLflow's tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa

from datahub_mlflow_source.readers.base import own_name
from datahub_mlflow_source.readers.by_key import grouped, pairs
from datahub_mlflow_source.readers.database import Reading
from datahub_mlflow_source.readers.rows import model_id_of, time_of
from datahub_mlflow_source.readers.schema import (
    MODEL_VERSION_TAGS,
    MODEL_VERSIONS,
    REGISTERED_MODEL_ALIASES,
    REGISTERED_MODEL_TAGS,
    REGISTERED_MODELS,
    Schema,
)
from datahub_mlflow_source.records import PROMPT_TAG, ModelVersion, RegisteredModel, Tags

_DELETED = "Deleted_Internal"  # MLflow's mark on a version that was deleted (STAGE_DELETED_INTERNAL)

Aliases = Mapping[str, Mapping[str, Sequence[str]]]  # model → version → aliases


class VersionKey(NamedTuple):
    """In the order of the table."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


class SqlRegistry:
    """The statements of one registry, or of one workspace in it."""

    def __init__(self, schema: Schema, workspace: str) -> None:
        self._of_workspace = partial(schema.in_workspaces, names=[workspace])
        self._workspace = own_name(workspace)

    def prompts(self, reading: Reading) -> frozenset[str]:
        """Names of prompts, which MLflow keeps among the models and lists neither as models nor as versions."""
        found: set[str] = set()
        for table in (REGISTERED_MODEL_TAGS, MODEL_VERSION_TAGS):
            key, value = PROMPT_TAG
            marked = (table.c.key == key, table.c.value == value, *self._of_workspace(table))
            found.update(row[0] for row in reading.rows(sa.select(table.c.name).where(*marked).distinct()))
        return frozenset(found)

    def model_keys(self, reading: Reading, after: str | None, size: int) -> list[str]:
        """The next so many names."""
        name = REGISTERED_MODELS.c.name
        statement = sa.select(name).where(*self._of_workspace(REGISTERED_MODELS)).order_by(name).limit(size)
        return [row[0] for row in reading.rows(statement.where(name > after) if after is not None else statement)]

    def models(self, reading: Reading, names: Sequence[str]) -> list[RegisteredModel]:
        def of_names(table: Any, *columns: str) -> Any:
            statement = sa.select(*(getattr(table.c, column) for column in ("name", *columns)))
            return statement.where(table.c.name.in_(names), *self._of_workspace(table))

        tags = grouped(reading.rows(of_names(REGISTERED_MODEL_TAGS, "key", "value")))
        aliases = grouped(reading.rows(of_names(REGISTERED_MODEL_ALIASES, "alias", "version")))
        statement = of_names(REGISTERED_MODELS, "creation_time", "last_updated_time", "description")
        return [
            RegisteredModel(
                name=name,
                creation_time=time_of(created),
                last_updated_time=time_of(updated),
                description=description or "",
                tags=pairs(tags[name]),
                aliases=tuple(sorted((alias, str(version)) for alias, version in aliases[name])),
                workspace=self._workspace,
            )
            for name, created, updated, description in reading.rows(statement.order_by(REGISTERED_MODELS.c.name))
        ]

    def version_keys(self, reading: Reading, after: VersionKey | None, size: int) -> list[VersionKey]:
        """The next so many versions, by name and number."""
        name, version = MODEL_VERSIONS.c.name, MODEL_VERSIONS.c.version
        statement = sa.select(name, version).where(*self._of_workspace(MODEL_VERSIONS)).order_by(name, version)
        if after:
            # The first condition follows from the second: it is there for the index.
            statement = statement.where(name >= after.name, sa.or_(name > after.name, version > after.version))
        return [VersionKey(*row) for row in reading.rows(statement.limit(size))]

    def versions(self, reading: Reading, keys: Sequence[VersionKey], aliases: Aliases) -> list[ModelVersion]:
        tags: dict[VersionKey, list[tuple[str, str]]] = defaultdict(list)
        for name, version, key, value in reading.rows(self._between(keys, MODEL_VERSION_TAGS, "key", "value")):
            tags[VersionKey(name, version)].append((key, value))
        statement = self._between(
            *(keys, MODEL_VERSIONS, "creation_time", "last_updated_time", "description", "user_id", "current_stage"),
            *("source", "run_id", "status", "status_message", "run_link", "storage_location"),
        )
        rows = reading.rows(statement.order_by(MODEL_VERSIONS.c.name, MODEL_VERSIONS.c.version))
        return [
            replace(_version(row, pairs(tags[VersionKey(*row[:2])]), aliases), workspace=self._workspace)
            for row in rows
            if row[6] != _DELETED
        ]

    def _between(self, keys: Sequence[VersionKey], table: Any, *columns: str) -> Any:
        """From the first of these keys to the last; there are no others in between."""
        (first, first_version), (last, last_version) = keys[0], keys[-1]
        name, version = table.c.name, table.c.version
        return sa.select(name, version, *(getattr(table.c, column) for column in columns)).where(
            name.between(first, last),
            sa.or_(name != first, version >= first_version),
            sa.or_(name != last, version <= last_version),
            *self._of_workspace(table),
        )


def _version(row: Sequence[Any], tags: Tags, aliases: Aliases) -> ModelVersion:
    name, number, created, updated, description, user, stage, source, run_id, status, message, link, location = row
    version = str(number)
    return ModelVersion(
        name=name,
        version=version,
        creation_time=time_of(created),
        last_updated_time=time_of(updated),
        description=description or "",
        user_id=user or "",
        stage=stage or "None",
        source=source or "",
        run_id=run_id or "",
        status=status or "",
        status_message=message or "",
        run_link=link or "",
        tags=tags,
        aliases=tuple(sorted(aliases.get(name, {}).get(version, ()))),
        aliases_known=name in aliases,
        model_id=model_id_of(source or ""),
        storage_location=location or "",
    )
