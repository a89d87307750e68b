"""What a run says it read becomes a dataset of MLflow's, linked to the real one."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
from datahub.emitter.mce_builder import (
    make_dataset_urn,
    make_dataset_urn_with_platform_instance,
    make_schema_field_urn,
)
from datahub.metadata.schema_classes import (
    DataPlatformInfoClass,
    DataPlatformInstanceClass,
    DatasetPropertiesClass,
    FineGrainedLineageClass,
    SchemaMetadataClass,
    UpstreamLineageClass,
)
from datahub.metadata.urns import DatasetUrn

from datahub_mlflow_source.mapping.datasets import (
    input_dataset,
    is_evaluation,
    map_dataset,
    platform_of,
    upstreams_of,
)
from datahub_mlflow_source.mapping.lineage import PlatformNaming
from datahub_mlflow_source.mapping.queries import read
from datahub_mlflow_source.mapping.rules import Entity, Limits, Rules
from datahub_mlflow_source.mapping.urns import Naming
from datahub_mlflow_source.records import DatasetInput
from tests.unit.entities import aspect, assert_accepted, every, names, text
from tests.unit.records import make_dataset_input, make_experiment

RULES = Rules()
EU = Rules(naming=Naming(env="DEV", platform_instance="eu"))
COLUMNS = (
    '{"mlflow_colspec": [{"name": "id", "type": "long", "required": true},'
    ' {"name": "tags", "type": "array", "items": {"type": "string"}, "required": false}]}'
)


def mapped(dataset: DatasetInput, rules: Rules = RULES, experiment: str = "churn") -> Entity:
    found = input_dataset(dataset, make_experiment(name=experiment), rules)
    return map_dataset(found, upstreams_of(found, rules, read), rules)


def urn(dataset: DatasetInput, experiment: str = "churn", workspace: str = "") -> str:
    return str(input_dataset(dataset, make_experiment(name=experiment, workspace=workspace), RULES).urn)


def properties(entity: Entity) -> dict[str, Any]:
    found: dict[str, Any] = aspect(entity, DatasetPropertiesClass).to_obj()
    return found


def upstreams(entity: Entity) -> list[str]:
    (lineage,) = every(entity, UpstreamLineageClass)
    assert_accepted(entity)
    return [upstream.dataset for upstream in lineage.upstreams]


# What is said of a dataset


def test_a_dataset_has_these_aspects() -> None:
    entity = mapped(make_dataset_input(schema=COLUMNS))
    assert names(entity) == ["datasetProperties", "dataPlatformInstance", "schemaMetadata", "upstreamLineage"]
    assert entity.cut == []
    assert_accepted(entity)


def test_a_dataset_shows_its_name_in_mlflow_and_its_source() -> None:
    entity = mapped(make_dataset_input())
    assert str(entity.urn) == "urn:li:dataset:(urn:li:dataPlatform:mlflow,train-99bf2946,PROD)"
    assert properties(entity) == {
        "name": "train",
        "customProperties": {
            "mlflow_source.source_type": "s3",
            "mlflow_source.source": "s3://bucket/train.csv",
        },
        "tags": [],
    }


def test_digest_context_and_profile_of_one_input_are_not_the_datasets() -> None:
    other = make_dataset_input(digest="ffff", profile='{"num_rows": 1}', tags={"mlflow.data.context": "test", "a": "b"})
    assert mapped(other) == mapped(make_dataset_input())


def test_columns_are_its_schema() -> None:
    schema = aspect(mapped(make_dataset_input(schema=COLUMNS)), SchemaMetadataClass)
    assert (schema.schemaName, schema.platform, schema.version) == ("train", "urn:li:dataPlatform:mlflow", 0)
    assert [(field.fieldPath, field.nativeDataType, field.nullable) for field in schema.fields] == [
        ("id", "long", False),
        ("tags", "array<string>", True),
    ]
    assert schema.platformSchema.to_obj() == {"rawSchema": COLUMNS}


@pytest.mark.parametrize("schema", [None, "", "{}", "not json", "[]", '{"mlflow_colspec": null}'])
def test_a_dataset_without_usable_schema_has_none(schema: str | None) -> None:
    entity = mapped(make_dataset_input(schema=schema))
    assert names(entity) == ["datasetProperties", "dataPlatformInstance", "upstreamLineage"]
    assert_accepted(entity)


def test_a_dataset_of_an_instance_says_which() -> None:
    entity = mapped(make_dataset_input(), EU)
    assert str(entity.urn) == "urn:li:dataset:(urn:li:dataPlatform:mlflow,eu.train-99bf2946,DEV)"
    assert aspect(entity, DataPlatformInstanceClass).to_obj() == {
        "platform": "urn:li:dataPlatform:mlflow",
        "instance": "urn:li:dataPlatformInstance:(urn:li:dataPlatform:mlflow,eu)",
    }
    assert_accepted(entity)


def test_what_is_cut_of_a_dataset_is_noted() -> None:
    entity = mapped(make_dataset_input(schema=COLUMNS), Rules(limits=Limits(max_value_chars=20)))
    schema = aspect(entity, SchemaMetadataClass)
    assert schema.platformSchema.to_obj() == {"rawSchema": '{"mlflow_colspec": …'}
    assert entity.cut == ["source: 21 characters, 20 sent", "schema: 153 characters, 20 sent"]


# Which dataset it is


def test_the_same_name_from_two_sources_is_two_datasets() -> None:
    ours = make_dataset_input(source='{"uri": "s3://bucket/churn/train.csv"}')
    theirs = make_dataset_input(source='{"uri": "s3://bucket/forecast/train.csv"}')
    assert urn(ours, "churn") != urn(theirs, "forecast")
    assert properties(mapped(ours))["name"] == properties(mapped(theirs))["name"] == "train"


def test_the_same_source_is_one_dataset_in_all_experiments() -> None:
    assert urn(make_dataset_input(), "churn") == urn(make_dataset_input(), "forecast")


@pytest.mark.parametrize(
    "source",
    [
        '{"uri": "s3a://bucket/train.csv"}',
        '{"uri": "s3://bucket/train.csv/"}',
        '{"uri": "s3://KEY:SECRET@bucket/train.csv"}',
        '{"uri": "s3://bucket/train.csv?versionId=2"}',
        '{"uri": "s3://bucket/train.csv", "version": 7, "user": "ada", "commit": "4f1a6a2"}',
    ],
)
def test_what_is_not_identity_makes_no_new_dataset(source: str) -> None:
    assert urn(make_dataset_input(source=source)) == urn(make_dataset_input())


def test_name_and_type_are_identity() -> None:
    some = [
        make_dataset_input(),
        make_dataset_input(name="Train"),
        make_dataset_input(source_type="local"),
        make_dataset_input(source='{"uri": "s3://bucket/Train.csv"}'),
    ]
    assert all(urn(a) != urn(b) for a, b in combinations(some, 2))


@pytest.mark.parametrize(
    ("source_type", "source"),
    [
        ("code", '{"tags": {"mlflow.user": "ada", "mlflow.source.name": "train.py"}}'),
        ("s3", "{}"),
        ("s3", ""),
        ("", ""),
    ],
)
def test_the_experiment_stands_for_a_source_that_says_nothing(source_type: str, source: str) -> None:
    """Identity `experiment|churn` and `experiment|forecast`."""
    dataset = make_dataset_input(source_type=source_type, source=source)
    assert urn(dataset, "churn") == "urn:li:dataset:(urn:li:dataPlatform:mlflow,train-f594f0aa,PROD)"
    assert urn(dataset, "forecast") == "urn:li:dataset:(urn:li:dataPlatform:mlflow,train-141b9876,PROD)"
    entity = mapped(dataset)
    assert properties(entity)["customProperties"]["mlflow_source.experiment"] == "churn"
    assert every(entity, UpstreamLineageClass) == []
    assert_accepted(entity)


def test_a_dataset_with_a_source_names_no_experiment() -> None:
    assert "mlflow_source.experiment" not in properties(mapped(make_dataset_input()))["customProperties"]


@pytest.mark.parametrize("name", ["a,b", "a%2Cb", "it's", "模型/卡", "模" * 300, "a (b)", "s3://bucket/key"])
def test_a_dataset_may_have_any_name(name: str) -> None:
    entity = mapped(make_dataset_input(name=name, schema=COLUMNS))
    assert properties(entity)["name"] == name
    assert_accepted(entity)


# The real dataset behind it


@pytest.mark.parametrize(
    ("source_type", "source", "expected"),
    [
        ("s3", '{"uri": "s3://bucket/train.csv"}', "s3,bucket/train.csv"),
        ("gs", '{"uri": "gs://bucket/x.npy"}', "gcs,bucket/x.npy"),
        ("delta_table", '{"delta_table_name": "main.sales.orders"}', "databricks,main.sales.orders"),
        ("spark", '{"table_name": "sales.returns"}', "hive,sales.returns"),
        ("hugging_face", '{"path": "acme/churn"}', "huggingface,acme/churn"),
    ],
)
def test_the_real_dataset_is_upstream_by_its_source_and_not_by_mlflows_name(
    source_type: str, source: str, expected: str
) -> None:
    entity = mapped(make_dataset_input(source_type=source_type, source=source))
    assert upstreams(entity) == [f"urn:li:dataset:(urn:li:dataPlatform:{expected},PROD)"]


def test_the_real_dataset_is_of_the_same_env_and_of_no_instance_of_ours() -> None:
    assert upstreams(mapped(make_dataset_input(), EU)) == [
        "urn:li:dataset:(urn:li:dataPlatform:s3,bucket/train.csv,DEV)"
    ]


def test_the_recipe_says_which_platform_a_source_type_means() -> None:
    rules = Rules(platform_of_type={"warehouse": "snowflake"})
    dataset = make_dataset_input(source_type="warehouse", source='{"table": "DB.PUBLIC.ORDERS"}')
    assert upstreams(mapped(dataset, rules)) == ["urn:li:dataset:(urn:li:dataPlatform:snowflake,db.public.orders,PROD)"]


def test_nothing_is_written_on_another_platform() -> None:
    assert mapped(make_dataset_input()).urn.urn().startswith("urn:li:dataset:(urn:li:dataPlatform:mlflow,")


def test_a_platform_that_datahub_does_not_know_is_described() -> None:
    entity = platform_of(DatasetUrn("lakefs", "repository/path", "PROD"))
    assert entity
    assert str(entity.urn) == "urn:li:dataPlatform:lakefs"
    info = aspect(entity, DataPlatformInfoClass)
    assert (info.name, info.displayName) == ("lakefs", "lakeFS")
    assert_accepted(entity)


@pytest.mark.parametrize("platform", ["s3", "snowflake", "hive"])
def test_a_platform_that_datahub_knows_is_left_alone(platform: str) -> None:
    assert platform_of(DatasetUrn(platform, "x", "PROD")) is None


# The tables that a query reads


QUERY = "SELECT o.id, c.Name AS customer -- who\nFROM sales.orders o JOIN main.crm.customers c ON o.customer = c.id"
ORDERS = make_dataset_urn("hive", "sales.orders")
CUSTOMERS = make_dataset_urn("databricks", "main.crm.customers")
QUERY_COLUMNS = '{"mlflow_colspec": [{"name": "ID", "type": "long"}, {"name": "customer", "type": "string"}]}'


def of_query(sql: str = QUERY, schema: str | None = QUERY_COLUMNS, rules: Rules = RULES, **fields: str) -> Entity:
    return mapped(
        make_dataset_input(source_type="spark", source=json.dumps({"sql": sql, **fields}), schema=schema), rules
    )


def columns(entity: Entity) -> dict[str, list[str]]:
    """The column lineage, by the field path of the dataset's own column."""
    (lineage,) = every(entity, UpstreamLineageClass)
    found = {}
    for column in lineage.fineGrainedLineages or []:
        assert (column.upstreamType, column.downstreamType) == ("FIELD_SET", "FIELD")
        (downstream,) = column.downstreams or []
        parent, path = downstream.removeprefix("urn:li:schemaField:(").removesuffix(")").rsplit(",", 1)
        assert parent == str(entity.urn)
        found[path] = column.upstreams or []
    return found


def test_a_query_leads_to_all_tables_that_it_reads() -> None:
    entity = of_query()
    assert upstreams(entity) == [CUSTOMERS, ORDERS]
    (lineage,) = every(entity, UpstreamLineageClass)
    assert {upstream.type for upstream in lineage.upstreams} == {"TRANSFORMED"}


def test_a_query_leads_to_the_columns_that_its_own_are_made_of() -> None:
    entity = of_query()
    assert columns(entity) == {
        "ID": [make_schema_field_urn(ORDERS, "id")],
        "customer": [make_schema_field_urn(CUSTOMERS, "Name")],
    }
    assert_accepted(entity)


def test_only_columns_of_its_own_schema_are_linked() -> None:
    entity = of_query(schema='{"mlflow_colspec": [{"name": "customer", "type": "string"}]}')
    assert list(columns(entity)) == ["customer"]
    none = of_query(schema='{"mlflow_colspec": [{"name": "name", "type": "string"}]}')
    assert upstreams(none) == [CUSTOMERS, ORDERS]
    assert columns(none) == {}
    assert every(none, UpstreamLineageClass)[0].fineGrainedLineages is None


def test_without_a_schema_of_its_own_the_query_says_its_columns() -> None:
    assert list(columns(of_query(schema=None))) == ["id", "customer"]


def test_two_columns_of_its_own_that_differ_by_case_are_not_linked() -> None:
    schema = '{"mlflow_colspec": [{"name": "ID", "type": "long"}, {"name": "id", "type": "long"}]}'
    assert columns(of_query(schema=schema)) == {}


def test_a_column_may_have_any_name() -> None:
    entity = of_query("SELECT o.`a,(b)` AS `c, d` FROM sales.orders o", schema=None)
    assert every(entity, UpstreamLineageClass)[0].fineGrainedLineages == [
        FineGrainedLineageClass(
            upstreamType="FIELD_SET",
            downstreamType="FIELD",
            upstreams=[make_schema_field_urn(ORDERS, "a,(b)")],
            downstreams=[make_schema_field_urn(str(entity.urn), "c, d")],
        )
    ]
    assert_accepted(entity)


def test_a_column_whose_urn_is_too_long_is_left_out() -> None:
    entity = of_query("SELECT o.id, o.long AS y FROM sales.orders o".replace("long", "x" * 500), schema=None)
    assert list(columns(entity)) == ["id"]
    assert_accepted(entity)


def test_the_recipe_says_how_the_tables_of_a_query_are_named() -> None:
    rules = Rules(naming=Naming(env="DEV"), naming_of_platform={"hive": PlatformNaming(platform_instance="eu")})
    orders = make_dataset_urn_with_platform_instance("hive", "sales.orders", "eu", "DEV")
    entity = of_query("SELECT o.id FROM sales.orders o", rules=rules)
    assert upstreams(entity) == [orders]
    assert columns(entity) == {"ID": [make_schema_field_urn(orders, "id")]}


def test_the_recipe_says_which_platform_a_query_is_for() -> None:
    dataset = make_dataset_input(source_type="warehouse", source='{"query": "SELECT ID FROM DB.PUBLIC.ORDERS"}')
    assert every(mapped(dataset), UpstreamLineageClass) == []
    entity = mapped(dataset, Rules(platform_of_type={"warehouse": "snowflake"}))
    assert upstreams(entity) == [make_dataset_urn("snowflake", "db.public.orders")]


def test_what_a_query_reads_besides_is_told() -> None:
    sql = "SELECT o.id FROM sales.orders o JOIN tmp ON tmp.id = o.id"
    dataset = make_dataset_input(source_type="spark", source=json.dumps({"sql": sql}))
    found = upstreams_of(input_dataset(dataset, make_experiment(), RULES), RULES, read)
    assert ([str(urn) for urn in found.datasets], found.unresolved) == ([ORDERS], ("tmp",))


def test_a_query_is_the_same_dataset_however_it_is_laid_out() -> None:
    one = make_dataset_input(source_type="spark", source=json.dumps({"sql": "SELECT id  FROM sales.orders"}))
    other = make_dataset_input(source_type="spark", source=json.dumps({"sql": "SELECT id \n FROM sales.orders"}))
    assert urn(one) == urn(other)


def test_credentials_in_a_query_never_come_out() -> None:
    entity = of_query("SELECT * FROM sales.orders a JOIN parquet.`s3://KEY:hunter2@b/x` WHERE 'password=hunter2' = a")
    assert len(upstreams(entity)) == 2
    assert "hunter2" not in text(entity)


# What it was read for


@pytest.mark.parametrize(
    ("context", "evaluation"),
    {
        "eval": True,
        "evaluation": True,
        "Evaluation": True,
        "test": True,
        "testing": True,
        "validation": True,
        "valid": True,
        "training": False,
        "train": False,
        "": False,
        "contest": False,
    }.items(),
)
def test_the_context_tells_evaluation_from_training(context: str, evaluation: bool) -> None:
    assert is_evaluation(make_dataset_input(tags={"mlflow.data.context": context})) is evaluation


def test_an_input_without_context_was_trained_on() -> None:
    assert not is_evaluation(make_dataset_input(tags={"context": "eval"}))


# Credentials


@pytest.mark.parametrize(
    ("source_type", "source"),
    [
        ("ftp", '{"uri": "ftp://ada:hunter2@files.example.com/drop.csv"}'),
        ("http", '{"url": "https://data.example.com/churn.csv?tok=hunter2"}'),
        ("http", '{"url": "https://b.s3.amazonaws.com/k?X-Amz-Signature=hunter2"}'),
        ("sql", '{"uri": "postgresql://ada:hunter2@db/sales", "table": "orders"}'),
        ("mine", '{"place": "x", "password": "hunter2"}'),
        ("mine", "https://ada:hunter2@host/x"),
    ],
)
def test_credentials_in_a_source_never_come_out(source_type: str, source: str) -> None:
    assert "hunter2" not in text(mapped(make_dataset_input(source_type=source_type, source=source)))


def test_credentials_in_a_name_never_come_out() -> None:
    entity = mapped(make_dataset_input(name="https://ada:hunter2@host/x.csv", schema=COLUMNS))
    assert properties(entity)["name"] == "https://host/x.csv"
    assert "hunter2" not in text(entity)


def test_credentials_are_no_part_of_identity() -> None:
    with_token = make_dataset_input(source_type="http", source='{"url": "https://host/b.csv?tok=hunter2"}')
    without = make_dataset_input(source_type="http", source='{"url": "https://host/b.csv"}')
    assert urn(with_token) == urn(without)


def test_mapping_twice_gives_the_same_and_changes_nothing() -> None:
    dataset = make_dataset_input(schema=COLUMNS, tags={"a": "1"})
    assert mapped(dataset) == mapped(dataset)
    assert dataset == make_dataset_input(schema=COLUMNS, tags={"a": "1"})


def test_what_was_made_up_in_two_workspaces_is_two_datasets() -> None:
    """Though the experiments have one name."""
    made_up = make_dataset_input(source_type="code", source="{}")
    assert urn(made_up, "churn") != urn(made_up, "churn", workspace="team-a")
    assert urn(make_dataset_input(), "churn") == urn(make_dataset_input(), "churn", workspace="team-a")
