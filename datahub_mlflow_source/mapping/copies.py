"""Where a version or run was copied from: by MLflow's own `copy_model_version`, and by mlflow-export-import."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

from datahub_mlflow_source.addresses import is_web_address
from datahub_mlflow_source.mapping.rules import Web, tag_value
from datahub_mlflow_source.records import ModelVersion, Run
from datahub_mlflow_source.redaction import redact, redact_url

# `common/source_tags.py` and `copy/copy_model_version.py` in the repository of mlflow-export-import.
_OF_VERSION = "mlflow_exim.src_version."
_SERVER = "mlflow_exim.src_client.tracking_uri"
_OF_RUN = "mlflow_exim.run_info."
_ANOTHER_VERSION = re.compile(r"models:/([^/@]+)/(\d+)")


def origin_of_version(version: ModelVersion) -> Iterator[tuple[str, str]]:
    """For custom properties: keys without prefix, and values."""
    name, number = (tag_value(version.tags, f"{_OF_VERSION}{part}") for part in ("name", "version"))
    if name and number:
        server = redact_url(tag_value(version.tags, _SERVER))
        yield "copied_from", redact(f"models:/{name}/{number}")
        yield "copied_from_server", server
        yield "copied_from_run", tag_value(version.tags, f"{_OF_VERSION}run_id")
        if is_web_address(server):
            yield "copied_from_url", Web(server.rstrip("/")).version(name, quote(number, safe="")) or ""
    elif _ANOTHER_VERSION.fullmatch(version.source):
        yield "copied_from", version.source


def origin_of_run(run: Run) -> Iterator[tuple[str, str]]:
    """The same, of a run that was imported."""
    if original := tag_value(run.tags, f"{_OF_RUN}run_id"):
        yield "copied_from_run", original
        yield "copied_from_user", tag_value(run.tags, f"{_OF_RUN}user_id")
        yield "copied_from_server", redact_url(tag_value(run.tags, _SERVER))
