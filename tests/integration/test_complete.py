"""Nothing that MLflow's own client returns is missing, and nothing secret or foreign is there."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from datahub.emitter.mce_builder import make_dataset_urn, make_schema_field_urn
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from datahub_mlflow_source.mapping.rules import LEFT_OUT, NOTE
from tests.support.content import CHURN, FRAUD, SECRETS, Content
from tests.support.gms import GmsStandIn
from tests.support.ingest import Aspect, Ingested, ingest, ingest_into
from tests.support.servers import MlflowServer

LIMITED = {"long": 5000}  # far below `limits`: must come whole


def _runs(client: MlflowClient) -> list[Run]:
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(ids, run_view_type=ViewType.ACTIVE_ONLY, max_results=1000))


def _run(ingested: Ingested, run_id: str) -> dict[str, Aspect]:
    """The aspects of the one run that has this id."""
    found = [
        aspects
        for urn, aspects in ingested.aspects.items()
        if aspects.get("mlTrainingRunProperties", {}).get("id") == run_id
    ]
    assert len(found) == 1
    return dict(found[0])


def test_nothing_failed_and_nothing_was_cut(ingested: Ingested) -> None:
    assert not ingested.failed
    assert list(ingested.report.warnings) == []
    assert list(ingested.report.cut) == []


def test_every_experiment_is_there_with_its_note_and_tags(ingested: Ingested, client: MlflowClient) -> None:
    experiments = client.search_experiments()
    for experiment in experiments:
        _, aspects = ingested.named("container", experiment.name)
        properties = aspects["containerProperties"]
        assert properties["created"]["time"] == experiment.creation_time
        assert properties["lastModified"]["time"] == experiment.last_update_time
        tags = dict(experiment.tags)
        assert properties.get("description") == tags.pop(NOTE, None)
        assert tags.items() <= properties["customProperties"].items()
        assert properties["customProperties"]["mlflow_source.artifact_location"] == experiment.artifact_location
    with_registry = len(experiments) + 1
    assert len(ingested.urns("container")) == with_registry


def test_deleted_experiments_and_runs_are_left_out_unless_asked_for(
    ingested: Ingested, server: MlflowServer, content: Content, tmp_path: Any
) -> None:
    everything = ingest({"tracking_uri": server.url, "include_deleted": True}, tmp_path / "out.json")
    assert everything.urns("container") - ingested.urns("container") == {
        everything.named("container", name)[0] for name in content.deleted_experiments
    }
    assert len(everything.urns("dataProcessInstance")) == len(content.runs) + len(content.deleted_runs)
    assert len(ingested.urns("dataProcessInstance")) == len(content.runs)


def test_every_param_metric_and_tag_of_every_run_is_there(ingested: Ingested, client: MlflowClient) -> None:
    runs = _runs(client)
    assert runs
    for run in runs:
        aspects = _run(ingested, run.info.run_id)
        training = aspects["mlTrainingRunProperties"]
        assert {param["name"]: param["value"] for param in training["hyperParams"]} == run.data.params
        _same_metrics({metric["name"]: metric["value"] for metric in training["trainingMetrics"]}, run.data.metrics)
        shown = aspects["dataProcessInstanceProperties"]["customProperties"]
        for key, value in run.data.tags.items():
            if key in LEFT_OUT:
                assert key not in shown
            elif not any(secret in value for secret in SECRETS):
                assert shown[key] == value


def _same_metrics(shown: dict[str, str], logged: dict[str, float]) -> None:
    assert shown.keys() == logged.keys()
    for key, value in logged.items():
        assert float(shown[key]) == value or (math.isnan(float(shown[key])) and math.isnan(value))


def test_every_dataset_input_is_an_edge_with_its_digest_and_context(ingested: Ingested, client: MlflowClient) -> None:
    for run in _runs(client):
        edges = _run(ingested, run.info.run_id).get("dataProcessInstanceInput", {"inputEdges": []})["inputEdges"]
        said = [edge["properties"] for edge in edges]
        for dataset_input in run.inputs.dataset_inputs if run.inputs else []:
            dataset = dataset_input.dataset
            (properties,) = [p for p in said if p["name"] == dataset.name and dataset.digest in p["digest"]]
            for tag in dataset_input.tags:
                if tag.key == "mlflow.data.context":
                    assert tag.value in properties["context"]
        for edge in edges:
            assert ingested.aspects[edge["destinationUrn"]]["datasetProperties"]["name"] == edge["properties"]["name"]


def test_every_model_and_version_is_there_with_aliases_and_tags(ingested: Ingested, client: MlflowClient) -> None:
    models = client.search_registered_models(max_results=1000)
    assert len(ingested.urns("mlModelGroup")) == len(models)
    for model in models:
        _, aspects = ingested.named("mlModelGroup", model.name)
        properties = aspects["mlModelGroupProperties"]
        assert dict(model.tags).items() <= properties["customProperties"].items()
        assert properties.get("description", "") == (model.description or "")
    versions = client.search_model_versions(max_results=1000)
    assert len(_with_subtype(ingested, "ML Model")) == len(versions)
    aliases: dict[tuple[str, str], list[str]] = defaultdict(list)
    for model in models:
        for alias, version in model.aliases.items():
            aliases[model.name, str(version)].append(alias)
    for version in versions:
        _, shown = ingested.named("mlModel", f"{version.name}_{version.version}")
        properties = shown["mlModelProperties"]
        assert dict(version.tags).items() <= properties["customProperties"].items()
        assert properties["description"] == version.description
        run_id = version.run_id or (
            client.get_logged_model(_model_id(version)).source_run_id if _model_id(version) else ""
        )
        assert properties["customProperties"].get("mlflow_source.run_id", "") == run_id
        tags = [tag["versionTag"] for tag in shown["versionProperties"]["aliases"]]
        assert tags == sorted(aliases[version.name, str(version.version)])


def _with_subtype(ingested: Ingested, subtype: str) -> dict[str, dict[str, Aspect]]:
    return {
        urn: dict(found) for urn, found in ingested.aspects.items() if found.get("subTypes") == {"typeNames": [subtype]}
    }


def _model_id(version: Any) -> str:
    return str(version.source).removeprefix("models:/") if str(version.source).startswith("models:/m-") else ""


def test_every_logged_model_is_there_once(ingested: Ingested, client: MlflowClient, content: Content) -> None:
    """In its version, or as an entity of its own: each of its params, metrics and tags."""
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    models = {model.model_id: model for model in client.search_logged_models(ids)}
    versions = {_model_id(version): version for version in client.search_model_versions(max_results=1000)}
    own = {found["mlModelProperties"]["customProperties"]["mlflow_source.model_id"] for found in _logged(ingested)}
    assert own == models.keys() - versions.keys() == set(content.logged_models.values())
    assert versions.keys() & models.keys()
    for model_id, model in models.items():
        if model_id in own:
            _, found = ingested.named("mlModel", model.name)
            prefix = ""
        else:
            _, found = ingested.named("mlModel", f"{versions[model_id].name}_{versions[model_id].version}")
            prefix = "mlflow_source.logged_model."
        shown = found["mlModelProperties"]
        assert model.params.items() <= {param["name"]: param["value"] for param in shown["hyperParams"]}.items()
        for key, value in model.tags.items():
            collides = not prefix and key.startswith("signature.")
            assert shown["customProperties"][f"tag.{key}" if collides else prefix + key] == value
        said = [(metric["name"], float(metric["value"]), metric["description"]) for metric in shown["trainingMetrics"]]
        for metric in _last_of_each_dataset(model.metrics or []):
            (about,) = [about for name, value, about in said if (name, value) == (metric.key, metric.value)]
            assert about.startswith(f"step {metric.step}")
            assert (metric.dataset_name or "") in about
            assert (f"run {metric.run_id}" in about) == (metric.run_id != model.source_run_id)
        assert shown["customProperties"].get("mlflow_source.artifact_uri") == model.artifact_location
        assert shown["customProperties"].get("mlflow_source.model_type", "") == (model.model_type or "")


def _logged(ingested: Ingested) -> list[dict[str, Aspect]]:
    return list(_with_subtype(ingested, "ML Logged Model").values())


def _last_of_each_dataset(metrics: list[Any]) -> list[Any]:
    last: dict[tuple[str, str | None], Any] = {}
    for metric in sorted(metrics, key=lambda metric: (metric.timestamp, metric.step)):
        last[metric.key, metric.dataset_name] = metric
    return list(last.values())


def test_logged_models_are_linked_with_their_run_and_in_their_experiment(ingested: Ingested, content: Content) -> None:
    urn, found = ingested.named("mlModel", "checkpoint")
    (job,) = found["mlModelProperties"]["trainingJobs"]
    assert ingested.aspects[job]["mlTrainingRunProperties"]["id"] == content.runs["full"]
    outputs = ingested.aspects[job]["dataProcessInstanceOutput"]["outputEdges"]
    assert urn in {edge["destinationUrn"] for edge in outputs}
    assert found["container"]["container"] == ingested.named("container", CHURN)[0]
    assert found["mlModelTrainingData"]["trainingData"]
    _, nobodys = ingested.named("mlModel", "nobody's")
    assert nobodys["mlModelProperties"]["trainingJobs"] == []
    assert nobodys["mlModelProperties"]["customProperties"]["mlflow_source.status"] == "PENDING"


def test_a_version_that_lost_its_run_gets_it_from_its_logged_model(ingested: Ingested, content: Content) -> None:
    _, found = ingested.named("mlModel", "logged_2")
    (job,) = found["mlModelProperties"]["trainingJobs"]
    assert ingested.aspects[job]["mlTrainingRunProperties"]["id"] == content.runs["child 1"]


def test_a_version_names_its_run_only_if_that_is_there(ingested: Ingested, content: Content) -> None:
    _, with_run = ingested.named("mlModel", f"{FRAUD}_1")
    (job,) = with_run["mlModelProperties"]["trainingJobs"]
    assert ingested.aspects[job]["mlTrainingRunProperties"]["id"] == content.runs["full"]
    _, gone = ingested.named("mlModel", "模型/卡_1")
    assert gone["mlModelProperties"]["trainingJobs"] == []
    assert gone["mlModelProperties"]["customProperties"]["mlflow_source.run_id"] == content.gone_run


def test_a_run_leads_to_every_version_it_made(ingested: Ingested, content: Content) -> None:
    made = _run(ingested, content.runs["full"])["dataProcessInstanceOutput"]["outputEdges"]
    names = {ingested.aspects[edge["destinationUrn"]]["mlModelProperties"]["name"] for edge in made}
    assert {f"{FRAUD}_1", f"{FRAUD}_2"} <= names


def test_children_name_their_parent(ingested: Ingested, content: Content) -> None:
    parent, _ = ingested.named("dataProcessInstance", "parent")
    for child in ("child 1", "child 2"):
        assert _run(ingested, content.runs[child])["dataProcessInstanceRelationships"]["parentInstance"] == parent


def test_what_has_no_real_dataset_behind_it_is_listed(ingested: Ingested) -> None:
    of_runs = {urn for urn in ingested.urns("dataset") if "subTypes" not in ingested.aspects[urn]}
    without = {urn for urn in of_runs if "upstreamLineage" not in ingested.aspects[urn]}
    listed = ingested.report.unresolved_datasets
    assert 0 < listed.total_elements == len(without) < len(of_runs)
    assert not any(secret in str(listed) for secret in SECRETS)


def test_a_query_leads_to_its_tables_and_their_columns(ingested: Ingested) -> None:
    urn, found = ingested.named("dataset", "spark query")
    orders = make_dataset_urn("hive", "sales.orders")
    customers = make_dataset_urn("databricks", "main.crm.customers")
    lineage = found["upstreamLineage"]
    assert [upstream["dataset"] for upstream in lineage["upstreams"]] == [customers, orders]
    assert {tuple(c["downstreams"]): c["upstreams"] for c in lineage["fineGrainedLineages"]} == {
        (make_schema_field_urn(urn, "id"),): [make_schema_field_urn(orders, "id")],
        (make_schema_field_urn(urn, "country"),): [make_schema_field_urn(customers, "Country")],
    }


def test_the_recipe_says_how_other_connectors_name_their_datasets(server: MlflowServer, tmp_path: Path) -> None:
    config = {"tracking_uri": server.url, "dataset_platform_map": {"s3": {"platform_instance": "eu", "env": "dev"}}}
    found = ingest(config, tmp_path / "out.json")
    upstreams = {
        upstream["dataset"]
        for urn in found.urns("dataset")
        for upstream in found.aspects[urn].get("upstreamLineage", {}).get("upstreams", [])
    }
    of_s3 = {urn for urn in upstreams if ":s3," in urn}
    assert of_s3
    assert all(":s3,eu." in urn and urn.endswith(",DEV)") for urn in of_s3)
    assert all(urn.endswith(",PROD)") for urn in upstreams - of_s3)


def test_two_experiments_that_both_log_train_have_two_datasets(ingested: Ingested) -> None:
    named_train = [
        aspects["upstreamLineage"]["upstreams"][0]["dataset"]
        for aspects in ingested.aspects.values()
        if aspects.get("datasetProperties", {}).get("name") == "train"
    ]
    assert sorted(named_train) == [
        "urn:li:dataset:(urn:li:dataPlatform:s3,acme-churn/2024/train.parquet,PROD)",
        "urn:li:dataset:(urn:li:dataPlatform:s3,acme-forecast/2024/train.parquet,PROD)",
    ]


def test_no_credential_that_somebody_logged_comes_out(ingested: Ingested) -> None:
    sent = json.dumps(ingested.proposals, ensure_ascii=False)
    for secret in SECRETS:
        assert secret not in sent


def test_every_tag_and_term_that_is_named_is_sent(ingested: Ingested) -> None:
    """The framework's own look for those that nobody sends is left out."""
    sent = json.dumps(ingested.proposals, ensure_ascii=False)
    named = set(re.findall(r'"(urn:li:(?:tag|glossaryTerm):[^"]+)"', sent))
    assert named
    assert named <= ingested.aspects.keys()


def test_only_entities_of_ours_are_written(ingested: Ingested) -> None:
    for urn in ingested.urns("dataset"):
        assert urn.startswith("urn:li:dataset:(urn:li:dataPlatform:mlflow,")


def test_twice_gives_the_same(ingested: Ingested, server: MlflowServer, tmp_path: Any) -> None:
    again = ingest({"tracking_uri": server.url}, tmp_path / "out.json")
    assert _without_ingestion(again.proposals) == _without_ingestion(ingested.proposals)


def _without_ingestion(proposals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """But for when and by which run of the pipeline."""
    return [{key: value for key, value in p.items() if key != "systemMetadata"} for p in proposals]


def test_page_sizes_make_no_difference(ingested: Ingested, server: MlflowServer, tmp_path: Any) -> None:
    again = ingest({"tracking_uri": server.url, "page_size": 2}, tmp_path / "out.json")
    assert _without_ingestion(again.proposals) == _without_ingestion(ingested.proposals)


def test_datahub_takes_all_of_it(ingested: Ingested, server: MlflowServer) -> None:
    with GmsStandIn() as gms:
        pipeline = ingest_into(gms, {"tracking_uri": server.url})
        assert not pipeline.source.get_report().failures
        assert not pipeline.sink.get_report().failures
        assert gms.rejections == []
        sent = {urn for urn in ingested.aspects if not urn.startswith("urn:li:tag")}
        assert sent <= set(gms.urns())


def test_with_an_instance_everything_is_another_entity(ingested: Ingested, server: MlflowServer, tmp_path: Any) -> None:
    config = {"tracking_uri": server.url, "platform_instance": "eu", "env": "DEV"}
    other = ingest(config, tmp_path / "out.json")
    shared = ingested.urns("tag") | ingested.urns("dataPlatform")
    assert set(other.aspects) & set(ingested.aspects) == shared
    assert len(other.aspects) == len(ingested.aspects)
    _, churn = other.named("container", CHURN)
    instance = "urn:li:dataPlatformInstance:(urn:li:dataPlatform:mlflow,eu)"
    assert churn["dataPlatformInstance"]["instance"] == instance
    with GmsStandIn() as gms:
        ingest_into(gms, config)
        assert gms.rejections == []
