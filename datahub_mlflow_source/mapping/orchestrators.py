"""Which task of an orchestrator started a run: from what stands on the run to DataHub's dataFlow and dataJob.

Tools differ in what they write; what they write is data here (`KNOWN`), and so are a recipe's own rules. Where
DataHub has an integration of the tool, the URNs are those of that integration, whose entities are referenced and never
written; where there is none, the entities are ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import quote

from datahub.metadata.urns import DataFlowUrn, DataJobUrn, DataProcessInstanceUrn

from datahub_mlflow_source.addresses import is_web_address
from datahub_mlflow_source.mapping.templates import filled, places
from datahub_mlflow_source.mapping.urns import (
    PLATFORM,
    Naming,
    data_flow_urn,
    data_job_urn,
    encoded_length,
    task_run_urn,
)
from datahub_mlflow_source.records import Experiment, ModelVersion, Run
from datahub_mlflow_source.redaction import HIDDEN, redact, redact_url

_LONGEST = 500  # characters of a value that names something; what is longer is no name
_LONGEST_PART = 150  # bytes, encoded, of a cluster or platform instance
# What rules may look at beside tags and params: a rule of these alone has to be tried on each run.
_OF_EVERY_RUN = frozenset({"run_id", "run_name", "experiment"})


@dataclass(frozen=True, slots=True)
class Orchestrator:
    """How runs tell which task of one tool started them, and what DataHub calls that task.

    All but `when` and `is_ours` are templates (see `templates.filled`) over the run's tags and params, the tags of
    versions that it made, `run_id`, `run_name`, `experiment`, and the named groups of `when`.
    """

    platform: str
    flow: str = ""
    task: str = ""
    when: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # regex of the whole value, by key
    run: str = ""  # id of the tool's own process instance, as DataHub's integration of it has that
    cluster: str = ""  # part of the URNs; else the recipe's `env`
    platform_instance: str = ""
    flow_name: str = ""  # for people; else the flow
    task_name: str = ""
    url: str = ""  # page of the flow
    run_url: str = ""  # page of this run in the tool
    is_ours: bool = True  # nobody else puts its entities into DataHub, and so we do

    def needs(self) -> frozenset[str]:
        """Keys of which a run must have one: the first of `when`, or what the flow is made of."""
        return frozenset(list(self.when)[:1] or places(self.flow or self.run))

    def looks_at(self) -> frozenset[str]:
        """All keys that it asks for."""
        templates = (self.platform, self.flow, self.task, self.run, self.cluster, self.platform_instance)
        for_people = (self.flow_name, self.task_name, self.url, self.run_url)
        return frozenset(self.when).union(*map(places, (*templates, *for_people, *_RUN_IDS.values())))


class Orchestrators:
    """All that are known, the first that fits a run first."""

    def __init__(self, rules: Sequence[Orchestrator]) -> None:
        self.rules = [(rule, rule.needs(), rule.looks_at()) for rule in rules]
        self._needed = frozenset[str]().union(*(rule.needs() for rule in rules))
        self._of_every_run = not _OF_EVERY_RUN.isdisjoint(self._needed)

    def may_fit(self, run: Run, versions: Sequence[ModelVersion] = ()) -> bool:
        """Whether it, or a version that it made, has a tag or param that some rule looks for: so have few runs."""
        needed = self._needed
        for tags in (run.tags, run.params, *(version.tags for version in versions)):
            for key, _ in tags:  # half as long as `any`, and asked of every run
                if key in needed:
                    return True
        return self._of_every_run


@dataclass(frozen=True, slots=True)
class Task:
    """What started a run. Its flow may be unknown, where only the tool's own run is."""

    orchestrator: str  # the platform
    flow: DataFlowUrn | None
    job: DataJobUrn | None
    instance: DataProcessInstanceUrn | None  # its run, in the tool's own integration
    flow_name: str = ""
    task_name: str = ""
    url: str = ""
    run_url: str = ""
    platform_instance: str = ""
    is_ours: bool = False

    @property
    def template(self) -> DataJobUrn | DataFlowUrn | None:
        """What the run is one of: as exact as is known."""
        return self.job or self.flow

    def properties(self) -> Iterator[tuple[str, str]]:
        """For the run's custom properties: keys without prefix, and values."""
        yield "orchestrator", self.orchestrator
        yield "orchestrator_flow", self.flow_name
        yield "orchestrator_task", self.task_name
        yield "orchestrator_url", self.run_url or self.url


def task_of(
    run: Run,
    experiment: Experiment,
    versions: Sequence[ModelVersion],
    orchestrators: Orchestrators,
    naming: Naming,
) -> Task | None:
    """The task that started this run, by the first rule that fits. `versions` are those registered from it.

    Asked for where one `may_fit`, or it takes its time.
    """
    said = [run.tags, run.params, *(version.tags for version in versions)]
    values: dict[str, str] = {}
    for tags in reversed(said):  # a tag of the run says more than a param, and that more than one of what came from it
        values.update(tags)
    values.update(run_id=run.run_id, run_name=run.name, experiment=experiment.name)
    for rule, needed, keys in orchestrators.rules:
        if needed.isdisjoint(values):
            continue
        named = {key: name for key in keys if (name := _name(values.get(key, "")))}
        if task := _task(rule, named, naming):
            return task
    return None


def _name(value: str) -> str:
    """The value, where it may name something; "" where it is too long, or a place that nobody filled."""
    text = value.strip()
    if not text or len(text) > _LONGEST or not text.isprintable() or text.startswith("${"):
        return ""
    clean = redact(text)
    return "" if HIDDEN in clean else clean


def _short(name: str) -> str:
    """A name that leaves room in a URN for others; "" for none."""
    return name if encoded_length(name) <= _LONGEST_PART else ""


def _task(orchestrator: Orchestrator, values: Mapping[str, str], naming: Naming) -> Task | None:
    known = dict(values)
    for key, expression in orchestrator.when.items():
        match = _compiled(expression).fullmatch(values[key]) if key in values else None
        if match is None:
            return None
        known.update((name, text) for name, text in match.groupdict().items() if text)
    platform = filled(orchestrator.platform, known).lower()
    if not _PLATFORM.fullmatch(platform):
        return None
    # A tag may name any tool: of those that nobody vouched for, nothing is written.
    is_ours = orchestrator.is_ours and (
        platform in OF_NOBODY if orchestrator is CONVENTION else platform not in OF_OTHERS
    )
    cluster = _short(filled(orchestrator.cluster, known)) or OF_OTHERS.get(platform) or naming.env
    instance = _short(filled(orchestrator.platform_instance, known))
    if platform == PLATFORM:
        instance = naming.platform_instance or ""
    known["orchestrator.platform_instance"] = instance
    name, task = filled(orchestrator.flow, known), filled(orchestrator.task, known)
    flow = data_flow_urn(platform, name, cluster, instance, is_ours=is_ours) if name else None
    run_id = filled(orchestrator.run or _RUN_IDS.get(platform, ""), known)
    run = task_run_urn(platform, run_id, cluster) if run_id and not is_ours else None
    if flow is None and run is None:
        return None
    job = data_job_urn(flow, task, is_ours=is_ours) if flow and task else None
    return Task(
        platform,
        flow,
        job,
        run,
        filled(orchestrator.flow_name, known) or name,
        filled(orchestrator.task_name, known) or task,
        _address(orchestrator.url, known),
        _address(orchestrator.run_url, known),
        instance,
        is_ours,
    )


def _address(template: str, values: Mapping[str, str]) -> str:
    """Of a page; "" where it is none. A value that the template begins with is the beginning of an address."""
    first = _FIRST_PLACE.match(template)
    base = redact_url(filled(first[0], values)).rstrip("/") if first else ""
    rest = template[first.end() :] if first else template
    path = filled(rest, values, lambda value: quote(value, safe=""))
    if (first and not base) or (rest and not path):
        return ""
    address = f"{base}{path}" if "://" in base or not first else f"https://{base}{path}"
    return address if is_web_address(address) else ""


@lru_cache(maxsize=256)
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression)


_PLATFORM = re.compile(r"[a-z][a-z0-9_-]{0,49}")
_FIRST_PLACE = re.compile(r"\{[^{}]+\}")

# Tools whose DataHub integration has these entities (acryl-datahub 1.7, and the plugins), and the cluster that it gives
# them by itself.
_WITH_INTEGRATION = (
    "airbyte azure-data-factory dagster dbt dlt fabric-data-factory fivetran flink glue hex informatica kafka-connect"
    " kinesis matillion mssql nifi prefect sagemaker sap-datasphere snaplogic snowflake snowplow spark timescaledb"
    " vertexai"
)
OF_OTHERS: Mapping[str, str] = {
    "airflow": "prod",  # in lower case: DEFAULT_FLOW_CLUSTER
    **dict.fromkeys(_WITH_INTEGRATION.split(), "PROD"),
}
# And those that are known to have none.
OF_NOBODY = frozenset({"argo", "databricks", "dolphinscheduler", "kedro", "kubeflow", "metaflow", PLATFORM, "zenml"})
# Ids of process instances, as those integrations make them, from the convention's tags. Airflow's has none for a whole
# DAG run; of Prefect's tasks the id holds a name that no tag tells.
_RUN_IDS: Mapping[str, str] = {
    "airflow": "{orchestrator.flow}_{orchestrator.task}_{orchestrator.run_id}",
    "dagster": "{orchestrator.run_id}[.{orchestrator.task}]",
    "prefect": "[{orchestrator.platform_instance}.]{orchestrator.run_id}",
}

# What anybody may put on a run, or have put by `datahub_mlflow_source.tracking`.
CONVENTION = Orchestrator(
    "{orchestrator.name}",
    flow="{orchestrator.flow}",
    task="{orchestrator.task}",
    when={"orchestrator.name": ".+"},
    cluster="{orchestrator.cluster}",
    platform_instance="{orchestrator.platform_instance}",
    url="{orchestrator.url}",
)


def _dolphin(*names: str) -> str:
    """A place for the first of these tags, `dolphinscheduler_project_code` or `dolphinscheduler.project.code`."""
    return "{" + "|".join(f"dolphinscheduler_{name}|dolphinscheduler.{name.replace('_', '.')}" for name in names) + "}"


_PROJECT = _dolphin("project_code", "project_name")
_WORKFLOW = _dolphin("workflow_code", "workflow_name", "process_code", "process_name", "process_id")
_DOLPHIN_UI = _dolphin("ui_url") + "/projects/" + _dolphin("project_code") + "/workflow"
_DATABRICKS = "{mlflow.databricks.workspaceURL|mlflow.databricks.webappURL}"
# As these tools write them.
KNOWN: tuple[Orchestrator, ...] = (
    CONVENTION,
    Orchestrator(  # by `datahub_mlflow_source.tracking`; the tool itself writes nothing. `source` alone proves nothing
        "dolphinscheduler",
        flow=f"[{_PROJECT}.]{_WORKFLOW}",
        task=_dolphin("task_code", "task_name", "task"),
        flow_name=_dolphin("workflow_name", "process_name", "workflow_code", "process_code", "process_id"),
        task_name=_dolphin("task_name", "task", "task_code"),
        url=f"{_DOLPHIN_UI}/definitions/{_dolphin('workflow_code')}",
        run_url=f"{_DOLPHIN_UI}/instances/{_dolphin('workflow_instance_id')}?code={_dolphin('workflow_code')}",
    ),
    Orchestrator(  # where somebody copied what Airflow exports to each task, under its own names
        "airflow",
        flow="{AIRFLOW_CTX_DAG_ID|airflow_ctx_dag_id}",
        task="{AIRFLOW_CTX_TASK_ID|airflow_ctx_task_id}",
        run="{AIRFLOW_CTX_DAG_ID|airflow_ctx_dag_id}_{AIRFLOW_CTX_TASK_ID|airflow_ctx_task_id}_"
        "{AIRFLOW_CTX_DAG_RUN_ID|airflow_ctx_dag_run_id}",
    ),
    Orchestrator("dagster", run="{dagster_run_id}"),  # dagster_mlflow/resources.py; which job it was stands nowhere
    Orchestrator(  # its API server, on the run of the pipeline
        "kubeflow", flow="{kfp.pipeline_id}", when={"kfp.pipeline_run_id": ".+"}, run_url="{kfp.pipeline_run_url}"
    ),
    Orchestrator(  # mlflow/utils/mlflow_tags.py
        "databricks",
        flow="[{mlflow.databricks.workspaceID}.]{mlflow.databricks.jobID}",
        flow_name="job {mlflow.databricks.jobID}",
        url=f"{_DATABRICKS}/#job/{{mlflow.databricks.jobID}}",
        run_url=f"{_DATABRICKS}/#job/{{mlflow.databricks.jobID}}/run/{{mlflow.databricks.jobRunID}}",
    ),
    # Of a version: steps/mlflow_registry.py of ZenML. Without its project, which a run doesn't tell.
    Orchestrator("zenml", flow="{zenml_pipeline_name}", task="{zenml_step_name}"),
    Orchestrator(  # of a run, whose name is the pipeline's with the time behind, unless somebody chose another
        "zenml",
        flow="{pipeline}",
        when={"zenml": ".+", "run_name": r"(?P<pipeline>.+)-\d{4}_\d\d_\d\d-\d\d_\d\d_\d\d(?:_\d+)?"},
    ),
    # kedro-mlflow, as params: framework/hooks/mlflow_hook.py. Kedro 1.0 may run several pipelines, which have no name.
    Orchestrator("kedro", flow="{pipeline_name}", when={"kedro_command": ".+", "pipeline_name": "(?!None$).+"}),
    Orchestrator(
        "kedro",
        flow="{only}",
        when={"kedro_command": ".+", "pipeline_names": r"[\[(]['\"](?P<only>[^'\",]+)['\"],?[\])]"},
    ),
    Orchestrator("kedro", flow="__default__", when={"kedro_command": r"kedro run(?!.*\s(?:-p|--pipelines?)\b).*"}),
    Orchestrator(  # `mlflow run`: projects/utils.py
        PLATFORM,
        flow="{mlflow.source.name}",
        task="{mlflow.project.entryPoint}",
        when={"mlflow.project.entryPoint": ".+", "mlflow.source.type": "PROJECT"},
        url="{mlflow.source.git.repoURL}",
    ),
)

ALL_KNOWN = Orchestrators(KNOWN)
