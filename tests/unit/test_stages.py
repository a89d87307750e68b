"""Stages are tags: one on a version at a time, and never anybody else's touched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from datahub.metadata.schema_classes import TagPropertiesClass

from datahub_mlflow_source.mapping.stages import stage_patch, stage_tag, stage_tags
from datahub_mlflow_source.mapping.urns import Naming, model_version_urn
from tests.support.gms.patch import patched
from tests.unit.entities import aspect, assert_accepted

VERSION = model_version_urn("churn-model", "1", Naming())
TAG_OF = {"Production": "mlflow_production", "Staging": "mlflow_staging", "Archived": "mlflow_archived"}
NO_STAGE = ["None", "", "Retired"]
ALL = ["mlflow_production", "mlflow_staging", "mlflow_archived", "mlflow_none"]
FOREIGN = ["a~b/c", "mlflow", "mlflow_alias_champion", "mlflow_productions", "pii"]


def tagged(*tags: str, source: str | None = None) -> dict[str, Any]:
    """A globalTags aspect, as the server keeps it."""
    said: dict[str, Any] = {"attribution": {"time": 0, "actor": "urn:li:corpuser:x", "source": source}}
    return {"tags": [{"tag": f"urn:li:tag:{tag}", **(said if source else {})} for tag in tags]}


def tags_after(stage: str, before: dict[str, Any] | None) -> list[str]:
    """The tags of the version once the server has applied the patch, sorted."""
    found = before
    for proposal in stage_patch(VERSION, stage):
        assert proposal.validate()
        assert (proposal.entityUrn, proposal.aspectName) == (str(VERSION), "globalTags")
        assert (proposal.changeType, proposal.aspect is not None) == ("PATCH", True)
        found = patched("globalTags", found, json.loads(proposal.aspect.value if proposal.aspect else b""))
    assert found is not None
    return sorted(tag["tag"].removeprefix("urn:li:tag:") for tag in found["tags"])


@pytest.mark.parametrize("stage", TAG_OF)
def test_a_stage_puts_its_tag_on(stage: str) -> None:
    assert tags_after(stage, None) == [TAG_OF[stage]]


@pytest.mark.parametrize("stage", TAG_OF)
def test_a_stage_takes_the_tags_of_all_others_off(stage: str) -> None:
    assert tags_after(stage, tagged(*ALL)) == [TAG_OF[stage]]


@pytest.mark.parametrize("stage", NO_STAGE)
def test_no_stage_takes_every_stage_tag_off_the_built_ins_for_none_too(stage: str) -> None:
    assert tags_after(stage, tagged(*ALL)) == []
    assert tags_after(stage, tagged("mlflow_none")) == []


@pytest.mark.parametrize("stage", NO_STAGE)
def test_no_stage_puts_no_tag_on(stage: str) -> None:
    assert tags_after(stage, None) == []


@pytest.mark.parametrize("stage", [*TAG_OF, *NO_STAGE])
def test_tags_that_people_gave_stay(stage: str) -> None:
    assert tags_after(stage, tagged(*FOREIGN, *ALL)) == sorted(
        [*FOREIGN, *([TAG_OF[stage]] if stage in TAG_OF else [])]
    )


def test_a_second_time_changes_nothing() -> None:
    assert tags_after("Staging", tagged("mlflow_staging", "pii")) == ["mlflow_staging", "pii"]


def test_a_stage_tag_goes_whoever_put_it_there() -> None:
    assert tags_after("Staging", tagged("mlflow_production", source="urn:li:dataHubAction:x")) == ["mlflow_staging"]


@pytest.mark.parametrize("stage", [*TAG_OF, *NO_STAGE])
def test_where_nothing_can_be_patched_the_tag_is_among_plain_ones(stage: str) -> None:
    tag = stage_tag(stage)
    assert (str(tag) if tag else None) == (f"urn:li:tag:{TAG_OF[stage]}" if stage in TAG_OF else None)


def test_the_tags_are_the_built_ins_apart_from_the_one_for_none() -> None:
    """Names, texts and colours of `registered_model_stages_info` in DataHub's `ingestion/source/mlflow.py`."""
    expected = {
        "urn:li:tag:mlflow_production": ("mlflow_production", "Production", "#308613"),
        "urn:li:tag:mlflow_staging": ("mlflow_staging", "Staging", "#FACB66"),
        "urn:li:tag:mlflow_archived": ("mlflow_archived", "Archived", "#5D7283"),
    }
    assert [str(tag.urn) for tag in stage_tags()] == list(expected)
    for tag in stage_tags():
        name, stage, color = expected[str(tag.urn)]
        description = f"{stage} Stage for an ML model in MLflow Model Registry"
        assert aspect(tag, TagPropertiesClass).to_obj() == {
            "name": name,
            "description": description,
            "colorHex": color,
        }
        assert_accepted(tag)
