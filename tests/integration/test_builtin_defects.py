"""What is wrong in DataHub's built-in source is right here; `docs/built-in.md` names the test for each defect.

Each test states what must come out, and fails on what the built-in sends. The server holds the contents of all
tests side by side: each makes an experiment and models of its own name, and reads only those.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import mlflow
import pytest
from datahub.ingestion.api.common import PipelineContext
from datahub.ingestion.api.decorators import CapabilitySetting
from datahub.ingestion.api.source import SourceCapability, TestableSource
from datahub.metadata.schema_classes import GlobalTagsClass, TagAssociationClass

from datahub_mlflow_source import MlflowSource
from datahub_mlflow_source.config import MlflowSourceConfig
from tests.support.gms import GmsStandIn
from tests.support.gms.urns import check
from tests.support.ingest import Aspect, Ingested, ingest, ingest_into
from tests.support.proxy import CountingProxy
from tests.support.servers import MlflowServer, mlflow_server

START, END = 1_700_000_000_000, 1_700_000_060_000
TABLE = {"mlflow_colspec": [{"name": "id", "type": "long", "required": True}]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("defects")) as server:
        yield server


def read(server: MlflowServer, name: str, folder: Path, **config: Any) -> Ingested:
    """The experiments and models whose names begin with this."""
    pattern = {"allow": [re.escape(name)]}
    config = {"tracking_uri": server.url, "experiment_pattern": pattern, "model_pattern": pattern, **config}
    return ingest(config, folder / "out.json")


# Contents


def new_run(server: MlflowServer, experiment: str, name: str = "run", **tags: str) -> str:
    """A finished run in the experiment of this name, which is made where it is missing."""
    found = server.post("experiments/search", filter=f'name = "{experiment}"', max_results=1).get("experiments")
    experiment_id = (
        found[0]["experiment_id"] if found else server.post("experiments/create", name=experiment)["experiment_id"]
    )
    pairs = [{"key": key, "value": value} for key, value in tags.items()]
    run = server.post("runs/create", experiment_id=experiment_id, run_name=name, start_time=START, tags=pairs)
    run_id: str = run["run"]["info"]["run_id"]
    server.post("runs/update", run_id=run_id, status="FINISHED", end_time=END)
    return run_id


def log_dataset(
    server: MlflowServer, run_id: str, name: str, source_type: str, source: dict[str, Any], schema: Any = TABLE
) -> None:
    dataset = {"name": name, "digest": "5f1c2a9b", "source_type": source_type, "source": json.dumps(source)}
    if schema is not None:
        dataset["schema"] = json.dumps(schema)
    server.post("runs/log-inputs", run_id=run_id, datasets=[{"dataset": dataset, "tags": []}])


def new_model(server: MlflowServer, name: str, *run_ids: str) -> None:
    """A registered model with one version from each of these runs; an empty id is none."""
    server.post("registered-models/create", name=name)
    for run_id in run_ids:
        server.post("model-versions/create", name=name, source="s3://acme/model", run_id=run_id)


# Looking at what came out


def of_run(ingested: Ingested, run_id: str) -> Aspect:
    """The aspects of the run with this id."""
    (found,) = [
        aspects
        for aspects in ingested.aspects.values()
        if aspects.get("mlTrainingRunProperties", {}).get("id") == run_id
    ]
    return dict(found)


def models(ingested: Ingested) -> dict[str, Aspect]:
    """The aspects of each version, by `<model>_<version>` in its URN."""
    return {check(urn).parts[1]: dict(ingested.aspects[urn]) for urn in ingested.urns("mlModel")}


def inputs(ingested: Ingested, run_id: str) -> list[Aspect]:
    """The datasets that a run read."""
    edges = of_run(ingested, run_id)["dataProcessInstanceInput"]["inputEdges"]
    return [dict(ingested.aspects[edge["destinationUrn"]]) for edge in edges]


# Runs


def test_tags_of_a_run_are_in_its_properties(server: MlflowServer, tmp_path: Path) -> None:
    """Defect 1: the built-in looks for them where they are not."""
    run_id = new_run(
        server, "d1", **{"mlflow.source.git.commit": "4f1a6a2", "mlflow.note.content": "Good.", "team": "x"}
    )
    shown = of_run(read(server, "d1", tmp_path), run_id)["dataProcessInstanceProperties"]["customProperties"]
    assert shown.items() >= {"mlflow.source.git.commit": "4f1a6a2", "mlflow.note.content": "Good.", "team": "x"}.items()


def test_every_version_that_came_from_a_run_is_its_output(server: MlflowServer, tmp_path: Path) -> None:
    """Defect 9: the built-in links one of them."""
    run_id = new_run(server, "d9")
    new_model(server, "d9", run_id, run_id, run_id)
    output = of_run(read(server, "d9", tmp_path), run_id)["dataProcessInstanceOutput"]
    made = {check(edge["destinationUrn"]).parts[1] for edge in output["outputEdges"]}
    assert made == {"d9_1", "d9_2", "d9_3"}


def test_a_run_has_a_beginning_and_an_end_with_its_own_status(server: MlflowServer, tmp_path: Path) -> None:
    """Defect 11: in the built-in no run starts, a killed one was skipped, and one that goes on has no event at all."""
    killed, running = new_run(server, "d11", "killed"), new_run(server, "d11", "running")
    server.post("runs/update", run_id=killed, status="KILLED", end_time=END)
    server.execute("UPDATE runs SET status = 'RUNNING', end_time = NULL WHERE run_uuid = ?", running)
    ingested = read(server, "d11", tmp_path)
    events = {
        ingested.aspects[urn]["mlTrainingRunProperties"]["id"]: [
            (event["status"], event["timestampMillis"], event.get("result")) for event in events
        ]
        for urn, events in ingested.events.items()
    }
    assert events == {
        killed: [
            ("STARTED", START, None),
            ("COMPLETE", END, {"type": "FAILURE", "nativeResultType": "KILLED"}),
        ],
        running: [("STARTED", START, None)],
    }


def test_a_child_names_its_parent(server: MlflowServer, tmp_path: Path) -> None:
    """Defect 17: the built-in doesn't."""
    parent = new_run(server, "d17", "parent")
    child = new_run(server, "d17", "child", **{"mlflow.parentRunId": parent})
    ingested = read(server, "d17", tmp_path)
    urn = of_run(ingested, child)["dataProcessInstanceRelationships"]["parentInstance"]
    assert ingested.aspects[urn]["mlTrainingRunProperties"]["id"] == parent


# Datasets


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(None, id="none"),
        pytest.param({"mlflow_colspec": [{"name": "t", "type": "array", "items": {"type": "string"}}]}, id="array"),
        pytest.param({"mlflow_colspec": [{"name": "o", "type": "object", "properties": {}}]}, id="object"),
        pytest.param({"mlflow_colspec": [{"name": "d", "type": {"type": "map"}}]}, id="a dict for a type"),
    ],
)
def test_no_schema_of_a_dataset_stops_anything(
    server: MlflowServer, tmp_path: Path, schema: Any, request: pytest.FixtureRequest
) -> None:
    """Defects 2 and 3: the built-in breaks off at a dataset without schema, and at a type that is a JSON object."""
    name = f"d2 {request.node.callspec.id}"
    run_id = new_run(server, name)
    log_dataset(server, run_id, "train", "s3", {"uri": "s3://acme/train.csv"}, schema)
    new_model(server, name, run_id)
    ingested = read(server, name, tmp_path)
    assert not ingested.failed
    assert list(models(ingested)) == [f"{name}_1"]
    (dataset,) = inputs(ingested, run_id)
    assert ("schemaMetadata" in dataset) == (schema is not None)


def test_a_dataset_leads_to_the_real_one_by_its_source(server: MlflowServer, tmp_path: Path) -> None:
    """Defect 13: the built-in takes MLflow's name for the real one, and two datasets of one name for one."""
    first, second = new_run(server, "d13 churn"), new_run(server, "d13 forecast")
    log_dataset(server, first, "train", "s3", {"uri": "s3://acme/churn/train.csv"})
    log_dataset(server, second, "train", "s3", {"uri": "s3://acme/forecast/train.csv"})
    ingested = read(server, "d13", tmp_path)
    real = {
        run_id: dataset["upstreamLineage"]["upstreams"][0]["dataset"]
        for run_id in (first, second)
        for dataset in inputs(ingested, run_id)
    }
    assert real == {
        first: "urn:li:dataset:(urn:li:dataPlatform:s3,acme/churn/train.csv,PROD)",
        second: "urn:li:dataset:(urn:li:dataPlatform:s3,acme/forecast/train.csv,PROD)",
    }


@pytest.mark.parametrize("materialize", [False, True])
def test_no_type_of_source_fails_or_is_dropped(server: MlflowServer, tmp_path: Path, materialize: bool) -> None:
    """Defect 15: the built-in links some twenty types, and with `materialize_dataset_inputs` fails on all others."""
    name = f"d15 {materialize}"
    run_id = new_run(server, name)
    log_dataset(server, run_id, "delta", "delta_table", {"delta_table_name": "main.sales.orders"})
    log_dataset(server, run_id, "hub", "hugging_face", {"path": "acme/churn"})
    log_dataset(server, run_id, "web", "http", {"url": "https://b.s3.amazonaws.com/k.csv"})
    log_dataset(server, run_id, "dbfs", "dbfs", {"uri": "dbfs:/mnt/x.csv"})
    log_dataset(server, run_id, "own", "acme_lake", {"place": "x"})
    ingested = read(server, name, tmp_path, materialize_dataset_inputs=materialize)
    assert not ingested.failed
    real = {
        dataset["datasetProperties"]["name"]: check(dataset["upstreamLineage"]["upstreams"][0]["dataset"]).parts[:2]
        for dataset in inputs(ingested, run_id)
        if "upstreamLineage" in dataset
    }
    assert real == {
        "delta": ("urn:li:dataPlatform:databricks", "main.sales.orders"),
        "hub": ("urn:li:dataPlatform:huggingface", "acme/churn"),
        "web": ("urn:li:dataPlatform:s3", "b/k.csv"),
        "dbfs": ("urn:li:dataPlatform:dbfs", "/mnt/x.csv"),
    }
    assert len(inputs(ingested, run_id)) == 5
    assert {check(urn).parts[0] for urn in ingested.urns("dataset")} == {"urn:li:dataPlatform:mlflow"}


# Models


def test_a_version_whose_run_is_gone_stops_nothing(server: MlflowServer, tmp_path: Path) -> None:
    """Defect 5: the built-in asks for each run and breaks off where there is none."""
    gone, there = new_run(server, "d5"), new_run(server, "d5")
    new_model(server, "d5 a", gone)
    new_model(server, "d5 b", there)
    for table in ("params", "tags", "latest_metrics", "metrics", "runs"):
        server.execute(f"DELETE FROM {table} WHERE run_uuid = ?", gone)  # noqa: S608 - as `mlflow gc` does
    ingested = read(server, "d5", tmp_path)
    assert not ingested.failed
    jobs = {name: len(aspects["mlModelProperties"]["trainingJobs"]) for name, aspects in models(ingested).items()}
    assert jobs == {"d5 a_1": 0, "d5 b_1": 1}


def test_a_quote_in_the_name_of_a_model_stops_nothing(server: MlflowServer, tmp_path: Path) -> None:
    """Defect 6: the built-in puts the name into a filter."""
    new_model(server, "d6 it's", "")
    new_model(server, 'd6 say "yes"', "")
    ingested = read(server, "d6", tmp_path)
    assert not ingested.failed
    assert set(models(ingested)) == {"d6 it's_1", 'd6 say "yes"_1'}


def test_commas_and_brackets_in_a_name_make_urns_that_datahub_takes(server: MlflowServer, tmp_path: Path) -> None:
    """Defect 7: the built-in does not encode them, and DataHub's server reads a name of several parts."""
    new_model(server, "d7 fraud, v2 (EU)", "")
    ingested = read(server, "d7", tmp_path)
    (version,), (group,) = ingested.urns("mlModel"), ingested.urns("mlModelGroup")
    assert check(version).parts[1:] == ("d7 fraud%2C v2 %28EU%29_1", "PROD")
    assert check(group).parts[1:] == ("d7 fraud%2C v2 %28EU%29", "PROD")


def test_requests_do_not_grow_with_runs_versions_and_models(server: MlflowServer, tmp_path: Path) -> None:
    """Defect 8: the built-in sends one for each of them."""
    counts = []
    for models_made in (0, 10):
        for number in range(models_made, models_made + 10):
            new_model(server, f"d8 {number}", new_run(server, "d8"), new_run(server, "d8"))
        with CountingProxy(server.url) as proxy:
            read(server, "d8", tmp_path, tracking_uri=proxy.url, include_artifacts="none")
            counts.append(len(proxy.requests))
    assert counts[0] == counts[1] <= 12


def test_versions_and_groups_have_all_that_a_page_in_datahub_shows(server: MlflowServer, tmp_path: Path) -> None:
    """Defect 20: the built-in sends their properties and little else."""
    run_id = new_run(server, "d20", **{"mlflow.source.git.repoURL": "https://github.com/acme/churn.git"})
    log_dataset(server, run_id, "train", "s3", {"uri": "s3://acme/train.csv"})
    new_model(server, "d20", run_id)
    ingested = read(server, "d20", tmp_path)
    (version,), (group_urn,) = models(ingested).values(), ingested.urns("mlModelGroup")
    group = ingested.aspects[group_urn]
    for entity in (version, group):
        assert entity.keys() >= {"container", "subTypes", "dataPlatformInstance", "browsePathsV2", "status"}
    assert version.keys() >= {"mlModelProperties", "versionProperties", "sourceCode", "mlModelTrainingData"}
    assert (version["mlModelProperties"]["name"], group["mlModelGroupProperties"]["name"]) == ("d20_1", "d20")
    assert group["mlModelGroupProperties"].keys() >= {"externalUrl", "trainingJobs"}


def test_the_newest_version_of_a_model_is_the_one_of_the_highest_number(server: MlflowServer, tmp_path: Path) -> None:
    """Defect 21: the built-in takes the first of a list by stage."""
    new_model(server, "d21", *[""] * 11)
    server.post("model-versions/transition-stage", name="d21", version="2", stage="Archived")
    server.post("model-versions/transition-stage", name="d21", version="9", stage="Production")
    (urn,) = (ingested := read(server, "d21", tmp_path)).urns("mlModelGroup")
    assert ingested.aspects[urn]["mlModelGroupProperties"]["version"]["versionTag"] == "11"


def test_links_lead_where_people_open_mlflow(server: MlflowServer, tmp_path: Path) -> None:
    """Defect 23: in the built-in, runs don't, names are not quoted, and experiments and groups have none."""
    run_id = new_run(server, "d23 a/b?")
    server.execute("UPDATE experiments SET name = 'd23 a/b' WHERE name = 'd23 a/b?'")
    new_model(server, "d23 a#b", run_id)
    ingested = read(server, "d23", tmp_path, base_external_url="https://mlflow.example.com/ui/")
    experiment_id = server.get("runs/get", run_id=run_id)["run"]["info"]["experiment_id"]
    links = {
        aspect["externalUrl"]
        for aspects in ingested.aspects.values()
        for aspect in aspects.values()
        if "externalUrl" in aspect
    }
    root = "https://mlflow.example.com/ui/#"
    assert links == {
        f"{root}/experiments/{experiment_id}",
        f"{root}/experiments/{experiment_id}/runs/{run_id}",
        f"{root}/models",
        f"{root}/models/d23%20a%23b",
        f"{root}/models/d23%20a%23b/versions/1",
    }


def test_tags_that_people_added_stay_and_no_stage_is_no_tag(server: MlflowServer) -> None:
    """Defect 19: the built-in replaces all tags of a version at each ingestion, and calls no stage `mlflow_none`."""
    new_model(server, "d19", "", "")
    server.post("model-versions/transition-stage", name="d19", version="2", stage="Production")
    config = {"tracking_uri": server.url, "model_pattern": {"allow": ["d19"]}, "experiment_pattern": {"deny": [".*"]}}
    with GmsStandIn() as gms:
        ingest_into(gms, config)
        unstaged, staged = gms.urns("mlModel")
        for urn in (unstaged, staged):
            tags = [*tags_of(gms, urn), "urn:li:tag:reviewed"]
            gms.write(urn, GlobalTagsClass([TagAssociationClass(tag) for tag in tags]))
        ingest_into(gms, config)
        assert tags_of(gms, unstaged) == ["urn:li:tag:reviewed"]
        assert tags_of(gms, staged) == ["urn:li:tag:mlflow_production", "urn:li:tag:reviewed"]


def tags_of(gms: GmsStandIn, urn: str) -> list[str]:
    return sorted(tag["tag"] for tag in (gms.aspect(urn, "globalTags") or {"tags": []})["tags"])


# The recipe


@pytest.mark.parametrize(
    ("config", "runs", "versions"),
    [
        ({}, ["big", "new", "old"], ["d24 model_1", "d24 other_1"]),
        ({"experiment_pattern": {"allow": ["d24"], "deny": ["d24 b"]}}, ["new", "old"], ["d24 model_1", "d24 other_1"]),
        ({"experiments": [{"name": "d24 b*"}], "experiment_pattern": None}, ["big"], ["d24 model_1", "d24 other_1"]),
        ({"model_pattern": {"allow": ["d24 m"]}}, ["big", "new", "old"], ["d24 model_1"]),
        ({"run_name_pattern": {"deny": ["o"]}}, ["big", "new"], ["d24 model_1", "d24 other_1"]),
        ({"run_user_pattern": {"deny": ["ada"]}}, ["new", "old"], ["d24 model_1", "d24 other_1"]),
        ({"run_filter": "tags.size = 'big'"}, ["big"], ["d24 model_1", "d24 other_1"]),
        ({"max_runs_per_experiment": 1}, ["big", "new"], ["d24 model_1", "d24 other_1"]),
        ({"run_retention_days": 1}, [], ["d24 model_1", "d24 other_1"]),
        ({"include_runs": "registered"}, ["big", "old"], ["d24 model_1", "d24 other_1"]),
        ({"include_runs": "none"}, [], ["d24 model_1", "d24 other_1"]),
    ],
    ids=lambda value: ",".join(value) or "everything" if isinstance(value, dict) else "",
)
def test_a_recipe_says_what_is_read(
    server: MlflowServer, tmp_path: Path, config: dict[str, Any], runs: list[str], versions: list[str]
) -> None:
    """Defect 24: the built-in reads everything always."""
    if not server.post("experiments/search", filter="name = 'd24 a'", max_results=1).get("experiments"):
        old = new_run(server, "d24 a", "old")
        new = new_run(server, "d24 a", "new")
        server.execute("UPDATE runs SET start_time = start_time + 1 WHERE run_uuid = ?", new)
        big = new_run(server, "d24 b", "big", size="big")
        server.execute("UPDATE runs SET user_id = 'ada' WHERE run_uuid = ?", big)
        new_model(server, "d24 model", old)
        new_model(server, "d24 other", big)
    pattern = {"allow": ["d24"]}
    asked = {"experiment_pattern": pattern, "model_pattern": pattern, **config}
    asked = {key: value for key, value in asked.items() if value is not None}
    ingested = ingest({"tracking_uri": server.url, **asked}, tmp_path / "out.json")
    assert not ingested.failed
    shown = (ingested.aspects[urn]["dataProcessInstanceProperties"] for urn in ingested.urns("dataProcessInstance"))
    assert sorted(properties["name"] for properties in shown) == runs
    assert sorted(models(ingested)) == versions


def test_credentials_are_not_left_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect 25: the built-in puts user and password there, for all that runs in the process after it."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    config = {"tracking_uri": "http://127.0.0.1:9", "username": "ada", "password": "made-up"}
    source = MlflowSource.create(config, PipelineContext(run_id="test"))
    during = dict(os.environ)
    source.close()
    assert before == during == dict(os.environ)


def test_the_source_can_be_tested_and_probed_and_says_what_it_can() -> None:
    """Defect 26: the built-in has neither `test_connection` nor a probe, and names no lineage."""
    assert issubclass(MlflowSource, TestableSource)
    assert MlflowSourceConfig.probe_provider_class().__name__ == "MlflowProbe"
    declared: Iterable[CapabilitySetting] = MlflowSource.get_capabilities()  # type: ignore[attr-defined]
    offered = {setting.capability for setting in declared if setting.supported}
    assert offered >= {
        SourceCapability.LINEAGE_COARSE,
        SourceCapability.TEST_CONNECTION,
        SourceCapability.PLATFORM_INSTANCE,
        SourceCapability.SCHEMA_METADATA,
        SourceCapability.DELETION_DETECTION,
    }


def test_no_user_becomes_an_entity_that_is_removed_one_day(server: MlflowServer, tmp_path: Path) -> None:
    """Defect 27: the built-in makes platform resources of users, and soft-deletes those whose runs are gone."""
    new_run(server, "d27")
    ingested = read(server, "d27", tmp_path, stateful_ingestion={"enabled": False})
    assert {check(urn).entity_type for urn in ingested.aspects} == {"tag", "container", "dataProcessInstance"}


def test_the_newest_mlflow_is_read(server: MlflowServer, tmp_path: Path) -> None:
    """Defect 29: the built-in needs an MLflow older than 2.21 beside it."""
    (needed,) = [text for text in requires("datahub-mlflow-source") or [] if text.startswith("mlflow")]
    assert "<" not in needed
    assert int(mlflow.__version__.split(".")[0]) >= 3
    run_id = new_run(server, "d29")
    new_model(server, "d29", run_id)
    ingested = read(server, "d29", tmp_path)
    assert (ingested.report.mlflow_version, ingested.failed) == (mlflow.__version__, False)
    assert list(models(ingested)) == ["d29_1"]
