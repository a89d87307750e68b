"""A database becomes a way in, or one message that names its key and shows no password; beside servers or alone."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from datahub_mlflow_source.backend_store import DatabaseConnection, database_connection
from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.connection import Deployment, deployment
from datahub_mlflow_source.errors import RecipeError

KEY = "backend_store_uri"
SECRET = "hunter2"
URL = "https://mlflow.test"


def opened(uri: str, key: str = KEY, **config: Any) -> tuple[DatabaseConnection, tuple[str, ...]]:
    """The database, and warnings about it; neither shows a password."""
    connection, warnings = database_connection(key, uri, MlflowSourceConfig.model_validate(config))
    assert SECRET not in f"{connection!r} {connection} {connection.shown} {connection.url!r} {warnings}"
    return connection, warnings


def address(uri: str, **config: Any) -> str:
    return opened(uri, **config)[0].url.render_as_string(hide_password=False)


def refusal(uri: str, key: str = KEY) -> str:
    with pytest.raises(RecipeError) as raised:
        opened(uri, key)
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    return str(raised.value)


@pytest.fixture(autouse=True)
def drivers(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The modules of drivers that are installed: all, unless a test takes some away."""
    installed = {"psycopg2", "psycopg", "MySQLdb", "pymysql"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: object() if module in installed else None)
    return installed


class TestAddresses:
    @pytest.mark.parametrize(
        ("uri", "expected"),
        {
            "postgresql://u@h:5432/mlflow": "postgresql+psycopg2://u@h:5432/mlflow",
            "postgres://u@h/mlflow": "postgresql+psycopg2://u@h/mlflow",
            " PostgreSQL://u@h/mlflow\n": "postgresql+psycopg2://u@h/mlflow",
            "postgres+psycopg://u@h/mlflow": "postgresql+psycopg://u@h/mlflow",
            "postgresql://u@h/mlflow?sslmode=verify-full": "postgresql+psycopg2://u@h/mlflow?sslmode=verify-full",
            "postgresql://u:postgres%3A%2F%2F@h/db": "postgresql+psycopg2://u:postgres%3A%2F%2F@h/db",
            "postgresql+pg8000://h/mlflow": "postgresql+pg8000://h/mlflow",
            "mysql://u@h/mlflow": "mysql+mysqldb://u@h/mlflow",
            "mysql+pymysql://u@h/mlflow": "mysql+pymysql://u@h/mlflow",
            "mariadb://u@h/mlflow": "mariadb+mysqldb://u@h/mlflow",
        }.items(),
    )
    def test_every_form_leads_to_a_driver(self, uri: str, expected: str) -> None:
        assert address(uri) == expected

    @pytest.mark.parametrize(
        "uri",
        [
            f"postgresql:u:{SECRET}@h/db",
            f"postgresql://u:{SECRET}@h:port/db",
            f"mysql//u:{SECRET}@h",
            "sqlite:mlflow.db",
        ],
    )
    def test_one_that_cannot_be_read_is_told_without_repeating_it(self, uri: str) -> None:
        assert refusal(uri) == (
            f"`{KEY}` is no address of a database. It should look like postgresql://user@host:5432/mlflow"
        )

    def test_one_is_called_by_its_place_in_messages(self) -> None:
        shown = [
            opened(uri)[0].shown
            for uri in (f"postgresql://u:{SECRET}@h:5432/mlflow", "mysql://u@h/mlflow", "postgresql:///mlflow")
        ]
        assert shown == [
            "MLflow's database mlflow at h:5432",
            "MLflow's database mlflow at h",
            "MLflow's database mlflow at localhost",
        ]

    def test_the_settings_are_the_recipes(self) -> None:
        database = {"statement_timeout_seconds": 5, "pool_size": 3}
        connection, _ = opened("postgresql://h/db", "tracking_uri", database=database, max_retries=7)
        assert (connection.key, connection.max_retries) == ("tracking_uri", 7)
        assert (connection.statement_timeout_seconds, connection.pool_size) == (5, 3)


class TestSqlite:
    def test_a_file_is_read_where_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").touch()
        connection, warnings = opened(f"sqlite:///{tmp_path}/mlflow.db")
        assert connection.url.database == f"{tmp_path}/mlflow.db"
        assert connection.shown == f"MLflow's database {tmp_path}/mlflow.db"
        assert warnings == ()

    def test_a_relative_one_is_seen_from_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert refusal("sqlite:///mlflow.db") == f"`{KEY}`: there is no file {tmp_path}/mlflow.db"
        (tmp_path / "mlflow.db").touch()
        assert address("sqlite:///mlflow.db") == "sqlite:///mlflow.db"

    @pytest.mark.parametrize("key", [KEY, "tracking_uri", "MLFLOW_TRACKING_URI"])
    def test_one_that_is_not_there_is_told_by_its_key(self, tmp_path: Path, key: str) -> None:
        assert refusal(f"sqlite:///{tmp_path}/no.db", key) == f"`{key}`: there is no file {tmp_path}/no.db"
        assert refusal(f"sqlite:///{tmp_path}", key) == f"`{key}`: there is no file {tmp_path}"

    @pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
    def test_none_at_all_is_told(self, uri: str) -> None:
        assert refusal(uri) == f"`{KEY}` names no file. It should look like sqlite:////data/mlflow.db"


class TestPassword:
    def test_that_of_the_recipe_replaces_that_of_the_address(self) -> None:
        for uri in ("postgresql://u@h/db", "postgresql://u:old@h/db"):
            assert (
                address(uri, backend_store_password=f"p@/{SECRET}") == f"postgresql+psycopg2://u:p%40%2F{SECRET}@h/db"
            )

    @pytest.mark.parametrize(
        ("uri", "password"),
        [
            ("postgresql://u@h/registry", SECRET),
            ("postgresql://u:own@h/registry", "own"),
            ("postgresql://u@elsewhere/registry", None),
        ],
    )
    @pytest.mark.parametrize("key", ["registry_uri", "MLFLOW_REGISTRY_URI"])
    def test_that_of_the_recipe_goes_to_no_other_host(self, key: str, uri: str, password: str | None) -> None:
        config = MlflowSourceConfig.model_validate(
            {"backend_store_uri": "postgresql://u@h/db", "backend_store_password": SECRET}
        )
        assert database_connection(key, uri, config)[0].url.password == password

    def test_that_of_the_address_is_taken_else(self) -> None:
        assert opened(f"postgresql://u:%40{SECRET}@h/db")[0].url.password == f"@{SECRET}"

    @pytest.mark.parametrize("key", [KEY, "tracking_uri", "registry_uri"])
    @pytest.mark.parametrize("uri", [f"postgresql://u:{SECRET}@h/db", f"mysql://h/db?password={SECRET}"])
    def test_one_in_an_address_of_the_recipe_is_warned_about(self, key: str, uri: str) -> None:
        connection, warnings = database_connection(key, uri, MlflowSourceConfig())
        assert warnings == (
            f"`{key}` holds a password, which DataHub stores in clear: use `backend_store_password`, with a "
            "${VARIABLE}",
        )
        assert SECRET not in f"{connection!r} {connection.shown}"

    def test_one_in_the_environment_is_not_as_datahub_does_not_store_that(self) -> None:
        assert opened(f"postgresql://u:{SECRET}@h/db", "MLFLOW_TRACKING_URI")[1] == ()

    def test_nor_is_an_address_without(self) -> None:
        assert opened("postgresql://u@h/db?sslmode=require", backend_store_password=SECRET)[1] == ()

    @pytest.mark.parametrize(
        "uri",
        [
            f"postgresql://u:pw@{SECRET}@h/db",
            f"postgresql://u:pw@x/{SECRET}@h:5432/db",
            f"mysql://u:pw@/{SECRET}@h/db",
            f"postgresql://u:pw@x?{SECRET}@h/db?sslmode=require",
        ],
    )
    def test_one_that_is_not_encoded_is_told_as_half_of_it_would_be_shown(self, uri: str) -> None:
        assert refusal(uri) == f"`{KEY}` holds an @ in its password: write it as %40, or use `backend_store_password`"

    @pytest.mark.parametrize(
        ("uri", "password"), [("postgresql://u:a?b/c@h/db?application_name=x@y", "a?b/c"), ("mysql://u:%40@h/db", "@")]
    )
    def test_one_with_other_signs_is_taken(self, uri: str, password: str) -> None:
        connection, _ = opened(uri)
        assert (connection.url.password, connection.shown) == (password, "MLflow's database db at h")

    def test_a_file_may_be_called_anything(self, tmp_path: Path) -> None:
        (tmp_path / "a@b@c.db").touch()
        assert opened(f"sqlite:///{tmp_path}/a@b@c.db")[0].url.database == f"{tmp_path}/a@b@c.db"


class TestDrivers:
    @pytest.mark.parametrize(
        ("uri", "installed", "driver"),
        [
            ("postgresql://h/db", "psycopg", "postgresql+psycopg"),
            ("mysql://h/db", "pymysql", "mysql+pymysql"),
            ("mariadb://h/db", "pymysql", "mariadb+pymysql"),
        ],
    )
    def test_the_one_that_is_installed_is_taken(self, drivers: set[str], uri: str, installed: str, driver: str) -> None:
        drivers.intersection_update({installed})
        assert opened(uri)[0].url.drivername == driver

    @pytest.mark.parametrize(
        ("uri", "backend", "extra"),
        [
            (f"postgresql://u:{SECRET}@h/db", "postgresql", "postgres"),
            ("postgres://h/db", "postgresql", "postgres"),
            ("postgresql+psycopg2://h/db", "postgresql", "postgres"),
            ("mysql://h/db", "mysql", "mysql"),
            ("mariadb+pymysql://h/db", "mariadb", "mysql"),
        ],
    )
    def test_where_none_is_it_is_told_how_to_get_one(
        self, drivers: set[str], uri: str, backend: str, extra: str
    ) -> None:
        drivers.clear()
        assert refusal(uri) == (
            f"`{KEY}` is a {backend} database, whose driver is not installed: "
            f"pip install 'datahub-mlflow-source[{extra}]'"
        )

    def test_one_that_the_address_names_is_not_replaced_by_another(self, drivers: set[str]) -> None:
        drivers.discard("psycopg2")
        assert "driver is not installed" in refusal("postgresql+psycopg2://h/db")


class TestDeployment:
    """Which databases and servers a recipe means."""

    @pytest.fixture
    def database(self, tmp_path: Path) -> str:
        (tmp_path / "mlflow.db").touch()
        return f"sqlite:///{tmp_path}/mlflow.db"

    @pytest.fixture
    def registry(self, tmp_path: Path) -> str:
        (tmp_path / "registry.db").touch()
        return f"sqlite:///{tmp_path}/registry.db"

    def test_a_server_is_read_over_rest(self) -> None:
        found = self.of(tracking_uri=URL, registry_uri="https://registry.test")
        assert (self.urls(found), found.databases) == ([URL, "https://registry.test"], None)

    @pytest.mark.parametrize("key", ["backend_store_uri", "tracking_uri"])
    def test_a_database_alone_is_read_and_nothing_linked_to(self, key: str, database: str) -> None:
        found = self.of(**{key: database})
        assert (self.stores(found), found.servers) == ([(key, database), (key, database)], None)

    def test_so_is_one_of_the_environment(self, database: str) -> None:
        found = self.of({"MLFLOW_TRACKING_URI": database})
        assert self.stores(found)[0] == ("MLFLOW_TRACKING_URI", database)

    @pytest.mark.parametrize("registry_uri", [None, URL])
    def test_a_database_beside_a_server_is_read_and_the_server_linked_to(
        self, database: str, registry_uri: str | None
    ) -> None:
        found = self.of(backend_store_uri=database, tracking_uri=URL, registry_uri=registry_uri)
        assert self.urls(found) == [URL, URL]
        assert {address for _, address in self.stores(found)} == {database}

    def test_the_server_may_be_that_of_the_environment(self, database: str) -> None:
        assert self.urls(self.of({"MLFLOW_TRACKING_URI": URL}, backend_store_uri=database)) == [URL, URL]

    def test_the_registry_may_be_in_another_database(self, database: str, registry: str) -> None:
        found = self.of(backend_store_uri=database, registry_uri=registry)
        assert self.stores(found) == [("backend_store_uri", database), ("registry_uri", registry)]
        found = self.of({"MLFLOW_REGISTRY_URI": registry}, tracking_uri=database)
        assert self.stores(found) == [("tracking_uri", database), ("MLFLOW_REGISTRY_URI", registry)]

    def test_it_may_not_be_on_another_server(self, database: str) -> None:
        with pytest.raises(RecipeError) as raised:
            self.of(backend_store_uri=database, tracking_uri=URL, registry_uri="https://registry.test")
        assert str(raised.value).startswith("`registry_uri` is a server, and `backend_store_uri` a database: ")

    def test_nor_in_a_database_beside_a_server(self, registry: str) -> None:
        with pytest.raises(RecipeError) as raised:
            self.of(tracking_uri=URL, registry_uri=registry)
        assert str(raised.value) == (
            "`registry_uri` is a database, and `tracking_uri` a server: use `backend_store_uri` for both"
        )

    def test_every_secret_in_an_address_is_warned_about(self, database: str) -> None:
        addresses = {
            "tracking_uri": f"https://ada:{SECRET}@mlflow.test",
            "base_external_url": f"https://mlflow.test?token={SECRET}",
        }
        for config in (addresses, addresses | {"backend_store_uri": database}):
            warnings = self.of(**config).warnings
            assert [warning.partition(" holds")[0] for warning in warnings] == ["`tracking_uri`", "`base_external_url`"]
            assert SECRET not in repr(warnings)

    @staticmethod
    def of(environment: Mapping[str, str] = MappingProxyType({}), /, **config: Any) -> Deployment:
        return deployment(MlflowSourceConfig.model_validate(config), environment)

    @staticmethod
    def urls(found: Deployment) -> list[str]:
        return [server.url for server in found.servers or ()]

    @staticmethod
    def stores(found: Deployment) -> list[tuple[str, str]]:
        return [(store.key, str(store.url)) for store in found.databases or ()]
