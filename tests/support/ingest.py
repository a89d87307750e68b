"""Ingestions as the CLI runs them, in this process, and what they sent."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from datahub.ingestion.run.pipeline import Pipeline
from datahub.utilities.server_config_util import set_gms_config

from datahub_mlflow_source.report import MlflowSourceReport
from tests.support.gms import GmsStandIn

Aspect = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ingested:
    """What an ingestion into a file sent."""

    report: MlflowSourceReport
    aspects: Mapping[str, Mapping[str, Aspect]]  # urn -> aspect name -> aspect, the last one sent
    events: Mapping[str, list[Aspect]]  # urn -> its run events
    proposals: list[dict[str, Any]]  # everything, in order

    @property
    def failed(self) -> bool:
        """Whether the CLI would exit with 1."""
        return bool(self.report.failures)

    def urns(self, entity_type: str) -> set[str]:
        return {urn for urn in self.aspects if urn.startswith(f"urn:li:{entity_type}:")}

    def named(self, entity_type: str, name: str) -> tuple[str, Mapping[str, Aspect]]:
        """The one entity of this type that shows this name."""
        properties = {
            "container": "containerProperties",
            "dataProcessInstance": "dataProcessInstanceProperties",
            "mlModel": "mlModelProperties",
            "mlModelGroup": "mlModelGroupProperties",
            "dataset": "datasetProperties",
        }[entity_type]
        found = [
            (urn, self.aspects[urn])
            for urn in self.urns(entity_type)
            if self.aspects[urn].get(properties, {}).get("name") == name
        ]
        assert len(found) == 1, f"{len(found)} of type {entity_type} called {name!r}"
        return found[0]


def run_recipe(recipe: Mapping[str, Any]) -> Pipeline:
    """Runs a recipe to its end. What it did is in the pipeline's reports.

    Without the question for newer versions of the CLI, which goes to the internet.
    """
    set_gms_config({})  # of this process: what an earlier ingestion learned about its server
    with patch.object(Pipeline, "_warn_old_cli_version"):
        pipeline = Pipeline.create(dict(recipe), report_to=None, no_progress=True)
        pipeline.run()
    return pipeline


def recipe(config: Mapping[str, Any], sink: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """A recipe for our source."""
    return {
        **({"pipeline_name": name} if name else {}),
        "source": {"type": "datahub-mlflow-source", "config": dict(config)},
        "sink": dict(sink),
    }


def ingest(config: Mapping[str, Any], file: Path, name: str | None = None) -> Ingested:
    """Into a file."""
    sink = {"type": "file", "config": {"filename": str(file)}}
    pipeline = run_recipe(recipe(config, sink, name))
    report = pipeline.source.get_report()
    assert isinstance(report, MlflowSourceReport)
    proposals = json.loads(file.read_text()) if file.exists() else []
    aspects: dict[str, dict[str, Aspect]] = defaultdict(dict)
    events: dict[str, list[Aspect]] = defaultdict(list)
    for proposal in proposals:
        value = proposal["aspect"].get("json", proposal["aspect"])
        if proposal["aspectName"] == "dataProcessInstanceRunEvent":
            events[proposal["entityUrn"]].append(value)
        else:
            aspects[proposal["entityUrn"]][proposal["aspectName"]] = value
    return Ingested(report, dict(aspects), dict(events), proposals)


def ingest_into(gms: GmsStandIn, config: Mapping[str, Any], name: str = "test", **sink: Any) -> Pipeline:
    """Into the stand-in of DataHub's server, in the sink's default mode unless told otherwise."""
    return run_recipe(recipe(config, {"type": "datahub-rest", "config": {"server": gms.url, **sink}}, name))
