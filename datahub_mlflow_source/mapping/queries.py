"""The real datasets behind a query: the tables that it reads, and the columns of theirs that it gives.

DataHub's own SQL parser does it, in `mapping/sql.py`. That module is imported with the first query only: it takes
time and memory, and most deployments have no query. The ingestion has it run elsewhere, see `query_process.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal

from datahub.metadata.urns import DatasetUrn

from datahub_mlflow_source.mapping.lineage import (
    PlatformNaming,
    database_of_query,
    dataset_at,
    meant,
    platform_of_query,
)
from datahub_mlflow_source.mapping.sources import Location, Query


@dataclass(frozen=True, slots=True)
class ColumnRead:
    """A column of what a query gives, and those that it is made of."""

    name: str
    of: tuple[tuple[DatasetUrn, str], ...]


@dataclass(frozen=True, slots=True)
class Upstreams:
    """The real datasets behind one of MLflow's."""

    datasets: tuple[DatasetUrn, ...] = ()
    columns: tuple[ColumnRead, ...] = ()
    unresolved: tuple[str, ...] = ()  # other tables of the query, as it names them
    # Why there is none, though there may be: nothing here understands SQL, or it took too long.
    problem: Literal["", "no parser", "given up"] = ""


NONE = Upstreams()


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, and all that says which datasets its tables are. Can be hashed, and sent to another process."""

    query: Query
    kind: str  # its source type
    dialect: str  # the platform whose SQL it is
    platform: str | None  # of all its tables; None: of Spark's, by their names
    env: str
    namings: tuple[tuple[str, PlatformNaming], ...]

    def database(self) -> tuple[str, str]:
        """Database and schema of tables that are named without; empty where nothing tells."""
        return database_of_query(self.dialect, self.query.store)

    def dataset(self, location: Location) -> DatasetUrn | None:
        """The dataset at a place, as for a source that names it; None where that isn't certain."""
        return dataset_at(location, self.kind, self.platform, self.env, dict(self.namings))

    def keeps_case(self, platform: str) -> bool:
        """Whether that platform's connector was told to write names as they are stored."""
        return dict(self.namings).get(platform, PlatformNaming()).lower_case is False


Reader = Callable[[Asked], Upstreams]


def upstreams_of_query(
    query: Query,
    source_type: str,
    *,
    env: str,
    platform_of_type: Mapping[str, str],
    naming_of_platform: Mapping[str, PlatformNaming],
    read_query: Reader,
) -> Upstreams:
    """What a query reads; nothing where its platform isn't known, or it can't be parsed. Never raises.

    `platform_of_type` and `naming_of_platform` are as for `real_dataset`, and so are the URNs of the tables.
    """
    kind, platform = meant(source_type, platform_of_type)
    found = platform_of_query(query, kind, platform)
    if found is None or "from" not in query.text.lower():  # select 1
        return NONE
    namings = tuple(sorted(naming_of_platform.items(), key=itemgetter(0)))
    return read_query(Asked(query, kind, *found, env, namings))


def read(asked: Asked) -> Upstreams:
    """The answer, found here and now, however long that takes, and with what the parsers log meanwhile."""
    try:
        from datahub_mlflow_source.mapping import sql
    except (ImportError, AssertionError):  # DataHub asserts that it knows the release of sqlglot
        return Upstreams(problem="no parser")
    return sql.read(asked)
