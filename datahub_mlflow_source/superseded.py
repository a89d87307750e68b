"""Logged models that had an entity of their own and were registered since."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import requests
from datahub.configuration.common import OperationalError
from datahub.ingestion.graph.client import DataHubGraph
from datahub.metadata.schema_classes import DeprecationClass
from datahub.metadata.urns import MlModelUrn

from datahub_mlflow_source.mapping.logged_models import is_ours, superseded
from datahub_mlflow_source.mapping.rules import Entity, Rules, alive
from datahub_mlflow_source.outgoing import Outgoing, Units

logger = logging.getLogger(__name__)


def superseded_units(
    registered: Mapping[str, str], rules: Rules, outgoing: Outgoing, graph: DataHubGraph | None
) -> Units:
    """Each stays, with what people wrote on it, and is deprecated in favour of its version, unless people did that.

    `registered`: URNs of versions by the ids of the logged models that they were made of.
    """
    for model_id, version in sorted(registered.items()):
        entity = superseded(model_id, MlModelUrn.from_string(version), rules)
        if graph and not _may_deprecate(graph, entity):
            entity = Entity(entity.urn, [alive()])
        yield from outgoing.work_units(entity)


def _may_deprecate(graph: DataHubGraph, entity: Entity) -> bool:
    """Where nobody did, or we did: and not once more, if it is as it should be."""
    try:
        present = graph.get_aspect(str(entity.urn), DeprecationClass)
    except (requests.RequestException, OperationalError, ValueError) as error:
        logger.warning("DataHub does not say whether %s is deprecated: %s", entity.urn, error)
        return False
    return present is None or is_ours(present)
