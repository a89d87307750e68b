"""What a model's own file says, among the custom properties of the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from datahub_mlflow_source.mapping.rules import Trim
from datahub_mlflow_source.records import Flavor, FoundFile, ModelFile
from datahub_mlflow_source.redaction import HIDDEN, is_secret_key, redact

_MOST_SIGNATURE_CHARS = (
    100_000  # of each part: some 1,500 columns. Whole columns are left out, or nobody could parse it.
)
_MOST_CHARS = 200_000  # of all else that the file says: at most 600 KB of the 16 MB that DataHub takes
_ANY_MODEL = "python_function"  # the flavor that nearly all models have


def file_properties(found: FoundFile | None, trim: Trim) -> Iterator[tuple[str, str]]:
    """Keys without our prefix, and values: what became of the file, and what it says but for the signature."""
    if found is None:
        return
    yield "model_file", found.state
    if found.file is None:
        return
    yield "flavors", ", ".join(_with_version(flavor) for flavor in found.file.flavors)
    said = [(f"mlmodel.{key}", key, value) for key, value in found.file.others]
    for flavor in found.file.flavors:
        said += [(f"mlmodel.{flavor.name}.{key}", key, value) for key, value in flavor.attributes]
    room = _MOST_CHARS
    for name, key, value in trim.first("attributes of the model file", said, trim.limits.max_tags):
        room -= len(name) + min(len(value), trim.limits.max_value_chars)
        if room < 0:
            trim.cut.append(f"attributes of the model file: {_MOST_CHARS} characters sent")
            return
        yield name, HIDDEN if is_secret_key(key) else value


def signature(found: FoundFile | None, trim: Trim) -> dict[str, str]:
    """In the form, and under the keys, from which DataHub's UI draws it (`mlModel/profile/MLModelSummary.tsx`)."""
    if found is None or found.file is None:
        return {}
    file = found.file
    parts = (("inputs", file.inputs), ("outputs", file.outputs), ("parameters", file.params))
    columns = {f"signature.{name}": _columns(name, part, trim) for name, part in parts if part}
    return {name: text for name, text in columns.items() if text}


def model_type(found: FoundFile | None) -> str | None:
    """The flavor that the model was made with; None where nobody knows."""
    if found is None or found.file is None or not found.file.flavors:
        return None
    names = [flavor.name for flavor in found.file.flavors]
    return _loaded_as(found.file, names) or next((name for name in names if name != _ANY_MODEL), _ANY_MODEL)


def library_version(found: FoundFile | None) -> str:
    """Of the library that the model was made with; "" where the file doesn't say."""
    name = model_type(found)
    flavors = found.file.flavors if found and found.file else ()
    return next((_version(flavor) for flavor in flavors if flavor.name == name), "")


def card_of(found: FoundFile | None) -> str:
    """The text of the model card; "" where there is none."""
    return found.card if found else ""


def _loaded_as(file: ModelFile, names: list[str]) -> str | None:
    """`mlflow.sklearn` is how python_function loads a model of flavor sklearn, among others that it may have."""
    for flavor in file.flavors:
        if flavor.name == _ANY_MODEL:
            loader = dict(flavor.attributes).get("loader_module", "")
            of_mlflow = loader.removeprefix("mlflow.").partition(".")[0] if loader.startswith("mlflow.") else ""
            return of_mlflow if of_mlflow in names else None
    return None


def _with_version(flavor: Flavor) -> str:
    """`sklearn 1.9.1`, where it says so."""
    return f"{flavor.name} {_version(flavor)}".rstrip()


def _version(flavor: Flavor) -> str:
    attributes = dict(flavor.attributes)
    version = attributes.get(f"{flavor.name}_version") or next(
        (attributes[key] for key in _VERSIONS.get(flavor.name, ()) if key in attributes), ""
    )
    return redact(version)


# Of flavors that call it otherwise (mlflow 3.17, `FLAVOR_NAME` and `add_flavor` of each module).
_VERSIONS = {
    "xgboost": ("xgb_version",),
    "lightgbm": ("lgb_version",),
    "spark": ("pyspark_version",),
    "tensorflow": ("tf_version", "tensorflow_version"),
}


def _columns(part: str, text: str, trim: Trim) -> str:
    """JSON without credentials, and of so many columns as there is room for."""
    schema = _clean(json.loads(text))
    if isinstance(schema, list):
        sizes = [len(json.dumps(column, ensure_ascii=False)) + 2 for column in schema]
        room, count = _MOST_SIGNATURE_CHARS, 0
        while count < len(sizes) and sizes[count] <= room:
            room -= sizes[count]
            count += 1
        schema = trim.first(f"columns of the signature's {part}", schema, count)
    cleaned = json.dumps(schema, ensure_ascii=False)
    if len(cleaned) <= _MOST_SIGNATURE_CHARS:
        return cleaned
    trim.cut.append(f"the signature's {part}: {len(cleaned)} characters, none sent")
    return ""


def _clean(value: Any) -> Any:
    """With default values of params that are credentials hidden."""
    if isinstance(value, dict):
        secret = is_secret_key(str(value.get("name", "")))
        return {key: HIDDEN if secret and key == "default" else _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return redact(value) if isinstance(value, str) else value
