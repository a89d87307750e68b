"""What is in the servers that tests read: all that MLflow can hold and a reader may trip over.

It goes in over MLflow's REST API, which is the same from 2.10 to 3.x, and by SQL where no client
can make it. Nothing is trained here: the demo does that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tests.support.servers import MlflowServer

STARTED = 1_700_000_000_000  # of the first run; epoch milliseconds
MINUTE = 60_000

CHURN = "churn"
FORECAST = "forecast, EU (需求)"
EMPTY = "empty"
RETIRED = "retired"

FRAUD = "fraud, v2 (EU)"
SLASH = "模型/卡"  # 3.11 and newer refuse "/" and ":" in a new name; older rows keep them
LONG = "模" * 300  # SQLite doesn't hold MLflow to its 256
UNUSED = "no versions"
ODD_NAMES = ("it's", "a,b", "a%2Cb", " leading blank", 'say "yes"', "100% sure", SLASH, LONG)

SECRETS = (
    "s3cr3t-git",
    "s3cr3t-token",
    "s3cr3t-ftp",
    "s3cr3t-gateway",
    "key of openai",
)  # logged by accident; no aspect may hold one


@dataclass(frozen=True, slots=True)
class Content:
    """What `rich_content` made: all that its server has, the experiment "Default" included."""

    experiments: Mapping[str, str]  # name -> id, of those that are not deleted
    deleted_experiments: Mapping[str, str]
    runs: Mapping[str, str]  # run name -> run id, of those that are not deleted
    deleted_runs: Mapping[str, str]
    gone_run: str  # id of a run that was deleted for good; a version still names it
    models: tuple[str, ...]
    versions: Mapping[tuple[str, str], str]  # (model, version) -> run id, empty where it has none
    logged_models: Mapping[str, str]  # name -> id, of those that no version was made of
    evaluation_datasets: Mapping[str, str]  # name -> id; "of the retired" is of a deleted experiment alone
    gateway_endpoints: Mapping[str, str]  # name -> id


def rich_content(server: MlflowServer) -> Content:
    """Fills an empty server with one of everything."""
    ids = _make_experiments(server)
    runs = {**_make_churn_runs(server, ids[CHURN]), **_make_forecast_runs(server, ids[FORECAST])}
    gone_run = _make_run(server, ids[CHURN], "gone", 50)
    deleted_runs = {
        "deleted": _make_run(server, ids[CHURN], "deleted", 60),
        "in retired": _make_run(server, ids[RETIRED], "in retired", 61),
    }
    versions = _make_models(server, runs, gone_run)
    _move_model_files(server)
    logged_models: dict[str, str] = {}
    if server.release >= (3, 0):
        registered, logged_models = _make_logged_models(server, ids, runs)
        versions |= registered
    evaluation_datasets = _make_evaluation(server, ids, runs) if server.release >= (3, 4) else {}
    gateway_endpoints = _make_gateway(server, ids[CHURN]) if server.release >= (3, 8) else {}
    server.post("runs/delete", run_id=deleted_runs["deleted"])
    server.post("experiments/delete", experiment_id=ids[RETIRED])  # and its run with it
    _delete_run_for_good(server, gone_run)
    retired = {RETIRED: ids.pop(RETIRED)}
    models = tuple(dict.fromkeys([UNUSED, *(name for name, _ in versions)]))
    return Content(
        {"Default": "0", **ids},
        retired,
        runs,
        deleted_runs,
        gone_run,
        models,
        versions,
        logged_models,
        evaluation_datasets,
        gateway_endpoints,
    )


def _make_experiments(server: MlflowServer) -> dict[str, str]:
    ids = {}
    for name in (CHURN, FORECAST, EMPTY, RETIRED):
        ids[name] = server.post("experiments/create", name=name)["experiment_id"]
    about = "Who **leaves**, and why.\nAsk the retention team."
    for key, value in {"mlflow.note.content": about, "team": "retention", "no value": ""}.items():
        server.post("experiments/set-experiment-tag", experiment_id=ids[CHURN], key=key, value=value)
    return ids


# Runs

GIT_TAGS = {
    "mlflow.user": "ada",
    "mlflow.source.name": "train.py",
    "mlflow.source.type": "LOCAL",
    "mlflow.source.git.commit": "4f1a6a2f0c5f4f0b9f7f3e0d5a1b2c3d4e5f6a7b",
    "mlflow.source.git.branch": "main",
    "mlflow.source.git.repoURL": "https://user:s3cr3t-git@github.com/acme/churn.git",
    "mlflow.source.git.diff": "diff --git a/train.py b/train.py\n+print('new')",
}


def _make_churn_runs(server: MlflowServer, experiment_id: str) -> dict[str, str]:
    """The run that has everything, and one for each way a run can end."""
    runs = {"full": _make_run(server, experiment_id, "full", 0, end="FINISHED")}
    _fill(server, runs["full"])
    for minute, name in enumerate(("failed", "killed", "scheduled"), start=1):
        runs[name] = _make_run(server, experiment_id, name, minute, end=name.upper())
    runs["running"] = _make_run(server, experiment_id, "running", 10)
    runs["finished, nobody knows when"] = _make_run(server, experiment_id, "finished, nobody knows when", 11)
    server.post("runs/update", run_id=runs["finished, nobody knows when"], status="FINISHED")
    runs["nobody's"] = _make_run(server, experiment_id, "nobody's", 12, user="", end="FINISHED")
    return runs


def _make_forecast_runs(server: MlflowServer, experiment_id: str) -> dict[str, str]:
    """A parent with two children. One child logs a `train` that is not churn's `train`."""
    parent = _make_run(server, experiment_id, "parent", 20, end="FINISHED")
    runs = {"parent": parent}
    for minute, name in ((21, "child 1"), (22, "child 2")):
        runs[name] = _make_run(server, experiment_id, name, minute, end="FINISHED", tags={"mlflow.parentRunId": parent})
    dataset = _dataset("train", "s3", {"uri": "s3://acme-forecast/2024/train.parquet"}, schema=TABLE)
    server.post("runs/log-inputs", run_id=runs["child 1"], datasets=[dataset])
    return runs


def _make_run(
    server: MlflowServer,
    experiment_id: str,
    name: str,
    minute: int,
    *,
    user: str = "ada",
    end: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """A run that starts `minute` minutes after STARTED, and ends a minute later as `end`, or goes on."""
    start = STARTED + minute * MINUTE
    run = server.post(
        "runs/create",
        experiment_id=experiment_id,
        run_name=name,
        user_id=user,
        start_time=start,
        tags=_pairs(tags or {}),
    )
    run_id: str = run["run"]["info"]["run_id"]
    if end:
        server.post("runs/update", run_id=run_id, status=end, end_time=start + MINUTE)
    return run_id


def _fill(server: MlflowServer, run_id: str) -> None:
    history = json.dumps([{"run_id": run_id, "artifact_path": "model", "flavors": {}}])
    tags = {
        **GIT_TAGS,
        "mlflow.note.content": "The *first* good one.",
        "mlflow.log-model.history": history,
        "long": "x" * 5000,
        "no value": "",
        "评语": "不错",
    }
    params = {"max_depth": "7", "features": "age, tenure", "grid": "g" * 500, "学习率": "0.1"}
    metrics = [
        *(_metric("auc", value, step) for step, value in enumerate((0.5, 0.7, 0.9))),
        _metric("auc", 0.6, step=1, minute=9),  # later, yet not the last value: the highest step is
        _metric("loss/validation", 0.25),
        *(_metric("plateau", value, step) for step, value in ((-1, 0.1), (2, 0.5), (4, 0.5), (6, 0.1))),
        _metric("nan", "NaN"),
        _metric("inf", "Infinity"),  # the database turns both into the largest float
        _metric("-inf", "-Infinity"),
    ]
    server.post("runs/log-batch", run_id=run_id, tags=_pairs(tags), params=_pairs(params), metrics=metrics)
    server.post("runs/log-inputs", run_id=run_id, datasets=DATASETS)


def _metric(key: str, value: float | str, step: int = 0, minute: int = 0) -> dict[str, Any]:
    return {"key": key, "value": value, "step": step, "timestamp": STARTED + minute * MINUTE + step}


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _delete_run_for_good(server: MlflowServer, run_id: str) -> None:
    """As `mlflow gc` does it: model versions keep naming the run."""
    for table in ("params", "tags", "latest_metrics", "metrics", "runs"):
        server.execute(f"DELETE FROM {table} WHERE run_uuid = ?", run_id)  # noqa: S608 - our own names


# Dataset inputs

NESTED = {
    "mlflow_colspec": [
        {"name": "id", "type": "long", "required": True},
        {
            "name": "address",
            "type": "object",
            "required": False,
            "properties": {
                "street": {"type": "string", "required": True},
                "zip": {"type": "string", "required": False},
            },
        },
        {
            "name": "orders",
            "type": "array",
            "required": True,
            "items": {
                "type": "object",
                "properties": {
                    "price": {"type": "double", "required": True},
                    "sku": {"type": "string", "required": True},
                },
            },
        },
        {"name": "scores", "type": "map", "required": True, "values": {"type": "double"}},
        {"name": "seen", "type": "datetime", "required": True},
    ]
}
TABLE = {"mlflow_colspec": [{"name": "id", "type": "long", "required": True}]}
TENSOR = {
    "mlflow_tensorspec": {
        # JSON in JSON in JSON: so does MLflow's numpy dataset.
        "features": json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 4]}}]),
        "targets": None,
    }
}
NUMPY_PROFILE = {"features_shape": [3, 4], "features_size": 12, "features_nbytes": 96}


JOIN = """
SELECT o.id, c.Country AS country -- of the customer
FROM sales.orders o JOIN main.crm.customers c ON o.customer_id = c.id
"""
OF_JOIN = {"mlflow_colspec": [{"name": "id", "type": "long"}, {"name": "country", "type": "string"}]}


def _dataset(
    name: str,
    source_type: str,
    source: Mapping[str, Any],
    *,
    context: str | None = "training",
    digest: str = "5f1c2a9b",
    schema: Mapping[str, Any] | None = None,
    profile: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """An input as `runs/log-inputs` takes it."""
    dataset = {"name": name, "digest": digest, "source_type": source_type, "source": json.dumps(source)}
    if schema is not None:
        dataset["schema"] = json.dumps(schema)
    if profile is not None:
        dataset["profile"] = json.dumps(profile)
    tags = [] if context is None else [{"key": "mlflow.data.context", "value": context}]
    return {"dataset": dataset, "tags": tags}


S3_TRAIN = {"uri": "s3://acme-churn/2024/train.parquet"}
HUGGING_FACE = {
    "path": "acme/churn",
    "config_name": None,
    "data_dir": None,
    "data_files": None,
    "split": "train",
    "revision": "9d3f",
}
ROWS = {"num_rows": 1000, "num_elements": 5000}

DATASETS = [
    _dataset("train", "s3", S3_TRAIN, schema=NESTED, profile=ROWS),
    # MLflow keeps one input for each name and digest of a run, so that a second context needs another digest.
    _dataset("train", "s3", S3_TRAIN, context="validation", digest="0badcafe", schema=NESTED),
    _dataset("embeddings", "gs", {"uri": "gs://acme/embeddings.npy"}, schema=TENSOR, profile=NUMPY_PROFILE),
    _dataset("no schema", "abfss", {"uri": "abfss://raw@acme.dfs.core.windows.net/churn"}, context=None),
    _dataset("web", "http", {"url": "https://data.acme.example/churn.csv?tok=s3cr3t-token"}, schema=TABLE),
    _dataset("drop", "ftp", {"uri": "ftp://user:s3cr3t-ftp@files.acme.example/drop.csv"}),
    _dataset("delta name", "delta_table", {"delta_table_name": "main.sales.orders", "delta_table_version": 3}),
    _dataset("delta path", "delta_table", {"path": "s3://acme-lake/orders"}),
    _dataset("spark table", "spark", {"table_name": "hive.sales.returns"}),
    _dataset("spark query", "spark", {"sql": JOIN}, schema=OF_JOIN),
    _dataset("hub", "hugging_face", HUGGING_FACE),
    _dataset("file", "local", {"uri": "/data/churn.csv"}, context="test"),
    _dataset("volume", "local", {"uri": "/Volumes/main/sales/raw/churn.csv"}),
    _dataset("in code", "code", {"tags": {"mlflow.user": "ada", "mlflow.source.name": "train.py"}}),
    _dataset("custom", "acme_lake", {"place": "lake/churn"}),
]


# Models

STAGES = ("Production", "Staging", "Archived", "None")


def _make_models(server: MlflowServer, runs: Mapping[str, str], gone_run: str) -> dict[tuple[str, str], str]:
    about = "Scores *card* payments."
    _make_model(server, FRAUD, description=about, tags={"team": "risk", "no value": ""})
    _make_model(server, UNUSED)
    versions = {}
    for number, stage in enumerate(STAGES, start=1):
        run_id = runs["full"] if number < 3 else runs["child 1"]  # two versions from one run
        versions[FRAUD, str(number)] = _make_version(server, FRAUD, run_id)
        server.post("model-versions/transition-stage", name=FRAUD, version=str(number), stage=stage)
    for alias, version in (("champion", "1"), ("eu-champion", "1"), ("challenger", "2")):
        server.post("registered-models/alias", name=FRAUD, alias=alias, version=version)
    for odd in ODD_NAMES:
        name = odd if server.backend_uri.startswith("sqlite:") else odd[:256]
        accepted = "renamed" if name == SLASH else name
        _make_model(server, accepted)
        # One whose run is gone, one that was registered without a run.
        run_id = {SLASH: gone_run, "it's": ""}.get(name, runs["child 2"])
        versions[name, "1"] = _make_version(server, accepted, run_id)
        server.post("registered-models/alias", name=accepted, alias="champion", version="1")
    _rename_model(server, "renamed", SLASH)
    return versions


ELSEWHERE = "s3://acme-models/model"
MODEL_FILE = b"""\
flavors:
  python_function: {loader_module: mlflow.sklearn, python_version: 3.11.7}
  sklearn: {sklearn_version: 1.9.1}
mlflow_version: 3.17.2
signature:
  inputs: '[{"type": "double", "name": "tenure", "required": true}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]'
  params: null
"""


def _move_model_files(server: MlflowServer) -> None:
    """To where the server has them. By SQL, as it wants them to be in the artifacts of the version's run."""
    server.put_artifact("acme-models/model/MLmodel", MODEL_FILE)
    moved = "mlflow-artifacts:/acme-models/model"
    statement = "UPDATE model_versions SET source = ?, storage_location = ? WHERE source = ?"
    server.execute(statement, moved, moved, ELSEWHERE)


def _make_model(server: MlflowServer, name: str, description: str = "", tags: Mapping[str, str] | None = None) -> None:
    server.post("registered-models/create", name=name, description=description, tags=_pairs(tags or {}))


def _make_version(server: MlflowServer, name: str, run_id: str, source: str = "", model_id: str = "") -> str:
    """Adds a version and returns `run_id`."""
    server.post(
        "model-versions/create",
        name=name,
        source=source or ELSEWHERE,
        run_id=run_id,
        description="Trained on *all* of it.",
        tags=_pairs({"approved by": "grace", "no value": ""}),
        **({"model_id": model_id} if model_id else {}),
    )
    return run_id


def _rename_model(server: MlflowServer, old: str, new: str) -> None:
    """By SQL: the newest servers refuse some of the names that older ones took."""
    for table in (
        "registered_models",
        "registered_model_tags",
        "registered_model_aliases",
        "model_versions",
        "model_version_tags",
    ):
        server.execute(f"UPDATE {table} SET name = ? WHERE name = ?", new, old)  # noqa: S608 - our own names


# Logged models, since MLflow 3


def _make_logged_models(
    server: MlflowServer, experiments: Mapping[str, str], runs: Mapping[str, str]
) -> tuple[dict[tuple[str, str], str], dict[str, str]]:
    """Versions, and ids of those that are none.

    Two that versions are made of, of which one knows the run that its version lost, and four that are none.
    """
    churn = experiments[CHURN]
    classifier = _log_model(server, churn, "classifier", runs["full"], model_type="sklearn", params={"trees": "100"})
    _log_metric(server, runs["full"], classifier, "accuracy", 0.91, step=3)
    _log_metric(server, runs["full"], classifier, "accuracy", 0.85, step=4, dataset=("holdout", "abcd1234"))
    checkpoint = _log_model(
        *(server, churn, "checkpoint", runs["full"]),
        params={"trees": "50", "no value": ""},
        tags={"mlflow.user": "grace", "mlflow.note.content": "Half-way.", "signature.inputs": "theirs"},
    )
    for step, value in enumerate((0.5, 0.7)):
        _log_metric(server, runs["full"], checkpoint, "f1", value, step=step)
    _log_metric(server, runs["child 2"], checkpoint, "f1", 0.66, step=0, dataset=("holdout", "abcd1234"))
    nobodys = _log_model(server, churn, "nobody's", "", ready=False)
    failed = _log_model(server, churn, "of a run without versions", runs["failed"])
    odd = _log_model(server, experiments[FORECAST], "a, (b)", runs["child 1"])
    lost = _log_model(server, experiments[FORECAST], "lost", runs["child 1"], params={"horizon": "7"})
    _make_model(server, "logged")
    versions = {
        ("logged", "1"): _make_version(
            server, "logged", runs["full"], source=f"models:/{classifier}", model_id=classifier
        ),
        ("logged", "2"): "",
    }
    _make_version(server, "logged", runs["child 1"], source=f"models:/{lost}", model_id=lost)
    server.execute("UPDATE model_versions SET run_id = NULL WHERE name = ? AND version = ?", "logged", 2)
    return versions, {"checkpoint": checkpoint, "nobody's": nobodys, "a, (b)": odd, "of a run without versions": failed}


def _log_model(
    server: MlflowServer,
    experiment_id: str,
    name: str,
    run_id: str,
    *,
    model_type: str = "",
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    ready: bool = True,
) -> str:
    """Its id. A name with brackets comes in by SQL, as clients take none."""
    info = server.post(
        "logged-models",
        experiment_id=experiment_id,
        name="named below",
        model_type=model_type,
        params=_pairs(params or {}),
        tags=_pairs(tags or {}),
        **({"source_run_id": run_id} if run_id else {}),
    )["model"]["info"]
    model_id = str(info["model_id"])
    server.execute("UPDATE logged_models SET name = ? WHERE model_id = ?", name, model_id)
    if ready:
        server.patch(f"logged-models/{model_id}", model_id=model_id, status="LOGGED_MODEL_READY")
    return model_id


def _log_metric(
    server: MlflowServer,
    run_id: str,
    model_id: str,
    key: str,
    value: float,
    *,
    step: int,
    dataset: tuple[str, str] | None = None,
) -> None:
    """As a client does with `model_id`: the run has it too."""
    of = {"dataset_name": dataset[0], "dataset_digest": dataset[1]} if dataset else {}
    time = STARTED + MINUTE + step
    server.post(
        "runs/log-metric", run_id=run_id, model_id=model_id, key=key, value=value, timestamp=time, step=step, **of
    )


# Evaluation datasets and scorers, since MLflow 3.4

QUESTION = "What is a churn rate?"


def _make_evaluation(server: MlflowServer, experiments: Mapping[str, str], runs: Mapping[str, str]) -> dict[str, str]:
    """Ids of datasets: one that two experiments have and a run read, one of a deleted experiment, one of none."""
    both = [experiments[CHURN], experiments[FORECAST]]
    ids = {
        "questions, (EU)": _make_evaluation_dataset(server, "questions, (EU)", both, {"team": "retention", "tok": "x"}),
        "of one": _make_evaluation_dataset(server, "of one", both[:1], {}),
        "of none": _make_evaluation_dataset(server, "of none", [], {}),
        "of the retired": _make_evaluation_dataset(server, "of the retired", [experiments[RETIRED]], {}),
    }
    records = [
        {"inputs": {"question": QUESTION, "k": 3}, "expectations": {"answer": "A share."}, "tags": {}},
        {"inputs": {"question": "Why?", "history": [1], "more": {"a": 1}}, "outputs": "Because.", "tags": {}},
    ]
    server.post_3(f"datasets/{ids['questions, (EU)']}/records", records=json.dumps(records))
    read = _dataset(
        "questions, (EU)", "mlflow_evaluation_dataset", {"dataset_id": ids["questions, (EU)"]}, context="evaluation"
    )
    server.post("runs/log-inputs", run_id=runs["child 2"], datasets=[read])
    judge = {"name": "polite", "instructions_judge_pydantic_data": {"model": "openai:/gpt-5", "instructions": "Old."}}
    _register_scorer(server, experiments[CHURN], judge)
    judge["instructions_judge_pydantic_data"] = {"model": "openai:/gpt-5", "instructions": "Is {{ outputs }} polite?"}
    _register_scorer(server, experiments[CHURN], judge)
    built_in = {"name": "safe", "builtin_scorer_class": "Safety", "builtin_scorer_pydantic_data": {"name": "safe"}}
    _register_scorer(server, experiments[CHURN], built_in)
    _register_scorer(server, experiments[FORECAST], built_in)
    _make_traces(server, experiments[CHURN])
    return ids


def _make_traces(server: MlflowServer, experiment_id: str) -> None:
    """Three that ended, of which one failed, and one that goes on; with two assessments."""
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    for number, (state, took) in enumerate((("OK", "0.5s"), ("OK", "0.2s"), ("ERROR", "1.3s"), ("IN_PROGRESS", None))):
        info = {
            "trace_id": _trace_id(experiment_id, number),
            "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment_id}},
            "request_time": f"2024-01-01T00:0{number}:00Z",
            "state": state,
            **(
                {"execution_duration": took, "trace_metadata": {"mlflow.trace.tokenUsage": json.dumps(usage)}}
                if took
                else {}
            ),
        }
        server.post_3("traces", trace={"trace_info": info})
    for number, name in ((0, "polite"), (1, "polite"), (1, "right?")):
        assessment = {
            "assessment_name": name,
            "trace_id": _trace_id(experiment_id, number),
            "source": {"source_type": "HUMAN", "source_id": "ada"},
            "create_time": "2024-01-01T00:10:00Z",
            "last_update_time": "2024-01-01T00:10:00Z",
            "feedback": {"value": True},
        }
        made = server.post_3(f"traces/{assessment['trace_id']}/assessments", assessment=assessment)
    better = {**assessment, "overrides": made["assessment"]["assessment_id"]}  # which counts no longer
    server.post_3(f"traces/{assessment['trace_id']}/assessments", assessment=better)


def _trace_id(experiment_id: str, number: int) -> str:
    return f"tr-{int(experiment_id):016x}{number:016x}"


def _make_evaluation_dataset(
    server: MlflowServer, name: str, experiment_ids: list[str], tags: Mapping[str, str]
) -> str:
    made = server.post_3("datasets/create", name=name, experiment_ids=experiment_ids, tags=json.dumps(tags))
    return str(made["dataset"]["dataset_id"])


def _register_scorer(server: MlflowServer, experiment_id: str, scorer: Mapping[str, Any]) -> None:
    serialized = {"serialization_version": 1, "mlflow_version": server.version, **scorer}
    server.post_3(
        "scorers/register", experiment_id=experiment_id, name=scorer["name"], serialized_scorer=json.dumps(serialized)
    )


# MLflow's gateway, since 3.8


def _make_gateway(server: MlflowServer, experiment_id: str) -> dict[str, str]:
    """Ids of two endpoints: one with all there is, and one whose key was deleted."""
    ids = {}
    for key in ("key of openai", "old key of openai"):
        made = server.post_3(
            "gateway/secrets/create", secret_name=key, secret_value={"api_key": "s3cr3t-gateway"}, provider="openai"
        )
        ids[key] = made["secret"]["secret_id"]
    models = {}
    for name, key in (("clever", "key of openai"), ("cheap", "key of openai"), ("old", "old key of openai")):
        made = server.post_3(
            *("gateway/model-definitions/create",),
            **{"name": name, "secret_id": ids[key], "provider": "openai", "model_name": f"gpt-{name}"},
            created_by="ada",
        )
        models[name] = made["model_definition"]["model_definition_id"]
    chat = server.post_3(
        "gateway/endpoints/create",
        name="chat",
        model_configs=[
            {"model_definition_id": models["clever"], "linkage_type": "PRIMARY", "weight": 0.75},
            {"model_definition_id": models["cheap"], "linkage_type": "FALLBACK", "fallback_order": 0},
        ],
        created_by="ada",
        routing_strategy="REQUEST_BASED_TRAFFIC_SPLIT",
        fallback_config={"strategy": "SEQUENTIAL", "max_attempts": 2},
        experiment_id=experiment_id,
        usage_tracking=True,
    )["endpoint"]["endpoint_id"]
    server.post_3("gateway/endpoints/set-tag", endpoint_id=chat, key="team", value="desk")
    old = server.post_3(
        "gateway/endpoints/create",
        name="old-chat",
        model_configs=[{"model_definition_id": models["old"], "linkage_type": "PRIMARY"}],
        usage_tracking=False,
    )["endpoint"]["endpoint_id"]
    server.execute("UPDATE model_definitions SET secret_id = NULL WHERE secret_id = ?", ids["old key of openai"])
    return {"chat": chat, "old-chat": old}


# Rows that MLflow can't serve: it answers 500 for the whole page

RunDefect = Literal["start_time", "status", "user_id", "metric"]


def plain_runs(server: MlflowServer, experiment: str, count: int) -> tuple[str, tuple[str, ...]]:
    """A new experiment with `count` good runs: its id and theirs, sorted."""
    experiment_id = server.post("experiments/create", name=experiment)["experiment_id"]
    runs = [_make_run(server, experiment_id, f"{experiment} {i}", i, end="FINISHED") for i in range(count)]
    return experiment_id, tuple(sorted(runs))


def bad_run_row(server: MlflowServer, experiment_id: str, position: int, defect: RunDefect = "start_time") -> str:
    """Spoils the run at `position` (from 0) in the order of run ids and returns its id.

    A NULL start_time, status or user_id is a JSON error ("start_time cannot be None"), and a filter on that
    attribute leaves the row out. A `metric` without a timestamp is an HTML error that no filter on an
    attribute avoids; the run then has that one metric.
    """
    query = "SELECT run_uuid FROM runs WHERE experiment_id = ? ORDER BY run_uuid LIMIT 1 OFFSET ?"
    run_id: str = server.execute(query, int(experiment_id), position)[0][0]
    if defect == "metric":
        server.execute(
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, 1, NULL, 0, 0, ?)",
            "without timestamp",
            run_id,
        )
    else:
        server.execute(f"UPDATE runs SET {defect} = NULL WHERE run_uuid = ?", run_id)  # noqa: S608 - from RunDefect
    return run_id


def bad_experiment_row(server: MlflowServer, experiment_id: str) -> None:
    """Spoils experiments/search."""
    statement = "UPDATE experiments SET artifact_location = NULL WHERE experiment_id = ?"
    server.execute(statement, int(experiment_id))


def bad_version_row(server: MlflowServer, name: str, version: str) -> None:
    """Spoils model-versions/search, and registered-models/search if it is the newest version of its stage."""
    statement = "UPDATE model_versions SET creation_time = NULL WHERE name = ? AND version = ?"
    server.execute(statement, name, int(version))
