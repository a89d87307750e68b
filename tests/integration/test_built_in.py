"""A recipe of the built-in source with another `type`: the same entities, and a clean change-over.

The built-in runs as a process of its own, in an environment of its own (`.venv-builtin`): it pins an older MLflow.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datahub.metadata.schema_classes import GlobalTagsClass, TagAssociationClass

from tests.support.gms import GmsStandIn
from tests.support.ingest import ingest, run_recipe
from tests.support.servers import MlflowServer, mlflow_server

pytestmark = pytest.mark.builtin

DATAHUB = Path(__file__).parents[2] / ".venv-builtin/bin/datahub"
COMPARED = ("container", "dataProcessInstance", "mlModelGroup", "mlModel")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """With nothing in it that stops the built-in (docs/built-in.md says what would)."""
    with mlflow_server(tmp_path_factory.mktemp("builtin")) as server:
        _fill(server)
        yield server


def _fill(server: MlflowServer) -> None:
    dataset = {
        "dataset": {
            "name": "train.csv",
            "digest": "5f1c2a9b",
            "source_type": "s3",
            "source": json.dumps({"uri": "s3://acme/churn/train.csv"}),
            "schema": json.dumps({"mlflow_colspec": [{"name": "age", "type": "long", "required": True}]}),
        },
        "tags": [{"key": "mlflow.data.context", "value": "training"}],
    }
    for name in ("churn", "需求 forecast"):
        experiment_id = server.post("experiments/create", name=name)["experiment_id"]
        for number in range(3):
            run = server.post(
                "runs/create", experiment_id=experiment_id, run_name=f"{name} {number}", start_time=1_700_000_000_000
            )
            run_id = run["run"]["info"]["run_id"]
            server.post("runs/log-batch", run_id=run_id, metrics=[], params=[{"key": "depth", "value": "3"}], tags=[])
            server.post("runs/log-inputs", run_id=run_id, datasets=[dataset])
            server.post("runs/update", run_id=run_id, status="FINISHED", end_time=1_700_000_060_000)
            if number == 0:
                server.post("registered-models/create", name=f"{name} model")
            server.post("model-versions/create", name=f"{name} model", source="s3://acme/model", run_id=run_id)
    server.post("model-versions/transition-stage", name="churn model", version="2", stage="Production")


def _built_in(recipe: dict[str, Any], folder: Path) -> None:
    """Runs the built-in on this recipe."""
    source = {**recipe["source"], "type": "mlflow"}
    file = folder / "built-in.json"  # YAML too
    file.write_text(json.dumps({**recipe, "source": source}))
    quiet = {"HOME": str(folder), "DATAHUB_TELEMETRY_ENABLED": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [str(DATAHUB), "ingest", "--no-default-report", "--no-progress", "-c", str(file)]
    done = subprocess.run(
        command, env={**os.environ, **quiet}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_urns_are_the_built_ins(server: MlflowServer, tmp_path: Path) -> None:
    config = {"tracking_uri": server.url, "model_name_separator": "-v"}
    sink = {"type": "file", "config": {"filename": str(tmp_path / "theirs.json")}}
    _built_in({"source": {"config": config}, "sink": sink}, tmp_path)
    theirs = json.loads((tmp_path / "theirs.json").read_text())
    ours = ingest(config, tmp_path / "ours.json")
    for entity_type in COMPARED:
        expected = {p["entityUrn"] for p in theirs if p["entityType"] == entity_type}
        registry = {urn for urn in ours.urns("container") if "Model Registry" in str(ours.aspects[urn]["subTypes"])}
        assert ours.urns(entity_type) - registry == expected, entity_type
        assert expected
    sets = {p["aspect"]["json"]["versionSet"] for p in theirs if p["aspectName"] == "versionProperties"}
    assert sets == {ours.aspects[urn]["versionProperties"]["versionSet"] for urn in ours.urns("mlModel")}


def test_both_in_turn_on_one_checkpoint(server: MlflowServer, tmp_path: Path) -> None:
    """Only what nobody needs goes: users as platform resources, datasets by name alone, the tag for no stage."""
    with GmsStandIn() as gms:
        recipe = {
            "pipeline_name": "mlflow",
            "source": {
                "type": "datahub-mlflow-source",
                "config": {"tracking_uri": server.url, "stateful_ingestion": {"enabled": True}},
            },
            "sink": {"type": "datahub-rest", "config": {"server": gms.url}},
        }
        _built_in(recipe, tmp_path)
        before = set(gms.urns())
        staged = next(urn for urn in gms.urns("mlModel") if ",churn model_2," in urn)
        unstaged = next(urn for urn in gms.urns("mlModel") if ",churn model_1," in urn)
        for urn in (staged, unstaged):
            tags = [tag["tag"] for tag in (gms.aspect(urn, "globalTags") or {})["tags"]]
            by_hand = [TagAssociationClass(tag) for tag in (*tags, "urn:li:tag:reviewed")]
            gms.write(urn, GlobalTagsClass(by_hand))
        pipeline = run_recipe(recipe)
        assert not pipeline.source.get_report().failures
        assert gms.rejections == []
        removed = {urn for urn in before if gms.is_removed(urn) and not urn.startswith("urn:li:dataJob")}
        resources = {urn for urn in before if urn.startswith("urn:li:platformResource:")}
        by_name = {urn for urn in before if urn.startswith("urn:li:dataset:(urn:li:dataPlatform:mlflow,train.csv,")}
        assert by_name
        assert removed == resources | by_name | {"urn:li:tag:mlflow_none"}
        assert _tags(gms, staged) == {"urn:li:tag:mlflow_production", "urn:li:tag:reviewed"}
        assert _tags(gms, unstaged) == {"urn:li:tag:reviewed"}


def _tags(gms: GmsStandIn, urn: str) -> set[str]:
    return {tag["tag"] for tag in (gms.aspect(urn, "globalTags") or {})["tags"]}
