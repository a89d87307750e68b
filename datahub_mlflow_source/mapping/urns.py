"""Every URN that the connector emits is made here and nowhere else.

Only DataHub's typed URN classes are used: they encode `,`, `(`, `)` and `␟`, which the
`make_…_urn` functions of `datahub.emitter.mce_builder` do not. They leave `%` alone, see `escaped`.
Where `platform_instance` is unset and `env` is PROD, the URNs of experiments, runs, models, versions
and version sets are those of DataHub's built-in source (`datahub/ingestion/source/mlflow.py`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar
from urllib.parse import quote_plus

from datahub.emitter.mce_builder import ALL_ENV_TYPES, datahub_guid
from datahub.emitter.mcp_builder import ContainerKey, ExperimentKey
from datahub.metadata.urns import (
    ContainerUrn,
    CorpGroupUrn,
    CorpUserUrn,
    DataFlowUrn,
    DataJobUrn,
    DataPlatformInstanceUrn,
    DataPlatformUrn,
    DataProcessInstanceUrn,
    DatasetUrn,
    DomainUrn,
    MlFeatureUrn,
    MlModelDeploymentUrn,
    MlModelGroupUrn,
    MlModelUrn,
    SchemaFieldUrn,
    StructuredPropertyUrn,
    TagUrn,
    Urn,
    VersionSetUrn,
)
from datahub.utilities.urn_encoder import UrnEncoder
from datahub.utilities.urns.error import InvalidUrnError

from datahub_mlflow_source.records import ModelDeployment, in_workspace

PLATFORM = "mlflow"
PLATFORM_URN = str(DataPlatformUrn(PLATFORM))
URN_BYTES = 512  # the server's limit on a URN, URL-encoded (UrnValidationUtil.java)

_SHORTENED_HASH = 16  # hex digits that stand for what was cut off
_SHORTENED = re.compile(rf"~[0-9a-f]{{{_SHORTENED_HASH}}}(,|$)")
_LONGEST_CHARACTER = 15  # bytes of one more character: ␟, which is %E2%90%9F in a URN, URL-encoded once more
_USER_PREFIX = "urn:li:corpuser:"
_OWNERS: Mapping[str, type[CorpUserUrn] | type[CorpGroupUrn]] = {
    _USER_PREFIX: CorpUserUrn,
    "urn:li:corpGroup:": CorpGroupUrn,
}
_ANY_URN = re.compile(r"urn:li:(\w+):(.+)", re.DOTALL)
_GROUPS_AND_USERS = frozenset({CorpUserUrn.ENTITY_TYPE, CorpGroupUrn.ENTITY_TYPE})
_READS_AS_ENCODED = re.compile(r"%(25)*(2C|28|29|E2%(25)*90%(25)*9F)")

# As `datahub_guid` has it, which makes an encoder each time.
_as_json = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode

_ROOM_FOR_TASK = 150  # bytes, of a flow's URN for its tasks' names

U = TypeVar("U", bound=Urn)


@dataclass(frozen=True, slots=True)
class Naming:
    """What the recipe says about names."""

    env: str = "PROD"
    platform_instance: str | None = None
    separator: str = "_"  # between a model's name and its version

    def qualified(self, name: str) -> str:
        """`[<platform_instance>.]<name>`"""
        return f"{self.platform_instance}.{name}" if self.platform_instance else name


class WorkspaceKey(ContainerKey):
    """The container of all that is in a workspace other than MLflow's default."""

    workspace: str


class _ExperimentInWorkspaceKey(ExperimentKey):
    """Two workspaces may have experiments of one name."""

    workspace: str


class ModelRegistryKey(ContainerKey):
    """The container that all registered models are in, of the default workspace."""

    id: str = "registry"


class _SecondRegistryKey(ModelRegistryKey):
    """As above, beside an experiment that is itself called "registry"."""

    kind: str = "Model Registry"


def escaped(name: str) -> str:
    """The name with `%` written `%25`, if any of it would read as one of DataHub's encoded characters.

    Otherwise the models `a,b` (encoded `a%2Cb`) and `a%2Cb` would be one entity. Injective: a name that is
    already such an escape, like `a%252Cb`, is escaped once more.
    """
    return name.replace("%", "%25") if _READS_AS_ENCODED.search(name) else name


def encoded_length(urn: str) -> int:
    """Bytes of a URN as the server counts them: after Java's `URLEncoder.encode`."""
    return len(quote_plus(urn, safe="*")) + 2 * urn.count("~")


def fit(make: Callable[[str], U], name: str, most: int = URN_BYTES) -> U:
    """`make(name)`; where that URN is too long for the server, with a readable prefix and a hash for the name.

    Deterministic. `is_shortened` tells whether it happened; a name that looks as if it had is shortened too, so that
    no two names meet.
    """
    urn = make(name)
    if len(str(urn)) * 9 <= most or (encoded_length(str(urn)) <= most and not is_shortened(urn)):
        return urn
    suffix = "~" + hashlib.sha256(name.encode()).hexdigest()[:_SHORTENED_HASH]
    fits, too_long = 0, len(name)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if encoded_length(str(make(name[:middle] + suffix))) <= most:
            fits = middle
        else:
            too_long = middle
    return make(name[:fits] + suffix)


def is_shortened(urn: Urn) -> bool:
    """Whether `fit` had to cut the name in this URN."""
    text = str(urn)
    return bool(_SHORTENED.search(text)) and encoded_length(text) > URN_BYTES - _LONGEST_CHARACTER


@lru_cache(maxsize=256)
def workspace_urn(workspace: str, naming: Naming) -> ContainerUrn:
    """urn:li:container:<guid of platform, workspace[, instance]>; of none but the default one."""
    return WorkspaceKey(platform=PLATFORM_URN, workspace=workspace, instance=naming.platform_instance).as_urn_typed()


@lru_cache(maxsize=4096)
def experiment_urn(name: str, naming: Naming, workspace: str = "") -> ContainerUrn:
    """urn:li:container:<guid of platform, experiment name[, workspace][, instance]>; no env, as the built-in.

    `workspace` is empty for the default one.
    """
    key = {"platform": PLATFORM_URN, "id": name, "instance": naming.platform_instance}
    if workspace:
        return _ExperimentInWorkspaceKey(**key, workspace=workspace).as_urn_typed()
    return ExperimentKey(**key).as_urn_typed()


def registry_urn(naming: Naming, *, beside_experiment_of_that_name: bool = False) -> ContainerUrn:
    """urn:li:container:<guid of platform, "registry"[, instance]>

    An experiment called "registry" has that very guid, since the built-in's key for experiments has the same
    fields; beside one, the registry's key has one field more.
    """
    key = _SecondRegistryKey if beside_experiment_of_that_name else ModelRegistryKey
    return key(platform=PLATFORM_URN, instance=naming.platform_instance).as_urn_typed()


@lru_cache(maxsize=1024)  # a run's own, that of its versions and of the runs below it come close to each other
def run_urn(run_id: str, naming: Naming) -> DataProcessInstanceUrn:
    """urn:li:dataProcessInstance:<guid of run id, orchestrator "mlflow"[, cluster = instance]>

    As `DataProcessInstanceKey.guid` has it, which takes three times as long, and there are many runs.
    """
    key = {"id": run_id, "orchestrator": PLATFORM}
    if naming.platform_instance is not None:
        key["cluster"] = naming.platform_instance
    return DataProcessInstanceUrn(hashlib.md5(_as_json(key).encode(), usedforsecurity=False).hexdigest())


def model_group_urn(name: str, naming: Naming) -> MlModelGroupUrn:
    """urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,[<instance>.]<name>,<env>)

    Names of models are full ones here: `<workspace>/<name>` outside the default workspace.
    """
    return fit(lambda text: MlModelGroupUrn(PLATFORM, text, naming.env), escaped(naming.qualified(name)))


@lru_cache(maxsize=1024)  # a run's output, and soon behind it the version itself
def model_version_urn(name: str, version: str, naming: Naming) -> MlModelUrn:
    """urn:li:mlModel:(urn:li:dataPlatform:mlflow,[<instance>.]<name><separator><version>,<env>)"""
    text = escaped(naming.qualified(f"{name}{naming.separator}{version}"))
    return fit(lambda text: MlModelUrn(PLATFORM, text, naming.env), text)


def logged_model_urn(model_id: str, naming: Naming) -> MlModelUrn:
    """urn:li:mlModel:(urn:li:dataPlatform:mlflow,[<instance>.]<model id>,<env>)"""
    return fit(lambda text: MlModelUrn(PLATFORM, text, naming.env), escaped(naming.qualified(model_id)))


def version_set_urn(name: str, naming: Naming) -> VersionSetUrn:
    """urn:li:versionSet:(<guid of platform, name[, instance][, env other than PROD]>,mlModel)"""
    key = {"platform": PLATFORM, "name": name}
    if naming.platform_instance:
        key["instance"] = naming.platform_instance
    if naming.env != "PROD":
        key["env"] = naming.env
    return VersionSetUrn(datahub_guid(key), MlModelUrn.ENTITY_TYPE)


def dataset_urn(name: str, identity: str, naming: Naming) -> DatasetUrn:
    """urn:li:dataset:(urn:li:dataPlatform:mlflow,[<instance>.]<name>-<8 hex>,<env>)

    The hex digits are of a sha256 over `identity`: `<source type>|<canonical source>`, or
    `experiment|<experiment name>` for a dataset without a usable source.
    """
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    text = escaped(naming.qualified(f"{name}-{digest}"))
    return fit(lambda text: DatasetUrn(PLATFORM, text, naming.env), text)


def column_urn(dataset: DatasetUrn, path: str) -> SchemaFieldUrn | None:
    """urn:li:schemaField:(<dataset>,<field path>), as `make_schema_field_urn` of DataHub makes it; None: too long."""
    urn = SchemaFieldUrn(dataset, path)
    return urn if encoded_length(str(urn)) <= URN_BYTES else None


def evaluation_dataset_urn(dataset_id: str, naming: Naming) -> DatasetUrn:
    """urn:li:dataset:(urn:li:dataPlatform:mlflow,[<instance>.]<dataset id>,<env>)"""
    return fit(lambda text: DatasetUrn(PLATFORM, text, naming.env), escaped(naming.qualified(dataset_id)))


def deployment_urn(deployment: ModelDeployment, naming: Naming) -> MlModelDeploymentUrn:
    """urn:li:mlModelDeployment:(urn:li:dataPlatform:mlflow,[<instance>.]<target>.[<workspace>/]<name>,<env>)"""
    name = naming.qualified(f"{deployment.target}.{in_workspace(deployment.name, deployment.workspace)}")
    return fit(lambda text: MlModelDeploymentUrn(PLATFORM, text, naming.env), escaped(name))


def stage_tag_urn(stage: str) -> TagUrn:
    """urn:li:tag:mlflow_<stage in lower case>"""
    return TagUrn(f"mlflow_{stage.lower()}")


@lru_cache(maxsize=4096)
def user_urn(user_id: str) -> CorpUserUrn:
    """urn:li:corpuser:<user id>; `unknown`, DataHub's own word, where MLflow has none.

    A user id may look like any other URN, which the URN class would not take for a name.
    """
    name = user_id.strip().removeprefix(_USER_PREFIX) or "unknown"
    return fit(lambda text: CorpUserUrn.from_string(_USER_PREFIX + UrnEncoder.encode_string(text)), escaped(name))


@lru_cache(maxsize=4096)
def platform_instance_urn(naming: Naming) -> DataPlatformInstanceUrn | None:
    """urn:li:dataPlatformInstance:(urn:li:dataPlatform:mlflow,<instance>)"""
    if not naming.platform_instance:
        return None
    return DataPlatformInstanceUrn(PLATFORM_URN, naming.platform_instance)


@lru_cache(maxsize=1024)
def data_flow_urn(platform: str, flow: str, cluster: str, instance: str, *, is_ours: bool) -> DataFlowUrn | None:
    """urn:li:dataFlow:(<tool>,[<instance>.]<flow>,<cluster>), as `DataFlowUrn.create_from_ids` has it.

    Of another integration, whose names are not escaped: None where that can't have such an entity.
    """
    name = f"{instance}.{flow}" if instance else flow
    if is_ours:
        urn = fit(lambda text: DataFlowUrn(platform, text, cluster), escaped(name), URN_BYTES - _ROOM_FOR_TASK)
    else:
        urn = DataFlowUrn(platform, name, cluster)
    return urn if encoded_length(str(urn)) <= URN_BYTES else None


@lru_cache(maxsize=1024)
def data_job_urn(flow: DataFlowUrn, task: str, *, is_ours: bool) -> DataJobUrn | None:
    """urn:li:dataJob:(<flow>,<task>), as above."""
    urn = fit(lambda text: DataJobUrn(str(flow), text), escaped(task)) if is_ours else DataJobUrn(str(flow), task)
    return urn if encoded_length(str(urn)) <= URN_BYTES else None


def task_run_urn(platform: str, run_id: str, cluster: str) -> DataProcessInstanceUrn:
    """urn:li:dataProcessInstance:<guid of id, tool and cluster>, as DataHub's `DataProcessInstance` has it."""
    return DataProcessInstanceUrn(datahub_guid({"id": run_id, "orchestrator": platform, "cluster": cluster}))


def data_platform_instance_urn(platform: str, instance: str) -> DataPlatformInstanceUrn:
    """urn:li:dataPlatformInstance:(urn:li:dataPlatform:<platform>,<instance>)"""
    return DataPlatformInstanceUrn(str(DataPlatformUrn(platform)), instance)


@lru_cache(maxsize=4096)
def ml_feature_urn(project: str, view: str, feature: str) -> MlFeatureUrn | None:
    """urn:li:mlFeature:(<project>.<feature view>,<feature>), as DataHub's Feast source has it (`source/feast.py`).

    It encodes nothing: None for names that it can't have, or that are too long.
    """
    if not set(f"{project}{view}{feature}").isdisjoint(",()␟") or not f"{project}{view}{feature}".isprintable():
        return None
    urn = MlFeatureUrn(f"{project}.{view}", feature)
    return urn if encoded_length(str(urn)) <= URN_BYTES else None


def alias_tag_urn(alias: str) -> TagUrn:
    """urn:li:tag:mlflow_alias_<alias>"""
    return fit(TagUrn, escaped(f"mlflow_alias_{alias}"))


@lru_cache(maxsize=4096)
def owner_urn(template: str, user: str) -> CorpUserUrn | CorpGroupUrn | None:
    """`urn:li:corpuser:<user>` or `urn:li:corpGroup:<user>`, as the recipe's template has it; None for no name."""
    prefix = next((prefix for prefix in _OWNERS if template.startswith(prefix)), "")
    name = template.removeprefix(prefix).replace("{user}", user.removeprefix(_USER_PREFIX)).strip()
    if not prefix or not name or not name.isprintable():
        return None
    kind = _OWNERS[prefix]
    return fit(lambda text: kind.from_string(prefix + UrnEncoder.encode_string(text)), escaped(name))


def clean_urn(text: str) -> str | None:
    """`urn:li:<type>:<whatever>`, made of any text by DataHub's builders, as a URN of one part; None where it is none.

    What is encoded already stays as it is.
    """
    match = _ANY_URN.fullmatch(text)
    if not match or not match[2].strip() or not match[2].isprintable():
        return None
    name = UrnEncoder.encode_string(match[2].strip())
    if match[1] in _GROUPS_AND_USERS and name.startswith("urn:li:"):  # a user who is called like that
        return None
    return f"urn:li:{match[1]}:{name}"


def structured_property_urn(name: str) -> StructuredPropertyUrn:
    """urn:li:structuredProperty:<name>"""
    return StructuredPropertyUrn(name)


def domain_urn(domain: str) -> DomainUrn:
    """urn:li:domain:<id>; `domain` may be the URN already."""
    return DomainUrn(domain.removeprefix(f"urn:li:{DomainUrn.ENTITY_TYPE}:"))


def parsed_dataset_urn(text: str) -> DatasetUrn | None:
    """A dataset's URN that somebody wrote; None where it is none, or DataHub would refuse it."""
    try:
        urn = DatasetUrn.from_string(text)
    except (InvalidUrnError, ValueError):
        return None
    is_sound = str(urn) == text and text.isprintable() and urn.env in ALL_ENV_TYPES and urn.name.strip()
    return urn if is_sound and encoded_length(text) <= URN_BYTES else None
