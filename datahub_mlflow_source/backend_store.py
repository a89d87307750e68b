"""From recipe to "which database is MLflow's, and how to get in"."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.errors import RecipeError
from datahub_mlflow_source.redaction import names_credential

# Of a database whose address names no driver: the module to look for, and how SQLAlchemy calls it.
_DRIVERS = {
    "postgresql": (("psycopg2", "psycopg2"), ("psycopg", "psycopg")),
    "mysql": (("MySQLdb", "mysqldb"), ("pymysql", "pymysql")),
    "mariadb": (("MySQLdb", "mysqldb"), ("pymysql", "pymysql")),
}
_EXTRAS = {"postgresql": "postgres", "mysql": "mysql", "mariadb": "mysql"}


@dataclass(frozen=True, slots=True)
class DatabaseConnection:
    """One database of MLflow's and the way in."""

    url: URL = field(repr=False)
    key: str  # of the recipe, or the variable, for messages
    statement_timeout_seconds: float = 60
    pool_size: int = 2
    max_retries: int = 3

    @property
    def shown(self) -> str:
        """For messages: without user and password."""
        if self.url.get_backend_name() == "sqlite":
            return f"MLflow's database {self.url.database}"
        where = f"{self.url.host or 'localhost'}:{self.url.port}" if self.url.port else self.url.host or "localhost"
        return f"MLflow's database {self.url.database} at {where}"


def database_connection(key: str, uri: str, config: MlflowSourceConfig) -> tuple[DatabaseConnection, tuple[str, ...]]:
    """The database that this key names, and warnings about it.

    Raises:
        RecipeError: it is no address of a database, or its driver is not installed.
    """
    scheme, separator, rest = uri.strip().partition("://")
    scheme = re.sub(r"\Apostgres\b", "postgresql", scheme.lower())
    try:
        url = make_url(f"{scheme}{separator}{rest}")
    except (ArgumentError, ValueError):  # whose texts hold the address, password included
        raise RecipeError(
            f"`{key}` is no address of a database. It should look like postgresql://user@host:5432/mlflow"
        ) from None
    if url.get_backend_name() != "sqlite" and _is_torn(rest):
        raise RecipeError(f"`{key}` holds an @ in its password: write it as %40, or use `backend_store_password`")
    warnings: tuple[str, ...] = ()
    if (url.password or any(map(names_credential, url.query))) and key in MlflowSourceConfig.model_fields:
        warnings = (
            f"`{key}` holds a password, which DataHub stores in clear: use `backend_store_password`, with a "
            "${VARIABLE}",
        )
    if config.backend_store_password and _is_for(key, url, config):
        url = url.set(password=config.backend_store_password.get_secret_value())
    if url.get_backend_name() == "sqlite":
        _check_file(key, url)
    else:
        url = _with_driver(key, url)
    return (
        DatabaseConnection(
            url=url,
            key=key,
            statement_timeout_seconds=config.database.statement_timeout_seconds,
            pool_size=config.database.pool_size,
            max_retries=config.max_retries,
        ),
        warnings,
    )


def _is_torn(rest: str) -> bool:
    """Whether there is an @ behind the first, where SQLAlchemy ends the password: the rest would be shown as host."""
    place, _, options = rest.partition("@")[2].partition("?")
    return "@" in place or any("@" in option.partition("=")[0] for option in options.split("&"))


def _is_for(key: str, url: URL, config: MlflowSourceConfig) -> bool:
    """Whether `backend_store_password` is this database's: of a registry only on the same host, and without its own."""
    main = config.backend_store_uri or config.tracking_uri
    if key not in ("registry_uri", "MLFLOW_REGISTRY_URI") or not main:
        return True
    return url.password is None and url.host == make_url(main.strip()).host


def _check_file(key: str, url: URL) -> None:
    if not url.database or url.database == ":memory:":
        raise RecipeError(f"`{key}` names no file. It should look like sqlite:////data/mlflow.db")
    if not Path(url.database).is_file():
        raise RecipeError(f"`{key}`: there is no file {Path(url.database).absolute()}")


def _with_driver(key: str, url: URL) -> URL:
    backend = url.get_backend_name()
    named = url.drivername.partition("+")[2]
    known = _DRIVERS[backend]
    wanted = [pair for pair in known if pair[1] == named] if named else known
    for module, driver in wanted:
        if importlib.util.find_spec(module):
            return url.set(drivername=f"{backend}+{driver}")
    if named and not wanted:
        return url  # another of SQLAlchemy's: it says itself what it needs
    raise RecipeError(
        f"`{key}` is a {backend} database, whose driver is not installed: "
        f"pip install 'datahub-mlflow-source[{_EXTRAS[backend]}]'"
    )
