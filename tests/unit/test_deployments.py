"""Where models are served: what a version is asked for by, words of status, what others tell of theirs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from itertools import count
from threading import Event
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
import requests
from datahub.metadata.schema_classes import ContainerClass, MLModelDeploymentPropertiesClass, VersionTagClass
from pydantic import ValidationError
from responses import RequestsMock

from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.deployments import DeploymentWalk
from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.mapping.deployments import map_deployment, status_of
from datahub_mlflow_source.mapping.rules import Rules, Web
from datahub_mlflow_source.mapping.urns import Naming, deployment_urn, workspace_urn
from datahub_mlflow_source.outgoing import Outgoing
from datahub_mlflow_source.readers.rows import gateway_endpoint
from datahub_mlflow_source.readers.serving import Answer, ModelServer, Serving
from datahub_mlflow_source.recipe import selection_of
from datahub_mlflow_source.records import ModelDeployment, ModelVersion, Unreadable
from datahub_mlflow_source.report import MlflowSourceReport
from datahub_mlflow_source.selection import DeploymentTags
from datahub_mlflow_source.unread import Unread
from tests.unit.entities import aspect, assert_accepted, text
from tests.unit.records import START, make_experiment, make_version

RULES = Rules(web=Web("https://mlflow.example.com"))
TAGS = DeploymentTags("kubernetes", "served as", "served at", "served how")


class Guard:
    """In place of the removal's: notes what it is told."""

    def __init__(self) -> None:
        self.incomplete: list[str] = []
        self.kept: list[str] = []

    def listing_incomplete(self, kind: str) -> None:
        self.incomplete.append(kind)

    def sent(self, urn: str) -> None:
        pass


def walk(
    *deployments: ModelDeployment,
    gateway: Any = (),
    target: Answer | None = None,
    server: str = "",
    tags: DeploymentTags | None = None,
) -> tuple[DeploymentWalk, MlflowSourceReport, Guard]:
    """A walk over what servers and one target have. `server`: what is wrong with each of the servers."""
    report, guard = MlflowSourceReport(), Guard()

    def endpoints() -> Any:
        if isinstance(gateway, ServerError):
            raise gateway
        return gateway if gateway is None else list(gateway)

    answers = [Answer(f"{each.name} at {each.url}", (each,), server) for each in deployments]
    serving = SimpleNamespace(servers=lambda: iter(answers), targets=lambda: iter([target] if target else []))
    outgoing = Outgoing(report, cast("Any", guard), says_status=False)
    reader = SimpleNamespace(gateway_endpoints=endpoints)
    selection = replace(selection_of(MlflowSourceConfig()), deployment_tags=tags)
    unread = Unread(report, cast("Any", guard), Naming())
    made = DeploymentWalk(
        cast("Any", reader), cast("Any", serving), selection, RULES, outgoing, cast("Any", guard), report, unread
    )
    made.read()
    return made, report, guard


def mapped(walk: DeploymentWalk) -> list[MLModelDeploymentPropertiesClass]:
    """What is sent of each."""
    aspects = [cast("Any", unit.metadata).aspect for unit in walk.work_units({})]
    return [aspect for aspect in aspects if isinstance(aspect, MLModelDeploymentPropertiesClass)]


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
            ("models:/模型 @ 1/1", None),
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

    def test_a_logged_model_may_be_a_version_of_two_models(self) -> None:
        model = "m-00112233445566778899aabbccddeeff"
        made, _, _ = walk(ModelDeployment("server", "churn", models=(f"models:/{model}",)))
        one, other = make_version(model_id=model), make_version(name="b", version="7", model_id=model)
        made.saw(one)
        made.saw(other)
        assert made.of_version(one)
        assert made.of_version(other)

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
        (properties,) = mapped(made)
        assert properties.status == "IN_SERVICE"
        assert properties.externalUrl == "https://churn.example.com"
        assert str(properties.version) == str(VersionTagClass("1"))
        assert "s3cr3t" not in str(properties)
        assert report.deployments.sent == 1

    @pytest.mark.parametrize("address", ["http://h/x;token=s3cr3t", "http://h/?token=s3cr3t", "http://u:s3cr3t@h/"])
    def test_no_credential_is_in_its_address(self, address: str) -> None:
        made, _, _ = walk(tags=TAGS)
        made.saw(make_version(tags={"served as": "eu", "served at": address}))
        assert "s3cr3t" not in str(mapped(made))

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
        (properties,) = mapped(made)
        assert properties.status == "FAILED"
        assert properties.version is None
        assert properties.customProperties["mlflow_source.versions"] == "churn-model version 1, churn-model version 2"

    def test_of_two_versions_the_newer_has_the_word(self) -> None:
        made, _, _ = walk(tags=TAGS)
        old = {"served as": "eu", "served how": "stopped", "served at": "http://old"}
        new = {"served as": "eu", "served how": "running"}
        made.saw(make_version(version="2", tags=new, creation_time=START + 1))
        made.saw(make_version(version="1", tags=old, creation_time=START))
        (properties,) = mapped(made)
        assert properties.status == "IN_SERVICE"
        assert properties.externalUrl == "http://old"

    def test_no_credential_and_no_line_break_is_in_a_name(self) -> None:
        made, _, _ = walk(tags=TAGS)
        names = served(made, make_version(tags={"served as": "https://ada:s3cr3t@svc/?token=s3cr3t\n\x00x"}))["1"]
        assert "s3cr3t" not in str(names)
        assert str(names).isprintable()

    def test_without_the_tag_or_the_recipe_there_are_none(self) -> None:
        assert served(walk(tags=TAGS)[0], make_version(tags={"served at": "x"})) == {"1": []}
        assert served(walk()[0], make_version(tags={"served as": "x"})) == {"1": []}


class TestWhatCannotBeRead:
    def test_a_target_is_told_and_what_was_sent_stays(self) -> None:
        there = ModelDeployment("a target", "there")
        made, report, guard = walk(target=Answer("a target", (there,), "made up"))
        assert guard.incomplete == ["deployment"]
        assert "a target: made up" in str(report.warnings)
        assert len(mapped(made)) == 1

    def test_so_is_the_gateway(self) -> None:
        _, report, guard = walk(gateway=ServerError("made up"))
        assert guard.incomplete == ["gateway endpoint"]
        assert "MLflow's gateway: made up" in str(report.warnings)

    def test_a_gateway_that_is_not_there_removes_nothing_of_one(self) -> None:
        _, report, guard = walk(gateway=None)
        assert guard.incomplete == ["gateway endpoint"]
        assert not report.warnings
        assert "No endpoints of a gateway" in str(report.infos)

    def test_one_bad_endpoint_leaves_the_others(self) -> None:
        bad = Unreadable("gateway endpoint", "e-1", "made up")
        made, report, guard = walk(gateway=[ModelDeployment("gateway", "chat"), bad])
        assert guard.incomplete == ["gateway endpoint"]
        assert report.has_entity_failures
        assert len(mapped(made)) == 1

    def test_a_server_that_does_not_answer_is_sent_all_the_same(self) -> None:
        server = ModelDeployment("server", "churn", status="no answer", url="http://churn")
        made, report, guard = walk(server, server="connection refused")
        assert guard.incomplete == []
        assert "churn at http://churn: connection refused" in str(report.warnings)
        assert [properties.status for properties in mapped(made)] == ["UNKNOWN"]

    def test_a_server_of_a_version_that_is_not_there_is_told(self) -> None:
        made, report, _ = walk(ModelDeployment("server", "churn", models=("models:/fruad/3",)))
        made.saw(make_version())
        made.all_seen()
        assert "models:/fruad/3" in str(report.warnings)

    def test_two_that_are_one_in_datahub_are_told(self) -> None:
        _, report, _ = walk(ModelDeployment("a", "b.c"), ModelDeployment("a.b", "c"))
        assert "a.b.c" in str(report.warnings)


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
            ("Ready 0/3", "UNKNOWN"),
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
    (answer,) = Serving([ModelServer("churn", url, model)], []).servers()
    assert bool(answer.problem) == (answer.deployments[0].status == "no answer")
    return answer.deployments[0]


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

    @pytest.mark.parametrize(
        ("code", "status"), [(503, "unavailable"), (500, "unavailable"), (400, "unavailable"), (401, ""), (404, "")]
    )
    def test_one_that_refuses(self, web: RequestsMock, code: int, status: str) -> None:
        web.get("http://churn:8080/ping", status=code)
        web.get("http://churn:8080/health", status=code)
        assert asked().status == status

    def test_a_redirect_is_not_followed(self, web: RequestsMock) -> None:
        web.get("http://churn:8080/ping", status=302, headers={"Location": "http://elsewhere/"})
        found = asked()
        assert found.status == ""
        assert dict(found.said)["http_status"] == "302"

    @pytest.mark.parametrize("location", ["http://[", "\u00ff", "//", "x:y"])
    def test_where_it_leads_is_not_even_looked_at(self, web: RequestsMock, location: str) -> None:
        web.get("http://churn:8080/ping", status=302, headers={"Location": location})
        assert asked().status == ""

    @pytest.mark.parametrize("version", ["x" * 1000, "<html>", "3.17\x00", "\n"])
    def test_a_version_that_is_none_is_left_out(self, web: RequestsMock, version: str) -> None:
        web.get("http://churn:8080/ping")
        web.get("http://churn:8080/version", body=version, content_type="text/plain; charset=undefined")
        found = asked()
        assert found.status == "ready"
        assert dict(found.said)["mlflow_version"] == ""

    def test_nobody_there(self, web: RequestsMock) -> None:
        web.get("http://churn:8080/ping", body=requests.ConnectionError("refused"))
        assert asked().status == "no answer"


class Client:
    """MLflow's client for any target; what it lists is set by the test."""

    endpoints: Any = ()
    deployments: Any = ()

    def list_endpoints(self) -> Any:
        return self.endpoints() if callable(self.endpoints) else self.endpoints

    def list_deployments(self) -> Any:
        return self.deployments() if callable(self.deployments) else self.deployments


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    found = Client()
    mlflow, deployments = ModuleType("mlflow"), ModuleType("deployments")
    deployments.BaseDeploymentClient = SimpleNamespace(list_endpoints=None)  # type: ignore[attr-defined]
    deployments.get_deploy_client = lambda _: found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.deployments", deployments)
    return found


def answer(target: str = "databricks") -> Answer:
    (found,) = Serving([], [target]).targets()
    return found


def raising(error: BaseException) -> Callable[[], Any]:
    def fails() -> None:
        raise error

    return fails


class TestTargets:
    def test_an_endpoint_of_databricks(self, client: Client) -> None:
        endpoint = {
            "name": "churn",
            "state": {"ready": "READY", "config_update": "NOT_UPDATING"},
            "creation_timestamp": START,
            "config": {"served_entities": [{"entity_name": "main.ml.churn", "entity_version": "3"}]},
        }
        client.endpoints = [endpoint]
        found = answer()
        assert found.problem == ""
        (churn,) = found.deployments
        assert (churn.target, churn.name, churn.status, churn.creation_time) == ("databricks", "churn", "READY", START)
        assert churn.models == ("models:/main.ml.churn/3",)
        assert json.loads(dict(churn.said)["config"]) == endpoint["config"]

    @pytest.mark.parametrize(
        ("state", "status"),
        [
            ({"ready": "NOT_READY", "config_update": "IN_PROGRESS"}, "CREATING"),
            ({"ready": "READY", "config_update": "IN_PROGRESS"}, "UPDATING"),
            ({"phase": "Running"}, "IN_SERVICE"),
            ({"odd": 1}, "UNKNOWN"),
            (7, "UNKNOWN"),
        ],
    )
    def test_a_status_that_is_more_than_a_word(self, client: Client, state: Any, status: str) -> None:
        client.endpoints = [{"name": "churn", "state": state}]
        assert status_of(answer().deployments[0].status) == status

    def test_an_endpoint_of_sagemaker(self, client: Client) -> None:
        client.endpoints = [
            {
                "EndpointName": "churn",
                "EndpointArn": "arn:aws:sagemaker:eu-west-1:1:endpoint/churn",
                "CreationTime": datetime.fromtimestamp(START / 1000, tz=timezone.utc),
                "EndpointStatus": "InService",
            }
        ]
        (churn,) = answer("sagemaker:/eu-west-1").deployments
        assert (churn.target, churn.name, churn.status) == ("sagemaker:/eu-west-1", "churn", "InService")
        assert churn.creation_time == START

    def test_addresses_of_models_are_found_wherever_they_stand(self, client: Client) -> None:
        client.deployments = [{"name": "b"}, {"name": "a", "deep": [{"uri": "models:/模型 (EU), 2/1"}]}]
        assert [(each.name, each.models) for each in answer().deployments] == [
            ("a", ("models:/模型 (EU), 2/1",)),
            ("b", ()),
        ]

    def test_objects_of_pydantic_are_read_too(self, client: Client) -> None:
        fields = {"name": "chat", "endpoint_url": "http://gw/chat", "model": {"name": "gpt", "provider": "openai"}}
        client.endpoints = [SimpleNamespace(model_dump=lambda: fields)]
        (chat,) = answer("http://ada:pw@gw:5000").deployments
        assert (chat.target, chat.url) == ("http://gw:5000", "http://gw/chat")

    @pytest.mark.parametrize(
        "error", [KeyError("https://ada:s3cr3t@host"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()], ids=repr
    )
    def test_whatever_a_plugin_raises_is_that_targets_alone(self, client: Client, error: BaseException) -> None:
        client.endpoints = raising(error)
        found = answer()
        assert type(error).__name__ in found.problem
        assert "s3cr3t" not in found.problem
        assert found.deployments == ()

    def test_a_bug_of_a_plugin_is_not_taken_for_nothing(self, client: Client) -> None:
        client.endpoints = raising(AttributeError("'NoneType' object has no attribute 'json'"))
        assert "AttributeError" in answer().problem

    def test_a_target_that_knows_only_endpoints_may_have_none(self, client: Client) -> None:
        client.deployments = raising(NotImplementedError())
        assert answer() == Answer("databricks")

    @pytest.mark.parametrize("bad", [{"id": 1}, {"name": None}, {"name": " \n"}, None, 7, {"name": ["x"]}], ids=repr)
    def test_one_bad_entry_leaves_the_others(self, client: Client, bad: Any) -> None:
        client.endpoints = [{"name": "good"}, bad]
        found = answer()
        assert [each.name for each in found.deployments] == ["good"]
        assert "1 can't be read" in found.problem

    def test_odd_entries_are_read(self, client: Client) -> None:
        cyclic: dict[Any, Any] = {"name": "odd", 1: "number", None: float("nan"), "set": {1}, "object": object()}
        cyclic["itself"] = cyclic
        client.endpoints = [cyclic]
        (odd,) = answer().deployments
        assert dict(odd.said)["1"] == "number"

    def test_endless_listings_end(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("datahub_mlflow_source.readers.serving._MOST_DEPLOYMENTS", 5)
        client.endpoints = ({"name": f"{number}"} for number in count())
        found = answer()
        assert len(found.deployments) == 5
        assert "only the first 5" in found.problem

    def test_one_that_hangs_is_given_up(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("datahub_mlflow_source.readers.serving._TARGET_SECONDS", 0.05)
        hanging = Event()
        client.endpoints = hanging.wait
        assert "no answer within" in answer().problem
        hanging.set()

    @pytest.mark.parametrize(
        "secret",
        [
            {"token": "s3cr3t"},
            {"config": {"openai_api_key": "s3cr3t"}},
            {"headers": {"X-Auth": "s3cr3t"}},
            {"env": [{"name": "DB_PASSWORD", "value": "s3cr3t"}]},
            {"tags": [{"key": "password", "value": "s3cr3t"}]},
            {"pat": "s3cr3t", "dsn": "s3cr3t"},
            {"x_https://u:s3cr3t@h/": 1},
            {"deep": [{"credentials": {"a": "s3cr3t"}}, {"jwt": "s3cr3t"}]},
            {"text": "https://ada:s3cr3t@host/?token=s3cr3t"},
        ],
        ids=str,
    )
    def test_no_secret_of_a_plugin_is_sent(self, client: Client, secret: dict[str, Any]) -> None:
        client.endpoints = [{"name": "churn", **secret}]
        (deployment,) = answer().deployments
        assert "s3cr3t" not in text(map_deployment(deployment, [], None, RULES))

    def test_what_a_plugin_says_takes_no_place_of_ours(self, client: Client) -> None:
        client.endpoints = [{"name": "churn", "target": "theirs", "versions": "theirs"}]
        (deployment,) = answer().deployments
        entity = map_deployment(deployment, [("m", "1")], None, RULES)
        said = aspect(entity, MLModelDeploymentPropertiesClass).customProperties or {}
        assert (said["mlflow_source.target"], said["mlflow_source.versions"]) == ("databricks", "m version 1")


class TestRecipe:
    @pytest.mark.parametrize(
        ("deployments", "said"),
        [
            ({"targets": [""]}, "no target"),
            ({"targets": ["http://["]}, "no target"),
            ({"targets": ["redisai:ada:s3cr3t@h"]}, "no target"),
            ({"servers": [{"name": "a", "url": "churn:80"}]}, "must be like http"),
            ({"servers": [{"name": "a", "url": "http://["}]}, "must be like http"),
            ({"servers": [{"name": "a", "url": "http://a/ b"}]}, "must be like http"),
            ({"servers": [{"name": " ", "url": "http://a"}]}, "people can read"),
            ({"servers": [{"name": "a", "url": "http://a", "model": "churn/1"}]}, "models:/churn/3"),
            ({"servers": [{"name": "a", "url": "http://a"}] * 2}, "two servers"),
            ({"tags": {"target": "k8s"}}, "name"),
            ({"server": []}, "Did you mean `servers`"),
        ],
        ids=str,
    )
    def test_what_cannot_be_is_refused(self, deployments: dict[str, Any], said: str) -> None:
        with pytest.raises(ValidationError) as refused:
            MlflowSourceConfig.model_validate({"include_deployments": True, "deployments": deployments})
        assert said in str(refused.value)
        assert "s3cr3t" not in str(refused.value)

    def test_without_the_switch_it_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="include_deployments"):
            MlflowSourceConfig.model_validate({"deployments": {"targets": ["databricks"]}})

    def test_names_with_an_at_sign_may_be_served(self) -> None:
        server = {"name": "a", "url": "http://a", "model": "models:/a@b/1"}
        MlflowSourceConfig.model_validate({"include_deployments": True, "deployments": {"servers": [server]}})
