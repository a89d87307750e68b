"""Serving that MLflow's server knows nothing of: model servers, and targets of `mlflow.deployments`.

Whatever a server answers or a target's plugin does, it costs no more than that server or target.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from datahub_mlflow_source.addresses import without_secrets
from datahub_mlflow_source.connection import Connection
from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.readers.http import MlflowHttp
from datahub_mlflow_source.readers.rows import time_of
from datahub_mlflow_source.readers.workers import beside, in_order
from datahub_mlflow_source.records import ModelDeployment
from datahub_mlflow_source.redaction import HIDDEN, redact
from datahub_mlflow_source.text import printable

logger = logging.getLogger(__name__)

SERVER = "server"  # the target of servers that the recipe lists
_NOT_HERE = (401, 403, 404, 405)  # by this address, or for us, it doesn't tell how it is
_ASKED_AT_ONCE = 8
_SERVER_SECONDS = 5.0
_TARGET_SECONDS = 60.0
_MOST_DEPLOYMENTS = 10_000  # of one target
_MOST_SAID, _DEEPEST = 100, 6  # of one deployment, of what nests in it

# Words of MLflow's own clients and of others, in the order in which they are looked for.
_NAMES = ("name", "EndpointName", "endpoint_name", "deployment_name")
_STATUS = ("status", "state", "EndpointStatus", "endpoint_status", "DeploymentStatus")
_URL = ("endpoint_url", "url", "uri", "invocation_url")
_CREATED = ("creation_timestamp", "created_at", "CreationTime")
_UPDATED = ("last_updated_timestamp", "updated_at", "LastModifiedTime")
_MODEL = ("models:/", "runs:/")
# Of a name anywhere in what a plugin tells: more than needs be is hidden rather than less.
_HIDDEN = re.compile(
    r"pass|pwd|secret|token|key|auth|cred|bearer|jwt|cookie|header|sas|sign|env|dsn|conn|\Apat\Z", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class ModelServer:
    """As the recipe lists it."""

    name: str
    url: str
    model: str  # that it serves, "" where nobody says


@dataclass(frozen=True, slots=True)
class Answer:
    """What one server or target told."""

    shown: str  # which one
    deployments: tuple[ModelDeployment, ...] = ()
    problem: str = ""  # why they are not all, or not known


class Serving:
    """What the recipe names of it."""

    def __init__(self, servers: Sequence[ModelServer], targets: Sequence[str]) -> None:
        self._servers, self._targets = servers, targets

    def servers(self) -> Iterator[Answer]:
        """How each of the servers is, in the order of the recipe."""
        return in_order(_asked, self._servers, _ASKED_AT_ONCE)

    def targets(self) -> Iterator[Answer]:
        """What is deployed on each of the targets."""
        return in_order(_listed, self._targets, _ASKED_AT_ONCE)


def _asked(server: ModelServer) -> Answer:
    """MLflow's own answers /ping and /version (`mlflow/pyfunc/scoring_server`). A server without an answer is one."""
    url = without_secrets(server.url)
    http = MlflowHttp(Connection(url, timeout_seconds=_SERVER_SECONDS, max_retries=0))
    said: tuple[tuple[str, str], ...] = ()
    status = problem = ""
    try:
        code = http.status("/ping")
        if code in _NOT_HERE:
            code = http.status("/health")
        if 200 <= code < 300:
            status = "ready"
        elif code not in _NOT_HERE and not 300 <= code < 400:
            status = "unavailable"
        said = (("http_status", str(code)), ("mlflow_version", http.version() or ""))
    except ServerError as error:
        status, problem = "no answer", str(error)
    except Exception as error:
        logger.debug("Asking a model server failed", exc_info=True)
        status, problem = "no answer", f"its answer can't be read: {type(error).__name__}"
    finally:
        http.close()
    deployment = ModelDeployment(
        target=SERVER,
        name=server.name,
        status=status,
        url=url,
        models=(server.model,) if server.model else (),
        said=said,
    )
    return Answer(f"{server.name} at {url}", (deployment,), problem)


def _listed(target: str) -> Answer:
    """All that MLflow's client lists of a target: endpoints, or where it knows none, deployments."""
    shown = without_secrets(target)
    try:
        return beside(lambda: _answer(target, shown)).result(_TARGET_SECONDS)
    except FutureTimeoutError:
        return Answer(shown, problem=f"no answer within {_TARGET_SECONDS:.0f} seconds")


def _answer(target: str, shown: str) -> Answer:
    """In a thread of its own, of which nothing may come that is meant for ours, be it KeyboardInterrupt."""
    try:
        entries = list(islice(_entries(target), _MOST_DEPLOYMENTS + 1))
    except BaseException as error:
        logger.debug("Listing a target failed", exc_info=True)
        return Answer(shown, problem=f"{type(error).__name__}: {redact(_text(error))[:500]}")
    found, bad = [], []
    for entry in entries[:_MOST_DEPLOYMENTS]:
        try:
            found.append(_deployment(shown, entry))
        except BaseException as error:
            logger.debug("A target's entry can't be read", exc_info=True)
            bad.append(type(error).__name__)
    problems = [f"only the first {_MOST_DEPLOYMENTS} are read"] if len(entries) > _MOST_DEPLOYMENTS else []
    problems += [f"{len(bad)} can't be read, as one without a name: {bad[0]}"] if bad else []
    return Answer(shown, tuple(sorted(found, key=lambda each: each.name)), "; ".join(problems))


def _entries(target: str) -> Iterator[Any]:
    from mlflow.deployments import BaseDeploymentClient, get_deploy_client

    client: Any = get_deploy_client(target)  # type: ignore[no-untyped-call]
    lists_endpoints = type(client).list_endpoints is not BaseDeploymentClient.list_endpoints
    if lists_endpoints:
        endpoints = iter(client.list_endpoints())
        first = list(islice(endpoints, 1))
        if first:
            yield from first
            yield from endpoints
            return
    try:
        yield from client.list_deployments()
    except NotImplementedError:
        if not lists_endpoints:
            raise ServerError("MLflow's client for this target lists nothing") from None


def _deployment(target: str, entry: Any) -> ModelDeployment:
    """Plugins tell what they like; a name is promised. Raises ValueError where there is none."""
    fields = _as_mapping(entry)
    name = printable(_first(fields, _NAMES))
    if not name:
        raise ValueError("no name")
    texts: list[str] = []
    shown = _shown(fields, texts)
    served = [text for text in texts if text.startswith(_MODEL)]
    return ModelDeployment(
        target=target,
        name=redact(name),
        status=_word(next((fields[key] for key in _STATUS if fields.get(key)), "")),
        url=redact(_first(fields, _URL)),
        creation_time=_time(fields, _CREATED),
        last_updated_time=_time(fields, _UPDATED),
        models=tuple(sorted({*served, *_served_entities(fields)})),
        said=tuple((key, _said(shown[key])) for key in sorted(shown) if key not in (*_NAMES, *_URL))[:_MOST_SAID],
    )


def _as_mapping(entry: Any) -> dict[str, Any]:
    """Of a dict, or of an object of pydantic."""
    for method in ("model_dump", "dict"):
        if not isinstance(entry, Mapping) and callable(dump := getattr(entry, method, None)):
            entry = dump()
    return {_text(key): value for key, value in entry.items()}


def _first(fields: Mapping[str, Any], keys: Iterable[str]) -> str:
    return next((fields[key] for key in keys if isinstance(fields.get(key), str) and fields[key].strip()), "")


def _shown(value: Any, texts: list[str], depth: int = 0) -> Any:
    """What may be shown of it, as JSON has it; all texts in it are added to `texts`."""
    if isinstance(value, Mapping) and depth < _DEEPEST:
        if "value" in value and any(_HIDDEN.search(_text(value.get(key))) for key in ("key", "name")):
            return HIDDEN  # {"name": "DB_PASSWORD", "value": …}
        found = {}
        for key, inner in islice(value.items(), _MOST_SAID):
            hidden = bool(_HIDDEN.search(_text(key)))
            found[redact(_text(key))] = (
                HIDDEN if hidden and inner not in (None, "", 0) else _shown(inner, texts, depth + 1)
            )
        return found
    if isinstance(value, (list, tuple, set)) and depth < _DEEPEST:
        return [_shown(inner, texts, depth + 1) for inner in islice(value, _MOST_SAID)]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        texts.append(value)
        return redact(value)
    return f"<{type(value).__name__}>"


def _word(status: Any) -> str:
    """Databricks tells `{"ready": "NOT_READY", "config_update": "IN_PROGRESS"}`, others `{"phase": "Running"}`."""
    if not isinstance(status, Mapping):
        return printable(_text(status))
    if status.get("config_update") == "IN_PROGRESS":
        return "UPDATING" if status.get("ready") == "READY" else "CREATING"
    return printable(_first(status, ("ready", "phase", "state", "status")))


def _served_entities(fields: Mapping[str, Any]) -> Iterator[str]:
    """What an endpoint of Databricks serves."""
    config = fields.get("config")
    for key in ("served_entities", "served_models"):
        for entity in (config.get(key) if isinstance(config, Mapping) else None) or ():
            name = entity.get("entity_name") or entity.get("model_name") if isinstance(entity, Mapping) else None
            version = entity.get("entity_version") or entity.get("model_version") if name else None
            if name and version:
                yield f"models:/{name}/{version}"


def _time(fields: Mapping[str, Any], keys: Iterable[str]) -> int | None:
    value = next((fields[key] for key in keys if fields.get(key)), None)
    if isinstance(value, datetime):
        return time_of(int(value.timestamp() * 1000))
    return time_of(value) if isinstance(value, int) else None


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _text(value: object) -> str:
    """Of whatever a plugin may give; "" where that can't even be written."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a plugin's own class
        return ""
