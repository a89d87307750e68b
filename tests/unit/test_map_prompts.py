"""Prompts are models of another subtype: their text is the description, and runs that used them are linked."""

from __future__ import annotations

from typing import Any

import pytest
from datahub.metadata.schema_classes import (
    DataProcessInstanceInputClass,
    MLModelGroupPropertiesClass,
    MLModelPropertiesClass,
    SubTypesClass,
)

from datahub_mlflow_source.mapping.models import map_model, map_version
from datahub_mlflow_source.mapping.prompts import linked_prompts, prompt_text, runs_that_used
from datahub_mlflow_source.mapping.rules import Entity, Rules, Web
from datahub_mlflow_source.mapping.runs import map_run
from datahub_mlflow_source.mapping.urns import model_version_urn, registry_urn
from tests.unit.entities import aspect, assert_accepted
from tests.unit.records import make_dataset_input, make_experiment, make_model, make_run, make_version

RULES = Rules(registry_web=Web("https://mlflow.example.com"))
REGISTRY = registry_urn(RULES.naming)
IS_PROMPT = {"mlflow.prompt.is_prompt": "true"}
TEXT = "Dear {{ name }}, your {{order.number}} of {{name}} is late. {{ 1 }} {x}"


def version(text: str, description: str = "", **tags: str) -> Entity:
    record = make_version(description=description, tags={**IS_PROMPT, "mlflow.prompt.text": text, **tags})
    entity = map_version(record, None, False, None, None, [], [], REGISTRY, RULES)
    assert_accepted(entity)
    return entity


def said(entity: Entity) -> dict[str, Any]:
    found: dict[str, Any] = aspect(entity, MLModelPropertiesClass).to_obj()
    return found


def test_a_prompt_is_a_group_of_another_subtype_with_its_own_page() -> None:
    entity = map_model(make_model(name="greeting", tags=IS_PROMPT), "2", [], REGISTRY, RULES)
    assert_accepted(entity)
    assert aspect(entity, SubTypesClass).typeNames == ["Prompt"]
    page = aspect(entity, MLModelGroupPropertiesClass).externalUrl
    assert page == "https://mlflow.example.com/#/prompts/greeting"


def test_its_version_holds_the_text_its_variables_and_why_it_was_changed() -> None:
    entity = version(TEXT, description="Friendlier.", team="care", _mlflow_prompt_type="text")
    assert aspect(entity, SubTypesClass).typeNames == ["Prompt Version"]
    properties = said(entity)
    custom = properties["customProperties"]
    assert properties["description"] == TEXT
    assert custom["mlflow_source.variables"] == "name, order.number"
    assert custom["mlflow_source.commit_message"] == "Friendlier."
    assert (custom["team"], custom["_mlflow_prompt_type"]) == ("care", "text")
    assert "mlflow.prompt.text" not in custom
    assert properties["tags"] == ["team:care"]


def test_a_chat_is_shown_message_by_message() -> None:
    chat = '[{"role": "system", "content": "Be {{mood}}."}, {"role": "user", "content": "{{question}}"}]'
    properties = said(version(chat, _mlflow_prompt_type="chat"))
    assert properties["description"] == "**system**: Be {{mood}}.\n\n**user**: {{question}}"
    assert properties["customProperties"]["mlflow_source.variables"] == "mood, question"


@pytest.mark.parametrize(
    "text", ["no json", "{}", "[]", '["a"]', '[{"role": "user"}]', "[" * 10_000, '[{"content": [1]}]']
)
def test_a_chat_in_another_form_stays_as_it_is(text: str) -> None:
    tags = tuple(sorted({**IS_PROMPT, "mlflow.prompt.text": text, "_mlflow_prompt_type": "chat"}.items()))
    assert prompt_text(tags) == text


def test_a_model_that_is_no_prompt_has_none_of_that() -> None:
    record = make_version(description="A model.", tags={"mlflow.prompt.text": TEXT})
    properties = said(map_version(record, None, False, None, None, [], [], REGISTRY, RULES))
    assert properties["description"] == "A model."
    assert "mlflow_source.variables" not in properties["customProperties"]


def test_a_run_that_used_one_has_it_among_its_inputs_behind_datasets() -> None:
    from datahub_mlflow_source.mapping.datasets import input_dataset

    inputs = [input_dataset(make_dataset_input(), make_experiment(), RULES)]
    entity = map_run(
        make_run(), make_experiment(), [], [], inputs, [model_version_urn("greeting", "2", RULES.naming)], RULES
    )
    assert_accepted(entity)
    edges = aspect(entity, DataProcessInstanceInputClass).inputEdges or []
    assert edges[1].destinationUrn == "urn:li:mlModel:(urn:li:dataPlatform:mlflow,greeting_2,PROD)"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[{"name": "a", "version": "1"}, {"name": "b", "version": 2}]', [("a", "1"), ("b", "2")]),
        ('[{"name": "a"}, 1, null, "x"]', []),
        ("{}", []),
        ("[", []),
        ("", []),
    ],
)
def test_what_a_run_says_it_used(text: str, found: list[tuple[str, str]]) -> None:
    assert list(linked_prompts((("mlflow.linkedPrompts", text),), "")) == found


@pytest.mark.parametrize("key", ["mlflow.prompt.run_ids", "mlflow.prompt.associatedRunIds"])
def test_what_a_version_knows_of_its_runs(key: str) -> None:
    assert runs_that_used(make_version(tags={key: "a, b,,c"})) == ["a", "b", "c"]
    assert runs_that_used(make_version()) == []
