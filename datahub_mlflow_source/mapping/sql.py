"""DataHub's SQL parser, told which dataset each table is. Slow to import: `mapping/queries.py` does it when needed.

The parser says which tables a query reads, and from which of their columns each of its own comes. It writes names in
one case, and makes up URNs; here the names are taken from the query as it is written, and the URNs are those that
`mapping/lineage.py` gives a source that names the table itself. Nothing is asked of DataHub: columns are those that
the query names, so that `*` has none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from datahub.metadata.urns import DatasetUrn
from datahub.sql_parsing.sqlglot_lineage import ColumnLineageInfo, SqlParsingResult, sqlglot_lineage
from datahub.sql_parsing.sqlglot_utils import get_dialect, parse_statement
from sqlglot import Dialect, exp

from datahub_mlflow_source.mapping.queries import NONE, Asked, ColumnRead, Upstreams
from datahub_mlflow_source.mapping.sources import Location, Table, of_spark, parse_uri
from datahub_mlflow_source.redaction import redact

if TYPE_CHECKING:
    from datahub.sql_parsing.schema_resolver import _TableName

# Where sqlglot's dialect isn't called as the platform, and `get_dialect` of DataHub doesn't know.
_DIALECTS = {"iceberg": "databricks"}
_LOWER_CASE = frozenset({"glue", "hive", "redshift", "trino"})  # so are names stored there, quoted or not
_WITHOUT_QUOTES = {"postgres": str.lower, "snowflake": str.upper}  # so are others stored
_FILES_BY_PATH = frozenset({"avro", "binaryfile", "csv", "delta", "json", "orc", "parquet", "text"})  # Spark's words
_SYSTEM = frozenset({"information_schema", "pg_catalog", "sys"})  # which no connector reads
_REACH_INTO_ROWS = frozenset({"bigquery", "redshift"})  # FROM orders o LEFT JOIN o.items
_UNKNOWN = "?"  # in front of a table that is not certain, where a URN would stand


def read(asked: Asked) -> Upstreams:
    """The tables and columns that a query reads; nothing where it can't be parsed, or is none. Never raises.

    Both parsers log pieces of what they don't understand, and a query may hold a credential.
    """
    try:
        return _read(asked)
    except Exception:  # noqa: BLE001 - people log any text, and two parsers have their own ways to trip over it
        return NONE


def _read(asked: Asked) -> Upstreams:
    dialect = get_dialect(_DIALECTS.get(asked.dialect, asked.dialect))
    statement: exp.Expr = parse_statement(asked.query.text, dialect=dialect)
    if not isinstance(statement, exp.Query):  # CREATE, INSERT: what they write is not what was read
        return NONE
    for hint in list(statement.find_all(exp.Hint)):  # the parser would take the names in it for tables
        hint.pop()
    names = _Names(statement, asked)
    result = _parsed(statement, names, asked, dialect)
    if result.debug_info.column_error and isinstance(statement, exp.Select) and _without_stars(statement):
        result = _parsed(statement, names, asked, dialect)
    if result.debug_info.table_error or result.out_tables:  # SELECT … INTO
        return NONE
    unknown = (table.removeprefix(_UNKNOWN) for table in result.in_tables if table.startswith(_UNKNOWN))
    return Upstreams(
        datasets=tuple(names.datasets[table] for table in result.in_tables if table in names.datasets),
        columns=tuple(_columns(result, names, _uncertain(statement))),
        unresolved=tuple(redact(name) for name in unknown if name),  # functions have none
    )


def _parsed(statement: exp.Query, names: _Names, asked: Asked, dialect: Dialect) -> SqlParsingResult:
    database, schema = asked.database()
    return sqlglot_lineage(
        statement,
        schema_resolver=names,
        default_db=database or None,
        default_schema=schema or None,
        override_dialect=dialect,
    )


def _without_stars(statement: exp.Select) -> bool:
    """Takes `o.*` and the like away, if other columns are left.

    Where no schema is known these have no columns, and sqlglot stumbles over them.
    """
    stars = [column for column in statement.selects if column.is_star]
    for star in stars:
        star.pop()
    return bool(stars and statement.selects)


def _uncertain(statement: exp.Query) -> set[str] | None:
    """Results that are made of a column called as another result beside it: SELECT a AS b, b AS c; None: all may be.

    Some platforms take it for that result, if the table has no such column; others never do. The parser always does.
    """
    found = set()
    for select in statement.find_all(exp.Select):
        results = {result.alias.lower(): result for result in select.selects if isinstance(result, exp.Alias)}
        of = {name: _column_names(result) for name, result in results.items()}
        for result in select.selects:
            called = (name for name in _column_names(result, only_bare=True) if results.get(name, result) is not result)
            if any(of[name] != {name} for name in called):
                if select is not statement:
                    return None
                found.add(result.alias_or_name.lower())
    return found


def _column_names(expression: exp.Expr, *, only_bare: bool = False) -> set[str]:
    columns = expression.find_all(exp.Column)
    return {column.name.lower() for column in columns if not (only_bare and column.table)}


class _Names:
    """The names in a query as they are written; to the parser, a `SchemaResolverInterface` that knows no schema."""

    platform_instance: str | None = None

    def __init__(self, statement: exp.Query, asked: Asked) -> None:
        self._asked = asked
        self.datasets: dict[str, DatasetUrn] = {}  # by what the parser is given for them
        self._tables: defaultdict[tuple[str, ...], set[DatasetUrn | None]] = defaultdict(set)  # by name in lower case
        self._columns = _by_lower_case(node.this for node in statement.find_all(exp.Column))
        self._identifiers = _by_lower_case(statement.find_all(exp.Identifier))
        self._results = _by_lower_case(exp.to_identifier(name) for name in statement.named_selects)
        rows = {node.alias_or_name.lower() for node in statement.find_all(exp.Table, exp.Subquery, exp.CTE)}
        for node in statement.find_all(exp.Table):
            parts = self._parts(node)
            if parts and not (asked.dialect in _REACH_INTO_ROWS and node.db and node.parts[0].name.lower() in rows):
                location = self._location(parts)
                self._tables[_lower(parts)].add(asked.dataset(location) if location else None)

    @property
    def platform(self) -> str:
        """Of all tables, as far as the parser is concerned."""
        return self._asked.dialect

    def includes_temp_tables(self) -> bool:
        """True: then the parser keeps no result, which would keep this object."""
        return True

    def resolve_table(self, table: _TableName) -> tuple[str, None]:
        """What stands for a table in the parser's result, and its schema."""
        parts = tuple(filter(None, (table.database, table.db_schema, table.table)))
        found = self._tables.get(_lower(parts), set())
        urn = next(iter(found)) if len(found) == 1 else None  # written in two ways: who knows
        if urn is None:
            return f"{_UNKNOWN}{'.'.join(parts)}", None
        self.datasets[str(urn)] = urn
        return str(urn), None

    def result(self, name: str) -> str | None:
        """A column of what the query gives, as it is written; None for an expression without a name."""
        written = self._results.get(name.lower()) or self._identifiers.get(name.lower(), set())
        found = {text for text, _ in written}
        return found.pop() if len(found) == 1 else None

    def column(self, dataset: DatasetUrn, name: str) -> str | None:
        """A column of a table as its connector writes it.

        None where it is written in two ways, on a platform that keeps both, and for a field inside one: in its path
        there are types, which the query doesn't say.
        """
        platform = dataset.platform.rpartition(":")[2]
        key = name.lower()
        written = self._columns.get(key) or self._identifiers.get(key, set())
        found = {_stored(platform, text, quoted) for text, quoted in written}
        if platform == "snowflake" and not self._asked.keeps_case(platform):
            found = {text.lower() for text in found}
        return found.pop() if len(found) == 1 else None

    def _parts(self, node: exp.Table) -> tuple[str, ...]:
        """The whole name of a table as it is stored; empty for a function, a parameter and the like."""
        identifiers = [node.args.get(key) for key in ("catalog", "db", "this")]
        names = [
            _stored(self._asked.dialect, i.name, bool(i.args.get("quoted"))) if isinstance(i, exp.Identifier) else ""
            for i in identifiers
        ]
        if any(i is not None and not name for i, name in zip(identifiers, names, strict=True)):
            return ()
        database, schema = (_stored(self._asked.dialect, name, quoted=True) for name in self._asked.database())
        return tuple(filter(None, (names[0] or database, names[1] or schema, names[2])))

    def _location(self, parts: tuple[str, ...]) -> Location | None:
        *around, name = parts
        if _SYSTEM.intersection(_lower(around)) or name.lower().startswith("information_schema."):
            return None
        if self._asked.dialect == "databricks" and "/" in name and len(around) == 1:
            if around[0].lower() in _FILES_BY_PATH and (parsed := parse_uri(name, delta=True)):
                return of_spark(parsed[0], name)
            return None
        return Table(tuple(map(redact, parts)))


def _columns(result: SqlParsingResult, names: _Names, uncertain: set[str] | None) -> Iterator[ColumnRead]:
    """The columns whose name, and whose origin, is certain."""
    found = (result.column_lineage or []) if uncertain is not None else []
    times = Counter([info.downstream.column.lower() for info in found])
    times.update(uncertain or ())
    for info in found:
        name = names.result(info.downstream.column) if times[info.downstream.column.lower()] == 1 else None
        if name and (of := _origins(info, names)):
            yield ColumnRead(name, of)


def _origins(info: ColumnLineageInfo, names: _Names) -> tuple[tuple[DatasetUrn, str], ...]:
    found = []
    for ref in info.upstreams:
        dataset = names.datasets.get(ref.table)
        column = names.column(dataset, ref.column) if dataset else None
        if dataset and column:
            found.append((dataset, column))
    return tuple(dict.fromkeys(found))


def _by_lower_case(identifiers: Iterator[exp.Expression]) -> dict[str, set[tuple[str, bool]]]:
    """How each name is written, and whether in quotes."""
    found: defaultdict[str, set[tuple[str, bool]]] = defaultdict(set)
    for identifier in identifiers:
        if isinstance(identifier, exp.Identifier):
            found[identifier.name.lower()].add((identifier.name, bool(identifier.args.get("quoted"))))
    return dict(found)


def _stored(platform: str, name: str, quoted: bool) -> str:
    """A name as that platform keeps it."""
    if platform in _LOWER_CASE:
        return name.lower()
    fold = _WITHOUT_QUOTES.get(platform)
    return fold(name) if fold and not quoted else name


def _lower(parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.lower() for part in parts)
