"""Which task started a run: by the tags that tools write, as the URNs that DataHub's own integrations give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datahub.emitter.mce_builder import make_data_flow_urn, make_data_job_urn
from datahub.metadata.schema_classes import (
    DataFlowInfoClass,
    DataJobInfoClass,
    DataPlatformInfoClass,
    DataProcessInstancePropertiesClass,
    DataProcessInstanceRelationshipsClass,
)

from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.mapping.orchestrators import Task, task_of
from datahub_mlflow_source.mapping.pipelines import map_flow, map_job, platform_of_task
from datahub_mlflow_source.mapping.rules import Rules
from datahub_mlflow_source.mapping.runs import map_run
from datahub_mlflow_source.mapping.urns import Naming, run_urn
from datahub_mlflow_source.recipe import rules_of
from tests.unit.entities import aspect, assert_accepted
from tests.unit.records import make_experiment, make_run, make_version

DOLPHIN = {
    "source": "dolphinscheduler",
    "dolphinscheduler_process_id": "42",
    "dolphinscheduler_task": "train",
    "dolphinscheduler_project_code": "9001",
    "dolphinscheduler_project_name": "churn",
    "dolphinscheduler_workflow_code": "9002",
    "dolphinscheduler_workflow_name": "nightly",
    "dolphinscheduler_workflow_instance_id": "77",
    "dolphinscheduler_task_code": "9003",
    "dolphinscheduler_task_name": "train model",
    "dolphinscheduler_ui_url": "https://ds.example.com/dolphinscheduler/ui/",
}


def started_by(
    tags: dict[str, str] | None = None,
    *,
    rules: Rules | None = None,
    params: dict[str, str] | None = None,
    version_tags: dict[str, str] | None = None,
    name: str = "bold-owl-7",
) -> Task | None:
    rules = rules or Rules()
    versions = [make_version(tags=version_tags)] if version_tags else []
    run = make_run(tags=tags or {}, params=params or {}, name=name)
    return task_of(run, make_experiment(), versions, rules.orchestrators, rules.naming)


def found(tags: dict[str, str] | None = None, **others: Any) -> Task:
    task = started_by(tags, **others)
    assert task is not None
    return task


def recipe(**orchestrators: Any) -> Rules:
    return rules_of(MlflowSourceConfig.model_validate({"orchestrators": orchestrators}))


def test_most_runs_were_started_by_hand() -> None:
    assert started_by({"mlflow.user": "ada", "mlflow.source.type": "LOCAL", "mlflow.source.name": "train.py"}) is None


# DolphinScheduler: no integration of DataHub's, so the entities are ours


def test_a_task_of_dolphinscheduler() -> None:
    task = found(DOLPHIN)
    assert str(task.flow) == "urn:li:dataFlow:(dolphinscheduler,9001.9002,PROD)"
    assert str(task.job) == "urn:li:dataJob:(urn:li:dataFlow:(dolphinscheduler,9001.9002,PROD),9003)"
    assert (task.flow_name, task.task_name, task.is_ours) == ("nightly", "train model", True)
    assert task.url == "https://ds.example.com/dolphinscheduler/ui/projects/9001/workflow/definitions/9002"
    assert task.run_url == "https://ds.example.com/dolphinscheduler/ui/projects/9001/workflow/instances/77?code=9002"


@pytest.mark.parametrize(
    ("tags", "flow", "job"),
    [
        (("process_id", "task"), "42", "train"),
        (("process_id",), "42", None),
        (("project_name", "process_id", "task_name"), "churn.42", "train model"),
        (("project_name", "workflow_name", "task"), "churn.nightly", "train"),
    ],
)
def test_as_much_of_it_as_there_is(tags: tuple[str, ...], flow: str, job: str | None) -> None:
    task = found({f"dolphinscheduler_{tag}": DOLPHIN[f"dolphinscheduler_{tag}"] for tag in tags})
    assert task.flow
    assert task.flow.flow_id == flow
    assert (task.job.job_id if task.job else None) == job


def test_its_tags_with_dots_as_people_write_them_by_run_context() -> None:
    with_dots = {key.replace("_", "."): value for key, value in DOLPHIN.items() if "ui_url" not in key}
    task = found({**with_dots, "dolphinscheduler.ui.url": DOLPHIN["dolphinscheduler_ui_url"]})
    assert task == found(DOLPHIN)


def test_the_word_dolphinscheduler_alone_proves_nothing() -> None:
    assert started_by({"source": "dolphinscheduler"}) is None
    assert started_by({"source": "dolphinscheduler", "dolphinscheduler_task": "train"}) is None


def test_what_the_scheduler_did_not_fill_in_is_nothing() -> None:
    assert started_by({"dolphinscheduler_workflow_code": "${system.workflow.definition.code}"}) is None


def test_its_entities_hold_name_link_and_platform() -> None:
    task, rules = found(DOLPHIN), Rules()
    flow, job, platform = map_flow(task, rules), map_job(task, rules), platform_of_task(task)
    assert platform is not None
    for entity in (platform, flow, job):
        assert_accepted(entity)
    assert aspect(flow, DataFlowInfoClass).name == "nightly"
    assert aspect(flow, DataFlowInfoClass).externalUrl == task.url
    assert aspect(job, DataJobInfoClass).flowUrn == str(flow.urn)
    assert aspect(platform, DataPlatformInfoClass).displayName == "DolphinScheduler"


# Tools with an integration: their URNs, and nothing of them is written

ORACLE = Path(__file__).with_name("plugin_urns.json")


def _cases() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(ORACLE.read_text())
    return cases


def _by_convention(case: dict[str, Any]) -> dict[str, str]:
    """The tags that docs/orchestrators.md asks for."""
    given = dict(case["given"])
    if case["tool"] == "dagster":
        within = f"{given['deployment']}/{given['module']}" if "deployment" in given else given["module"] or "prod"
        given |= {"flow": f"{within}/{given['flow']}", "task": f"{within}/{given['task']}"}
    keys = ("flow", "task", "run_id", "cluster", "platform_instance")
    said = {f"orchestrator.{key}": str(given[key]) for key in keys if given.get(key)}
    return {"orchestrator.name": case["tool"], **said}


@pytest.mark.parametrize("case", _cases(), ids=[f"{case['tool']}-{i}" for i, case in enumerate(_cases())])
def test_by_the_convention_as_the_plugins_have_it(case: dict[str, Any]) -> None:
    """`plugin_urns.json` was written by the plugins themselves, see tests/support/plugin_urns.py."""
    task = found(_by_convention(case))
    assert str(task.flow) == case["flow"]
    assert str(task.job) == case["job"]
    # Prefect's instance of a task has a name in it that nothing tells; Airflow's plugin sends none for a whole run.
    assert str(task.instance) == case["run" if case["tool"] == "prefect" else "task_run"]
    assert not task.is_ours


def test_a_tag_may_name_any_tool_and_nothing_is_written_of_it() -> None:
    """Somebody else may have these entities: DataHub's Kafka Connect source has, and who knows of `acme`."""
    for name in ("kafka-connect", "acme"):
        task = found({"orchestrator.name": name, "orchestrator.flow": "orders", "orchestrator.task": "copy"})
        assert (task.is_ours, str(task.flow)) == (False, f"urn:li:dataFlow:({name},orders,PROD)")
    assert found({"orchestrator.name": "argo", "orchestrator.flow": "orders"}).is_ours
    vouched_for = recipe(acme={"emit": True, "flow": "{acme.flow}"})
    assert found({"acme.flow": "x"}, rules=vouched_for).is_ours


def test_airflow_by_what_it_exports_to_tasks() -> None:
    task = found(
        {"AIRFLOW_CTX_DAG_ID": "nightly", "AIRFLOW_CTX_TASK_ID": "group.train", "AIRFLOW_CTX_DAG_RUN_ID": "manual__1"}
    )
    by_convention = found(
        {
            "orchestrator.name": "airflow",
            "orchestrator.flow": "nightly",
            "orchestrator.task": "group.train",
            "orchestrator.run_id": "manual__1",
        }
    )
    assert (task.job, task.instance) == (by_convention.job, by_convention.instance)
    assert str(task.job) == make_data_job_urn("airflow", "nightly", "group.train", cluster="prod")


def test_dagster_by_the_one_tag_that_it_writes() -> None:
    """The run of its own; which job it was stands nowhere."""
    task = found({"dagster_run_id": "0f1e"})
    assert task.flow is None
    assert task.job is None
    assert str(task.instance) == "urn:li:dataProcessInstance:" + _guid("0f1e", "dagster", "PROD")


def _guid(run_id: str, orchestrator: str, cluster: str) -> str:
    from datahub.api.entities.dataprocess.dataprocess_instance import DataProcessInstanceKey

    return DataProcessInstanceKey(id=run_id, orchestrator=orchestrator, cluster=cluster).guid()


def test_of_a_known_tool_the_recipe_says_what_differs() -> None:
    rules = recipe(airflow={"cluster": "PROD", "platform_instance": "eu"}, dagster={"cluster": "DEV"})
    tags = {"orchestrator.name": "airflow", "orchestrator.flow": "nightly", "orchestrator.task": "train"}
    task = found(tags, rules=rules)
    assert str(task.flow) == make_data_flow_urn("airflow", "nightly", cluster="PROD", platform_instance="eu")
    assert not task.is_ours
    ctx = found({"AIRFLOW_CTX_DAG_ID": "nightly", "AIRFLOW_CTX_TASK_ID": "train"}, rules=rules)
    assert ctx.job == task.job
    assert str(found({"dagster_run_id": "0f1e"}, rules=rules).instance).endswith(_guid("0f1e", "dagster", "DEV"))


# Tools without one, by the tags that they write


def test_a_run_of_kubeflow_pipelines() -> None:
    tags = {
        "kfp.pipeline_run_id": "run-1",
        "kfp.pipeline_id": "p-1",
        "kfp.pipeline_run_url": "https://kfp.example.com/#/runs/details/run-1",
    }
    task = found(tags)
    assert str(task.flow) == "urn:li:dataFlow:(kubeflow,p-1,PROD)"
    assert task.run_url == tags["kfp.pipeline_run_url"]
    relative = found({**tags, "kfp.pipeline_run_url": "/#/runs/details/run-1"})
    assert relative.run_url == ""


@pytest.mark.parametrize("workspace", ["adb-1.azuredatabricks.net", "https://adb-1.azuredatabricks.net"])
def test_a_job_of_databricks(workspace: str) -> None:
    tags = {
        "mlflow.databricks.jobID": "12",
        "mlflow.databricks.jobRunID": "34",
        "mlflow.databricks.workspaceID": "56",
        "mlflow.databricks.workspaceURL": workspace,
    }
    task = found(tags)
    assert str(task.flow) == "urn:li:dataFlow:(databricks,56.12,PROD)"
    assert task.run_url == "https://adb-1.azuredatabricks.net/#job/12/run/34"
    assert platform_of_task(task) is None  # DataHub knows it


def test_a_pipeline_of_zenml_by_its_run_or_by_the_version() -> None:
    by_run = found({"zenml": "0.98.0"}, name="training-2026_03_01-08_09_23_672599")
    assert by_run.flow
    assert by_run.flow.flow_id == "training"
    version = {"zenml_pipeline_name": "training", "zenml_project": "default", "zenml_step_name": "fit"}
    by_version = found({}, version_tags=version)
    assert by_version.flow
    assert by_version.flow.flow_id == "training"
    assert by_version.job
    assert by_version.job.job_id == "fit"
    assert started_by({"zenml": "0.98.0"}, name="my own name") is None


@pytest.mark.parametrize(
    ("params", "pipeline"),
    [
        ({"kedro_command": "kedro run --pipeline=ds", "pipeline_name": "ds"}, "ds"),
        ({"kedro_command": "kedro run --pipelines ds", "pipeline_names": "['ds']"}, "ds"),
        ({"kedro_command": "kedro run --pipelines a,b", "pipeline_names": "['a', 'b']"}, None),
        ({"kedro_command": "kedro run --env local"}, "__default__"),
        ({"pipeline_name": "ds", "env": "local"}, None),
    ],
)
def test_a_pipeline_of_kedro(params: dict[str, str], pipeline: str | None) -> None:
    task = started_by(params=params)
    assert (task.flow.flow_id if task and task.flow else None) == pipeline


def test_a_project_of_mlflow() -> None:
    tags = {
        "mlflow.source.type": "PROJECT",
        "mlflow.source.name": "https://ada:secret@github.com/acme/churn#train",
        "mlflow.project.entryPoint": "main",
    }
    task = found(tags, rules=Rules(naming=Naming("DEV", "eu")))
    assert str(task.flow) == "urn:li:dataFlow:(mlflow,eu.https://github.com/acme/churn#train,DEV)"
    assert task.job
    assert task.job.job_id == "main"
    assert started_by({**tags, "mlflow.source.type": "JOB"}) is None


# Rules of the recipe


def test_a_home_made_scheduler_needs_no_code() -> None:
    rules = recipe(
        acme={
            "when": {"source": "acme", "acme.path": "(?P<team>[a-z]+)/(?P<flow>.+)"},
            "flow": "{team}.{flow}",
            "task": "{acme.task|step}",
            "flow_name": "{flow}",
            "url": "https://acme.example.com/{team}/{flow}",
            "cluster": "{acme.env}",
        }
    )
    tags = {"source": "acme", "acme.path": "risk/nightly run", "acme.env": "PROD"}
    task = found(tags, params={"step": "3"}, rules=rules)
    assert str(task.job) == "urn:li:dataJob:(urn:li:dataFlow:(acme,risk.nightly run,PROD),3)"
    assert task.url == "https://acme.example.com/risk/nightly%20run"
    assert task.is_ours
    assert started_by({**tags, "source": "other"}, rules=rules) is None


def test_a_rule_of_the_recipe_goes_first() -> None:
    rules = recipe(acme={"when": {"source": "dolphinscheduler"}, "flow": "{dolphinscheduler_process_id}"})
    assert found(DOLPHIN, rules=rules).orchestrator == "acme"


def test_a_tool_whose_entities_somebody_else_sends() -> None:
    rules = recipe(acme={"when": {"source": "acme"}, "flow": "{acme.flow}", "run": "{acme.run}", "emit": False})
    task = found({"source": "acme", "acme.flow": "a,b", "acme.run": "1"}, rules=rules)
    assert str(task.flow) == "urn:li:dataFlow:(acme,a%2Cb,PROD)"
    assert str(task.instance).endswith(_guid("1", "acme", "PROD"))


@pytest.mark.parametrize(
    ("orchestrators", "says"),
    [
        ({"acme": {"when": {"source": "acme"}}}, "needs `flow`"),
        ({"acme": {"cluster": "DEV"}}, "is not known: it needs `flow`"),
        ({"acme": {"flow": "nightly"}}, "every run would be of that flow: say `when`"),
        ({"acme": {"when": {"source": "["}, "flow": "{a}"}}, "is no regular expression"),
        ({"acme": {"flow": "{a"}}, "a place is like {key}"),
        ({"Acme Scheduler": {"flow": "{a}"}}, "is no platform"),
        ({"airflow": {"emit": True}}, "DataHub's own integration of airflow has these entities"),
        ({"acme": {"flow": "{a}", "tsk": "{b}"}}, "Did you mean `task`?"),
    ],
)
def test_a_rule_that_would_never_match_is_refused(orchestrators: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match="orchestrators") as error:
        recipe(**orchestrators)
    assert says in str(error.value)


# Hostile tags


@pytest.mark.parametrize(
    "value", ["x" * 1_000_000, "a\nb", "urn:li:tag:x", '{"a": [1]}', "a,b(c)", "x" * 400, "%2C", "  "]
)
def test_a_hostile_tag_makes_no_broken_urn(value: str) -> None:
    for tags in (
        {**DOLPHIN, "dolphinscheduler_workflow_code": value, "dolphinscheduler_task_code": value},
        {"orchestrator.name": "airflow", "orchestrator.flow": value, "orchestrator.task": value},
        {"orchestrator.name": value, "orchestrator.flow": "a"},
        {"orchestrator.name": "argo", "orchestrator.flow": value, "orchestrator.url": value},
    ):
        task = started_by(tags)
        entity = map_run(make_run(), make_experiment(), [], [], [], [], Rules(), task)
        assert_accepted(entity)
        if task and task.is_ours:
            assert_accepted(map_flow(task, Rules()))
        if task and task.job and task.is_ours:
            assert_accepted(map_job(task, Rules()))


@pytest.mark.parametrize("value", ["x" * 440, "x" * 500, "(" * 160, "🎈" * 100, "%2C" * 150])
@pytest.mark.parametrize("key", ["flow", "task", "cluster", "platform_instance"])
def test_a_long_name_makes_no_urn_that_datahub_refuses(key: str, value: str) -> None:
    for name in ("argo", "airflow"):
        said = {"name": name, "flow": "f", "task": "t", key: value}
        task = started_by({f"orchestrator.{part}": text for part, text in said.items()})
        assert_accepted(map_run(make_run(), make_experiment(), [], [], [], [], Rules(), task))
        if task and task.is_ours:
            assert_accepted(map_flow(task, Rules()))
            if task.job:
                assert_accepted(map_job(task, Rules()))


def test_a_rule_may_look_at_the_runs_name_or_experiment_alone() -> None:
    rules = recipe(acme={"when": {"run_name": "nightly.*"}, "flow": "nightly"})
    assert found({}, name="nightly-3", rules=rules).flow_name == "nightly"
    assert started_by({}, name="other", rules=rules) is None
    assert found({}, rules=recipe(acme={"flow": "{experiment}"})).flow_name == "churn"


def test_every_condition_must_be_there() -> None:
    rules = recipe(acme={"when": {"a": ".+", "b": ".*"}, "flow": "x"})
    assert started_by({"a": "1"}, rules=rules) is None
    assert found({"a": "1", "b": "2"}, rules=rules).flow_name == "x"


def test_a_tool_of_the_convention_may_be_told_where_it_is() -> None:
    task = found({"orchestrator.name": "argo", "orchestrator.flow": "f"}, rules=recipe(argo={"cluster": "eu"}))
    assert str(task.flow) == "urn:li:dataFlow:(argo,f,eu)"
    assert task.is_ours


def test_a_password_in_a_tag_goes_nowhere() -> None:
    tags = {**DOLPHIN, "dolphinscheduler_ui_url": "https://ada:s3cret@ds.example.com/ui?token=s3cret"}
    tags["dolphinscheduler_workflow_name"] = "password=s3cret"
    assert "s3cret" not in str(found(tags))


# What the run says of it


def test_the_run_points_at_its_task_and_says_so() -> None:
    task = found({**DOLPHIN})
    run = make_run(tags={**DOLPHIN, "mlflow.parentRunId": "f" * 32})
    entity = map_run(run, make_experiment(), [], [], [], [], Rules(), task)
    related = aspect(entity, DataProcessInstanceRelationshipsClass)
    assert related.parentTemplate == str(task.job)
    assert related.parentInstance == str(run_urn("f" * 32, Naming()))
    said = aspect(entity, DataProcessInstancePropertiesClass).customProperties
    assert said["mlflow_source.orchestrator"] == "dolphinscheduler"
    assert said["mlflow_source.orchestrator_task"] == "train model"
    assert said["mlflow_source.orchestrator_url"] == task.run_url
    assert_accepted(entity)


def test_the_tools_own_run_is_the_parent_where_there_is_no_other() -> None:
    task = found({"dagster_run_id": "0f1e"})
    alone = map_run(make_run(), make_experiment(), [], [], [], [], Rules(), task)
    below = map_run(make_run(tags={"mlflow.parentRunId": "f" * 32}), make_experiment(), [], [], [], [], Rules(), task)
    assert aspect(alone, DataProcessInstanceRelationshipsClass).parentInstance == str(task.instance)
    assert aspect(below, DataProcessInstanceRelationshipsClass).upstreamInstances == [str(task.instance)]
