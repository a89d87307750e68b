"""What a model file says, in the aspects of the model."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from datahub.metadata.schema_classes import MLModelPropertiesClass

from datahub_mlflow_source.mapping.logged_models import map_logged_model
from datahub_mlflow_source.mapping.models import map_version
from datahub_mlflow_source.mapping.rules import Limits, Rules
from datahub_mlflow_source.mapping.urns import registry_urn
from datahub_mlflow_source.records import Flavor, FoundFile, ModelFile
from tests.unit.entities import aspect, assert_accepted
from tests.unit.records import make_experiment, make_logged_model, make_version

RULES = Rules()
COLUMNS = '[{"type": "double", "name": "a", "required": true}]'
FILE = ModelFile(
    flavors=(
        Flavor("python_function", (("loader_module", "mlflow.sklearn"), ("python_version", "3.11.7"))),
        Flavor("sklearn", (("sklearn_version", "1.9.1"),)),
    ),
    inputs=COLUMNS,
    outputs="",
    params='[{"name": "t", "default": 0.5, "shape": null, "type": "double"}]',
    others=(("mlflow_version", "3.17.2"), ("model_size_bytes", "1410")),
    card="",
)
READ = FoundFile("read", FILE)


def properties(found: FoundFile | None, rules: Rules = RULES, **of_version: Any) -> dict[str, Any]:
    entity = map_version(
        make_version(**of_version), None, False, None, found, [], [], registry_urn(rules.naming), rules
    )
    assert_accepted(entity)
    said: dict[str, Any] = aspect(entity, MLModelPropertiesClass).to_obj()
    return said


def custom(found: FoundFile | None, rules: Rules = RULES) -> dict[str, str]:
    said: dict[str, str] = properties(found, rules)["customProperties"]
    return said


def test_what_the_file_says_is_in_the_custom_properties() -> None:
    said = custom(READ)
    ours = {key.removeprefix("mlflow_source."): value for key, value in said.items() if "mlmodel" in key}
    assert ours == {
        "mlmodel.mlflow_version": "3.17.2",
        "mlmodel.model_size_bytes": "1410",
        "mlmodel.python_function.loader_module": "mlflow.sklearn",
        "mlmodel.python_function.python_version": "3.11.7",
        "mlmodel.sklearn.sklearn_version": "1.9.1",
    }
    assert said["mlflow_source.flavors"] == "python_function, sklearn 1.9.1"
    assert said["mlflow_source.model_file"] == "read"


def test_the_signature_is_where_datahub_looks_for_it() -> None:
    said = custom(READ)
    assert said["signature.inputs"] == COLUMNS
    assert json.loads(said["signature.parameters"])[0]["default"] == 0.5
    assert "signature.outputs" not in said


@pytest.mark.parametrize("state", ["missing", "unreadable"])
def test_a_file_that_is_not_there_is_a_fact(state: Any) -> None:
    said = properties(FoundFile(state))
    assert said["customProperties"]["mlflow_source.model_file"] == state
    assert "type" not in said


def test_nothing_is_said_where_nobody_asked() -> None:
    assert "mlflow_source.model_file" not in custom(None)


TYPES = [
    ((("python_function", "mlflow.sklearn"), ("sklearn", "")), "sklearn"),
    ((("keras", ""), ("python_function", "mlflow.tensorflow"), ("tensorflow", "")), "tensorflow"),
    ((("python_function", "mlflow.pyfunc.model"),), "python_function"),
    ((("python_function", "mlflow.pyfunc.loaders.code_model"),), "python_function"),
    ((("mine", ""), ("python_function", "our_company.loader")), "mine"),
    ((("onnx", ""),), "onnx"),
    ((), None),
]


@pytest.mark.parametrize(("flavors", "expected"), TYPES)
def test_the_type_is_the_flavor_that_it_was_made_with(flavors: tuple[tuple[str, str], ...], expected: str) -> None:
    made = tuple(Flavor(name, (("loader_module", loader),) if loader else ()) for name, loader in flavors)
    assert properties(FoundFile("read", replace(FILE, flavors=made))).get("type") == expected


class TestCard:
    FOUND = FoundFile("read", FILE, "# Card\nIntended use: churn.")

    def test_is_the_description_where_there_is_no_other(self) -> None:
        assert properties(self.FOUND)["description"] == "# Card\nIntended use: churn."

    def test_yields_to_what_people_wrote(self) -> None:
        assert properties(self.FOUND, description="By hand.")["description"] == "By hand."
        assert properties(self.FOUND, tags={"mlflow.note.content": "A note."})["description"] == "A note."


def test_no_credential_gets_through() -> None:
    params = '[{"name": "api_key", "default": "made-up-1"}, {"name": "url", "default": "https://u:made-up-2@host/"}]'
    attributes = (("db_password", "made-up-3"), ("uri", "https://host/?token=made-up-4"))
    file = replace(
        FILE, params=params, flavors=(Flavor("mine", attributes),), others=(("metadata", '{"password": "made-up-5"}'),)
    )
    said = custom(FoundFile("read", file))
    assert "made-up" not in json.dumps(said)
    assert [param["name"] for param in json.loads(said["signature.parameters"])] == ["api_key", "url"]


def test_a_signature_is_cut_by_whole_columns() -> None:
    columns = [{"type": "double", "name": f"column {number:05}", "required": True} for number in range(5000)]
    version = make_version()
    file = FoundFile("read", replace(FILE, inputs=json.dumps(columns)))
    entity = map_version(version, None, False, None, file, [], [], registry_urn(RULES.naming), RULES)
    sent = json.loads(aspect(entity, MLModelPropertiesClass).customProperties["signature.inputs"])
    assert 1000 < len(sent) < 2000
    assert sent == columns[: len(sent)]
    assert entity.cut == [f"columns of the signature's inputs: 5000, {len(sent)} sent"]


def test_attributes_are_bounded() -> None:
    flavor = Flavor("mine", tuple((f"a{number:04}", "x" * 50) for number in range(2000)))
    said = custom(
        FoundFile("read", replace(FILE, flavors=(flavor,))), Rules(limits=Limits(max_tags=10, max_value_chars=20))
    )
    ours = [value for key, value in said.items() if "mlmodel." in key]
    assert len(ours) == 10
    assert max(map(len, ours)) == 20


def test_all_that_a_file_says_is_bounded_together() -> None:
    flavors = tuple(Flavor(f"f{number}", (("a", "模" * 10_000),)) for number in range(900))
    said = custom(FoundFile("read", replace(FILE, flavors=flavors)))
    assert len(json.dumps(said, ensure_ascii=False).encode()) < 1_000_000


def test_a_signature_that_is_no_list_and_too_long_is_left_out() -> None:
    file = FoundFile("read", replace(FILE, inputs=json.dumps({"a": "x" * 200_000})))
    version = map_version(make_version(), None, False, None, file, [], [], registry_urn(RULES.naming), RULES)
    assert "signature.inputs" not in aspect(version, MLModelPropertiesClass).customProperties
    assert len(version.cut) == 1


def test_a_logged_model_of_its_own_says_the_same() -> None:
    entity = map_logged_model(make_logged_model(), None, False, READ, [], make_experiment(), RULES)
    assert_accepted(entity)
    said = aspect(entity, MLModelPropertiesClass)
    assert said.customProperties["signature.inputs"] == COLUMNS
    assert said.customProperties["mlflow_source.flavors"] == "python_function, sklearn 1.9.1"
    assert said.type == "sklearn"
