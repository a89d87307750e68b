"""What a run read becomes edges to datasets, which say what is no identity."""

from __future__ import annotations

from typing import Any

from datahub.metadata.schema_classes import DataProcessInstanceInputClass

from datahub_mlflow_source.mapping.datasets import input_dataset
from datahub_mlflow_source.mapping.rules import Entity, Limits, Rules
from datahub_mlflow_source.mapping.runs import map_run
from datahub_mlflow_source.mapping.urns import Naming
from datahub_mlflow_source.records import DatasetInput, Run
from tests.unit.entities import aspect, assert_accepted
from tests.unit.records import make_dataset_input, make_experiment, make_run

RULES = Rules()
EU = Rules(naming=Naming(env="DEV", platform_instance="eu"))


def mapped(run: Run, rules: Rules = RULES) -> Entity:
    inputs = [input_dataset(dataset, make_experiment(), rules) for dataset in run.datasets]
    return map_run(run, make_experiment(), [], [], inputs, [], rules)


def inputs(*datasets: DatasetInput, rules: Rules = RULES) -> list[dict[str, Any]]:
    entity = mapped(make_run(datasets=datasets), rules)
    assert_accepted(entity)
    edges: list[dict[str, Any]] = aspect(entity, DataProcessInstanceInputClass).to_obj()["inputEdges"]
    return edges


def test_an_input_is_an_edge_that_says_what_is_not_identity() -> None:
    dataset = make_dataset_input(
        profile='{"num_rows": 1000, "num_elements": 5000}',
        tags={"mlflow.data.context": "training", "owner": "ada"},
    )
    assert inputs(dataset) == [
        {
            "destinationUrn": "urn:li:dataset:(urn:li:dataPlatform:mlflow,train-99bf2946,PROD)",
            "properties": {
                "name": "train",
                "digest": "0f1e2d3c",
                "context": "training",
                "source_type": "s3",
                "rows": "1000",
                "profile": '{"num_rows": 1000, "num_elements": 5000}',
                "tag.owner": "ada",
            },
        }
    ]


def test_what_an_input_does_not_say_is_no_property_of_its_edge() -> None:
    (edge,) = inputs(make_dataset_input(digest=""))
    assert edge["properties"] == {"name": "train", "source_type": "s3"}


def test_version_and_split_of_the_source_are_on_the_edge() -> None:
    table = make_dataset_input(
        source_type="delta_table", source='{"delta_table_name": "main.sales.orders", "delta_table_version": 3}'
    )
    (edge,) = inputs(table)
    assert edge["properties"] == {
        "name": "train",
        "digest": "0f1e2d3c",
        "source_type": "delta_table",
        "delta_table_version": "3",
    }


def test_the_same_dataset_in_two_contexts_is_one_edge_with_both_words() -> None:
    """DataHub keeps one edge for each dataset."""
    both = inputs(
        make_dataset_input(digest="aa", tags={"mlflow.data.context": "training"}, profile='{"num_rows": 80}'),
        make_dataset_input(digest="bb", tags={"mlflow.data.context": "validation"}),
    )
    assert both == [
        {
            "destinationUrn": "urn:li:dataset:(urn:li:dataPlatform:mlflow,train-99bf2946,PROD)",
            "properties": {
                "name": "train",
                "digest": "aa, bb",
                "context": "training, validation",
                "source_type": "s3",
                "rows": "80",
                "profile": '{"num_rows": 80}',
            },
        }
    ]


def test_edges_are_sorted_whatever_the_order_of_inputs() -> None:
    some = [make_dataset_input(name=name) for name in ("c", "a", "b")]
    assert inputs(*some) == inputs(*reversed(some))
    assert [edge["properties"]["name"] for edge in inputs(*some)] == ["a", "b", "c"]


def test_what_a_source_says_takes_no_place_of_what_mlflow_says() -> None:
    source = '{"uri": "s3://bucket/train.csv", "name": "theirs", "digest": "theirs", "context": "theirs", "rows": 1}'
    (edge,) = inputs(make_dataset_input(source=source, tags={"mlflow.data.context": "training"}))
    assert edge["properties"] == {
        "name": "train",
        "digest": "0f1e2d3c",
        "context": "training",
        "source_type": "s3",
        "rows": "1",
    }


def test_inputs_of_an_instance_are_the_instances() -> None:
    (edge,) = inputs(make_dataset_input(), rules=EU)
    assert edge["destinationUrn"] == "urn:li:dataset:(urn:li:dataPlatform:mlflow,eu.train-99bf2946,DEV)"


def test_what_many_inputs_say_together_is_bounded() -> None:
    many = tuple(make_dataset_input(digest=f"{number:08}") for number in range(5))
    entity = mapped(make_run(datasets=many, artifact_uri=""), Rules(limits=Limits(max_value_chars=40)))
    (edge,) = aspect(entity, DataProcessInstanceInputClass).to_obj()["inputEdges"]
    assert edge["properties"]["digest"] == "00000000, 00000001, 00000002, 00000003,…"
    assert entity.cut == ["digest: 48 characters, 40 sent"]
