"""Experiments and the registry become containers."""

from __future__ import annotations

import pytest
from datahub.emitter.mcp_builder import ExperimentKey
from datahub.ingestion.source.common.subtypes import MLAssetSubTypes
from datahub.metadata.schema_classes import ContainerPropertiesClass, DataPlatformInstanceClass, SubTypesClass

from datahub_mlflow_source.mapping.evaluation import Measured
from datahub_mlflow_source.mapping.experiments import map_experiment, map_registry
from datahub_mlflow_source.mapping.rules import Limits, Rules, Web
from datahub_mlflow_source.mapping.urns import Naming, experiment_urn, registry_urn
from tests.support.gms import GmsStandIn
from tests.unit.entities import aspect, assert_accepted, names, text
from tests.unit.records import make_experiment

RULES = Rules()
WEB = Rules(web=Web("https://mlflow.example.com"), registry_web=Web("https://registry.example.com"))
EU = Rules(naming=Naming(env="DEV", platform_instance="eu"))


def test_an_experiment_has_these_aspects() -> None:
    entity = map_experiment(make_experiment(), Measured(), RULES)
    assert names(entity) == ["containerProperties", "subTypes", "dataPlatformInstance"]
    assert entity.cut == []
    assert_accepted(entity)


def test_all_that_mlflow_says_of_an_experiment_is_there() -> None:
    experiment = make_experiment(
        experiment_id="7",
        name="churn, EU",
        artifact_location="s3://models/7",
        creation_time=1_700_000_000_001,
        last_update_time=1_700_000_000_002,
        tags={"mlflow.note.content": "Who **leaves**.", "team": "retention", "no value": ""},
    )
    entity = map_experiment(experiment, Measured(), WEB)
    assert str(entity.urn) == ExperimentKey(platform="urn:li:dataPlatform:mlflow", id="churn, EU").as_urn()
    assert aspect(entity, ContainerPropertiesClass).to_obj() == {
        "name": "churn, EU",
        "description": "Who **leaves**.",
        "customProperties": {
            "team": "retention",
            "no value": "",
            "mlflow_source.experiment_id": "7",
            "mlflow_source.artifact_location": "s3://models/7",
            "mlflow_source.lifecycle_stage": "active",
        },
        "externalUrl": "https://mlflow.example.com/#/experiments/7",
        "created": {"time": 1_700_000_000_001},
        "lastModified": {"time": 1_700_000_000_002},
    }


def test_an_experiment_has_the_built_ins_subtype() -> None:
    entity = map_experiment(make_experiment(), Measured(), RULES)
    assert aspect(entity, SubTypesClass).typeNames == ["ML Experiment"] == [MLAssetSubTypes.MLFLOW_EXPERIMENT]


def test_an_experiment_that_says_nothing_of_itself_is_bare() -> None:
    experiment = make_experiment(artifact_location="", creation_time=None, last_update_time=None)
    assert aspect(map_experiment(experiment, Measured(), RULES), ContainerPropertiesClass).to_obj() == {
        "name": "churn",
        "customProperties": {"mlflow_source.experiment_id": "1", "mlflow_source.lifecycle_stage": "active"},
    }


def test_a_deleted_experiment_says_so() -> None:
    entity = map_experiment(make_experiment(lifecycle_stage="deleted"), Measured(), RULES)
    assert aspect(entity, ContainerPropertiesClass).customProperties["mlflow_source.lifecycle_stage"] == "deleted"


def test_an_experiment_of_an_instance_says_which() -> None:
    entity = map_experiment(make_experiment(), Measured(), EU)
    assert str(entity.urn) == "urn:li:container:70d1d1a94ccd1c743b7a3e947c81218d"
    assert aspect(entity, DataPlatformInstanceClass).to_obj() == {
        "platform": "urn:li:dataPlatform:mlflow",
        "instance": "urn:li:dataPlatformInstance:(urn:li:dataPlatform:mlflow,eu)",
    }
    assert_accepted(entity)


def test_what_is_cut_of_an_experiment_is_noted() -> None:
    rules = Rules(limits=Limits(max_tags=1, max_value_chars=20, max_description_chars=10))
    experiment = make_experiment(tags={"a": "x" * 21, "b": "", "mlflow.note.content": "y" * 11})
    entity = map_experiment(experiment, Measured(), rules)
    properties = aspect(entity, ContainerPropertiesClass)
    assert properties.customProperties["a"] == "x" * 19 + "…"
    assert "b" not in properties.customProperties
    assert properties.description == "yyyyyyyyy…"
    assert entity.cut == ["tags: 2, 1 sent", "a: 21 characters, 20 sent", "description: 11 characters, 10 sent"]


def test_credentials_in_an_experiment_never_come_out() -> None:
    secret = "https://ada:hunter2@host/x"
    experiment = make_experiment(
        artifact_location=secret, tags={"data": secret, "mlflow.note.content": f"See {secret}"}
    )
    entity = map_experiment(experiment, Measured(), RULES)
    assert "hunter2" not in text(entity)
    assert text(entity).count("https://host/x") == 3


@pytest.mark.parametrize("name", ["fraud, v2 (EU)", "it's", "模型/卡", "a%2Cb", "模" * 300, " ", "registry"])
def test_an_experiment_may_have_any_name(name: str) -> None:
    entity = map_experiment(make_experiment(name=name), Measured(), WEB)
    assert aspect(entity, ContainerPropertiesClass).name == name
    assert_accepted(entity)


def test_the_registry_is_a_container() -> None:
    entity = map_registry(registry_urn(Naming()), WEB)
    assert str(entity.urn) == "urn:li:container:687beb58a010ee785e7299b4314060d1"
    assert names(entity) == ["containerProperties", "subTypes", "dataPlatformInstance"]
    assert aspect(entity, ContainerPropertiesClass).to_obj() == {
        "name": "Model Registry",
        "description": "The models that are registered in this MLflow.",
        "customProperties": {},
        "externalUrl": "https://registry.example.com/#/models",
    }
    assert aspect(entity, SubTypesClass).typeNames == ["Model Registry"]
    assert_accepted(entity)


def test_an_experiment_called_registry_stays_beside_the_registry() -> None:
    gms = GmsStandIn()
    experiment = map_experiment(make_experiment(name="registry"), Measured(), RULES)
    registry = map_registry(registry_urn(Naming(), beside_experiment_of_that_name=True), RULES)
    for entity in (experiment, registry):
        assert_accepted(entity, gms=gms)
    assert experiment.urn == experiment_urn("registry", Naming())
    shown = [gms.aspect(str(entity.urn), "subTypes") for entity in (experiment, registry)]
    assert shown == [{"typeNames": ["ML Experiment"]}, {"typeNames": ["Model Registry"]}]


def test_mapping_twice_gives_the_same_and_changes_nothing() -> None:
    experiment, before = make_experiment(tags={"a": "1"}), make_experiment(tags={"a": "1"})
    assert map_experiment(experiment, Measured(), WEB) == map_experiment(experiment, Measured(), WEB)
    assert experiment == before
