"""PATCH by the stand-in of DataHub's server, with the patches that DataHub's own builders make."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import requests
from datahub.emitter.mcp_patch_builder import MetadataPatchProposal
from datahub.metadata import schema_classes as dh
from datahub.specific.aspect_helpers.documentation import HasDocumentationPatch
from datahub.specific.aspect_helpers.institutional_memory import HasInstitutionalMemoryPatch
from datahub.specific.aspect_helpers.ownership import HasOwnershipPatch
from datahub.specific.aspect_helpers.structured_properties import HasStructuredPropertiesPatch
from datahub.specific.aspect_helpers.tags import HasTagsPatch
from datahub.specific.aspect_helpers.terms import HasTermsPatch
from datahub.specific.status import StatusPatchBuilder

from tests.support.gms import GmsStandIn

MODEL = "urn:li:mlModel:(urn:li:dataPlatform:mlflow,churn_1,PROD)"
ALICE, BOB = "urn:li:corpuser:alice", "urn:li:corpuser:bob"
RED, BLUE = "urn:li:tag:red", "urn:li:tag:blue"
TERM = "urn:li:glossaryTerm:pii"
RISK, AREA = "urn:li:structuredProperty:risk", "urn:li:structuredProperty:area"
ACTION = "urn:li:dataHubAction:tagger"
STAMP = dh.AuditStampClass(time=1, actor=ALICE)


class ModelPatch(
    HasTagsPatch,
    HasTermsPatch,
    HasOwnershipPatch,
    HasStructuredPropertiesPatch,
    HasInstitutionalMemoryPatch,
    HasDocumentationPatch,
):
    """DataHub has no builder for mlModel; its parts fit."""

    def __init__(self) -> None:
        super().__init__(MODEL)


@pytest.fixture
def gms() -> Iterator[GmsStandIn]:
    with GmsStandIn() as server:
        yield server


def apply(gms: GmsStandIn, patch: MetadataPatchProposal) -> None:
    proposals = [proposal.to_obj() for proposal in patch.build()]
    assert post(gms, proposals).status_code == 200


def post(gms: GmsStandIn, proposals: Sequence[Any]) -> requests.Response:
    url = f"{gms.url}/aspects?action=ingestProposalBatch"
    return requests.post(url, json={"proposals": proposals, "async": "false"}, timeout=5)


def refusal(gms: GmsStandIn, aspect: str, patch: Any) -> str | None:
    """Send a patch as it is; the message of the refusal, None if it was applied."""
    generic = {"value": json.dumps(patch), "contentType": "application/json-patch+json"}
    proposal = {"entityUrn": MODEL, "entityType": "mlModel", "changeType": "PATCH", "aspectName": aspect}
    response = post(gms, [proposal | {"aspect": generic}])
    assert response.status_code in (200, 422)
    return None if response.ok else str(response.json()["message"])


def test_tag_is_added_beside_those_that_people_set(gms: GmsStandIn) -> None:
    gms.write(MODEL, dh.GlobalTagsClass([dh.TagAssociationClass(RED)]))
    apply(gms, ModelPatch().add_tag(dh.TagAssociationClass(BLUE)))
    apply(gms, ModelPatch().add_tag(dh.TagAssociationClass(BLUE)))
    assert gms.aspect(MODEL, "globalTags") == {"tags": [{"tag": RED}, {"tag": BLUE}]}


def test_tag_is_added_where_there_was_none(gms: GmsStandIn) -> None:
    apply(gms, ModelPatch().add_tag(dh.TagAssociationClass(BLUE)))
    assert gms.aspect(MODEL, "globalTags") == {"tags": [{"tag": BLUE}]}


def test_removing_takes_off_all_that_matches_and_nothing_else(gms: GmsStandIn) -> None:
    attribution = dh.MetadataAttributionClass(time=1, actor=ALICE, source=ACTION)
    tags = [
        dh.TagAssociationClass(RED),
        dh.TagAssociationClass(RED, attribution=attribution),
        dh.TagAssociationClass(BLUE),
    ]
    gms.write(MODEL, dh.GlobalTagsClass(tags))
    apply(gms, ModelPatch().remove_tag(RED, attribution_source=""))
    assert [entry.get("attribution", {}).get("source") for entry in tags_of(gms)] == [None, ACTION]
    apply(gms, ModelPatch().remove_tag(RED))
    assert tags_of(gms) == [{"tag": BLUE}]


def tags_of(gms: GmsStandIn) -> list[Any]:
    return list((gms.aspect(MODEL, "globalTags") or {})["tags"])


def test_removing_what_is_not_there_changes_nothing(gms: GmsStandIn) -> None:
    apply(gms, ModelPatch().remove_tag(RED).remove_owner(BOB).remove_structured_property("risk"))
    assert gms.aspect(MODEL, "globalTags") == {"tags": []}
    assert (gms.aspect(MODEL, "ownership") or {})["owners"] == []
    assert gms.aspect(MODEL, "structuredProperties") == {"properties": []}


def test_same_user_may_own_in_several_ways(gms: GmsStandIn) -> None:
    owner, technical = dh.OwnerClass(ALICE, "DATAOWNER"), dh.OwnerClass(ALICE, "TECHNICAL_OWNER")
    apply(gms, ModelPatch().add_owner(owner).add_owner(technical).add_owner(dh.OwnerClass(BOB, "DATAOWNER")))
    apply(gms, ModelPatch().add_owner(owner).remove_owner(BOB))
    owners = (gms.aspect(MODEL, "ownership") or {})["owners"]
    assert owners == [{"owner": ALICE, "type": "DATAOWNER"}, {"owner": ALICE, "type": "TECHNICAL_OWNER"}]


def test_first_glossary_term_gets_its_audit_stamp_from_the_server(gms: GmsStandIn) -> None:
    apply(gms, ModelPatch().add_term(dh.GlossaryTermAssociationClass(TERM)))
    terms = gms.aspect(MODEL, "glossaryTerms") or {}
    assert terms["terms"] == [{"urn": TERM}]
    assert terms["auditStamp"]["actor"] == "urn:li:corpuser:__datahub_system"


def test_links_are_keyed_by_url_slashes_and_all(gms: GmsStandIn) -> None:
    for url, description in (("https://e.org/~a", "old"), ("https://e.org/b", "b"), ("https://e.org/~a", "new")):
        apply(gms, ModelPatch().add_institutional_memory(dh.InstitutionalMemoryMetadataClass(url, description, STAMP)))
    elements = (gms.aspect(MODEL, "institutionalMemory") or {})["elements"]
    assert [(element["url"], element["description"]) for element in elements] == [
        ("https://e.org/~a", "new"),
        ("https://e.org/b", "b"),
    ]


def test_structured_property_is_set_beside_others(gms: GmsStandIn) -> None:
    for urn in (RISK, AREA):
        definition = dh.StructuredPropertyDefinitionClass(urn, "urn:li:dataType:datahub.string", [])
        gms.write(urn, definition)
    value = dh.StructuredPropertyValueAssignmentClass(AREA, ["sales"])
    gms.write(MODEL, dh.StructuredPropertiesClass([value]))
    apply(gms, ModelPatch().set_structured_property("risk", "high").set_structured_property("risk", "low"))
    assert gms.aspect(MODEL, "structuredProperties") == {
        "properties": [
            {"propertyUrn": AREA, "values": [{"string": "sales"}]},
            {"propertyUrn": RISK, "values": [{"string": "low"}]},
        ]
    }


def test_documentation_is_keyed_by_who_wrote_it(gms: GmsStandIn) -> None:
    attribution = dh.MetadataAttributionClass(time=1, actor=ALICE, source=ACTION)
    for text in ("first", "second"):
        apply(gms, ModelPatch().add_documentation(dh.DocumentationAssociationClass(text, attribution)))
    apply(gms, ModelPatch().add_documentation(dh.DocumentationAssociationClass("by nobody")))
    documentations = (gms.aspect(MODEL, "documentation") or {})["documentations"]
    assert [entry["documentation"] for entry in documentations] == ["second", "by nobody"]


@pytest.mark.parametrize(("version", "status"), [("v1.6.9", 422), ("v1.7.0", 200), ("1.10.0rc2", 200)])
def test_status_can_be_patched_since_1_7(version: str, status: int) -> None:
    with GmsStandIn(version=version) as gms:
        proposals = [proposal.to_obj() for proposal in StatusPatchBuilder(MODEL).set_removed(True).build()]
        assert post(gms, proposals).status_code == status
        assert gms.is_removed(MODEL) == (status == 200)


def test_server_without_patches_refuses_them() -> None:
    with GmsStandIn(patch_capable=False) as gms:
        assert "server this old" in str(refusal(gms, "globalTags", [{"op": "remove", "path": "/tags/a"}]))


def test_properties_of_a_model_cannot_be_patched(gms: GmsStandIn) -> None:
    patch = {"patch": [{"op": "add", "path": "/name", "value": "a"}], "forceGenericPatch": True}
    assert "Patch not supported for aspect with name mlModelProperties" in str(refusal(gms, "mlModelProperties", patch))


def test_plain_patch_is_taken_where_every_release_reads_it_alike(gms: GmsStandIn) -> None:
    add_tag = [{"op": "add", "path": f"/tags/{BLUE}", "value": {"tag": BLUE}}]
    assert refusal(gms, "globalTags", add_tag) is None
    assert tags_of(gms) == [{"tag": BLUE}]
    add_owner = [{"op": "add", "path": f"/owners/{BOB}/DATAOWNER", "value": {"owner": BOB, "type": "DATAOWNER"}}]
    assert "send arrayPrimaryKeys" in str(refusal(gms, "ownership", add_owner))
    apply(gms, ModelPatch().set_owners([dh.OwnerClass(BOB, "DATAOWNER")]))
    assert (gms.aspect(MODEL, "ownership") or {})["owners"] == [{"owner": BOB, "type": "DATAOWNER"}]
    replace_owner = [{"op": "replace", "path": f"/owners/{BOB}/DATAOWNER//", "value": {"owner": BOB, "type": "NONE"}}]
    assert "send arrayPrimaryKeys" in str(refusal(gms, "ownership", replace_owner))


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ({"op": "move", "path": "/tags", "from": "/x"}, "Unsupported PATCH operation"),
        ({"op": "add", "path": "tags", "value": []}, "Unsupported PATCH operation"),
        ({"op": "replace", "path": "/tags/urn:li:tag:a", "value": {}}, "does not exist"),
        ({"op": "add", "path": f"/tags/{RED}/tag/x", "value": 1}, "does not lead to a field"),
        ({"op": "add", "path": f"/tags/{RED}/tag/x/y", "value": 1}, "no way to"),
        ({"op": "add", "path": "/tags/a", "value": {"tag": "a"}}, '"Provided urn a" is invalid'),
        ({"op": "add", "path": "/tags/a", "value": {}}, "/tags/1/tag :: field is required"),
        ({"op": "add", "path": "/tags/a", "value": [{"tag": RED}]}, "cannot be coerced to a record"),
        ({"op": "add", "path": "/colour", "value": "red"}, "unrecognized field"),
        ("add", "Invalid JSON Patch"),
    ],
)
def test_patch_that_does_not_fit_is_refused(gms: GmsStandIn, operation: Any, message: str) -> None:
    gms.write(MODEL, dh.GlobalTagsClass([dh.TagAssociationClass(RED)]))
    assert message in str(refusal(gms, "globalTags", [operation]))
    assert tags_of(gms) == [{"tag": RED}]


def test_key_that_is_missing_on_the_way_is_refused(gms: GmsStandIn) -> None:
    patch = {"arrayPrimaryKeys": {"terms": ["urn", "attribution␟source"]}}
    operation = {"op": "add", "path": f"/terms/{TERM}", "value": "pii"}
    assert "a key of the array is expected" in str(refusal(gms, "glossaryTerms", patch | {"patch": [operation]}))
