"""The URNs that DataHub's plugins for Airflow, Dagster and Prefect give: `make .venv-plugins/done`, then
`.venv-plugins/bin/python -I tests/support/plugin_urns.py > tests/unit/plugin_urns.json`.

Runs in an environment of its own, and imports neither this project nor anything of its tests. Each case goes through
the whole plugin: Airflow's listener, Dagster's sensor, Prefect's block. Only what they would ask a server for is put
in, and what they would send is kept. A URN that the plugin sends for no run is null: Airflow's listener knows tasks
only, never the run of a DAG.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any
from unittest import mock
from uuid import UUID

Given = dict[str, str | None]

QUIET = {
    "DATAHUB_TELEMETRY_ENABLED": "false",
    "SCARF_ANALYTICS": "false",
    "DAGSTER_DISABLE_TELEMETRY": "yes",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "true",
    "DATAHUB_AIRFLOW_PLUGIN_RUN_IN_THREAD": "false",
}
STARTED = datetime(2026, 1, 1, tzinfo=timezone.utc)
SOME_ID = UUID("c3b947e5-3fa1-4b46-a2e2-58d50c938f2e")

# What is null is not set, so that the plugin's own default shows. Airflow's ids have no spaces, commas or slashes,
# Dagster's names nothing but letters, digits and underscores, Prefect's names no slashes; but Prefect's runs and all
# platform instances may.
AIRFLOW: list[Given] = [
    {"flow": "train_churn", "task": "fit", "run_id": "scheduled__2026-01-01T00:00:00+00:00"},
    {"flow": "train.churn", "task": "features.build.join", "run_id": "manual__2026-01-01T10:30:00+00:00_x1"},
    {"flow": "train_churn", "task": "features.build", "run_id": "nightly", "platform_instance": "eu-west"},
    {"flow": "train_churn", "task": "fit", "run_id": "nightly", "cluster": "PROD"},
    {
        "flow": "Обучение",
        "task": "шаг-1",
        "run_id": "ночь",
        "cluster": "staging",
        "platform_instance": "eu, west/1 (b)",
    },
]
DAGSTER: list[Given] = [  # module: null for a code location that is a file; deployment: null outside of Dagster's cloud
    {
        "module": "churn.definitions",
        "flow": "train_churn",
        "task": "fit",
        "run_id": "6f1ed7a2-0000-4000-8000-000000000001",
    },
    {"module": None, "flow": "train_churn", "task": "fit", "run_id": "6f1ed7a2-0000-4000-8000-000000000002"},
    {
        "module": "churn",
        "flow": "__ASSET_JOB",
        "task": "ml__churn_model",
        "run_id": "6f1ed7a2-0000-4000-8000-000000000003",
    },
    {
        "module": "churn.definitions",
        "flow": "train_churn",
        "task": "fit",
        "run_id": "6f1ed7a2-0000-4000-8000-000000000004",
        "cluster": "DEV",
        "platform_instance": "eu, west/1 (b)",
    },
    {
        "module": "churn.definitions",
        "flow": "train_churn",
        "task": "fit",
        "run_id": "6f1ed7a2-0000-4000-8000-000000000005",
        "deployment": "staging",
    },
    {
        "module": None,
        "flow": "train_churn",
        "task": "fit",
        "run_id": "6f1ed7a2-0000-4000-8000-000000000006",
        "deployment": "prod",
    },
]
PREFECT: list[Given] = [  # task: its key; run_id and task_run: the names of both runs
    {"flow": "train-churn", "task": "fit-1a2b3c4d", "run_id": "silver-otter", "task_run": "fit-f01"},
    {
        "flow": "train-churn",
        "task": "my_project.flows.fit",
        "run_id": "silver-otter",
        "task_run": "fit-0",
        "platform_instance": "eu-west",
    },
    {
        "flow": "Train, churn (weekly)",
        "task": "fit-1a2b3c4d",
        "run_id": "2026/01/01, by hand (2)",
        "task_run": "fit, fold 1",
        "cluster": "DEV",
    },
    {
        "flow": "Обучение модели",
        "task": "fit-1a2b3c4d",
        "run_id": "ночь",
        "task_run": "fit-0",
        "cluster": "PROD",
        "platform_instance": "eu, west/1 (b)",
    },
]


class Kept:
    """Stands for a DataHub server: what is sent stays here."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.sent: list[Any] = []

    def emit(self, mcp: Any, *_: Any, **__: Any) -> None:
        self.sent.append(mcp)

    emit_mcp = emit

    def flush(self) -> None:
        """Nothing waits."""

    def test_connection(self) -> None:
        """It is there."""

    def urns(self) -> dict[str, str | None]:
        """The one URN of each kind; runs are told apart by what they are runs of."""
        found: dict[str, set[str]] = {"flow": set(), "job": set(), "run": set(), "task_run": set()}
        for mcp in self.sent:
            kind = mcp.entityUrn.split(":")[2]
            if kind == "dataFlow":
                found["flow"].add(mcp.entityUrn)
            elif kind == "dataJob":
                found["job"].add(mcp.entityUrn)
            elif mcp.aspectName == "dataProcessInstanceRelationships":
                of_flow = mcp.aspect.parentTemplate.startswith("urn:li:dataFlow:")
                found["run" if of_flow else "task_run"].add(mcp.entityUrn)
        if twice := [urns for urns in found.values() if len(urns) > 1]:
            raise AssertionError(f"several of a kind: {twice}")
        if not found["flow"] or not found["job"] or not found["task_run"]:
            raise AssertionError(f"not all was sent: {found}")
        return {kind: next(iter(urns), None) for kind, urns in found.items()}


def airflow(given: Given) -> Kept:
    """A task of a DAG starts: `DataHubListener`, by the settings of airflow.cfg's section [datahub]."""
    from airflow.providers.standard.operators.empty import EmptyOperator  # type: ignore[import-not-found]
    from airflow.sdk import DAG, TaskGroup  # type: ignore[import-not-found]
    from datahub_airflow_plugin._config import get_lineage_config  # type: ignore[import-not-found]
    from datahub_airflow_plugin.airflow3.datahub_listener import DataHubListener  # type: ignore[import-not-found]

    settings = {
        "AIRFLOW__DATAHUB__CLUSTER": given.get("cluster"),
        "AIRFLOW__DATAHUB__PLATFORM_INSTANCE": given.get("platform_instance"),
    }
    *groups, name = str(given["task"]).split(".")
    with environment(settings), contextlib.ExitStack() as inside:
        dag = inside.enter_context(DAG(given["flow"], schedule=None))
        for group in groups:
            inside.enter_context(TaskGroup(group))
        task = EmptyOperator(task_id=name)
        listener = DataHubListener(get_lineage_config())
    if task.task_id != given["task"]:
        raise AssertionError(task.task_id)
    listener._emitter = kept = Kept()
    run = {"dag_id": dag.dag_id, "run_id": given["run_id"]}
    times = {"start_date": None, "end_date": None, "try_number": 2}
    instance = SimpleNamespace(task=task, task_id=task.task_id, map_index=4, **run, **times)  # of a mapped task
    listener.on_dag_run_running(SimpleNamespace(dag=dag, **run), "")
    listener.on_task_instance_running(None, instance)
    listener.on_task_instance_success(None, instance)
    return kept


def dagster(given: Given) -> Kept:
    """A job has run, in this process: `DatahubSensors`, as its sensor for successful runs calls it."""
    from dagster import (  # type: ignore[import-not-found]
        DagsterInstance,
        build_run_status_sensor_context,
        job,
        op,
    )
    from dagster._core.code_pointer import FileCodePointer, ModuleCodePointer  # type: ignore[import-not-found]
    from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin  # type: ignore[import-not-found]
    from datahub.ingestion.graph.client import DatahubClientConfig
    from datahub_dagster_plugin.client.dagster_generator import (  # type: ignore[import-not-found]
        DatahubDagsterSourceConfig,
    )
    from datahub_dagster_plugin.sensors.datahub_sensors import DatahubSensors  # type: ignore[import-not-found]

    step = op(name=given["task"])(lambda: None)

    def steps() -> None:
        step()

    instance = DagsterInstance.ephemeral()
    result = job(name=given["flow"])(steps).execute_in_process(instance=instance, run_id=given["run_id"])
    module = given["module"]
    pointer = ModuleCodePointer(module, "defs", None) if module else FileCodePointer("/churn/jobs.py", "defs", None)
    origin = JobPythonOrigin(given["flow"], RepositoryPythonOrigin("python", pointer))
    context = build_run_status_sensor_context(
        "datahub_success_sensor",
        next(event for event in result.all_events if event.is_job_success),
        instance,
        instance.get_run_by_id(given["run_id"])._replace(job_code_origin=origin),
    )
    sensors = object.__new__(DatahubSensors)  # its __init__ would ask the server for its configuration
    sensors.graph = kept = Kept()
    sensors.config = DatahubDagsterSourceConfig(
        datahub_client_config=DatahubClientConfig(server="http://127.0.0.1:1"), **options(given)
    )
    deployment = given.get("deployment")
    cloud = {"DAGSTER_CLOUD_IS_BRANCH_DEPLOYMENT": "0" if deployment else None}
    with environment(cloud | {"DAGSTER_CLOUD_DEPLOYMENT_NAME": deployment}):
        sensors._emit_metadata(context)
    return kept


def prefect(given: Given) -> Kept:
    """A flow calls `DatahubEmitter.emit_flow()` as the last thing it does."""
    import prefect_datahub.datahub_emitter as plugin  # type: ignore[import-not-found]
    from prefect import flow  # type: ignore[import-not-found]
    from prefect.client.schemas import FlowRun, TaskRun  # type: ignore[import-not-found]
    from prefect.client.schemas.objects import Flow  # type: ignore[import-not-found]

    run = FlowRun(id=SOME_ID, flow_id=SOME_ID, name=given["run_id"], start_time=STARTED)
    task = TaskRun(
        id=SOME_ID,
        task_key=given["task"],
        name=given["task_run"],
        dynamic_key="0",
        start_time=STARTED,
        end_time=STARTED,
        state=None,
        state_name="Completed",
    )
    client = mock.AsyncMock()
    client.read_flow.return_value = Flow(id=SOME_ID, name=given["flow"])
    client.read_flow_run.return_value = run
    client.read_task_runs.return_value = [task]
    client._client.get.return_value = SimpleNamespace(json=list)  # no node of the graph has come yet
    context = SimpleNamespace(flow=flow(name=given["flow"])(lambda: None), flow_run=run)
    with (
        mock.patch.object(plugin, "DatahubRestEmitter", Kept),
        mock.patch.object(plugin, "FlowRunContext", SimpleNamespace(get=lambda: context)),
        mock.patch.object(plugin, "get_run_logger", return_value=logging.getLogger("prefect_datahub")),
        mock.patch.object(plugin.orchestration, "get_client", return_value=client),
        mock.patch.object(plugin.DatahubEmitter, "_get_workspace", return_value=None),
    ):
        block = plugin.DatahubEmitter(**options(given))
        block.emit_flow()
    kept: Kept = block.emitter
    return kept


def options(given: Given) -> dict[str, Any]:
    """What Dagster's and Prefect's plugins are told of it."""
    names = {"env": "cluster", "platform_instance": "platform_instance"}
    return {theirs: given[name] for theirs, name in names.items() if given.get(name)}


@contextlib.contextmanager
def environment(values: Given) -> Iterator[None]:
    """These variables, for as long as it lasts; null: not set."""
    with mock.patch.dict(os.environ):
        for name, value in values.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        yield


def main() -> None:
    tools = {"airflow": (airflow, AIRFLOW), "dagster": (dagster, DAGSTER), "prefect": (prefect, PREFECT)}
    with tempfile.TemporaryDirectory() as home, contextlib.redirect_stdout(sys.stderr):
        os.environ.update(QUIET | {"HOME": home, "AIRFLOW_HOME": home, "PREFECT_HOME": home})
        cases = [
            {"tool": tool, "given": given, **ask(given).urns()}
            for tool, (ask, all_given) in tools.items()
            for given in all_given
        ]
    json.dump(cases, sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
