"""MLflow's workspaces (3.10 and newer): two of them with the same content, down to the names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from datahub_mlflow_source.mapping.urns import (
    Naming,
    experiment_urn,
    model_group_urn,
    model_version_urn,
    run_urn,
    version_set_urn,
    workspace_urn,
)
from tests.support.content import CHURN, FRAUD, Content, rich_content
from tests.support.gms import GmsStandIn
from tests.support.ingest import Ingested, ingest, ingest_into
from tests.support.servers import WITH_WORKSPACES, MlflowServer, mlflow_server

pytestmark = pytest.mark.xdist_group("workspaces")

PROD = Naming()
TEAM = "team-a"


@dataclass(frozen=True, slots=True)
class Shared:
    """A server with workspaces, and what is in the two that have content."""

    server: MlflowServer
    default: Content
    team: Content

    def rest(self, file: Path, **config: Any) -> Ingested:
        return ingest({"tracking_uri": self.server.url, **config}, file)

    def sql(self, file: Path, **config: Any) -> Ingested:
        uris = {"tracking_uri": self.server.url, "backend_store_uri": self.server.backend_uri}
        return ingest({**uris, **config}, file)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    folder = tmp_path_factory.mktemp("workspaces")
    with mlflow_server(folder, extra_env=WITH_WORKSPACES) as server:
        server.post_3("workspaces", name=TEAM, description="Of the *retention* team.")
        server.post_3("workspaces", name="unused")
        yield Shared(server, rich_content(server), rich_content(server.in_workspace(TEAM)))


@pytest.fixture(scope="module")
def everything(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    return shared.rest(tmp_path_factory.mktemp("everything") / "out.json")


def in_any_order(ingested: Ingested) -> list[str]:
    """A server is read workspace by workspace, a database by the ids of runs."""
    return sorted(json.dumps({**proposal, "systemMetadata": None}, sort_keys=True) for proposal in ingested.proposals)


def container(ingested: Ingested, urn: object) -> str:
    return str(ingested.aspects[str(urn)].get("container", {}).get("container", ""))


def failures(ingested: Ingested) -> str:
    return " ".join(line for failure in ingested.report.failures for line in failure.context)


def test_all_of_both_is_there(everything: Ingested, shared: Shared) -> None:
    assert not everything.failed
    for content, workspace in ((shared.default, ""), (shared.team, TEAM)):
        named = {
            str(experiment_urn(name, PROD, workspace))
            for name in content.experiments
            if workspace == "" or name != "Default"
        }
        assert named <= everything.urns("container")
        assert {str(run_urn(run_id, PROD)) for run_id in content.runs.values()} <= everything.urns(
            "dataProcessInstance"
        )
        full = {name: f"{workspace}/{name}" if workspace else name for name in content.models}
        assert {str(model_group_urn(name, PROD)) for name in full.values()} <= everything.urns("mlModelGroup")
        versions = {str(model_version_urn(full[name], version, PROD)) for name, version in content.versions}
        assert versions <= everything.urns("mlModel")
    assert everything.report.workspaces.sent == 2
    assert everything.report.runs.sent == len(shared.default.runs) + len(shared.team.runs)


def test_what_is_in_a_workspace_is_in_its_container(everything: Ingested, shared: Shared) -> None:
    inside = str(workspace_urn(TEAM, PROD))
    aspects = everything.aspects[inside]
    assert aspects["subTypes"]["typeNames"] == ["ML Workspace"]
    assert aspects["containerProperties"]["name"] == TEAM
    assert aspects["containerProperties"]["description"] == "Of the *retention* team."
    experiment = experiment_urn(CHURN, PROD, TEAM)
    assert container(everything, experiment) == inside
    assert container(everything, model_group_urn(f"{TEAM}/{FRAUD}", PROD)) == inside
    assert container(everything, model_version_urn(f"{TEAM}/{FRAUD}", "1", PROD)) == inside
    assert container(everything, run_urn(shared.team.runs["full"], PROD)) == str(experiment)
    for urn in (experiment, model_version_urn(f"{TEAM}/{FRAUD}", "1", PROD)):
        assert [step["urn"] for step in everything.aspects[str(urn)]["browsePathsV2"]["path"]] == [inside]


def test_what_is_in_the_default_one_is_where_it_was(everything: Ingested, shared: Shared) -> None:
    assert container(everything, experiment_urn(CHURN, PROD)) == ""
    registry, _ = everything.named("container", "Model Registry")
    assert container(everything, model_group_urn(FRAUD, PROD)) == registry
    assert container(everything, run_urn(shared.default.runs["full"], PROD)) == str(experiment_urn(CHURN, PROD))


def test_versions_are_of_the_models_of_their_workspace(everything: Ingested, shared: Shared) -> None:
    full = f"{TEAM}/{FRAUD}"
    version = everything.aspects[str(model_version_urn(full, "1", PROD))]
    assert version["mlModelProperties"]["groups"] == [str(model_group_urn(full, PROD))]
    assert version["mlModelProperties"]["name"] == f"{FRAUD}_1"
    assert version["mlModelProperties"]["trainingJobs"] == [str(run_urn(shared.team.runs["full"], PROD))]
    assert version["mlModelProperties"]["customProperties"]["mlflow_source.workspace"] == TEAM
    assert version["versionProperties"]["versionSet"] == str(version_set_urn(full, PROD))
    edges = everything.aspects[str(run_urn(shared.team.runs["full"], PROD))]["dataProcessInstanceOutput"]["outputEdges"]
    assert str(model_version_urn(full, "1", PROD)) in [edge["destinationUrn"] for edge in edges]


def test_model_files_are_read_in_their_workspace(everything: Ingested) -> None:
    for name in (FRAUD, f"{TEAM}/{FRAUD}"):
        properties = everything.aspects[str(model_version_urn(name, "1", PROD))]["mlModelProperties"]
        assert "tenure" in properties["customProperties"]["signature.inputs"], name
    assert everything.report.model_files.unreadable == 0


def test_links_lead_into_the_workspace(everything: Ingested, shared: Shared) -> None:
    """The default one is named too: without a word, MLflow's page asks which is meant."""
    for urn in everything.urns("dataProcessInstance"):
        aspects = everything.aspects[urn]
        link = aspects["dataProcessInstanceProperties"]["externalUrl"]
        of_team = (
            aspects["dataProcessInstanceProperties"]["customProperties"]["mlflow_source.run_id"]
            in shared.team.runs.values()
        )
        assert link.endswith(f"?workspace={TEAM if of_team else 'default'}")
    model = everything.aspects[str(model_group_urn(f"{TEAM}/{FRAUD}", PROD))]["mlModelGroupProperties"]
    assert model["externalUrl"] == f"{shared.server.url}/#/models/{quote(FRAUD, safe='')}?workspace={TEAM}"


def test_datahub_takes_all_of_it(shared: Shared) -> None:
    with GmsStandIn() as gms:
        ingest_into(gms, {"tracking_uri": shared.server.url})
        assert not gms.rejections


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"page_size": 2},
        {"include_runs": "registered"},
        {"include_runs": "none"},
        {"max_runs_per_experiment": 2},
        {"include_traces": True, "include_deployments": True, "metric_history_pattern": {"allow": [".*"]}},
        {"include_deleted": True, "include_artifacts": "all"},
        {"workspaces": [TEAM]},
        {"workspaces": ["unused", "default"], "experiment_pattern": {"allow": [CHURN]}},
    ],
    ids=str,
)
def test_server_and_database_give_the_same(shared: Shared, config: dict[str, Any], tmp_path: Path) -> None:
    over_rest = shared.rest(tmp_path / "rest.json", **config)
    from_sql = shared.sql(tmp_path / "sql.json", **config)
    assert not over_rest.failed
    assert not from_sql.failed
    assert in_any_order(from_sql) == in_any_order(over_rest)
    assert len(from_sql.proposals) > 10


def test_only_what_is_named_is_read(shared: Shared, tmp_path: Path) -> None:
    found = shared.rest(tmp_path / "out.json", workspaces=[TEAM])
    assert found.report.runs.read == len(shared.team.runs)
    assert str(experiment_urn(CHURN, PROD)) not in found.aspects
    assert str(model_group_urn(FRAUD, PROD)) not in found.aspects


def test_mlflows_own_variable_names_one(shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_WORKSPACE", TEAM)
    found = shared.rest(tmp_path / "out.json")
    assert found.report.runs.read == len(shared.team.runs)


@pytest.mark.parametrize("reader", ["rest", "sql"])
def test_one_that_is_not_there_is_named(shared: Shared, reader: str, tmp_path: Path) -> None:
    found = getattr(shared, reader)(tmp_path / "out.json", workspaces=[TEAM, "nobodys"])
    assert "no workspace nobodys" in failures(found)
    assert "team-a, unused" in failures(found)
    assert found.proposals == []


def test_a_server_without_any_says_so(server: MlflowServer, tmp_path: Path) -> None:
    found = ingest({"tracking_uri": server.url, "workspaces": [TEAM]}, tmp_path / "out.json")
    assert "has no workspaces" in failures(found)
    assert found.proposals == []
    default = ingest({"tracking_uri": server.url, "workspaces": ["default"]}, tmp_path / "default.json")
    plain = ingest({"tracking_uri": server.url}, tmp_path / "plain.json")
    assert in_any_order(default) == in_any_order(plain)
    assert "workspace=" not in json.dumps(plain.proposals)
