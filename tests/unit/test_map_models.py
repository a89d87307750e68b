"""Versions of registered models become models of DataHub."""

from __future__ import annotations

import math
from typing import Any

import pytest
from datahub.metadata.schema_classes import (
    ContainerClass,
    DataPlatformInstanceClass,
    EvaluationDataClass,
    MLModelPropertiesClass,
    SourceCodeClass,
    SubTypesClass,
    TrainingDataClass,
    VersionPropertiesClass,
)

from datahub_mlflow_source.mapping.datasets import input_dataset
from datahub_mlflow_source.mapping.models import map_model, map_version
from datahub_mlflow_source.mapping.rules import Entity, Limits, Rules, Web
from datahub_mlflow_source.mapping.urns import Naming, registry_urn
from datahub_mlflow_source.records import DatasetInput, ModelVersion, RegisteredModel, Run
from tests.support.gms import GmsStandIn
from tests.unit.entities import aspect, assert_accepted, every, names, text
from tests.unit.records import (
    END,
    RUN_ID,
    START,
    make_dataset_input,
    make_experiment,
    make_metric,
    make_model,
    make_run,
    make_version,
)

RULES = Rules()
WEB = Rules(web=Web("https://mlflow.example.com"), registry_web=Web("https://registry.example.com"))
EU = Rules(naming=Naming(env="DEV", platform_instance="eu", separator="-v"))
REGISTRY = "urn:li:container:687beb58a010ee785e7299b4314060d1"
RUN_URN = "urn:li:dataProcessInstance:f8a6b454e5bb207ff91bea45ae1c96f2"
ALWAYS = ["mlModelProperties", "versionProperties", "container", "subTypes", "dataPlatformInstance"]


def group(model: RegisteredModel, rules: Rules = RULES, latest: str | None = None, *run_ids: str) -> Entity:
    return map_model(model, latest, run_ids, registry_urn(rules.naming), rules)


def version(
    record: ModelVersion,
    run: Run | None = None,
    rules: Rules = RULES,
    *datasets: DatasetInput,
    run_is_emitted: bool | None = None,
) -> Entity:
    inputs = [input_dataset(dataset, make_experiment(), rules) for dataset in datasets]
    emitted = run is not None if run_is_emitted is None else run_is_emitted
    return map_version(record, run, emitted, None, None, inputs, [], registry_urn(rules.naming), rules)


def properties(entity: Entity) -> dict[str, Any]:
    found: dict[str, Any] = aspect(entity, MLModelPropertiesClass).to_obj()
    return found


def versioning(entity: Entity) -> dict[str, Any]:
    found: dict[str, Any] = aspect(entity, VersionPropertiesClass).to_obj()
    return found


# Versions


def test_a_version_has_these_aspects() -> None:
    entity = version(make_version())
    assert names(entity) == ALWAYS
    assert entity.cut == []
    assert_accepted(entity)


def test_a_version_of_a_run_that_says_everything_has_these_aspects() -> None:
    run = make_run(tags={"mlflow.source.git.repoURL": "git@github.com:acme/churn.git"})
    entity = version(make_version(), run, RULES, make_dataset_input())
    assert names(entity) == [*ALWAYS, "sourceCode", "mlModelTrainingData"]
    assert_accepted(entity)


def test_all_that_mlflow_says_of_a_version_is_there() -> None:
    record = make_version(
        name="fraud, EU",
        version="3",
        creation_time=1_700_000_000_001,
        last_updated_time=1_700_000_000_002,
        description="Trained on *all* of it.",
        user_id="grace",
        stage="Production",
        source="s3://models/3",
        status="FAILED_REGISTRATION",
        status_message="No space left.",
        run_link="https://elsewhere.example.com/r",
        tags={"approved by": "grace", "no value": ""},
    )
    entity = version(record, make_run(params={"depth": "7"}, metrics=(make_metric("auc", 0.9, step=3),)), WEB)
    assert str(entity.urn) == "urn:li:mlModel:(urn:li:dataPlatform:mlflow,fraud%2C EU_3,PROD)"
    assert properties(entity) == {
        "name": "fraud, EU_3",
        "description": "Trained on *all* of it.",
        "customProperties": {
            "approved by": "grace",
            "no value": "",
            "mlflow_source.name": "fraud, EU",
            "mlflow_source.version": "3",
            "mlflow_source.run_id": RUN_ID,
            "mlflow_source.source": "s3://models/3",
            "mlflow_source.stage": "Production",
            "mlflow_source.status": "FAILED_REGISTRATION",
            "mlflow_source.status_message": "No space left.",
            "mlflow_source.run_link": "https://elsewhere.example.com/r",
            "mlflow_source.user_id": "grace",
        },
        "externalUrl": "https://registry.example.com/#/models/fraud%2C%20EU/versions/3",
        "created": {"time": 1_700_000_000_001, "actor": "urn:li:corpuser:grace"},
        "lastModified": {"time": 1_700_000_000_002},
        "hyperParams": [{"name": "depth", "value": "7"}],
        "trainingMetrics": [{"name": "auc", "value": "0.9", "description": "step 3", "createdAt": END}],
        "trainingJobs": [RUN_URN],
        "groups": ["urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,fraud%2C EU,PROD)"],
        "tags": ["approved by:grace", "no value"],
    }


def test_a_version_is_in_the_registry_and_says_what_it_is() -> None:
    entity = version(make_version())
    assert aspect(entity, ContainerClass).container == REGISTRY
    assert aspect(entity, SubTypesClass).typeNames == ["ML Model"]


def test_a_version_of_an_instance_says_which() -> None:
    entity = version(make_version(version="3"), make_run(), EU)
    assert str(entity.urn) == "urn:li:mlModel:(urn:li:dataPlatform:mlflow,eu.churn-model-v3,DEV)"
    assert properties(entity)["name"] == "churn-model-v3"
    assert properties(entity)["groups"] == ["urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,eu.churn-model,DEV)"]
    assert properties(entity)["trainingJobs"] == ["urn:li:dataProcessInstance:c00c12ae5e922bca8aeb4f963eba265a"]
    assert aspect(entity, DataPlatformInstanceClass).instance == (
        "urn:li:dataPlatformInstance:(urn:li:dataPlatform:mlflow,eu)"
    )
    assert_accepted(entity)


def test_the_note_describes_a_version_without_description() -> None:
    tags = {"mlflow.note.content": "From the note."}
    assert properties(version(make_version(tags=tags)))["description"] == "From the note."
    assert properties(version(make_version(tags=tags, description="Own.")))["description"] == "Own."


# A version's run


def test_a_version_without_its_run_has_the_runs_id_and_nothing_else_of_it() -> None:
    """The run was deleted for good, or is not asked for."""
    found = properties(version(make_version()))
    assert found["customProperties"]["mlflow_source.run_id"] == RUN_ID
    assert found["trainingJobs"] == []
    assert "hyperParams" not in found
    assert "trainingMetrics" not in found


def test_a_version_of_a_run_that_is_not_sent_has_its_params_and_no_link_to_it() -> None:
    run = make_run(params={"depth": "7"}, metrics=(make_metric("auc", 0.9, timestamp=0),))
    found = properties(version(make_version(), run, run_is_emitted=False))
    assert found["hyperParams"] == [{"name": "depth", "value": "7"}]
    assert found["trainingMetrics"] == [{"name": "auc", "value": "0.9", "description": "step 0"}]
    assert found["trainingJobs"] == []
    assert found["customProperties"]["mlflow_source.run_id"] == RUN_ID


def test_a_version_that_was_registered_without_a_run_names_none() -> None:
    found = properties(version(make_version(run_id="")))
    assert "mlflow_source.run_id" not in found["customProperties"]
    assert found["trainingJobs"] == []


def test_two_versions_from_one_run_both_name_it() -> None:
    jobs = [properties(version(make_version(version=n), make_run()))["trainingJobs"] for n in ("1", "2")]
    assert jobs == [[RUN_URN], [RUN_URN]]


@pytest.mark.parametrize(
    ("user", "run_user", "actor"),
    [("grace", "ada", "urn:li:corpuser:grace"), ("", "ada", "urn:li:corpuser:ada")],
)
def test_whoever_registered_a_version_created_it_or_else_who_trained_it(user: str, run_user: str, actor: str) -> None:
    entity = version(make_version(user_id=user), make_run(user_id=run_user))
    assert properties(entity)["created"] == {"time": END, "actor": actor}
    assert versioning(entity)["sourceCreatedTimestamp"] == {"time": END, "actor": actor}


def test_a_version_of_nobody_was_created_by_nobody() -> None:
    entity = version(make_version(user_id=""), make_run(user_id=""))
    assert properties(entity)["created"] == {"time": END}
    assert versioning(entity)["sourceCreatedTimestamp"] == {"time": END, "actor": "urn:li:corpuser:unknown"}


def test_a_version_without_times_has_none() -> None:
    entity = version(make_version(creation_time=None, last_updated_time=None, user_id="grace"))
    assert properties(entity).keys().isdisjoint({"created", "lastModified", "date"})
    assert "sourceCreatedTimestamp" not in versioning(entity)
    assert versioning(entity)["version"] == {"versionTag": "1"}
    assert_accepted(entity)


# The version set


def test_a_version_is_in_the_version_set_of_its_model() -> None:
    entity = version(make_version(version="3", aliases=("champion", "eu")))
    assert versioning(entity) == {
        "versionSet": "urn:li:versionSet:(11536d9f02d893521099ef9b2ec71732,mlModel)",
        "version": {
            "versionTag": "3",
            "metadataAttribution": {"time": END, "actor": "urn:li:corpuser:datahub", "sourceDetail": {}},
        },
        "aliases": [{"versionTag": "champion"}, {"versionTag": "eu"}],
        "sortId": "0000000003",
        "versioningScheme": "LEXICOGRAPHIC_STRING",
        "sourceCreatedTimestamp": {"time": END, "actor": "urn:li:corpuser:unknown"},
    }


def test_versions_sort_by_number() -> None:
    sort_ids = [
        versioning(version(make_version(version=str(number))))["sortId"] for number in (1, 2, 9, 10, 100, 12345)
    ]
    assert sort_ids == ["0000000001", "0000000002", "0000000009", "0000000010", "0000000100", "0000012345"]
    assert sort_ids == sorted(sort_ids)


def test_aliases_are_in_the_order_of_the_record() -> None:
    """Readers sort them."""
    entity = version(make_version(aliases=("a", "b", "c")))
    assert [alias["versionTag"] for alias in versioning(entity)["aliases"]] == ["a", "b", "c"]
    assert versioning(version(make_version()))["aliases"] == []


def test_datahub_takes_the_versions_of_a_model_and_knows_the_latest() -> None:
    gms = GmsStandIn()
    for number in ("2", "10", "9"):
        assert_accepted(version(make_version(version=number)), gms=gms)
    found = gms.aspect("urn:li:versionSet:(11536d9f02d893521099ef9b2ec71732,mlModel)", "versionSetProperties")
    assert found
    assert found["latest"] == "urn:li:mlModel:(urn:li:dataPlatform:mlflow,churn-model_10,PROD)"


def test_datahub_takes_the_same_version_in_two_environments() -> None:
    """One version set for both would hold two versions with one sort id, which the server refuses."""
    gms = GmsStandIn()
    for rules in (RULES, Rules(naming=Naming(env="DEV")), EU):
        assert_accepted(version(make_version(), None, rules), gms=gms)


# Where it came from


def test_the_code_of_the_run_is_the_versions() -> None:
    tags = {
        "mlflow.source.git.repoURL": "https://ada:hunter2@github.com/acme/churn.git",
        "mlflow.source.git.commit": "4f1a6a2f0c5f4f0b9f7f3e0d5a1b2c3d4e5f6a7b",
    }
    entity = version(make_version(), make_run(tags=tags))
    assert aspect(entity, SourceCodeClass).to_obj() == {
        "sourceCode": [
            {
                "type": "TRAINING_PIPELINE_SOURCE_CODE",
                "sourceCodeUrl": "https://github.com/acme/churn/tree/4f1a6a2f0c5f4f0b9f7f3e0d5a1b2c3d4e5f6a7b",
            }
        ]
    }


@pytest.mark.parametrize("run", [None, make_run(), make_run(tags={"mlflow.source.name": "train.py"})])
def test_without_a_repository_there_is_no_code(run: Run | None) -> None:
    assert every(version(make_version(), run), SourceCodeClass) == []


def test_what_the_run_was_trained_on_is_the_versions_training_data() -> None:
    entity = version(
        make_version(),
        make_run(),
        RULES,
        make_dataset_input(tags={"mlflow.data.context": "training"}),
        make_dataset_input(name="no context"),
        make_dataset_input(name="measured against", tags={"mlflow.data.context": "eval"}),
        make_dataset_input(digest="other", tags={"mlflow.data.context": "test"}),
        make_dataset_input(digest="again", tags={"mlflow.data.context": "training"}),
    )
    assert aspect(entity, TrainingDataClass).to_obj() == {
        "trainingData": [
            {"dataset": "urn:li:dataset:(urn:li:dataPlatform:mlflow,no context-99bf2946,PROD)"},
            {"dataset": "urn:li:dataset:(urn:li:dataPlatform:mlflow,train-99bf2946,PROD)"},
        ]
    }
    assert aspect(entity, EvaluationDataClass).to_obj() == {
        "evaluationData": [
            {"dataset": "urn:li:dataset:(urn:li:dataPlatform:mlflow,measured against-99bf2946,PROD)"},
            {"dataset": "urn:li:dataset:(urn:li:dataPlatform:mlflow,train-99bf2946,PROD)"},
        ]
    }
    assert_accepted(entity)


@pytest.mark.parametrize("context", ["eval", "evaluation", "test", "validation"])
def test_a_version_that_was_only_evaluated_has_no_training_data(context: str) -> None:
    dataset = make_dataset_input(tags={"mlflow.data.context": context})
    entity = version(make_version(), make_run(), RULES, dataset)
    assert every(entity, TrainingDataClass) == []
    assert len(every(entity, EvaluationDataClass)) == 1


# Pills: what DataHub shows beside a version in the table of its group


def test_pills_are_what_a_person_can_read_there() -> None:
    tags = {
        "approved by": "grace",
        "empty": "",
        "exactly 60": "x" * 49,
        "sixty-one": "x" * 51,
        "lines": "a\nb",
        "place": "https://host/x",
        "json": '{"a": ' + "1" * 60 + "}",
        "mlflow.user": "ada",
    }
    found = properties(version(make_version(tags=tags)))
    assert found["tags"] == ["approved by:grace", "empty", "exactly 60:" + "x" * 49]
    assert len(found["tags"][-1]) == 60
    assert found["customProperties"].keys() >= tags.keys()


def test_a_credential_makes_no_pill() -> None:
    tags = {"AWS_SECRET_ACCESS_KEY": "made-up-1", "api_key": "made-up-2", "db_password": "made-up-3", "team": "risk"}
    found = properties(version(make_version(tags=tags)))
    assert found["tags"] == ["team:risk"]
    assert "made-up" not in str(found)


def test_there_are_twenty_pills_at_most() -> None:
    tags = {f"tag {number:02}": "" for number in range(21)}
    assert properties(version(make_version(tags=tags)))["tags"] == [f"tag {number:02}" for number in range(20)]


# Collisions, limits, credentials


def test_a_tag_that_looks_like_one_of_ours_is_set_apart() -> None:
    tags = {"signature.inputs": "theirs", "tag.signature.inputs": "too", "mlflow_source.run_id": "no id"}
    found = properties(version(make_version(tags=tags)))["customProperties"]
    assert found["tag.signature.inputs"] == "theirs"
    assert found["tag.tag.signature.inputs"] == "too"
    assert found["tag.mlflow_source.run_id"] == "no id"
    assert found["mlflow_source.run_id"] == RUN_ID
    assert "signature.inputs" not in found


def test_what_is_cut_of_a_version_is_noted() -> None:
    limits = Limits(max_params=1, max_metrics=1, max_tags=1, max_value_chars=70, max_description_chars=10)
    run = make_run(params={"a": "x" * 71, "b": ""}, metrics=(make_metric("m1"), make_metric("m2")))
    entity = version(make_version(description="y" * 11, tags={"a": "", "b": ""}), run, Rules(limits=limits))
    found = properties(entity)
    assert found["description"] == "yyyyyyyyy…"
    assert found["hyperParams"] == [{"name": "a", "value": "x" * 69 + "…"}]
    assert [metric["name"] for metric in found["trainingMetrics"]] == ["m1"]
    assert "b" not in found["customProperties"]
    assert entity.cut == [
        "params: 2, 1 sent",
        "a: 71 characters, 70 sent",
        "metrics: 2, 1 sent",
        "description: 11 characters, 10 sent",
        "tags: 2, 1 sent",
    ]


def test_credentials_in_a_version_never_come_out() -> None:
    secret = "https://ada:hunter2@host/x?token=hunter2"
    record = make_version(
        source=secret,
        run_link=secret,
        status_message=f"No way to {secret}",
        description=f"See {secret}",
        tags={"from": secret, "dsn": "Server=h;Password=hunter2", "mlflow.note.content": secret},
    )
    run = make_run(
        params={"data": secret}, tags={"mlflow.source.git.repoURL": "https://hunter2@github.com/acme/churn.git"}
    )
    entity = version(record, run, RULES, make_dataset_input(name=secret, source=f'{{"uri": "{secret}"}}'))
    assert "hunter2" not in text(entity)
    assert properties(entity)["tags"] == ["dsn:Server=h;Password=***"]


# Any input

ODD_NAMES = [
    *("fraud, v2 (EU)", "it's", "模型/卡", "a,b", "a%2Cb", "a␟b", "模" * 300, " leading", "trailing ", "urn:li:tag:x"),
    *('say "yes"', "100% sure", "a\tb", "😀" * 60, "/", "()"),
]


@pytest.mark.parametrize("rules", [RULES, EU], ids=["plain", "instance"])
def test_datahub_takes_models_of_any_name_beside_each_other(rules: Rules) -> None:
    gms = GmsStandIn()
    for name in ODD_NAMES:
        assert_accepted(group(make_model(name=name), rules, "1", RUN_ID), gms=gms)
        entity = version(make_version(name=name), make_run(), rules)
        assert_accepted(entity, gms=gms)
        assert properties(entity)["customProperties"]["mlflow_source.name"] == name
    assert len(gms.urns("mlModel")) == len(gms.urns("mlModelGroup")) == len(ODD_NAMES)


def test_any_text_makes_a_valid_version() -> None:
    odd = "a,b (c) %2C ␟ 模型 '\"\n\t😀 urn:li:mlModel:(x,y,PROD)"
    record = make_version(
        description=odd, user_id=odd, source=odd, status=odd, stage=odd, run_link=odd, tags={odd: odd}, aliases=(odd,)
    )
    run = make_run(params={odd: odd}, metrics=(make_metric(odd, math.nan),), tags={"mlflow.source.git.repoURL": odd})
    entity = version(record, run, WEB, make_dataset_input(name=odd, source_type=odd, source=odd))
    assert entity.cut == []
    assert_accepted(entity)


def test_mapping_twice_gives_the_same_and_changes_nothing() -> None:
    record, model, run = make_version(tags={"a": "1"}), make_model(aliases={"a": "1"}), make_run(params={"b": "2"})
    assert version(record, run, WEB, make_dataset_input()) == version(record, run, WEB, make_dataset_input())
    assert group(model, WEB, "1", RUN_ID) == group(model, WEB, "1", RUN_ID)
    assert record == make_version(tags={"a": "1"})
    assert model == make_model(aliases={"a": "1"})
    assert run == make_run(params={"b": "2"})
    assert (run.start_time, run.end_time) == (START, END)
