"""A query leads to the tables that it reads, and to their columns where those are certain.

The URN of each table is the one that DataHub's own helper makes of its name; which columns come from where is
written out by hand.
"""

# ruff: noqa: S608 - queries that no database gets to see

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import Any

import pytest
from datahub.emitter.mce_builder import make_dataset_urn, make_dataset_urn_with_platform_instance

from datahub_mlflow_source.mapping import queries
from datahub_mlflow_source.mapping.lineage import PlatformNaming, real_dataset
from datahub_mlflow_source.mapping.queries import NONE, Upstreams, upstreams_of_query
from datahub_mlflow_source.mapping.sources import Query, parse_source

HIVE, UNITY = "hive", "databricks"


def read(
    sql: str,
    source_type: str = "spark",
    platform: str | None = None,
    *,
    env: str = "PROD",
    naming: dict[str, PlatformNaming] | None = None,
    **fields: object,
) -> Upstreams:
    """What a source with this query and these fields leads to; `platform` is what the recipe maps the type to."""
    source = parse_source(source_type, json.dumps({"sql": sql, **fields}))
    assert isinstance(source.location, Query)
    return upstreams_of_query(
        source.location,
        source_type,
        env=env,
        platform_of_type={source_type: platform} if platform else {},
        naming_of_platform=naming or {},
        read_query=queries.read,
    )


def tables(found: Upstreams) -> list[str]:
    return [str(dataset) for dataset in found.datasets]


def columns(found: Upstreams) -> dict[str, list[str]]:
    """By column of the query: `<table>.<column>`, without platform and env."""
    return {column.name: sorted(f"{dataset.name}.{name}" for dataset, name in column.of) for column in found.columns}


def hive(*names: str) -> list[str]:
    return [make_dataset_urn(HIVE, name) for name in names]


def unity(*names: str) -> list[str]:
    return [make_dataset_urn(UNITY, name) for name in names]


class TestSpark:
    def test_both_tables_of_a_join(self) -> None:
        found = read("SELECT o.id FROM sales.orders o JOIN crm.customers c ON o.customer = c.id")
        assert tables(found) == hive("crm.customers", "sales.orders")
        assert found.unresolved == ()

    def test_two_parts_are_hive_and_three_are_databricks(self) -> None:
        found = read("SELECT 1 AS one FROM main.sales.orders, sales.orders, spark_catalog.raw.events")
        assert sorted(tables(found)) == sorted([*unity("main.sales.orders"), *hive("raw.events", "sales.orders")])

    @pytest.mark.parametrize(
        "sql",
        [
            "select * from sales.orders",
            "  SELECT * FROM sales.orders ; ",
            "SELECT * FROM Sales.ORDERS",
            "SELECT * FROM `sales`.`orders`",
            "SELECT * FROM sales.orders AS o WHERE o.id > 1 ORDER BY 1 LIMIT 10",
            "SELECT *\nFROM sales.orders -- not FROM sales.returns\nWHERE id > 1",
            "-- all of them\nSELECT * FROM sales.orders",
            "SELECT /*+ BROADCAST(o) */ * /* FROM sales.returns */ FROM sales.orders o",
            "SELECT 'FROM sales.returns' AS text FROM sales.orders",
            "SELECT * FROM (SELECT * FROM (SELECT * FROM sales.orders) a) b",
            "(SELECT * FROM sales.orders)",
            "WITH o AS (SELECT * FROM sales.orders) SELECT * FROM o",
            "WITH o AS (SELECT * FROM sales.orders), p AS (SELECT * FROM o) SELECT * FROM p JOIN O ON p.id = O.id",
            "WITH orders AS (SELECT * FROM sales.orders) SELECT * FROM orders",
            "SELECT * FROM sales.orders UNION ALL SELECT * FROM sales.orders",
            "SELECT * FROM sales.orders VERSION AS OF 12",
            "SELECT * FROM sales.orders TIMESTAMP AS OF '2024-01-01'",
            "SELECT item FROM sales.orders LATERAL VIEW explode(items) exploded AS item",
            "SELECT * FROM sales.orders TABLESAMPLE (10 PERCENT)",
            "SELECT region, sum(x) OVER (PARTITION BY region) FROM sales.orders",
        ],
    )
    def test_one_table_however_it_is_asked(self, sql: str) -> None:
        found = read(sql)
        assert tables(found) == hive("sales.orders")
        assert found.unresolved == ()

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT * FROM sales.orders UNION SELECT * FROM sales.returns",
            "SELECT * FROM sales.orders WHERE id IN (SELECT id FROM sales.returns)",
            "SELECT * FROM sales.orders o WHERE NOT EXISTS (SELECT 1 FROM sales.returns r WHERE r.id = o.id)",
            "SELECT (SELECT max(id) FROM sales.returns) AS last, o.* FROM sales.orders o",
            "WITH r AS (SELECT * FROM sales.returns) SELECT * FROM sales.orders LEFT ANTI JOIN r USING (id)",
            "SELECT * FROM sales.orders EXCEPT SELECT * FROM sales.returns",
        ],
    )
    def test_tables_are_found_wherever_they_are_read(self, sql: str) -> None:
        assert tables(read(sql)) == hive("sales.orders", "sales.returns")

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("s3a://lake/orders/", make_dataset_urn("s3", "lake/orders")),
            ("s3://KEY:SECRET@lake/orders", make_dataset_urn("s3", "lake/orders")),
            ("abfss://raw@acme.dfs.core.windows.net/orders", make_dataset_urn("abs", "raw/orders")),
            ("/Volumes/main/sales/raw/orders", make_dataset_urn(UNITY, "/Volumes/main/sales/raw/orders")),
        ],
    )
    def test_files_are_what_their_path_is(self, path: str, expected: str) -> None:
        assert tables(read(f"SELECT * FROM delta.`{path}`")) == [expected]
        assert tables(read(f"SELECT * FROM Parquet.`{path}` p JOIN sales.orders USING (id)")) == sorted(
            [expected, *hive("sales.orders")]
        )

    @pytest.mark.parametrize(
        ("table", "named"),
        [
            ("customers", "customers"),  # may be a temporary view
            ("`customers`", "customers"),
            ("global_temp.customers", "global_temp.customers"),
            ("a.b.c.d", "a.b.c.d"),
            ("delta.`/mnt/raw/customers`", "delta./mnt/raw/customers"),  # HDFS, DBFS, local: who knows
            ("parquet.`raw/customers`", "parquet.raw/customers"),
            ("other.`s3://lake/customers`", "other.s3://lake/customers"),
            ("information_schema.tables", "information_schema.tables"),
            ("main.information_schema.tables", "main.information_schema.tables"),
        ],
    )
    def test_a_table_that_is_not_certain_is_left_out_and_told(self, table: str, named: str) -> None:
        found = read(f"SELECT c.name, o.id FROM sales.orders o JOIN {table} c ON o.customer = c.id")
        assert tables(found) == hive("sales.orders")
        assert found.unresolved == (named,)
        assert columns(found) == {"id": ["sales.orders.id"]}

    @pytest.mark.parametrize("function", ["range(10)", "read_files('s3://lake/x')", "VALUES (1), (2)"])
    def test_a_function_is_no_table(self, function: str) -> None:
        assert tables(read(f"SELECT * FROM sales.orders, {function}")) == hive("sales.orders")

    def test_the_recipe_says_which_platform_spark_means(self) -> None:
        sql = "SELECT * FROM lake.Sales.orders JOIN sales.Returns"
        assert tables(read(sql, platform="iceberg")) == [
            make_dataset_urn("iceberg", "Sales.orders"),
            make_dataset_urn("iceberg", "sales.Returns"),
        ]
        assert tables(read(sql, platform="glue")) == [
            make_dataset_urn("glue", "sales.orders"),
            make_dataset_urn("glue", "sales.returns"),
        ]

    def test_a_name_that_is_written_in_two_ways_is_not_certain_where_the_case_decides(self) -> None:
        sql = "SELECT * FROM sales.orders UNION SELECT * FROM sales.Orders"
        assert tables(read(sql)) == hive("sales.orders")
        found = read(sql, platform="iceberg")
        assert (tables(found), found.unresolved) == ([], ("sales.orders",))

    def test_credentials_never_come_out(self) -> None:
        found = read("SELECT * FROM other.`s3://KEY:hunter2@lake/x` a, other.`https://h/x?token=hunter2` b")
        assert found.unresolved
        assert "hunter2" not in str(found)


class TestOtherPlatforms:
    @pytest.mark.parametrize(
        ("source_type", "store", "table", "expected"),
        [
            ("snowflake", None, "db.public.Orders", "snowflake:db.public.orders"),
            ("snowflake", None, 'DB."Public"."Orders"', "snowflake:db.public.orders"),
            ("mine", "snowflake://acct/DB/PUBLIC", "orders", "snowflake:db.public.orders"),
            ("mine", "snowflake://acct/DB/PUBLIC", "other.orders", "snowflake:db.other.orders"),
            ("mine", "snowflake://acct/DB", "public.orders", "snowflake:db.public.orders"),
            ("mine", "postgresql+psycopg2://u:p@h:5432/Sales", "public.Orders", "postgres:Sales.public.orders"),
            ("mine", "postgresql://h/Sales", 'public."Orders"', "postgres:Sales.public.Orders"),
            ("postgres", None, "sales.public.orders", "postgres:sales.public.orders"),
            ("mine", "postgresql://c.x.eu.redshift.amazonaws.com/dev", 'Public."T"', "redshift:dev.public.t"),
            ("mine", "mysql+pymysql://u:p@h/Shop", "Orders", "mysql:Shop.Orders"),
            ("mine", "mysql://h/shop", "`Other`.Orders", "mysql:Other.Orders"),
            ("mine", "mariadb://h/shop", "orders", "mariadb:shop.orders"),
            ("mine", "jdbc:sqlserver://h:1433;databaseName=Sales;user=u", "dbo.Orders", "mssql:Sales.dbo.Orders"),
            ("mssql", None, "[Sales].[dbo].[Orders]", "mssql:Sales.dbo.Orders"),
            ("mine", "trino://h/lake/Sales", "Orders", "trino:lake.sales.orders"),
            ("bigquery", None, "`my-project.Sales.Orders`", "bigquery:my-project.Sales.Orders"),
            ("bigquery", None, "my-project.sales.events_20240131", "bigquery:my-project.sales.events_yyyymmdd"),
            ("mine", "bigquery://my-project/sales", "orders", "bigquery:my-project.sales.orders"),
            ("hive", None, "Sales.Orders", "hive:sales.orders"),
            ("glue", None, 'Sales."Orders"', "glue:sales.orders"),
            ("uc_table", None, "main.Sales.Orders", "databricks:main.sales.orders"),
        ],
    )
    def test_a_table_has_the_name_that_its_connector_gives_it(
        self, source_type: str, store: str | None, table: str, expected: str
    ) -> None:
        platform, _, name = expected.partition(":")
        found = read(f"SELECT t.x FROM {table} t", source_type, uri=store)
        assert tables(found) == [make_dataset_urn(platform, name)]
        assert found.unresolved == ()

    @pytest.mark.parametrize(
        ("source_type", "store", "table"),
        [
            ("snowflake", None, "public.orders"),
            ("mine", "snowflake://acct/DB", "orders"),
            ("mine", "snowflake://acct/DB/PUBLIC/ORDERS", "orders"),
            ("mine", "postgresql://h/sales", "orders"),  # public, most likely
            ("mine", "postgresql://h", "public.orders"),
            ("mine", "mysql://h", "orders"),
            ("mine", "bigquery://p.d", "d.orders"),
            ("mine", "postgresql://h/sales", "information_schema.tables"),
            ("bigquery", None, "`p.d.INFORMATION_SCHEMA.TABLES`"),
            ("mine", "jdbc:sqlserver://h;databaseName=Sales", "dbo.orders_of(1)"),
            ("mine", "jdbc:sqlserver://h;databaseName=Sales", "#orders"),
        ],
    )
    def test_a_table_whose_name_is_not_whole_is_left_out(self, source_type: str, store: str | None, table: str) -> None:
        assert tables(read(f"SELECT * FROM {table}", source_type, uri=store)) == []

    @pytest.mark.parametrize(
        ("source_type", "fields"),
        [
            ("mine", {}),
            ("mine", {"uri": "s3://bucket/x"}),
            ("local", {"uri": "/data/x.csv"}),
            ("kafka", {}),
            ("oracle", {}),
            ("mine", {"uri": "oracle://h/db"}),
        ],
    )
    def test_of_another_platform_there_is_none(self, source_type: str, fields: dict[str, Any]) -> None:
        assert read("SELECT * FROM a.b.c", source_type, **fields) == NONE

    def test_the_recipe_says_which_platform_a_source_type_means(self) -> None:
        found = read("SELECT * FROM DB.PUBLIC.ORDERS", "warehouse", "snowflake")
        assert tables(found) == [make_dataset_urn("snowflake", "db.public.orders")]
        assert read("SELECT * FROM a.b.c", "warehouse", "oracle") == NONE  # nobody knows which names are whole there
        assert read("SELECT * FROM a.b.c", "spark", "oracle") == NONE

    def test_rows_of_a_table_are_no_table(self) -> None:
        found = read("SELECT i.sku FROM orders o, o.items i", "mine", uri="bigquery://p/d")
        assert tables(found) == [make_dataset_urn("bigquery", "p.d.orders")]
        redshift = "postgresql://c.x.eu.redshift.amazonaws.com/dev"
        for rows in (", o.items i", " LEFT JOIN o.items i ON TRUE"):
            found = read(f"SELECT i.sku FROM public.orders o{rows}", "mine", uri=redshift)
            assert tables(found) == [make_dataset_urn("redshift", "dev.public.orders")]

    def test_tables_of_the_address_and_names_of_the_query_are_told_apart(self) -> None:
        found = read("WITH orders AS (SELECT id FROM orders) SELECT id FROM orders", "mine", uri="mysql://h/shop")
        assert tables(found) == [make_dataset_urn("mysql", "shop.orders")]

    @pytest.mark.parametrize(
        ("source_type", "name"),
        [
            ("spark", "Main.Sales.Orders"),
            ("spark", "Sales.Orders"),
            ("spark", "spark_catalog.sales.orders"),
            ("snowflake", "DB.PUBLIC.ORDERS"),
            ("mssql", "Sales.dbo.Orders"),
            ("mysql", "Shop.Orders"),
            ("bigquery", "p.d.events_20240131"),
            ("trino", "lake.sales.orders"),
        ],
    )
    @pytest.mark.parametrize(
        "naming",
        [
            PlatformNaming(),
            PlatformNaming("EU", "DEV"),
            PlatformNaming(lower_case=True),
            PlatformNaming("EU", lower_case=False),
        ],
    )
    def test_a_table_is_the_same_as_if_the_source_named_it(
        self, source_type: str, name: str, naming: PlatformNaming
    ) -> None:
        namings = dict.fromkeys(("bigquery", "databricks", "hive", "mssql", "mysql", "snowflake", "trino"), naming)
        expected = real_dataset(
            parse_source(source_type, json.dumps({"table": name})),
            source_type,
            env="QA",
            platform_of_type={},
            naming_of_platform=namings,
        )
        assert expected is not None
        quoted = f"SELECT * FROM {name}"
        assert tables(read(quoted, source_type, env="QA", naming=namings)) == [str(expected)]

    def test_the_platforms_connector_may_name_its_tables_otherwise(self) -> None:
        naming = {"hive": PlatformNaming("eu", "DEV")}
        expected = make_dataset_urn_with_platform_instance("hive", "sales.orders", "eu", "DEV")
        assert tables(read("SELECT * FROM sales.orders", naming=naming)) == [expected]


class TestColumns:
    def test_a_column_leads_to_those_that_it_is_made_of(self) -> None:
        found = read(
            """
            SELECT o.id, c.name AS customer, o.price * o.amount AS total, upper(c.country), 1 AS one, count(*) AS n
            FROM sales.orders o JOIN crm.customers c ON o.customer_id = c.id
            """
        )
        assert columns(found) == {
            "id": ["sales.orders.id"],
            "customer": ["crm.customers.name"],
            "total": ["sales.orders.amount", "sales.orders.price"],
        }

    @pytest.mark.parametrize(
        ("sql", "expected"),
        [
            ("SELECT id FROM sales.orders", {"id": ["sales.orders.id"]}),
            ("SELECT * FROM sales.orders", {}),
            ("SELECT o.*, o.id AS key FROM sales.orders o", {"key": ["sales.orders.id"]}),
            (
                "SELECT * FROM (SELECT id, price AS p FROM sales.orders)",
                {"id": ["sales.orders.id"], "p": ["sales.orders.price"]},
            ),
            (
                "SELECT id, name FROM sales.orders JOIN crm.customers",
                {},
            ),  # whose columns these are, only a schema tells
            (
                "SELECT id, c.name FROM sales.orders JOIN crm.customers c",
                {"name": ["crm.customers.name"]},
            ),
            (
                "SELECT id FROM sales.orders JOIN crm.customers USING (id)",
                {"id": ["crm.customers.id", "sales.orders.id"]},
            ),
            (
                "SELECT id FROM sales.orders UNION ALL SELECT order_id FROM sales.returns",
                {"id": ["sales.orders.id", "sales.returns.order_id"]},
            ),
            (
                "WITH o AS (SELECT id AS k FROM sales.orders), p AS (SELECT k AS key FROM o) SELECT key FROM p",
                {"key": ["sales.orders.id"]},
            ),
            ("SELECT o.id, c.id FROM sales.orders o JOIN crm.customers c", {}),  # two columns of one name
            ("SELECT o.address.street FROM sales.orders o", {}),  # in its field path there are types
            ("SELECT ID AS Key FROM sales.orders", {"Key": ["sales.orders.id"]}),
            (
                "SELECT `Order Id`, `a,(b)` AS c FROM sales.orders",
                {"Order Id": ["sales.orders.order id"], "c": ["sales.orders.a,(b)"]},
            ),
            ("SELECT m.Amount AS a FROM main.sales.orders m", {"a": ["main.sales.orders.Amount"]}),
            ("SELECT m.Amount + m.amount AS a FROM main.sales.orders m", {}),
            (
                "SELECT CASE WHEN o.a > 0 THEN o.b END AS x FROM sales.orders o",
                {"x": ["sales.orders.a", "sales.orders.b"]},
            ),
            (
                "SELECT sum(o.a) OVER (PARTITION BY o.b) AS x FROM sales.orders o",
                {"x": ["sales.orders.a", "sales.orders.b"]},
            ),
            ("SELECT max(a) AS a FROM sales.orders GROUP BY b HAVING count(c) > 1", {"a": ["sales.orders.a"]}),
            (
                "SELECT (SELECT max(r.id) FROM sales.returns r) AS last FROM sales.orders",
                {"last": ["sales.returns.id"]},
            ),
            # c is of a, or of a column b
            ("SELECT a + 1 AS b, b + 1 AS c FROM sales.orders", {"b": ["sales.orders.a"]}),
            ("SELECT s.x AS y FROM (SELECT a AS b, b AS x FROM sales.orders) s", {}),
            (
                "SELECT a + 1 AS b, o.b AS c FROM sales.orders o",
                {"b": ["sales.orders.a"], "c": ["sales.orders.b"]},
            ),
            (
                "SELECT lower(a) AS a, concat(a, 'x') AS b FROM sales.orders",
                {"a": ["sales.orders.a"], "b": ["sales.orders.a"]},
            ),
            ("SELECT /*+ BROADCAST(o) */ o.*, o.a AS b FROM sales.orders o", {"b": ["sales.orders.a"]}),
            ("SELECT item FROM sales.orders LATERAL VIEW explode(items) e AS item", {"item": ["sales.orders.items"]}),
            (
                "SELECT * FROM (SELECT region, a FROM sales.orders) PIVOT (sum(a) FOR region IN ('eu', 'us'))",
                {"eu": ["sales.orders.a"], "us": ["sales.orders.a"]},
            ),
        ],
    )
    def test_only_what_is_certain(self, sql: str, expected: dict[str, list[str]]) -> None:
        assert columns(read(sql)) == expected

    @pytest.mark.parametrize(
        ("platform", "sql", "expected"),
        [
            ("snowflake", 'SELECT Id AS a, t."Name" AS b FROM d.s.t t', {"a": "d.s.t.id", "b": "d.s.t.name"}),
            ("postgres", 'SELECT Id AS a, t."Name" AS b FROM d.s.t t', {"a": "d.s.t.id", "b": "d.s.t.Name"}),
            ("redshift", 'SELECT Id AS a, t."Name" AS b FROM d.s.t t', {"a": "d.s.t.id", "b": "d.s.t.name"}),
            ("trino", 'SELECT Id AS a, t."Name" AS b FROM d.s.t t', {"a": "d.s.t.id", "b": "d.s.t.name"}),
            ("mysql", "SELECT Id AS a, t.`Name` AS b FROM s.t t", {"a": "s.t.Id", "b": "s.t.Name"}),
            ("mssql", "SELECT Id AS a, t.[Name] AS b FROM d.s.t t", {"a": "d.s.t.Id", "b": "d.s.t.Name"}),
            ("bigquery", "SELECT Id AS a, t.`Name` AS b FROM d.s.t t", {"a": "d.s.t.Id", "b": "d.s.t.Name"}),
            ("hive", "SELECT Id AS a, t.`Name` AS b FROM s.t t", {"a": "s.t.id", "b": "s.t.name"}),
            ("databricks", "SELECT Id AS a, t.`Name` AS b FROM d.s.t t", {"a": "d.s.t.Id", "b": "d.s.t.Name"}),
        ],
    )
    def test_a_column_is_written_as_its_platform_has_it(
        self, platform: str, sql: str, expected: dict[str, str]
    ) -> None:
        assert columns(read(sql, platform)) == {name: [column] for name, column in expected.items()}

    def test_snowflakes_connector_may_keep_the_case(self) -> None:
        found = read(
            'SELECT Id AS a, t."Name" AS b FROM d.s."T" t',
            "snowflake",
            naming={"snowflake": PlatformNaming(lower_case=False)},
        )
        assert tables(found) == [make_dataset_urn("snowflake", "D.S.T")]
        assert columns(found) == {"a": ["D.S.T.ID"], "b": ["D.S.T.Name"]}


class TestWhatIsNoQuery:
    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT 1",
            "sales.orders",
            "from",
            "not SQL at all, from end to end",
            "SELECT FROM WHERE",
            "SELECT * FROM sales.orders WHERE (",
            "SELECT * FROM {{ ref('orders') }}",
            "CREATE TABLE x.y AS SELECT * FROM sales.orders",
            "CREATE OR REPLACE TEMP VIEW v AS SELECT * FROM sales.orders",
            "INSERT INTO x.y SELECT * FROM sales.orders",
            "INSERT OVERWRITE x.y SELECT * FROM sales.orders",
            "DELETE FROM sales.orders",
            "UPDATE sales.orders SET a = 1 FROM sales.returns",
            "MERGE INTO x.y USING sales.orders ON x.y.a = sales.orders.a WHEN MATCHED THEN DELETE",
            "SELECT * FROM sales.orders; DROP TABLE sales.orders",
            "SELECT * FROM sales.orders; SELECT * FROM sales.returns",
            "DESCRIBE sales.orders -- FROM",
            "SHOW TABLES FROM sales",
            "EXPLAIN SELECT * FROM sales.orders",
            "COPY INTO sales.orders FROM 's3://bucket/x'",
            "CALL x.y('FROM')",
        ],
    )
    def test_it_leads_nowhere(self, sql: str) -> None:
        assert read(sql) == NONE

    def test_a_query_that_writes_leads_nowhere(self) -> None:
        assert read("SELECT * INTO d.s.x FROM d.s.t", "mssql") == NONE
        assert read("WITH x AS (DELETE FROM d.s.t RETURNING *) SELECT * FROM x", "postgres") == NONE

    def test_a_table_is_named_by_a_parameter(self) -> None:
        for name in ("${table}", "$table", ":table", "IDENTIFIER(:table)", "IDENTIFIER('sales.returns')", "?"):
            found = read(f"SELECT o.a FROM sales.orders o JOIN {name} x ON o.a = x.a")
            assert set(tables(found)) <= set(hive("sales.orders")), name


class TestHostile:
    """Here as far as it takes no time; the rest is in test_query_process.py."""

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT * FROM " + "x" * 1_000_000,
            "(" * 50_000 + " from",
            "SELECT * FROM " + "(SELECT * FROM " * 6_000,
            "SELECT * FROM " + "(SELECT * FROM " * 300 + "sales.orders" + ")" * 300,
            "SELECT " + "(" * 40_000 + "a" + ")" * 40_000 + " FROM sales.orders",
            "SELECT " + "NOT " * 20_000 + "a FROM sales.orders",
            "SELECT " + "- " * 40_000 + "a FROM sales.orders",
            "SELECT " + "CASE WHEN " * 8_000 + "a FROM sales.orders",
            "SELECT f" + "(f" * 30_000 + ")" * 30_000 + " FROM sales.orders",
            "SELECT a" + "[0" * 30_000 + "]" * 30_000 + " FROM sales.orders",
            "SELECT a" + "::int" * 1_000 + " FROM sales.orders",
            "SELECT '" + "from " * 10_000,
            "/*" * 40_000 + " from",
            "SELECT \x00 FROM sales.orders",
            "SELECT * FROM sales.\ud800",
            "WITH a AS (SELECT * FROM b), b AS (SELECT * FROM a) SELECT * FROM a",
            "WITH RECURSIVE a AS (SELECT * FROM a) SELECT * FROM a",
        ],
        ids=range(17),
    )
    def test_nothing_is_raised(self, sql: str) -> None:
        assert read(sql).problem == ""

    def test_a_query_that_is_too_long_leads_nowhere(self) -> None:
        assert tables(read("SELECT * FROM sales.orders -- ".ljust(100_000, "x"))) == hive("sales.orders")
        assert read("SELECT * FROM sales.orders -- ".ljust(100_001, "x")) == NONE


def test_the_parser_gets_the_query_as_it_was_logged() -> None:
    """In the canonical source all is on one line, where a comment would have no end."""
    source = parse_source("spark", json.dumps({"sql": "SELECT a -- the key\nFROM sales.orders"}))
    assert source.canonical == "SELECT a -- the key FROM sales.orders"
    assert source.location == Query("SELECT a -- the key\nFROM sales.orders")
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 - our own


def test_the_parser_is_imported_with_the_first_query_only() -> None:
    code = """
import sys
from datahub_mlflow_source.source import MlflowSource
from datahub_mlflow_source.mapping.queries import read, upstreams_of_query
from datahub_mlflow_source.mapping.sources import Query
def ask(sql):
    return upstreams_of_query(
        Query(sql), "spark", env="PROD", platform_of_type={}, naming_of_platform={}, read_query=read
    )
ask("SELECT 1")
before = "sqlglot" in sys.modules
assert ask("SELECT * FROM sales.orders").datasets
print(before, "sqlglot" in sys.modules)
"""
    assert _run(code).split() == ["False", "True"]


def test_without_the_parser_a_query_leads_nowhere_and_that_is_told() -> None:
    code = """
import sys
sys.modules["sqlglot"] = None
from datahub_mlflow_source.mapping.queries import Asked, Upstreams, read
from datahub_mlflow_source.mapping.sources import Query
for sql in ("SELECT * FROM sales.orders", "SELECT * FROM sales.returns"):
    found = read(Asked(Query(sql), "spark", "databricks", None, "PROD", ()))
    assert found == Upstreams(problem="no parser"), found
print("done")
"""
    assert _run(code).split() == ["done"]


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120).stdout
