"""Endpoints of MLflow's gateway, out of its tables (3.8 and newer)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from datahub_mlflow_source.readers.base import own_name
from datahub_mlflow_source.readers.database import Reading
from datahub_mlflow_source.readers.rows import NOT_FORMED, gateway_endpoint, in_order
from datahub_mlflow_source.readers.schema import (
    GATEWAY_ENDPOINTS,
    GATEWAY_MAPPINGS,
    GATEWAY_MODELS,
    GATEWAY_TAGS,
    Schema,
)
from datahub_mlflow_source.records import DEFAULT_WORKSPACE, ModelDeployment, Unreadable
from datahub_mlflow_source.text import json_object


def has_gateway(schema: Schema) -> bool:
    """Of the endpoints themselves newer columns may be missing."""
    there = "endpoint_id" in schema.columns.get(GATEWAY_ENDPOINTS.name, ())
    return there and schema.has_all(GATEWAY_MAPPINGS, GATEWAY_MODELS, GATEWAY_TAGS)


def read_gateway_endpoints(
    reading: Reading, schema: Schema, workspaces: Sequence[str]
) -> list[ModelDeployment | Unreadable]:
    """As MLflow's server would list them: only those that have a model. Raises ServerError."""
    mappings: dict[str, list[dict[str, Any]]] = defaultdict(list)
    of, model, tag = GATEWAY_MAPPINGS.c, GATEWAY_MODELS.c, GATEWAY_TAGS.c
    columns = (of.endpoint_id, of.weight, of.linkage_type, of.fallback_order)
    for id_, weight, kind, order, name, secret_id, provider, model_name in reading.rows(
        sa.select(*columns, model.name, model.secret_id, model.provider, model.model_name).select_from(
            sa.join(GATEWAY_MAPPINGS, GATEWAY_MODELS, of.model_definition_id == model.model_definition_id)
        )
    ):
        definition = {"name": name, "secret_id": secret_id, "provider": provider, "model_name": model_name}
        mapping = {"model_definition": definition, "weight": weight, "linkage_type": kind, "fallback_order": order}
        mappings[id_].append(mapping)
    tags: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for id_, key, value in reading.rows(sa.select(tag.endpoint_id, tag.key, tag.value)):
        tags[id_].append({"key": key, "value": value})
    found: list[ModelDeployment | Unreadable] = []
    among = schema.in_workspaces(GATEWAY_ENDPOINTS, workspaces)
    for row in reading.rows(sa.select(*schema.or_empty(GATEWAY_ENDPOINTS)).where(*among)):
        fields = dict(zip((column.name for column in GATEWAY_ENDPOINTS.c), row, strict=True))
        id_, workspace = fields["endpoint_id"], fields["workspace"] or DEFAULT_WORKSPACE
        if id_ not in mappings:
            continue
        fallback = json_object(fields["fallback_config_json"] or "")  # MLflow passes over what is none
        row_of_api = {**fields, "model_mappings": mappings[id_], "tags": tags[id_], "fallback_config": fallback}
        try:
            found.append(replace(gateway_endpoint(row_of_api), workspace=own_name(workspace)))
        except NOT_FORMED as error:
            found.append(Unreadable("gateway endpoint", str(id_), f"its row is not formed as MLflow's: {error}"))
    return in_order(found)
