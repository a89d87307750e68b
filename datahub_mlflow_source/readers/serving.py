"""Serving that MLflow's server knows nothing of: model servers, and targets of `mlflow.deployments`."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

from datahub_mlflow_source.addresses import without_secrets
from datahub_mlflow_source.connection import Connection
from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.readers.http import MlflowHttp
from datahub_mlflow_source.readers.workers import beside, in_order
from datahub_mlflow_source.records import ModelDeployment
from datahub_mlflow_source.redaction import redact

logger = logging.getLogger(__name__)

SERVER = "server"  # the target of servers that the recipe lists
NO_ANSWER = "no answer"  # the status of a server that is down, or out of our reach
_NOT_HERE = (401, 403, 404, 405)  # by this address, or for us, it doesn't tell how it is
_ASKED_AT_ONCE = 8
_SERVER_SECONDS = 5.0
_TARGET_SECONDS = 60.0
_MOST_DEPLOYMENTS = 10_000  # of one target
_MODEL = re.compile(r"(?:models|runs):/[^\s\"',}\]]+")
_STATUS = ("status", "state", "EndpointStatus", "endpoint_status", "DeploymentStatus")
_URL = ("endpoint_url", "url", "uri", "invocation_url")


@dataclass(frozen=True, slots=True)
class ModelServer:
    """As the recipe lists it."""

    name: str
    url: str
    model: str  # that it serves, "" where nobody says


class Serving:
    """What the recipe names of it."""

    def __init__(self, servers: Sequence[ModelServer], targets: Sequence[str]) -> None:
        self._servers, self._targets = servers, targets

    def servers(self) -> Iterator[ModelDeployment]:
        """How each of the servers is, in the order of the recipe."""
        return in_order(_asked, self._servers, _ASKED_AT_ONCE)

    def targets(self) -> Iterator[tuple[str, list[ModelDeployment] | ServerError]]:
        """What each target is called, and what is deployed there, or why nobody knows."""
        shown = map(without_secrets, self._targets)
        return zip(shown, in_order(_listed, self._targets, _ASKED_AT_ONCE), strict=True)


def _asked(server: ModelServer) -> ModelDeployment:
    """MLflow's own answers /ping and /version (`mlflow/pyfunc/scoring_server`)."""
    http = MlflowHttp(Connection(without_secrets(server.url), timeout_seconds=_SERVER_SECONDS, max_retries=0))
    said: tuple[tuple[str, str], ...] = ()
    try:
        code = http.status("/ping")
        if code in _NOT_HERE:
            code = http.status("/health")
        status = "" if code in _NOT_HERE else "ready" if 200 <= code < 300 else "unavailable"
        said = (("http_status", str(code)), ("mlflow_version", http.version() or ""))
    except ServerError as error:
        logger.debug("%s", error)
        status = NO_ANSWER
    finally:
        http.close()
    return ModelDeployment(
        target=SERVER,
        name=server.name,
        status=status,
        url=without_secrets(server.url),
        models=(server.model,) if server.model else (),
        said=said,
    )


def _listed(target: str) -> list[ModelDeployment] | ServerError:
    """All that MLflow's client lists of a target: endpoints, or where it knows none, deployments."""
    try:
        found = beside(lambda: _asked_of_client(target)).result(_TARGET_SECONDS)
        shown = without_secrets(target)
        return sorted((_deployment(shown, entry) for entry in found[:_MOST_DEPLOYMENTS]), key=lambda each: each.name)
    except FutureTimeoutError:
        return ServerError(f"no answer within {_TARGET_SECONDS:.0f} seconds")
    except Exception as error:  # a plugin's: any
        logger.debug("Listing a target failed", exc_info=True)
        return ServerError(f"{type(error).__name__}: {redact(str(error))[:500]}")


def _asked_of_client(target: str) -> list[Any]:
    from mlflow.deployments import get_deploy_client
    from mlflow.exceptions import MlflowException

    client: Any = get_deploy_client(target)  # type: ignore[no-untyped-call]
    try:
        if found := list(client.list_endpoints()):
            return found
    except (MlflowException, NotImplementedError, AttributeError) as error:
        if not _has_no_such_call(error):
            raise
    try:
        return list(client.list_deployments())
    except NotImplementedError:
        return []


def _has_no_such_call(error: Exception) -> bool:
    """As MLflow's base class says (`mlflow/deployments/base.py`)."""
    return isinstance(error, (NotImplementedError, AttributeError)) or "unimplemented" in str(error)


def _deployment(target: str, entry: Any) -> ModelDeployment:
    """Plugins tell what they like; a name is promised."""
    fields = _as_mapping(entry)
    text = json.dumps(fields, default=str, sort_keys=True)
    models = [*_MODEL.findall(text), *_served_entities(fields)]
    return ModelDeployment(
        target=target,
        name=str(fields["name"]),
        status=_word(next((fields[key] for key in _STATUS if fields.get(key)), "")),
        url=next((str(fields[key]) for key in _URL if isinstance(fields.get(key), str)), ""),
        models=tuple(sorted(set(models))),
        said=tuple((key, _said(value)) for key, value in sorted(fields.items()) if key not in ("name", *_URL)),
    )


def _as_mapping(entry: Any) -> Mapping[str, Any]:
    if isinstance(entry, Mapping):
        return {str(key): value for key, value in entry.items()}
    for method in ("model_dump", "dict"):  # pydantic's
        if callable(dump := getattr(entry, method, None)):
            return dict(dump())
    return {"name": str(entry)}


def _word(status: Any) -> str:
    """Databricks tells `{"ready": "READY", "config_update": …}`."""
    return str(status.get("ready", "")) if isinstance(status, Mapping) else str(status)


def _served_entities(fields: Mapping[str, Any]) -> Iterator[str]:
    """What an endpoint of Databricks serves."""
    config = fields.get("config")
    for key in ("served_entities", "served_models"):
        for entity in (config.get(key) if isinstance(config, Mapping) else None) or ():
            name = entity.get("entity_name") or entity.get("model_name") if isinstance(entity, Mapping) else None
            version = entity.get("entity_version") or entity.get("model_version") if name else None
            if name and version:
                yield f"models:/{name}/{version}"


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)
