"""What the tests of mapping ask of an entity."""

from __future__ import annotations

from typing import TypeVar

from datahub.metadata.schema_classes import _Aspect

from datahub_mlflow_source.mapping.rules import Entity
from tests.support.gms import GmsStandIn

A = TypeVar("A", bound=_Aspect)


def aspect(entity: Entity, kind: type[A]) -> A:
    """The one aspect of this class that the entity has."""
    (found,) = every(entity, kind)
    return found


def every(entity: Entity, kind: type[A]) -> list[A]:
    """All aspects of this class, such as a run's events."""
    return [aspect for aspect in entity.aspects if isinstance(aspect, kind)]


def names(entity: Entity) -> list[str]:
    """The names of its aspects, in order."""
    return [str(aspect.ASPECT_NAME) for aspect in entity.aspects]


def text(entity: Entity) -> str:
    """Everything that is sent about it."""
    return f"{entity.urn} {[aspect.to_obj() for aspect in entity.aspects]}"


def assert_accepted(entity: Entity, *, gms: GmsStandIn | None = None) -> None:
    """DataHub's classes find each aspect valid, and its server would take it. `gms` may hold others already."""
    gms = gms or GmsStandIn()
    for aspect in entity.aspects:
        assert aspect.validate(), aspect
        gms.write(str(entity.urn), aspect)
