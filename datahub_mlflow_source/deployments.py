"""Where models are served: read before versions are sent, which link to it; sent themselves behind them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from datahub.metadata.urns import MlModelDeploymentUrn

from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.mapping.deployments import map_deployment
from datahub_mlflow_source.mapping.rules import Rules, tag_value
from datahub_mlflow_source.mapping.urns import deployment_urn
from datahub_mlflow_source.outgoing import Outgoing, Units
from datahub_mlflow_source.readers.base import Reader
from datahub_mlflow_source.readers.serving import NO_ANSWER, Serving
from datahub_mlflow_source.records import Experiment, ModelDeployment, ModelVersion
from datahub_mlflow_source.redaction import redact
from datahub_mlflow_source.removal import RemovalGuard
from datahub_mlflow_source.report import MlflowSourceReport
from datahub_mlflow_source.selection import DeploymentTags
from datahub_mlflow_source.versions import version_number

_ADDRESS = re.compile(r"models:/(?P<name>.+?)(?:/(?P<version>[^/@]+)|@(?P<alias>[^/@]+))/?")
_LOGGED_MODEL = re.compile(r"models:/(m-[0-9a-f]{32})/?")
_LATEST = "latest"


class DeploymentWalk:
    """Of one ingestion, or one shard of it: each reads all of them, the first sends them."""

    def __init__(
        self,
        reader: Reader,
        serving: Serving,
        tags: DeploymentTags | None,
        rules: Rules,
        outgoing: Outgoing,
        guard: RemovalGuard,
        report: MlflowSourceReport,
    ) -> None:
        self._reader, self._serving, self._tags, self._rules = reader, serving, tags, rules
        self._outgoing, self._guard, self._report = outgoing, guard, report
        self._found: dict[str, ModelDeployment] = {}  # by URN
        self._wanted: dict[str, list[str]] = defaultdict(list)  # URNs of deployments by what they serve
        self._newest: dict[str, ModelVersion] = {}  # of those, by what is asked for
        self._tagged: dict[tuple[str, str], list[str]] = defaultdict(list)

    def read(self) -> None:
        """All but those that only tags of versions tell of."""
        for deployment in self._of_gateway():
            self._add(deployment)
        for deployment in self._serving.servers():
            if deployment.status == NO_ANSWER:
                self._report.warning(
                    title="A model server doesn't answer",
                    message="It is sent with an unknown status. Check `deployments.servers`, and that this machine can "
                    "reach it.",
                    context=f"{deployment.name} at {deployment.url}",
                )
            self._add(deployment)
        for target, found in self._serving.targets():
            if isinstance(found, ServerError):
                self._incomplete(target, found)
                continue
            for deployment in found:
                self._add(deployment)

    def _of_gateway(self) -> list[ModelDeployment]:
        try:
            return self._reader.gateway_endpoints() or []
        except ServerError as error:
            self._incomplete("MLflow's gateway", error)
            return []

    def _incomplete(self, what: str, error: ServerError) -> None:
        self._guard.listing_incomplete("deployment")
        self._report.warning(
            title="Deployments can't be read",
            message="What was sent of them before stays as it was. Versions go out without a link to them.",
            context=f"{what}: {error}",
        )

    def _add(self, deployment: ModelDeployment) -> None:
        urn = str(deployment_urn(deployment, self._rules.naming))
        self._found[urn] = deployment
        for address in deployment.models:
            self._wanted[_asked_for(address)].append(urn)

    def saw(self, version: ModelVersion) -> None:
        """For each version, before any of them is sent."""
        for key in _answers_to(version):
            if key in self._wanted:
                newest = self._newest.get(key)
                if newest is None or version_number(newest) < version_number(version):
                    self._newest[key] = version
        if self._tags:
            self._add_tagged(version, self._tags)

    def _add_tagged(self, version: ModelVersion, keys: DeploymentTags) -> None:
        for name in filter(None, (part.strip() for part in tag_value(version.tags, keys.name).split(","))):
            deployment = ModelDeployment(
                target=keys.target,
                name=name,
                status=tag_value(version.tags, keys.status),
                url=tag_value(version.tags, keys.url),
                workspace=version.workspace,
            )
            urn = str(deployment_urn(deployment, self._rules.naming))
            known = self._found.get(urn)
            if known is None or not known.status:  # of several versions the first that says so
                self._found[urn] = deployment if known is None else replace(known, status=deployment.status)
            self._tagged[version.full_name, version.version].append(urn)

    def of_version(self, version: ModelVersion) -> list[MlModelDeploymentUrn]:
        """Where it is served, once all versions were seen."""
        urns = set(self._tagged.get((version.full_name, version.version), ()))
        for key in _answers_to(version):
            newest = self._newest.get(key)
            if newest and (newest.full_name, newest.version) == (version.full_name, version.version):
                urns.update(self._wanted[key])
        return [MlModelDeploymentUrn.from_string(urn) for urn in sorted(urns)]

    def work_units(self, experiments: Mapping[str, Experiment]) -> Units:
        """The deployments themselves."""
        tally = self._report.deployments
        served = self._served()
        for urn, deployment in sorted(self._found.items()):
            tally.read += 1
            experiment = experiments.get(deployment.experiment_id)
            yield from self._outgoing.send(
                tally,
                f"{redact(deployment.target)} {redact(deployment.name)}",
                partial(deployment_urn, deployment, self._rules.naming),
                partial(map_deployment, deployment, served.get(urn, ()), experiment, self._rules),
            )

    def _served(self) -> dict[str, Sequence[tuple[str, str]]]:
        """Versions by the URN of the deployment that serves them."""
        found: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for key, version in self._newest.items():
            for urn in self._wanted[key]:
                found[urn].add((version.full_name, version.version))
        for key_of_version, urns in self._tagged.items():
            for urn in urns:
                found[urn].add(key_of_version)
        return {urn: sorted(versions) for urn, versions in found.items()}


def _asked_for(address: str) -> str:
    """`models:/churn/3`, `models:/churn@champion`, `models:/churn/Production`, `models:/churn/latest`, `models:/m-…`"""
    if logged := _LOGGED_MODEL.fullmatch(address):
        return logged[1]
    if not (found := _ADDRESS.fullmatch(address)):
        return address
    if found["alias"]:
        return f"{found['name']}@{found['alias']}"
    version = found["version"]
    return f"{found['name']}/{version if version.isdecimal() else version.lower()}"


def _answers_to(version: ModelVersion) -> Iterator[str]:
    """By which of these a version can be asked for; by stage and as latest, others too."""
    name = version.full_name
    yield f"{name}/{version.version}"
    yield f"{name}/{_LATEST}"
    yield f"{name}/{version.stage.lower()}"
    for alias in version.aliases:
        yield f"{name}@{alias}"
    if version.model_id:
        yield version.model_id
