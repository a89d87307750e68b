"""The producer side: which tags come of an environment, and what is refused before anything is logged."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import mlflow
import pytest
import responses
from mlflow.exceptions import MlflowException

from datahub_mlflow_source import tracking
from datahub_mlflow_source.tracking import (
    OrchestratorContext,
    TrackingClient,
    dolphinscheduler_tags,
    orchestrator_tags,
    setup_mlflow,
    setup_mlflow_for_dolphinscheduler,
)

URL = "http://mlflow.test"
API = f"{URL}/api/2.0/mlflow"

IN_AIRFLOW = {
    "AIRFLOW_CTX_DAG_ID": "churn",
    "AIRFLOW_CTX_TASK_ID": "training.fit",
    "AIRFLOW_CTX_DAG_RUN_ID": "manual__2024-04-05T06:37:28+00:00",
}
OF_AIRFLOW = {
    "orchestrator.name": "airflow",
    "orchestrator.flow": "churn",
    "orchestrator.task": "training.fit",
    "orchestrator.run_id": "manual__2024-04-05T06:37:28+00:00",
}


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a laptop, whatever runs the tests; and a warning that was given is given again."""
    for variable in list(os.environ):
        if variable.startswith(
            ("DOLPHINSCHEDULER_", "ORCHESTRATOR_", "AIRFLOW_", "PREFECT_", "ARGO_", "METAFLOW_", "KFP_")
        ):
            monkeypatch.delenv(variable)
    tracking._warn_once.cache_clear()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# What is imported


def test_it_imports_mlflow_and_nothing_of_datahub_or_a_database() -> None:
    code = (
        "import sys, mlflow\n"
        "before = set(sys.modules)\n"
        "import datahub_mlflow_source.tracking\n"
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))\n"
        "print(sorted({'datahub', 'sqlalchemy', 'pydantic_settings', 'click_default_group'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    ours, foreign = done.stdout.splitlines()[-2:]
    assert ours in ("['datahub_mlflow_source']", "[]")  # none, where MLflow has loaded it as its plugin
    assert foreign == "[]"


def test_imported_first_it_brings_mlflow_with_it_and_no_database() -> None:
    code = (
        "import sys, datahub_mlflow_source.tracking\n"
        "print([name for name in ('mlflow', 'datahub', 'sqlalchemy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['mlflow']\n"


# DolphinScheduler


class TestDolphinScheduler:
    def test_tags_are_the_variables_in_lower_case(self) -> None:
        environ = {
            "DOLPHINSCHEDULER_PROCESS_ID": "7",
            "DOLPHINSCHEDULER_TASK": "train",
            "DOLPHINSCHEDULER_PROJECT_CODE": "9371954021472",
            "DOLPHINSCHEDULER_PROJECT_NAME": "需求 churn",
            "DOLPHINSCHEDULER_WORKFLOW_CODE": "9371959172704",
            "DOLPHINSCHEDULER_WORKFLOW_NAME": "nightly",
            "DOLPHINSCHEDULER_WORKFLOW_INSTANCE_ID": "41",
            "DOLPHINSCHEDULER_TASK_CODE": "9371956842592",
            "DOLPHINSCHEDULER_TASK_NAME": "fit model",
            "DOLPHINSCHEDULER_TASK_INSTANCE_ID": "42",
            "DOLPHINSCHEDULER_UI_URL": "https://ds.example.com/dolphinscheduler/ui",
            "DOLPHINSCHEDULER_HOME": "/opt/dolphinscheduler",
        }
        assert dolphinscheduler_tags(environ) == {
            "source": "dolphinscheduler",
            "dolphinscheduler_process_id": "7",
            "dolphinscheduler_task": "train",
            "dolphinscheduler_project_code": "9371954021472",
            "dolphinscheduler_project_name": "需求 churn",
            "dolphinscheduler_workflow_code": "9371959172704",
            "dolphinscheduler_workflow_name": "nightly",
            "dolphinscheduler_workflow_instance_id": "41",
            "dolphinscheduler_task_code": "9371956842592",
            "dolphinscheduler_task_name": "fit model",
            "dolphinscheduler_task_instance_id": "42",
            "dolphinscheduler_ui_url": "https://ds.example.com/dolphinscheduler/ui",
        }

    def test_nothing_known_is_no_tag(self) -> None:
        assert dolphinscheduler_tags({"DOLPHINSCHEDULER_HOME": "/opt/ds", "PATH": "/bin"}) == {}

    def test_a_keyword_wins_over_a_variable_in_either_spelling(self) -> None:
        environ = {"DOLPHINSCHEDULER_TASK_CODE": "1", "DOLPHINSCHEDULER_TASK_NAME": "old", "DOLPHINSCHEDULER_TASK": "t"}
        tags = dolphinscheduler_tags(environ, task_code=2, dolphinscheduler_task_name="new", task=None)
        assert tags == {
            "source": "dolphinscheduler",
            "dolphinscheduler_task_code": "2",
            "dolphinscheduler_task_name": "new",
            "dolphinscheduler_task": "t",
        }

    def test_an_unknown_keyword_is_refused_with_those_that_there_are(self) -> None:
        with pytest.raises(TypeError, match=r"no 'flow_code'; there are process_id, task, .*ui_url"):
            dolphinscheduler_tags({}, flow_code=1)

    @pytest.mark.parametrize(
        "value",
        [
            "${system.project.code}",
            "a ${x} b",
            "$[yyyyMMdd]",
            "",
            "  ",
            "n" * 501,
            "two\nlines",
            "nul\0",
            "\udcff",
            "https://ds.example.com/?token=s3cr3t",
            "postgresql://host/db?password=s3cr3t",
        ],
    )
    def test_what_names_nothing_or_holds_a_secret_is_left_out(
        self, value: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        environ = {"DOLPHINSCHEDULER_PROJECT_CODE": value, "DOLPHINSCHEDULER_TASK_CODE": " 5 "}
        assert dolphinscheduler_tags(environ) == {"source": "dolphinscheduler", "dolphinscheduler_task_code": "5"}
        (warning,) = warnings_of(caplog)
        assert warning.startswith("DOLPHINSCHEDULER_PROJECT_CODE: not written to MLflow")
        assert "s3cr3t" not in warning

    def test_one_warning_names_all_of_them_once(self, caplog: pytest.LogCaptureFixture) -> None:
        environ = {"DOLPHINSCHEDULER_TASK_CODE": "", "DOLPHINSCHEDULER_PROJECT_CODE": "${system.project.code}"}
        for _ in range(3):
            assert dolphinscheduler_tags(environ, task_name="${system.task.definition.name}") == {}
        (warning,) = warnings_of(caplog)
        assert warning.startswith(
            "DOLPHINSCHEDULER_PROJECT_CODE, DOLPHINSCHEDULER_TASK_CODE, DOLPHINSCHEDULER_TASK_NAME: not written"
        )

    def test_user_and_password_go_out_of_an_address(self) -> None:
        tags = dolphinscheduler_tags({}, ui_url="https://ada:s3cr3t@ds.example.com/ui")
        assert tags["dolphinscheduler_ui_url"] == "https://ds.example.com/ui"


# All others


def orchestrator(**fields: str) -> dict[str, str]:
    return {f"orchestrator.{name}": value for name, value in fields.items()}


class TestOrchestrators:
    def test_a_process_of_none_has_no_tags(self) -> None:
        assert orchestrator_tags({"PATH": "/bin", "HOSTNAME": "laptop"}) == {}

    def test_airflow_and_a_task_of_a_group_stays_whole(self) -> None:
        assert orchestrator_tags(IN_AIRFLOW) == OF_AIRFLOW

    def test_airflow_where_it_has_blanked_its_variables(self) -> None:
        assert orchestrator_tags(dict.fromkeys(IN_AIRFLOW, "")) == {}

    def test_the_process_itself_is_asked_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in IN_AIRFLOW.items():
            monkeypatch.setenv(name, value)
        assert orchestrator_tags() == OF_AIRFLOW

    def test_metaflow_in_a_container_even_if_argo_runs_it(self) -> None:
        environ = {
            "METAFLOW_FLOW_NAME": "ChurnFlow",
            "METAFLOW_STEP_NAME": "fit",
            "METAFLOW_RUN_ID": "argo-churnflow-x7k2p",
            "ARGO_WORKFLOW_NAME": "churnflow-x7k2p",
        }
        expected = orchestrator(name="metaflow", flow="ChurnFlow", task="fit", run_id="argo-churnflow-x7k2p")
        assert orchestrator_tags(environ) == expected

    def test_metaflow_in_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        current = SimpleNamespace(is_running_flow=True, flow_name="ChurnFlow", step_name="fit", run_id="1712")
        monkeypatch.setitem(sys.modules, "metaflow", module("metaflow", current=current))
        assert orchestrator_tags({}) == orchestrator(name="metaflow", flow="ChurnFlow", task="fit", run_id="1712")

    def test_metaflow_imported_and_not_running(self, monkeypatch: pytest.MonkeyPatch) -> None:
        current = SimpleNamespace(is_running_flow=False, flow_name=None, step_name=None, run_id=None)
        monkeypatch.setitem(sys.modules, "metaflow", module("metaflow", current=current))
        assert orchestrator_tags(IN_AIRFLOW) == OF_AIRFLOW

    def test_prefect_in_a_task(self, monkeypatch: pytest.MonkeyPatch) -> None:
        in_prefect(monkeypatch, task_of="flow run id")
        expected = orchestrator(name="prefect", flow="churn flow", task="fit-1a2b3c4d", run_id="happy-otter")
        assert orchestrator_tags(IN_AIRFLOW) == expected

    def test_prefect_in_a_flow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        in_prefect(monkeypatch, task_of=None)
        assert orchestrator_tags({}) == orchestrator(name="prefect", flow="churn flow", run_id="happy-otter")

    def test_a_task_that_called_the_flow_of_prefect_is_not_in_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        in_prefect(monkeypatch, task_of="another flow run id")
        assert orchestrator_tags({}) == orchestrator(name="prefect", flow="churn flow", run_id="happy-otter")

    def test_a_subprocess_of_prefect_knows_its_flow_and_not_the_name_of_the_run(self) -> None:
        environ = {"PREFECT__FLOW_RUN_ID": "0b8c3c8e-6d5c-4f0a-9c1a-6a2f0f7f3b11", "PREFECT__FLOW_NAME": "churn flow"}
        assert orchestrator_tags(environ) == orchestrator(name="prefect", flow="churn flow")

    def test_a_tool_that_fails_when_asked_is_passed_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a version of it might that nobody has seen yet."""
        monkeypatch.setitem(sys.modules, "prefect.context", module("prefect.context"))
        assert orchestrator_tags(IN_AIRFLOW) == OF_AIRFLOW

    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            pytest.param(
                {
                    "ARGO_NODE_ID": "train-x7k2p-2938471123",
                    "ARGO_TEMPLATE": '{"name": "fit", "container": {"env": [{"name": "PASSWORD", "value": "s3cr3t"}]}}',
                },
                orchestrator(name="argo", flow="train", task="fit"),
                id="3.x",
            ),
            pytest.param(
                {
                    "ARGO_NODE_ID": "train-x7k2p-2938471123",
                    "ARGO_WORKFLOW_NAME": "train-x7k2p",
                    "HOSTNAME": "train-x7k2p-fit-model-2938471123",
                },
                orchestrator(name="argo", flow="train", task="fit-model", run_id="train-x7k2p"),
                id="4.x",
            ),
            pytest.param(
                {
                    "ARGO_NODE_ID": "nightly-1700000000-2938471123",
                    "ARGO_WORKFLOW_NAME": "nightly-1700000000",
                    "HOSTNAME": "another-host",
                },
                orchestrator(name="argo", flow="nightly", run_id="nightly-1700000000"),
                id="of a CronWorkflow",
            ),
            pytest.param(
                {"ARGO_NODE_ID": "train-model", "ARGO_WORKFLOW_NAME": "train-model", "HOSTNAME": "train-model"},
                orchestrator(name="argo", flow="train-model", run_id="train-model"),
                id="one template, a name by hand",
            ),
            pytest.param(
                {"ARGO_NODE_ID": "train-x7k2p-1", "ARGO_TEMPLATE": "offloaded"},
                orchestrator(name="argo", flow="train"),
                id="a template too long for a variable",
            ),
            pytest.param({"ARGO_NODE_ID": "run-x7k2p-1", "KFP_POD_NAME": "run-x7k2p-1"}, {}, id="Kubeflow Pipelines"),
            pytest.param({"ARGOCD_APP_NAME": "churn"}, {}, id="Argo CD"),
        ],
    )
    def test_argo(self, environ: dict[str, str], expected: dict[str, str]) -> None:
        assert orchestrator_tags(environ) == expected

    def test_any_tool_can_be_named_by_hand(self) -> None:
        environ = {
            "ORCHESTRATOR_NAME": "luigi",
            "ORCHESTRATOR_FLOW": "churn",
            "ORCHESTRATOR_TASK": "fit",
            "ORCHESTRATOR_RUN_ID": "12",
            "ORCHESTRATOR_URL": "https://ada:s3cr3t@luigi.example.com/churn",
            "ORCHESTRATOR_CLUSTER": "eu",
            "ORCHESTRATOR_PLATFORM_INSTANCE": "main",
            "ORCHESTRATOR_COLOUR": "red",
        }
        assert orchestrator_tags(environ) == orchestrator(
            name="luigi",
            flow="churn",
            task="fit",
            run_id="12",
            url="https://luigi.example.com/churn",
            cluster="eu",
            platform_instance="main",
        )

    def test_by_hand_wins_over_what_is_found(self) -> None:
        environ = {**IN_AIRFLOW, "ORCHESTRATOR_CLUSTER": "eu", "ORCHESTRATOR_TASK": "fit"}
        assert orchestrator_tags(environ) == {**OF_AIRFLOW, **orchestrator(task="fit", cluster="eu")}

    def test_the_same_tool_by_hand_is_completed_in_any_case(self) -> None:
        environ = {**IN_AIRFLOW, "ORCHESTRATOR_NAME": "Airflow"}
        assert orchestrator_tags(environ) == {**OF_AIRFLOW, **orchestrator(name="Airflow")}

    def test_another_tool_by_hand_is_not_mixed_with_what_is_found(self) -> None:
        environ = {**IN_AIRFLOW, "ORCHESTRATOR_NAME": "luigi", "ORCHESTRATOR_FLOW": "other"}
        assert orchestrator_tags(environ) == orchestrator(name="luigi", flow="other")

    def test_a_flow_of_no_tool_is_left_out_with_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        assert orchestrator_tags({"ORCHESTRATOR_FLOW": "churn", "ORCHESTRATOR_TASK": "fit"}) == {}
        (warning,) = warnings_of(caplog)
        assert warning.startswith(
            "ORCHESTRATOR_FLOW, ORCHESTRATOR_TASK: not written to MLflow without ORCHESTRATOR_NAME"
        )

    def test_a_template_that_nobody_filled_in_is_left_out(self, caplog: pytest.LogCaptureFixture) -> None:
        environ = {"ORCHESTRATOR_NAME": "argo", "ORCHESTRATOR_FLOW": "{{workflow.name}}"}
        assert orchestrator_tags(environ) == orchestrator(name="argo")
        assert len(warnings_of(caplog)) == 1


def module(name: str, **attributes: Any) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(attributes)
    return made


def in_prefect(monkeypatch: pytest.MonkeyPatch, task_of: str | None) -> None:
    """As Prefect 3 has it in `prefect.context`; the task is one of the flow run of this id."""
    flow = SimpleNamespace(
        flow=SimpleNamespace(name="churn flow"), flow_run=SimpleNamespace(id="flow run id", name="happy-otter")
    )
    task = SimpleNamespace(task=SimpleNamespace(task_key="fit-1a2b3c4d"), task_run=SimpleNamespace(flow_run_id=task_of))
    context = module(
        "prefect.context",
        FlowRunContext=SimpleNamespace(get=lambda: flow),
        TaskRunContext=SimpleNamespace(get=lambda: task if task_of else None),
    )
    monkeypatch.setitem(sys.modules, "prefect.context", context)


class TestPlugin:
    def test_it_gives_the_tags_of_the_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {**IN_AIRFLOW, "DOLPHINSCHEDULER_TASK_CODE": "5"}.items():
            monkeypatch.setenv(name, value)
        assert OrchestratorContext().in_context()
        assert OrchestratorContext().tags() == {
            "source": "dolphinscheduler",
            "dolphinscheduler_task_code": "5",
            **OF_AIRFLOW,
        }

    def test_it_has_none_where_there_is_no_scheduler(self) -> None:
        assert not OrchestratorContext().in_context()
        assert OrchestratorContext().tags() == {}

    def test_it_never_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken() -> dict[str, str]:
            raise RuntimeError("nobody has seen this yet")

        monkeypatch.setattr(tracking, "orchestrator_tags", broken)
        assert not OrchestratorContext().in_context()
        assert OrchestratorContext().tags() == {}

    def test_it_is_declared(self) -> None:
        """The entry point itself is shown in tests/integration/test_tracking.py."""
        declared = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
        assert (
            '[project.entry-points."mlflow.run_context_provider"]\n'
            'datahub-mlflow-source = "datahub_mlflow_source.tracking:OrchestratorContext"\n'
        ) in declared


# What is refused before anything is logged


def make_client() -> TrackingClient:
    return TrackingClient("1", dict, {})


@pytest.mark.parametrize(
    "urn",
    [
        "urn:li:dataset:(urn:li:dataPlatform:snowflake,a,b,PROD)",
        "urn:li:dataset:(urn:li:dataPlatform:snowflake,a)",
        "urn:li:dataset:(urn:li:dataPlatform:snowflake,a,PROD)\n",
        "urn:li:dataset:(urn:li:dataPlatform:snowflake,,PROD)",
        "urn:li:dataset:(snowflake,a,PROD)",
        "urn:li:chart:(looker,a)",
        "urn:",
    ],
)
def test_a_urn_of_no_dataset_is_refused(urn: str) -> None:
    with pytest.raises(ValueError, match=r"is no URN of a dataset. It should look like urn:li:dataset:\(urn:li:dataPl"):
        make_client().log_dataset(urn)


@pytest.mark.parametrize("address", ["", "  "])
def test_an_empty_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="`dataset` is empty; it can be a URN of DataHub, an address or a path"):
        make_client().log_dataset(address)


@pytest.mark.parametrize("digest", ["", "d" * 37])
def test_a_digest_that_mlflow_would_not_take_is_refused(digest: str) -> None:
    with pytest.raises(ValueError, match=r"`digest` has \d+ characters; MLflow takes 1 to 36"):
        make_client().log_dataset("s3://acme/churn.csv", digest=digest)


def test_data_itself_is_no_dataset() -> None:
    with pytest.raises(TypeError, match=r"`dataset` is a list; it can be .* mlflow\.data\.from_pandas"):
        make_client().log_dataset([1, 2, 3])


def test_a_flavor_that_mlflow_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`flavor` 'sklern' is none of MLflow \d+\.\d+.*such as sklearn, pytorch"):
        make_client().log_model(object(), "classifier", "sklern")
    with pytest.raises(ValueError, match="`flavor` 'tracking' is none"):
        make_client().log_model(object(), "classifier", "tracking")


def test_a_flavor_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """As every flavor beside mlflow-skinny alone."""

    class Lazy(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    monkeypatch.setattr(mlflow, "sklearn", Lazy("mlflow.sklearn"))
    with pytest.raises(
        ModuleNotFoundError, match="flavor `sklearn` needs `sklearn`: install the full `mlflow`"
    ) as caught:
        make_client().log_model(object(), "classifier", "sklearn")
    assert caught.value.name == "sklearn"


@pytest.mark.parametrize("status", ["SUCCESS", "finished", "RUNNING", ""])
def test_an_end_that_mlflow_does_not_know_is_refused(status: str) -> None:
    with pytest.raises(ValueError, match="is none of FINISHED, FAILED, KILLED"):
        make_client().end_run(status)


# A server that fails


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[responses.RequestsMock]:
    """An MLflow that has an experiment, and makes runs of the id "r"."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URL)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "1")  # is put back at the end: set_experiment sets it
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
    experiment = {"experiment_id": "1", "name": "churn", "lifecycle_stage": "active", "artifact_location": "s3://a"}
    run = {"info": {"run_id": "r", "run_uuid": "r", "experiment_id": "1", "status": "RUNNING"}, "data": {}}
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get(f"{API}/experiments/get-by-name", json={"experiment": experiment})
        mock.post(f"{API}/runs/create", json={"run": run})
        mock.get(f"{API}/runs/get", json={"run": run})
        yield mock
    while mlflow.active_run():
        with pytest.raises(MlflowException):
            mlflow.end_run()


def refuse(server: responses.RequestsMock, method: str, path: str) -> None:
    error = {"error_code": "PERMISSION_DENIED", "message": f"you may not: {path}"}
    server.upsert(method, f"{API}/{path}", json=error, status=403)


def test_an_error_of_the_server_is_mlflows_own(server: responses.RequestsMock) -> None:
    refuse(server, "GET", "experiments/get-by-name")
    with pytest.raises(MlflowException, match="PERMISSION_DENIED: you may not: experiments/get-by-name"):
        setup_mlflow("churn")


def test_a_run_that_can_not_be_made_is_mlflows_error(server: responses.RequestsMock) -> None:
    client = setup_mlflow("churn")
    refuse(server, "POST", "runs/create")
    with pytest.raises(MlflowException, match="you may not: runs/create"), client:
        pytest.fail("there is no run")
    assert mlflow.active_run() is None


def test_a_run_that_can_not_be_ended_is_mlflows_error(server: responses.RequestsMock) -> None:
    client = setup_mlflow("churn")
    refuse(server, "POST", "runs/update")
    with pytest.raises(MlflowException, match="you may not: runs/update"), client.start_run():
        pass
    assert mlflow.active_run() is None


def test_the_error_of_the_body_is_worth_more_than_that_of_ending_the_run(
    server: responses.RequestsMock, caplog: pytest.LogCaptureFixture
) -> None:
    client = setup_mlflow("churn")
    refuse(server, "POST", "runs/update")
    with pytest.raises(ZeroDivisionError), client:
        _ = 1 / 0
    assert mlflow.active_run() is None
    (warning,) = warnings_of(caplog)
    assert warning.startswith("Run r could not be marked as FAILED: PERMISSION_DENIED: you may not: runs/update")


@pytest.mark.usefixtures("server")
class TestWarnings:
    @pytest.mark.parametrize("tags", [None, {"team": "retention"}])
    def test_a_task_that_tells_nothing_of_itself(
        self, tags: dict[str, object] | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        setup_mlflow_for_dolphinscheduler("churn", tags)
        (warning,) = warnings_of(caplog)
        assert "`export DOLPHINSCHEDULER_PROJECT_CODE=${system.project.code}`" in warning

    def test_none_where_it_tells_something(self, caplog: pytest.LogCaptureFixture) -> None:
        setup_mlflow_for_dolphinscheduler("churn", {"dolphinscheduler_process_id": "7"})
        setup_mlflow_for_dolphinscheduler("churn", task_code="5")
        setup_mlflow("churn")
        assert warnings_of(caplog) == []

    def test_runs_that_would_stay_on_the_machine(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mlflow, "is_tracking_uri_set", lambda: False)
        setup_mlflow("churn")
        assert warnings_of(caplog) == ["MLFLOW_TRACKING_URI isn't set: what is logged stays on this machine"]
