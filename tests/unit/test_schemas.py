"""Every schema that MLflow writes becomes fields that DataHub takes; anything else becomes none."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from datahub.metadata.schema_classes import ArrayTypeClass, MapTypeClass, SchemaFieldClass
from mlflow.data.schema import TensorDatasetSchema
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Array, Map, Object, Property

from datahub_mlflow_source.mapping.schemas import row_count, schema_fields


def colspec(*columns: object) -> str:
    return json.dumps({"mlflow_colspec": columns})


def paths(schema: str) -> list[str]:
    return [field.fieldPath for field in schema_fields(schema)]


def shape(field: SchemaFieldClass) -> tuple[str, str, str, bool]:
    assert field.validate()
    return field.fieldPath, type(field.type.type).__name__, field.nativeDataType, field.nullable


def test_each_type_of_a_column_has_datahubs_type() -> None:
    schema = Schema([ColSpec(kind, kind.name) for kind in DataType])
    found = {f.fieldPath: type(f.type.type).__name__ for f in schema_fields(colspec(*schema.to_dict()))}
    assert found == {
        "boolean": "BooleanTypeClass",
        "integer": "NumberTypeClass",
        "long": "NumberTypeClass",
        "float": "NumberTypeClass",
        "double": "NumberTypeClass",
        "string": "StringTypeClass",
        "binary": "BytesTypeClass",
        "datetime": "TimeTypeClass",
    }


def test_nested_columns_are_listed_below_their_parent() -> None:
    schema = Schema(
        [
            ColSpec(DataType.long, "id"),
            ColSpec(Object([Property("street", DataType.string), Property("geo", Array(DataType.double))]), "address"),
            ColSpec(Array(Array(Object([Property("sku", DataType.string, required=False)]))), "items"),
            ColSpec(Map(Object([Property("n", DataType.long)])), "counts", required=False),
        ]
    )
    assert [shape(field) for field in schema_fields(colspec(*schema.to_dict()))] == [
        ("id", "NumberTypeClass", "long", False),
        ("address", "RecordTypeClass", "object", False),
        ("address.geo", "ArrayTypeClass", "array<double>", False),
        ("address.street", "StringTypeClass", "string", False),
        ("items", "ArrayTypeClass", "array<array<object>>", False),
        ("items.sku", "StringTypeClass", "string", True),
        ("counts", "MapTypeClass", "map<string, object>", True),
        ("counts.n", "NumberTypeClass", "long", False),
    ]


def test_lists_and_maps_say_what_they_hold() -> None:
    listed, mapped = schema_fields(
        colspec(
            {"name": "a", "type": "array", "items": {"type": "string"}},
            {"name": "m", "type": "map", "values": {"type": "array", "items": {"type": "long"}}},
        )
    )
    assert isinstance(listed.type.type, ArrayTypeClass)
    assert listed.type.type.nestedType == ["string"]
    assert isinstance(mapped.type.type, MapTypeClass)
    assert (mapped.type.type.keyType, mapped.type.type.valueType) == ("string", "array<long>")


def test_arrays_are_features_and_targets() -> None:
    schema = TensorDatasetSchema(
        Schema([TensorSpec(np.dtype("float64"), (-1, 28, 28))]), Schema([TensorSpec(np.dtype("int64"), (-1,))])
    )
    assert [shape(field) for field in schema_fields(json.dumps(schema.to_dict()))] == [
        ("features", "ArrayTypeClass", "tensor<float64>[-1, 28, 28]", False),
        ("targets", "ArrayTypeClass", "tensor<int64>[-1]", False),
    ]


def test_named_arrays_keep_their_names() -> None:
    named = Schema([TensorSpec(np.dtype("float64"), (-1,), name) for name in ("x", "y")])
    schema = TensorDatasetSchema(named)
    assert paths(json.dumps(schema.to_dict())) == ["features.x", "features.y"]


def test_sparks_own_schema_is_read() -> None:
    schema = {
        "type": "struct",
        "fields": [
            {"name": "id", "type": "long", "nullable": False, "metadata": {"comment": "the key"}},
            {"name": "price", "type": "decimal(10,2)", "nullable": True, "metadata": {}},
            {"name": "day", "type": "date", "nullable": True},
            {"name": "tags", "type": {"type": "array", "elementType": "string"}, "nullable": True},
            {
                "name": "who",
                "nullable": True,
                "type": {"type": "struct", "fields": [{"name": "n", "type": "string", "nullable": True}]},
            },
            {
                "name": "by_day",
                "nullable": True,
                "type": {
                    "type": "map",
                    "keyType": "date",
                    "valueType": {"type": "struct", "fields": [{"name": "v", "type": "double", "nullable": False}]},
                },
            },
        ],
    }
    fields = schema_fields(json.dumps(schema))
    assert [shape(field) for field in fields] == [
        ("id", "NumberTypeClass", "long", False),
        ("price", "NumberTypeClass", "decimal(10,2)", True),
        ("day", "DateTypeClass", "date", True),
        ("tags", "ArrayTypeClass", "array<string>", True),
        ("who", "RecordTypeClass", "struct", True),
        ("who.n", "StringTypeClass", "string", True),
        ("by_day", "MapTypeClass", "map<date, struct>", True),
        ("by_day.v", "NumberTypeClass", "double", False),
    ]
    assert fields[0].description == "the key"


def test_no_field_path_is_empty_or_stands_twice() -> None:
    schema = colspec(
        {"type": "long"},
        {"name": "", "type": "long"},
        {"name": " ", "type": "long"},
        {"name": "a.b", "type": "string"},
        {"name": "a", "type": "object", "properties": {"b": {"type": "long"}, "": {"type": "long"}}},
        {"name": "a", "type": "string"},
    )
    assert paths(schema) == ["column_0", "column_1", "column_2", "a.b", "a"]
    assert [field.nativeDataType for field in schema_fields(schema)][3:] == ["string", "object"]


def test_the_fields_of_an_object_are_sorted_for_it_has_no_order() -> None:
    properties = {"b": {"type": "long"}, "a": {"type": "long"}}
    assert paths(colspec({"name": "o", "type": "object", "properties": properties})) == ["o", "o.a", "o.b"]


def test_columns_of_old_versions_say_optional() -> None:
    fields = schema_fields(colspec({"name": "a", "type": "long", "optional": True}, {"name": "b", "type": "long"}))
    assert [field.nullable for field in fields] == [True, False]


def test_an_unknown_type_is_kept_in_words() -> None:
    fields = schema_fields(
        colspec(
            {"name": "a", "type": "geometry"},
            {"name": "b"},
            {"name": "c", "type": {"type": "array", "items": {"type": "long"}}},
            {"name": "d", "type": ["long", "null"]},
            {"name": "e", "type": "sparkml vector"},
        )
    )
    assert [shape(field)[1:3] for field in fields] == [
        ("NullTypeClass", "geometry"),
        ("NullTypeClass", "unknown"),
        ("ArrayTypeClass", "array<long>"),
        ("NullTypeClass", "unknown"),
        ("ArrayTypeClass", "sparkml vector"),
    ]


def test_nesting_without_end_is_cut() -> None:
    column: dict[str, object] = {"type": "long"}
    for _ in range(200):
        column = {"type": "object", "properties": {"p": column}}
    assert len(paths(colspec({"name": "a", **column}))) == 16
    items: dict[str, object] = {"type": "long"}
    for _ in range(200):
        items = {"type": "array", "items": items}
    (field,) = schema_fields(colspec({"name": "a", **items}))
    assert field.nativeDataType == "array<" * 16 + "array" + ">" * 16


def test_nesting_near_pythons_own_limit_does_not_make_it_raise() -> None:
    limit = sys.getrecursionlimit()
    for depth in range(limit - 250, limit):
        schema = '{"mlflow_colspec": [' + '{"type": "array", "items": ' * depth + "1" + "}" * depth + "]}"
        assert len(schema_fields(schema)) in (0, 1)


def test_half_characters_do_not_get_through() -> None:
    (field,) = schema_fields('{"mlflow_colspec": [{"name": "a\\ud800", "type": "x\\udfff"}]}')
    f"{field.fieldPath}{field.nativeDataType}".encode()


@pytest.mark.parametrize(
    "schema",
    [
        None,
        "",
        "null",
        "17",
        "[]",
        "[1]",
        "{}",
        "{",
        "[" * 100_000,
        '{"mlflow_colspec": null}',
        '{"mlflow_colspec": {"a": 1}}',
        '{"mlflow_colspec": [null, 1, "x", []]}',
        '{"mlflow_colspec": "not json"}',
        '{"mlflow_tensorspec": null}',
        '{"mlflow_tensorspec": "x"}',
        '{"mlflow_tensorspec": {"features": "x", "targets": 3}}',
        '{"mlflow_tensorspec": {"features": "[1]"}}',
        '{"fields": 7}',
    ],
)
def test_what_is_no_schema_has_no_fields(schema: str | None) -> None:
    assert schema_fields(schema) == ()


@pytest.mark.parametrize(
    "column",
    [
        {"properties": 7, "type": "object"},
        {"properties": {"p": 1}, "type": "object"},
        {"items": None, "type": "array"},
        {"items": [1], "type": "array"},
        {"values": 3, "type": "map", "keyType": {"a": 1}},
        {"tensor-spec": 1, "type": "tensor"},
        {"fields": [None], "type": "struct"},
        {"metadata": [1], "type": "long"},
        {"name": 5, "type": 5},
    ],
)
def test_a_column_that_is_half_broken_is_still_a_field(column: dict[str, object]) -> None:
    (field,) = schema_fields(colspec({"name": "a", **column}))
    assert field.validate()


@pytest.mark.parametrize(
    ("profile", "rows"),
    [
        ('{"num_rows": 150, "num_elements": 600}', 150),
        ('{"num_rows": 0}', 0),
        ('{"num_records": 7}', 7),
        ('{"features_shape": [150, 4], "features_size": 600, "targets_shape": [150]}', 150),
        ('{"features_shape": {"x": [150, 4], "y": [150, 2]}}', 150),
        ('{"features_shape": {"x": [150, 4], "y": [99, 2]}}', None),
        ('{"features_cardinality": 12, "targets_cardinality": 12}', 12),
        ('{"features_cardinality": -2}', None),
        ('{"approx_count": 10}', None),
        ('{"num_rows": true}', None),
        ('{"num_rows": "150"}', None),
        ('{"num_rows": 1.5}', None),
        ('{"features_shape": []}', None),
        ("[150]", None),
        ("{", None),
        ("", None),
        (None, None),
    ],
)
def test_the_row_count_is_what_the_profile_says_for_sure(profile: str | None, rows: int | None) -> None:
    assert row_count(profile) == rows
