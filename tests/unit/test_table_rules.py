"""Data that runs name by params and tags, in lakeFS, in Feast; and copies of models from elsewhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from datahub.emitter.mce_builder import make_dataset_urn, make_dataset_urn_with_platform_instance, make_ml_feature_urn
from datahub.metadata.schema_classes import (
    DataProcessInstanceInputClass,
    DataProcessInstancePropertiesClass,
    EvaluationDataClass,
    MLModelPropertiesClass,
    TrainingDataClass,
)
from datahub.metadata.urns import ContainerUrn

from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.mapping.datasets import input_dataset, upstreams_of
from datahub_mlflow_source.mapping.features import features_of, model_that_predicted
from datahub_mlflow_source.mapping.models import map_version
from datahub_mlflow_source.mapping.queries import read
from datahub_mlflow_source.mapping.rules import Entity, Rules
from datahub_mlflow_source.mapping.runs import map_run
from datahub_mlflow_source.mapping.table_rules import tables_of, unresolved
from datahub_mlflow_source.recipe import rules_of
from datahub_mlflow_source.records import ModelVersion, Run
from tests.unit.entities import aspect, assert_accepted, names
from tests.unit.records import make_dataset_input, make_experiment, make_run, make_version


def recipe(*dataset_rules: dict[str, Any], **others: Any) -> Rules:
    return rules_of(MlflowSourceConfig.model_validate({"dataset_rules": list(dataset_rules), **others}))


def urns(run: Run, rules: Rules) -> list[str]:
    return [str(table.urn) for table in tables_of(run, rules)]


def version_of(run: Run, rules: Rules, version: ModelVersion | None = None) -> Entity:
    registry = ContainerUrn("registry")
    return map_version(version or make_version(), run, True, None, None, tables_of(run, rules), [], registry, rules)


# Rules


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ({"param": "t", "platform": "iceberg"}, "sales.orders", ["iceberg", "sales.orders"]),
        ({"param": "t", "platform": "iceberg"}, "eu.sales.orders", ["iceberg", "eu.sales.orders"]),
        ({"param": "t", "platform": "snowflake"}, "SHOP.SALES.ORDERS", ["snowflake", "shop.sales.orders"]),
        (
            {"param": "t", "platform": "postgres", "prefix": "shop.public."},
            "orders",
            ["postgres", "shop.public.orders"],
        ),
        ({"param": "t", "platform": "s3", "prefix": "s3://lake/"}, "clicks/2026", ["s3", "lake/clicks/2026"]),
        ({"tag": "t", "platform": "hive"}, "sales.orders", ["hive", "sales.orders"]),
    ],
)
def test_a_param_or_tag_names_a_table(rule: dict[str, Any], value: str, expected: list[str]) -> None:
    of = "params" if "param" in rule else "tags"
    assert urns(make_run(**{of: {"t": value}}), recipe(rule)) == [make_dataset_urn(*expected)]


@pytest.mark.parametrize(
    ("value", "separator"), [("a.b, a.c", ","), ("a.b|a.c", "|"), ('["a.b", "a.c"]', ","), ("a.b\na.c", "\n")]
)
def test_several_at_once(value: str, separator: str) -> None:
    rules = recipe({"param": "t", "platform": "hive", "separator": separator})
    assert urns(make_run(params={"t": value}), rules) == [make_dataset_urn("hive", name) for name in ("a.b", "a.c")]


def test_as_the_platforms_connector_was_told_to_name_them() -> None:
    rules = recipe({"param": "t", "platform": "hive"}, dataset_platform_map={"hive": {"platform_instance": "eu"}})
    expected = make_dataset_urn_with_platform_instance("hive", "a.b", "eu")
    assert urns(make_run(params={"t": "a.b"}), rules) == [expected]


def test_they_are_inputs_of_the_run_and_data_of_the_model() -> None:
    rules = recipe({"param": "t", "platform": "hive"}, {"tag": "v", "platform": "hive", "context": "validation"})
    run = make_run(params={"t": "a.b"}, tags={"v": "a.v"})
    entity = map_run(run, make_experiment(), [], [], tables_of(run, rules), [], rules)
    edges = {
        edge.destinationUrn: edge.properties for edge in aspect(entity, DataProcessInstanceInputClass).inputEdges or []
    }
    assert edges[make_dataset_urn("hive", "a.b")] == {
        "name": "a.b",
        "context": "training",
        "source_type": "param",
        "param": "t",
    }
    version = version_of(run, rules)
    assert [d.dataset for d in aspect(version, TrainingDataClass).trainingData] == [make_dataset_urn("hive", "a.b")]
    assert [d.dataset for d in aspect(version, EvaluationDataClass).evaluationData] == [make_dataset_urn("hive", "a.v")]
    assert_accepted(entity)
    assert_accepted(version)


@pytest.mark.parametrize("value", ["orders", "x" * 1_000_000, "[1, 2]", "[", "a\x00.b", "password=s3cret.b", " , "])
def test_what_names_no_table_makes_none(value: str) -> None:
    run, rules = make_run(params={"t": value}), recipe({"param": "t", "platform": "hive"})
    assert urns(run, rules) == []
    assert all(len(line) < 600 and "s3cret" not in line for line in unresolved(run, rules))


def test_what_was_not_found_is_told() -> None:
    rules = recipe({"param": "t", "platform": "hive"})
    assert list(unresolved(make_run(params={"t": "orders,a.b"}), rules)) == ["param t: orders is no whole name on hive"]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"platform": "hive"}, "needs one of `param` and `tag`"),
        ({"platform": "hive", "param": "a", "tag": "b"}, "needs one of"),
        ({"platform": "postgresql", "param": "a"}, "is no platform"),
        ({"platfrom": "hive", "param": "a"}, "Did you mean `platform`?"),
        ({"platform": "hive", "param": "a", "context": "train"}, "context"),
    ],
)
def test_a_rule_that_could_find_nothing_is_refused(rule: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match="dataset_rules") as error:
        recipe(rule)
    assert says in str(error.value)


# lakeFS

LAKEFS = {"lakefs_repo": "lake", "lakefs_commit": "0a1b2c3d", "lakefs_branch": "main"}


def source_of(uri: str, tags: dict[str, str]) -> str | None:
    dataset = make_dataset_input(source=json.dumps({"uri": uri}))
    found = input_dataset(dataset, make_experiment(), Rules(), tuple(sorted(tags.items())))
    upstreams = upstreams_of(found, Rules(), read).datasets
    return str(upstreams[0]) if upstreams else None


def test_a_repository_of_lakefs_is_no_bucket() -> None:
    expected = make_dataset_urn("lakefs", "lake/clicks/a.parquet")
    assert source_of("s3://lake/0a1b2c3d/clicks/a.parquet", LAKEFS) == expected
    assert source_of("s3a://lake/main/clicks/a.parquet", LAKEFS) == expected
    assert source_of("lakefs://lake/main/clicks/a.parquet", {}) == expected


@pytest.mark.parametrize(
    ("uri", "tags"),
    [
        ("s3://lake/0a1b2c3d/clicks/a.parquet", {}),
        ("s3://other/0a1b2c3d/clicks/a.parquet", LAKEFS),
        ("s3://lake/0a1b2c3d", LAKEFS),
    ],
)
def test_a_bucket_stays_one(uri: str, tags: dict[str, str]) -> None:
    assert source_of(uri, tags) == make_dataset_urn("s3", uri.removeprefix("s3://"))


def test_it_is_the_same_data_at_each_commit() -> None:
    first, second = (
        input_dataset(
            make_dataset_input(source=json.dumps({"uri": f"s3://lake/{commit}/a"})),
            *(make_experiment(), Rules()),
            (("lakefs_commit", commit), ("lakefs_repo", "lake")),
        )
        for commit in ("0a1b2c3d", "ffff0000")
    )
    assert first.urn == second.urn
    assert first.source.details["revision"] == "0a1b2c3d"


# Feast


def test_features_as_datahubs_feast_source_has_them() -> None:
    tags = {"feast.project": "shop", "feast.feature_refs": "customers:age,orders:total"}
    expected = [make_ml_feature_urn("shop.customers", "age"), make_ml_feature_urn("shop.orders", "total")]
    run = make_run(tags=tags)
    assert [str(urn) for urn in features_of(run)] == expected
    version = version_of(run, Rules())
    assert aspect(version, MLModelPropertiesClass).mlFeatures == expected
    assert_accepted(version)


def test_a_feature_whose_name_feast_cut_off_is_left_out() -> None:
    tags = {"feast.project": "shop", "feast.feature_refs": "customers:age,orders:tot..."}
    assert [str(urn) for urn in features_of(make_run(tags=tags))] == [make_ml_feature_urn("shop.customers", "age")]


@pytest.mark.parametrize(
    "tags",
    [
        {"feast.feature_refs": "customers:age"},
        {"feast.project": "shop", "feast.feature_refs": "age,:b,c:,,"},
        {"feast.project": "sh,op", "feast.feature_refs": "a:b"},
        {"feast.project": "shop", "feast.feature_refs": "x" * 1_000_000},
        {"feast.project": "shop", "feast.feature_refs": "a:" + "x" * 1000},
    ],
)
def test_no_feature_where_the_tags_dont_tell(tags: dict[str, str]) -> None:
    assert features_of(make_run(tags=tags)) == []


def test_the_model_that_predicted() -> None:
    run = make_run(tags={"feast.model_name": "churn", "feast.model_version": "3"})
    assert model_that_predicted(run) == ("churn", "3")
    assert model_that_predicted(make_run()) is None


# Copies


def test_a_copied_version_knows_where_it_comes_from() -> None:
    version = make_version(
        tags={
            "mlflow_exim.src_version.name": "churn",
            "mlflow_exim.src_version.version": "7",
            "mlflow_exim.src_version.run_id": "c" * 32,
            "mlflow_exim.src_client.tracking_uri": "https://ada:pw@dev.example.com/mlflow/",
        }
    )
    said = aspect(version_of(make_run(), Rules(), version), MLModelPropertiesClass).customProperties or {}
    assert said["mlflow_source.copied_from"] == "models:/churn/7"
    assert said["mlflow_source.copied_from_run"] == "c" * 32
    assert said["mlflow_source.copied_from_url"] == "https://dev.example.com/mlflow/#/models/churn/versions/7"
    assert "pw" not in said["mlflow_source.copied_from_server"]


def test_mlflows_own_copies() -> None:
    version = make_version(source="models:/churn/7")
    said = aspect(version_of(make_run(), Rules(), version), MLModelPropertiesClass).customProperties or {}
    assert said["mlflow_source.copied_from"] == "models:/churn/7"
    plain = aspect(version_of(make_run(), Rules()), MLModelPropertiesClass).customProperties or {}
    assert not [key for key in plain if "copied" in key]


def test_an_imported_run() -> None:
    run = make_run(tags={"mlflow_exim.run_info.run_id": "d" * 32, "mlflow_exim.run_info.user_id": "eve"})
    entity = map_run(run, make_experiment(), [], [], [], [], Rules())
    said = aspect(entity, DataProcessInstancePropertiesClass).customProperties
    assert said["mlflow_source.copied_from_run"] == "d" * 32
    assert "dataProcessInstanceProperties" in names(entity)
