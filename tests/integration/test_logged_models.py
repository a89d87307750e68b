"""Logged models: which are taken, and what becomes of one that is registered, deleted, or can't be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datahub.metadata.schema_classes import DeprecationClass

from datahub_mlflow_source.mapping.urns import Naming, logged_model_urn, model_version_urn
from tests.support.content import plain_runs
from tests.support.gms import GmsStandIn
from tests.support.ingest import Ingested, ingest, ingest_into
from tests.support.proxy import CountingProxy, Request
from tests.support.servers import MlflowServer, mlflow_server

PROD = Naming()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("logged")) as server:
        yield server


@pytest.fixture
def gms() -> Iterator[GmsStandIn]:
    with GmsStandIn() as gms:
        yield gms


def _log(server: MlflowServer, experiment_id: str, name: str, run_id: str = "") -> str:
    of = {"source_run_id": run_id} if run_id else {}
    model = server.post("logged-models", experiment_id=experiment_id, name=name, **of)["model"]["info"]["model_id"]
    server.patch(f"logged-models/{model}", model_id=model, status="LOGGED_MODEL_READY")
    return str(model)


def _register(server: MlflowServer, name: str, model_id: str) -> str:
    """The version's URN."""
    server.post("registered-models/create", name=name)
    server.post("model-versions/create", name=name, source=f"models:/{model_id}", model_id=model_id)
    return str(model_version_urn(name, "1", PROD))


def _own(model_id: str) -> str:
    return str(logged_model_urn(model_id, PROD))


def _names(ingested: Ingested) -> list[str]:
    return sorted(ingested.aspects[urn]["mlModelProperties"]["name"] for urn in ingested.urns("mlModel"))


def _only(server: MlflowServer, experiment: str, file: Path, **config: Any) -> Ingested:
    pattern = {"allow": [f"{experiment}$"]}
    return ingest({"tracking_uri": server.url, "experiment_pattern": pattern, **config}, file)


@pytest.fixture(scope="module")
def choice(server: MlflowServer) -> str:
    """An experiment whose one run has four, and a registered one beside them."""
    experiment_id, (run_id,) = plain_runs(server, "choice", 1)
    for name in ("first", "second", "third", "other"):
        _log(server, experiment_id, name, run_id)
    _register(server, "chosen", _log(server, experiment_id, "registered", run_id))
    return "choice"


def test_a_pattern_and_a_cap_choose_among_those_that_are_no_version(
    server: MlflowServer, choice: str, tmp_path: Path
) -> None:
    everything = _only(server, choice, tmp_path / "all.json")
    assert _names(everything) == ["chosen_1", "first", "other", "second", "third"]
    by_name = _only(server, choice, tmp_path / "name.json", logged_models={"pattern": {"deny": ["other"]}})
    assert _names(by_name) == ["chosen_1", "first", "second", "third"]
    assert by_name.report.logged_models.filtered == 1
    latest = _only(server, choice, tmp_path / "latest.json", logged_models={"max_per_run": 2})
    assert _names(latest) == ["chosen_1", "other", "third"]
    (run,) = latest.urns("dataProcessInstance")
    made = latest.aspects[run]["dataProcessInstanceOutput"]["outputEdges"]
    assert {edge["destinationUrn"] for edge in made} == latest.urns("mlModel")
    assert (latest.report.logged_models.read, latest.report.logged_models.sent) == (4, 2)


def test_those_of_experiments_that_are_left_out_are_left_out_but_for_their_versions(
    server: MlflowServer, choice: str, tmp_path: Path
) -> None:
    del choice
    found = _only(server, "none", tmp_path / "out.json")
    assert _names(found) == ["chosen_1"]
    properties = found.named("mlModel", "chosen_1")[1]["mlModelProperties"]["customProperties"]
    assert properties["mlflow_source.logged_model_name"] == "registered"


def test_without_them_mlflow_is_not_asked(server: MlflowServer, choice: str, tmp_path: Path) -> None:
    with CountingProxy(server.url) as proxy:
        found = ingest({"tracking_uri": proxy.url, "include_logged_models": False}, tmp_path / "out.json")
        assert not [path for _, path in proxy.requests if "logged-models" in path]
    assert choice
    assert "first" not in _names(found)
    properties = found.named("mlModel", "chosen_1")[1]["mlModelProperties"]["customProperties"]
    assert "mlflow_source.logged_model_name" not in properties
    assert properties["mlflow_source.model_id"].startswith("m-")


@pytest.mark.parametrize("include_runs", ["registered", "none"])
def test_they_come_without_their_runs_too(server: MlflowServer, choice: str, tmp_path: Path, include_runs: str) -> None:
    found = _only(server, choice, tmp_path / "out.json", include_runs=include_runs)
    assert _names(found) == ["chosen_1", "first", "other", "second", "third"]
    jobs = found.named("mlModel", "first")[1]["mlModelProperties"]["trainingJobs"]
    assert len(jobs) == (1 if include_runs == "registered" else 0)


def _ingest(gms: GmsStandIn, url: str, **config: Any) -> Any:
    quick = {"max_retries": 0, "timeout_seconds": 5, "tracking_uri": url}
    return ingest_into(gms, {"stateful_ingestion": {"enabled": True}, **quick, **config}, name="logged")


def _removed(gms: GmsStandIn) -> set[str]:
    return {urn for urn in gms.urns() if gms.is_removed(urn) and not urn.startswith("urn:li:dataJob:")}


def test_one_that_was_deleted_goes(server: MlflowServer, gms: GmsStandIn) -> None:
    short_lived = _log(server, "0", "short-lived")
    _ingest(gms, server.url)
    server.session.delete(f"{server.url}/api/2.0/mlflow/logged-models/{short_lived}").raise_for_status()
    pipeline = _ingest(gms, server.url)
    assert not pipeline.source.get_report().failures
    assert _removed(gms) == {_own(short_lived)}


def test_one_that_is_registered_later_keeps_its_entity(server: MlflowServer, gms: GmsStandIn) -> None:
    ours, theirs, new = (_log(server, "0", name) for name in ("ours", "theirs", "new"))
    _ingest(gms, server.url, logged_models={"pattern": {"deny": ["new"]}})
    written = DeprecationClass(deprecated=False, note="Looked at it, fine.", actor="urn:li:corpuser:grace")
    gms.write(_own(theirs), written)
    version = _register(server, "later ours", ours)
    _register(server, "later theirs", theirs)
    _register(server, "never an entity", new)
    for _ in range(2):  # the second time it was a version already
        pipeline = _ingest(gms, server.url)
        assert not pipeline.source.get_report().failures
        assert _removed(gms) == set()
        deprecation = gms.aspect(_own(ours), "deprecation")
        assert deprecation is not None
        assert (deprecation["deprecated"], deprecation["replacement"]) == (True, version)
        assert gms.aspect(_own(theirs), "deprecation") == written.to_obj()
        assert _own(new) not in gms.urns()
        assert gms.rejections == []


def test_what_cannot_be_read_stays_as_it_was(server: MlflowServer, gms: GmsStandIn) -> None:
    kept, folded = _log(server, "0", "kept"), _log(server, "0", "folded")
    version = _register(server, "folded", folded)
    _ingest(gms, server.url)
    before = gms.aspect(version, "mlModelProperties")
    with CountingProxy(server.url) as proxy:
        proxy.fail(_of_logged_models, status=403)
        pipeline = _ingest(gms, proxy.url)
    assert "logged models" in str(list(pipeline.source.get_report().failures))
    assert _removed(gms) == set()
    assert _own(kept) in gms.urns()
    assert gms.aspect(version, "mlModelProperties") == before


def _of_logged_models(request: Request) -> bool:
    return "logged-models" in request.path


def test_a_bad_row_is_left_out_and_named(server: MlflowServer, tmp_path: Path) -> None:
    experiment_id, (run_id,) = plain_runs(server, "with a bad one", 1)
    ids = sorted(_log(server, experiment_id, name, run_id) for name in "abcde")
    metric = {"key": "auc", "value": 0.5, "timestamp": 1, "step": 0}
    server.post("runs/log-metric", run_id=run_id, model_id=ids[2], **metric)
    server.execute("UPDATE logged_model_metrics SET metric_value = NULL WHERE model_id = ?", ids[2])
    try:
        found = _only(server, "with a bad one", tmp_path / "out.json")
        own = {urn for urn in found.urns("mlModel") if ",m-" in urn}
        assert own == {_own(model_id) for model_id in ids if model_id != ids[2]}
        (failure,) = found.report.failures
        assert failure.title == "MLflow can't serve it"
        assert "the one at place" in str(failure.context)
    finally:
        server.execute("UPDATE logged_model_metrics SET metric_value = 1 WHERE model_id = ?", ids[2])
