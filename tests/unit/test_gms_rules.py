"""What the stand-in of DataHub's server refuses: a write that breaks each rule, and its neighbour that does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from datahub.emitter.mcp import MetadataChangeProposalWrapper
from datahub.metadata import schema_classes as dh

from tests.support.gms import GmsStandIn

MODEL = "urn:li:mlModel:(urn:li:dataPlatform:mlflow,churn_1,PROD)"
OTHER_MODEL = "urn:li:mlModel:(urn:li:dataPlatform:mlflow,churn_2,PROD)"
GROUP = "urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,churn,PROD)"
RUN = "urn:li:dataProcessInstance:r1"
DATASET = "urn:li:dataset:(urn:li:dataPlatform:s3,lake/train.csv,PROD)"
VERSION_SET = "urn:li:versionSet:(v,mlModel)"
CONTAINER = "urn:li:container:e1"
GENERATED = "ALPHANUMERIC_GENERATED_BY_DATAHUB"
PROPERTY = "urn:li:structuredProperty:risk"
RED = "urn:li:tag:red"
DEFINITION: dict[str, Any] = {
    "qualifiedName": "risk",
    "valueType": "urn:li:dataType:datahub.string",
    "entityTypes": ["urn:li:entityType:datahub.mlModel"],
}
TEXT = dh.SchemaFieldDataTypeClass(dh.StringTypeClass())  # type: ignore[no-untyped-call]


@pytest.fixture
def gms() -> Iterator[GmsStandIn]:
    with GmsStandIn() as server:
        yield server


def group_urn(name: str) -> str:
    return f"urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,{name},PROD)"


def refusal(gms: GmsStandIn, urn: str, aspect: str, value: Any) -> str | None:
    """Send one UPSERT; the server's message if it refuses, None if it stores what was sent."""
    proposal = {
        "entityUrn": urn,
        "entityType": urn.split(":")[2],
        "changeType": "UPSERT",
        "aspectName": aspect,
        "aspect": {"value": json.dumps(value), "contentType": "application/json"},
    }
    response = requests.post(f"{gms.url}/aspects?action=ingestProposal", json={"proposal": proposal}, timeout=5)
    if response.status_code == 200:
        assert response.json() == {"value": "success"}
        assert not gms.rejections
        return None
    assert response.status_code == 422
    (rejection,) = gms.rejections
    assert (rejection.urn, rejection.aspect) == (urn, aspect)
    assert gms.aspect(urn, aspect) is None
    return rejection.message


def to_json(aspect: dh._Aspect) -> Any:
    wrapper = MetadataChangeProposalWrapper(entityUrn=MODEL, aspect=aspect)
    return wrapper.to_obj(simplified_structure=True)["aspect"]["json"]


# Urns


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        (group_urn("a" * 438), group_urn("a" * 439), "longer than 512 bytes"),
        (group_urn(" .-*_Z" * 73), group_urn(" .-*_Z" * 73 + "a"), "longer than 512 bytes"),
        (group_urn("~" * 146), group_urn("~" * 147), "longer than 512 bytes"),
        (group_urn("ab/" * 87), group_urn("ab/" * 88), "longer than 512 bytes"),
        (group_urn("模" * 48), group_urn("模" * 49), "longer than 512 bytes"),
        ("urn:li:tag:a b", "urn:li:tag:a ", "whitespace"),
        (group_urn("a%E2%90%9Fb"), group_urn("a\u241fb"), "cannot contain"),
        (group_urn("a%2Cb"), group_urn("a,b"), "do not have same length"),
        (group_urn("a%28b%29"), group_urn("a(b)"), "Illegal characters"),
        (group_urn("a"), group_urn("a("), "unbalanced parentheses"),
        (group_urn("a"), group_urn(""), "a part of the tuple is empty"),
        ("urn:li:tag:a%2Cb", "urn:li:tag:a,b", "Illegal characters"),
        ("urn:li:tag:a", "urn:li:tag:", "Urn has no key"),
        (group_urn("a"), group_urn("a").replace("PROD", "PROT"), "not an enum symbol"),
        (group_urn("a"), group_urn("a").replace("dataPlatform", "container"), "not a valid destination"),
        (group_urn("a"), group_urn("a").replace("dataPlatform", "dataPlatfrom"), "Failed to find entity"),
    ],
)
def test_urn_of_an_entity(gms: GmsStandIn, good: str, bad: str, message: str) -> None:
    assert refusal(gms, good, "status", {"removed": False}) is None
    assert message in str(refusal(gms, bad, "status", {"removed": False}))


def test_schema_fields_may_be_longer_than_512_bytes(gms: GmsStandIn) -> None:
    field = f"urn:li:schemaField:({DATASET},{'a' * 600})"
    assert refusal(gms, field, "status", {"removed": False}) is None


def test_entity_must_be_in_the_registry(gms: GmsStandIn) -> None:
    assert "Failed to find entity with name mlModle" in str(refusal(gms, "urn:li:mlModle:a", "status", {}))


def test_entity_type_must_be_that_of_the_urn(gms: GmsStandIn) -> None:
    proposal = MetadataChangeProposalWrapper(entityUrn=GROUP, aspect=dh.StatusClass()).make_mcp().to_obj()
    proposal["entityType"] = "mlModel"
    response = requests.post(f"{gms.url}/aspects?action=ingestProposal", json={"proposal": proposal}, timeout=5)
    assert response.status_code == 422
    assert "URN entity type does not match MCP entity type" in response.json()["message"]


# Registry and schema


@pytest.mark.parametrize(
    ("good", "bad", "aspect", "value"),
    [
        (MODEL, RUN, "globalTags", {"tags": []}),
        (RUN, VERSION_SET, "status", {"removed": True}),
        (MODEL, GROUP, "versionProperties", {"versionSet": VERSION_SET, "version": {}, "sortId": "1"}),
        ("urn:li:tag:t", MODEL, "tagProperties", {"name": "t"}),
    ],
)
def test_aspect_must_be_one_of_the_entity(gms: GmsStandIn, good: str, bad: str, aspect: str, value: Any) -> None:
    assert refusal(gms, good, aspect, value) is None
    assert f"Unknown aspect {aspect} for entity" in str(refusal(gms, bad, aspect, value))


@pytest.mark.parametrize(
    ("aspect", "good", "bad", "message"),
    [
        ("status", {"removed": True}, {"removed": "true"}, "/removed :: true cannot be coerced to Boolean"),
        ("status", {}, {"removed": None}, "/removed :: None cannot be coerced"),
        ("status", {"removed": True}, {"removed": True, "by": "me"}, "/by :: unrecognized field"),
        ("status", {}, [], "cannot be coerced to a record"),
        ("subTypes", {"typeNames": ["a"]}, {}, "/typeNames :: field is required"),
        ("subTypes", {"typeNames": ["a"]}, {"typeNames": "a"}, "cannot be coerced to an array"),
        ("subTypes", {"typeNames": ["a"]}, {"typeNames": ["a", 1]}, "/typeNames/1 :: 1 cannot be coerced to String"),
        ("mlModelProperties", {"customProperties": {"a": "1"}}, {"customProperties": {"a": 1}}, "/customProperties/a"),
        ("mlModelProperties", {"customProperties": {}}, {"customProperties": []}, "cannot be coerced to a map"),
        ("mlModelProperties", {"date": 2**62}, {"date": 2**63}, "/date"),
        ("mlModelProperties", {"date": 1}, {"date": True}, "/date"),
        ("mlModelProperties", {"date": 1}, {"date": 1.0}, "/date"),
        (
            "mlModelProperties",
            {"trainingMetrics": [{"name": "auc", "value": "nan"}]},
            {"trainingMetrics": [{"name": "auc", "value": "0.9", "step": 1}]},
            "/trainingMetrics/0/step :: unrecognized field",
        ),
        (
            "sourceCode",
            {"sourceCode": [{"type": "ML_MODEL_SOURCE_CODE", "sourceCodeUrl": "https://e.org"}]},
            {"sourceCode": [{"type": "SOURCE", "sourceCodeUrl": "https://e.org"}]},
            "not an enum symbol",
        ),
        (
            "cost",
            {"costType": "ORG_COST_TYPE", "cost": {"costId": 1}},
            {"cost": {"costId": 1, "costCode": "a"}},
            "/cost",
        ),
        ("mlModelProperties", {"hyperParameters": {"a": {"int": 1}}}, {"hyperParameters": {"a": 1}}, "a union of"),
    ],
)
def test_value_must_follow_the_schema(gms: GmsStandIn, aspect: str, good: Any, bad: Any, message: str) -> None:
    assert message in str(refusal(gms, OTHER_MODEL, aspect, bad))
    gms.rejections.clear()
    assert refusal(gms, MODEL, aspect, good) is None
    assert gms.aspect(MODEL, aspect) == good


def test_numbers_that_json_does_not_have_are_refused(gms: GmsStandIn) -> None:
    raw = '{"costType": "ORG_COST_TYPE", "cost": {"costId": NaN}}'
    proposal = MetadataChangeProposalWrapper(entityUrn=MODEL, aspect=dh.StatusClass()).make_mcp().to_obj()
    proposal |= {"aspectName": "cost", "aspect": {"value": raw, "contentType": "application/json"}}
    response = requests.post(f"{gms.url}/aspects?action=ingestProposal", json={"proposal": proposal}, timeout=5)
    assert response.status_code == 400
    assert "NaN is not a number in JSON" in gms.rejections[0].message


@pytest.mark.parametrize(
    ("urn", "aspect"),
    [
        (MODEL, dh.CostClass("ORG_COST_TYPE", dh.CostCostClass(costCode="a", fieldDiscriminator="costCode"))),
        (RUN, dh.DataProcessInstanceInputClass(inputs=[], inputEdges=[dh.EdgeClass(DATASET, properties={"a": "b"})])),
        (
            "urn:li:dataJob:(urn:li:dataFlow:(airflow,f,PROD),j)",
            dh.DataJobInfoClass(name="j", type=dh.AzkabanJobTypeClass.COMMAND),
        ),
        (DATASET, dh.BrowsePathsV2Class([dh.BrowsePathEntryClass("lake", urn=CONTAINER)])),
        (
            DATASET,
            dh.SchemaMetadataClass(
                schemaName="s",
                platform="urn:li:dataPlatform:s3",
                version=0,
                hash="",
                platformSchema=dh.OtherSchemaClass(rawSchema=""),
                fields=[dh.SchemaFieldClass("a", TEXT, "str")],
            ),
        ),
    ],
)
def test_what_the_client_makes_of_its_own_classes_is_accepted(gms: GmsStandIn, urn: str, aspect: dh._Aspect) -> None:
    gms.write(urn, aspect)
    assert gms.aspect(urn, aspect.get_aspect_name()) == to_json(aspect)


def test_key_aspect_is_created_with_the_first_write_of_an_entity(gms: GmsStandIn) -> None:
    gms.write(MODEL, dh.StatusClass(removed=False))
    key = {"platform": "urn:li:dataPlatform:mlflow", "name": "churn_1", "origin": "PROD"}
    assert gms.aspects(MODEL) == {"mlModelKey": key, "status": {"removed": False}}


def test_key_aspect_must_be_that_of_the_urn(gms: GmsStandIn) -> None:
    assert refusal(gms, "urn:li:tag:a", "tagKey", {"name": "a"}) is None
    assert "is not that of urn:li:tag:b" in str(refusal(gms, "urn:li:tag:b", "tagKey", {"name": "a"}))


# Urns inside aspects


@pytest.mark.parametrize(
    ("urn", "aspect", "template", "good", "bad"),
    [
        (RUN, "dataProcessInstanceInput", {"inputs": [], "inputEdges": [{"destinationUrn": "?"}]}, DATASET, GROUP),
        (RUN, "dataProcessInstanceOutput", {"outputs": [], "outputEdges": [{"destinationUrn": "?"}]}, MODEL, CONTAINER),
        (RUN, "dataProcessInstanceRelationships", {"upstreamInstances": [], "parentInstance": "?"}, RUN, CONTAINER),
        (RUN, "container", {"container": "?"}, CONTAINER, GROUP),
        (MODEL, "mlModelProperties", {"trainingJobs": ["?"]}, RUN, MODEL),
        (MODEL, "mlModelProperties", {"groups": ["?"]}, GROUP, MODEL),
        (MODEL, "ownership", {"owners": [{"owner": "?", "type": "DATAOWNER"}]}, "urn:li:corpGroup:g", CONTAINER),
        (MODEL, "globalTags", {"tags": [{"tag": "?"}]}, "urn:li:tag:a", "urn:li:glossaryTerm:a"),
        (MODEL, "domains", {"domains": ["?"]}, "urn:li:domain:a", "urn:li:tag:a"),
        (MODEL, "versionProperties", {"versionSet": "?", "version": {}, "sortId": "1"}, VERSION_SET, GROUP),
        (MODEL, "mlModelProperties", {"created": {"time": 1, "actor": "?"}}, "urn:li:corpuser:a", "alice"),
        (MODEL, "mlModelProperties", {"created": {"time": 1, "actor": "?"}}, "urn:li:corpuser:a", "urn:li:person:a"),
        (MODEL, "mlModelTrainingData", {"trainingData": [{"dataset": "?"}]}, DATASET, f"{DATASET[:-6]},PRD,x)"),
        (MODEL, "dataPlatformInstance", {"platform": "?"}, "urn:li:dataPlatform:mlflow", "mlflow"),
        (PROPERTY, "propertyDefinition", DEFINITION | {"allowedPlatforms": ["?"]}, "urn:li:dataPlatform:s3", RED),
    ],
)
def test_urn_in_an_aspect(gms: GmsStandIn, urn: str, aspect: str, template: Any, good: str, bad: str) -> None:
    text = json.dumps(template)
    assert f'"Provided urn {bad}" is invalid' in str(refusal(gms, urn, aspect, json.loads(text.replace("?", bad))))
    gms.rejections.clear()
    assert refusal(gms, urn, aspect, json.loads(text.replace("?", good))) is None


# Versions


def version(number: int, **changes: Any) -> dict[str, Any]:
    value = {"versionSet": VERSION_SET, "version": {"versionTag": str(number)}, "sortId": f"{number:010}"}
    return value | changes


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (version(2, isLatest=True), "IsLatest should not be specified"),
        (version(2, versionSet="urn:li:versionSet:(v,dataset)"), "entity type does not match, expected type: dataset"),
        (version(2, versioningScheme=GENERATED, sortId="AAAAAAAA"), "Scheme does not match"),
        (
            version(2, versioningScheme=GENERATED, versionSet="urn:li:versionSet:(w,mlModel)"),
            "Invalid sortID",
        ),
        (version(2, sortId="0000000001"), "must be unique: sort ID: 0000000001"),
        (version(2, version={"versionTag": "1"}), "must be unique: sort ID: 0000000002 version label: 1"),
    ],
)
def test_version_properties(gms: GmsStandIn, bad: Any, message: str) -> None:
    assert refusal(gms, MODEL, "versionProperties", version(1)) is None
    assert message in str(refusal(gms, OTHER_MODEL, "versionProperties", bad))
    gms.rejections.clear()
    assert refusal(gms, OTHER_MODEL, "versionProperties", version(2)) is None
    assert refusal(gms, MODEL, "versionProperties", version(1)) is None  # again: it may keep what it has


def test_sort_id_and_label_of_a_removed_version_may_be_used_again(gms: GmsStandIn) -> None:
    refusal(gms, MODEL, "versionProperties", version(1))
    refusal(gms, MODEL, "status", {"removed": True})
    assert refusal(gms, OTHER_MODEL, "versionProperties", version(1)) is None


def test_server_makes_the_version_set_and_moves_latest_to_the_greatest_sort_id(gms: GmsStandIn) -> None:
    for number in (2, 10, 9):
        model = f"urn:li:mlModel:(urn:li:dataPlatform:mlflow,churn_{number},PROD)"
        assert refusal(gms, model, "versionProperties", version(number)) is None
    latest = "urn:li:mlModel:(urn:li:dataPlatform:mlflow,churn_10,PROD)"
    assert gms.aspects(VERSION_SET) == {
        "versionSetKey": {"id": "v", "entityType": "mlModel"},
        "versionSetProperties": {"versioningScheme": "LEXICOGRAPHIC_STRING", "latest": latest},
    }
    flags = {urn: (gms.aspect(urn, "versionProperties") or {}).get("isLatest") for urn in gms.urns("mlModel")}
    assert flags == {latest: True, latest.replace("10", "2"): False, latest.replace("10", "9"): None}


def test_latest_stays_marked_when_it_is_written_again(gms: GmsStandIn) -> None:
    for _ in range(2):
        refusal(gms, MODEL, "versionProperties", version(1))
    assert gms.aspect(MODEL, "versionProperties") == version(1) | {"isLatest": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"versioningScheme": GENERATED}, "Versioning Scheme cannot change"),
        ({"latest": OTHER_MODEL}, "Cannot set latest version to unversioned entity"),
    ],
)
def test_version_set_properties(gms: GmsStandIn, change: dict[str, str], message: str) -> None:
    refusal(gms, MODEL, "versionProperties", version(1))
    good = {"versioningScheme": "LEXICOGRAPHIC_STRING", "latest": MODEL}
    gms.write(VERSION_SET, dh.VersionSetPropertiesClass.from_obj(good))
    with pytest.raises(ValueError, match=message):
        gms.write(VERSION_SET, dh.VersionSetPropertiesClass.from_obj(good | change))


# Other aspects that need more than their schema


@pytest.mark.parametrize(
    ("paths", "message"), [(["a", "b"], None), (["a", ""], "empty field path"), (["a", "a"], "duplicated field paths")]
)
def test_field_paths_of_a_schema_are_unique_and_not_empty(
    gms: GmsStandIn, paths: list[str], message: str | None
) -> None:
    fields = [dh.SchemaFieldClass(path, TEXT, "str") for path in paths]
    value = to_json(dh.SchemaMetadataClass("s", "urn:li:dataPlatform:s3", 0, "", dh.OtherSchemaClass(""), fields))
    problem = refusal(gms, DATASET, "schemaMetadata", value)
    assert problem is None if message is None else message in str(problem)


def test_aspects_of_more_than_16_million_bytes_are_refused(gms: GmsStandIn) -> None:
    room = 16_000_000 - len('{"name":"t","description":""}')
    assert refusal(gms, "urn:li:tag:a", "tagProperties", {"name": "t", "description": "a" * room}) is None
    message = refusal(gms, "urn:li:tag:b", "tagProperties", {"name": "t", "description": "a" * (room + 1)})
    assert message == "Aspect of 16000001 bytes exceeds the maximum of 16000000"


def test_lifecycle_stage_of_a_status_must_exist(gms: GmsStandIn) -> None:
    stage = "urn:li:lifecycleStageType:draft"
    assert "does not exist" in str(refusal(gms, MODEL, "status", {"removed": False, "lifecycleStage": stage}))
    gms.rejections.clear()
    gms.write(stage, dh.StatusClass(removed=False))
    assert refusal(gms, MODEL, "status", {"removed": False, "lifecycleStage": stage}) is None


def define(gms: GmsStandIn, **changes: Any) -> None:
    gms.write(PROPERTY, dh.StructuredPropertyDefinitionClass.from_obj(DEFINITION | changes))


def assigned(*values: str | float, urn: str = PROPERTY) -> dict[str, Any]:
    typed = [{"string": value} if isinstance(value, str) else {"double": value} for value in values]
    return {"properties": [{"propertyUrn": urn, "values": typed}]}


def test_structured_property_must_be_defined(gms: GmsStandIn) -> None:
    assert "Structured Property Definition" in str(refusal(gms, MODEL, "structuredProperties", assigned("high")))
    gms.rejections.clear()
    define(gms)
    assert refusal(gms, MODEL, "structuredProperties", assigned("high")) is None
    gms.write(PROPERTY, dh.StatusClass(removed=True))
    assert "soft deleted" in str(refusal(gms, OTHER_MODEL, "structuredProperties", assigned("high")))


@pytest.mark.parametrize(
    ("definition", "good", "bad", "message"),
    [
        ({}, assigned("high"), assigned("high", "low"), "has cardinality 1"),
        ({"cardinality": "MULTIPLE"}, assigned("a", "b"), assigned("a", 1.0), "should be a string"),
        ({"allowedValues": [{"value": {"string": "high"}}]}, assigned("high"), assigned("low"), "should be one of"),
        ({"valueType": "urn:li:dataType:datahub.number"}, assigned(1.5), assigned("much"), "should be a number"),
        ({"valueType": "urn:li:dataType:datahub.date"}, assigned("2026-01-31"), assigned("31.1.2026"), "YYYY-MM-DD"),
        ({"valueType": "urn:li:dataType:datahub.urn"}, assigned(GROUP), assigned("churn"), "should be an urn"),
        (
            {
                "valueType": "urn:li:dataType:datahub.urn",
                "typeQualifier": {"allowedTypes": ["urn:li:entityType:datahub.mlModelGroup"]},
            },
            assigned(GROUP),
            assigned(MODEL),
            "not of any supported urn types",
        ),
        ({}, assigned("a" * 32_766), assigned("a" * 32_767), "exceeds the maximum"),
        ({}, assigned("a"), {"properties": assigned("a")["properties"] * 2}, "has multiple entries"),
    ],
)
def test_value_of_a_structured_property(gms: GmsStandIn, definition: Any, good: Any, bad: Any, message: str) -> None:
    define(gms, **definition)
    assert message in str(refusal(gms, OTHER_MODEL, "structuredProperties", bad))
    gms.rejections.clear()
    assert refusal(gms, MODEL, "structuredProperties", good) is None


@pytest.mark.parametrize("change", [assigned("low"), {"properties": []}])
def test_immutable_structured_property_stays_as_it_is(gms: GmsStandIn, change: Any) -> None:
    define(gms, immutable=True)
    gms.write(MODEL, dh.StructuredPropertiesClass.from_obj(assigned("high")))
    gms.write(MODEL, dh.StructuredPropertiesClass.from_obj(assigned("high")))
    with pytest.raises(ValueError, match="immutable"):
        gms.write(MODEL, dh.StructuredPropertiesClass.from_obj(change))


# Events


def event(status: str, time: int) -> dict[str, Any]:
    return {"timestampMillis": time, "status": status}


def test_events_of_the_same_millisecond_replace_each_other(gms: GmsStandIn) -> None:
    name = "dataProcessInstanceRunEvent"
    for status, time in (("STARTED", 20), ("STARTED", 10), ("COMPLETE", 10)):
        assert refusal(gms, RUN, name, event(status, time)) is None
    assert gms.timeseries(RUN, name) == [event("COMPLETE", 10), event("STARTED", 20)]
    assert gms.aspects(RUN) == {"dataProcessInstanceKey": {"id": "r1"}}
