"""Registered models become groups."""

from __future__ import annotations

from typing import Any

from datahub.metadata.schema_classes import ContainerClass, MLModelGroupPropertiesClass, SubTypesClass

from datahub_mlflow_source.mapping.models import map_model
from datahub_mlflow_source.mapping.rules import Entity, Limits, Rules, Web
from datahub_mlflow_source.mapping.urns import Naming, registry_urn
from datahub_mlflow_source.records import RegisteredModel
from tests.unit.entities import aspect, assert_accepted, names, text
from tests.unit.records import RUN_ID, make_model

RULES = Rules()
WEB = Rules(web=Web("https://mlflow.example.com"), registry_web=Web("https://registry.example.com"))
EU = Rules(naming=Naming(env="DEV", platform_instance="eu", separator="-v"))
REGISTRY = "urn:li:container:687beb58a010ee785e7299b4314060d1"
RUN_URN = "urn:li:dataProcessInstance:f8a6b454e5bb207ff91bea45ae1c96f2"


def group(model: RegisteredModel, rules: Rules = RULES, latest: str | None = None, *run_ids: str) -> Entity:
    return map_model(model, latest, run_ids, registry_urn(rules.naming), rules)


def group_properties(entity: Entity) -> dict[str, Any]:
    found: dict[str, Any] = aspect(entity, MLModelGroupPropertiesClass).to_obj()
    return found


def test_a_group_has_these_aspects() -> None:
    entity = group(make_model())
    assert names(entity) == ["mlModelGroupProperties", "container", "subTypes", "dataPlatformInstance"]
    assert entity.cut == []
    assert_accepted(entity)


def test_all_that_mlflow_says_of_a_registered_model_is_there() -> None:
    model = make_model(
        name="fraud, EU",
        creation_time=1_700_000_000_001,
        last_updated_time=1_700_000_000_002,
        description="Scores *card* payments.",
        tags={"team": "risk", "no value": ""},
        aliases={"champion": "3", "challenger": "2"},
    )
    entity = group(model, WEB, "3", RUN_ID, "0123456789abcdef0123456789abcdef")
    assert str(entity.urn) == "urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,fraud%2C EU,PROD)"
    assert group_properties(entity) == {
        "name": "fraud, EU",
        "description": "Scores *card* payments.",
        "customProperties": {
            "team": "risk",
            "no value": "",
            "mlflow_source.name": "fraud, EU",
            "mlflow_source.aliases": "challenger=2, champion=3",
        },
        "externalUrl": "https://registry.example.com/#/models/fraud%2C%20EU",
        "created": {"time": 1_700_000_000_001},
        "lastModified": {"time": 1_700_000_000_002},
        "version": {
            "versionTag": "3",
            "metadataAttribution": {
                "time": 1_700_000_000_002,
                "actor": "urn:li:corpuser:datahub",
                "sourceDetail": {},
            },
        },
        "trainingJobs": [RUN_URN, "urn:li:dataProcessInstance:508ce4ffef4215e1085cc2cca8ba076a"],
    }


def test_a_group_is_in_the_registry_and_says_what_it_is() -> None:
    entity = group(make_model())
    assert aspect(entity, ContainerClass).container == REGISTRY
    assert aspect(entity, SubTypesClass).typeNames == ["ML Model Group"]


def test_a_model_that_says_nothing_of_itself_is_bare() -> None:
    entity = group(make_model(creation_time=None, last_updated_time=None))
    assert group_properties(entity) == {
        "name": "churn-model",
        "customProperties": {"mlflow_source.name": "churn-model"},
        "trainingJobs": [],
    }


def test_the_note_describes_a_model_without_description() -> None:
    tags = {"mlflow.note.content": "From the note."}
    assert group_properties(group(make_model(tags=tags)))["description"] == "From the note."
    assert group_properties(group(make_model(tags=tags, description="Own.")))["description"] == "Own."


def test_the_newest_version_is_told_also_when_nobody_knows_since_when() -> None:
    entity = group(make_model(last_updated_time=None), RULES, "12")
    assert group_properties(entity)["version"] == {"versionTag": "12"}
    assert_accepted(entity)


def test_a_group_of_an_instance_says_which() -> None:
    entity = group(make_model(), EU)
    assert str(entity.urn) == "urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,eu.churn-model,DEV)"
    assert group_properties(entity)["name"] == "churn-model"
    assert aspect(entity, ContainerClass).container == "urn:li:container:f33d0f84b1acdef67a244f5c620ec725"
    assert_accepted(entity)


def test_only_the_latest_training_jobs_of_a_group_are_sent() -> None:
    entity = group(make_model(), RULES, None, *(f"{number:032}" for number in range(501)))
    jobs = group_properties(entity)["trainingJobs"]
    all_but_one = group(make_model(), RULES, None, *(f"{number:032}" for number in range(500)))
    assert len(jobs) == 500
    assert jobs == group_properties(all_but_one)["trainingJobs"]
    assert (entity.cut, all_but_one.cut) == (["training jobs: 501, 500 sent"], [])


def test_what_is_cut_of_a_group_is_noted() -> None:
    rules = Rules(limits=Limits(max_tags=1, max_value_chars=20, max_description_chars=10))
    model = make_model(name="m", description="y" * 11, tags={"a": "x" * 21, "b": ""})
    entity = group(model, rules)
    assert group_properties(entity)["description"] == "yyyyyyyyy…"
    assert group_properties(entity)["customProperties"] == {"a": "x" * 19 + "…", "mlflow_source.name": "m"}
    assert entity.cut == ["description: 11 characters, 10 sent", "tags: 2, 1 sent", "a: 21 characters, 20 sent"]


def test_credentials_in_a_group_never_come_out() -> None:
    secret = "https://ada:hunter2@host/x?token=hunter2"
    entity = group(make_model(description=f"See {secret}", tags={"from": secret}))
    assert "hunter2" not in text(entity)
    assert group_properties(entity)["description"] == "See https://host/x?token=***"
