"""The file `MLmodel`: what MLflow writes comes out whole, and whatever else stands there does no harm."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from datahub_mlflow_source.readers.mlmodel import MOST_BYTES, BadModelFileError, kept_by_run, parse
from datahub_mlflow_source.records import Flavor

COLUMNS = '[{"type": "double", "name": "a", "required": true}, {"type": "long", "name": "b", "required": true}]'
TENSOR = '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]'
PARAMS = '[{"name": "t", "default": 0.5, "shape": null, "type": "double"}]'

# As MLflow 3.17 wrote it, and 2.10 with a few lines fewer.
SKLEARN = {
    "artifact_path": "mlflow-artifacts:/1/models/m-3d29d649b7fe4387b638f5df83d138b9/artifacts",
    "flavors": {
        "python_function": {
            "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
            "loader_module": "mlflow.sklearn",
            "model_path": "model.skops",
            "python_version": "3.11.7",
        },
        "sklearn": {"code": None, "serialization_format": "skops", "sklearn_version": "1.9.1"},
    },
    "is_signature_from_type_hint": False,
    "metadata": {"n": 3, "team": "x"},
    "mlflow_version": "3.17.2",
    "model_id": "m-3d29d649b7fe4387b638f5df83d138b9",
    "model_size_bytes": 1410,
    "model_uuid": "m-3d29d649b7fe4387b638f5df83d138b9",
    "prompts": None,
    "run_id": "db74f8f8489445c8862f2f4933cf4fcb",
    "saved_input_example_info": {"artifact_path": "input_example.json", "type": "dataframe"},
    "signature": {"inputs": COLUMNS, "outputs": TENSOR, "params": PARAMS},
    "utc_time_created": "2026-11-26 05:21:38.747973",
}


def written(said: Any) -> bytes:
    return yaml.safe_dump(said, sort_keys=False).encode()


def test_all_that_mlflow_writes_comes_out() -> None:
    file = parse(written(SKLEARN))
    assert [flavor.name for flavor in file.flavors] == ["python_function", "sklearn"]
    assert file.flavors[1] == Flavor("sklearn", (("serialization_format", "skops"), ("sklearn_version", "1.9.1")))
    assert dict(file.flavors[0].attributes)["env"] == '{"conda": "conda.yaml", "virtualenv": "python_env.yaml"}'
    assert json.loads(file.inputs) == json.loads(COLUMNS)
    assert json.loads(file.outputs) == json.loads(TENSOR)
    assert json.loads(file.params) == json.loads(PARAMS)
    assert dict(file.others) == {
        "is_signature_from_type_hint": "false",
        "metadata": '{"n": "3", "team": "x"}',
        "mlflow_version": "3.17.2",
        "model_size_bytes": "1410",
        "model_uuid": "m-3d29d649b7fe4387b638f5df83d138b9",
        "saved_input_example_info": '{"artifact_path": "input_example.json", "type": "dataframe"}',
        "utc_time_created": "2026-11-26 05:21:38.747973",
    }


def test_a_key_of_a_release_to_come_comes_out_too() -> None:
    assert dict(parse(written({**SKLEARN, "weather": {"today": "rain"}})).others)["weather"] == '{"today": "rain"}'


@pytest.mark.parametrize(
    "signature",
    [
        *(None, "", "text", [], {}, {"inputs": None}, {"inputs": "{not json"}, {"inputs": "[" * 100_000}),
        *({"inputs": "1"}, {"inputs": "[" * 900 + "]" * 900}, {"inputs": "[" + "9" * 5000 + "]"}),
    ],
)
def test_a_model_without_a_usable_signature_is_still_a_model(signature: Any) -> None:
    file = parse(written({**SKLEARN, "signature": signature}))
    assert (file.inputs, file.outputs, file.params) == ("", "", "")
    assert len(file.flavors) == 2


def test_what_json_does_not_know_is_made_text() -> None:
    signature = {"params": '[{"name": "t", "default": NaN, "type": "double"}]'}
    assert json.loads(parse(written({**SKLEARN, "signature": signature})).params)[0]["default"] == "NaN"


BAD = {
    "empty": b"",
    "text": b"hello",
    "a list": b"[1, 2]",
    "no flavors": b"run_id: abc\n",
    "flavors are a list": b"flavors: [a, b]\n",
    "bytes": bytes(range(256)) * 10,
    "not UTF-8": b"flavors: {a: {b: \xff\xfe}}",
    "two documents": b"flavors: {}\n---\nflavors: {}\n",
    "an object of Python": b"!!python/object/apply:os.system ['touch /tmp/owned']",
    "a key that is a list": b"flavors: {? [a, b] : c}",
    "unclosed": b"flavors: {",
    "deep, in flow": b"[" * 500_000,
    "deep, in blocks": b"- " * 400_000,
    "deep, of mappings": b"{a: " * 200_000,
    "wide": b"flavors: {a: [" + b"x," * 400_000 + b"]}",
    "a million documents": b"---\n" * 200_000,
    "directives": b"%TAG !a! a\n" * 60_000 + b"--- {flavors: {a: {}}}",
    "one byte too long": b"flavors: {a: {}}\n#".ljust(MOST_BYTES + 1, b"x"),
    "aliases": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(ord("b"), ord("k")))
    + b"flavors: {z: *j}\n",
    "aliases of a long text": b"a: &a " + b"x" * 500_000 + b"\nflavors: {z: [" + b"*a," * 5000 + b"]}\n",
    "an alias of itself": b"flavors: &a {z: *a}\n",
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_model_file_is_said_so_and_soon(case: str) -> None:
    began = time.process_time()
    with pytest.raises(BadModelFileError):
        parse(BAD[case])
    assert time.process_time() - began < 5  # a fifth of a second; without bounds, hours


def test_a_number_beyond_all_numbers_is_text() -> None:
    params = '[{"name": "t", "default": 1e999, "type": "double"}]'
    assert json.loads(parse(written({**SKLEARN, "signature": {"params": params}})).params)[0]["default"] == "1e999"


def test_half_a_character_is_none() -> None:
    half = '[{"name": "\\ud800", "type": "double"}]'
    file = parse(written({**SKLEARN, "signature": {"inputs": half}}))
    assert json.loads(file.inputs)[0]["name"].encode()
    kept = kept_by_run(
        (("mlflow.log-model.history", '[{"artifact_path": "m", "mlflow_version": "\\ud800", "flavors": {}}]'),), "m"
    )
    assert kept is not None
    assert dict(kept.others)["mlflow_version"].encode()


def test_a_key_that_is_longer_than_any_of_mlflows_is_left_out() -> None:
    long = "x" * 201
    file = parse(written({"flavors": {long: {}, "sklearn": {long: "a", "b": "c"}}, long: "d", "e": "f"}))
    assert file.flavors == (Flavor("sklearn", (("b", "c"),)),)
    assert file.others == (("e", "f"),)


def test_nothing_in_it_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (
        b"!!python/object/apply:os.system ['touch owned']\n",
        b"flavors: {a: !!python/object/apply:os.system ['touch owned']}\n",
        b"flavors: {a: {b: !!python/object/new:os.system ['touch owned']}}\n",
    ):
        with suppress(BadModelFileError):
            parse(content)
    assert list(tmp_path.iterdir()) == []


ODD = {
    "merge keys": b"a: &a {k: v}\nflavors: {x: {<<: [*a, *a], l: m}}\n",
    "sixties": b"flavors: {x: {n: " + b"59:" * 100_000 + b"59}}\n",
    "a long number": b"flavors: {x: {n: " + b"9" * 100_000 + b"}}\n",
    "a date": b"flavors: {x: {n: 2026-99-99}}\n",
    "tags": b"flavors: {x: {n: !!python/name:os.system ''}}\n",
    "a flavor without attributes": b"flavors: {x: null}\n",
    "an alias": b"e: &e {conda: c}\nflavors: {x: {env: *e}}\n",
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_stays_text(case: str) -> None:
    assert [flavor.name for flavor in parse(ODD[case]).flavors] == ["x"]


CARDS = [
    (
        {"python_function": {"artifacts": {"readme": {"path": "artifacts/README.md", "uri": "/x"}}}},
        "artifacts/README.md",
    ),
    ({"pytorch": {"extra_files": [{"path": "extra_files/model_card.md"}]}}, "extra_files/model_card.md"),
    ({"transformers": {"task": "text-classification"}}, "model_card.md"),
    ({"sklearn": {"sklearn_version": "1"}}, ""),
    ({"python_function": {"artifacts": {"r": {"path": "../../../README.md"}}}}, ""),
    ({"python_function": {"artifacts": {"r": {"path": "/etc/README.md"}}}}, ""),
    ({"python_function": {"artifacts": {"r": {"path": "%2e%2e/README.md"}}}}, ""),
    ({"python_function": {"artifacts": {"r": {"path": "x?/README.md"}}}}, ""),
    ({"python_function": {"artifacts": {"r": {"path": "x#/README.md"}}}}, ""),
    ({"python_function": {"artifacts": {"r": {"path": "..\\README.md"}}}}, ""),
    ({"python_function": {"artifacts": {"r": {"path": ["README.md"]}, "s": "README.md"}}}, ""),
]


@pytest.mark.parametrize(("flavors", "card"), CARDS)
def test_a_model_card_is_one_that_the_file_names(flavors: dict[str, Any], card: str) -> None:
    assert parse(written({"flavors": flavors})).card == card


class TestKeptByARun:
    WHOLE: ClassVar[dict[str, Any]] = {**SKLEARN, "artifact_path": "model"}

    def tags(self, *entries: Any) -> tuple[tuple[str, str], ...]:
        return (("a", "b"), ("mlflow.log-model.history", json.dumps(entries)))

    def test_what_mlflow_2_10_kept_is_the_same_as_the_file(self) -> None:
        assert kept_by_run(self.tags(self.WHOLE), "model") == parse(written(self.WHOLE))

    def test_the_last_of_several_counts(self) -> None:
        other = {**self.WHOLE, "mlflow_version": "2.11"}
        file = kept_by_run(self.tags(self.WHOLE, {**self.WHOLE, "artifact_path": "x"}, other), "model")
        assert file is not None
        assert dict(file.others)["mlflow_version"] == "2.11"

    def test_what_2_16_kept_is_not_enough(self) -> None:
        part = {key: SKLEARN[key] for key in ("run_id", "utc_time_created", "model_uuid", "flavors")}
        assert kept_by_run(self.tags({**part, "artifact_path": "model"}), "model") is None

    @pytest.mark.parametrize("history", ["", "[", "{}", "1", "null", '["model"]', "[" * 100_000, '[{"flavors": 1}]'])
    def test_whatever_else_stands_there_is_nothing(self, history: str) -> None:
        assert kept_by_run((("mlflow.log-model.history", history),), "model") is None

    def test_nor_is_that_of_another_model(self) -> None:
        assert kept_by_run(self.tags(self.WHOLE), "") is None
        assert kept_by_run(self.tags(self.WHOLE), "other") is None
        assert kept_by_run((), "model") is None
