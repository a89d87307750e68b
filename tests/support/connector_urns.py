"""The URNs that DataHub's connectors give tables and features: `make .venv-connectors/done`, then
`.venv-connectors/bin/python -I tests/support/connector_urns.py > tests/unit/connector_urns.json`.

Runs in an environment of its own, and imports neither this project nor anything of its tests. Each case goes through
a whole source, set up by a recipe, and through the processors that the framework puts behind it. Iceberg reads a real
catalog, Feast a real registry, Delta Lake a real table that is found under any path; of the databases, only what they
would be asked is put in. Left out is Hugging Face: DataHub has no connector for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

Given = dict[str, Any]
Ask = Callable[[Given], str]

QUIET = {
    "DATAHUB_TELEMETRY_ENABLED": "false",
    "FEAST_USAGE": "false",
    "SCARF_ANALYTICS": "false",
    "DO_NOT_TRACK": "true",
    "AWS_EC2_METADATA_DISABLED": "true",
}

# parts: what the database calls it, from the outermost name to the table's own. platform_instance and lower: as the
# recipe has platform_instance and convert_urns_to_lowercase, where it has them.
THREE: list[Given] = [
    {"parts": ["sales", "public", "orders"]},
    {"parts": ["SALES", "Public", "Orders"]},
    {"parts": ["SALES", "Public", "Orders"], "lower": True},
    {"parts": ["SALES", "Public", "Orders"], "lower": False},
    {"parts": ["SALES", "Public", "Orders"], "platform_instance": "EU-West"},
    {"parts": ["SALES", "Public", "Orders"], "platform_instance": "EU-West", "lower": True},
    {"parts": ["SALES", "Public", "Orders"], "platform_instance": "EU-West", "lower": False},
    {"parts": ["Sales", "Public", "orders.2024"]},
    {"parts": ["Sales", "My Schema", "Orders, new (EU) 10%"]},
    {"parts": ["Продажи", "Схема", "Größe_Ü"]},
]
TWO: list[Given] = [given | {"parts": given["parts"][1:]} for given in THREE]
# Iceberg's source knows no convert_urns_to_lowercase.
ICEBERG: list[Given] = [
    *(given for given in TWO if "lower" not in given),
    {"parts": ["Lake", "sales", "Orders"]},
    {"parts": ["lake", "raw", "sales", "orders"], "platform_instance": "EU-West"},
]
# Nor does Delta Lake's. It looks at S3, Azure and local folders; wasbs: and file: it takes for such a folder.
DELTA: list[Given] = [
    {"uri": "s3://bucket/Tables/Orders"},
    {"uri": "s3://bucket/Tables/Orders/"},
    {"uri": "s3a://bucket/tables/orders"},
    {"uri": "s3n://bucket/tables/orders"},
    {"uri": "s3://bucket/My Tables/Größe, new (EU) 10%"},
    {"uri": "s3://bucket/tables/orders", "platform_instance": "EU-West"},
    {"uri": "abfss://cont@acct.dfs.core.windows.net/Tables/Orders"},
    {"uri": "abfs://cont@acct.dfs.core.windows.net/tables/orders/"},
    {"uri": "abfss://cont@acct.dfs.core.windows.net/My Tables/Größe, new"},
    {"uri": "abfss://cont@acct.dfs.core.windows.net/tables/orders", "platform_instance": "EU-West"},
    {"uri": "az://cont/tables/orders"},
    {"uri": "https://acct.blob.core.windows.net/cont/tables/orders"},
    {"uri": "https://acct.dfs.core.windows.net/cont/tables/orders"},
    {"uri": "/lake/Tables/Orders"},
    {"uri": "/lake/tables/orders/"},
    {"uri": "/lake/My Tables/Größe, new (EU) 10%"},
    {"uri": "/lake/tables/orders", "platform_instance": "EU-West"},
]
FEAST: list[Given] = [  # parts: project, feature view, feature
    {"parts": ["shop", "customers", "age"]},
    {"parts": ["Shop", "Customers_Daily", "Age_In_Years"]},
    {"parts": ["shop", "customers-v2", "age.years"]},
]


def emitted(source: Any, workunits: Callable[[], Iterable[Any]] | None, kind: str = "dataset") -> str:
    """The one URN of this kind that a source sends; `workunits` stands for what it would do with a connection."""
    inside = mock.patch.object(source, "get_workunits_internal", workunits) if workunits else contextlib.nullcontext()
    with inside:
        urns = {unit.get_urn() for unit in source.get_workunits()}
    found = [urn for urn in urns if urn.startswith(f"urn:li:{kind}:")]
    if len(found) != 1:
        raise AssertionError(f"not one: {urns}, {source.get_report()}")
    return str(found[0])


def source_of(platform: str, given: Given, **config: Any) -> Any:
    """DataHub's source for this platform, made as a pipeline makes it from its recipe."""
    from datahub.ingestion.api.common import PipelineContext
    from datahub.ingestion.run.pipeline_config import PipelineConfig
    from datahub.ingestion.source.source_registry import source_registry

    keys = {"platform_instance": "platform_instance", "lower": "convert_urns_to_lowercase"}
    config |= {key: given[name] for name, key in keys.items() if name in given}
    recipe = PipelineConfig.model_validate({"source": {"type": platform, "config": config}})
    return source_registry.get(platform).create(config, PipelineContext("oracle", pipeline_config=recipe))


def snowflake(given: Given) -> str:
    """`SnowflakeIdentifierBuilder`, as `SnowflakeSchemaGenerator.gen_dataset_workunits` asks it."""
    from datahub.emitter.mcp import MetadataChangeProposalWrapper
    from datahub.ingestion.source.snowflake.snowflake_config import SnowflakeV2Config
    from datahub.metadata.schema_classes import StatusClass

    with mock.patch.object(SnowflakeV2Config, "get_connection", mock.MagicMock()):
        source = source_of("snowflake", given, account_id="acct", username="u", password="p")
    database, schema, table = given["parts"]
    urn = source.identifiers.gen_dataset_urn(source.identifiers.get_dataset_identifier(table, schema, database))
    status = MetadataChangeProposalWrapper(entityUrn=urn, aspect=StatusClass(removed=False))
    return emitted(source, lambda: [status.as_workunit()])


def redshift(given: Given) -> str:
    """`RedshiftSource._process_table`, for a table as its query finds it."""
    from datahub.ingestion.source.redshift.redshift_schema import RedshiftTable

    database, schema, name = given["parts"]
    source = source_of("redshift", given, host_port="localhost:1", database=database)
    table = RedshiftTable(name=name, schema=schema, type="TABLE", created=None, comment=None)
    return emitted(source, lambda: source._process_table(table, database))


def sqlalchemy(platform: str, dialect: str, given: Given) -> str:
    """`SQLAlchemySource.loop_tables` over a database that has one table; Postgres' source and MySQL's name it."""
    from sqlalchemy import create_engine
    from sqlalchemy.engine import URL, Inspector

    *around, schema, table = given["parts"]
    engine = create_engine(URL.create(dialect, host="localhost", database=around[0] if around else schema))
    inspector = mock.MagicMock(spec=Inspector, engine=engine, bind=engine)
    inspector.get_table_names.return_value = [table]
    inspector.get_columns.return_value = []
    inspector.get_pk_constraint.return_value = {}
    inspector.get_foreign_keys.return_value = []
    inspector.get_table_comment.return_value = {"text": None}
    source = source_of(platform, given, host_port="localhost:1")
    return emitted(source, lambda: source.loop_tables(inspector, schema, source.config))


def iceberg(given: Given) -> str:
    """A catalog with one table in it is read."""
    from pyiceberg.catalog.sql import SqlCatalog  # type: ignore[import-not-found]
    from pyiceberg.schema import Schema  # type: ignore[import-not-found]
    from pyiceberg.types import LongType, NestedField  # type: ignore[import-not-found]

    *namespace, table = given["parts"]
    with tempfile.TemporaryDirectory() as folder:
        told = {"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}/warehouse"}
        catalog = SqlCatalog("lake", **told)
        catalog.create_namespace(tuple(namespace))
        catalog.create_table(
            (*namespace, table), Schema(NestedField(1, "id", LongType())), location=f"file://{folder}/warehouse/t"
        )
        source = source_of("iceberg", given, catalog={"lake": told})
        # This kind of catalog names the outermost only, where others name nested ones too.
        with mock.patch.object(SqlCatalog, "list_namespaces", return_value=[tuple(namespace)]):
            return emitted(source, None)


def delta_lake(given: Given) -> str:
    """A table at this path is read; all paths lead to one table."""
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
    from deltalake import DeltaTable, write_deltalake  # type: ignore[import-not-found]

    account = {"azure": {"account_name": "acct"}} if given["uri"].startswith("az:") else {}
    aws = {"s3": {"aws_config": {"aws_access_key_id": "k", "aws_secret_access_key": "s", "aws_region": "eu-west-1"}}}
    with tempfile.TemporaryDirectory() as folder:
        write_deltalake(folder, pa.table({"id": [1]}))
        reads = "datahub.ingestion.source.delta_lake.source.read_delta_table"
        with mock.patch(reads, return_value=DeltaTable(folder)):
            extra = aws if given["uri"].startswith("s3") else account
            return emitted(source_of("delta-lake", given, base_path=given["uri"], **extra), None)


def feast(given: Given) -> str:
    """A registry with one feature in it is read."""
    from feast import FeatureStore, FeatureView, Field, FileSource  # type: ignore[import-not-found]
    from feast.types import Int64  # type: ignore[import-not-found]

    project, view, feature = given["parts"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "feature_store.yaml").write_text(
            f"project: {project}\nprovider: local\nregistry: registry.db\n"
            "online_store:\n  path: online.db\nentity_key_serialization_version: 3\n"
        )
        where = FileSource(name="file", path=f"{folder}/x.parquet", timestamp_field="at")
        store = FeatureStore(repo_path=folder)
        store.registry.apply_feature_view(
            FeatureView(name=view, schema=[Field(name=feature, dtype=Int64)], source=where), project
        )
        return emitted(source_of("feast", given, path=folder), None, "mlFeature")


CASES: dict[str, tuple[Ask, list[Given]]] = {
    "snowflake": (snowflake, THREE),
    "redshift": (redshift, THREE),
    "postgres": (partial(sqlalchemy, "postgres", "postgresql+psycopg2"), THREE),
    "mysql": (partial(sqlalchemy, "mysql", "mysql+pymysql"), TWO),
    "iceberg": (iceberg, ICEBERG),
    "delta-lake": (delta_lake, DELTA),
    "feast": (feast, FEAST),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as home, contextlib.redirect_stdout(sys.stderr):
        os.environ.update(QUIET | {"HOME": home})
        cases = [
            {"platform": platform, "given": given, "urn": ask(given)}
            for platform, (ask, all_given) in CASES.items()
            for given in all_given
        ]
    json.dump(cases, sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
