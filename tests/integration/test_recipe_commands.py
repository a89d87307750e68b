"""`datahub recipe …` for our source on a real server; as a command where the command line matters, else in process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from datahub.configuration.config_loader import load_config_file

from datahub_mlflow_source.source import MlflowSource
from tests.support.content import CHURN, FORECAST, FRAUD, RETIRED, Content
from tests.support.gms import GmsStandIn
from tests.support.ingest import run_recipe
from tests.support.proxy import CountingProxy, Request
from tests.support.servers import MlflowServer

pytest.importorskip("datahub.ingestion.agent.provider_helpers", reason="acryl-datahub older than 1.7.0.15")

from datahub.ingestion.agent.probe_methods import ProbeMethodResult, run_probe_method
from datahub.ingestion.agent.verdicts import ProbeArgumentError, ProbeConnectionError

TYPE = "datahub-mlflow-source"
ROOT = Path(__file__).parents[2]
PASSWORDS = ("made-up-in-recipe", "made-up-in-environment")

Run = Callable[..., ProbeMethodResult]


@pytest.fixture
def proxy(server: MlflowServer) -> Iterator[CountingProxy]:
    with CountingProxy(server.url) as proxy:
        yield proxy


@pytest.fixture
def run(proxy: CountingProxy) -> Run:
    """Runs a command of the probe, with more keys of the recipe where a test needs them."""

    def run_command(command: str, config: dict[str, Any] | None = None, **arguments: Any) -> ProbeMethodResult:
        return run_probe_method(TYPE, {"tracking_uri": proxy.url, **(config or {})}, command, arguments)

    return run_command


def names(listing: ProbeMethodResult) -> list[str]:
    assert isinstance(listing.result, list)
    return [entity["name"] for entity in listing.result]


# The command line


def datahub(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, what it printed as JSON, and all that it wrote."""
    environment = {
        **{key: value for key, value in os.environ.items() if "MLFLOW_TRACKING" not in key},
        "HOME": os.fspath(folder),
        "MLFLOW_TRACKING_USERNAME": "ada",
        "MLFLOW_TRACKING_PASSWORD": PASSWORDS[1],
    }
    command = [sys.executable, "-m", "datahub", "recipe", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, json.loads(done.stdout or "{}"), done.stdout + done.stderr


def test_the_commands_find_out_what_a_recipe_takes(server: MlflowServer, content: Content, tmp_path: Path) -> None:
    config = {
        "tracking_uri": server.url,
        "username": "ada",
        "password": PASSWORDS[0],
        "experiment_pattern": {"deny": [CHURN]},
    }
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump({"source": {"type": TYPE, "config": config}}))
    listing = tmp_path / "listing.json"
    recipe = ("--recipe", "recipe.yml")

    code, connection, first = datahub(tmp_path, "test-connection", *recipe)
    assert (code, connection["basic_connectivity"]) == (0, {"capable": True})
    code, _, second = datahub(tmp_path, "probe", "run", "experiments", *recipe, "--report-to", os.fspath(listing))
    assert code == 0
    code, judged, third = datahub(tmp_path, "probe", "filter", *recipe, "--from-run", os.fspath(listing))
    assert code == 0

    verdicts = {found["name"]: found["excluded_by"] for found in judged["results"]}
    expected = dict.fromkeys(content.experiments) | {CHURN: "experiment_pattern", RETIRED: "include_deleted"}
    assert verdicts == expected
    written = first + second + third + listing.read_text()
    assert [password for password in PASSWORDS if password in written] == []


# What a server answers


def test_server_tells_where_mlflow_is_and_its_version(run: Run, proxy: CountingProxy, server: MlflowServer) -> None:
    assert run("server").result == {"tracking": proxy.url, "registry": proxy.url, "version": server.version}


def test_a_password_in_the_address_is_warned_about_and_never_shown(run: Run, proxy: CountingProxy) -> None:
    answer = run("server", {"tracking_uri": proxy.url.replace("//", "//ada:made-up@")})
    assert answer.result == run("server").result
    assert ["`tracking_uri` holds a user name or password" in warning for warning in answer.warnings] == [True]
    assert "made-up" not in str(answer)


def test_counts_tells_how_much_there_is(run: Run, content: Content) -> None:
    assert run("counts").result == {
        "experiments": len(content.experiments),
        "runs": len(content.runs),
        "models": len(content.models),
        "versions": len(content.versions),
    }


def test_experiments_are_all_listed_with_their_state(run: Run, content: Content) -> None:
    listed = run("experiments", {"experiment_pattern": {"deny": [".*"]}}).result
    assert isinstance(listed, list)
    found = {(entity["name"], entity["experiment_id"], entity["lifecycle_stage"]) for entity in listed}
    active = {(name, id_, "active") for name, id_ in content.experiments.items()}
    assert found == active | {(name, id_, "deleted") for name, id_ in content.deleted_experiments.items()}


def test_a_limit_cuts_a_listing_and_says_so(run: Run) -> None:
    for command, arguments in (
        ("experiments", {}),
        ("models", {}),
        ("runs", {"experiment": CHURN}),
        ("versions", {"model": FRAUD}),
    ):
        whole, cut = run(command, **arguments), run(command, limit=2, **arguments)
        assert names(cut) == names(whole)[:2]
        assert (whole.truncated, cut.truncated) == (False, True)


def test_runs_of_an_experiment_are_listed_latest_first_the_deleted_ones_too(run: Run, content: Content) -> None:
    listing = run("runs", experiment=CHURN)
    assert (listing.kind, listing.parent_path, listing.warnings) == ("Run", [CHURN], [])
    assert names(listing)[0] == "deleted"
    assert names(listing)[-1] == "full"
    assert isinstance(listing.result, list)
    full = listing.result[-1]
    assert full == {
        "name": "full",
        "run_id": content.runs["full"],
        "user": "ada",
        "status": "FINISHED",
        "lifecycle_stage": "active",
        "start_time": 1_700_000_000_000,
        "end_time": 1_700_000_060_000,
    }
    assert listing.result[0]["lifecycle_stage"] == "deleted"


def test_runs_that_mlflow_leaves_out_for_the_recipe_are_not_listed(run: Run) -> None:
    listing = run("runs", {"run_filter": "attributes.status = 'KILLED'"}, experiment=CHURN)
    assert names(listing) == ["killed"]
    assert ["`run_filter`" in warning for warning in listing.warnings] == [True]
    assert names(run("runs", {"run_retention_days": 1}, experiment=CHURN)) == []


def test_models_are_listed_with_their_aliases(run: Run, content: Content) -> None:
    listing = run("models")
    assert isinstance(listing.result, list)
    assert {entity["name"] for entity in listing.result} == set(content.models)
    (fraud,) = [entity for entity in listing.result if entity["name"] == FRAUD]
    assert fraud["aliases"] == {"champion": "1", "eu-champion": "1", "challenger": "2"}


@pytest.mark.parametrize("page_size", [1, 1000])
def test_versions_of_a_model_are_listed_newest_first(run: Run, content: Content, page_size: int) -> None:
    listing = run("versions", {"page_size": page_size}, model=FRAUD)
    assert (listing.kind, listing.parent_path) == ("Version", [FRAUD])
    assert names(listing) == ["4", "3", "2", "1"]
    assert isinstance(listing.result, list)
    assert listing.result[-1] == {
        "name": "1",
        "aliases": ["champion", "eu-champion"],
        "stage": "Production",
        "status": "READY",
        "run_id": content.versions[FRAUD, "1"],
    }


def test_versions_are_found_for_every_name_that_mlflow_can_search_for(run: Run, content: Content) -> None:
    found = {(model, version) for model in content.models for version in names(run("versions", model=model))}
    assert found == set(content.versions)


@pytest.mark.parametrize(
    ("command", "arguments", "kind"),
    [("runs", {"experiment": "nope"}, "experiment"), ("versions", {"model": "nope"}, "registered model")],
)
def test_an_unknown_name_is_the_callers_mistake(run: Run, command: str, arguments: dict[str, str], kind: str) -> None:
    with pytest.raises(ProbeArgumentError, match=f"no {kind} named 'nope'"):
        run(command, **arguments)


def test_a_refusal_is_told_in_our_words(run: Run, proxy: CountingProxy) -> None:
    proxy.require_headers({"Authorization": "Bearer made-up"})
    with pytest.raises(ProbeConnectionError, match="answered experiments/search with 403"):
        run("experiments")
    assert names(run("experiments", {"token": "made-up"}, limit=1)) == ["Default"]


def test_a_failure_on_the_way_is_told_in_our_words(run: Run, proxy: CountingProxy) -> None:
    proxy.fail(lambda request: "registered-models/search" in request.path, status=403, body="no")
    with pytest.raises(ProbeConnectionError, match="answered registered-models/search with 403"):
        run("versions", model=FRAUD)


def test_a_listing_that_breaks_off_is_a_failure(run: Run, proxy: CountingProxy) -> None:
    proxy.fail(lambda request: "runs/search" in request.path, status=403, body="no")
    listing = run("runs", experiment=FORECAST)
    assert listing.result == []
    assert "answered runs/search with 403" in listing.failures[0]


def test_no_page_is_larger_than_1000(run: Run, proxy: CountingProxy) -> None:
    for command, arguments in (
        ("counts", {}),
        ("experiments", {}),
        ("models", {}),
        ("runs", {"experiment": CHURN, "limit": 1000}),
        ("versions", {"model": FRAUD}),
    ):
        run(command, {"page_size": 50_000}, **arguments)
    sizes = {int(size) for request in proxy.seen for size in page_sizes(request)}
    assert max(sizes) == 1000


def page_sizes(request: Request) -> list[Any]:
    asked = json.loads(request.body) if request.body else parse_qs(urlsplit(request.path).query)
    size = asked.get("max_results", [])
    return size if isinstance(size, list) else [size]


# The shipped recipe


def test_the_main_recipe_ingests(server: MlflowServer, content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    with GmsStandIn() as gms:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        monkeypatch.setenv("DATAHUB_GMS_URL", gms.url)
        pipeline = run_recipe(load_config_file(ROOT / "recipes" / "mlflow.yml"))
        report = pipeline.source.get_report()
        assert (list(report.failures), list(report.warnings), gms.rejections) == ([], [], [])
        versions = [urn for urn in gms.urns() if urn.startswith("urn:li:mlModel:")]
        assert len(versions) == len(content.versions) + len(content.logged_models)


def test_a_connection_is_refused_with_what_to_check(proxy: CountingProxy) -> None:
    proxy.require_headers({"Authorization": "Bearer made-up"})
    report = MlflowSource.test_connection({"tracking_uri": proxy.url})
    assert report.basic_connectivity is not None
    assert not report.basic_connectivity.capable
    assert "with 403" in (report.basic_connectivity.failure_reason or "")
