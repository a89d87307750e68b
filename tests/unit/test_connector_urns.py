"""A source that names a table leads to the URN that DataHub's connector for its platform gives that table.

`connector_urns.json` was written by the connectors themselves, see tests/support/connector_urns.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datahub.metadata.urns import DatasetUrn, MlFeatureUrn

from datahub_mlflow_source.mapping.features import features_of
from datahub_mlflow_source.mapping.lineage import PlatformNaming, real_dataset
from datahub_mlflow_source.mapping.sources import parse_source
from tests.unit.records import make_run

ORACLE = Path(__file__).with_name("connector_urns.json")
ADDRESS = {  # of a server of that platform
    "snowflake": "snowflake://user:pass@acct",
    "redshift": "redshift+psycopg2://h:5439",
    "postgres": "postgresql://h:5432",
    "mysql": "mysql+pymysql://h:3306",
}

Case = dict[str, Any]


def cases(*platforms: str) -> list[Any]:
    """The recorded ones of these platforms."""
    recorded: list[Case] = json.loads(ORACLE.read_text("utf-8"))
    chosen = [case for case in recorded if case["platform"] in platforms]
    return [pytest.param(case, id=f"{case['platform']}-{number}") for number, case in enumerate(chosen)]


def found(case: Case, source_type: str, fields: dict[str, str], mapped: bool = False) -> str | None:
    """What ours makes of such a source, told as much of the connector as the case says."""
    given, platform = case["given"], case["platform"]
    naming = PlatformNaming(platform_instance=given.get("platform_instance"), lower_case=given.get("lower"))
    urn = real_dataset(
        parse_source(source_type, json.dumps(fields)),
        source_type,
        env="PROD",
        platform_of_type={source_type: platform} if mapped else {},
        naming_of_platform={platform: naming},
    )
    assert urn is None or DatasetUrn.from_string(str(urn)) == urn
    return str(urn) if urn else None


def dotted(parts: list[str]) -> str:
    """As people write it: what is more than a plain name stands in quotes."""
    return ".".join(part if part.isidentifier() else f'"{part}"' for part in parts)


def test_nothing_is_recorded_that_is_not_compared() -> None:
    platforms = {case["platform"] for case in json.loads(ORACLE.read_text("utf-8"))}
    assert platforms == {*ADDRESS, "iceberg", "delta-lake", "feast"}


@pytest.mark.parametrize("case", cases(*ADDRESS, "iceberg"))
class TestTables:
    def test_by_its_whole_name(self, case: Case) -> None:
        assert found(case, case["platform"], {"table": dotted(case["given"]["parts"])}) == case["urn"]

    def test_by_its_name_in_a_type_that_the_recipe_maps(self, case: Case) -> None:
        assert found(case, "mine", {"table": dotted(case["given"]["parts"])}, mapped=True) == case["urn"]


@pytest.mark.parametrize("case", cases(*ADDRESS))
def test_a_table_as_spark_names_it_on_a_platform_that_the_recipe_says(case: Case) -> None:
    assert found(case, "spark", {"table_name": dotted(case["given"]["parts"])}, mapped=True) == case["urn"]


@pytest.mark.parametrize("case", cases("iceberg"))
def test_an_iceberg_table_as_spark_names_it(case: Case) -> None:
    """Spark's own catalog is in front there; DataHub's Iceberg source leaves it out."""
    name = dotted(["catalog", *case["given"]["parts"]])
    assert found(case, "spark", {"table_name": name}, mapped=True) == case["urn"]


@pytest.mark.parametrize("case", cases(*ADDRESS))
def test_a_table_beside_the_address_of_its_database(case: Case) -> None:
    database, *parts = case["given"]["parts"]
    fields = {"uri": f"{ADDRESS[case['platform']]}/{database}", "table": dotted(parts)}
    assert found(case, "mine", fields) == case["urn"]


@pytest.mark.parametrize("case", cases("delta-lake"))
def test_a_delta_table_by_its_path(case: Case) -> None:
    assert found(case, "delta_table", {"path": case["given"]["uri"]}) == case["urn"]


@pytest.mark.parametrize("case", cases("feast"))
def test_a_feature_by_the_tags_that_feast_writes(case: Case) -> None:
    project, view, feature = case["given"]["parts"]
    (urn,) = features_of(make_run(tags={"feast.project": project, "feast.feature_refs": f"{view}:{feature}"}))
    assert str(urn) == case["urn"]
    assert MlFeatureUrn.from_string(case["urn"]) == urn
