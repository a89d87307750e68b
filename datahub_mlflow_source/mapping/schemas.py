"""The columns and the row count that MLflow noted of a dataset.

Three forms of schema are read: `mlflow_colspec` (tables), `mlflow_tensorspec` (arrays; JSON in a JSON text in a
JSON text) and Spark's own (`{"type": "struct", "fields": […]}`). What can't be read is left out: nothing here raises.

Nested fields get DataHub's plain field path (v1): the parts joined by dots, `address.street`; the fields of a
list's elements or a map's values stand right below the list or map. Its v2 form says the same with types in between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datahub.metadata.schema_classes import (
    ArrayTypeClass,
    BooleanTypeClass,
    BytesTypeClass,
    DateTypeClass,
    MapTypeClass,
    NullTypeClass,
    NumberTypeClass,
    OtherSchemaClass,
    RecordTypeClass,
    SchemaFieldClass,
    SchemaFieldDataTypeClass,
    SchemaMetadataClass,
    StringTypeClass,
    TimeTypeClass,
)

from datahub_mlflow_source.mapping.rules import Trim
from datahub_mlflow_source.mapping.urns import PLATFORM_URN
from datahub_mlflow_source.text import sound

_MAX_DEPTH = 15  # of nesting; deeper than any real column
_MAX_NATIVE_CHARS = 200

_DataType = (
    ArrayTypeClass
    | BooleanTypeClass
    | BytesTypeClass
    | DateTypeClass
    | MapTypeClass
    | NullTypeClass
    | NumberTypeClass
    | RecordTypeClass
    | StringTypeClass
    | TimeTypeClass
)
_TYPES: Mapping[str, type[_DataType]] = {
    **dict.fromkeys(("boolean", "bool"), BooleanTypeClass),
    **dict.fromkeys(("byte", "short", "int", "integer", "long", "float", "double", "decimal"), NumberTypeClass),
    **dict.fromkeys(("string", "str", "varchar", "char"), StringTypeClass),
    **dict.fromkeys(("binary", "bytes"), BytesTypeClass),
    **dict.fromkeys(("datetime", "timestamp", "timestamp_ntz"), TimeTypeClass),
    "date": DateTypeClass,
    **dict.fromkeys(("array", "tensor", "sparkml vector"), ArrayTypeClass),
    **dict.fromkeys(("object", "struct"), RecordTypeClass),
    "map": MapTypeClass,
}
_BASE = re.compile(r"[a-z_ ]+")  # "decimal(10,2)" is a decimal


def schema_fields(schema_json: str | None) -> tuple[SchemaFieldClass, ...]:
    """The fields of a schema, in its order; empty where there is none or it can't be read.

    No field path is empty or stands twice (the first one counts): DataHub's server refuses such a schema.
    """
    schema = _loaded(schema_json)
    fields: dict[str, SchemaFieldClass] = {}
    for item in _columns(schema):
        fields.setdefault(item.fieldPath, item)
    return tuple(fields.values())


def schema_metadata(name: str, columns: Sequence[SchemaFieldClass], raw: str, trim: Trim) -> SchemaMetadataClass:
    """The aspect of a dataset of this name. `raw` is the schema as it was logged."""
    return SchemaMetadataClass(
        schemaName=name,
        platform=PLATFORM_URN,
        version=0,
        hash="",
        platformSchema=OtherSchemaClass(rawSchema=trim.value("schema", raw)),
        fields=list(columns),
    )


def row_count(profile_json: str | None) -> int | None:
    """How many rows the dataset had: `num_rows`, `num_records`, TensorFlow's cardinality, or an array's first axis.

    None where the profile doesn't say, or says unknown or infinite (negative, in TensorFlow's case). Spark's
    `approx_count` is not counted.
    """
    profile = _loaded(profile_json)
    if not isinstance(profile, dict):
        return None
    for key in ("num_rows", "num_records", "features_cardinality"):
        if _is_count(profile.get(key)):
            return int(profile[key])
    shape = profile.get("features_shape")
    shapes = list(shape.values()) if isinstance(shape, dict) else [shape]
    rows = {axes[0] for axes in shapes if isinstance(axes, list) and axes and _is_count(axes[0])}
    return rows.pop() if len(rows) == 1 else None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _loaded(text: object) -> Any:
    """The JSON value; a value that is no text as it is; None for what is not JSON."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _columns(schema: Any) -> Iterator[SchemaFieldClass]:
    if isinstance(schema, list):  # as in a model's signature: the columns without a name around them
        yield from _named(schema, "")
    if not isinstance(schema, dict):
        return
    if "mlflow_colspec" in schema:
        yield from _named(_loaded(schema["mlflow_colspec"]), "")
    elif "mlflow_tensorspec" in schema:
        tensors = _loaded(schema["mlflow_tensorspec"])
        for side in ("features", "targets"):
            yield from _tensors(tensors.get(side) if isinstance(tensors, dict) else None, side)
    elif isinstance(schema.get("fields"), list):
        yield from _named(schema["fields"], "")


def _tensors(schema: object, side: str) -> Iterator[SchemaFieldClass]:
    """One array without a name is `features`; several are `features.<name>`."""
    columns = _loaded(schema)
    if isinstance(columns, list) and len(columns) == 1 and isinstance(columns[0], dict) and not columns[0].get("name"):
        yield from _field(side, columns[0], 0)
    else:
        yield from _named(columns, f"{side}.")


def _named(columns: object, prefix: str, depth: int = 0) -> Iterator[SchemaFieldClass]:
    """The fields of a list of columns; one without a name is called by its place: `column_0`."""
    for position, column in enumerate(columns if isinstance(columns, list) else []):
        if isinstance(column, dict):
            name = column.get("name")
            label = name.strip() if isinstance(name, str) else ""
            yield from _field(f"{prefix}{label or f'column_{position}'}", column, depth)


def _field(path: str, column: Mapping[str, Any], depth: int) -> Iterator[SchemaFieldClass]:
    """A field, then those inside it."""
    yield SchemaFieldClass(
        fieldPath=sound(path),
        type=SchemaFieldDataTypeClass(_data_type(column)),
        nativeDataType=_cut(_native(column)) or "unknown",
        nullable=_is_nullable(column),
        description=_description(column),
    )
    if depth < _MAX_DEPTH:
        yield from _inside(path, column, depth + 1)


def _inside(path: str, column: Mapping[str, Any], depth: int) -> Iterator[SchemaFieldClass]:
    """The fields of an object, of a list's elements, or of a map's values."""
    body = _body(column)
    for _ in range(_MAX_DEPTH):  # array<array<object>>: down to the object
        if (element := _element(body)) is None:
            break
        body = element
    properties = body.get("properties")
    if isinstance(properties, dict):
        for name, value in sorted(properties.items()):
            if isinstance(value, dict) and name.strip():
                yield from _field(f"{path}.{name.strip()}", value, depth)
    elif isinstance(body.get("fields"), list):
        yield from _named(body["fields"], f"{path}.", depth)


def _body(column: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where the type is described: in Spark's form a nested one is an object under `type`."""
    nested = column.get("type")
    return nested if isinstance(nested, dict) else column


def _element(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a list or a map holds; None for other types."""
    for key in ("items", "values", "elementType", "valueType"):
        if key in body:
            element = body[key]
            return _body(element) if isinstance(element, dict) else {"type": element}
    return None


def _kind(body: Mapping[str, Any]) -> str:
    kind = body.get("type")
    return kind.strip().lower() if isinstance(kind, str) else ""


def _data_type(column: Mapping[str, Any]) -> _DataType:
    body = _body(column)
    base = _BASE.match(_kind(body))
    found = _TYPES.get(base[0].strip() if base else "", NullTypeClass)
    element = _element(body)
    if found is ArrayTypeClass and element is not None:
        return ArrayTypeClass(nestedType=[_cut(_native(element))])
    if found is MapTypeClass and element is not None:
        return MapTypeClass(keyType=_cut(str(body.get("keyType", "string"))), valueType=_cut(_native(element)))
    return found()


def _native(column: Mapping[str, Any], depth: int = 0) -> str:
    """The type in words: `double`, `array<string>`, `map<string, long>`, `tensor<float64>[-1, 28]`, `object`."""
    body = _body(column)
    kind = _kind(body)
    if kind == "tensor":
        spec = body.get("tensor-spec")
        spec = spec if isinstance(spec, dict) else {}
        return f"tensor<{spec.get('dtype', '?')}>{spec.get('shape', '')}"
    element = _element(body)
    if element is None or depth > _MAX_DEPTH:
        return kind
    inner = _native(element, depth + 1)
    return f"map<{body.get('keyType', 'string')}, {inner}>" if kind == "map" else f"{kind}<{inner}>"


def _is_nullable(column: Mapping[str, Any]) -> bool:
    """`required` is MLflow's word, `optional` that of its versions before 2.10, `nullable` Spark's."""
    if "required" in column:
        return column["required"] is False
    return column.get("optional") is True or column.get("nullable") is True


def _description(column: Mapping[str, Any]) -> str | None:
    """Spark keeps a column's comment in its metadata."""
    metadata = column.get("metadata")
    comment = metadata.get("comment") if isinstance(metadata, dict) else None
    return sound(comment) if isinstance(comment, str) and comment else None


def _cut(text: str) -> str:
    text = sound(text[:_MAX_NATIVE_CHARS])
    return text if len(text) < _MAX_NATIVE_CHARS else f"{text[: _MAX_NATIVE_CHARS - 1]}…"
