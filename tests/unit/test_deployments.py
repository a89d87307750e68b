"""Where models are served: what a version is asked for by, words of status, what others tell of theirs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
import requests
from datahub.metadata.schema_classes import ContainerClass, MLModelDeploymentPropertiesClass
from responses import RequestsMock

from datahub_mlflow_source.deployments import DeploymentWalk
from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.mapping.deployments import map_deployment, status_of
from datahub_mlflow_source.mapping.rules import Rules, Web
from datahub_mlflow_source.mapping.urns import Naming, deployment_urn, workspace_urn
from datahub_mlflow_source.outgoing import Outgoing
from datahub_mlflow_source.readers.rows import gateway_endpoint
from datahub_mlflow_source.readers.serving import ModelServer, Serving
from datahub_mlflow_source.records import ModelDeployment, ModelVersion
from datahub_mlflow_source.report import MlflowSourceReport
from datahub_mlflow_source.selection import DeploymentTags
from tests.unit.entities import aspect, assert_accepted, text
from tests.unit.records import START, make_experiment, make_version

RULES = Rules(web=Web("https://mlflow.example.com"))
TAGS = DeploymentTags("kubernetes", "served as", "served at", "served how")


class Guard:
    """In place of the removal's: notes what it is told."""

    def __init__(self) -> None:
        self.incomplete: list[str] = []

    def listing_incomplete(self, kind: str) -> None:
        self.incomplete.append(kind)

    def sent(self, urn: str) -> None:
        pass


def walk(
    *deployments: ModelDeployment | ServerError, gateway: Any = (), tags: DeploymentTags | None = None
) -> tuple[DeploymentWalk, MlflowSourceReport, Guard]:
    """A walk over what servers and one target have."""
    report, guard = MlflowSourceReport(), Guard()

    def endpoints() -> list[ModelDeployment]:
        if isinstance(gateway, ServerError):
            raise gateway
        return list(gateway)

    errors = [found for found in deployments if isinstance(found, ServerError)]
    known = [found for found in deployments if isinstance(found, ModelDeployment)]
    serving = SimpleNamespace(servers=lambda: iter(known), targets=lambda: iter([("a target", e) for e in errors]))
    outgoing = Outgoing(report, cast("Any", guard), says_status=False)
    reader = SimpleNamespace(gateway_endpoints=endpoints)
    made = DeploymentWalk(cast("Any", reader), cast("Any", serving), tags, RULES, outgoing, cast("Any", guard), report)
    made.read()
    return made, report, guard


def served(walk: DeploymentWalk, *versions: ModelVersion) -> dict[str, list[str]]:
    """Versions by number, and names of the deployments that serve them."""
    for version in versions:
        walk.saw(version)
    return {version.version: [urn.name for urn in walk.of_version(version)] for version in versions}


class TestWhatIsServed:
    @pytest.mark.parametrize(
        ("address", "found"),
        [
            ("models:/churn-model/2", "2"),
            ("models:/churn-model@champion", "1"),
            ("models:/churn-model/Production", "2"),
            ("models:/churn-model/production", "2"),
            ("models:/churn-model/latest", "10"),
            ("models:/m-00112233445566778899aabbccddeeff", "3"),
            ("models:/churn-model/4", None),
            ("models:/other/2", None),
            ("models:/churn-model@nobody", None),
            ("runs:/abc/model", None),
            ("nonsense", None),
        ],
    )
    def test_is_the_version_that_mlflow_would_load(self, address: str, found: str | None) -> None:
        made, _, _ = walk(ModelDeployment("server", "churn", models=(address,)))
        versions = [
            make_version(version="1", aliases=("champion",), stage="Production"),
            make_version(version="2", stage="Production"),
            make_version(version="3", model_id="m-00112233445566778899aabbccddeeff"),
            make_version(version="10"),
        ]
        assert [number for number, names in served(made, *versions).items() if names] == ([found] if found else [])

    def test_is_of_the_workspace_that_is_named(self) -> None:
        made, _, _ = walk(ModelDeployment("server", "churn", models=("models:/team-a/churn-model/1",)))
        made.saw(elsewhere := make_version(workspace="team-a"))
        made.saw(make_version())
        assert made.of_version(elsewhere)
        assert not made.of_version(make_version())

    def test_one_version_may_be_served_in_several_places(self) -> None:
        made, _, _ = walk(
            ModelDeployment("server", "b", models=("models:/churn-model/1",)),
            ModelDeployment("server", "a", models=("models:/churn-model@champion", "models:/churn-model/1")),
        )
        assert served(made, make_version(aliases=("champion",))) == {"1": ["server.a", "server.b"]}


class TestTags:
    def test_name_address_and_status_are_told_by_the_version(self) -> None:
        made, report, _ = walk(tags=TAGS)
        tags = {"served as": "churn-eu", "served at": "https://churn.example.com/?key=s3cr3t", "served how": "Running"}
        assert served(made, make_version(tags=tags)) == {"1": ["kubernetes.churn-eu"]}
        units = [unit.metadata for unit in made.work_units({})]
        (properties,) = [
            cast("Any", proposal).aspect
            for proposal in units
            if isinstance(cast("Any", proposal).aspect, MLModelDeploymentPropertiesClass)
        ]
        assert properties.status == "IN_SERVICE"
        assert properties.externalUrl == "https://churn.example.com"
        assert properties.version.versionTag == "1"
        assert "s3cr3t" not in str(properties)
        assert report.deployments.sent == 1

    def test_several_names_are_several_deployments(self) -> None:
        made, _, _ = walk(tags=TAGS)
        assert served(made, make_version(tags={"served as": "eu, us,"})) == {"1": ["kubernetes.eu", "kubernetes.us"]}

    def test_two_versions_may_share_one(self) -> None:
        made, _, _ = walk(tags=TAGS)
        found = served(
            made,
            make_version(version="1", tags={"served as": "split"}),
            make_version(version="2", tags={"served as": "split", "served how": "failed"}),
        )
        assert found == {"1": ["kubernetes.split"], "2": ["kubernetes.split"]}
        (properties,) = [
            cast("Any", unit.metadata).aspect
            for unit in made.work_units({})
            if cast("Any", unit.metadata).aspectName == "mlModelDeploymentProperties"
        ]
        assert properties.status == "FAILED"
        assert properties.version is None
        assert properties.customProperties["mlflow_source.versions"] == "churn-model version 1, churn-model version 2"

    def test_without_the_tag_or_the_recipe_there_are_none(self) -> None:
        assert served(walk(tags=TAGS)[0], make_version(tags={"served at": "x"})) == {"1": []}
        assert served(walk()[0], make_version(tags={"served as": "x"})) == {"1": []}


class TestWhatCannotBeRead:
    def test_a_target_is_told_and_what_was_sent_stays(self) -> None:
        made, report, guard = walk(ServerError("made up"), ModelDeployment("server", "churn"))
        assert guard.incomplete == ["deployment"]
        assert "a target: made up" in str(report.warnings)
        assert len(list(made.work_units({}))) > 0

    def test_so_is_the_gateway(self) -> None:
        _, report, guard = walk(gateway=ServerError("made up"))
        assert guard.incomplete == ["deployment"]
        assert "MLflow's gateway: made up" in str(report.warnings)

    def test_a_server_that_does_not_answer_is_sent_all_the_same(self) -> None:
        made, report, guard = walk(ModelDeployment("server", "churn", status="no answer", url="http://churn"))
        assert guard.incomplete == []
        assert "churn at http://churn" in str(report.warnings)
        assert "UNKNOWN" in str([unit.metadata for unit in made.work_units({})])


class TestMapped:
    def test_all_of_an_endpoint_of_the_gateway_is_there(self) -> None:
        row = {
            "endpoint_id": "e-1",
            "name": "chat",
            "created_at": START,
            "last_updated_at": START + 1,
            "created_by": "ada",
            "last_updated_by": "grace",
            "routing_strategy": "REQUEST_BASED_TRAFFIC_SPLIT",
            "fallback_config": {"strategy": "SEQUENTIAL", "max_attempts": 3},
            "experiment_id": "1",
            "usage_tracking": True,
            "tags": [{"key": "team", "value": "desk"}],
            "model_mappings": [
                _mapping("cheap", "FALLBACK", fallback_order=0),
                _mapping("clever", "PRIMARY", weight=0.7),
            ],
        }
        entity = map_deployment(gateway_endpoint(row), [], make_experiment(), RULES)
        assert_accepted(entity)
        properties = aspect(entity, MLModelDeploymentPropertiesClass)
        said = {key.removeprefix("mlflow_source."): value for key, value in (properties.customProperties or {}).items()}
        assert said == {
            "target": "gateway",
            "name": "chat",
            "status": "ready",
            "endpoint_id": "e-1",
            "experiment": "churn",
            "last_updated_time": str(START + 1),
            "created_by": "ada",
            "last_updated_by": "grace",
            "routing_strategy": "REQUEST_BASED_TRAFFIC_SPLIT",
            "fallback_strategy": "SEQUENTIAL",
            "fallback_max_attempts": "3",
            "usage_tracking": "true",
            "model.cheap": "openai gpt-cheap, FALLBACK 0, weight 1.0",
            "model.clever": "openai gpt-clever, PRIMARY, weight 0.7",
            "team": "desk",
        }
        assert properties.createdAt == START
        assert properties.status == "IN_SERVICE"
        assert properties.externalUrl == "https://mlflow.example.com/#/gateway/endpoints/e-1"
        assert "s-1" not in text(entity)
        assert "key of openai" not in text(entity)

    def test_one_whose_keys_are_gone_is_out_of_service(self) -> None:
        mapping = _mapping("clever", "PRIMARY")
        del mapping["model_definition"]["secret_id"]
        endpoint = gateway_endpoint({"endpoint_id": "e-1", "model_mappings": [mapping]})
        assert status_of(endpoint.status) == "OUT_OF_SERVICE"
        assert endpoint.name == "e-1"

    def test_what_is_in_a_workspace_is_in_its_container(self) -> None:
        endpoint = ModelDeployment("gateway", "chat", workspace="team-a")
        entity = map_deployment(endpoint, [], None, RULES)
        assert_accepted(entity)
        assert aspect(entity, ContainerClass).container == str(workspace_urn("team-a", Naming()))
        assert str(entity.urn).endswith(",gateway.team-a/chat,PROD)")

    def test_an_instance_and_odd_names_are_in_the_urn(self) -> None:
        urn = deployment_urn(ModelDeployment("http://gw:5000", "a,b"), Naming("DEV", "eu"))
        assert urn.name == "eu.http://gw:5000.a%2Cb"
        assert urn.env == "DEV"

    @pytest.mark.parametrize(
        ("word", "status"),
        [
            ("Running", "IN_SERVICE"),
            ("IN_SERVICE", "IN_SERVICE"),
            ("InService", "IN_SERVICE"),
            ("READY", "IN_SERVICE"),
            ("Not ready", "OUT_OF_SERVICE"),
            ("scaled to zero", "OUT_OF_SERVICE"),
            ("Pending", "CREATING"),
            ("SystemUpdating", "UPDATING"),
            ("Rolling Back", "ROLLING_BACK"),
            ("Terminating", "DELETING"),
            ("CrashLoopBackOff", "FAILED"),
            ("no answer", "UNKNOWN"),
            ("", "UNKNOWN"),
            ("模", "UNKNOWN"),
        ],
    )
    def test_words_of_status(self, word: str, status: str) -> None:
        assert status_of(word) == status


def _mapping(name: str, kind: str, weight: float = 1.0, **more: Any) -> dict[str, Any]:
    definition = {
        "name": name,
        "provider": "openai",
        "model_name": f"gpt-{name}",
        "secret_id": "s-1",
        "secret_name": "key of openai",
    }
    return {"model_definition": definition, "linkage_type": kind, "weight": weight, **more}


@pytest.fixture
def web() -> Iterator[RequestsMock]:
    with RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


def asked(url: str = "http://churn:8080", model: str = "") -> ModelDeployment:
    (found,) = Serving([ModelServer("churn", url, model)], []).servers()
    return found


class TestServers:
    def test_one_that_answers_is_ready(self, web: RequestsMock) -> None:
        web.get("http://churn:8080/ping", body="\n")
        web.get("http://churn:8080/version", body="3.17.2")
        found = asked("http://ada:pw@churn:8080/?token=x", "models:/churn/1")
        assert (found.target, found.name, found.status, found.url) == ("server", "churn", "ready", "http://churn:8080")
        assert dict(found.said) == {"http_status": "200", "mlflow_version": "3.17.2"}
        assert found.models == ("models:/churn/1",)

    def test_health_is_asked_where_there_is_no_ping(self, web: RequestsMock) -> None:
        web.get("http://churn:8080/ping", status=404)
        web.get("http://churn:8080/health", body="OK")
        assert asked().status == "ready"

    @pytest.mark.parametrize(("code", "status"), [(503, "unavailable"), (500, "unavailable"), (401, ""), (404, "")])
    def test_one_that_refuses(self, web: RequestsMock, code: int, status: str) -> None:
        web.get("http://churn:8080/ping", status=code)
        web.get("http://churn:8080/health", status=code)
        assert asked().status == status

    def test_a_redirect_is_not_followed(self, web: RequestsMock) -> None:
        web.get("http://churn:8080/ping", status=302, headers={"Location": "http://elsewhere/"})
        assert asked().status == "unavailable"

    def test_nobody_there(self, web: RequestsMock) -> None:
        web.get("http://churn:8080/ping", body=requests.ConnectionError("refused"))
        assert asked().status == "no answer"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """MLflow's client for any target."""
    mlflow, deployments, exceptions = (ModuleType(name) for name in ("mlflow", "deployments", "exceptions"))
    found = SimpleNamespace(list_endpoints=list, list_deployments=list)
    exceptions.MlflowException = type("MlflowException", (Exception,), {})  # type: ignore[attr-defined]
    deployments.get_deploy_client = lambda _: found  # type: ignore[attr-defined]
    for name, module in {"": mlflow, ".deployments": deployments, ".exceptions": exceptions}.items():
        monkeypatch.setitem(sys.modules, f"mlflow{name}", module)
    return found


def listed(target: str = "databricks") -> list[ModelDeployment] | ServerError:
    ((_, found),) = Serving([], [target]).targets()
    return found


class TestTargets:
    def test_an_endpoint_of_databricks(self, client: SimpleNamespace) -> None:
        endpoint = {
            "name": "churn",
            "state": {"ready": "READY", "config_update": "NOT_UPDATING"},
            "config": {"served_entities": [{"entity_name": "main.ml.churn", "entity_version": "3"}]},
        }
        client.list_endpoints = lambda: [endpoint]
        found = listed()
        assert isinstance(found, list)
        assert (found[0].target, found[0].name, found[0].status) == ("databricks", "churn", "READY")
        assert found[0].models == ("models:/main.ml.churn/3",)
        assert json.loads(dict(found[0].said)["config"]) == endpoint["config"]

    def test_addresses_of_models_are_found_wherever_they_stand(self, client: SimpleNamespace) -> None:
        def unimplemented() -> None:
            raise sys.modules["mlflow.exceptions"].MlflowException("Method is unimplemented in base client.")

        client.list_endpoints = unimplemented
        client.list_deployments = lambda: [{"name": "b"}, {"name": "a", "deep": [{"uri": "models:/churn@champion"}]}]
        found = listed()
        assert isinstance(found, list)
        assert [(each.name, each.models) for each in found] == [("a", ("models:/churn@champion",)), ("b", ())]

    def test_objects_of_pydantic_are_read_too(self, client: SimpleNamespace) -> None:
        fields = {"name": "chat", "endpoint_url": "http://gw/chat", "model": {"name": "gpt", "provider": "openai"}}
        client.list_endpoints = lambda: [SimpleNamespace(model_dump=lambda: fields)]
        found = listed("http://ada:pw@gw:5000")
        assert isinstance(found, list)
        assert (found[0].target, found[0].url) == ("http://gw:5000", "http://gw/chat")

    def test_whatever_a_plugin_raises_is_that_targets_alone(self, client: SimpleNamespace) -> None:
        def fails() -> None:
            raise KeyError("https://ada:s3cr3t@host")

        client.list_endpoints = fails
        found = listed()
        assert isinstance(found, ServerError)
        assert "KeyError" in str(found)
        assert "s3cr3t" not in str(found)

    def test_an_entry_without_a_name_is_told(self, client: SimpleNamespace) -> None:
        client.list_endpoints = lambda: [{"id": 1}]
        assert isinstance(listed(), ServerError)
