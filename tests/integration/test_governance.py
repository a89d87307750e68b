"""From a warehouse's table to a model in use, by URNs alone; and what people and other connectors said stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from datahub.emitter.mce_builder import make_data_flow_urn, make_data_job_urn, make_dataset_urn
from datahub.metadata import schema_classes as dh

from tests.support.gms import GmsStandIn
from tests.support.ingest import ingest, ingest_into
from tests.support.servers import MlflowServer, mlflow_server

ORDERS = make_dataset_urn("snowflake", "shop.sales.orders")
BUCKET = make_dataset_urn("s3", "lake/clicks/2026")
DAG, TASK = (
    make_data_flow_urn("airflow", "nightly", cluster="prod"),
    make_data_job_urn("airflow", "nightly", "score", "prod"),
)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ALICE = "urn:li:corpuser:alice"
STAMP = dh.AuditStampClass(time=1, actor=ALICE)

# As a script that DolphinScheduler runs, and one of Airflow's.
TRAIN = """
import sys, mlflow
from datahub_mlflow_source.tracking import setup_mlflow_for_dolphinscheduler

mlflow.set_tracking_uri(sys.argv[1])
code = {"mlflow.source.git.commit": sys.argv[2], "mlflow.source.git.repoURL": "git@github.com:acme/churn.git",
        "mlflow.source.name": "train.py", "mlflow.user": "grace"}
client = setup_mlflow_for_dolphinscheduler("churn", code)
with client.start_run("nightly training") as run:
    client.log_params({"depth": 3})
    client.log_metrics({"auc": 0.9})
    client.log_dataset("urn:li:dataset:(urn:li:dataPlatform:snowflake,shop.sales.orders,PROD)")
    client.log_dataset("s3://lake/clicks/2026", context="evaluation")
    run_id = mlflow.active_run().info.run_id
plain = mlflow.MlflowClient()
plain.create_registered_model("churn-model")
plain.create_model_version("churn-model", f"runs:/{run_id}/model", run_id, tags={"data_class": "pii"})
plain.set_registered_model_alias("churn-model", "champion", "1")
plain.transition_model_version_stage("churn-model", "1", "Archived")
print(run_id)
"""
SCORE = """
import sys, mlflow
from datahub_mlflow_source.tracking import setup_mlflow
mlflow.set_tracking_uri(sys.argv[1])
with setup_mlflow("scoring").start_run("scoring"):
    pass
"""
DOLPHIN = {
    "DOLPHINSCHEDULER_PROJECT_CODE": "9001",
    "DOLPHINSCHEDULER_WORKFLOW_CODE": "9002",
    "DOLPHINSCHEDULER_WORKFLOW_NAME": "nightly",
    "DOLPHINSCHEDULER_TASK_CODE": "9003",
    "DOLPHINSCHEDULER_TASK_NAME": "train",
}
AIRFLOW = {"AIRFLOW_CTX_DAG_ID": "nightly", "AIRFLOW_CTX_TASK_ID": "score", "AIRFLOW_CTX_DAG_RUN_ID": "manual__1"}
MEANING: dict[str, Any] = {
    "extract_owners": True,
    "alias_tags": True,
    "structured_properties": True,
    "meta_mapping": {
        "data_class": {"match": ".*", "operation": "add_term", "config": {"term": "Classification.{{ $match }}"}}
    },
    "links": {"Runbook": "https://wiki.example.com/models/{name}"},
    "domain": {"urn:li:domain:retail": {"allow": ["^churn"]}},
    "deprecate_archived": True,
}


def run_script(folder: Path, server: MlflowServer, script: str, environment: dict[str, str], *arguments: str) -> None:
    (folder / "script.py").write_text(script)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "AIRFLOW_", "DOLPHIN"))}
    env = {**clean, "HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore", **environment}
    command = [sys.executable, str(folder / "script.py"), server.url, *arguments]
    done = subprocess.run(command, cwd=folder, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("governance")
    with mlflow_server(folder / "server") as server:
        run_script(folder, server, TRAIN, DOLPHIN, COMMIT)
        run_script(folder, server, SCORE, AIRFLOW)
        yield server


@pytest.fixture
def gms() -> Iterator[GmsStandIn]:
    with GmsStandIn() as server:
        yield server


def move_to_stage(server: MlflowServer, stage: str) -> None:
    """As MLflow's client does, which warns of it."""
    server.post("model-versions/transition-stage", name="churn-model", version="1", stage=stage)


def config(server: MlflowServer, **more: Any) -> dict[str, Any]:
    return {"tracking_uri": server.url, **MEANING, **more}


def the_version(gms: GmsStandIn) -> str:
    (urn,) = gms.urns("mlModel")
    return urn


def get(gms: GmsStandIn, urn: str, aspect: str) -> dict[str, Any]:
    found = gms.aspect(urn, aspect)
    assert found is not None, (urn, aspect, sorted(gms.aspects(urn)))
    return found


def test_from_the_table_to_the_model_in_use(server: MlflowServer, gms: GmsStandIn) -> None:
    pipeline = ingest_into(gms, config(server))
    assert not pipeline.source.get_report().failures
    assert gms.rejections == []
    # table -> dataset of MLflow
    (dataset,) = [
        urn for urn in gms.urns("dataset") if ORDERS in str((gms.aspect(urn, "upstreamLineage") or {}).get("upstreams"))
    ]
    # dataset -> run
    (run,) = [
        urn
        for urn in gms.urns("dataProcessInstance")
        if dataset in str((gms.aspect(urn, "dataProcessInstanceInput") or {}).get("inputEdges"))
    ]
    # task -> run
    job = get(gms, run, "dataProcessInstanceRelationships")["parentTemplate"]
    assert get(gms, job, "dataJobInfo")["name"] == "train"
    flow = get(gms, job, "dataJobInfo")["flowUrn"]
    assert get(gms, flow, "dataFlowInfo")["name"] == "nightly"
    assert get(gms, "urn:li:dataPlatform:dolphinscheduler", "dataPlatformInfo")["displayName"] == "DolphinScheduler"
    # run -> version, of this commit
    (version,) = [edge["destinationUrn"] for edge in get(gms, run, "dataProcessInstanceOutput")["outputEdges"]]
    (code,) = get(gms, version, "sourceCode")["sourceCode"]
    assert code["sourceCodeUrl"] == f"https://github.com/acme/churn/blob/{COMMIT}/train.py"
    # which is in use, somebody's, and about personal data
    assert [alias["versionTag"] for alias in get(gms, version, "versionProperties")["aliases"]] == ["champion"]
    assert [owner["owner"] for owner in get(gms, version, "ownership")["owners"]] == ["urn:li:corpuser:grace"]
    assert [term["urn"] for term in get(gms, version, "glossaryTerms")["terms"]] == [
        "urn:li:glossaryTerm:Classification.pii"
    ]
    assert "urn:li:tag:mlflow_alias_champion" in {tag["tag"] for tag in get(gms, version, "globalTags")["tags"]}
    assert get(gms, version, "domains")["domains"] == ["urn:li:domain:retail"]
    assert get(gms, version, "deprecation")["deprecated"] is True
    assert [each["dataset"] for each in get(gms, version, "mlModelTrainingData")["trainingData"]] == [dataset]
    values = {
        each["propertyUrn"]: [next(iter(value.values())) for value in each["values"]]
        for each in get(gms, version, "structuredProperties")["properties"]
    }
    assert values["urn:li:structuredProperty:mlflow.git_commit"] == [COMMIT]
    assert values["urn:li:structuredProperty:mlflow.source_dataset_count"] == [2.0]
    # and the group, by the same rules
    (group,) = gms.urns("mlModelGroup")
    assert [owner["owner"] for owner in get(gms, group, "ownership")["owners"]] == ["urn:li:corpuser:grace"]
    assert [link["url"] for link in get(gms, group, "institutionalMemory")["elements"]] == [
        "https://wiki.example.com/models/churn-model"
    ]


def test_what_other_connectors_have_stays_byte_for_byte(server: MlflowServer, gms: GmsStandIn) -> None:
    def write(urn: str, aspect: Any) -> None:
        gms.write(urn, aspect)

    write(ORDERS, dh.DatasetPropertiesClass(name="ORDERS", description="of the warehouse", customProperties={"a": "b"}))
    write(BUCKET, dh.DatasetPropertiesClass(name="clicks"))
    write(DAG, dh.DataFlowInfoClass(name="nightly", customProperties={"owner": "data"}))
    write(TASK, dh.DataJobInfoClass(name="score", type="COMMAND"))
    theirs = {urn: gms.aspects(urn) for urn in (ORDERS, BUCKET, DAG, TASK)}
    users = gms.urns("corpuser")
    for _ in range(2):
        ingest_into(gms, config(server))
    assert {urn: gms.aspects(urn) for urn in theirs} == theirs
    assert gms.urns("corpuser") == users
    templates = {
        (gms.aspect(urn, "dataProcessInstanceRelationships") or {}).get("parentTemplate")
        for urn in gms.urns("dataProcessInstance")
    }
    assert TASK in templates  # the run of Airflow's task points at it all the same


def test_what_people_say_survives_and_what_mlflow_has_no_more_goes(
    server: MlflowServer, gms: GmsStandIn, tmp_path: Path
) -> None:
    ingest_into(gms, config(server))
    version = the_version(gms)
    by_hand: dict[str, tuple[str, Any]] = {
        "globalTags": ("tags", dh.TagAssociationClass("urn:li:tag:by-hand")),
        "glossaryTerms": ("terms", dh.GlossaryTermAssociationClass("urn:li:glossaryTerm:by-hand")),
        "ownership": ("owners", dh.OwnerClass(ALICE, "DATAOWNER")),
    }
    for name, (field, item) in by_hand.items():  # as DataHub's pages do: the list as it is, and one more
        aspect = dh.ASPECT_NAME_MAP[name].from_obj(get(gms, version, name))
        getattr(aspect, field).append(item)
        gms.write(version, aspect)
    client = mlflow.MlflowClient(server.url)
    client.delete_registered_model_alias("churn-model", "champion")
    client.delete_model_version_tag("churn-model", "1", "data_class")
    try:
        ingest_into(gms, config(server))
    finally:
        client.set_registered_model_alias("churn-model", "champion", "1")
        client.set_model_version_tag("churn-model", "1", "data_class", "pii")
    tags = {tag["tag"] for tag in get(gms, version, "globalTags")["tags"]}
    assert tags == {"urn:li:tag:by-hand", "urn:li:tag:mlflow_archived"}
    assert [term["urn"] for term in get(gms, version, "glossaryTerms")["terms"]] == ["urn:li:glossaryTerm:by-hand"]
    assert {owner["owner"] for owner in get(gms, version, "ownership")["owners"]} == {ALICE, "urn:li:corpuser:grace"}
    values = {each["propertyUrn"] for each in get(gms, version, "structuredProperties")["properties"]}
    assert "urn:li:structuredProperty:mlflow.alias" not in values


def test_a_domain_and_a_deprecation_that_people_chose(server: MlflowServer, gms: GmsStandIn) -> None:
    ingest_into(gms, config(server))
    version = the_version(gms)
    (group,) = gms.urns("mlModelGroup")
    gms.write(version, dh.DomainsClass(["urn:li:domain:by-hand"]))
    gms.write(version, dh.DeprecationClass(deprecated=False, note="still needed", actor=ALICE))
    ingest_into(gms, config(server))
    assert get(gms, version, "domains")["domains"] == ["urn:li:domain:by-hand"]
    assert get(gms, version, "deprecation")["actor"] == ALICE
    # A rule that fits no more takes back what it said, and only that.
    ingest_into(gms, config(server, domain={"urn:li:domain:retail": {"allow": ["^other"]}}))
    assert get(gms, group, "domains")["domains"] == []
    assert get(gms, version, "domains")["domains"] == ["urn:li:domain:by-hand"]


def test_a_deprecation_of_ours_ends_with_the_stage(server: MlflowServer, gms: GmsStandIn) -> None:
    ingest_into(gms, config(server))
    version = the_version(gms)
    move_to_stage(server, "Production")
    try:
        ingest_into(gms, config(server))
    finally:
        move_to_stage(server, "Archived")
    assert get(gms, version, "deprecation")["deprecated"] is False


def test_an_older_server_is_told_what_it_takes(server: MlflowServer) -> None:
    with GmsStandIn(version="v1.2.0") as gms:
        pipeline = ingest_into(gms, config(server))
        assert gms.rejections == []
        version = the_version(gms)
        assert gms.aspect(version, "ownership") is None
        assert get(gms, version, "globalTags")
        infos = str(pipeline.source.get_report().infos)
        assert "ownership" in infos


def test_into_a_file_they_are_plain_aspects(server: MlflowServer, tmp_path: Path) -> None:
    found = ingest(config(server), tmp_path / "out.json")
    assert not found.failed
    _, version = found.named("mlModel", "churn-model_1")
    tags = {tag["tag"] for tag in version["globalTags"]["tags"]}
    assert tags == {"urn:li:tag:mlflow_archived", "urn:li:tag:mlflow_alias_champion"}
    assert version["glossaryTerms"]["terms"][0]["urn"] == "urn:li:glossaryTerm:Classification.pii"
    assert version["domains"]["domains"] == ["urn:li:domain:retail"]
    assert version["deprecation"]["deprecated"] is True


def test_without_rules_nothing_of_it_is_sent(server: MlflowServer, tmp_path: Path) -> None:
    found = ingest({"tracking_uri": server.url}, tmp_path / "out.json")
    meaning = {"ownership", "glossaryTerms", "domains", "institutionalMemory", "structuredProperties", "deprecation"}
    assert not meaning.intersection(name for aspects in found.aspects.values() for name in aspects)


def test_a_key_with_nothing_in_it_takes_back_what_it_said(server: MlflowServer, gms: GmsStandIn) -> None:
    ingest_into(gms, config(server))
    version = the_version(gms)
    nothing = {"links": {}, "alias_tags": False, "extract_owners": False, "meta_mapping": {}, "domain": {}}
    ingest_into(gms, config(server, **nothing, structured_properties=False, deprecate_archived=False))
    assert get(gms, version, "institutionalMemory")["elements"] == []
    assert {tag["tag"] for tag in get(gms, version, "globalTags")["tags"]} == {"urn:li:tag:mlflow_archived"}
    assert get(gms, version, "ownership")["owners"] == []
    assert get(gms, version, "glossaryTerms")["terms"] == []
    assert get(gms, version, "structuredProperties")["properties"] == []
    assert get(gms, version, "domains")["domains"] == []
    assert get(gms, version, "deprecation")["deprecated"] is False


def test_what_is_everybodys_is_never_removed(server: MlflowServer, gms: GmsStandIn) -> None:
    """Tags, terms, properties, flows and tasks may be named by others too."""
    state = {"stateful_ingestion": {"enabled": True, "fail_safe_threshold": 100.0}}
    ingest_into(gms, config(server, **state))
    kinds = ("tag", "glossaryTerm", "structuredProperty", "dataFlow", "dataJob", "dataPlatform")
    there = {urn for kind in kinds for urn in gms.urns(kind) if "(datahub," not in urn}  # the framework keeps state
    assert {urn.split(":")[2] for urn in there} == set(kinds)
    report = ingest_into(
        gms,
        {"tracking_uri": server.url, **state, "include_runs": "none", "stage_tags": False},
    ).source.get_report()
    assert not report.failures
    assert [urn for urn in there if gms.is_removed(urn)] == []


@pytest.mark.parametrize("how", ["dry_run", "preview"])
def test_a_trial_writes_nothing(server: MlflowServer, gms: GmsStandIn, how: str) -> None:
    from datahub.ingestion.run.pipeline import Pipeline

    from tests.support.ingest import recipe

    trial = {"dry_run": True} if how == "dry_run" else {"preview_mode": True, "preview_workunits": 3, "dry_run": True}
    sink = {"type": "datahub-rest", "config": {"server": gms.url}}
    Pipeline.create(recipe(config(server), sink, "trial"), report_to=None, no_progress=True, **trial).run()
    assert list(gms.urns()) == []


def test_definitions_that_people_changed_stay(server: MlflowServer, gms: GmsStandIn) -> None:
    ingest_into(gms, config(server))
    flavor = "urn:li:structuredProperty:mlflow.flavor"
    changed = dh.StructuredPropertyDefinitionClass.from_obj(
        {**get(gms, flavor, "propertyDefinition"), "displayName": "Flavour"}
    )
    gms.write(flavor, changed)
    ingest_into(gms, config(server))
    assert get(gms, flavor, "propertyDefinition")["displayName"] == "Flavour"


def test_a_property_that_datahub_lacks_is_left_out_and_told(server: MlflowServer, gms: GmsStandIn) -> None:
    rule = {
        "match": ".*",
        "operation": "add_structured_property",
        "config": {"structured_property_urn": "acme.class"},
    }
    report = ingest_into(gms, config(server, meta_mapping={"data_class": rule})).source.get_report()
    assert gms.rejections == []
    assert not report.failures
    assert "acme.class" in str(report.as_obj()["refused_by_rules"])


def test_rules_and_tags_that_lead_nowhere_are_told(server: MlflowServer, tmp_path: Path) -> None:
    client = mlflow.MlflowClient(server.url)
    experiment = client.create_experiment("leads nowhere")
    run_id = client.create_run(experiment, tags={"orchestrator.name": "airflow"}).info.run_id
    rules = {"no_such_tag": {"match": ".*", "operation": "add_tag", "config": {"tag": "x"}}}
    try:
        report = ingest({"tracking_uri": server.url, "meta_mapping": rules}, tmp_path / "out.json").report
    finally:
        client.delete_experiment(experiment)
    assert list(report.runs_without_their_task) == [run_id]
    assert report.rules_that_said_nothing == ["no_such_tag"]
    assert report.runs_started_by == {"dolphinscheduler": 1, "airflow": 1}


def test_flows_of_other_tools_are_not_put_below_our_instance(server: MlflowServer, tmp_path: Path) -> None:
    found = ingest({"tracking_uri": server.url, "platform_instance": "eu"}, tmp_path / "out.json")
    assert found.urns("dataFlow") == {"urn:li:dataFlow:(dolphinscheduler,9001.9002,PROD)"}
    for urn in found.urns("dataFlow") | found.urns("dataJob"):
        assert "browsePathsV2" not in found.aspects[urn]
    assert any("browsePathsV2" in found.aspects[urn] for urn in found.urns("container"))


def test_a_domain_by_its_id_in_datahub(server: MlflowServer, gms: GmsStandIn) -> None:
    gms.write("urn:li:domain:risk", dh.DomainPropertiesClass(name="Risk"))
    ingest_into(gms, config(server, domain={"risk": {"allow": ["^churn"]}}))
    assert get(gms, the_version(gms), "domains")["domains"] == ["urn:li:domain:risk"]


def test_a_user_who_may_not_define_properties_gets_all_else(server: MlflowServer) -> None:
    def refuse(urn: str, _aspect: str) -> int | None:
        return 403 if urn.startswith("urn:li:structuredProperty:") else None

    with GmsStandIn(refuse=refuse) as gms:
        report = ingest_into(gms, config(server)).source.get_report()
        assert [failure.title for failure in report.failures] == ["Structured properties can't be defined"]
        version = the_version(gms)
        assert gms.aspect(version, "structuredProperties") is None
        assert get(gms, version, "ownership")


def test_a_property_that_somebody_removed_is_left_out(server: MlflowServer, gms: GmsStandIn) -> None:
    ingest_into(gms, config(server))
    gms.write("urn:li:structuredProperty:mlflow.flavor", dh.StatusClass(removed=True))
    ingest_into(gms, config(server))
    assert gms.rejections == []


def test_a_filtered_run_brings_nothing_back(server: MlflowServer, tmp_path: Path) -> None:
    found = ingest(config(server, run_name_pattern={"deny": ["nightly"]}), tmp_path / "out.json")
    assert found.urns("dataset") == set()
    assert found.urns("mlModel")
