"""What the source of an MLflow dataset says: its identity, and the place that holds the data.

MLflow stores a source as `source_type` and a JSON text whose form depends on it; people's own types put in
whatever they like. `parse_source` reads all of them and never raises: the text is as it was logged.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from datahub_mlflow_source.redaction import names_credential, redact, redact_url
from datahub_mlflow_source.text import sound

_MAX_DETAILS = 32
_MAX_DETAIL_CHARS = 500
_MAX_DISPLAY_CHARS = 1000
_MAX_READ_CHARS = 10_000  # of a text that is then cut: far more, so that no half of a credential stays
_MAX_QUERY_CHARS = 100_000  # of one that is to be parsed; the longest that people write by hand are far shorter

_SYNONYMS = {
    "s3a": "s3",
    "s3n": "s3",
    "wasb": "wasbs",
    "abfs": "abfss",
    "gcs": "gs",
    "bq": "bigquery",
    "postgres": "postgresql",
    "sqlserver": "mssql",
}
_SQL_SCHEMES = frozenset(
    {"bigquery", "databricks", "mariadb", "mssql", "mysql", "postgresql", "redshift", "snowflake", "trino"}
)
_HOST_IS_CASELESS = frozenset({"http", "https", "ftp", "ftps", "sftp", "wasbs", "abfss", "hdfs"})
_DEFAULT_PORTS = {"http": ":80", "https": ":443", "ftp": ":21", "sftp": ":22"}
_WEB = frozenset({"http", "https", "ftp", "ftps", "sftp"})
_CASELESS_TABLES = frozenset({"delta_table", "spark"})  # Spark compares names without their case
_HUGGING_FACE = frozenset({"hugging_face", "huggingface", "hf"})

# Builders that are part of Hugging Face's `datasets`: with these the data files are the source.
_HF_BUILDERS = frozenset(
    {"arrow", "audiofolder", "csv", "generator", "imagefolder", "json", "pandas", "parquet"}
    | {"pdffolder", "sql", "text", "videofolder", "webdataset", "xml"}
)
_HF_REPOSITORY = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?")

_LOCATED_BY = ("uri", "url", "path", "location", "file", "file_path")
_NAMED_BY_TABLE = ("delta_table_name", "table_name", "full_table_name", "table")
_NAMED_BY_ID = ("dataset_id", "dataset", "dataset_name", "topic")
_QUALIFIED_BY = (  # from the outermost in
    ("catalog", "project", "project_id"),
    ("database", "db"),
    ("schema", "schema_name", "namespace", "dataset", "dataset_id"),  # `dataset` is BigQuery's word for a schema
)
_ASKED_BY = ("sql", "query")

_CONTROL = {code: None for code in [*range(32), 127]}
_BARE_URI = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:/|/|[A-Za-z]:\\)[^\r\n]*")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_DRIVE = re.compile(r"/?([A-Za-z]:)[\\/](?!/)")
_DELTA_PATH = re.compile(r"delta\.`([^`]+)`", re.IGNORECASE)
_DELTA_VERSION = re.compile(r"@v(\d+)$")
_NAME_PART = re.compile(r"`[^`]+`|\"[^\"]+\"|[^.`\"]+")


@dataclass(frozen=True, slots=True)
class Uri:
    """A place by its address, in one spelling: no credentials, query, synonym of a scheme, or trailing slash."""

    scheme: str  # "file" for a local path, "dbfs" also for /dbfs/…; empty for one on Spark's default file system
    authority: str  # host[:port], bucket, or container@account; empty where there is none
    path: str  # begins with a slash, unless it is empty or a local path that is relative

    def __str__(self) -> str:
        if self.scheme in ("file", ""):
            return f"//{self.authority}{self.path}" if self.authority else self.path
        return f"{self.scheme}:{'//' if self.authority else ''}{self.authority}{self.path}"


@dataclass(frozen=True, slots=True)
class Table:
    """A table, or another thing with a dotted name, as far as the source names it."""

    parts: tuple[str, ...]  # (catalog, schema, table), (database, table), (table,)
    store: Uri | None = None  # the database or warehouse, where the source gives its address


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A dataset repository on the Hugging Face hub."""

    repository: str  # "<organisation>/<name>", or "<name>" for the oldest ones


@dataclass(frozen=True, slots=True)
class Query:
    """What is read by a query; which tables that are, `mapping/queries.py` finds out."""

    text: str  # as it was logged, line breaks and credentials too: for a parser alone. Empty where it is too long
    store: Uri | None = None  # the database or warehouse that is asked, where the source gives its address


@dataclass(frozen=True, slots=True)
class CatalogDataset:
    """A dataset as DataHub itself calls it, by `datahub_mlflow_source.tracking`."""

    urn: str  # urn:li:dataset:(urn:li:dataPlatform:…,…,…), as far as the text goes


Location = Uri | Table | HubDataset | Query | CatalogDataset


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """What `parse_source` found."""

    canonical: str | None = None  # the same for the same data, however it was written; None: no usable source
    location: Location | None = None  # None also for an evaluation dataset, …
    display: str = ""  # for people, without credentials
    details: Mapping[str, str] = field(default_factory=dict)  # version, split, …: not identity; sorted by key


def parse_source(source_type: str, source: str) -> DatasetSource:
    """Identity and place of a dataset, from MLflow's `source_type` and `source`. Never raises."""
    kind = source_type.strip().lower()
    fields = _fields(source)
    if kind == "code":  # nobody said where the data comes from, only which code logged it
        tags = fields.get("tags")
        return DatasetSource(details=_details(tags if isinstance(tags, dict) else {}))
    if kind in _HUGGING_FACE:
        found = _hugging_face(fields)
    elif kind == "datahub":
        urn = _first(fields, ("urn",))
        found = _Found(urn, CatalogDataset(urn), used=("urn",)) if urn.startswith("urn:li:dataset:(") else _Found(None)
    elif kind == "mlflow_evaluation_dataset":
        found = _Found(_first(fields, ("dataset_id",)), used=("dataset_id",))
    else:
        found = _anywhere(kind, fields)
    details = _details({key: value for key, value in fields.items() if key not in found.used} | found.details)
    if not found.canonical:
        return DatasetSource(display=_shown(source, _MAX_DISPLAY_CHARS), details=details)
    display = _shown(found.display or found.canonical, _MAX_DISPLAY_CHARS)
    return DatasetSource(found.canonical, found.location, display, details)


@dataclass(slots=True)
class _Found:
    canonical: str | None
    location: Location | None = None
    display: str = ""
    used: Iterable[str] = ()  # keys of the JSON that are in the identity
    details: dict[str, Any] = field(default_factory=dict)


def _fields(source: str) -> dict[str, Any]:
    """The JSON object; `{"uri": …}` for a URI that stands there bare; empty for anything else."""
    text = source.strip()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # not JSON; digits without end, nesting without end
        value = text
    if isinstance(value, str):
        return {"uri": value} if _BARE_URI.fullmatch(value.strip()) else {}
    return value if isinstance(value, dict) else {}


def _anywhere(kind: str, fields: Mapping[str, Any]) -> _Found:
    """A table, a query, an address or an identifier, in that order, under the usual keys."""
    address = _first(fields, _LOCATED_BY)
    table = _first(fields, _NAMED_BY_TABLE)
    if table and (path := _DELTA_PATH.fullmatch(table)):  # Spark's own way to name a table by its path
        address, table = path[1], ""
    parsed = parse_uri(address, delta=kind.startswith("delta")) if address else None
    store, details = parsed if parsed else (None, {})
    store = of_spark(store, address) if store and kind == "spark" else store
    prefix = f"{store}#" if store else ""
    if table:
        parts, version, used = _qualified(table, fields)
        name = ".".join(parts)
        canonical = f"{prefix}{name.lower() if kind in _CASELESS_TABLES else name}"
        return _Found(canonical, Table(parts, store), f"{prefix}{name}", used, details | version)
    if query := _first(fields, _ASKED_BY):
        logged = _as_logged(fields, _ASKED_BY)
        query = redact(_clean(" ".join((logged or query).split())))  # a line break parts words
        asked = Query(logged, store)
        return _Found(f"{prefix}{query}", asked, used=(*_LOCATED_BY, *_ASKED_BY), details=details)
    if store:
        return _Found(str(store), store, redact_url(address), _LOCATED_BY, details)
    if name := _first(fields, _NAMED_BY_ID):
        name = redact(name)
        parts = (name,) if "topic" in fields else _split(name)
        return _Found(name, Table(parts) if parts else None, used=_NAMED_BY_ID)
    return _Found(None)


def location(text: str) -> Location | None:
    """The place that an address, a path or a dotted name stands for, where nothing else is said of it."""
    if _BARE_URI.fullmatch(text):
        parsed = parse_uri(text)
        return parsed[0] if parsed else None
    parts = _split(text)
    return Table(parts) if parts else None


def _hugging_face(fields: Mapping[str, Any]) -> _Found:
    """A repository of the hub, or the files that one of the general builders ("csv", "json", …) reads."""
    path = _first(fields, ("path",))
    if path in _HF_BUILDERS:
        key = "data_files" if fields.get("data_files") else "data_dir"
        address = _first(fields, (key,))
        uri, details = (parse_uri(address) if address else None) or (None, {})
        files = str(uri) if uri else redact(_clean(_compact(fields.get(key) or "")))
        return _Found(f"{path}:{files}" if fields.get(key) else None, uri, used=("path", key), details=details)
    if _HF_REPOSITORY.fullmatch(path):
        return _Found(path, HubDataset(path), used=("path",))
    parsed = parse_uri(path) if path else None
    if not parsed:
        return _Found(None)
    return _Found(str(parsed[0]), parsed[0], used=("path",), details=parsed[1])


def parse_uri(text: str, *, delta: bool = False) -> tuple[Uri, dict[str, str]] | None:
    """An address in its one spelling, and what was taken off it (query, revision); None for an empty one.

    With `delta`, a version after the path (Spark's `…/table@v5`) is taken off too.
    """
    text = redact_url(_clean(text).strip()).removeprefix("jdbc:")
    details: dict[str, str] = {}
    if delta and (version := _DELTA_VERSION.search(text)):
        text, details["version"] = text[: version.start()], version[1]
    match = None if _DRIVE.match(text) else _SCHEME.fullmatch(text)
    scheme = _scheme(match[1]) if match else "file"
    rest = match[2] if match else text
    if scheme == "file":
        uri = _local(rest, from_uri=bool(match))
    else:
        if scheme in _WEB:
            rest = rest.partition("#")[0]
        rest, _, query = rest.partition("?")
        if query:
            details["query"] = query
        uri = _remote(scheme, rest, details)
    return (uri, details) if uri.authority or uri.path else None


def of_spark(uri: Uri, address: str) -> Uri:
    """What Spark takes this address for: a path alone is on its default file system. HDFS, DBFS, local: who knows."""
    is_path = address.startswith("/") and uri.scheme == "file" and uri.path.startswith("/")
    return Uri("", "", uri.path) if is_path and not uri.path.startswith("/Volumes/") else uri


def _scheme(text: str) -> str:
    """Lower case, the usual one of its synonyms, without SQLAlchemy's `+driver`."""
    scheme = text.lower()
    base = _SYNONYMS.get(scheme.partition("+")[0], scheme.partition("+")[0])
    return base if base in _SQL_SCHEMES else _SYNONYMS.get(scheme, scheme)


def _local(text: str, *, from_uri: bool) -> Uri:
    """A path, also one that Databricks mounts: /dbfs/x is dbfs:/x. `file:` URIs are percent-encoded, paths not."""
    text = unquote(text) if from_uri else text
    host = ""
    if from_uri and text.startswith("//"):
        host, slash, rest = text[2:].partition("/")
        host, text = "" if host == "localhost" else host, slash + rest
    if drive := _DRIVE.match(text):
        text = text[drive.start(1) :].replace("\\", "/")
    path = posixpath.normpath(text).replace("//", "/", 1) if text.strip("/.") else ""
    if path.startswith("/dbfs/") and not host:
        return _remote("dbfs", path.removeprefix("/dbfs"), {})
    return Uri("file", host, path)


def _remote(scheme: str, rest: str, details: dict[str, str]) -> Uri:
    authority, path = "", rest
    if rest.startswith("//"):
        authority, slash, path = rest[2:].partition("/")
        path = slash + path
    if scheme == "mssql" and ";" in rest:  # jdbc:sqlserver://host:1433;databaseName=sales;user=…
        authority, path = _sql_server(authority, path)
    if scheme in _HOST_IS_CASELESS:
        container, at, host = authority.rpartition("@")
        authority = f"{container}{at}{host.lower()}".removesuffix(_DEFAULT_PORTS.get(scheme, " "))
    path = path.rstrip("/")
    if path and not path.startswith("/") and (authority or scheme == "dbfs"):
        path = f"/{path}"
    if scheme == "dbfs":
        authority = "" if authority == "databricks" else authority  # dbfs://databricks/x is dbfs:/x
        path = posixpath.normpath(path).replace("//", "/", 1) if path else ""
        if path.startswith("/Volumes/") and not authority:
            return Uri("file", "", path)
    return _without_revision(scheme, authority, path, details)


def _without_revision(scheme: str, authority: str, path: str, details: dict[str, str]) -> Uri:
    """`hf://datasets/org/name@rev/…` and `lakefs://repository/ref/…` name the same data at each revision."""
    if scheme == "hf" and (match := re.match(r"(/[^/@]+/[^/@]+)@([^/]+)", path)):
        details["revision"], path = match[2], match[1] + path[match.end() :]
    elif scheme == "lakefs" and path.startswith("/"):
        _, ref, *rest = path.split("/")
        details["revision"], path = ref, "".join(f"/{part}" for part in rest)
    return Uri(scheme, authority, path)


def _sql_server(authority: str, path: str) -> tuple[str, str]:
    host, *properties = f"{authority}{path}".split(";")
    for text in properties:
        key, _, value = text.partition("=")
        if key.strip().lower() in ("databasename", "database"):
            return host.rstrip("/"), f"/{value.strip()}"
    return host.rstrip("/"), ""


def _qualified(table: str, fields: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, str], tuple[str, ...]]:
    """The parts of a table's name, those in front of it taken from keys beside it; its version; the keys used."""
    version = _DELTA_VERSION.search(table)
    parts = _split(table[: version.start()] if version else table)
    around: list[str] = []
    for keys in _QUALIFIED_BY[: {1: 3, 2: 2}.get(len(parts), 0)]:  # a name of two parts brings its schema along
        around += _split(_first(fields, keys))
    if len(parts) == 2 and around[-1:] == [parts[0]]:  # {"database": "d", "table": "d.t"}
        around.pop()
    used = (*_LOCATED_BY, *_NAMED_BY_TABLE, *(key for keys in _QUALIFIED_BY for key in keys))
    return (*around, *parts), {"version": version[1]} if version else {}, used


def _split(name: str) -> tuple[str, ...]:
    """A dotted name in its parts; quotes and backticks keep a part together, and go."""
    return tuple(part.strip('`" ') for part in _NAME_PART.findall(redact(name)) if part.strip('`" '))


def _first(fields: Mapping[str, Any], keys: Iterable[str]) -> str:
    """The first of these that holds a text, or a list of one text."""
    return next((text for value in _texts(fields, keys) if (text := _clean(value).strip())), "")


def _as_logged(fields: Mapping[str, Any], keys: Iterable[str]) -> str:
    """The same text with its line breaks; empty where it is too long to be parsed."""
    text = next((sound(value) for value in _texts(fields, keys) if _clean(value).strip()), "")
    return text if len(text) <= _MAX_QUERY_CHARS else ""


def _texts(fields: Mapping[str, Any], keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        value = fields.get(key)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, str):
            yield value


def _details(fields: Mapping[str, Any]) -> dict[str, str]:
    """What is worth showing, without credentials, bounded in number and length, sorted by key."""
    shown: dict[str, str] = {}
    for key in sorted(map(str, fields)):
        value = fields[key]
        if value in (None, "", "None", [], {}) or names_credential(key):
            continue
        if len(shown) == _MAX_DETAILS:
            break
        text = value if isinstance(value, str) else _compact(value)
        shown[_clean(key)[:100]] = _shown(text, _MAX_DETAIL_CHARS)
    return shown


def _compact(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        return "…"


def _clean(text: str) -> str:
    """Without control characters, and without the halves of characters that JSON can hold but UTF-8 cannot."""
    return sound(text).translate(_CONTROL)


def _shown(text: str, chars: int) -> str:
    """The text for people: no credentials, no more than so many characters."""
    text = redact(_clean(text[:_MAX_READ_CHARS]))
    return text if len(text) <= chars else f"{text[: chars - 1]}…"
