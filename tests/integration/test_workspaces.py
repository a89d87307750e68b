"""MLflow's workspaces (3.10 and newer): two of them with the same content, down to the names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from datahub.ingestion.agent.probe_methods import ProbeMethodResult, run_probe_method
from datahub.ingestion.agent.verdicts import ProbeConnectionError
from datahub.ingestion.run.pipeline import Pipeline

from datahub_mlflow_source.mapping.urns import (
    Naming,
    experiment_urn,
    model_group_urn,
    model_version_urn,
    run_urn,
    version_set_urn,
    workspace_urn,
)
from datahub_mlflow_source.report import MlflowSourceReport
from tests.support.content import CHURN, FRAUD, Content, rich_content
from tests.support.gms import GmsStandIn
from tests.support.ingest import Ingested, ingest, ingest_into
from tests.support.proxy import CountingProxy, Request
from tests.support.servers import WITH_WORKSPACES, MlflowServer, mlflow_server

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


# What goes wrong

SERVER_INFO = "/api/3.0/mlflow/server-info"
REMOVING = {"stateful_ingestion": {"enabled": True}}


def removed(gms: GmsStandIn) -> set[str]:
    """But for DataHub's own bookkeeping, whose dataJob is removed from birth."""
    return {urn for urn in gms.urns() if gms.is_removed(urn) and not urn.startswith("urn:li:dataJob:")}


def report_of(pipeline: Pipeline) -> MlflowSourceReport:
    report = pipeline.source.get_report()
    assert isinstance(report, MlflowSourceReport)
    return report


HTML = {"Content-Type": "text/html"}
UNKNOWN: dict[str, dict[str, Any]] = {
    "refused": {"status": 403},
    "without a login": {"status": 401},
    "a way elsewhere": {"status": 302, "headers": {"Location": "/login"}},
    "a page": {"status": 200, "body": "<html>Sign in</html>", "headers": HTML},
    "hidden": {"status": 404, "body": "<html>Not found</html>", "headers": HTML},
    "nothing": {"status": 200, "body": "{}", "headers": {"Content-Type": "application/json"}},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """With an experiment and a model in each of two workspaces."""
    with mlflow_server(tmp_path_factory.mktemp("small"), extra_env=WITH_WORKSPACES) as server:
        server.post_3("workspaces", name=TEAM)
        for place in (server, server.in_workspace(TEAM)):
            place.post("experiments/create", name=CHURN)
            place.post("registered-models/create", name=FRAUD)
        yield server


@pytest.mark.parametrize("fault", UNKNOWN)
def test_where_it_cannot_be_known_whether_there_are_any_nothing_is_removed(small: MlflowServer, fault: str) -> None:
    with GmsStandIn() as gms, CountingProxy(small.url) as proxy:
        ingest_into(gms, {"tracking_uri": proxy.url, **REMOVING})
        proxy.fail(lambda request: request.path.startswith(SERVER_INFO), **UNKNOWN[fault])
        report = report_of(ingest_into(gms, {"tracking_uri": proxy.url, **REMOVING}))
        assert "There may be other workspaces" in str(report.warnings)
        assert "workspaces: [default]" in str(report.warnings)
        assert removed(gms) == set()
        default_alone = {"tracking_uri": proxy.url, "workspaces": ["default"]}
        assert not report_of(ingest_into(gms, default_alone, name="default alone")).warnings


@pytest.mark.parametrize("status", [500, 503, 429])
@pytest.mark.parametrize("path", [SERVER_INFO, "/api/3.0/mlflow/workspaces"])
def test_a_server_that_fails_to_say_is_not_read(small: MlflowServer, path: str, status: int, tmp_path: Path) -> None:
    with CountingProxy(small.url) as proxy:
        proxy.fail(lambda request: request.path.startswith(path), status=status)
        found = ingest({"tracking_uri": proxy.url, "max_retries": 0}, tmp_path / "out.json")
    assert found.failed
    assert found.proposals == []


def test_who_may_not_list_them_may_name_one(shared: Shared, tmp_path: Path) -> None:
    with CountingProxy(shared.server.url) as proxy:
        proxy.fail(lambda request: request.path.startswith("/api/3.0/mlflow/workspaces"), status=403)
        found = ingest({"tracking_uri": proxy.url, "workspaces": [TEAM]}, tmp_path / "named.json")
        assert not found.failed
        assert found.report.runs.read == len(shared.team.runs)
        assert ingest({"tracking_uri": proxy.url}, tmp_path / "all.json").failed


def test_a_server_that_wants_a_workspace_to_be_named_is_read(shared: Shared, tmp_path: Path) -> None:
    """As one whose workspaces are Kubernetes' namespaces, without a default one."""

    def nameless(request: Request) -> bool:
        return "x-mlflow-workspace" not in request.headers and "/api/2.0/" in request.path

    with CountingProxy(shared.server.url) as proxy:
        proxy.fail(nameless, status=400, body='{"error_code": "INVALID_PARAMETER_VALUE", "message": "No workspace."}')
        found = ingest({"tracking_uri": proxy.url, "include_artifacts": "none"}, tmp_path / "out.json")
    assert not found.failed
    assert found.report.runs.read == len(shared.default.runs) + len(shared.team.runs)


@pytest.mark.parametrize(
    ("path", "kept"), [("datasets/search", "dataset"), ("gateway/endpoints/list", "mlModelDeployment")]
)
@pytest.mark.parametrize("status", [403, 404])
def test_what_one_workspace_shows_no_more_stays(shared: Shared, path: str, kept: str, status: int) -> None:
    def of_team(request: Request) -> bool:
        return path in request.path and request.headers.get("x-mlflow-workspace") == TEAM

    with GmsStandIn() as gms, CountingProxy(shared.server.url) as proxy:
        config = {"tracking_uri": proxy.url, "include_deployments": True, **REMOVING}
        ingest_into(gms, config)
        assert [urn for urn in gms.urns() if urn.startswith(f"urn:li:{kept}:")]
        proxy.fail(of_team, status=status)
        ingest_into(gms, config)
        assert removed(gms) == set()


def test_one_that_is_gone_is_told(tmp_path: Path) -> None:
    with mlflow_server(tmp_path / "server", extra_env=WITH_WORKSPACES) as server, GmsStandIn() as gms:
        server.post_3("workspaces", name=TEAM)
        team = server.in_workspace(TEAM)
        experiment_id = team.post("experiments/create", name=CHURN)["experiment_id"]
        for number in range(9):
            server.post("experiments/create", name=f"stays {number}")
        config = {"tracking_uri": server.url, **REMOVING}
        ingest_into(gms, config)
        server.execute("UPDATE experiments SET workspace = 'default' WHERE experiment_id = ?", int(experiment_id))
        server.session.delete(f"{server.url}/api/3.0/mlflow/workspaces/{TEAM}", timeout=60)
        report = report_of(ingest_into(gms, config))
        assert removed(gms) == {str(workspace_urn(TEAM, PROD)), str(experiment_urn(CHURN, PROD, TEAM))}
        assert "A workspace is gone" in str(report.warnings)
        assert "Experiment moved" in str(report.infos)


def test_a_server_with_no_others_is_as_one_without(tmp_path: Path) -> None:
    """Over REST as out of the database, which can't tell."""
    with mlflow_server(tmp_path / "server", extra_env=WITH_WORKSPACES) as server:
        server.post("registered-models/create", name="m")
        over_rest = ingest({"tracking_uri": server.url}, tmp_path / "rest.json")
        uris = {"tracking_uri": server.url, "backend_store_uri": server.backend_uri}
        assert in_any_order(over_rest) == in_any_order(ingest(uris, tmp_path / "sql.json"))
        assert "?workspace=" not in json.dumps(over_rest.proposals)


def test_a_model_that_would_be_another_is_left_out_and_named(tmp_path: Path) -> None:
    """A name with a slash is as old as MLflow 3.11."""
    with mlflow_server(tmp_path / "server", extra_env=WITH_WORKSPACES) as server:
        server.post_3("workspaces", name=TEAM)
        for place, name in ((server, "renamed"), (server.in_workspace(TEAM), "m")):
            place.post("registered-models/create", name=name)
            place.post("model-versions/create", name=name, source="s3://acme/model")
        for table in ("registered_models", "model_versions"):
            server.execute(f"UPDATE {table} SET name = ? WHERE name = ?", f"{TEAM}/m", "renamed")  # noqa: S608 - ours
        uris = {"tracking_uri": server.url}
        for reader in ({}, {"backend_store_uri": server.backend_uri}):
            found = ingest({**uris, **reader}, tmp_path / "out.json")
            assert "'team-a/m', and 'm' in workspace team-a" in failures(found)
            urn = str(model_group_urn(f"{TEAM}/m", PROD))
            assert found.aspects[urn]["mlModelGroupProperties"]["name"] == f"{TEAM}/m"
            assert found.report.models.failed == found.report.versions.failed == 1


def test_a_registry_of_its_own_has_workspaces_of_its_own(
    shared: Shared, server: MlflowServer, content: Content, tmp_path: Path
) -> None:
    """Experiments of the one, models of the other; either may have workspaces."""
    config = {"include_artifacts": "none"}
    found = ingest({"tracking_uri": server.url, "registry_uri": shared.server.url, **config}, tmp_path / "plain.json")
    assert not found.failed
    assert found.report.experiments.read == len(content.experiments) + len(content.deleted_experiments)
    assert str(model_group_urn(f"{TEAM}/{FRAUD}", PROD)) in found.aspects
    assert str(workspace_urn(TEAM, PROD)) in found.aspects
    found = ingest({"tracking_uri": shared.server.url, "registry_uri": server.url, **config}, tmp_path / "other.json")
    assert not found.failed
    assert found.report.runs.read == len(shared.default.runs) + len(shared.team.runs)
    assert found.report.models.read == len(content.models)


def test_an_older_registry_beside_a_newer_server_is_known_to_have_none(small: MlflowServer, tmp_path: Path) -> None:
    with CountingProxy(small.url) as registry:
        registry.fail(lambda request: request.path.startswith(SERVER_INFO), **UNKNOWN["hidden"])
        registry.fail(lambda request: request.path == "/version", status=200, body="2.22.5")
        config = {"tracking_uri": small.url, "registry_uri": registry.url}
        assert not ingest(config, tmp_path / "out.json").report.warnings


def test_nothing_of_the_default_one_is_sent_where_it_is_not_read(shared: Shared, tmp_path: Path) -> None:
    for found in (
        shared.rest(tmp_path / "rest.json", workspaces=[TEAM]),
        shared.sql(tmp_path / "sql.json", workspaces=[TEAM]),
    ):
        shown = [found.aspects[urn]["subTypes"]["typeNames"] for urn in found.urns("container")]
        assert ["Model Registry"] not in shown
        assert found.report.experiments.read == len(shared.team.experiments) + len(shared.team.deleted_experiments) - 1


def test_a_probe_looks_at_the_first_and_says_so(shared: Shared) -> None:
    def counts(**config: Any) -> ProbeMethodResult:
        return run_probe_method("datahub-mlflow-source", {"tracking_uri": shared.server.url, **config}, "counts", {})

    everywhere, of_team = counts(), counts(workspaces=[TEAM])
    assert "only the workspace default is looked at, of default, team-a, unused" in str(everywhere)
    assert f"'runs': {len(shared.team.runs)}" in str(of_team)
    assert "only the workspace" not in str(of_team)
    with pytest.raises(ProbeConnectionError, match="no workspace nobodys"):
        counts(workspaces=["nobodys"])
