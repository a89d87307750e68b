"""What is gone from MLflow is soft-deleted, and nothing else: not what could not be read, not what people wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datahub.ingestion.run.pipeline import Pipeline
from datahub.metadata.schema_classes import (
    GlobalTagsClass,
    TagAssociationClass,
    TagPropertiesClass,
)

from datahub_mlflow_source.mapping.urns import (
    Naming,
    experiment_urn,
    model_group_urn,
    model_version_urn,
    stage_tag_urn,
)
from datahub_mlflow_source.readers import rest
from datahub_mlflow_source.report import MlflowSourceReport
from tests.support.content import bad_run_row, plain_runs
from tests.support.gms import GmsStandIn
from tests.support.ingest import ingest_into
from tests.support.proxy import CountingProxy, Request, everything
from tests.support.servers import MlflowServer, mlflow_server

PROD = Naming()
MODELS = tuple(f"model {number}" for number in range(8))
EXPERIMENTS = tuple(f"experiment {number}" for number in range(8))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("removal")) as server:
        for name in EXPERIMENTS:
            plain_runs(server, name, 1)
        for name in MODELS:
            server.post("registered-models/create", name=name)
            server.post("model-versions/create", name=name, source="s3://acme/model")
        yield server


@pytest.fixture
def gms() -> Iterator[GmsStandIn]:
    with GmsStandIn() as gms:
        yield gms


@pytest.fixture
def proxy(server: MlflowServer) -> Iterator[CountingProxy]:
    with CountingProxy(server.url) as proxy:
        yield proxy


def _ingest(gms: GmsStandIn, url: str, **config: Any) -> Pipeline:
    quick = {"max_retries": 0, "timeout_seconds": 5}
    return ingest_into(
        gms, {"tracking_uri": url, "stateful_ingestion": {"enabled": True}, **quick, **config}, name="removal"
    )


def _removed(gms: GmsStandIn) -> set[str]:
    """But for DataHub's own bookkeeping, whose dataJob is removed from birth."""
    return {urn for urn in gms.urns() if gms.is_removed(urn) and not urn.startswith("urn:li:dataJob:")}


def _failures(pipeline: Pipeline) -> str:
    return " ".join(str(failure) for failure in pipeline.source.get_report().failures)


def test_what_was_deleted_goes_and_the_rest_stays(server: MlflowServer, gms: GmsStandIn) -> None:
    server.post("registered-models/create", name="short-lived")
    server.post("model-versions/create", name="short-lived", source="s3://acme/model")
    experiment_id, _ = plain_runs(server, "also short-lived", 1)
    _ingest(gms, server.url)
    assert _removed(gms) == set()
    server.session.delete(f"{server.url}/api/2.0/mlflow/registered-models/delete", json={"name": "short-lived"})
    server.post("experiments/delete", experiment_id=experiment_id)
    pipeline = _ingest(gms, server.url)
    assert not pipeline.source.get_report().failures
    assert _removed(gms) == {
        str(model_group_urn("short-lived", PROD)),
        str(model_version_urn("short-lived", "1", PROD)),
        str(experiment_urn("also short-lived", PROD)),
    }


@pytest.mark.parametrize(
    "path",
    ["experiments/search", "registered-models/search", "model-versions/search", "logged-models/search", "runs/search"],
)
def test_a_listing_that_fails_removes_nothing(
    server: MlflowServer, gms: GmsStandIn, proxy: CountingProxy, path: str
) -> None:
    server.post("registered-models/create", name="deleted later")
    _ingest(gms, server.url)

    def after_the_check(request: Request) -> bool:
        """The first request of all only asks whether MLflow is there."""
        return path in request.path and not request.path.endswith("max_results=1")

    proxy.fail(after_the_check, status=503)
    pipeline = _ingest(gms, proxy.url)
    assert _removed(gms) == set()
    assert "listing" in _failures(pipeline)
    # And what was kept is still known: its real deletion is found afterwards.
    server.session.delete(f"{server.url}/api/2.0/mlflow/registered-models/delete", json={"name": "deleted later"})
    _ingest(gms, server.url)
    assert _removed(gms) == {str(model_group_urn("deleted later", PROD))}


@pytest.mark.parametrize("fault", ["refused", "login page", "unreachable", "not MLflow"])
def test_an_mlflow_that_cannot_be_read_removes_nothing(
    server: MlflowServer, gms: GmsStandIn, proxy: CountingProxy, fault: str
) -> None:
    _ingest(gms, server.url)
    if fault == "refused":
        proxy.fail(everything, status=401)
    elif fault == "login page":
        proxy.fail(everything, status=200, body="<html>Sign in</html>", headers={"Content-Type": "text/html"})
    elif fault == "not MLflow":
        proxy.fail(everything, status=404, body="<html>Not found</html>", headers={"Content-Type": "text/html"})
    url = "http://127.0.0.1:9" if fault == "unreachable" else proxy.url
    pipeline = _ingest(gms, url)
    assert pipeline.has_failures()
    assert _removed(gms) == set()


def test_a_permission_that_was_lost_removes_nothing(
    server: MlflowServer, gms: GmsStandIn, proxy: CountingProxy
) -> None:
    """MLflow leaves out of its searches what one may not read: 200 and nothing in it."""
    _ingest(gms, server.url)
    proxy.fail(
        lambda request: "registered-models" in request.path or "model-versions" in request.path, status=200, body="{}"
    )
    pipeline = _ingest(gms, proxy.url)
    assert "Too much is gone at once" in _failures(pipeline)
    assert _removed(gms) == set()


def test_a_row_that_is_bad_for_ever_does_not_stop_removal_for_ever(
    server: MlflowServer, gms: GmsStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "_SECONDS_TO_NAME_BAD_RUNS", 0.0)
    experiment_id, _ = plain_runs(server, "with a bad run", 3)
    server.post("registered-models/create", name="to go")
    bad_run_row(server, experiment_id, 1)
    for _ in range(2):
        assert "MLflow can't serve it" in _failures(_ingest(gms, server.url))
    server.session.delete(f"{server.url}/api/2.0/mlflow/registered-models/delete", json={"name": "to go"})
    pipeline = _ingest(gms, server.url)
    assert pipeline.has_failures()
    assert _removed(gms) == {str(model_group_urn("to go", PROD))}
    server.post("experiments/delete", experiment_id=experiment_id)


def test_an_answer_that_is_no_listing_removes_nothing(
    server: MlflowServer, gms: GmsStandIn, proxy: CountingProxy
) -> None:
    """Behind the first page, some proxy answers for MLflow: 200, JSON, and none of MLflow's."""
    _ingest(gms, server.url)
    expired = '{"error": "session expired", "code": 401}'
    for path in ("experiments/search", "registered-models/search", "model-versions/search", "runs/search"):

        def second_page(request: Request, path: str = path) -> bool:
            return path in request.path and "page_token" in request.path + request.body.decode()

        proxy.fail(second_page, status=200, body=expired, headers={"Content-Type": "application/json"})
    pipeline = _ingest(gms, proxy.url, page_size=4)
    assert pipeline.has_failures()
    assert _removed(gms) == set()


def test_a_model_that_goes_while_models_are_listed_takes_no_other_with_it(
    server: MlflowServer, gms: GmsStandIn, proxy: CountingProxy
) -> None:
    """MLflow's pages count rows from the start: one less before, and one behind is passed over."""
    server.post("registered-models/create", name="a model that goes")
    _ingest(gms, server.url)

    def goes_now(request: Request) -> bool:
        if "registered-models/search" in request.path and "page_token" in request.path:
            delete = f"{server.url}/api/2.0/mlflow/registered-models/delete"
            server.session.delete(delete, json={"name": "a model that goes"})
        return False

    proxy.fail(goes_now)
    pipeline = _ingest(gms, proxy.url, page_size=3, include_artifacts="none")
    assert not pipeline.has_failures()
    assert [warning.title for warning in pipeline.source.get_report().warnings] == ["MLflow changed while it was read"]
    assert _removed(gms) == set()
    _ingest(gms, server.url)
    assert _removed(gms) == {str(model_group_urn("a model that goes", PROD))}


def test_when_nothing_may_be_read_any_more_nothing_is_removed(
    server: MlflowServer, gms: GmsStandIn, proxy: CountingProxy
) -> None:
    _ingest(gms, server.url)
    before = {urn: gms.aspects(urn) for urn in gms.urns("mlModel")}
    proxy.fail(lambda request: "/search" in request.path, status=200, body="{}")
    pipeline = _ingest(gms, proxy.url)
    assert "Too much is gone at once" in _failures(pipeline)
    assert _removed(gms) == set()
    assert {urn: gms.aspects(urn) for urn in gms.urns("mlModel")} == before


def test_a_version_keeps_what_its_run_gave_it_when_that_can_no_longer_be_read(
    server: MlflowServer, gms: GmsStandIn
) -> None:
    experiment_id, (run_id, *_) = plain_runs(server, "of versions", 2)
    server.post("runs/log-parameter", run_id=run_id, key="depth", value="7")
    server.post("registered-models/create", name="of a bad run")
    server.post("model-versions/create", name="of a bad run", source="s3://acme/model", run_id=run_id)
    _ingest(gms, server.url)
    version = str(model_version_urn("of a bad run", "1", PROD))
    before = gms.aspects(version)
    assert before["mlModelProperties"]["hyperParams"]
    server.execute("UPDATE runs SET start_time = NULL WHERE run_uuid = ?", run_id)
    try:
        for seconds in (0.0, 60.0):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(rest, "_SECONDS_TO_NAME_BAD_RUNS", seconds)
                pipeline = _ingest(gms, server.url)
            report = pipeline.source.get_report()
            assert isinstance(report, MlflowSourceReport)
            assert report.runs.unreadable == 1
            assert gms.aspects(version) == before
            assert _removed(gms) == set()
    finally:
        server.post("experiments/delete", experiment_id=experiment_id)
        server.session.delete(f"{server.url}/api/2.0/mlflow/registered-models/delete", json={"name": "of a bad run"})


def test_a_rename_is_reported(server: MlflowServer, gms: GmsStandIn) -> None:
    experiment_id, _ = plain_runs(server, "before", 1)
    _ingest(gms, server.url)
    server.post("experiments/update", experiment_id=experiment_id, new_name="after")
    pipeline = _ingest(gms, server.url)
    assert _removed(gms) == {str(experiment_urn("before", PROD))}
    infos = " ".join(str(info) for info in pipeline.source.get_report().infos)
    assert "'before' is now 'after'" in infos


def test_tags_that_people_added_stay_and_the_stage_follows_mlflow(server: MlflowServer, gms: GmsStandIn) -> None:
    name, version = MODELS[0], str(model_version_urn(MODELS[0], "1", PROD))
    _ingest(gms, server.url)
    by_hand = GlobalTagsClass(
        [TagAssociationClass("urn:li:tag:reviewed"), TagAssociationClass("urn:li:tag:mlflow_none")]
    )
    gms.write(version, by_hand)
    for stage, expected in (("Staging", {"mlflow_staging"}), ("Production", {"mlflow_production"}), ("None", set())):
        server.post("model-versions/transition-stage", name=name, version="1", stage=stage)
        _ingest(gms, server.url)
        tags = (gms.aspect(version, "globalTags") or {})["tags"]
        assert {tag["tag"] for tag in tags} == {"urn:li:tag:reviewed", *(f"urn:li:tag:{tag}" for tag in expected)}
    assert gms.rejections == []


def test_a_stage_tag_that_people_rewrote_stays_so(server: MlflowServer, gms: GmsStandIn) -> None:
    tag = str(stage_tag_urn("Production"))
    _ingest(gms, server.url)
    gms.write(tag, TagPropertiesClass(name="mlflow_production", description="Approved by risk", colorHex="#000000"))
    _ingest(gms, server.url)
    assert (gms.aspect(tag, "tagProperties") or {})["description"] == "Approved by risk"
    assert not gms.is_removed(tag)


def test_a_file_keeps_the_state_too(server: MlflowServer, gms: GmsStandIn, tmp_path: Path) -> None:
    """The state provider `file`, for who has no DataHub server to keep it."""
    state = {"enabled": True, "state_provider": {"type": "file", "config": {"filename": str(tmp_path / "state.json")}}}
    server.post("registered-models/create", name="in a file")
    _ingest(gms, server.url, stateful_ingestion=state)
    server.session.delete(f"{server.url}/api/2.0/mlflow/registered-models/delete", json={"name": "in a file"})
    _ingest(gms, server.url, stateful_ingestion=state)
    assert _removed(gms) == {str(model_group_urn("in a file", PROD))}


def test_a_server_that_takes_no_patches_of_tags_gets_none_and_is_told_once(server: MlflowServer) -> None:
    with GmsStandIn(version="v1.1.0") as gms:
        infos = list(_ingest(gms, server.url).source.get_report().infos)
        (told,) = [info for info in infos if info.title == "Left out for this DataHub"]
        assert list(told.context) == ["v1.1.0: globalTags"]
        assert all("globalTags" not in gms.aspects(urn) for urn in gms.urns("mlModel"))
        assert gms.rejections == []
