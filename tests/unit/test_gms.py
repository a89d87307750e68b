"""The stand-in of DataHub's server as DataHub's own client sees it: pipelines, graph, state, failures."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
from datahub.configuration.common import GraphError, OperationalError
from datahub.emitter.mcp import MetadataChangeProposalWrapper as Proposal
from datahub.emitter.rest_emitter import DatahubRestEmitter
from datahub.ingestion.graph.client import DataHubGraph
from datahub.ingestion.graph.config import DatahubClientConfig
from datahub.ingestion.graph.filters import RemovedStatusFilter
from datahub.ingestion.run import pipeline as pipeline_module
from datahub.ingestion.run.pipeline import Pipeline
from datahub.metadata import schema_classes as dh

from tests.support.gms import GmsStandIn, Rejection

MODEL = "urn:li:mlModel:(urn:li:dataPlatform:mlflow,churn_1,PROD)"
OTHER_MODEL = "urn:li:mlModel:(urn:li:dataPlatform:mlflow,churn_2,PROD)"
GROUP = "urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,模型/卡,PROD)"
RUN = "urn:li:dataProcessInstance:r1"
TAG = "urn:li:tag:mlflow_production"
BATCH = ("POST", "/aspects?action=ingestProposalBatch")
CHECKPOINT = ("POST", "/aspects?action=getTimeseriesAspectValues")
SINGLE = ("POST", "/aspects?action=ingestProposal")


@pytest.fixture
def gms() -> Iterator[GmsStandIn]:
    with GmsStandIn() as server:
        yield server


@pytest.fixture
def graph(gms: GmsStandIn) -> Iterator[DataHubGraph]:
    client = DataHubGraph(DatahubClientConfig(server=gms.url))
    yield client
    client.close()


@pytest.fixture(autouse=True)
def _no_version_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline asks the package index and GitHub for newer versions each time; there is no switch."""
    monkeypatch.setattr(pipeline_module, "retrieve_version_stats", lambda **_: None)


def make_model(*, tags: Sequence[str] = ()) -> list[Proposal]:
    properties = dh.MLModelPropertiesClass(groups=[GROUP], customProperties={"owner": "Zoë"})
    applied = dh.GlobalTagsClass([dh.TagAssociationClass(tag) for tag in tags])
    return [
        Proposal(entityUrn=MODEL, aspect=properties),
        Proposal(entityUrn=MODEL, aspect=applied),
        Proposal(entityUrn=RUN, aspect=dh.DataProcessInstanceRunEventClass(timestampMillis=1, status="STARTED")),
    ]


def ingest(gms: GmsStandIn, folder: Path, proposals: Sequence[Proposal], **sink: Any) -> Pipeline:
    file = folder / "proposals.json"
    file.write_text(json.dumps([proposal.to_obj() for proposal in proposals]))
    stateful = {"enabled": True, "remove_stale_metadata": True, "fail_safe_threshold": 100}
    recipe = {
        "pipeline_name": "nightly",
        "source": {"type": "file", "config": {"path": str(file), "stateful_ingestion": stateful}},
        "sink": {"type": "datahub-rest", "config": {"server": gms.url, **sink}},
    }
    run = Pipeline.create(recipe)
    run.run()
    assert not run.source.get_report().failures
    return run


@pytest.mark.parametrize(
    ("sink", "requests_sent"),
    [
        ({}, {BATCH: 1, SINGLE: 3}),  # the three: that there is an ingestion, and its checkpoint
        ({"mode": "ASYNC"}, {SINGLE: 10}),
        ({"mode": "SYNC"}, {SINGLE: 10}),
        ({"endpoint": "OPENAPI"}, {("POST", "/openapi/v3/entity"): 4, ("PATCH", "/openapi/v3/entity"): 2, SINGLE: 3}),
    ],
    ids=str,
)
def test_pipeline_lands_in_the_store(
    gms: GmsStandIn, tmp_path: Path, sink: dict[str, str], requests_sent: dict[tuple[str, str], int]
) -> None:
    run = ingest(gms, tmp_path, make_model(tags=[TAG]), **sink)
    assert not run.sink.get_report().failures
    assert gms.rejections == []
    assert gms.urns("mlModel") == [MODEL]
    assert gms.aspect(MODEL, "mlModelProperties") == {
        "customProperties": {"owner": "Zoë"},
        "groups": [GROUP],
        "tags": [],
    }
    assert gms.aspect(MODEL, "status") == {"removed": False}  # a PATCH, by the framework
    assert [event["status"] for event in gms.timeseries(RUN, "dataProcessInstanceRunEvent")] == ["STARTED"]
    assert gms.requests == {("GET", "/config"): 2, CHECKPOINT: 1} | requests_sent


def test_second_ingestion_removes_what_is_gone(gms: GmsStandIn, tmp_path: Path) -> None:
    """The checkpoint goes round: kept by the server as a timeseries aspect, and found again by pipeline name."""
    gone = Proposal(entityUrn=OTHER_MODEL, aspect=dh.MLModelPropertiesClass())
    ingest(gms, tmp_path, [*make_model(), gone])
    assert gms.urns("mlModel", include_removed=False) == [MODEL, OTHER_MODEL]
    ingest(gms, tmp_path, make_model())
    assert gms.urns("mlModel", include_removed=False) == [MODEL]
    assert gms.urns("mlModel") == [MODEL, OTHER_MODEL]
    assert gms.is_removed(OTHER_MODEL)
    (job,) = gms.urns("dataJob")
    assert len(gms.timeseries(job, "datahubIngestionCheckpoint")) == 2


@pytest.mark.parametrize(
    ("mode", "name"),
    [("ASYNC_BATCH", "模型/卡"), ("ASYNC", "\\u6a21\\u578b/\\u5361"), ("SYNC", "\\u6a21\\u578b/\\u5361")],
)
def test_client_spoils_urns_that_are_not_ascii_unless_it_sends_batches(
    gms: GmsStandIn, tmp_path: Path, mode: str, name: str
) -> None:
    """A defect of acryl-datahub 1.7.0 (`preserve_unicode_escapes` in emit_mcp): another entity is written."""
    ingest(gms, tmp_path, [Proposal(entityUrn=GROUP, aspect=dh.MLModelGroupPropertiesClass())], mode=mode)
    assert gms.urns("mlModelGroup") == [GROUP.replace("模型/卡", name)]


# What DataHubGraph reads and deletes


def test_graph_reads_what_was_written(gms: GmsStandIn, graph: DataHubGraph) -> None:
    assert not graph.exists(GROUP)
    assert graph.get_aspect(GROUP, dh.GlobalTagsClass) is None
    tags = dh.GlobalTagsClass([dh.TagAssociationClass(TAG)])
    gms.write(GROUP, tags)
    gms.write(GROUP, dh.MLModelGroupPropertiesClass(name="模型", customProperties={"a": "é"}))
    assert graph.exists(GROUP)
    assert graph.get_aspect(GROUP, dh.GlobalTagsClass) == tags
    assert graph.get_entity_semityped(GROUP) == {
        "mlModelGroupKey": dh.MLModelGroupKeyClass("urn:li:dataPlatform:mlflow", "模型/卡", "PROD"),
        "globalTags": tags,
        "mlModelGroupProperties": dh.MLModelGroupPropertiesClass(name="模型", customProperties={"a": "é"}),
    }
    assert graph.get_entity_semityped(GROUP, ["globalTags"]).keys() == {"mlModelGroupKey", "globalTags"}


def test_graph_gets_unions_in_the_form_it_reads(gms: GmsStandIn, graph: DataHubGraph) -> None:
    text = dh.SchemaFieldDataTypeClass(dh.StringTypeClass())  # type: ignore[no-untyped-call]
    schema = dh.SchemaMetadataClass(
        schemaName="s",
        platform="urn:li:dataPlatform:s3",
        version=0,
        hash="",
        platformSchema=dh.OtherSchemaClass(rawSchema="x"),
        fields=[dh.SchemaFieldClass("a", text, "str")],
    )
    urn = "urn:li:dataset:(urn:li:dataPlatform:s3,lake/a b.csv,PROD)"
    gms.write(urn, schema)
    assert graph.get_schema_metadata(urn) == schema


def test_graph_finds_urns_by_type_platform_and_removal(gms: GmsStandIn, graph: DataHubGraph) -> None:
    on_mlflow = dh.DataPlatformInstanceClass("urn:li:dataPlatform:mlflow")
    for urn in (MODEL, OTHER_MODEL, GROUP, RUN):
        gms.write(urn, on_mlflow)
    elsewhere = "urn:li:mlModel:(urn:li:dataPlatform:sagemaker,a,PROD)"
    gms.write(elsewhere, dh.StatusClass())
    gms.write(OTHER_MODEL, dh.StatusClass(removed=True))

    def find(**filters: Any) -> list[str]:
        return list(graph.get_urns_by_filter(platform="mlflow", batch_size=1, **filters))

    assert find() == find(status=None) == [RUN, MODEL, GROUP]
    assert find(entity_types=["mlModel"]) == [MODEL]
    assert find(entity_types=["mlModel"], status=RemovedStatusFilter.ALL) == [MODEL, OTHER_MODEL]
    assert find(status=RemovedStatusFilter.ONLY_SOFT_DELETED) == [OTHER_MODEL]
    assert graph.list_all_entity_urns("mlModel", 1, 5) == [
        OTHER_MODEL,
        OTHER_MODEL.replace("mlflow,churn_2", "sagemaker,a"),
    ]


def test_graph_reads_events_newest_first(gms: GmsStandIn, graph: DataHubGraph) -> None:
    for time, status in ((1, "STARTED"), (3, "COMPLETE"), (2, "STARTED")):
        gms.write(RUN, dh.DataProcessInstanceRunEventClass(timestampMillis=time, status=status))

    def read(limit: int, *statuses: str) -> list[int]:
        criteria = {"or": [{"and": [{"field": "status", "values": statuses, "condition": "EQUAL"}]}]}
        events = graph.get_timeseries_values(RUN, dh.DataProcessInstanceRunEventClass, criteria, limit)
        return [event.timestampMillis for event in events]

    assert read(10, "STARTED", "COMPLETE") == [3, 2, 1]
    assert read(10, "STARTED") == [2, 1]
    assert read(1, "STARTED") == [2]


@pytest.mark.parametrize(
    ("query", "filters", "message"),
    [
        ("{ me { corpUser { urn } } }", {}, "answers scrollAcrossEntities only"),
        (None, {"env": "PROD"}, "can't filter by"),
        (None, {"query": "churn"}, "no full-text search"),
    ],
)
def test_questions_that_it_cannot_answer_get_an_error(
    gms: GmsStandIn, graph: DataHubGraph, query: str | None, filters: dict[str, str], message: str
) -> None:
    gms.write(MODEL, dh.StatusClass())
    with pytest.raises(GraphError, match=message):
        graph.execute_graphql(query) if query else list(graph.get_urns_by_filter(**filters))  # type: ignore[arg-type]
    assert requests.get(f"{gms.url}/openapi/v1/registry", timeout=5).status_code == 404


def test_hard_delete_leaves_nothing(gms: GmsStandIn, graph: DataHubGraph) -> None:
    gms.write(RUN, dh.StatusClass())
    gms.write(RUN, dh.DataProcessInstanceRunEventClass(timestampMillis=1, status="STARTED"))
    assert graph.hard_delete_timeseries_aspect(RUN, "dataProcessInstanceRunEvent", None, None) == 1
    gms.write(RUN, dh.DataProcessInstanceRunEventClass(timestampMillis=1, status="STARTED"))
    assert graph.hard_delete_entity(RUN) == (2, 1)
    assert gms.urns() == []
    assert gms.timeseries(RUN, "dataProcessInstanceRunEvent") == []
    gms.write(MODEL, dh.StatusClass())
    assert requests.delete(f"{gms.url}/openapi/v3/entity/mlModel/{MODEL}", timeout=5).ok
    assert not gms.aspects(MODEL)


# Refusals


def make_batch() -> list[Proposal]:
    """The second is bad: a model cannot have been trained by a group."""
    return [
        Proposal(entityUrn=MODEL, aspect=dh.MLModelPropertiesClass(name="good")),
        Proposal(entityUrn=OTHER_MODEL, aspect=dh.MLModelPropertiesClass(trainingJobs=[GROUP])),
        Proposal(entityUrn=RUN, aspect=dh.StatusClass()),
    ]


def test_bad_write_is_a_failure_of_the_sink(gms: GmsStandIn, tmp_path: Path) -> None:
    run = ingest(gms, tmp_path, make_batch())
    (failure,) = {failure["info"]["status"] for failure in run.sink.get_report().failures}
    assert failure == 422
    (rejection,) = gms.rejections
    assert (rejection.urn, rejection.aspect) == (OTHER_MODEL, "mlModelProperties")
    assert "is not a valid destination for field path: /trainingJobs/0" in rejection.message


@pytest.mark.parametrize(
    ("is_async", "validate_async", "status", "written"),
    [
        (False, True, 422, []),
        (True, True, 422, [RUN, MODEL]),
        (True, False, 200, [RUN, MODEL]),
    ],
)
def test_one_bad_write_in_a_batch(is_async: bool, validate_async: bool, status: int, written: list[str]) -> None:
    with GmsStandIn(validate_async=validate_async) as gms:
        assert send(gms, make_batch(), is_async=is_async).status_code == status
        assert gms.urns() == written
        assert [rejection.urn for rejection in gms.rejections] == [OTHER_MODEL]


def send(gms: GmsStandIn, batch: Sequence[Proposal], is_async: bool) -> requests.Response:
    body = {"proposals": [proposal.to_obj() for proposal in batch], "async": str(is_async).lower()}
    return requests.post(f"{gms.url}/aspects?action=ingestProposalBatch", json=body, timeout=5)


def test_refused_batch_leaves_what_was_there_before(gms: GmsStandIn) -> None:
    before = dh.MLModelPropertiesClass(name="before")
    gms.write(MODEL, before)
    assert send(gms, make_batch(), is_async=False).status_code == 422
    assert gms.aspect(MODEL, "mlModelProperties") == {"customProperties": {}, "name": "before", "tags": []}


def test_error_has_the_form_that_the_client_expects(gms: GmsStandIn) -> None:
    emitter = DatahubRestEmitter(gms.url)
    with pytest.raises(OperationalError) as caught:
        emitter.emit(make_batch()[1])
    emitter.close()
    assert caught.value.info["exceptionClass"] == "com.linkedin.restli.server.RestLiServiceException"
    assert caught.value.info["status"] == 422
    assert OTHER_MODEL in caught.value.message


def test_refuse_answers_for_chosen_writes(gms: GmsStandIn) -> None:
    gms.refuse = lambda urn, aspect: 403 if (urn, aspect) == (RUN, "status") else None
    good, _, refused = make_batch()
    assert send(gms, [good, refused], is_async=True).status_code == 403
    assert gms.urns() == [MODEL]
    assert gms.rejections == [Rejection(RUN, "status", "refused, as the test asked for", 403)]


def test_failing_server_looks_at_nothing_and_may_recover(gms: GmsStandIn) -> None:
    answers = iter([500, 429])
    gms.refuse = lambda _urn, _aspect: next(answers, None)
    good = make_batch()[:1]
    assert [send(gms, good, is_async=True).status_code for _ in range(3)] == [500, 429, 200]
    assert gms.rejections == []
    assert gms.urns() == [MODEL]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "not JSON"),
        ('{"proposal": {"entityUrn": "urn:li:tag:a"}}', "a proposal without 'entityType'"),
        (
            '{"proposal": {"entityUrn": "urn:li:tag:a", "entityType": "tag", "changeType": "UPSERT", '
            '"aspectName": "status", "aspect": {"value": {}, "contentType": "application/json"}}}',
            "a field that is no text",
        ),
        (
            '{"proposal": {"entityUrn": "urn:li:tag:a", "entityType": "tag", "changeType": "PATCH", '
            '"aspectName": "status", "aspect": {"value": "[]", "contentType": "application/json"}}}',
            "PATCH of status with content type application/json",
        ),
        (
            '{"proposal": {"entityUrn": "urn:li:tag:a", "entityType": "tag", "changeType": "UPSERT", '
            '"aspectName": "tagProperties", "aspect": {"value": "{\\"name\\": \\"é\\"}", '
            '"contentType": "application/json"}}}',
            "anything but ASCII",
        ),
    ],
)
def test_what_cannot_be_read_is_a_bad_request(gms: GmsStandIn, body: str, message: str) -> None:
    response = requests.post(f"{gms.url}/aspects?action=ingestProposal", data=body.encode(), timeout=5)
    assert response.status_code == 400
    assert message in response.json()["message"]


def test_change_types_that_clients_do_not_send_are_refused(gms: GmsStandIn) -> None:
    proposal = make_batch()[0]
    proposal.changeType = "CREATE"
    assert "changeType CREATE" in send(gms, [proposal], is_async=False).json()["message"]


# The stand-in as a tool


def test_defect_of_the_stand_in_is_raised_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError), GmsStandIn() as gms:  # noqa: PT012 - raised on leaving
        monkeypatch.setattr(gms, "_config", lambda: 1 / 0)
        assert requests.get(f"{gms.url}/config", timeout=5).status_code == 400


def test_reports_the_version_it_is_given() -> None:
    with GmsStandIn(version="v1.3.0", patch_capable=False) as gms:
        config = requests.get(f"{gms.url}/config", timeout=5).json()
    assert config["versions"]["acryldata/datahub"]["version"] == "v1.3.0"
    assert config["patchCapable"] is False


def test_for_benchmarks_it_answers_and_forgets(tmp_path: Path) -> None:
    with GmsStandIn(validate=False) as gms:
        run = ingest(gms, tmp_path, make_batch())
        assert not run.sink.get_report().failures
        assert gms.requests[BATCH] == 1
        assert gms.urns() == []
        assert gms.rejections == []


def test_what_it_gives_out_is_a_copy(gms: GmsStandIn) -> None:
    gms.write(MODEL, dh.GlobalTagsClass([dh.TagAssociationClass(TAG)]))
    (gms.aspect(MODEL, "globalTags") or {})["tags"].clear()
    gms.aspects(MODEL)["globalTags"]["tags"].clear()
    assert gms.aspect(MODEL, "globalTags") == {"tags": [{"tag": TAG}]}


def test_stopping_closes_connections_that_clients_keep_open() -> None:
    before = threading.active_count()
    with requests.Session() as session:
        with GmsStandIn() as gms:
            session.get(f"{gms.url}/config", timeout=5)
            url = gms.url
        assert threading.active_count() == before
        with pytest.raises(requests.ConnectionError):
            session.get(f"{url}/config", timeout=5)
