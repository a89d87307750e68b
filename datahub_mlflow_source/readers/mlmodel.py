"""The file `MLmodel` that MLflow writes into each model's folder, read as plain data: nothing in it is ever executed.

Whoever may write to the artifact store may write this file, so that all that unfolds, nests or goes on is bounded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

from datahub_mlflow_source.records import Flavor, ModelFile, Tags
from datahub_mlflow_source.text import json_list, sound

FILE = "MLmodel"
MOST_BYTES = 1_000_000  # a signature of ten thousand columns
_MOST_DEPTH = 30
_MOST_NODES = 20_000  # MLflow writes some fifty
_MOST_CHARACTERS = 5 * MOST_BYTES  # aliases unfolded
_MOST_KEY_CHARACTERS = 200  # a longer one is none of MLflow's, and is left out

# Numbers, dates and the like stay texts. Their rules have traps (a sum of sixties takes hours), and so do merge keys.
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_NULL = ("", "null", "~")
_CARD_PATH = re.compile(r"(?!/)[\w ./-]{1,300}")
# Written beside them; the version or its record says the same.
_KNOWN_ELSEWHERE = frozenset({"artifact_path", "flavors", "model_id", "run_id", "signature"})
_CARDS = frozenset({"readme.md", "model_card.md", "modelcard.md"})
_HISTORY = "mlflow.log-model.history"
_CARD_OF_TRANSFORMERS = "model_card.md"  # written by mlflow/transformers/__init__.py where the hub has one


class BadModelFileError(Exception):
    """The file is not one that MLflow writes. Says in words for the report what it is."""


def parse(content: bytes) -> ModelFile:
    """The model file. Raises BadModelFileError."""
    if len(content) > MOST_BYTES:
        raise BadModelFileError(f"it is larger than {MOST_BYTES // 1000} KB")
    if re.search(rb"(?m)^%", content):  # directives, of which libyaml compares each with all
        raise BadModelFileError("it is no YAML that MLflow writes")
    try:
        _check_shape(content)
        loaded = yaml.load(content, Loader=_LOADER)  # noqa: S506 - gives texts, lists and dicts only
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise BadModelFileError("it is no YAML that can be read") from error
    plain = _Unfolding().plain(loaded, 0)
    if not isinstance(plain, dict):
        raise BadModelFileError("it is YAML, but no mapping")
    return model_file(plain)


def model_file(said: Mapping[str, Any]) -> ModelFile:
    """The same from the mapping, which releases before 2.16 also keep in a run's tag. Raises BadModelFileError."""
    flavors = said.get("flavors")
    if not isinstance(flavors, dict):
        raise BadModelFileError("it names no flavors")
    signature = said.get("signature")
    parts: Mapping[str, Any] = signature if isinstance(signature, dict) else {}
    return ModelFile(
        flavors=tuple(
            Flavor(name, _texts(attributes))
            for name, attributes in sorted(flavors.items())
            if len(name) <= _MOST_KEY_CHARACTERS
        ),
        inputs=_schema(parts.get("inputs")),
        outputs=_schema(parts.get("outputs")),
        params=_schema(parts.get("params")),
        others=_texts({key: value for key, value in said.items() if key not in _KNOWN_ELSEWHERE}),
        card=_card(flavors),
    )


def kept_by_run(tags: Tags, path: str) -> ModelFile | None:
    """What a run kept among its tags of the model at this path of its artifacts.

    Releases before 2.16 kept all of the file; later ones kept part of it, and 3.0 nothing: None.
    """
    history = next((value for key, value in tags if key == _HISTORY), "")
    of_path = [
        entry for entry in json_list(history) if path and isinstance(entry, dict) and entry.get("artifact_path") == path
    ]
    if not of_path or "mlflow_version" not in of_path[-1]:
        return None
    try:
        return model_file(_Unfolding().plain(of_path[-1], 0))
    except BadModelFileError:
        return None


def _check_shape(content: bytes) -> None:
    """Before it is built: libyaml crashes on a million brackets.

    Raises:
        ValueError: too deep, or too much of it.
    """
    depth = 0
    for number, event in enumerate(yaml.parse(content, Loader=_LOADER)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_DEPTH or number > _MOST_NODES:
            raise ValueError("no model file")


class _Unfolding:
    """Copies what was loaded, aliases unfolded, until there is too much of it."""

    def __init__(self) -> None:
        self._nodes = self._characters = 0

    def plain(self, value: Any, depth: int) -> Any:
        """Texts, lists and dicts; None where YAML says null. Raises BadModelFileError."""
        self._nodes += 1
        if value is None or isinstance(value, bool):
            return None if value is None else str(value).lower()
        if self._nodes > _MOST_NODES or depth > _MOST_DEPTH:
            raise BadModelFileError("its aliases unfold to more than a model file can hold")
        if isinstance(value, dict):
            return {self._text(str(key)): self.plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.plain(item, depth + 1) for item in value]
        text = self._text(str(value))
        return None if text in _NULL else text

    def _text(self, text: str) -> str:
        text = sound(text)
        self._characters += len(text)
        if self._characters > _MOST_CHARACTERS:
            raise BadModelFileError("its aliases unfold to more than a model file can hold")
        return text


def _texts(attributes: Any) -> Tags:
    """What is said, sorted by key; what nests as JSON, and nothing where there is nothing."""
    if not isinstance(attributes, dict):
        return ()
    said = ((str(key), _as_text(value)) for key, value in attributes.items())
    return tuple(sorted((key, text) for key, text in said if text and len(key) <= _MOST_KEY_CHARACTERS))


def _as_text(value: Any) -> str:
    if value is None or value == {} or value == []:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _schema(part: Any) -> str:
    """A part of the signature, which is JSON in a text (`ModelSignature.to_dict`), made JSON that any reader takes.

    "" for what is none: a model with half a signature is still a model.
    """
    try:
        schema = json.loads(part, parse_constant=str, parse_float=_number) if isinstance(part, str) else part
        if not isinstance(schema, (list, dict)) or not schema or not _is_shallow(schema):
            return ""
        return sound(json.dumps(schema, ensure_ascii=False, allow_nan=False))
    except (ValueError, RecursionError):
        return ""


def _number(text: str) -> float | str:
    """As text, where it is beyond all numbers: JSON has no word for that."""
    return number if math.isfinite(number := float(text)) else text


def _is_shallow(value: Any) -> bool:
    """Whether nothing nests deeper than a signature can."""
    level = [value]
    for _ in range(_MOST_DEPTH):
        inner = [item for item in level if isinstance(item, (list, dict))]
        if not inner:
            return True
        level = [item for each in inner for item in (each.values() if isinstance(each, dict) else each)]
    return False


def _card(flavors: Mapping[str, Any]) -> str:
    """A file that one of the flavors names, and that is called as model cards are."""
    named = sorted(path for attributes in flavors.values() for path in _files(attributes))
    found = next((path for path in named if PurePosixPath(path).name.lower() in _CARDS), "")
    return found or (_CARD_OF_TRANSFORMERS if "transformers" in flavors else "")


def _files(attributes: Any) -> Iterator[str]:
    """Paths within the model's folder: `artifacts` of a pyfunc model, `extra_files` of others."""
    if not isinstance(attributes, dict):
        return
    artifacts, extra = attributes.get("artifacts"), attributes.get("extra_files")
    entries = [
        *(artifacts.values() if isinstance(artifacts, dict) else ()),
        *(extra if isinstance(extra, list) else ()),
    ]
    for entry in entries:
        path = entry.get("path") if isinstance(entry, dict) else None
        if isinstance(path, str) and _CARD_PATH.fullmatch(path) and ".." not in path.split("/"):
            yield path
