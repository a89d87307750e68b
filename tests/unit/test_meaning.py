"""Tags, terms, owners, domains, links and structured properties: by rules, beside what people say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from datahub.metadata import schema_classes as dh

from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.mapping.governance import Meanings, Subject, meaning, patches
from datahub_mlflow_source.mapping.meta_mapping import Said
from datahub_mlflow_source.mapping.subjects import (
    PROPERTIES,
    property_definitions,
    subject_of_experiment,
    subject_of_model,
    subject_of_version,
)
from datahub_mlflow_source.mapping.urns import Naming, model_version_urn
from datahub_mlflow_source.recipe import meanings_of
from datahub_mlflow_source.records import Flavor, FoundFile, ModelFile
from tests.support.gms import GmsStandIn
from tests.unit.records import make_experiment, make_model, make_run, make_version

MODEL = model_version_urn("churn-model", "1", Naming())
ALICE = "urn:li:corpuser:alice"
STAMP = dh.AuditStampClass(time=1, actor=ALICE)


def meanings(**config: Any) -> Meanings:
    return meanings_of(MlflowSourceConfig.model_validate(config), None)


def said(tags: dict[str, str] | None = None, *, users: list[str] | None = None, **config: Any) -> Said:
    subject = subject_of_version(make_version(tags=tags or {}, aliases=("champion",)), make_run(), None, None, [])
    if users is not None:
        subject = subject_of_model(make_model(tags=tags or {}), users)
    return meaning(subject, meanings(**config))


def rule(operation: str, match: Any = ".*", **config: Any) -> dict[str, Any]:
    return {"match": match, "operation": operation, "config": config}


@pytest.fixture
def gms() -> Iterator[GmsStandIn]:
    with GmsStandIn() as server:
        yield server


def send(gms: GmsStandIn, subject: Subject, meanings: Meanings) -> None:
    proposals = patches(MODEL, meaning(subject, meanings), subject.time, meanings.aspects(), PROPERTIES)
    for proposal in proposals:
        answer = requests.post(
            f"{gms.url}/aspects?action=ingestProposal",
            json={"proposal": proposal.to_obj(), "async": "false"},
            timeout=5,
        )
        assert answer.status_code == 200, answer.text


# meta_mapping


def test_each_operation_of_datahubs_syntax() -> None:
    found = said(
        {"class": "pii", "team": "risk", "owner": "ada, bob", "area": "retail", "ticket": "J-1", "tier": "gold"},
        meta_mapping={
            "class": rule("add_term", "pii", term="Classification.{{ $match }}"),
            "team": rule("add_tag", ".*", tag="team:{{ $match }}"),
            "owner": rule("add_owner", owner_type="user", owner_category="BUSINESS_OWNER"),
            "area": rule("add_domain", domain="{{ $match }}"),
            "ticket": rule("add_doc_link", link="https://jira.example.com/{{ $match }}", description="Ticket"),
            "tier": rule("add_structured_property", structured_property_urn="model.tier"),
        },
    )
    assert found.terms == ["urn:li:glossaryTerm:Classification.pii"]
    assert found.tags == ["urn:li:tag:team:risk"]
    assert found.owners == [
        ("urn:li:corpuser:ada", "BUSINESS_OWNER", None),
        ("urn:li:corpuser:bob", "BUSINESS_OWNER", None),
    ]
    assert found.domains == ["urn:li:domain:retail"]
    assert found.links == [("https://jira.example.com/J-1", "Ticket")]
    assert found.properties == {"urn:li:structuredProperty:model.tier": ("gold",)}


def test_many_terms_in_one_tag() -> None:
    found = said({"classes": "A.b;C.d"}, meta_mapping={"classes": rule("add_terms", separator=";")})
    assert found.terms == ["urn:li:glossaryTerm:A.b", "urn:li:glossaryTerm:C.d"]


def test_true_and_numbers_match_though_mlflows_tags_are_texts() -> None:
    rules = {"pii": rule("add_tag", True, tag="pii"), "level": rule("add_tag", 3, tag="level-3")}
    assert said({"pii": "true", "level": "3"}, meta_mapping=rules).tags == ["urn:li:tag:level-3", "urn:li:tag:pii"]
    assert said({"pii": "false", "level": "4"}, meta_mapping=rules).tags == []
    no = {"pii": rule("add_tag", False, tag="not-pii")}
    assert said({"pii": "False"}, meta_mapping=no).tags == ["urn:li:tag:not-pii"]
    assert [said({"pii": value}, meta_mapping=no).tags for value in ("yes", "1", "unknown")] == [[], [], []]


@pytest.mark.parametrize("value", ["nan", "inf", "x"])
def test_what_is_no_number_is_no_value(value: str) -> None:
    numbers = rule("add_structured_property", structured_property_urn="p", value_type="number")
    found = said({"a": value}, meta_mapping={"a": numbers})
    assert found.properties == {}


def test_two_rules_for_one_property_are_two_values() -> None:
    setting = rule("add_structured_property", structured_property_urn="p")
    found = said({"a": "1", "b": "2"}, meta_mapping={"a": setting, "b": setting})
    assert found.properties == {"urn:li:structuredProperty:p": ("1", "2")}


def test_a_backslash_is_matched_as_it_stands() -> None:
    setting = rule("add_tag", r"ACME\\(\w+)", tag="user-{{ $match }}")
    assert said({"a": "ACME\\ada"}, meta_mapping={"a": setting}).tags == ["urn:li:tag:user-ada"]


def test_a_version_has_the_tags_of_its_run_and_its_own_count_more() -> None:
    rules = meanings(meta_mapping={"class": rule("add_tag", tag="{{ $match }}")})
    run = make_run(tags={"class": "of-run"})
    for tags, expected in (({}, "of-run"), ({"class": "own"}, "own")):
        subject = subject_of_version(make_version(tags=tags), run, None, None, [])
        assert meaning(subject, rules).tags == [f"urn:li:tag:{expected}"]


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"a": rule("add_tag", "[", tag="x")}, "`meta_mapping.a`: `match` '[' is no regular expression"),
        ({"a": rule("add_tga", tag="x")}, "`operation` is none of add_doc_link"),
        ({"a": rule("add_tag")}, "`config` is missing"),
        ({"a": rule("add_tag", term="x")}, "`config.tag` is missing"),
        ({"a": rule("add_owner", owner_type="team")}, "`config.owner_type` is `user` or `group`"),
        ({"a": {**rule("add_tag", tag="x"), "mtach": 1}}, "unknown key `mtach`"),
        ({"a": "pii"}, "must have `match`"),
        ({"match": ".*", "operation": "add_tag", "config": {"tag": "x"}}, "the key of the tag"),
        ({"a": rule("add_tag", tag="{{ match }}")}, "in `config.tag`, '{{ match }}' is not {{ $match }}"),
        ({"a": rule("add_owner", owner_typ="group")}, "knows no `config.owner_typ`, but owner_type, owner_category"),
        ({"a": rule("add_owner", owner_category="TECHNICAL_OWNR")}, "TECHNICAL_OWNR"),
        ([], "must be like {data_class:"),
        ({"a": rule("add_tag", tag=5)}, "`config.tag` must be text"),
        ({"a": rule("add_terms", separator="")}, "`config.separator` is empty"),
        ({"a": rule("add_structured_property", structured_property_urn="urn:li:tag:x")}, "meta_mapping.a"),
        ({"a": rule("add_structured_property", structured_property_urn="p", value_type="nubmer")}, "is one of string"),
    ],
)
def test_a_rule_that_could_do_nothing_is_refused(rules: Any, says: str) -> None:
    with pytest.raises(ValueError, match="meta_mapping") as error:
        meanings(meta_mapping=rules)
    assert says in str(error.value)


@pytest.mark.parametrize("value", ["a\\g<9>b\\", "a,b(c)", '{"a": 1}', "ü🎈", "%2C", "a b"])
def test_hostile_values_are_encoded(value: str, gms: GmsStandIn) -> None:
    rules = meanings(
        meta_mapping={
            "a": rule("add_tag", tag="x-{{ $match }}"),
            "b": rule("add_owner", owner_type="user"),
            "c": rule("add_term", term="{{ $match }}"),
        }
    )
    subject = subject_of_version(make_version(tags=dict.fromkeys("abc", value)), None, None, None, [])
    found = meaning(subject, rules)
    assert len(found.tags) == 1
    assert len(found.terms) == 1
    assert found.owners
    send(gms, subject, rules)


@pytest.mark.parametrize("value", ["x" * 1_000_000, "x" * 600, "urn:li:tag:x"])
def test_what_can_be_no_urn_is_left_out_and_told(value: str) -> None:
    found = said({"a": value}, meta_mapping={"a": rule("add_owner", owner_type="user")})
    assert found.owners == []
    assert len(found.refused) == 1
    assert len(found.refused[0]) < 300


def test_a_password_in_a_tag_is_in_no_urn() -> None:
    found = said({"a": "postgres://ada:s3cret@host/db"}, meta_mapping={"a": rule("add_tag", tag="{{ $match }}")})
    assert "s3cret" not in str(found)


# People


def test_who_registered_a_version_owns_it() -> None:
    assert said(extract_owners=True).owners == [("urn:li:corpuser:ada", "TECHNICAL_OWNER", None)]
    assert said().owners == []


@pytest.mark.parametrize("user", ["root", "jovyan", "airflow", "Airflow", "svc-train", "unknown", ""])
def test_service_accounts_own_nothing(user: str) -> None:
    assert said(users=[user], extract_owners=True).owners == []


def test_service_accounts_take_no_place_of_people_and_what_is_cut_is_told() -> None:
    users = [f"svc-{number:02}" for number in range(25)]
    assert [owner[0] for owner in said(users=[*users, "zed"], extract_owners=True).owners] == ["urn:li:corpuser:zed"]
    many = said(users=[f"user{number:02}" for number in range(25)], extract_owners=True)
    assert len(many.owners) == 20
    assert many.refused == ["25 owners: 20 sent"]


def test_a_password_in_a_users_name_or_an_alias_goes_nowhere() -> None:
    secret = "https://u:hunter2@h/?token=hunter2"
    subject = subject_of_version(make_version(aliases=(secret,), user_id=secret), None, None, None, [])
    found = meaning(subject, meanings(extract_owners=True, alias_tags=True))
    assert "hunter2" not in str(found)
    assert found.tags == []


def test_users_as_the_recipe_wants_them() -> None:
    found = said(
        users=["ada", "robot"],
        extract_owners=True,
        owner_type="urn:li:ownershipType:maker",
        owner_deny_pattern=["ro.*t"],
        owner_urn_template="urn:li:corpuser:{user}@acme.example",
    )
    assert found.owners == [("urn:li:corpuser:ada@acme.example", "CUSTOM", "urn:li:ownershipType:maker")]


@pytest.mark.parametrize("user", ["Ada Lovelace", "urn:li:corpGroup:all", "ACME\\ada", "ada,(x)", "a" * 700])
def test_odd_users_are_encoded(user: str, gms: GmsStandIn) -> None:
    rules = meanings(extract_owners=True)
    subject = subject_of_model(make_model(), [user])
    (owner,) = meaning(subject, rules).owners
    assert owner[0].startswith("urn:li:corpuser:")
    send(gms, subject, rules)


def test_owners_that_the_recipe_names() -> None:
    owners = ["urn:li:corpGroup:ml", {"owner": "eve", "type": "DATA_STEWARD", "pattern": {"allow": ["^credit"]}}]
    assert said(owners=owners).owners == [("urn:li:corpGroup:ml", "TECHNICAL_OWNER", None)]
    subject = subject_of_experiment(make_experiment(name="credit-risk"))
    assert len(meaning(subject, meanings(owners=owners)).owners) == 2


def test_an_experiment_where_a_tag_tells() -> None:
    rules = meanings(extract_owners=True)
    told = subject_of_experiment(make_experiment(tags={"mlflow.ownerEmail": "ada@acme.example"}))
    assert meaning(told, rules).owners[0][0] == "urn:li:corpuser:ada@acme.example"
    assert meaning(subject_of_experiment(make_experiment()), rules).owners == []


# Domains, links, aliases, structured properties


def test_the_last_domain_that_fits() -> None:
    domain = {"urn:li:domain:all": {"allow": [".*"]}, "urn:li:domain:churn": {"allow": ["^churn"]}}
    assert said(domain=domain).domains == ["urn:li:domain:churn"]
    with pytest.raises(ValueError, match="server-side resolution"):
        meanings(domain={"Risk": {"allow": [".*"]}})


def test_links_go_where_their_places_are_known() -> None:
    links = {
        "Card": "https://portal.example.com/{name}/{version}",
        "Dashboard": "https://grafana.example.com/d/x?var-model={name}",
        "Team": "https://wiki.example.com/{experiment}",
    }
    rules = meanings(links=links)
    model = subject_of_model(make_model(name="churn model"), [])
    assert meaning(model, rules).links == [("https://grafana.example.com/d/x?var-model=churn%20model", "Dashboard")]
    version = subject_of_version(make_version(), make_run(), make_experiment(), None, [])
    assert [label for _, label in meaning(version, rules).links] == ["Card", "Dashboard", "Team"]


@pytest.mark.parametrize(
    ("links", "says"),
    [
        ({"A": "https://x.example.com/{nmae}"}, "Did you mean `name`?"),
        ({"A": "javascript:alert(1)"}, "must be an address"),
        ({"A": "https://ada:pw@x.example.com/{name}"}, "without a password"),
        ({"A": "https://x.example.com/{name"}, "one brace at each side"),
        ({"A": "https://x.example.com/{{name}}"}, "one brace at each side"),
        (["https://x.example.com"], "must be like {Runbook:"),
    ],
)
def test_links_that_lead_nowhere_are_refused(links: Any, says: str) -> None:
    with pytest.raises(ValueError, match="links") as error:
        meanings(links=links)
    assert says in str(error.value)


def test_brackets_in_a_link_are_its_own() -> None:
    subject = subject_of_model(make_model(name="churn"), [])
    links = {"Dashboard": "https://g.example.com/?filter[name]={name}"}
    assert meaning(subject, meanings(links=links)).links == [("https://g.example.com/?filter[name]=churn", "Dashboard")]


def test_aliases_as_tags() -> None:
    assert said(alias_tags=True).tags == ["urn:li:tag:mlflow_alias_champion"]


def test_structured_properties_that_auditors_filter_by(gms: GmsStandIn) -> None:
    file = ModelFile(
        (
            Flavor("python_function", (("loader_module", "mlflow.sklearn"),)),
            Flavor("sklearn", (("sklearn_version", "1.9"),)),
        ),
        *("", "", "", (), ""),
    )
    run = make_run(tags={"mlflow.source.git.commit": "0a1b2c3d"})
    subject = subject_of_version(make_version(aliases=("a", "b")), run, None, FoundFile("read", file), [])
    rules = meanings(structured_properties=True)
    assert {
        urn.removeprefix("urn:li:structuredProperty:mlflow."): v
        for urn, v in meaning(subject, rules).properties.items()
    } == {
        "flavor": ("sklearn",),
        "framework_version": ("1.9",),
        "git_commit": ("0a1b2c3d",),
        "training_run_status": ("FINISHED",),
        "source_dataset_count": (0.0,),
        "registered_by": ("ada",),
        "alias": ("a", "b"),
    }
    for entity in property_definitions():
        for aspect in entity.aspects:
            gms.write(str(entity.urn), aspect)
    send(gms, subject, rules)


# Beside what people say


EVERYTHING: dict[str, Any] = {
    "extract_owners": True,
    "alias_tags": True,
    "links": {"Runbook": "https://wiki.example.com/{name}"},
    "meta_mapping": {"class": rule("add_term", term="{{ $match }}")},
}


def test_what_people_said_stays_and_what_is_ours_goes_with_mlflow(gms: GmsStandIn) -> None:
    by_hand: dict[str, Any] = {
        "globalTags": dh.GlobalTagsClass([dh.TagAssociationClass("urn:li:tag:by-hand")]),
        "glossaryTerms": dh.GlossaryTermsClass([dh.GlossaryTermAssociationClass("urn:li:glossaryTerm:by-hand")], STAMP),
        "ownership": dh.OwnershipClass(
            [dh.OwnerClass(ALICE, "DATAOWNER"), dh.OwnerClass("urn:li:corpuser:ada", "BUSINESS_OWNER")]
        ),
        "institutionalMemory": dh.InstitutionalMemoryClass(
            [dh.InstitutionalMemoryMetadataClass("https://wiki.example.com/churn-model", "by hand", STAMP)]
        ),
    }
    for aspect in by_hand.values():
        gms.write(str(MODEL), aspect)
    before = {name: _items(gms, name) for name in by_hand}
    rules = meanings(**EVERYTHING)
    version = make_version(aliases=("champion",), tags={"class": "pii"}, user_id="ada")
    send(gms, subject_of_version(version, None, None, None, []), rules)
    for name, items in before.items():
        assert all(item in _items(gms, name) for item in items), name
        assert len(_items(gms, name)) == len(items) + 1, name
    # Twice the same; and then MLflow has none of it any more.
    after = {name: _items(gms, name) for name in by_hand}
    send(gms, subject_of_version(version, None, None, None, []), rules)
    assert {name: _items(gms, name) for name in by_hand} == after
    send(gms, Subject("other", ()), rules)
    assert {name: _items(gms, name) for name in by_hand} == before


def _items(gms: GmsStandIn, name: str) -> list[Any]:
    aspect = gms.aspect(MODEL, name) or {}
    field = {"globalTags": "tags", "glossaryTerms": "terms", "ownership": "owners", "institutionalMemory": "elements"}
    return sorted(aspect.get(field[name], []), key=lambda item: json.dumps(item, sort_keys=True))
