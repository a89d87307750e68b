"""What can't be patched is read first, many at once, and written only where nobody else decided."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from datahub.ingestion.graph.client import DataHubGraph
from datahub.ingestion.graph.config import DatahubClientConfig
from datahub.metadata.schema_classes import DeprecationClass, DomainAssociationClass, DomainsClass
from datahub.metadata.urns import MlModelUrn

from datahub_mlflow_source.mapping.governance import deprecation, domains
from datahub_mlflow_source.merges import Merges
from datahub_mlflow_source.report import MlflowSourceReport
from tests.support.gms import GmsStandIn

RETAIL, RISK, OTHER = (f"urn:li:domain:{name}" for name in ("retail", "risk", "other"))
ARCHIVED = "In stage Archived in MLflow."


@pytest.fixture
def gms() -> Iterator[GmsStandIn]:
    with GmsStandIn() as server:
        yield server


def model(number: int = 0) -> MlModelUrn:
    return MlModelUrn("mlflow", f"m_{number}", "PROD")


def merges(gms: GmsStandIn | None, report: MlflowSourceReport | None = None, *, marks_domains: bool = True) -> Merges:
    return Merges(
        DataHubGraph(DatahubClientConfig(server=gms.url, retry_max_times=0)) if gms else None,
        report or MlflowSourceReport(),
        reads_domains=True,
        reads_deprecations=True,
        marks_domains=marks_domains,
    )


def sent(
    merges: Merges, domain: str | None, why: str | None = None, models: int = 1
) -> list[tuple[str | None, DomainsClass | DeprecationClass]]:
    units = [unit for number in range(models) for unit in merges.want(model(number), domain, why, 1)]
    found = []
    for unit in (*units, *merges.rest()):
        proposal = unit.metadata
        aspect = getattr(proposal, "aspect", None)
        assert isinstance(aspect, (DomainsClass, DeprecationClass))
        assert aspect.validate()
        found.append((getattr(proposal, "entityUrn", None), aspect))
    return found


def domains_sent(merges: Merges, domain: str | None) -> list[list[str]]:
    return [aspect.domains for _, aspect in sent(merges, domain) if isinstance(aspect, DomainsClass)]


def test_a_hundred_entities_are_asked_for_at_once(gms: GmsStandIn) -> None:
    before = gms.requests.total()
    assert len(sent(merges(gms), RETAIL, models=250)) == 250
    asked = {route: times for (_, route), times in gms.requests.items() if route.endswith("batchGet")}
    assert asked == {"/openapi/v3/entity/batchGet": 3}
    assert gms.requests.total() - before <= 5  # the client asks what server it is


@pytest.mark.parametrize(
    ("present", "wanted", "expected"),
    [
        (None, RETAIL, [[RETAIL]]),
        (None, None, []),
        (DomainsClass([]), RETAIL, [[RETAIL]]),
        (DomainsClass([RETAIL]), RETAIL, []),
        (domains([RISK], 1, marked=True), RETAIL, [[RETAIL]]),  # the recipe moved it
        (domains([RISK], 1, marked=True), None, [[]]),
        (DomainsClass([RISK]), RETAIL, []),  # a person's, though the recipe names it too
        (DomainsClass([OTHER]), RETAIL, []),  # a person's
        (DomainsClass([OTHER]), None, []),
        (DomainsClass([OTHER, RETAIL]), None, []),
        (domains([OTHER], 1, marked=True), RETAIL, [[RETAIL]]),  # ours, of a rule that is gone
        (DomainsClass([OTHER], [DomainAssociationClass(OTHER)]), RETAIL, []),
    ],
)
def test_a_domain_is_written_where_nobody_chose_another(
    gms: GmsStandIn, present: DomainsClass | None, wanted: str | None, expected: list[list[str]]
) -> None:
    if present:
        gms.write(str(model()), present)
    assert domains_sent(merges(gms), wanted) == expected


def test_a_server_before_1_7_has_no_marks_and_keeps_what_it_has(gms: GmsStandIn) -> None:
    """There, nobody can tell a domain of ours from a person's."""
    ((_, aspect),) = sent(merges(gms, marks_domains=False), RETAIL)
    assert isinstance(aspect, DomainsClass)
    assert aspect.domainAssociations is None
    gms.write(str(model()), DomainsClass([RISK]))
    assert domains_sent(merges(gms, marks_domains=False), RETAIL) == []
    assert domains_sent(merges(gms, marks_domains=False), None) == []


@pytest.mark.parametrize(
    ("present", "why", "expected"),
    [
        (None, ARCHIVED, [True]),
        (None, None, []),
        (deprecation(ARCHIVED), ARCHIVED, []),
        (deprecation(ARCHIVED), None, [False]),
        (deprecation(None), None, []),
        (deprecation(None), ARCHIVED, [True]),
        (DeprecationClass(True, "by hand", "urn:li:corpuser:alice"), None, []),
        (DeprecationClass(False, "", "urn:li:corpuser:alice"), ARCHIVED, []),
        (DeprecationClass(True, "", "urn:li:corpuser:datahub"), None, []),  # DataHub's first user is called so
    ],
)
def test_a_deprecation_is_written_where_nobody_decided(
    gms: GmsStandIn, present: DeprecationClass | None, why: str | None, expected: list[bool]
) -> None:
    if present:
        gms.write(str(model()), present)
    found = [aspect.deprecated for _, aspect in sent(merges(gms), None, why) if isinstance(aspect, DeprecationClass)]
    assert found == expected


def test_a_server_that_does_not_answer_is_told_nothing(gms: GmsStandIn) -> None:
    asking = merges(gms, report := MlflowSourceReport())
    gms.requests.clear()
    list(asking.want(model(), RETAIL, ARCHIVED, 1))
    gms.__exit__(None)  # it goes away
    assert list(asking.rest()) == []
    assert [warning.title for warning in report.warnings] == ["DataHub doesn't say what it has"]


def test_into_a_file_it_is_written_as_it_is() -> None:
    found = sent(merges(None), RETAIL, ARCHIVED)
    assert [type(aspect) for _, aspect in found] == [DomainsClass, DeprecationClass]
