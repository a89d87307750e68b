"""A source leads to the URN that DataHub's own connector gives the same data, or to none.

Where DataHub's code can be imported without a connector's extra, the expected URN comes from it. Elsewhere it is
written out, with the place in acryl-datahub 1.7 that makes it.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from datahub.emitter.mce_builder import make_dataset_urn, make_dataset_urn_with_platform_instance
from datahub.ingestion.source.aws.s3_util import make_s3_urn_for_lineage
from datahub.ingestion.source.azure.abs_utils import strip_abs_prefix, to_blob_https_uri
from datahub.ingestion.source.bigquery_v2.bigquery_audit import BigqueryTableIdentifier
from datahub.ingestion.source.gcs.gcs_utils import strip_gcs_prefix
from datahub.ingestion.source.sql.hive.storage_lineage import StoragePathParser
from datahub.ingestion.source.unity.proxy_types import TableReference
from datahub.metadata.urns import DatasetUrn
from datahub.utilities.urns.urn_iter import lowercase_dataset_urn
from pydantic import ValidationError

from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.mapping.lineage import PlatformNaming, platform_info, real_dataset
from datahub_mlflow_source.mapping.sources import parse_source


def upstream(source_type: str, platform: str | None = None, env: str = "PROD", **fields: object) -> str | None:
    """The URN for a source with these fields; `platform` is what the recipe maps the type to."""
    mapping = {source_type: platform} if platform else {}
    source = parse_source(source_type, json.dumps(fields))
    urn = real_dataset(source, source_type, env=env, platform_of_type=mapping)
    if urn is not None:
        assert DatasetUrn.from_string(str(urn)) == urn
    return str(urn) if urn else None


def at(uri: str, source_type: str = "mine", platform: str | None = None) -> str | None:
    return upstream(source_type, platform, uri=uri)


def table(name: str, source_type: str = "spark", platform: str | None = None) -> str | None:
    return upstream(source_type, platform, table_name=name)


class TestS3:
    @pytest.mark.parametrize("uri", ["s3://b/a/x.csv", "s3a://b/a", "s3n://b/a/", "s3://b/with space/ü.csv", "s3://b"])
    def test_an_object_has_the_urn_of_datahubs_s3_lineage(self, uri: str) -> None:
        assert at(uri) == make_s3_urn_for_lineage(uri, "PROD")

    def test_credentials_and_versions_are_no_part_of_it(self) -> None:
        assert at("s3://KEY:SECRET@b/k.csv?versionId=1") == make_dataset_urn("s3", "b/k.csv")

    @pytest.mark.parametrize(
        "url",
        [
            "https://b.s3.amazonaws.com/a/x%20y.csv?X-Amz-Signature=1",
            "https://b.s3.eu-west-1.amazonaws.com/a/x%20y.csv",
            "https://b.s3-us-west-2.amazonaws.com/a/x%20y.csv",
            "https://b.s3.dualstack.us-east-1.amazonaws.com/a/x%20y.csv",
            "https://s3.amazonaws.com/b/a/x%20y.csv",
            "https://s3.eu-west-1.amazonaws.com/b/a/x%20y.csv",
        ],
    )
    def test_a_buckets_web_address_is_the_bucket(self, url: str) -> None:
        assert upstream("http", url=url) == make_dataset_urn("s3", "b/a/x y.csv")

    def test_an_access_point_is_not_taken_for_a_bucket(self) -> None:
        assert at("s3://arn:aws:s3:eu-west-1:1:accesspoint/ap/k") is None

    def test_a_website_is_not_taken_for_its_bucket(self) -> None:
        host = "b.s3-website-us-east-1.amazonaws.com"
        assert at(f"https://{host}/k") == make_dataset_urn("http", f"{host}/k")

    def test_a_bucket_with_dots_is_kept_whole(self) -> None:
        assert at("https://my.data.s3.amazonaws.com/k") == make_dataset_urn("s3", "my.data/k")


class TestGcs:
    @pytest.mark.parametrize("uri", ["gs://b/a/x.csv", "gs://b/a"])
    def test_an_object_is_its_bucket_and_path(self, uri: str) -> None:
        assert upstream("gs", uri=uri) == make_dataset_urn("gcs", strip_gcs_prefix(uri))

    @pytest.mark.parametrize("host", ["storage.googleapis.com/b", "b.storage.googleapis.com"])
    def test_a_buckets_web_address_is_the_bucket(self, host: str) -> None:
        assert at(f"https://{host}/a/x.csv") == make_dataset_urn("gcs", "b/a/x.csv")

    def test_a_call_of_its_api_is_no_bucket(self) -> None:
        url = "https://storage.googleapis.com/storage/v1/b/name"
        assert at(url) == make_dataset_urn("http", "storage.googleapis.com/storage/v1/b/name")


class TestAzure:
    @pytest.mark.parametrize(
        "uri", ["abfss://c@acct.dfs.core.windows.net/p/x.csv", "https://acct.blob.core.windows.net/c/p/x.csv"]
    )
    def test_a_blob_is_its_container_and_path_without_the_account(self, uri: str) -> None:
        name = strip_abs_prefix(to_blob_https_uri(uri))
        assert name == "c/p/x.csv"
        assert at(uri) == make_dataset_urn("abs", name)

    @pytest.mark.parametrize(
        "uri",
        [
            "wasbs://c@acct.blob.core.windows.net/p/",
            "wasb://c@acct.blob.core.windows.net/p",
            "az://c/p",
            "https://acct.dfs.core.windows.net/c/p?sv=1&sig=2",
        ],
    )
    def test_other_ways_to_write_it_are_the_same(self, uri: str) -> None:
        assert at(uri) == make_dataset_urn("abs", "c/p")

    @pytest.mark.parametrize(
        "uri", ["abfss://w@onelake.dfs.fabric.microsoft.com/l/Files/x", "abfss://c/p", "adl://a.net/p"]
    )
    def test_what_only_looks_like_it_is_none(self, uri: str) -> None:
        assert at(uri) is None


class TestDatabricks:
    @pytest.mark.parametrize("uri", ["dbfs:/mnt/a/x.csv", "dbfs:///mnt/a/x.csv", "/dbfs/mnt/a/x.csv"])
    def test_a_dbfs_path_has_the_name_of_datahubs_hive_storage_lineage(self, uri: str) -> None:
        parsed = StoragePathParser.parse_storage_location("dbfs:/mnt/a/x.csv")
        assert parsed
        assert at(uri, "local") == make_dataset_urn("dbfs", parsed[1])

    @pytest.mark.parametrize("source_type", ["uc_volume", "local"])
    @pytest.mark.parametrize("path", ["/Volumes/Cat/Sch/Vol/f.CSV", "dbfs:/Volumes/cat/sch/vol/f.CSV"])
    def test_a_volume_is_on_databricks(self, source_type: str, path: str) -> None:
        assert upstream(source_type, path=path) == make_dataset_urn("databricks", "/Volumes/cat/sch/vol/f.CSV")

    @pytest.mark.parametrize("source_type", ["delta_table", "spark"])
    def test_a_name_of_three_parts_is_of_unity_catalog(self, source_type: str) -> None:
        name = str(TableReference(None, "main", "sales", "orders"))
        fields = {"delta_table": "delta_table_name", "spark": "table_name"}
        assert upstream(source_type, **{fields[source_type]: "Main.sales.`Orders`"}) == make_dataset_urn(
            "databricks", name
        )

    def test_the_hive_metastore_of_databricks_is_a_catalog_there(self) -> None:
        assert table("hive_metastore.db.t") == make_dataset_urn("databricks", "hive_metastore.db.t")


class TestHive:
    @pytest.mark.parametrize("name", ["sales.orders", "spark_catalog.Sales.Orders"])
    def test_a_name_of_two_parts_is_of_hive(self, name: str) -> None:
        assert table(name) == make_dataset_urn("hive", "sales.orders")

    def test_mlflows_flag_for_unity_catalog_is_not_believed(self) -> None:
        # DeltaDatasetSource("db.t") of MLflow 2.10 to 3.17 says so, with or without Databricks.
        found = upstream("delta_table", delta_table_name="db.t", is_databricks_uc_table=True, delta_table_id=None)
        assert found == make_dataset_urn("hive", "db.t")

    @pytest.mark.parametrize("name", ["orders", "a.b.c.d"])
    def test_other_names_are_none(self, name: str) -> None:
        assert table(name) is None


class TestLocalFile:
    # s3/source.py: `re.sub(URI_SCHEME_REGEX, "", table_data.table_path).strip("/")`; abs/source.py the same.
    @pytest.mark.parametrize("uri", ["/data/x.csv", "file:///data/x.csv", "/data//x.csv"])
    def test_a_path_has_no_leading_slash(self, uri: str) -> None:
        assert at(uri, "local") == make_dataset_urn("file", "data/x.csv")

    def test_a_windows_path_has_slashes(self) -> None:
        assert at(r"C:\data\x.csv", "local") == make_dataset_urn("file", "C:/data/x.csv")

    @pytest.mark.parametrize("uri", ["data/x.csv", "./x.csv", "../x.csv", "x.csv", "/"])
    def test_a_relative_path_is_none(self, uri: str) -> None:
        assert at(uri, "local") is None


class TestHdfs:
    @pytest.mark.parametrize("uri", ["hdfs://nn:8020/data/x", "hdfs:///data/x"])
    def test_a_path_has_the_name_of_datahubs_hive_storage_lineage(self, uri: str) -> None:
        parsed = StoragePathParser.parse_storage_location(uri)
        assert parsed
        assert upstream("hdfs", uri=uri) == make_dataset_urn("hdfs", parsed[1])


class TestWeb:
    @pytest.mark.parametrize(
        "url", ["https://Host.org/b.csv?tok=1", "http://host.org:80/b.csv", "https://u:p@host.org/b.csv"]
    )
    def test_a_file_is_its_host_and_path(self, url: str) -> None:
        assert upstream("http", url=url) == make_dataset_urn("http", "host.org/b.csv")

    def test_a_port_tells_servers_apart(self) -> None:
        assert at("http://localhost:8080/b.csv") == make_dataset_urn("http", "localhost:8080/b.csv")

    @pytest.mark.parametrize(
        ("uri", "platform"), [("sftp://u:p@h/k", "sftp"), ("ftp://h/k", "ftp"), ("ftps://h/k", "ftp")]
    )
    def test_a_file_server_is_its_host_and_path(self, uri: str, platform: str) -> None:
        assert at(uri) == make_dataset_urn(platform, "h/k")

    @pytest.mark.parametrize("part", ["-", "a-", ".a", ".a-", "s3.", "s3-a."])
    @pytest.mark.parametrize("start", ["s3", "b.s3.", "storage.", ""])
    def test_a_hostile_host_is_known_at_once(self, start: str, part: str) -> None:
        began = time.perf_counter()
        assert at(f"https://{start}{part * (60_000 // len(part))}/x/y") is None
        assert time.perf_counter() - began < 2


class TestHuggingFace:
    def test_a_repository_is_its_organisation_and_name(self) -> None:
        found = upstream("hugging_face", path="org/name", split="train", revision="abc")
        assert found == make_dataset_urn("huggingface", "org/name")

    @pytest.mark.parametrize(
        "uri",
        [
            "hf://datasets/org/name/data/x.parquet",
            "hf://datasets/org/name@abc/data/x.parquet",
            "https://huggingface.co/datasets/org/name/resolve/main/x.parquet",
        ],
    )
    def test_a_file_of_it_is_the_repository(self, uri: str) -> None:
        assert at(uri) == make_dataset_urn("huggingface", "org/name")

    def test_files_read_with_a_builder_are_where_they_are(self) -> None:
        found = upstream("hugging_face", path="csv", data_files="s3://b/x.csv")
        assert found == make_dataset_urn("s3", "b/x.csv")

    def test_models_and_spaces_are_no_datasets(self) -> None:
        assert at("hf://models/org/name") is None


class TestDelta:
    # delta_lake/source.py, ingest_table: strip_s3_prefix(path); strip_abs_prefix(to_blob_https_uri(path)) for Azure;
    # path.strip("/") for local folders; platform "delta-lake".
    @pytest.mark.parametrize(
        ("path", "name"),
        {
            "s3a://b/tables/t/": "b/tables/t",
            "s3://b/tables/t@v7": "b/tables/t",
            "abfss://c@acct.dfs.core.windows.net/tables/t": "c/tables/t",
            "/lake/t": "lake/t",
            "file:///lake/t": "lake/t",
        }.items(),
    )
    def test_a_path_has_the_name_of_datahubs_delta_lake_source(self, path: str, name: str) -> None:
        assert upstream("delta_table", path=path) == make_dataset_urn("delta-lake", name)

    @pytest.mark.parametrize(
        ("path", "platform", "name"),
        [("gs://b/t", "gcs", "b/t"), ("dbfs:/delta/t", "dbfs", "/delta/t"), ("/Volumes/c/s/v/t", "databricks", None)],
    )
    def test_where_that_source_does_not_read_it_is_what_the_path_is(
        self, path: str, platform: str, name: str | None
    ) -> None:
        assert upstream("delta_table", path=path) == make_dataset_urn(platform, name or path)

    def test_a_spark_path_is_the_path(self) -> None:
        assert upstream("spark", path="s3://b/t") == make_dataset_urn("s3", "b/t")
        assert upstream("spark", path="file:/data/t") == make_dataset_urn("file", "data/t")
        assert upstream("spark", path="/Volumes/c/s/v/t") == make_dataset_urn("databricks", "/Volumes/c/s/v/t")

    def test_a_spark_path_without_scheme_is_on_a_file_system_that_only_the_recipe_can_tell(self) -> None:
        assert upstream("spark", path="/mnt/raw/t") is None
        assert upstream("spark", "dbfs", path="/mnt/raw/t") == make_dataset_urn("dbfs", "/mnt/raw/t")


class TestSnowflake:
    # snowflake_config.py: convert_urns_to_lowercase is true by default.
    @pytest.mark.parametrize(
        "uri",
        [
            "snowflake://acct/SALES/PUBLIC/ORDERS",
            "snowflake://u:p@org-acct.eu-west-1.aws/SALES/PUBLIC/ORDERS?warehouse=w",
            "snowflake://acct/SALES.PUBLIC.ORDERS",
            "snowflake://SALES/PUBLIC/ORDERS",
            "snowflake://SALES.PUBLIC.ORDERS",
        ],
    )
    def test_a_table_by_its_address(self, uri: str) -> None:
        assert at(uri) == make_dataset_urn("snowflake", "sales.public.orders")

    @pytest.mark.parametrize(
        "fields",
        [
            {"table": "SALES.PUBLIC.ORDERS"},
            {"database": "SALES", "schema": "PUBLIC", "table": "ORDERS"},
            {"uri": "snowflake://u:p@acct/SALES/PUBLIC", "table": "ORDERS"},
            {"uri": "snowflake://acct/SALES", "table": "PUBLIC.ORDERS"},
        ],
    )
    def test_a_table_of_a_type_called_snowflake(self, fields: dict[str, str]) -> None:
        assert upstream("snowflake", **fields) == make_dataset_urn("snowflake", "sales.public.orders")

    @pytest.mark.parametrize(
        "uri", ["snowflake://org-acct/SALES/PUBLIC", "snowflake://acct/SALES", "snowflake://xy.eu.aws"]
    )
    def test_an_address_without_a_table_is_none(self, uri: str) -> None:
        assert at(uri) is None

    def test_a_query_is_none(self) -> None:
        assert upstream("snowflake", uri="snowflake://acct/S/P/T", sql="select 1") is None


class TestBigQuery:
    @pytest.mark.parametrize(
        "uri", ["bq://p.d.Orders", "bigquery://p.d.Orders", "bigquery://p/d/Orders", "bq://p/d.Orders"]
    )
    def test_a_table_by_its_address(self, uri: str) -> None:
        assert at(uri) == make_dataset_urn("bigquery", str(BigqueryTableIdentifier("p", "d", "Orders")))

    def test_a_day_of_a_sharded_table_is_the_table(self) -> None:
        assert at("bq://p.d.events_20240131") == make_dataset_urn("bigquery", "p.d.events_yyyymmdd")

    def test_a_table_by_its_parts(self) -> None:
        expected = make_dataset_urn("bigquery", "p.d.t")
        assert upstream("mine", uri="bigquery://p/d", table="t") == expected
        assert upstream("bigquery", project="p", dataset="d", table="t") == expected

    def test_a_name_that_lacks_its_project_is_none(self) -> None:
        assert upstream("bigquery", table="d.t") is None


class TestDatabases:
    @pytest.mark.parametrize(
        ("uri", "name", "expected"),
        [
            ("postgresql+psycopg2://u:p@h:5432/db?sslmode=x", "public.t", "postgres:db.public.t"),
            ("postgres://h/db", "Public.T", "postgres:db.Public.T"),
            ("jdbc:postgresql://h/db", "public.t", "postgres:db.public.t"),
            ("postgresql://c.x.eu-west-1.redshift.amazonaws.com:5439/dev", "public.t", "redshift:dev.public.t"),
            ("redshift+psycopg2://h:5439/dev", "public.t", "redshift:dev.public.t"),
            ("mysql+pymysql://u:p@h/db", "t", "mysql:db.t"),
            ("jdbc:sqlserver://h:1433;databaseName=db;user=u", "dbo.t", "mssql:db.dbo.t"),
            ("databricks://token:x@h?catalog=main", "main.s.t", "databricks:main.s.t"),
        ],
    )
    def test_a_table_of_a_database_with_an_address(self, uri: str, name: str, expected: str) -> None:
        platform, _, dotted = expected.partition(":")
        assert upstream("mine", uri=uri, table=name) == make_dataset_urn(platform, dotted)

    def test_the_table_may_be_in_the_address(self) -> None:
        assert at("mysql://h/db/t") == make_dataset_urn("mysql", "db.t")

    @pytest.mark.parametrize(
        ("uri", "name"),
        [
            ("postgresql://h/db", "t"),
            ("postgresql://h", "public.t"),
            ("mysql://h", "t"),
            ("x://h/db", "t"),
            ("https://h/api", "t"),
        ],
    )
    def test_a_name_that_lacks_a_part_is_none(self, uri: str, name: str) -> None:
        assert upstream("mine", uri=uri, table=name) is None

    def test_a_bucket_beside_a_tables_name_is_where_the_data_is(self) -> None:
        assert upstream("mine", uri="s3://b/t", table="train") == make_dataset_urn("s3", "b/t")


class TestOthers:
    def test_a_topic_of_kafka(self) -> None:
        expected = make_dataset_urn("kafka", "orders.v1")
        assert at("kafka://broker:9092/orders.v1") == expected
        assert upstream("kafka", topic="orders.v1") == expected

    def test_a_lakefs_object_is_the_same_in_each_commit(self) -> None:
        assert (
            at("lakefs://repo/main/a.csv") == at("lakefs://repo/1a2b/a.csv") == make_dataset_urn("lakefs", "repo/a.csv")
        )

    def test_an_iceberg_table_has_no_catalog_in_its_name(self) -> None:
        # iceberg/iceberg.py: ".".join(dataset_path), which is namespace and table.
        expected = make_dataset_urn("iceberg", "db.t")
        assert upstream("iceberg", table="db.t") == expected
        assert table("lake.db.t", platform="iceberg") == expected

    @pytest.mark.parametrize(
        ("source_type", "fields"),
        [
            ("code", {"tags": {"mlflow.source.name": "x.py"}}),
            ("mlflow_evaluation_dataset", {"dataset_id": "d-1"}),
            ("spark", {"sql": "select 1"}),
            ("viewfs", {"uri": "viewfs://c/x"}),
            ("r2", {"uri": "r2://b@a.r2.cloudflarestorage.com/x"}),
            ("b2", {"uri": "b2://b/x"}),
            ("mine", {"uri": "models:/m-1"}),
            ("mine", {"uri": "runs:/abc/x"}),
            ("mine", {"uri": "mlflow-artifacts:/1/x"}),
            ("mine", {"table": "a.b.c"}),
            ("mine", {"dataset_id": "abc"}),
            ("", {}),
        ],
    )
    def test_where_it_is_not_sure_there_is_none(self, source_type: str, fields: dict[str, Any]) -> None:
        assert upstream(source_type, **fields) is None


class TestTheRecipesMapping:
    def test_it_says_the_platform_and_the_source_says_the_name(self) -> None:
        assert table("sales.public.orders", "spark", "snowflake") == make_dataset_urn(
            "snowflake", "sales.public.orders"
        )
        assert upstream("mine", "snowflake", table="A.B.C") == make_dataset_urn("snowflake", "a.b.c")
        assert upstream("mine", "dremio", table="A.B.C.D") == make_dataset_urn("dremio", "A.B.C.D")
        assert upstream("s3", "lakefs", uri="s3://repo/x") == make_dataset_urn("lakefs", "repo/x")

    def test_it_gives_a_place_to_schemes_that_have_none(self) -> None:
        assert at("r2://b@a.r2.cloudflarestorage.com/x", "r2", "s3") == make_dataset_urn("s3", "b/x")
        assert at("mywh://sales/public/orders", "mywh", "snowflake") == make_dataset_urn(
            "snowflake", "sales.public.orders"
        )

    def test_an_address_is_not_made_a_table(self) -> None:
        assert at("s3://b/k", "spark", "snowflake") == make_dataset_urn("s3", "b/k")

    def test_a_name_that_lacks_a_part_is_none_there_too(self) -> None:
        assert table("orders", "spark", "snowflake") is None
        assert at("data/x.csv", "local", "file") is None

    def test_the_types_case_does_not_matter(self) -> None:
        source = parse_source("MyType", '{"table": "a.b.c"}')
        urn = real_dataset(source, "MyType", env="PROD", platform_of_type={"mytype": "trino"})
        assert str(urn) == make_dataset_urn("trino", "a.b.c")

    def test_it_gives_nothing_to_a_dataset_without_a_source(self) -> None:
        assert upstream("code", "s3", tags={}) is None


def named(platform: str, source_type: str = "mine", platform_of: str | None = None, **fields: Any) -> str | None:
    """As `upstream`, with what the recipe says of this platform's connector in `fields["naming"]`."""
    naming = fields.pop("naming")
    mapping = {source_type: platform_of} if platform_of else {}
    source = parse_source(source_type, json.dumps(fields))
    urn = real_dataset(source, source_type, env="PROD", platform_of_type=mapping, naming_of_platform={platform: naming})
    return str(urn) if urn else None


class TestAsTheConnectorWasTold:
    """Expected is what the helper gives that all of DataHub's connectors use."""

    def test_an_instance_and_an_env_are_in_the_urn(self) -> None:
        naming = PlatformNaming(platform_instance="eu", env="QA")
        assert named("s3", uri="s3://b/k", naming=naming) == make_dataset_urn_with_platform_instance(
            "s3", "b/k", "eu", "QA"
        )

    @pytest.mark.parametrize(("lower", "name"), [(None, "a.b.c"), (True, "a.b.c"), (False, "A.b.C")])
    def test_of_a_connector_that_writes_lower_case_by_itself(self, lower: bool | None, name: str) -> None:
        naming = PlatformNaming(lower_case=lower)
        found = named("snowflake", platform_of="snowflake", table="A.b.C", naming=naming)
        assert found == make_dataset_urn_with_platform_instance("snowflake", name, None)

    @pytest.mark.parametrize(("lower", "name"), [(None, "A.b.C"), (True, "a.b.c"), (False, "A.b.C")])
    def test_of_one_that_does_not(self, lower: bool | None, name: str) -> None:
        naming = PlatformNaming(lower_case=lower)
        found = named("postgres", platform_of="postgres", table="A.b.C", naming=naming)
        assert found == make_dataset_urn_with_platform_instance("postgres", name, None)

    def test_lower_case_is_of_the_instance_too(self) -> None:
        """As the framework's processor has it, which a recipe with that key switches on."""
        naming = PlatformNaming(platform_instance="EU", lower_case=True)
        found = named("postgres", platform_of="postgres", table="A.B.C", naming=naming)
        assert found == lowercase_dataset_urn(make_dataset_urn_with_platform_instance("postgres", "A.B.C", "EU"))
        naming = PlatformNaming(platform_instance="EU")
        found = named("postgres", platform_of="postgres", table="A.B.C", naming=naming)
        assert found == make_dataset_urn_with_platform_instance("postgres", "A.B.C", "EU")

    @pytest.mark.parametrize(
        "wrong",
        [
            {"Snowflake": {}},
            {"postgresql": {}},
            {"urn:li:dataPlatform:s3": {}},
            {"": {}},
            {"s3": {"platform_instance": "a,b"}},
            {"s3": {"platform_instance": " "}},
            {"s3": {"platform_instance": "i" * 101}},
            {"s3": {"instance": "eu"}},
        ],
        ids=str,
    )
    def test_what_would_never_match_is_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            MlflowSourceConfig.model_validate({"dataset_platform_map": wrong})

    def test_other_platforms_are_as_before(self) -> None:
        naming = PlatformNaming(platform_instance="eu", env="QA", lower_case=True)
        assert named("snowflake", uri="s3://B/K", naming=naming) == make_dataset_urn("s3", "B/K")

    def test_a_urn_that_is_too_long_with_the_instance_is_none(self) -> None:
        assert named("s3", uri=f"s3://b/{'k' * 400}", naming=PlatformNaming()) is not None
        assert named("s3", uri=f"s3://b/{'k' * 400}", naming=PlatformNaming(platform_instance="i" * 100)) is None

    def test_an_unknown_env_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="no environment"):
            MlflowSourceConfig.model_validate({"dataset_platform_map": {"s3": {"env": "production!"}}})


class TestUrns:
    def test_the_recipes_env_is_in_the_urn(self) -> None:
        assert upstream("s3", env="DEV", uri="s3://b/k") == make_dataset_urn("s3", "b/k", "DEV")

    def test_reserved_characters_are_encoded(self) -> None:
        expected = "urn:li:dataset:(urn:li:dataPlatform:s3,b/fraud%2C v2 %28EU%29.csv,PROD)"
        assert at("s3://b/fraud, v2 (EU).csv") == expected

    def test_a_name_that_reads_as_encoded_is_another_dataset(self) -> None:
        assert at("s3://b/a%2Cb") == "urn:li:dataset:(urn:li:dataPlatform:s3,b/a%252Cb,PROD)"
        assert at("s3://b/a,b") == "urn:li:dataset:(urn:li:dataPlatform:s3,b/a%2Cb,PROD)"

    def test_a_name_too_long_for_the_server_gives_none(self) -> None:
        """DataHub refuses such a URN, so no connector has that dataset."""
        assert at("s3://b/" + "folder/" * 300) is None


class TestPlatformInfo:
    @pytest.mark.parametrize("platform", ["abs", "dbfs", "ftp", "http", "huggingface", "lakefs", "sftp"])
    def test_datahub_is_told_about_a_platform_that_it_does_not_know(self, platform: str) -> None:
        info = platform_info(platform)
        assert info
        assert info.validate()
        assert (info.name, info.datasetNameDelimiter) == (platform, "/")
        assert info.displayName

    @pytest.mark.parametrize("platform", ["s3", "gcs", "databricks", "hive", "mlflow", "postgres"])
    def test_and_not_about_one_that_it_knows(self, platform: str) -> None:
        assert platform_info(platform) is None


# Datasets that somebody named by DataHub's own URN


def by_urn(urn: str) -> str | None:
    found = real_dataset(parse_source("datahub", json.dumps({"urn": urn})), "datahub", env="DEV", platform_of_type={})
    return str(found) if found else None


def test_a_dataset_by_its_urn_is_that_dataset() -> None:
    urn = make_dataset_urn("snowflake", "shop.sales.orders", "PROD")
    assert by_urn(urn) == urn


@pytest.mark.parametrize(
    "urn",
    [
        "urn:li:dataset:(urn:li:dataPlatform:snowflake,a)",
        "urn:li:dataset:(urn:li:dataPlatform:snowflake,a,b,PROD)",
        "urn:li:dataset:(urn:li:dataPlatform:snowflake,a,NOWHERE)",
        "urn:li:dataset:(urn:li:dataPlatform:snowflake, ,PROD)",
        "urn:li:tag:x",
        "urn:li:dataset:(urn:li:dataPlatform:snowflake," + "a" * 600 + ",PROD)",
    ],
)
def test_what_is_no_urn_of_a_dataset_is_nothing(urn: str) -> None:
    assert by_urn(urn) is None
