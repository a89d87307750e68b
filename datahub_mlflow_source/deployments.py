"""Where models are served: read before versions are sent, which link to it; sent themselves behind them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from datahub.metadata.urns import MlModelDeploymentUrn

from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.mapping.deployments import map_deployment
from datahub_mlflow_source.mapping.rules import Rules, tag_value
from datahub_mlflow_source.mapping.urns import deployment_urn
from datahub_mlflow_source.outgoing import Outgoing, Units
from datahub_mlflow_source.readers.base import Reader
from datahub_mlflow_source.readers.serving import Answer, Serving
from datahub_mlflow_source.records import Experiment, Kind, ModelDeployment, ModelVersion, Unreadable
from datahub_mlflow_source.redaction import redact
from datahub_mlflow_source.removal import RemovalGuard
from datahub_mlflow_source.report import MlflowSourceReport, Tally
from datahub_mlflow_source.selection import DeploymentTags, Selection
from datahub_mlflow_source.text import printable
from datahub_mlflow_source.unread import Unread
from datahub_mlflow_source.versions import version_number

_ADDRESS = re.compile(r"models:/(?P<name>.+?)(?:/(?P<version>[^/@]+)|@(?P<alias>[^/@]+))/?")
_LOGGED_MODEL = re.compile(r"models:/(m-[0-9a-f]{32})/?")
_LATEST = "latest"

VersionKey = tuple[str, str]  # full name of the model, number


class DeploymentWalk:
    """Of one ingestion, or one shard of it: each reads all of them, the first tells of them and sends them."""

    def __init__(
        self,
        reader: Reader,
        serving: Serving,
        selection: Selection,
        rules: Rules,
        outgoing: Outgoing,
        guard: RemovalGuard,
        report: MlflowSourceReport,
        unread: Unread,
    ) -> None:
        self._reader, self._serving, self._tags, self._rules = reader, serving, selection.deployment_tags, rules
        self._outgoing, self._guard, self._unread = outgoing, guard, unread
        # Every shard reads all of them, the first counts.
        self._report = report if selection.runs.shard.index == 0 else MlflowSourceReport()
        self._found: dict[str, ModelDeployment] = {}  # by URN
        self._wanted: dict[str, list[str]] = defaultdict(list)  # URNs of deployments by what they serve
        # Of those, by what is asked for and model: a logged model may be a version of several.
        self._newest: dict[str, dict[str, ModelVersion]] = defaultdict(dict)
        self._tagged: dict[VersionKey, list[str]] = defaultdict(list)
        self._told: dict[str, tuple[int, int]] = {}  # time and number of the version that told of it, by URN
        self._asked_for: list[tuple[str, str]] = []  # servers of the recipe, and what they are said to serve

    def read(self) -> None:
        """All but those that only tags of versions tell of."""
        for endpoint in self._of_gateway():
            if isinstance(endpoint, Unreadable):
                self._unread.tell(endpoint, self._report.deployments)
            else:
                self._add(endpoint)
        for answer in self._serving.servers():
            if answer.problem:
                self._report.warning(
                    title="A model server doesn't answer",
                    message="It is sent with an unknown status. Check `deployments.servers`, and that this machine can "
                    "reach it.",
                    context=f"{answer.shown}: {answer.problem}",
                )
            for deployment in answer.deployments:
                self._add(deployment)
                self._asked_for += [(answer.shown, address) for address in deployment.models]
        for answer in self._serving.targets():
            self._add_target(answer)

    def _add_target(self, answer: Answer) -> None:
        if answer.problem:
            self._incomplete("deployment", answer.shown, answer.problem)
        for deployment in answer.deployments:
            self._add(deployment)

    def _of_gateway(self) -> list[ModelDeployment | Unreadable]:
        try:
            found = self._reader.gateway_endpoints()
        except ServerError as error:
            self._incomplete("gateway endpoint", "MLflow's gateway", str(error))
            return []
        if found is None:
            self._report.info(
                title="No endpoints of a gateway",
                message="This MLflow is older than 3.8, or has its gateway switched off. Those that were sent before "
                "stay.",
                log=False,
            )
            self._guard.listing_incomplete("gateway endpoint")
        return found or []

    def _incomplete(self, kind: Kind, what: str, problem: str) -> None:
        self._guard.listing_incomplete(kind)
        self._report.warning(
            title="Deployments can't be read",
            message="What was sent of them before stays. Versions that they serve go out without a link to them.",
            context=f"{what}: {problem}",
        )

    def _add(self, deployment: ModelDeployment) -> str:
        urn = str(deployment_urn(deployment, self._rules.naming))
        if urn in self._found:
            self._report.warning(
                title="Two deployments are one in DataHub",
                message="Their names make one URN. Give one of them another name or target.",
                context=urn,
            )
        self._found[urn] = deployment
        for address in deployment.models:
            self._wanted[_asked_for(address)].append(urn)
        return urn

    def saw(self, version: ModelVersion) -> None:
        """For each version, before any of them is sent."""
        for key in _answers_to(version):
            if key in self._wanted:
                newest = self._newest[key].get(version.full_name)
                if newest is None or version_number(newest) < version_number(version):
                    self._newest[key][version.full_name] = version
        if self._tags:
            self._add_tagged(version, self._tags)

    def _add_tagged(self, version: ModelVersion, keys: DeploymentTags) -> None:
        """Of several versions with one name the newest has the word, as far as it says anything."""
        said_at = (version.creation_time or 0, version_number(version))
        for name in filter(None, map(printable, tag_value(version.tags, keys.name).split(","))):
            told = ModelDeployment(
                target=keys.target,
                name=redact(name),
                status=printable(tag_value(version.tags, keys.status)),
                url=redact(printable(tag_value(version.tags, keys.url))),
                workspace=version.workspace,
            )
            urn = str(deployment_urn(told, self._rules.naming))
            if urn not in self._told:
                self._add(told)
            else:
                new, old = (told, self._found[urn]) if self._told[urn] < said_at else (self._found[urn], told)
                self._found[urn] = replace(new, status=new.status or old.status, url=new.url or old.url)
            self._told[urn] = max(said_at, self._told.get(urn, said_at))
            self._tagged[version.full_name, version.version].append(urn)

    def all_seen(self) -> None:
        """Once all versions were: what the recipe says is served, and is not there, is told."""
        for server, address in self._asked_for if not self._unread.versions_missing else ():
            if not self._newest.get(_asked_for(address)):
                self._report.warning(
                    title="A model server serves no version that is there",
                    message="Nothing links to it. Check `model` in `deployments.servers`, and `model_pattern`.",
                    context=f"{server}: {address}",
                )

    def of_version(self, version: ModelVersion) -> list[MlModelDeploymentUrn]:
        """Where it is served, once all versions were seen."""
        urns = set(self._tagged.get((version.full_name, version.version), ()))
        for key in _answers_to(version):
            newest = self._newest.get(key, {}).get(version.full_name)
            if newest and newest.version == version.version:
                urns.update(self._wanted[key])
        return [MlModelDeploymentUrn.from_string(urn) for urn in sorted(urns)]

    def work_units(self, experiments: Mapping[str, Experiment]) -> Units:
        """The deployments themselves."""
        tally: Tally = self._report.deployments
        served = self._served()
        for urn, deployment in sorted(self._found.items()):
            tally.read += 1
            experiment = experiments.get(deployment.experiment_id)
            yield from self._outgoing.send(
                tally,
                f"{redact(deployment.target)} {redact(deployment.name)}",
                partial(deployment_urn, deployment, self._rules.naming),
                partial(map_deployment, deployment, sorted(served[urn]), experiment, self._rules),
            )

    def _served(self) -> Mapping[str, set[VersionKey]]:
        """Versions by the URN of the deployment that serves them."""
        found: dict[str, set[VersionKey]] = defaultdict(set)
        for key, by_model in self._newest.items():
            for urn in self._wanted[key]:
                found[urn].update((version.full_name, version.version) for version in by_model.values())
        for key_of_version, urns in self._tagged.items():
            for urn in urns:
                found[urn].add(key_of_version)
        return found


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
