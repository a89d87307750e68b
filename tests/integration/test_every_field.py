"""Every public field of every entity that MLflow's own client returns is in an aspect, or left out with a reason.

A field or an entity that a newer MLflow adds makes a test here fail: then it is to be read, or written down below.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlflow.entities
import mlflow.entities.model_registry
import mlflow.models
import pytest
from mlflow import MlflowClient
from mlflow.store.tracking.rest_store import RestStore
from mlflow.utils.rest_utils import MlflowHostCreds

from datahub_mlflow_source.mapping.rules import OURS
from datahub_mlflow_source.mapping.urns import (
    Naming,
    deployment_urn,
    evaluation_dataset_urn,
    experiment_urn,
    logged_model_urn,
    model_group_urn,
    model_version_urn,
    run_urn,
    workspace_urn,
)
from datahub_mlflow_source.records import ModelDeployment
from tests.support.by_client import EXPERIMENT, make_by_client
from tests.support.content import CHURN, SECRETS, Content, rich_content
from tests.support.ingest import Ingested, ingest
from tests.support.servers import WITH_WORKSPACES, MlflowServer, mlflow_server

PROD = Naming()
TEAM = "team-a"
TRACES = "traces are counted, not read: data of people, of any size (include_traces)"
ARGUMENT = "a word that the client takes or gives, no entity"
OF_GATEWAY = "what a gateway forbids and what it may cost: nothing of a model"

# What is read: each of its fields is looked for.
READ = {
    *("Experiment", "ExperimentTag", "Run", "RunInfo", "RunData", "Metric", "Param", "RunTag", "RunInputs"),
    *("DatasetInput", "Dataset", "InputTag", "RunOutputs", "LoggedModelOutput", "LoggedModelInput"),
    *("RegisteredModel", "RegisteredModelTag", "RegisteredModelAlias", "ModelVersion", "ModelVersionTag"),
    *("LoggedModel", "LoggedModelParameter", "LoggedModelTag", "Prompt", "PromptVersion", "EvaluationDataset"),
    *("ScorerVersion", "Workspace", "PromptModelConfig", "GatewayEndpoint", "GatewayEndpointModelMapping"),
    *("GatewayEndpointTag", "GatewayModelDefinition", "FallbackConfig"),
}
# What is not, and why.
LEFT_OUT = {
    **dict.fromkeys(("RunStatus", "SourceType", "ViewType", "LifecycleStage", "LoggedModelStatus"), ARGUMENT),
    **dict.fromkeys(("EntityAssociationType", "ModelVersionSearch", "RegisteredModelSearch"), ARGUMENT),
    **dict.fromkeys(("WorkspaceDeletionMode", "WebhookEvent", "WebhookStatus", "WebhookTestResult"), ARGUMENT),
    "FileInfo": "a listing of artifacts: of a model's files only MLmodel is read",
    "_DatasetSummary": "for a menu of MLflow's page: says less than the datasets themselves",
    **dict.fromkeys(
        (
            *("Link", "Span", "LiveSpan", "NoOpSpan", "SpanEvent", "SpanLogLevel", "SpanStatus", "SpanType", "Trace"),
            *("TraceData", "TraceInfo", "Session", "TraceLocation", "TraceLocationType", "MlflowExperimentLocation"),
            *("InferenceTableLocation", "UCSchemaLocation", "UnityCatalog", "TraceState", "SpanStatusCode", "Document"),
            *("Assessment", "AssessmentError", "AssessmentSource", "AssessmentSourceType", "Expectation", "Feedback"),
            *("IssueReference", "Issue", "IssueSeverity", "IssueStatus", "TraceArchivalConfig"),
        ),
        TRACES,
    ),
    **dict.fromkeys(
        ("DatasetRecord", "DatasetRecordSource", "DatasetRecordSourceType"),
        "records of evaluation datasets: data of people, of any size",
    ),
    **dict.fromkeys(
        (
            *("BudgetAction", "BudgetDuration", "BudgetDurationUnit", "BudgetTargetScope", "BudgetUnit"),
            *("GatewayBudgetPolicy", "GatewayGuardrail", "GatewayGuardrailConfig", "GuardrailAction", "GuardrailStage"),
        ),
        OF_GATEWAY,
    ),
    **dict.fromkeys(
        ("FallbackStrategy", "RoutingStrategy", "GatewayModelLinkageType", "GatewayResourceType"), ARGUMENT
    ),
    "GatewayEndpointModelConfig": ARGUMENT,
    "GatewayEndpointBinding": "which scorers use an endpoint: the scorer itself says so",
    "GatewaySecretInfo": "secrets",
    "Webhook": "holds a secret, and says nothing of a model",
    **dict.fromkeys(
        (
            *("MCPAccessEndpoint", "MCPRemoteTransportType", "MCPServer", "ConnectOptionSettings"),
            *("MCPServerVersion", "MCPStatus", "MCPTool"),
        ),
        "servers of tools, no models",
    ),
    **dict.fromkeys(
        ("ModelVersionDeploymentJobState", "RegisteredModelDeploymentJobState"), "Databricks' own deployment jobs"
    ),
}
# Fields of what is read: (class, field), and why it is not looked for.
FIELDS_LEFT_OUT = {
    ("RunInfo", "run_uuid"): "the same as run_id",
    ("RegisteredModel", "latest_versions"): "the versions are there themselves",
    **dict.fromkeys(
        (
            ("GatewayEndpointModelMapping", field)
            for field in ("mapping_id", "endpoint_id", "model_definition_id", "created_at", "created_by")
        ),
        "of the tie between an endpoint and a definition, which has nothing else to say",
    ),
    **dict.fromkeys(
        (
            ("GatewayModelDefinition", field)
            for field in ("model_definition_id", "created_at", "created_by", "last_updated_at", "last_updated_by")
        ),
        "a definition is no entity in DataHub: its name, provider and model are said of each endpoint",
    ),
    **dict.fromkeys((("GatewayModelDefinition", field) for field in ("secret_id", "secret_name")), "secrets"),
    **dict.fromkeys(
        (
            (kind, field)
            for kind in ("RegisteredModel", "ModelVersion")
            for field in ("deployment_job_id", "deployment_job_state")
        ),
        "Databricks' own deployment jobs",
    ),
    ("PromptVersion", "uri"): "made of name and version",
    **dict.fromkeys((("LoggedModel", "model_uri"), ("ModelInfo", "model_uri")), "made of the id"),
    ("ModelInfo", "metrics"): "the logged model's own, which are looked for there",
    ("ModelInfo", "creation_timestamp"): "the logged model's own; of a version its own time stands there",
    ("PromptVersion", "is_text_prompt"): "the text shows it",
}

# Tags of runs that are not sent.
TAGS_LEFT_OUT = {
    "mlflow.source.git.diff": "uncommitted code, of any size",
    "mlflow.log-model.history": "JSON of model files, which goes to the versions",
}
SAID_OTHERWISE = {
    "mlflow.data.context": "the property `context` of the edge",
    "mlflow.note.content": "the description, of all but runs",
}
GOES_ON = ("RUNNING", "SCHEDULED")  # and has no end, whatever MLflow's table holds


def public_fields(entity: object) -> Iterator[tuple[str, Any]]:
    """Properties, fields and attributes without a leading underscore; no methods."""
    kind = type(entity)
    names = {name for name in dir(kind) if isinstance(getattr(kind, name, None), property)}
    names |= {field.name for field in dataclasses.fields(entity)} if dataclasses.is_dataclass(entity) else set()
    names |= set(vars(entity)) if hasattr(entity, "__dict__") else set()
    for name in sorted(name for name in names if not name.startswith("_")):
        yield name, getattr(entity, name)


def _without_value(fields: Mapping[str, Any], path: tuple[str, str]) -> set[str]:
    """What a flavor of a model might say, and doesn't."""
    of_flavors = path == ("ModelInfo", "flavors")
    return {key for key, value in fields.items() if of_flavors and value in (None, "", [], {})}


def leaves(value: Any, path: tuple[str, str]) -> Iterator[tuple[tuple[str, str], Any]]:
    """(class, field) and value of all that is in it."""
    if path in FIELDS_LEFT_OUT or value is None or value == "":
        return
    if path[1] == "workspace" and value == "default":  # said by what is in no container of a workspace
        return
    if path == ("Dataset", "source"):  # JSON, whose parts are said
        parts = [" ".join(part.split()) if isinstance(part, str) else part for part in json.loads(value).values()]
        yield from leaves(parts, ("Dataset", "part of the source"))  # a query is shown in one line
    elif isinstance(value, Mapping):
        for key in value.keys() - TAGS_LEFT_OUT.keys() - _without_value(value, path):
            yield path, key
            yield from leaves(value[key], path)
    elif isinstance(value, (list, tuple, set)):  # an entity of MLflow can be iterated over too
        for inner in value:
            yield from leaves(inner, path)
    elif isinstance(value, (str, int, float)):
        yield path, value.value if isinstance(value, Enum) else value
    else:
        for name, inner in public_fields(value):
            yield from leaves(inner, (type(value).__name__, name))


class Said:
    """All that some entities of DataHub say."""

    def __init__(self, ingested: Ingested, urns: Iterable[str]) -> None:
        texts: list[str] = []
        for urn in urns:
            texts.append(urn)
            self._collect({**ingested.aspects[urn], "events": ingested.events.get(urn, [])}, texts)
        self._values = set(texts)
        self._all = "\n".join(texts)

    def _collect(self, value: Any, texts: list[str]) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                texts.append(str(key))
                self._collect(inner, texts)
        elif isinstance(value, list):
            for inner in value:
                self._collect(inner, texts)
        else:
            texts.append(str(value))

    def holds(self, value: Any) -> bool:
        """As a whole value, or as a word or number within one."""
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if text in self._values:
            return True
        return bool(re.search(rf"(?<!\w){re.escape(text)}(?!\w)", self._all))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("fields"), extra_env=WITH_WORKSPACES) as server:
        archival = {"location": "s3://archive/team-a", "retention": "30d"}
        about = {"description": "Of the retention team.", "default_artifact_root": "mlflow-artifacts:/of-team-a"}
        server.post_3("workspaces", name=TEAM, **about, trace_archival_config=archival)
        yield server


@pytest.fixture(scope="module")
def client(server: MlflowServer) -> MlflowClient:
    return MlflowClient(server.url)


@pytest.fixture(scope="module")
def content(server: MlflowServer, client: MlflowClient) -> Content:
    content = rich_content(server)
    client.register_prompt(
        "greeting",
        "Hello {{ name }}, dear.",
        commit_message="Politer.",
        tags={"team": "desk"},
        model_config={"provider": "openai", "model_name": "gpt-5", "temperature": 0.3, "stop_sequences": ["END"]},
    )
    client.set_prompt_alias("greeting", "live", 1)
    return content


@pytest.fixture(scope="module")
def by_client(server: MlflowServer, content: Content, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    assert content
    return make_by_client(server.url, tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def ingested(server: MlflowServer, by_client: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    assert by_client
    rich_content(server.in_workspace(TEAM))
    config = {
        "tracking_uri": server.url,
        "include_traces": True,
        "include_deployments": True,
        "include_artifacts": "all",
    }
    return ingest(config, tmp_path_factory.mktemp("ingested") / "out.json")


CONFIG = {"include_traces": True, "include_deployments": True, "include_artifacts": "all"}


def work_units(ingested: Ingested) -> list[str]:
    """In any order, without the time; and without the models that a run used, which only the database tells."""
    found = []
    for proposal in ingested.proposals:
        unit = {**proposal, "systemMetadata": None}
        edges = unit["aspect"].get("json", {}).get("inputEdges")
        if edges is not None:
            edges[:] = [edge for edge in edges if ":mlModel:" not in edge["destinationUrn"]]
            if not edges:
                continue
        found.append(json.dumps(unit, sort_keys=True))
    return sorted(found)


def missing(entity: object, said: Said) -> list[str]:
    """Fields whose value is nowhere. Not what holds a credential, which is taken out: other tests look for that."""
    found = [
        (path, value)
        for path, value in leaves(entity, (type(entity).__name__, ""))
        if value not in SAID_OTHERWISE and not any(secret in str(value) for secret in SECRETS)
    ]
    return [f"{kind}.{field} = {str(value)[:60]!r}" for (kind, field), value in found if not said.holds(value)]


def test_every_entity_of_mlflow_is_read_or_written_down() -> None:
    known = {*mlflow.entities.__all__, *mlflow.entities.model_registry.__all__, "EvaluationDataset"}
    assert known - READ - LEFT_OUT.keys() == set()
    assert LEFT_OUT.keys() - known == set()
    assert READ.isdisjoint(LEFT_OUT)


def test_the_database_gives_the_same(ingested: Ingested, server: MlflowServer, tmp_path: Path) -> None:
    uris = {"tracking_uri": server.url, "backend_store_uri": server.backend_uri}
    from_sql = ingest({**uris, **CONFIG}, tmp_path / "sql.json")
    assert not from_sql.failed
    assert work_units(from_sql) == work_units(ingested)


def test_experiments(ingested: Ingested, client: MlflowClient, content: Content) -> None:
    for id_ in content.experiments.values():
        experiment = client.get_experiment(id_)
        assert missing(experiment, Said(ingested, [str(experiment_urn(experiment.name, PROD))])) == []


def test_runs(ingested: Ingested, client: MlflowClient, content: Content, by_client: dict[str, Any]) -> None:
    for run_id in (*content.runs.values(), *by_client["runs"].values()):
        run = client.get_run(run_id)
        urn = str(run_urn(run_id, PROD))
        aspects = ingested.aspects[urn]
        edges = [
            edge["destinationUrn"]
            for name, field in (
                ("dataProcessInstanceInput", "inputEdges"),
                ("dataProcessInstanceOutput", "outputEdges"),
            )
            for edge in aspects.get(name, {}).get(field, [])
        ]
        experiment = aspects["container"]["container"]
        lost = missing(run, Said(ingested, [urn, experiment, *(edge for edge in edges if edge in ingested.aspects)]))
        assert [field for field in lost if run.info.status not in GOES_ON or "end_time" not in field] == []


def test_workspaces(ingested: Ingested, client: MlflowClient) -> None:
    (team,) = [workspace for workspace in client.list_workspaces() if workspace.name == TEAM]
    assert team.trace_archival_retention == "30d"
    assert missing(team, Said(ingested, [str(workspace_urn(TEAM, PROD))])) == []


@pytest.mark.usefixtures("ingested")
def test_what_is_in_a_workspace(ingested: Ingested, client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_WORKSPACE", TEAM)
    experiment = client.get_experiment_by_name(CHURN)
    assert experiment is not None
    assert experiment.workspace == TEAM
    assert missing(experiment, Said(ingested, [str(experiment_urn(CHURN, PROD, TEAM))])) == []
    for model in client.search_registered_models():
        assert missing(model, Said(ingested, [str(model_group_urn(f"{TEAM}/{model.name}", PROD))])) == []
    for version in client.search_model_versions(max_results=1000):
        urn = str(model_version_urn(f"{TEAM}/{version.name}", version.version, PROD))
        assert missing(version, Said(ingested, [urn])) == []


def test_endpoints_of_the_gateway(ingested: Ingested, server: MlflowServer, content: Content) -> None:
    store: Any = RestStore(lambda: MlflowHostCreds(server.url))  # type: ignore[no-untyped-call]
    listed = store.list_gateway_endpoints()
    assert {endpoint.name for endpoint in listed} == content.gateway_endpoints.keys()
    for endpoint in listed:
        urn = str(deployment_urn(ModelDeployment("gateway", endpoint.name), PROD))
        experiment = str(experiment_urn(CHURN, PROD))  # whose name and id it says
        assert missing(endpoint, Said(ingested, [urn, experiment])) == []


def test_registered_models(ingested: Ingested, client: MlflowClient, content: Content) -> None:
    for name in content.models:
        (model,) = [model for model in client.search_registered_models() if model.name == name]
        assert missing(model, Said(ingested, [str(model_group_urn(name, PROD))])) == []


def test_versions(ingested: Ingested, client: MlflowClient, content: Content) -> None:
    assert content.versions
    for version in client.search_model_versions(max_results=1000):
        assert missing(version, Said(ingested, [str(model_version_urn(version.name, version.version, PROD))])) == []


def test_logged_models(ingested: Ingested, client: MlflowClient, content: Content, by_client: dict[str, Any]) -> None:
    assert content.logged_models
    experiments = [*content.experiments.values(), by_client["experiment_id"]]
    for model in client.search_logged_models(experiments, max_results=1000):
        urn = str(logged_model_urn(model.model_id, PROD))
        of_its_own = urn in ingested.aspects
        versions = [
            urn
            for urn in ingested.urns("mlModel")
            if model.model_id
            == ingested.aspects[urn]["mlModelProperties"].get("customProperties", {}).get("mlflow_source.model_id")
        ]
        assert of_its_own or versions
        experiment = str(experiment_urn(client.get_experiment(model.experiment_id).name, PROD))
        # Of the steps of a metric the last one is sent.
        metrics = model.metrics or []
        steps = sorted(metrics, key=lambda metric: metric.step)
        last = {(metric.key, metric.dataset_name, metric.dataset_digest): metric for metric in steps}
        metrics[:] = last.values()
        lost = missing(model, Said(ingested, [experiment, *([urn] if of_its_own else versions)]))
        # Of a model that was registered the version's own times stand there.
        assert [field for field in lost if of_its_own or "_timestamp" not in field] == []


def test_prompts(ingested: Ingested, client: MlflowClient) -> None:
    group, version = str(model_group_urn("greeting", PROD)), str(model_version_urn("greeting", "1", PROD))
    assert missing(client.get_prompt("greeting"), Said(ingested, [group, version])) == []
    assert missing(client.get_prompt_version("greeting", 1), Said(ingested, [version])) == []


def test_model_files(ingested: Ingested, server: MlflowServer, by_client: dict[str, Any]) -> None:
    """Three flavors, as their MLmodel says what they are."""
    for flavor, uri in by_client["models"].items():
        with patch.dict(os.environ, {"MLFLOW_TRACKING_URI": server.url}):
            info = mlflow.models.get_model_info(uri)
        urns = [
            urn
            for urn in ingested.urns("mlModel")
            if info.model_id == ingested.aspects[urn]["mlModelProperties"]["customProperties"].get(f"{OURS}model_id")
        ]
        assert ingested.aspects[urns[0]]["mlModelProperties"]["type"] == (
            "python_function" if flavor == "pyfunc" else flavor
        )
        assert missing(info, Said(ingested, urns)) == []


def test_evaluation_datasets(
    ingested: Ingested, server: MlflowServer, content: Content, by_client: dict[str, Any]
) -> None:
    for name, id_ in {**content.evaluation_datasets, "client-questions": by_client["evaluation_dataset"]}.items():
        urn = str(evaluation_dataset_urn(id_, PROD))
        if name == "of the retired":
            continue
        answer = server.session.get(f"{server.url}/api/3.0/mlflow/datasets/{id_}", timeout=60).json()["dataset"]
        experiments = answer.pop("experiment_ids", [])
        answer = {**answer, "tags": json.loads(answer["tags"]), "schema": json.loads(answer.get("schema", "{}"))}
        answer["schema"].pop("version", None)  # of the form in which it is written
        answer["profile"] = json.loads(answer.get("profile", "{}"))
        found = leaves(answer, ("EvaluationDataset", ""))
        said = Said(ingested, [urn])
        keys = {*answer, "inputs", "outputs", "expectations", "num_records"}  # MLflow's own words
        assert [value for _, value in found if value not in keys and not said.holds(value)] == []
        names = {id_: name for name, id_ in content.experiments.items()} | {by_client["experiment_id"]: EXPERIMENT}
        assert all(said.holds(names[id_]) for id_ in experiments if id_ in names)


def test_scorers(ingested: Ingested, server: MlflowServer, content: Content) -> None:
    """But for ids and times of the scorer, and how its definition is written."""
    listed = server.session.get(f"{server.url}/api/3.0/mlflow/scorers/list", timeout=60).json()["scorers"]
    names = {id_: name for name, id_ in content.experiments.items()}
    assert len(listed) == 3
    for scorer in listed:
        said = Said(ingested, [str(experiment_urn(names[str(scorer["experiment_id"])], PROD))])
        left_out = {"scorer_id", "creation_time", "serialized_scorer"}
        assert [key for key, value in scorer.items() if key not in left_out and not said.holds(value)] == []
        definition = json.loads(scorer["serialized_scorer"])
        judge = definition.get("instructions_judge_pydantic_data") or {}
        assert all(said.holds(value) for value in (definition["name"], *judge.values()))
