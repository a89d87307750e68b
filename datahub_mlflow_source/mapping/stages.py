"""Stages of the model registry, as tags."""

from __future__ import annotations

from dataclasses import dataclass

from datahub.metadata.schema_classes import (
    MetadataChangeProposalClass,
    TagAssociationClass,
    TagPropertiesClass,
)
from datahub.metadata.urns import TagUrn, Urn
from datahub.specific.aspect_helpers.tags import HasTagsPatch

from datahub_mlflow_source.mapping.rules import Entity
from datahub_mlflow_source.mapping.urns import stage_tag_urn


@dataclass(frozen=True, slots=True)
class _Stage:
    name: str
    color: str


# Names, texts and colours as the built-in's, whose tags these are. Not its fourth, for stage "None":
# a version that is in no stage gets no tag.
STAGES = (_Stage("Production", "#308613"), _Stage("Staging", "#FACB66"), _Stage("Archived", "#5D7283"))
_BUILT_INS_NO_STAGE = "None"


class _TagsOfModel(HasTagsPatch):
    """A PATCH of an mlModel's tags. DataHub ships builders for datasets and others, not for this entity."""


def stage_tags() -> list[Entity]:
    """The tags themselves."""
    return [
        Entity(
            stage_tag_urn(stage.name),
            [
                TagPropertiesClass(
                    name=f"mlflow_{stage.name.lower()}",
                    description=f"{stage.name} Stage for an ML model in MLflow Model Registry",
                    colorHex=stage.color,
                )
            ],
        )
        for stage in STAGES
    ]


def stage_patch(urn: Urn, stage: str) -> list[MetadataChangeProposalClass]:
    """Puts the tag of this stage on a version and takes those of other stages off; other tags stay."""
    patch = _TagsOfModel(str(urn))
    patch.remove_tag(str(stage_tag_urn(_BUILT_INS_NO_STAGE)))
    for known in STAGES:
        if known.name == stage:
            patch.add_tag(TagAssociationClass(str(stage_tag_urn(stage))))
        else:
            patch.remove_tag(str(stage_tag_urn(known.name)))
    return list(patch.build())


def stage_tag(stage: str) -> TagUrn | None:
    """Of a version in this stage; None where it is in none."""
    return stage_tag_urn(stage) if stage in (known.name for known in STAGES) else None
