"""What mapping needs to know beside the record: made from the recipe once, never changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, TypeVar
from urllib.parse import quote, urlsplit

from datahub.metadata.schema_classes import (
    DataPlatformInstanceClass,
    StatusClass,
    SubTypesClass,
    TimeStampClass,
    _Aspect,
)
from datahub.metadata.urns import Urn

from datahub_mlflow_source.mapping.lineage import PlatformNaming
from datahub_mlflow_source.mapping.orchestrators import ALL_KNOWN, Orchestrators
from datahub_mlflow_source.mapping.urns import PLATFORM_URN, Naming, platform_instance_urn, user_urn
from datahub_mlflow_source.records import DEFAULT_WORKSPACE, Tags
from datahub_mlflow_source.redaction import HIDDEN, is_secret_key, redact

T = TypeVar("T")
A = TypeVar("A", bound=_Aspect)

OURS = "mlflow_source."  # prefix of the custom properties that are no MLflow tags
_NOT_TAGS = (OURS, "signature.")
_LIKE_OURS = (*_NOT_TAGS, "tag.")
_TAG_PREFIXES = re.compile(r"\A(?:tag\.)+")
# Never sent: uncommitted code, and a JSON of model files that says nothing the version doesn't.
LEFT_OUT = frozenset({"mlflow.source.git.diff", "mlflow.log-model.history"})
NOTE = "mlflow.note.content"  # what MLflow's UI shows as description

# Where workspaces are (`databricks/sdk/environments.py`).
_DATABRICKS = (
    ".databricks.com",
    ".databricks.us",
    ".azuredatabricks.net",
    ".databricks.azure.us",
    ".databricks.azure.cn",
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of one entity is sent; see `limits` in the recipe."""

    max_params: int = 2000
    max_metrics: int = 2000
    max_tags: int = 1000
    max_value_chars: int = 10_000
    max_description_chars: int = 65_000


@dataclass(frozen=True, slots=True)
class Web:
    """Where people open MLflow in a browser. Routes of its UI from 2.10 to 3.17, and of a Databricks workspace."""

    base: str | None = None  # without a slash at the end
    workspace: str = ""  # that the pages are to be of; empty where the server has none

    def of(self, workspace: str) -> Web:
        """Of this workspace, if it isn't the default one."""
        return Web(self.base, workspace) if workspace else self

    def home(self) -> str | None:
        return self._url("")

    def experiment(self, experiment_id: str) -> str | None:
        return self._url(f"experiments/{experiment_id}")

    def run(self, experiment_id: str, run_id: str) -> str | None:
        return self._url(f"experiments/{experiment_id}/runs/{run_id}")

    def logged_model(self, experiment_id: str, model_id: str) -> str | None:
        return self._url(f"experiments/{experiment_id}/models/{model_id}")

    def evaluation_dataset(self, experiment_id: str, dataset_id: str) -> str | None:
        return self._url(f"experiments/{experiment_id}/datasets/{dataset_id}")

    def gateway_endpoint(self, endpoint_id: str) -> str | None:
        return self._url(f"gateway/endpoints/{endpoint_id}")

    def models(self) -> str | None:
        return self._url("models")

    def model(self, name: str) -> str | None:
        return self._url(f"models/{quote(name, safe='')}")

    def prompt(self, name: str) -> str | None:
        return self._url(f"prompts/{quote(name, safe='')}")

    def version(self, name: str, version: str) -> str | None:
        return self._url(f"models/{quote(name, safe='')}/versions/{version}")

    def _url(self, route: str) -> str | None:
        query = f"?workspace={quote(self.workspace, safe='')}" if self.workspace else ""
        return f"{self.base}/{_root(self.base)}/{route}{query}" if self.base else None


@lru_cache(maxsize=16)
def _root(base: str) -> str:
    """Of the routes: a Databricks workspace has MLflow's pages among others (`mlflow/utils/databricks_utils.py`)."""
    host = urlsplit(base).hostname or ""
    return "#mlflow" if host.endswith(_DATABRICKS) else "#"


@dataclass(frozen=True, slots=True)
class TableRule:
    """A param or tag of runs that names datasets they read."""

    of: Literal["param", "tag"]
    key: str
    platform: str
    separator: str = ","  # between several; a JSON list is understood too
    prefix: str = ""  # what the names lack: "warehouse.", "s3://bucket/"
    context: str = "training"


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything that the recipe says about mapping."""

    naming: Naming = field(default_factory=Naming)
    limits: Limits = field(default_factory=Limits)
    web: Web = field(default_factory=Web)
    registry_web: Web = field(default_factory=Web)  # differs where the registry is another server
    platform_of_type: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    naming_of_platform: Mapping[str, PlatformNaming] = field(default_factory=lambda: MappingProxyType({}))
    code_url_templates: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # by host
    table_rules: tuple[TableRule, ...] = ()
    orchestrators: Orchestrators = ALL_KNOWN

    def with_workspaces(self) -> Rules:
        """The same for a server that has several: without a word on it, its page asks which is meant."""
        web, registry_web = self.web.of(DEFAULT_WORKSPACE), self.registry_web.of(DEFAULT_WORKSPACE)
        return replace(self, web=web, registry_web=registry_web)


@dataclass(frozen=True, slots=True)
class Entity:
    """One DataHub entity, whole: all that we say about it."""

    urn: Urn
    aspects: list[_Aspect]
    cut: list[str] = field(default_factory=list)  # what the limits left out, for the report


class Trim:
    """Cuts what is too long or too many for one entity, takes credentials out, and remembers what it cut."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.cut: list[str] = []

    def value(self, what: str, text: str) -> str:
        """A single value, such as that of the tag `what`."""
        clean = HIDDEN if is_secret_key(what) and text else redact(text)
        most = self.limits.max_value_chars
        if len(clean) <= most:
            return clean
        self.cut.append(f"{what[:100]}: {len(clean)} characters, {most} sent")
        return clean[: most - 1] + "…"

    def description(self, text: str) -> str | None:
        """A description; None where there is none."""
        if not text:
            return None
        clean = redact(text)
        most = self.limits.max_description_chars
        if len(clean) <= most:
            return clean
        self.cut.append(f"description: {len(clean)} characters, {most} sent")
        return clean[: most - 1] + "…"

    def first(self, what: str, things: Sequence[T], most: int) -> Sequence[T]:
        """The first so many params, metrics or tags."""
        if len(things) <= most:
            return things
        self.cut.append(f"{what}: {len(things)}, {most} sent")
        return things[:most]

    def tags(self, what: str, tags: Tags) -> Sequence[tuple[str, str]]:
        """MLflow's tags but those that are never sent, the first so many."""
        return self.first(what, [pair for pair in tags if pair[0] not in LEFT_OUT], self.limits.max_tags)

    def properties(self, tags: Tags, ours: Iterable[tuple[str, str | None]]) -> dict[str, str]:
        """Custom properties: MLflow's tags under their own keys, ours with a prefix.

        `ours` are pairs of a key without prefix and a value; empty values are left out. A tag whose key looks
        like one of ours gets `tag.` in front.
        """
        found = {_tag_key(key): self.value(key, text) for key, text in self.tags("tags", tags)}
        found.update((OURS + key, self.value(key, text)) for key, text in ours if text)
        return found


def _tag_key(key: str) -> str:
    if not key.startswith(_LIKE_OURS):
        return key
    bare = _TAG_PREFIXES.sub("", key)
    return f"tag.{key}" if bare.startswith(_NOT_TAGS) else key


def without(tags: Tags, *keys: str) -> Tags:
    """The tags but these."""
    return tuple(pair for pair in tags if pair[0] not in keys)


def tag_value(tags: Tags, key: str) -> str:
    """A tag's value; "" where there is none."""
    for name, value in tags:
        if name == key:
            return value
    return ""


@lru_cache(maxsize=64)
def platform_aspects(subtype: str, naming: Naming) -> tuple[SubTypesClass, DataPlatformInstanceClass]:
    """Subtype, platform and its instance: on every entity that can have them, and the same on all of a kind."""
    instance = platform_instance_urn(naming)
    return (
        SubTypesClass([subtype]),
        DataPlatformInstanceClass(PLATFORM_URN, str(instance) if instance else None),
    )


def plain(kind: type[A], **fields: str | int | None) -> A:
    """What `kind(**fields)` gives, in a third of the time, for what there are hundreds of in one run.

    All of its fields have to be there, in any order; none may have a default of its own to be filled in.
    """
    made = kind.__new__(kind)
    made._inner_dict = fields
    return made


def time_stamp(time: int | None, user: str = "") -> TimeStampClass | None:
    """A time, and who it was where MLflow says so."""
    if time is None:
        return None
    return TimeStampClass(time, str(user_urn(user)) if user else None)


def alive() -> StatusClass:
    """As primary aspect alone: an entity that is still there, though nothing else is said about it."""
    return StatusClass(removed=False)
