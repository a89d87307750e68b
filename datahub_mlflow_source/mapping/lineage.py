"""From the place that holds a dataset's data to the URN that DataHub's own connector gives it.

One function per platform, whose docstring is the form of the name; default settings of that connector are
assumed. None means: not sure enough. A lineage edge to the wrong dataset is worse than no edge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import unquote

from datahub.ingestion.source.bigquery_v2.bigquery_audit import BigqueryTableIdentifier
from datahub.metadata.schema_classes import DataPlatformInfoClass, PlatformTypeClass
from datahub.metadata.urns import DatasetUrn

from datahub_mlflow_source.mapping.sources import (
    CatalogDataset,
    DatasetSource,
    HubDataset,
    Location,
    Query,
    Table,
    Uri,
)
from datahub_mlflow_source.mapping.urns import URN_BYTES, encoded_length, escaped, parsed_dataset_urn


@dataclass(frozen=True, slots=True)
class Place:
    """A dataset as its platform's connector knows it."""

    platform: str
    name: str
    written: str = ""  # as the source has it, where its connector writes it otherwise by itself


@dataclass(frozen=True, slots=True)
class PlatformNaming:
    """How a platform's own connector was told to name its datasets; None: as by itself."""

    platform_instance: str | None = None
    env: str | None = None
    lower_case: bool | None = None

    def urn(self, place: Place, env: str) -> DatasetUrn:
        """As `make_dataset_urn_with_platform_instance` of DataHub makes it; `env` is the recipe's."""
        name = (place.written or place.name if self.lower_case is False else place.name).strip()
        full = f"{self.platform_instance}.{name}" if self.platform_instance else name
        # The framework's `auto_lowercase_urns` doesn't spare the instance.
        return DatasetUrn(place.platform, escaped(full.lower() if self.lower_case else full), self.env or env)


_BY_ITSELF = PlatformNaming()


def real_dataset(
    source: DatasetSource,
    source_type: str,
    *,
    env: str,
    platform_of_type: Mapping[str, str],
    naming_of_platform: Mapping[str, PlatformNaming] = MappingProxyType({}),
) -> DatasetUrn | None:
    """The dataset on its own platform that a source names; None where that isn't certain.

    `platform_of_type` is the recipe's `source_mapping_to_platform`: the platform that a source type means. The
    name comes from the source all the same. An address that is no table (s3://…) stays what it is where the
    mapping names a database. `naming_of_platform` is its `dataset_platform_map`.
    """
    kind, platform = meant(source_type, platform_of_type)
    return dataset_at(source.location, kind, platform, env, naming_of_platform)


def meant(source_type: str, platform_of_type: Mapping[str, str]) -> tuple[str, str | None]:
    """A source type in its one spelling, and the platform that the recipe says it means."""
    kind = source_type.strip().lower()
    return kind, platform_of_type.get(source_type) or platform_of_type.get(kind)


def dataset_at(
    location: Location | None,
    kind: str,
    platform: str | None,
    env: str,
    naming_of_platform: Mapping[str, PlatformNaming],
) -> DatasetUrn | None:
    """The dataset at a place, with what `meant` gives for the type of its source; None where that isn't certain."""
    if isinstance(location, CatalogDataset):
        return parsed_dataset_urn(location.urn)
    place = _mapped(location, kind, platform) if platform else _found(location, kind)
    if place is None or not place.name.strip("/. "):
        return None
    urn = naming_of_platform.get(place.platform, _BY_ITSELF).urn(place, env)
    # DataHub refuses a longer one: then the other connector has no such dataset either.
    return urn if encoded_length(str(urn)) <= URN_BYTES else None


def _found(location: Location | None, kind: str) -> Place | None:
    if isinstance(location, HubDataset):
        return hugging_face(location.repository)
    if isinstance(location, Uri):
        return delta_path(location) if kind in _DELTA else by_address(location)
    if isinstance(location, Table):
        if kind in _SPARK or kind in _DELTA:
            return spark_table(location.parts)
        return _table_of_own_type(location, kind)
    return None


def _table_of_own_type(location: Table, kind: str) -> Place | None:
    """The platform from the address of the database, else from the type; a bucket or folder is the data itself."""
    store = location.store
    platform = _platform_of_database(store) if store else None
    platform = platform or _PLATFORM_OF_OWN_TYPE.get(kind)
    if platform:
        return table(platform, (*_database(platform, location), *location.parts))
    return by_address(store) if store and store.scheme not in ("http", "https") else None


def _mapped(location: Location | None, kind: str, platform: str) -> Place | None:
    """As `_found`, where the recipe says which platform the source's type means."""
    if isinstance(location, Table):
        parts = location.parts
        if (kind in _SPARK or kind in _DELTA) and len(parts) >= 3 and platform in _WITHOUT_SPARK_CATALOG:
            parts = parts[1:]
        return table(platform, (*_database(platform, location), *parts))
    place = _found(location, kind)
    if platform in _TABLES:  # also for an address of somebody's own: mywarehouse://db/schema/table
        return table(platform, _segments(location)) if place is None and isinstance(location, Uri) else place
    if place is None and isinstance(location, Uri) and location.scheme != "file":
        return Place(platform, f"{location.authority.partition('@')[0]}{location.path}")
    return Place(platform, place.name) if place else None


# --- tables


@dataclass(frozen=True, slots=True)
class _Tables:
    """How a platform names its tables."""

    levels: int
    more: bool = False  # at least so many
    lower: bool = False  # its connector writes names in lower case, or the platform itself stores them so


_TABLES = {
    "bigquery": _Tables(3),  # <project>.<dataset>.<table>
    "databricks": _Tables(3, lower=True),  # <catalog>.<schema>.<table>; Unity Catalog stores lower case
    "glue": _Tables(2, lower=True),  # <database>.<table>
    "hive": _Tables(2, lower=True),  # <database>.<table>; the metastore stores lower case
    "iceberg": _Tables(2, more=True),  # <namespace>.<table>, namespaces may nest; the catalog is not in it
    "mariadb": _Tables(2),  # <database>.<table>
    "mssql": _Tables(3),  # <database>.<schema>.<table>
    "mysql": _Tables(2),  # <database>.<table>
    "postgres": _Tables(3),  # <database>.<schema>.<table>
    "redshift": _Tables(3),  # <database>.<schema>.<table>
    "snowflake": _Tables(3, lower=True),  # convert_urns_to_lowercase is true by default
    "trino": _Tables(3),  # <catalog>.<schema>.<table>
}
_SPARK = frozenset({"spark"})
_DELTA = frozenset({"delta_table", "delta", "delta-lake", "delta_lake", "deltalake"})
_WITHOUT_SPARK_CATALOG = frozenset({"glue", "hive", "iceberg"})  # Spark's name has its catalog in front
_PLATFORM_OF_SCHEME = {
    name: "postgres" if name == "postgresql" else name
    for name in ("bigquery", "databricks", "mariadb", "mssql", "mysql", "postgresql", "redshift", "snowflake", "trino")
}
# Types that people gave their own sources, where the name leaves no doubt.
_PLATFORM_OF_OWN_TYPE = {name: name for name in (*_TABLES, "kafka")} | {
    "bq": "bigquery",
    "databricks-uc-table": "databricks",
    "databricks_uc_table": "databricks",
    "postgresql": "postgres",
    "uc_table": "databricks",
    "unity_catalog": "databricks",
}


def table(platform: str, parts: tuple[str, ...]) -> Place | None:
    """A table by its whole name; None where parts are missing, for nothing tells which database was meant.

    On a platform that isn't listed above, the parts joined by dots.
    """
    rule = _TABLES.get(platform)
    if not parts or (rule and len(parts) != rule.levels and not (rule.more and len(parts) > rule.levels)):
        return None
    if platform == "bigquery":
        return Place(platform, str(BigqueryTableIdentifier(*parts)))  # knows shards: events_20240101 is events
    name = ".".join(parts)
    return Place(platform, name.lower(), name) if rule and rule.lower else Place(platform, name)


def spark_table(parts: tuple[str, ...]) -> Place | None:
    """A table as Spark names it: (databricks, <catalog>.<schema>.<table>) or (hive, <database>.<table>)

    A third part is a catalog: Unity Catalog, and `hive_metastore` on Databricks; `spark_catalog` is what Spark
    calls the Hive metastore, or nothing but a local one. One part alone may be a temporary view, and all that is in
    `global_temp` is one. Not asked: `is_databricks_uc_table`, which MLflow sets for every name that doesn't begin
    with a local catalog's, `db.t` too.
    """
    if len(parts) == 2 and parts[0].lower() == "global_temp":
        return None
    if len(parts) == 3 and parts[0].lower() == "spark_catalog":
        parts = parts[1:]
    return table("databricks" if len(parts) == 3 else "hive", parts)


def platform_of_query(query: Query, kind: str, platform: str | None) -> tuple[str, str | None] | None:
    """Whose SQL a query is in, and whose its tables are, with what `meant` gives for the type; None: not certain.

    Spark's SQL goes by the name of Databricks, which has all of it and more; whose a table is, its name tells there.
    Of a platform that isn't listed above, nobody knows which names are whole.
    """
    if platform and platform not in _TABLES:
        return None
    if kind in _SPARK or kind in _DELTA:
        return "databricks", platform
    of_store = _platform_of_database(query.store) if query.store else None
    found = platform or of_store or _PLATFORM_OF_OWN_TYPE.get(kind)
    return (found, found) if found in _TABLES else None


def database_of_query(platform: str, store: Uri | None) -> tuple[str, str]:
    """Database and schema of the tables that a query names without, by the address it is sent to; "": not told."""
    levels = _TABLES[platform].levels
    segments = _after_host(platform, store) if store else ()
    if not 0 < len(segments) < levels or any("." in segment for segment in segments):
        return "", ""
    names = (*segments, "")[: levels - 1] if levels > 2 else ("", *segments)
    return names[0], names[1]


def _database(platform: str, location: Table) -> tuple[str, ...]:
    """What the address of a table's database adds in front of the table's own parts."""
    rule = _TABLES.get(platform)
    missing = rule.levels - len(location.parts) if rule else 0
    if location.store is None or missing <= 0:
        return ()
    segments = _after_host(platform, location.store)
    return segments if len(segments) == missing else ()


def _after_host(platform: str, store: Uri) -> tuple[str, ...]:
    """bigquery://<project>/<dataset>; elsewhere a host or account comes first"""
    return _segments(store) if platform == "bigquery" else _segments(store)[1:]


def _platform_of_database(uri: Uri) -> str | None:
    """By the scheme; Redshift speaks PostgreSQL's protocol, only its hosts tell."""
    if uri.scheme == "postgresql" and re.search(r"\.redshift(?:-serverless)?\.amazonaws\.com", uri.authority.lower()):
        return "redshift"
    return _PLATFORM_OF_SCHEME.get(uri.scheme)


def _segments(uri: Uri) -> tuple[str, ...]:
    return tuple(part for part in (uri.authority, *uri.path.split("/")) if part)


# --- addresses


def s3(uri: Uri) -> Place | None:
    """s3://<bucket>/<key>  ->  (s3, <bucket>/<key>)"""
    if uri.authority.startswith("arn:"):  # an access point has a name of its own, not its bucket's
        return None
    return Place("s3", f"{uri.authority}{uri.path}") if uri.authority else None


def gcs(uri: Uri) -> Place | None:
    """gs://<bucket>/<key>  ->  (gcs, <bucket>/<key>)"""
    return Place("gcs", f"{uri.authority}{uri.path}") if uri.authority else None


def azure(uri: Uri) -> Place | None:
    """wasbs|abfss://<container>@<account>.<blob|dfs>.core.windows.net/<path>  ->  (abs, <container>/<path>)

    DataHub leaves the account out (`abs_utils.strip_abs_prefix`). Other hosts that speak abfss, like Fabric's
    OneLake, hold no blob containers.
    """
    container, _, host = uri.authority.partition("@")
    return Place("abs", f"{container}{uri.path}") if container and _AZURE.fullmatch(host) else None


def azure_container(uri: Uri) -> Place | None:
    """az://<container>/<path>  ->  (abs, <container>/<path>)"""
    return Place("abs", f"{uri.authority}{uri.path}") if uri.authority else None


def dbfs(uri: Uri) -> Place | None:
    """dbfs:/<path>  ->  (dbfs, /<path>), as DataHub's Hive storage lineage writes it"""
    return None if uri.authority else Place("dbfs", uri.path)


def local_file(uri: Uri) -> Place | None:
    """/<path>  ->  (file, <path>), no leading slash: so does DataHub's S3 and local files source

    /Volumes/<catalog>/<schema>/<volume>/<path>  ->  (databricks, the same), catalog to volume in lower case;
    DataHub's own connector has no volumes, so this is a name of ours. A relative path is None: it depends on where
    the code ran.
    """
    if volume := _VOLUME.fullmatch(uri.path):
        return Place("databricks", f"/Volumes/{volume[1].lower()}{volume[2]}") if not uri.authority else None
    absolute = uri.path.startswith("/") or uri.path[1:2] == ":"
    return Place("file", f"{uri.authority}{uri.path}".strip("/")) if absolute else None


def hdfs(uri: Uri) -> Place | None:
    """hdfs://<name node>/<path>  ->  (hdfs, <name node>/<path>), as DataHub's Hive storage lineage writes it"""
    return Place("hdfs", f"{uri.authority}{uri.path}")


def web(uri: Uri) -> Place | None:
    """https://<host>/<path>  ->  (http, <host>/<path>)

    Where the host serves a bucket, a container or a Hugging Face dataset: that. None where no host can be called so.
    """
    if len(uri.authority) > _LONGEST_HOST:
        return None
    return (
        _azure_by_https(uri)
        or _s3_by_https(uri)
        or _gcs_by_https(uri)
        or _hugging_face_by_https(uri)
        or (Place("http", f"{uri.authority}{uri.path}") if uri.authority else None)
    )


def file_server(uri: Uri) -> Place | None:
    """sftp://<host>/<path>  ->  (sftp, <host>/<path>); ftp and ftps likewise, on platform ftp"""
    return Place("sftp" if uri.scheme == "sftp" else "ftp", f"{uri.authority}{uri.path}") if uri.authority else None


def hugging_face(repository: str) -> Place | None:
    """<organisation>/<name>  ->  (huggingface, <organisation>/<name>)"""
    return Place("huggingface", repository)


def hugging_face_file(uri: Uri) -> Place | None:
    """hf://datasets/<organisation>/<name>/…  ->  (huggingface, <organisation>/<name>)"""
    parts = _segments(uri)
    return hugging_face("/".join(parts[1:3])) if parts[0] == "datasets" and len(parts) > 2 else None


def lakefs(uri: Uri) -> Place | None:
    """lakefs://<repository>/<ref>/<path>  ->  (lakefs, <repository>/<path>): the same data in each commit"""
    return Place("lakefs", f"{uri.authority}{uri.path}") if uri.path else None


def kafka(uri: Uri) -> Place | None:
    """kafka://<broker>/<topic>  ->  (kafka, <topic>)"""
    parts = _segments(uri)
    return Place("kafka", parts[1]) if len(parts) == 2 else None


def snowflake(uri: Uri) -> Place | None:
    """snowflake://[<account>/]<database>/<schema>/<table>  ->  (snowflake, <database>.<schema>.<table>)

    Also with dots between the last three.
    """
    names = uri.path.strip("/").replace("/", ".").split(".") if uri.path else []
    if len(names) == 2 and not re.search(r"[.-]", uri.authority):
        names = [uri.authority, *names]  # an account has no table called like a schema: this is the database
    if not names and not uri.authority.endswith((".aws", ".azure", ".gcp", ".com")):
        names = uri.authority.split(".")
    return table("snowflake", tuple(names))


def bigquery(uri: Uri) -> Place | None:
    """bigquery|bq://<project>.<dataset>.<table>, or with slashes  ->  (bigquery, <project>.<dataset>.<table>)"""
    names = f"{uri.authority}{uri.path}".replace("/", ".").split(".")
    return table("bigquery", tuple(names))


def database_table(uri: Uri) -> Place | None:
    """postgresql|redshift|mysql|mssql|trino://<host>/<database>[/<schema>]/<table>  ->  (<platform>, dotted name)"""
    platform = _platform_of_database(uri)
    return table(platform, _segments(uri)[1:]) if platform else None


def delta_path(uri: Uri) -> Place | None:
    """A Delta table by its path  ->  (delta-lake, <bucket>/<key> | <container>/<path> | <path>)

    DataHub's Delta Lake source (`delta_lake/source.py`, ingest_table) reads S3, Azure and local paths only, and
    names them as their own connectors do. A table elsewhere is what its path is.
    """
    place = by_address(uri)
    return Place("delta-lake", place.name) if place and place.platform in ("s3", "abs", "file") else place


def by_address(uri: Uri) -> Place | None:
    """The place behind an address, by its scheme; None for schemes that name no dataset (models:, runs:, …)

    viewfs, r2 and b2 are left out on purpose: the first is one client's view, the others' buckets would be taken
    for those of S3. The recipe may map them.
    """
    form = _BY_SCHEME.get(uri.scheme)
    return form(uri) if form else None


_BY_SCHEME: Mapping[str, Callable[[Uri], Place | None]] = {
    "abfss": azure,
    "az": azure_container,
    "bigquery": bigquery,
    "dbfs": dbfs,
    "file": local_file,
    "ftp": file_server,
    "ftps": file_server,
    "gs": gcs,
    "hdfs": hdfs,
    "hf": hugging_face_file,
    "http": web,
    "https": web,
    "kafka": kafka,
    "lakefs": lakefs,
    "s3": s3,
    "sftp": file_server,
    "snowflake": snowflake,
    "wasbs": azure,
    **dict.fromkeys(("mariadb", "mssql", "mysql", "postgresql", "redshift", "trino"), database_table),
}
_LONGEST_HOST = 253 + len(":65535")  # which also bounds the time that the patterns below take
_AZURE = re.compile(r"[a-z0-9]+\.(?:blob|dfs)\.core\.(?:windows\.net|usgovcloudapi\.net|chinacloudapi\.cn)")
_S3_HOST = re.compile(r"(?:(.+)\.)?s3(?:[.-](?!website|accesspoint|control)[a-z0-9-]+){0,2}\.amazonaws\.com(?:\.cn)?")
_GCS_HOST = re.compile(r"(?:(.+)\.)?storage\.(?:googleapis|cloud\.google)\.com")
_VOLUME = re.compile(r"/Volumes/([^/]+/[^/]+/[^/]+)((?:/.*)?)", re.DOTALL)


def _azure_by_https(uri: Uri) -> Place | None:
    """https://<account>.blob.core.windows.net/<container>/<path>"""
    found = _AZURE.fullmatch(uri.authority) and uri.path.count("/") > 1
    return Place("abs", unquote(uri.path).strip("/")) if found else None


def _s3_by_https(uri: Uri) -> Place | None:
    """https://<bucket>.s3.<region>.amazonaws.com/<key>, https://s3.<region>.amazonaws.com/<bucket>/<key>"""
    return _bucket("s3", _S3_HOST.fullmatch(uri.authority), uri)


def _gcs_by_https(uri: Uri) -> Place | None:
    """https://storage.googleapis.com/<bucket>/<key>, https://<bucket>.storage.googleapis.com/<key>"""
    if uri.path.startswith(("/storage/v1/", "/download/storage/v1/")):  # calls of its API
        return None
    return _bucket("gcs", _GCS_HOST.fullmatch(uri.authority), uri)


def _bucket(platform: str, host: re.Match[str] | None, uri: Uri) -> Place | None:
    name = f"{host[1] or ''}{unquote(uri.path)}".strip("/") if host else ""
    return Place(platform, name) if "/" in name else None


def _hugging_face_by_https(uri: Uri) -> Place | None:
    """https://huggingface.co/datasets/<organisation>/<name>/…"""
    if uri.authority not in ("huggingface.co", "hf.co") or not uri.path.startswith("/datasets/"):
        return None
    return hugging_face("/".join(uri.path.split("/")[2:4]))


# --- platforms


_INFO = {
    "abs": ("Azure Blob Storage", PlatformTypeClass.OBJECT_STORE),
    "dbfs": ("Databricks File System", PlatformTypeClass.FILE_SYSTEM),
    "ftp": ("FTP", PlatformTypeClass.FILE_SYSTEM),
    "http": ("HTTP", PlatformTypeClass.OTHERS),
    "huggingface": ("Hugging Face", PlatformTypeClass.OTHERS),
    "lakefs": ("lakeFS", PlatformTypeClass.OBJECT_STORE),
    "sftp": ("SFTP", PlatformTypeClass.FILE_SYSTEM),
}


def platform_info(platform: str) -> DataPlatformInfoClass | None:
    """What DataHub is to know about a platform that it doesn't know by itself; None for those that it does.

    Those it knows: `bootstrap_mcps/data-platforms.yaml` in DataHub's repository.
    """
    if platform not in _INFO:
        return None
    display_name, kind = _INFO[platform]
    return DataPlatformInfoClass(name=platform, type=kind, datasetNameDelimiter="/", displayName=display_name)
