"""Runs become process instances, with what they read and what they made."""

from __future__ import annotations

import math
from typing import Any

import pytest
from datahub.ingestion.source.common.subtypes import MLAssetSubTypes
from datahub.metadata.schema_classes import (
    ContainerClass,
    DataPlatformInstanceClass,
    DataProcessInstanceOutputClass,
    DataProcessInstancePropertiesClass,
    DataProcessInstanceRelationshipsClass,
    DataProcessInstanceRunEventClass,
    MLTrainingRunPropertiesClass,
    SubTypesClass,
)

from datahub_mlflow_source.mapping.datasets import input_dataset
from datahub_mlflow_source.mapping.rules import Entity, Limits, Rules, Web
from datahub_mlflow_source.mapping.runs import map_run
from datahub_mlflow_source.mapping.urns import Naming, experiment_urn
from datahub_mlflow_source.records import ModelVersion, Run
from tests.support.gms import GmsStandIn
from tests.unit.entities import aspect, assert_accepted, every, names, text
from tests.unit.records import (
    END,
    RUN_ID,
    START,
    make_dataset_input,
    make_experiment,
    make_metric,
    make_run,
    make_version,
)

RULES = Rules()
WEB = Rules(web=Web("https://mlflow.example.com"))
EU = Rules(naming=Naming(env="DEV", platform_instance="eu"))
ALWAYS = [
    "dataProcessInstanceProperties",
    "mlTrainingRunProperties",
    "container",
    "subTypes",
    "dataPlatformInstance",
]
EVENT = "dataProcessInstanceRunEvent"
WHOLE = {"type": "FULL_TABLE", "partition": "FULL_TABLE_SNAPSHOT"}  # the default of every event


def mapped(
    run: Run,
    rules: Rules = RULES,
    versions: list[ModelVersion] | None = None,
    experiment: str = "churn",
    workspace: str = "",
) -> Entity:
    in_it = make_experiment(name=experiment, workspace=workspace)
    inputs = [input_dataset(dataset, in_it, rules) for dataset in run.datasets]
    return map_run(run, in_it, versions or [], [], inputs, [], rules)


def properties(entity: Entity) -> dict[str, Any]:
    found: dict[str, Any] = aspect(entity, DataProcessInstancePropertiesClass).to_obj()
    return found


def training(entity: Entity) -> dict[str, Any]:
    found: dict[str, Any] = aspect(entity, MLTrainingRunPropertiesClass).to_obj()
    return found


def events(entity: Entity) -> list[dict[str, Any]]:
    return [event.to_obj() for event in every(entity, DataProcessInstanceRunEventClass)]


# What is said of every run


def test_a_run_has_these_aspects() -> None:
    entity = mapped(make_run())
    assert names(entity) == [*ALWAYS, EVENT, EVENT]
    assert entity.cut == []
    assert_accepted(entity)


def test_a_run_that_did_everything_has_these_aspects() -> None:
    run = make_run(tags={"mlflow.parentRunId": "p"}, datasets=(make_dataset_input(),))
    entity = mapped(run, versions=[make_version()])
    linked = ["dataProcessInstanceRelationships", "dataProcessInstanceInput", "dataProcessInstanceOutput"]
    assert names(entity) == [*ALWAYS, EVENT, EVENT, *linked]
    assert_accepted(entity)


def test_all_that_mlflow_says_of_a_run_is_there() -> None:
    tags = {
        "mlflow.user": "ada",
        "mlflow.note.content": "The *first* good one.",
        "mlflow.source.name": "train.py",
        "mlflow.source.git.commit": "4f1a6a2",
        "mlflow.source.git.diff": "diff --git",
        "mlflow.log-model.history": "[]",
        "评语": "不错",
        "no value": "",
    }
    entity = mapped(make_run(tags=tags), WEB)
    assert str(entity.urn) == "urn:li:dataProcessInstance:f8a6b454e5bb207ff91bea45ae1c96f2"
    assert properties(entity) == {
        "name": "bold-owl-7",
        "externalUrl": f"https://mlflow.example.com/#/experiments/1/runs/{RUN_ID}",
        "created": {"time": START, "actor": "urn:li:corpuser:ada"},
        "customProperties": {
            "mlflow.user": "ada",
            "mlflow.note.content": "The *first* good one.",
            "mlflow.source.name": "train.py",
            "mlflow.source.git.commit": "4f1a6a2",
            "评语": "不错",
            "no value": "",
            "mlflow_source.run_id": RUN_ID,
            "mlflow_source.experiment_id": "1",
            "mlflow_source.status": "FINISHED",
            "mlflow_source.user_id": "ada",
            "mlflow_source.artifact_uri": f"mlflow-artifacts:/1/{RUN_ID}/artifacts",
            "mlflow_source.lifecycle_stage": "active",
        },
    }


def test_params_and_metrics_are_there_as_logged() -> None:
    run = make_run(
        params={"depth": "7", "learning rate": "0.1", "空": ""},
        metrics=(make_metric("auc", 0.9, step=3, timestamp=END), make_metric("loss/val", -2.0, timestamp=0)),
    )
    assert training(mapped(run)) == {
        "customProperties": {},
        "id": RUN_ID,
        "outputUrls": [f"mlflow-artifacts:/1/{RUN_ID}/artifacts"],
        "hyperParams": [
            {"name": "depth", "value": "7"},
            {"name": "learning rate", "value": "0.1"},
            {"name": "空", "value": ""},
        ],
        "trainingMetrics": [
            {"name": "auc", "value": "0.9", "description": "step 3", "createdAt": END},
            {"name": "loss/val", "value": "-2.0", "description": "step 0"},
        ],
    }


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e-12, "1e-12"),
        (5, "5"),
    ],
)
def test_any_number_is_a_metric(value: float, sent: str) -> None:
    entity = mapped(make_run(metrics=(make_metric("m", value),)))
    assert [metric["value"] for metric in training(entity)["trainingMetrics"]] == [sent]
    assert_accepted(entity)


def test_a_run_is_in_its_experiment() -> None:
    """By the URN that the built-in gives the experiment."""
    container = aspect(mapped(make_run()), ContainerClass)
    assert container.container == "urn:li:container:2c70d8cfd3efcf2280436e1170397400"


def test_a_run_of_a_workspace_is_in_its_experiment_there() -> None:
    entity = mapped(make_run(), WEB, experiment="churn", workspace="team-a")
    assert_accepted(entity)
    assert aspect(entity, ContainerClass).container == str(experiment_urn("churn", Naming(), "team-a"))
    assert (
        properties(entity)["externalUrl"]
        == f"https://mlflow.example.com/#/experiments/1/runs/{RUN_ID}?workspace=team-a"
    )


def test_the_page_of_its_code_is_a_property() -> None:
    tags = {
        "mlflow.source.git.repoURL": "https://ada:hunter2@github.com/acme/churn.git",
        "mlflow.source.git.commit": "4f1a6a2",
        "mlflow.source.name": "train.py",
    }
    said = properties(mapped(make_run(tags=tags)))["customProperties"]
    assert said["mlflow_source.code"] == "https://github.com/acme/churn/blob/4f1a6a2/train.py"


def test_a_run_has_the_built_ins_subtype() -> None:
    expected = [str(MLAssetSubTypes.MLFLOW_TRAINING_RUN)]
    assert aspect(mapped(make_run()), SubTypesClass).typeNames == expected == ["ML Training Run"]


def test_a_run_of_an_instance_says_which() -> None:
    entity = mapped(make_run(), EU)
    assert str(entity.urn) == "urn:li:dataProcessInstance:c00c12ae5e922bca8aeb4f963eba265a"
    assert aspect(entity, ContainerClass).container == "urn:li:container:70d1d1a94ccd1c743b7a3e947c81218d"
    assert aspect(entity, DataPlatformInstanceClass).instance == (
        "urn:li:dataPlatformInstance:(urn:li:dataPlatform:mlflow,eu)"
    )
    assert_accepted(entity)


def test_a_run_of_nobody_is_created_by_the_unknown_user() -> None:
    entity = mapped(make_run(user_id=""))
    assert properties(entity)["created"] == {"time": START, "actor": "urn:li:corpuser:unknown"}
    assert "mlflow_source.user_id" not in properties(entity)["customProperties"]


def test_a_run_without_artifacts_names_no_place_for_them() -> None:
    entity = mapped(make_run(artifact_uri=""))
    assert "outputUrls" not in training(entity)
    assert "mlflow_source.artifact_uri" not in properties(entity)["customProperties"]


# When it started, and how it ended


def started(time: int) -> dict[str, Any]:
    return {"timestampMillis": time, "partitionSpec": WHOLE, "status": "STARTED"}


def ended(time: int, result: str, native: str, took: int | None = None) -> dict[str, Any]:
    event: dict[str, Any] = {
        "timestampMillis": time,
        "partitionSpec": WHOLE,
        "status": "COMPLETE",
        "result": {"type": result, "nativeResultType": native},
    }
    return event if took is None else {**event, "durationMillis": took}


@pytest.mark.parametrize(
    ("status", "result"), {"FINISHED": "SUCCESS", "FAILED": "FAILURE", "KILLED": "FAILURE"}.items()
)
def test_a_run_that_ended_has_two_events(status: str, result: str) -> None:
    entity = mapped(make_run(status=status))
    assert events(entity) == [started(START), ended(END, result, status, 60_000)]
    assert properties(entity)["customProperties"]["mlflow_source.status"] == status


@pytest.mark.parametrize("status", ["RUNNING", "SCHEDULED"])
@pytest.mark.parametrize("end_time", [None, END])
def test_a_run_that_goes_on_has_only_started(status: str, end_time: int | None) -> None:
    entity = mapped(make_run(status=status, end_time=end_time))
    assert events(entity) == [started(START)]
    assert properties(entity)["customProperties"]["mlflow_source.status"] == status
    assert_accepted(entity)


def test_a_status_of_a_future_mlflow_is_told_and_ends_nothing() -> None:
    entity = mapped(make_run(status="PAUSED"))
    assert events(entity) == [started(START)]
    assert properties(entity)["customProperties"]["mlflow_source.status"] == "PAUSED"


def test_a_run_that_ended_nobody_knows_when_has_ended() -> None:
    entity = mapped(make_run(end_time=None))
    assert events(entity) == [started(START), ended(START + 1, "SUCCESS", "FINISHED")]
    assert_both_events_are_kept(entity)


def test_a_run_that_ended_before_it_started_has_ended_in_nobody_knows_what_time() -> None:
    """Clocks of two machines differ."""
    entity = mapped(make_run(end_time=START - 1000))
    assert events(entity) == [started(START), ended(START + 1, "SUCCESS", "FINISHED")]
    assert_both_events_are_kept(entity)


def test_a_run_that_ended_at_once_took_no_time() -> None:
    entity = mapped(make_run(end_time=START))
    assert events(entity) == [started(START), ended(START + 1, "SUCCESS", "FINISHED", 0)]
    assert_both_events_are_kept(entity)


def test_a_run_without_start_time_is_still_mapped() -> None:
    """Only the database has such rows; the server can't serve them."""
    entity = mapped(make_run(start_time=None))
    assert properties(entity)["created"] == {"time": 0, "actor": "urn:li:corpuser:ada"}
    assert events(entity) == [ended(END, "SUCCESS", "FINISHED")]
    assert_accepted(entity)


def test_a_run_without_any_time_has_no_event() -> None:
    assert events(mapped(make_run(start_time=None, end_time=None))) == []


def assert_both_events_are_kept(entity: Entity) -> None:
    """DataHub keeps one event for each millisecond, and shows the latest as the state of the run."""
    gms = GmsStandIn()
    assert_accepted(entity, gms=gms)
    kept = [event["status"] for event in gms.timeseries(str(entity.urn), EVENT)]
    assert kept == ["STARTED", "COMPLETE"]


# Parents


def test_a_child_names_its_parent() -> None:
    parent = "0123456789abcdef0123456789abcdef"
    entity = mapped(make_run(tags={"mlflow.parentRunId": parent}))
    assert aspect(entity, DataProcessInstanceRelationshipsClass).to_obj() == {
        "parentInstance": str(mapped(make_run(run_id=parent)).urn),
        "upstreamInstances": [],
    }
    assert str(mapped(make_run(run_id=parent)).urn) != str(entity.urn)
    assert properties(entity)["customProperties"]["mlflow.parentRunId"] == parent


@pytest.mark.parametrize("tags", [{}, {"mlflow.parentRunId": ""}])
def test_a_run_without_parent_says_nothing_of_one(tags: dict[str, str]) -> None:
    assert every(mapped(make_run(tags=tags)), DataProcessInstanceRelationshipsClass) == []


# What it made


def test_every_version_that_came_from_a_run_is_its_output() -> None:
    versions = [make_version(version="1"), make_version(version="2"), make_version(name="a,b", version="1")]
    entity = mapped(make_run(), versions=versions)
    assert aspect(entity, DataProcessInstanceOutputClass).to_obj() == {
        "outputs": [],
        "outputEdges": [
            {"destinationUrn": "urn:li:mlModel:(urn:li:dataPlatform:mlflow,churn-model_1,PROD)"},
            {"destinationUrn": "urn:li:mlModel:(urn:li:dataPlatform:mlflow,churn-model_2,PROD)"},
            {"destinationUrn": "urn:li:mlModel:(urn:li:dataPlatform:mlflow,a%2Cb_1,PROD)"},
        ],
    }
    assert_accepted(entity)


# Limits and credentials


def test_what_is_cut_of_a_run_is_noted() -> None:
    rules = Rules(limits=Limits(max_params=1, max_metrics=2, max_tags=1, max_value_chars=50))
    run = make_run(
        params={"a": "x" * 51, "b": "2"},
        metrics=(make_metric("m1"), make_metric("m2"), make_metric("m3")),
        tags={"a": "1", "b": "2", "c": "3"},
    )
    entity = mapped(run, rules)
    assert training(entity)["hyperParams"] == [{"name": "a", "value": "x" * 49 + "…"}]
    assert [metric["name"] for metric in training(entity)["trainingMetrics"]] == ["m1", "m2"]
    assert [key for key in properties(entity)["customProperties"] if not key.startswith("mlflow_source.")] == ["a"]
    assert entity.cut == [
        "tags: 3, 1 sent",
        "artifact_uri: 62 characters, 50 sent",
        "artifact_uri: 62 characters, 50 sent",
        "params: 2, 1 sent",
        "a: 51 characters, 50 sent",
        "metrics: 3, 2 sent",
    ]


def test_a_long_run_name_is_cut() -> None:
    entity = mapped(make_run(name="x" * 10_001))
    assert properties(entity)["name"] == "x" * 9_999 + "…"
    assert entity.cut == ["name: 10001 characters, 10000 sent"]


def test_credentials_in_a_run_never_come_out() -> None:
    secret = "https://ada:hunter2@host/x?token=hunter2"
    run = make_run(
        name=secret,
        artifact_uri=secret,
        params={"data": secret, "dsn": "Server=h;Password=hunter2"},
        tags={
            "mlflow.source.git.repoURL": "https://ada:hunter2@github.com/acme/churn.git",
            "mlflow.note.content": f"See {secret}",
            "mlflow.source.name": f"train.py --data={secret}",
            "data": secret,
        },
        datasets=(
            make_dataset_input(name=secret, source=f'{{"uri": "{secret}"}}', tags={"from": secret}),
            make_dataset_input(source='{"uri": "ftp://ada:hunter2@host/k"}'),
            make_dataset_input(source_type="http", source='{"url": "https://host/b.csv?tok=hunter2"}'),
        ),
    )
    entity = mapped(run)
    assert "hunter2" not in text(entity)
    assert properties(entity)["customProperties"]["mlflow.source.git.repoURL"] == "https://github.com/acme/churn.git"


# Any input


def test_any_text_makes_a_valid_run() -> None:
    odd = "a,b (c) %2C ␟ 模型 '\"\n\t😀 urn:li:mlModel:(x,y,PROD)"
    run = make_run(
        name=odd,
        user_id=odd,
        params={odd: odd},
        metrics=(make_metric(odd, math.nan),),
        tags={odd: odd, "mlflow.parentRunId": odd},
        datasets=(make_dataset_input(name=odd, source_type=odd, source=odd, schema=odd, profile=odd, tags={odd: odd}),),
    )
    entity = mapped(run, versions=[make_version(name=odd)], experiment=odd)
    assert entity.cut == []
    assert_accepted(entity)


def test_mapping_twice_gives_the_same_and_changes_nothing() -> None:
    def run() -> Run:
        return make_run(tags={"a": "1"}, params={"b": "2"}, metrics=(make_metric(),), datasets=(make_dataset_input(),))

    once = run()
    assert mapped(once, versions=[make_version()]) == mapped(once, versions=[make_version()])
    assert once == run()
