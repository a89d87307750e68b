"""The same data has one canonical text, however it was written; what isn't identity is shown, but not in it."""

from __future__ import annotations

import json
import sys

import pytest

from datahub_mlflow_source.mapping.sources import DatasetSource, HubDataset, Query, Table, Uri, parse_source


def parse(source_type: str, **fields: object) -> DatasetSource:
    return parse_source(source_type, json.dumps(fields))


def canonical(uri: str, source_type: str = "s3") -> str | None:
    return parse(source_type, uri=uri).canonical


@pytest.mark.parametrize(
    ("uri", "expected"),
    {
        "s3://b/k": "s3://b/k",
        "s3a://b/k": "s3://b/k",
        "S3N://b/k/": "s3://b/k",
        "s3://KEY:SE/CRET@b/k": "s3://b/k",
        "s3://b/k?versionId=7": "s3://b/k",
        "s3://b/Run #1, v(2)": "s3://b/Run #1, v(2)",
        "gcs://b/k": "gs://b/k",
        "wasb://c@Account.blob.core.windows.net/p/": "wasbs://c@account.blob.core.windows.net/p",
        "abfs://c@a.dfs.core.windows.net/p": "abfss://c@a.dfs.core.windows.net/p",
        "https://u:p@Host.org:443/B.csv?tok=1&v=2#top": "https://host.org/B.csv",
        "https://host.org/b.csv#top": "https://host.org/b.csv",
        "http://host.org:80/b.csv": "http://host.org/b.csv",
        "http://host.org:8080/b.csv": "http://host.org:8080/b.csv",
        "ftp://u:pw@h/k": "ftp://h/k",
        "hdfs:///data/x": "hdfs:/data/x",
        "dbfs:/mnt/x": "dbfs:/mnt/x",
        "dbfs:mnt/x": "dbfs:/mnt/x",
        "dbfs:///mnt/x/": "dbfs:/mnt/x",
        "dbfs://databricks/mnt/x": "dbfs:/mnt/x",
        "/dbfs/mnt/x": "dbfs:/mnt/x",
        "dbfs:/Volumes/c/s/v/f.csv": "/Volumes/c/s/v/f.csv",
        "/data/x.csv": "/data/x.csv",
        "/data//./x.csv": "/data/x.csv",
        "file:///data/x.csv": "/data/x.csv",
        "file:/data/x.csv": "/data/x.csv",
        "file://localhost/data/x.csv": "/data/x.csv",
        "file:///data/a%20b.csv": "/data/a b.csv",
        "/data/a%20b?.csv": "/data/a%20b?.csv",
        "./data/x.csv": "data/x.csv",
        r"C:\data\x.csv": "C:/data/x.csv",
        "file:///C:/data/x.csv": "C:/data/x.csv",
        "file://server/share/x.csv": "//server/share/x.csv",
        "hf://datasets/org/name@abc/x.csv": "hf://datasets/org/name/x.csv",
        "lakefs://repo/main/x.csv": "lakefs://repo/x.csv",
        "postgresql+psycopg2://u:p@h:5432/db": "postgresql://h:5432/db",
        "jdbc:postgresql://h/db?user=u&password=p": "postgresql://h/db",
        "jdbc:sqlserver://h:1433;databaseName=db;user=u;password=p": "mssql://h:1433/db",
        "bq://p.d.t": "bigquery://p.d.t",
        "models:/m-1": "models:/m-1",
        "x://h/db": "x://h/db",
    }.items(),
)
def test_an_address_has_one_spelling(uri: str, expected: str) -> None:
    assert canonical(uri) == expected


@pytest.mark.parametrize("source", ["", " ", "null", "17", "[]", "{}", "[" * 100_000, '{"uri": "s3://b', "no address"])
def test_what_holds_no_source_has_no_identity(source: str) -> None:
    assert parse_source("s3", source).canonical is None


@pytest.mark.parametrize(
    "fields",
    [{"uri": None}, {"uri": 7}, {"uri": ""}, {"uri": ["a", "b"]}, {"uri": {"a": 1}}, {"uri": "s3://"}, {"sql": " "}],
)
def test_a_field_of_another_kind_is_no_source(fields: dict[str, object]) -> None:
    found = parse_source("s3", json.dumps(fields))
    assert found.canonical is None
    assert found.location is None


def test_a_source_made_up_in_code_has_no_identity_but_says_which_code() -> None:
    found = parse("code", tags={"mlflow.source.name": "train.py", "mlflow.source.git.repoURL": "https://t@h/r"})
    assert found.canonical is None
    assert found.details == {"mlflow.source.git.repoURL": "https://h/r", "mlflow.source.name": "train.py"}


@pytest.mark.parametrize("source", ["s3://b/k", '"s3://b/k"', ' {"uri": ["s3://b/k"]} ', '{"path": "s3a://b/k/"}'])
def test_a_bare_uri_is_taken_as_one(source: str) -> None:
    assert parse_source("mine", source).canonical == "s3://b/k"


@pytest.mark.parametrize("key", ["uri", "url", "path"])
def test_peoples_own_types_may_use_any_usual_key_for_an_address(key: str) -> None:
    assert parse("mine", **{key: "s3://b/k"}).location == Uri("s3", "b", "/k")


@pytest.mark.parametrize("key", ["table_name", "table", "delta_table_name"])
def test_peoples_own_types_may_use_any_usual_key_for_a_table(key: str) -> None:
    assert parse("mine", **{key: "a.b.c"}).location == Table(("a", "b", "c"))


def test_a_delta_tables_version_is_shown_and_not_identity() -> None:
    old = parse("delta_table", delta_table_name="main.sales.t", delta_table_version=3, delta_table_id="u-1")
    new = parse("delta_table", delta_table_name="Main.Sales.T", delta_table_version=4)
    assert old.canonical == new.canonical == "main.sales.t"
    assert old.details == {"delta_table_id": "u-1", "delta_table_version": "3"}


def test_a_delta_path_may_carry_its_version() -> None:
    found = parse("delta_table", path="s3://b/t@v5")
    assert (found.canonical, found.details) == ("s3://b/t", {"version": "5"})


def test_a_table_named_by_its_path_is_that_path() -> None:
    assert parse("delta_table", delta_table_name="delta.`s3a://b/t`").canonical == "s3://b/t"


def test_backticks_and_quotes_keep_a_part_of_a_name_together() -> None:
    assert parse("spark", table_name='`a.b`."c".d').location == Table(("a.b", "c", "d"))


def test_a_spark_path_keeps_its_identity_without_scheme() -> None:
    found = parse("spark", path="/mnt/raw/t/")
    assert (found.canonical, found.location) == ("/mnt/raw/t", Uri("", "", "/mnt/raw/t"))


def test_a_query_is_an_identity_on_one_line_and_kept_as_it_is() -> None:
    found = parse("spark", sql="select *\n  from t")
    assert (found.canonical, found.display) == ("select * from t", "select * from t")
    assert found.location == Query("select *\n  from t")


def test_a_query_keeps_the_address_of_its_database() -> None:
    found = parse("mine", uri="postgresql://u:p@h/db", query=["select 1"])
    assert found.canonical == "postgresql://h/db#select 1"
    assert found.location == Query("select 1", Uri("postgresql", "h", "/db"))


def test_a_query_that_is_too_long_to_be_parsed_is_not_kept() -> None:
    assert parse("spark", sql="x" * 100_000).location == Query("x" * 100_000)
    assert parse("spark", sql="x" * 100_001).location == Query("")


def test_the_hub_repository_is_the_identity_of_a_hugging_face_dataset() -> None:
    found = parse("hugging_face", path="org/n", config_name="en", data_dir=None, split="None", revision="abc")
    assert found.canonical == "org/n"
    assert found.location == HubDataset("org/n")
    assert found.details == {"config_name": "en", "revision": "abc"}


def test_the_files_are_the_identity_where_hugging_face_only_reads_them() -> None:
    one = parse("hugging_face", path="csv", data_files=["s3://b/x.csv"])
    other = parse("hugging_face", path="csv", data_files={"train": ["y.csv"]})
    assert one.location == Uri("s3", "b", "/x.csv")
    assert (one.canonical, other.canonical) == ("csv:s3://b/x.csv", 'csv:{"train":["y.csv"]}')


@pytest.mark.parametrize("fields", [{"path": "csv"}, {"path": "csv", "data_files": []}, {"path": ""}, {}])
def test_a_builder_without_files_is_no_source(fields: dict[str, object]) -> None:
    assert parse("hugging_face", **fields).canonical is None


@pytest.mark.parametrize("path", ["./data", "/data/x", "../x"])
def test_a_folder_is_no_hub_repository(path: str) -> None:
    assert isinstance(parse("hugging_face", path=path).location, Uri)


def test_an_evaluation_dataset_is_its_id() -> None:
    found = parse("mlflow_evaluation_dataset", dataset_id="d-1")
    assert (found.canonical, found.location) == ("d-1", None)


def test_a_table_and_its_database_are_one_identity() -> None:
    found = parse("mine", uri="postgresql://u:p@h/db?sslmode=require", table="public.t", password="x")
    assert found.canonical == "postgresql://h/db#public.t"
    assert found.location == Table(("public", "t"), Uri("postgresql", "h", "/db"))
    assert found.details == {"query": "sslmode=require"}


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"project": "p", "dataset": "d", "table": "t"}, ("p", "d", "t")),
        ({"database": "db", "schema": "s", "table": "t"}, ("db", "s", "t")),
        ({"database": "db", "schema": "s", "table": "s.t"}, ("db", "s", "t")),
        ({"database": "db", "table": "s.t"}, ("db", "s", "t")),
        ({"database": "d", "table": "d.t"}, ("d", "t")),
        ({"schema": "t", "table": "t"}, ("t", "t")),
        ({"database": "db", "table": "db.s.t"}, ("db", "s", "t")),
        ({"catalog": "c", "schema": "s", "table": "t"}, ("c", "s", "t")),
        ({"project": "p", "table": "d.t"}, ("p", "d", "t")),
        ({"dataset_id": "p.d.t"}, ("p", "d", "t")),
        ({"topic": "a.b"}, ("a.b",)),
    ],
)
def test_the_parts_of_a_name_may_stand_under_their_own_keys(fields: dict[str, str], parts: tuple[str, ...]) -> None:
    assert parse("mine", **fields).location == Table(parts)


def test_no_credential_is_in_any_part_of_a_source() -> None:
    found = parse(
        "mine",
        uri="https://u:hunter2@h/x?tok=hunter2&page=1",
        api_key="hunter2",
        note="see https://u:hunter2@h",
        nested={"dsn": "Password=hunter2;x=1", "password": "hunter2"},
    )
    assert "hunter2" not in repr(found)
    assert found.canonical == "https://h/x"
    assert found.display == "https://h/x?tok=***&page=1"
    assert found.details["query"] == "tok=***&page=1"


def test_what_is_not_json_is_shown_without_credentials() -> None:
    assert parse_source("s3", '{"uri": "s3://k:hunter2@b/x').display == '{"uri": "s3://b/x'


def test_details_are_sorted_bounded_and_not_empty() -> None:
    many = {f"k{i:03}": "x" * 5000 for i in range(100)}
    found = parse("mine", uri="s3://b/k", z=1, b=True, a=None, e="", **many)
    assert list(found.details) == sorted(found.details)
    assert len(found.details) == 32
    assert max(map(len, found.details.values())) == 500
    assert "a" not in found.details
    assert found.details["b"] == "true"


def test_half_characters_and_control_characters_do_not_get_through() -> None:
    found = parse_source("s3", '{"uri": "s3://b/\\ud800x\\u0000\\n", "k\\ud800": "v\\udfff"}')
    assert found.canonical is not None
    found.canonical.encode()
    assert "\x00" not in found.canonical
    assert "\n" not in found.canonical
    json.dumps(dict(found.details)).encode()
    "".join([found.display, *found.details, *found.details.values()]).encode()


@pytest.mark.parametrize("source_type", ["s3", "code", "spark", "hugging_face", "delta_table", "http", "mine", "", " "])
@pytest.mark.parametrize(
    "source",
    [
        '{"uri": ' * 20_000,
        json.dumps({"uri": "s3://b/" + "a/" * 400_000}),
        json.dumps({"table_name": "." * 300_000, "delta_table_name": "`", "path": "csv", "url": "%"}),
        json.dumps({"path": "csv", "data_files": {"a": [{"b": [None, 1e308]}]}, "tags": [1]}),
        json.dumps({"tags": {"a": {"b": 1}}, "dataset_id": {"x": 1}}),
        '{"uri": NaN, "tags": null}',
        '{"path": ' + "9" * 10_000 + "}",
        '{"uri": "https://[bad"}',
        '{"uri": "//@:/"}',
        '{"uri": "lakefs://"}',
        '{"uri": "lakefs://r/"}',
        '{"uri": "lakefs:r"}',
        '{"uri": "hf://x@y"}',
        '{"uri": "jdbc:"}',
        '{"uri": "mssql:;"}',
        '{"x": ' + "[" * 900 + "]" * 900 + "}",
    ],
    ids=range(16),
)
def test_nothing_that_was_logged_makes_it_raise(source_type: str, source: str) -> None:
    assert isinstance(parse_source(source_type, source), DatasetSource)


def test_nesting_near_pythons_own_limit_does_not_make_it_raise() -> None:
    limit = sys.getrecursionlimit()
    for depth in range(limit - 250, limit):
        found = parse_source("mine", '{"uri": "s3://b/k", "x": ' + "[" * depth + "]" * depth + "}")
        assert found.canonical in ("s3://b/k", None)
