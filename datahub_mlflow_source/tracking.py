"""For scripts that log to MLflow: runs that say which task of a scheduler started them, and what data they read.

    client = setup_mlflow_for_dolphinscheduler("churn")
    with client.start_run("nightly"):
        client.log_params({"depth": 6})

Thin over MLflow's own functions, which may be mixed with these: the open run is MLflow's. Needs `mlflow-skinny` and
nothing of DataHub. What it writes is read by the connector's `mapping/orchestrators.py`; the page is docs/tracking.md.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Any

_log = logging.getLogger(__name__)


class OrchestratorContext:
    """MLflow's plugin (`mlflow.run_context_provider`): the tags on every run that MLflow's fluent API creates.

    MLflow asks nothing of it but these two methods. It loads them while it is itself being imported, perhaps by the
    line below, which is why this class comes first and has no base of MLflow's.
    """

    def in_context(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.tags())

    def tags(self) -> dict[str, str]:
        """What the process says of itself at this moment. Never raises."""
        try:
            return {**dolphinscheduler_tags(), **orchestrator_tags()}
        except Exception as error:  # noqa: BLE001 - somebody else's run is worth more than our tags on it
            _log.debug("No tags of a scheduler: %s", error)
            return {}


import mlflow  # noqa: E402 - see OrchestratorContext

_DOLPHINSCHEDULER_FIELDS = (
    "process_id",
    "task",
    "project_code",
    "project_name",
    "workflow_code",
    "workflow_name",
    "workflow_instance_id",
    "task_code",
    "task_name",
    "task_instance_id",
    "ui_url",
)
_ORCHESTRATOR_FIELDS = ("name", "flow", "task", "run_id", "url", "cluster", "platform_instance")
_OURS = frozenset(
    [f"dolphinscheduler_{name}" for name in _DOLPHINSCHEDULER_FIELDS]
    + [f"orchestrator.{name}" for name in _ORCHESTRATOR_FIELDS]
)

_LONGEST = 500  # characters of a value that names something: the connector reads no longer ones
_ENDS = ("FINISHED", "FAILED", "KILLED")

# The form alone: names in it are encoded, so that none holds a comma or a parenthesis.
_DATASET_URN = re.compile(r"urn:li:dataset:\(urn:li:dataPlatform:[^\s,()]+,([^,()\x00-\x1f]+),[A-Z][A-Z_]*\)")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?=/|[A-Za-z0-9+.-]+:)")  # one letter is a drive of Windows
# MLflow's word for a scheme, where it isn't the scheme itself (mlflow/data/artifact_dataset_sources.py).
_SOURCE_TYPES = {"": "local", "file": "local", "https": "http", "s3a": "s3", "s3n": "s3", "gcs": "gs"}
_LONGEST_DATASET_NAME = 500  # MLflow's limits
_LONGEST_DIGEST = 36

# What Kubernetes puts behind `generateName`, and Argo behind the name of a CronWorkflow.
_GENERATED = re.compile(r"-(?:[bcdfghjklmnpqrstvwxz2456789]{5}|\d{10})$")


# The tags


def dolphinscheduler_tags(environ: Mapping[str, str] = os.environ, /, **fields: object) -> dict[str, str]:
    """The tags of a DolphinScheduler task: from `fields` (`project_code=…`), else from the environment.

    Nothing is in the environment by itself: the task's script exports it (docs/tracking.md). What nobody filled in is
    left out, with one warning. Empty where nothing is known. TypeError for an unknown field.
    """
    given: dict[str, object] = {}
    for name in _DOLPHINSCHEDULER_FIELDS:
        variable = f"DOLPHINSCHEDULER_{name.upper()}"
        if variable in environ:
            given[variable] = environ[variable]
    for name, value in fields.items():
        short = name.removeprefix("dolphinscheduler_")
        if short not in _DOLPHINSCHEDULER_FIELDS:
            raise TypeError(f"DolphinScheduler has no {name!r}; there are {', '.join(_DOLPHINSCHEDULER_FIELDS)}")
        if value is not None:
            given[f"DOLPHINSCHEDULER_{short.upper()}"] = value
    tags = {variable.lower(): text for variable, text in _filled(given).items()}
    return {"source": "dolphinscheduler", **tags} if tags else {}


def orchestrator_tags(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The tags `orchestrator.name`, `.flow`, `.task`, … of the task that this process is; empty where it is none.

    From ORCHESTRATOR_NAME, ORCHESTRATOR_FLOW, …, which win, and from what Metaflow, Prefect, Airflow and Argo tell
    their tasks, by variables or in memory. None of them is imported.
    """
    variables = {f"ORCHESTRATOR_{name.upper()}": name for name in _ORCHESTRATOR_FIELDS}
    told = _filled({variable: environ[variable] for variable in variables if variable in environ})
    by_hand = {variables[variable]: text for variable, text in told.items()}
    detected = _detected(environ)
    if by_hand.get("name", detected.get("name", "")).casefold() != detected.get("name", ""):
        detected = {}  # of another tool: the two don't mix
    said = {**detected, **by_hand}
    if said and "name" not in said:
        _warn_once(
            f"{', '.join(sorted(told))}: not written to MLflow without ORCHESTRATOR_NAME, which says of what tool"
        )
        return {}
    return {f"orchestrator.{name}": said[name] for name in _ORCHESTRATOR_FIELDS if name in said}


def _detected(environ: Mapping[str, str]) -> dict[str, str]:
    """By the innermost tool: Metaflow runs on Argo and Airflow, and a flow of Prefect in a task of either."""
    for detect in (_metaflow, _prefect, _airflow, _argo):
        try:
            found = detect(environ)
        except Exception as error:  # noqa: BLE001 - what a tool keeps in memory is its own affair, in any version
            _log.debug("Nothing found by %s: %s", detect.__name__, error)
            continue
        if found:
            return {key: text for key, value in found.items() if value is not None and (text := _name(value))}
    return {}


def _metaflow(environ: Mapping[str, str]) -> dict[str, object]:
    current: Any = getattr(sys.modules.get("metaflow"), "current", None)
    if getattr(current, "is_running_flow", False):
        return {"name": "metaflow", "flow": current.flow_name, "task": current.step_name, "run_id": current.run_id}
    if not environ.get("METAFLOW_FLOW_NAME"):  # set where a step runs in a container of its own
        return {}
    return {
        "name": "metaflow",
        "flow": environ["METAFLOW_FLOW_NAME"],
        "task": environ.get("METAFLOW_STEP_NAME"),
        "run_id": environ.get("METAFLOW_RUN_ID"),
    }


def _prefect(environ: Mapping[str, str]) -> dict[str, object]:
    """From its contexts, not `prefect.runtime`, which may ask its server. Outside them the run's name is unknown."""
    context = sys.modules.get("prefect.context")
    flow = context.FlowRunContext.get() if context else None
    if context is None or flow is None:
        if "PREFECT__FLOW_RUN_ID" not in environ:
            return {}
        return {"name": "prefect", "flow": environ.get("PREFECT__FLOW_NAME")}
    task = context.TaskRunContext.get()
    is_of_flow = task is not None and str(task.task_run.flow_run_id) == str(flow.flow_run.id)  # else a flow in a task
    return {
        "name": "prefect",
        "flow": flow.flow.name,
        "task": task.task.task_key if is_of_flow else None,
        "run_id": flow.flow_run.name,
    }


def _airflow(environ: Mapping[str, str]) -> dict[str, object]:
    if not environ.get("AIRFLOW_CTX_DAG_ID"):
        return {}
    return {
        "name": "airflow",
        "flow": environ["AIRFLOW_CTX_DAG_ID"],
        "task": environ.get("AIRFLOW_CTX_TASK_ID"),
        "run_id": environ.get("AIRFLOW_CTX_DAG_RUN_ID"),
    }


def _argo(environ: Mapping[str, str]) -> dict[str, object]:
    """Its main container has ARGO_NODE_ID (the workflow's name, a dash, a number); 3.x ARGO_TEMPLATE, 4.x the name."""
    workflow, node = environ.get("ARGO_WORKFLOW_NAME", ""), environ.get("ARGO_NODE_ID", "")
    if not (workflow or node) or any(variable.startswith("KFP_") for variable in environ):
        return {}  # Kubeflow Pipelines runs on Argo, and is no workflow that anybody knows there
    name = workflow or re.sub(r"-\d+$", "", node)
    return {
        "name": "argo",
        "flow": _GENERATED.sub("", name) or name,
        "task": _argo_template(environ, workflow, node),
        "run_id": workflow or None,
    }


def _argo_template(environ: Mapping[str, str], workflow: str, node: str) -> object:
    """Of the template its name only: secrets may stand in it. Else from the pod: <workflow>-<template>-<number>."""
    try:
        template = json.loads(environ.get("ARGO_TEMPLATE", ""))
    except ValueError:  # none, or too long for a variable
        template = None
    if isinstance(template, dict):
        return template.get("name")
    pod, number = environ.get("HOSTNAME", ""), node.removeprefix(f"{workflow}-")
    if workflow and number and pod.startswith(f"{workflow}-") and pod.endswith(f"-{number}"):
        return pod[len(workflow) + 1 : -len(number) - 1]
    return None


def _filled(given: Mapping[str, object]) -> dict[str, str]:
    """Those that name something, by the same keys; one warning for all others."""
    names = {key: _name(value) for key, value in given.items()}
    if left_out := ", ".join(sorted(key for key, name in names.items() if not name)):
        _warn_once(
            f"{left_out}: not written to MLflow, being empty, longer than {_LONGEST} characters, or not substituted. "
            "DolphinScheduler substitutes ${system.…} only in the text of the task itself"
        )
    return {key: name for key, name in names.items() if name}


def _name(value: object) -> str:
    """The value as text; "" where it can't be a name: nobody filled it in, or there is a credential in it."""
    from datahub_mlflow_source.redaction import HIDDEN, redact  # not while MLflow is being imported: it takes a moment

    text = str(value).strip()
    if not text or len(text) > _LONGEST or not text.isprintable() or any(mark in text for mark in ("${", "$[", "{{")):
        return ""
    clean = redact(text)
    return "" if HIDDEN in clean else clean


@lru_cache(maxsize=64)
def _warn_once(message: str) -> None:
    _log.warning("%s", message)


def _without_secrets(key: str, value: object) -> str:
    """A tag that somebody wrote, as the connector would show it: MLflow shows tags to everybody."""
    from datahub_mlflow_source.redaction import HIDDEN, is_secret_key, redact

    return HIDDEN if is_secret_key(key) else redact(str(value))


# The client


def setup_mlflow_for_dolphinscheduler(
    experiment_name: str,
    tags: Mapping[str, object] | None = None,
    *,
    tracking_uri: str | None = None,
    **fields: object,
) -> TrackingClient:
    """A client for a task of DolphinScheduler, whose runs go into this experiment. It is made where there is none.

    `tags` are further ones for every run. `fields` are those of `dolphinscheduler_tags`, where they aren't in the
    environment: `project_code=…`, `workflow_code=…`, `task_code=…`. `tracking_uri` is for MLFLOW_TRACKING_URI.
    """

    def of_dolphinscheduler() -> dict[str, str]:
        return {"source": "dolphinscheduler", **dolphinscheduler_tags(**fields)}

    if _OURS.isdisjoint([*of_dolphinscheduler(), *(tags or {})]):
        _warn_once(
            "Nothing is known of the DolphinScheduler task: runs won't be linked to it in DataHub. Put lines like "
            "`export DOLPHINSCHEDULER_PROJECT_CODE=${system.project.code}` into the task's script (docs/tracking.md)"
        )
    return _client(experiment_name, tags, tracking_uri, of_dolphinscheduler)


def setup_mlflow(
    experiment_name: str, tags: Mapping[str, object] | None = None, *, tracking_uri: str | None = None
) -> TrackingClient:
    """The same for any scheduler: with `orchestrator_tags`, and DolphinScheduler's where there are any."""
    return _client(experiment_name, tags, tracking_uri, OrchestratorContext().tags)


def _client(
    experiment_name: str,
    tags: Mapping[str, object] | None,
    tracking_uri: str | None,
    scheduler_tags: Callable[[], Mapping[str, str]],
) -> TrackingClient:
    if tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
    is_set = mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
    if not is_set and mlflow.get_tracking_uri() != "databricks":  # as in its notebooks
        _warn_once("MLFLOW_TRACKING_URI isn't set: what is logged stays on this machine")
    experiment = mlflow.set_experiment(experiment_name)
    return TrackingClient(experiment.experiment_id, scheduler_tags, dict(tags or {}))


@dataclass(frozen=True)
class TrackingClient:
    """Logs into one experiment. `with client:` is one run, as is `with client.start_run("name"):`.

    What has no run yet starts one. A run ends as FINISHED; as FAILED, if an exception leaves the block; as KILLED, if
    that is KeyboardInterrupt. `sys.exit(0)` is no failure. The exception goes on.
    """

    experiment_id: str
    scheduler_tags: Callable[[], Mapping[str, str]]  # asked for each run: a client may outlive a task
    tags: Mapping[str, object]
    _unnamed: set[str] = field(default_factory=set, repr=False, compare=False)  # runs of `with client:`

    def start_run(
        self,
        run_name: str | None = None,
        *,
        tags: Mapping[str, object] | None = None,
        description: str | None = None,
        nested: bool = False,
        **options: Any,
    ) -> mlflow.ActiveRun:
        """MLflow's `start_run` (`options`: `run_id`, `parent_run_id`, …), with the tags.

        The first one within `with client:` is the run that the block has begun, under this name.
        """
        all_tags = self._tags(tags)
        active = mlflow.active_run()
        if active and active.info.run_id in self._unnamed and not nested and not options:
            return self._named(active.info.run_id, run_name, {**all_tags, "mlflow.note.content": description})
        options.setdefault("experiment_id", self.experiment_id)
        outer = active.info.run_id if active else None
        run = mlflow.start_run(run_name=run_name, nested=nested, tags=all_tags, description=description, **options)
        return _started(run, outer)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters of the run; each can be logged once."""
        self._run_id()
        mlflow.log_params(dict(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Numbers, at this step of the training."""
        self._run_id()
        mlflow.log_metrics(dict(metrics), step=step)

    def log_model(self, model: Any, name: str, flavor: str, **options: Any) -> Any:
        """What `mlflow.<flavor>.log_model` returns; `options` are its own (`registered_model_name`, `signature`, …).

        The flavor's library and the full `mlflow` are needed. ValueError for a flavor that MLflow doesn't have.
        """
        log = _log_model_of(flavor)
        self._run_id()
        parameters = inspect.signature(log).parameters
        options["name" if "name" in parameters else "artifact_path"] = name  # `name` since MLflow 3, but for Spark's
        if "python_model" in parameters:
            return log(python_model=model, **options)
        return log(model, **options)

    def log_artifact(self, local_path: str | os.PathLike[str], artifact_path: str | None = None) -> None:
        """A file or folder, into this folder of the run's artifacts."""
        self._run_id()
        mlflow.log_artifact(os.fspath(local_path), artifact_path)

    def log_dataset(
        self, dataset: Any, name: str | None = None, context: str | None = "training", digest: str | None = None
    ) -> None:
        """A dataset that the run read, for `context` training, validation, test, ….

        `dataset` is a URN of DataHub (`urn:li:dataset:(urn:li:dataPlatform:snowflake,db.schema.table,PROD)`), which is
        the exact answer; or an address or a path, without its credentials; or a Dataset of `mlflow.data`, which has
        its own name and digest. Of one name and digest in an experiment, MLflow keeps what was logged first.
        """
        if not isinstance(dataset, (str, os.PathLike)):
            self._log_dataset_of_mlflow(dataset, name, context, digest)
            return
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source_type, source, default_name = _dataset_source(os.fsdecode(dataset))
        if digest is not None and not 0 < len(digest) <= _LONGEST_DIGEST:
            raise ValueError(f"`digest` has {len(digest)} characters; MLflow takes 1 to {_LONGEST_DIGEST}")
        made_up = hashlib.sha256(f"{source_type}|{source}".encode()).hexdigest()[:16]
        entity = Dataset((name or default_name)[:_LONGEST_DATASET_NAME], digest or made_up, source_type, source)
        tags = [InputTag("mlflow.data.context", context)] if context else []
        mlflow.MlflowClient().log_inputs(self._run_id(), [DatasetInput(entity, tags)])

    def set_tag(self, key: str, value: object) -> None:
        """A tag of the run, without credentials."""
        self._run_id()
        mlflow.set_tag(key, _without_secrets(key, value))

    def end_run(self, status: str = "FINISHED") -> None:
        """Ends the open run, as FINISHED, FAILED or KILLED. ValueError for another word, which would leave it open."""
        if status not in _ENDS:
            raise ValueError(f"`status` {status!r} is none of {', '.join(_ENDS)}")
        mlflow.end_run(status)

    def __enter__(self) -> TrackingClient:
        run = self.start_run()
        self._unnamed.add(run.info.run_id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if active := mlflow.active_run():
            self._unnamed.discard(active.info.run_id)
        _end_runs(None, error)

    def _tags(self, tags: Mapping[str, object] | None) -> dict[str, str]:
        given = {key: value for key, value in {**self.tags, **(tags or {})}.items() if value is not None}
        ours = _filled({key: value for key, value in given.items() if key in _OURS})
        others = {key: _without_secrets(key, value) for key, value in given.items() if key not in _OURS}
        return {**self.scheduler_tags(), **ours, **others}

    def _run_id(self) -> str:
        run_id: str = (mlflow.active_run() or self.start_run()).info.run_id
        return run_id

    def _named(self, run_id: str, run_name: str | None, tags: Mapping[str, str | None]) -> mlflow.ActiveRun:
        self._unnamed.discard(run_id)
        if run_name:
            mlflow.MlflowClient().update_run(run_id, name=run_name)
        mlflow.set_tags({key: value for key, value in tags.items() if value is not None})
        return _started(mlflow.get_run(run_id), None)

    def _log_dataset_of_mlflow(self, dataset: Any, name: str | None, context: str | None, digest: str | None) -> None:
        data = sys.modules.get("mlflow.data.dataset")
        if data is None or not isinstance(dataset, data.Dataset):
            raise TypeError(
                f"`dataset` is a {type(dataset).__name__}; it can be a URN of DataHub, an address, a path, or "
                "a Dataset of mlflow.data, such as mlflow.data.from_pandas(frame, source=…)"
            )
        if name is not None or digest is not None:
            raise TypeError("a Dataset of mlflow.data has its own `name` and `digest`: give them where it is made")
        self._run_id()
        mlflow.log_input(dataset, context=context)


def _started(run: mlflow.entities.Run, outer: str | None) -> mlflow.ActiveRun:
    """The run for a `with` block, within the outer one."""
    started: mlflow.ActiveRun = _run_class()(run, outer)
    return started


@lru_cache(maxsize=1)
def _run_class() -> Any:
    """Made late: MLflow may be half imported when this module is (see OrchestratorContext)."""

    class StartedRun(mlflow.ActiveRun):
        """MLflow's, which leaves runs open that were started within it, and knows neither Ctrl-C nor exit(0)."""

        def __init__(self, run: mlflow.entities.Run, outer: str | None) -> None:
            super().__init__(run)  # type: ignore[no-untyped-call]
            self._outer = outer

        def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
            _end_runs(self._outer, error)

    return StartedRun


def _end_runs(outer: str | None, error: BaseException | None) -> None:
    """Ends what is open within the outer run. The error of the body is worth more than one in telling MLflow of it."""
    status = _status(error)
    while (run := mlflow.active_run()) and run.info.run_id != outer:
        try:
            mlflow.end_run(status)
        except mlflow.exceptions.MlflowException as failure:
            if error is None:
                raise
            _log.warning("Run %s could not be marked as %s: %s", run.info.run_id, status, failure)


def _status(error: BaseException | None) -> str:
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "FINISHED"
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


def _log_model_of(flavor: str) -> Any:
    try:
        log = getattr(getattr(mlflow, flavor, None), "log_model", None)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"MLflow's flavor `{flavor}` needs `{error.name}`: install the full `mlflow`, and the library of the model",
            name=error.name,
        ) from error
    if log is None:
        raise ValueError(
            f"`flavor` {flavor!r} is none of MLflow {mlflow.__version__}, such as sklearn, pytorch, pyfunc"
        )
    return log


def _dataset_source(dataset: str) -> tuple[str, str, str]:
    """MLflow's source type, its JSON for the source, and a name."""
    if dataset.startswith("urn:"):
        urn = _DATASET_URN.fullmatch(dataset)
        if urn is None:
            raise ValueError(
                f"{dataset!r} is no URN of a dataset. It should look like "
                "urn:li:dataset:(urn:li:dataPlatform:snowflake,db.schema.table,PROD), with %2C for a comma in a name"
            )
        return "datahub", json.dumps({"urn": dataset}), urn[1]
    from datahub_mlflow_source.redaction import redact_url

    address = redact_url(dataset.strip())
    if not address:
        raise ValueError("`dataset` is empty; it can be a URN of DataHub, an address or a path")
    match = _SCHEME.match(address)
    scheme = match[1].lower() if match else ""
    source_type = _SOURCE_TYPES.get(scheme, scheme)
    path = re.split(r"[?#]", address, maxsplit=1)[0] if source_type != "local" else address
    name = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return source_type, json.dumps({"url" if source_type == "http" else "uri": address}), name or address
