"""Where MLflow is and how to get in: recipe first, then MLflow's own variables, then its credentials file."""

from __future__ import annotations

import base64
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from datahub_mlflow_source.addresses import scheme_of, why_not
from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.connection import Connection, connections
from datahub_mlflow_source.errors import RecipeError, ServerError
from datahub_mlflow_source.readers.http import MlflowHttp
from tests.unit.conftest import Reply, WebServer

URL = "https://mlflow.test"
SECRET = "hunter2"
NO_ENVIRONMENT: Mapping[str, str] = {}


def connect(
    environment: Mapping[str, str] = NO_ENVIRONMENT, *, tracking_uri: str | None = URL, **config: Any
) -> Connection:
    """To the tracking server."""
    recipe = MlflowSourceConfig.model_validate({"tracking_uri": tracking_uri, **config})
    return connections(recipe, environment)[0]


def refusal(environment: Mapping[str, str] = NO_ENVIRONMENT, **config: Any) -> str:
    with pytest.raises(RecipeError) as raised:
        connect(environment, **config)
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    return str(raised.value)


def authorization(connection: Connection) -> str | None:
    """What a request of this connection says about who we are."""
    request = requests.Request("GET", URL, headers=dict(connection.headers), auth=connection.auth).prepare()
    return request.headers.get("Authorization")


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


RECIPE_PASSWORD = {"username": "recipe", "password": "1"}
ENV_PASSWORD = {"MLFLOW_TRACKING_USERNAME": "env", "MLFLOW_TRACKING_PASSWORD": "2"}
ENV_TOKEN = {"MLFLOW_TRACKING_TOKEN": "env-token"}


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose home folder has MLflow's credentials file."""
    (tmp_path / ".mlflow").mkdir()
    text = "[mlflow]\nmlflow_tracking_username = file\nmlflow_tracking_password = 100%% sure\n"
    (tmp_path / ".mlflow" / "credentials").write_text(text)
    return {"HOME": str(tmp_path)}


class TestAddress:
    def test_that_of_the_recipe_comes_before_that_of_the_environment(self) -> None:
        environment = {"MLFLOW_TRACKING_URI": "https://env.test"}
        assert connect(environment).url == URL
        assert connect(environment, tracking_uri=None).url == "https://env.test"

    @pytest.mark.parametrize(
        ("uri", "url"),
        {
            "https://mlflow.test/": "https://mlflow.test",
            " HTTP://mlflow.test:5000 ": "http://mlflow.test:5000",
            "https://mlflow.test/behind/a/path/": "https://mlflow.test/behind/a/path",
            "https://mlflow.test/#/experiments/1": "https://mlflow.test",
            f"https://mlflow.test/?token={SECRET}": "https://mlflow.test",
            f"https://ada:{SECRET}@mlflow.test:443/x": "https://mlflow.test:443/x",
            "http://[::1]:5000": "http://[::1]:5000",
        }.items(),
    )
    def test_it_ends_without_slash_and_holds_no_credentials(self, uri: str, url: str) -> None:
        assert connect(tracking_uri=uri).url == url

    def test_none_at_all_is_told_with_both_places_to_set_it(self) -> None:
        message = refusal(tracking_uri=None)
        assert "`tracking_uri` is not set, and neither is MLFLOW_TRACKING_URI" in message
        assert "https://mlflow.example.com" in message

    @pytest.mark.parametrize("key", ["TRACKING", "REGISTRY"])
    def test_one_of_the_environment_that_cannot_be_read_is_told_by_its_variable(self, key: str) -> None:
        environment = {"MLFLOW_TRACKING_URI": URL, f"MLFLOW_{key}_URI": f"mssql://u:{SECRET}@h/db"}
        message = refusal(environment, tracking_uri=None)
        assert message.startswith(f"`MLFLOW_{key}_URI` is a database (mssql) of a kind that can't be read directly")


class TestRegistry:
    def test_it_is_the_tracking_server_unless_said_otherwise(self) -> None:
        tracking, registry, _ = connections(MlflowSourceConfig(tracking_uri=URL, token=SECRET), {})
        assert registry is tracking

    def test_that_of_the_recipe_comes_before_that_of_the_environment(self) -> None:
        environment = {"MLFLOW_REGISTRY_URI": "https://env.test"}
        assert self.url(MlflowSourceConfig(tracking_uri=URL), environment) == "https://env.test"
        recipe = MlflowSourceConfig(tracking_uri=URL, registry_uri="https://recipe.test")
        assert self.url(recipe, environment) == "https://recipe.test"

    def test_credentials_and_headers_go_there_too(self) -> None:
        config = MlflowSourceConfig(
            tracking_uri=URL, registry_uri="https://r.test", token=SECRET, headers={"X-Tenant": "red"}
        )
        _, registry, _ = connections(config, {})
        assert authorization(registry) == f"Bearer {SECRET}"
        assert registry.headers == {"X-Tenant": "red"}

    @staticmethod
    def url(config: MlflowSourceConfig, environment: Mapping[str, str]) -> str:
        return connections(config, environment)[1].url


class TestWhoWeAre:
    def test_nobody_unless_said(self) -> None:
        assert authorization(connect()) is None

    @pytest.mark.parametrize(
        ("recipe", "environment", "expected"),
        [
            (RECIPE_PASSWORD, {}, basic("recipe", "1")),
            (RECIPE_PASSWORD, ENV_PASSWORD | ENV_TOKEN, basic("recipe", "1")),
            ({"token": "t"}, {}, "Bearer t"),
            ({"token": "t"}, ENV_PASSWORD | ENV_TOKEN, "Bearer t"),
            ({"headers_secret": {"authorization": "Custom c"}}, ENV_PASSWORD | ENV_TOKEN, "Custom c"),
            ({"tracking_uri": "https://uri:3@mlflow.test"}, {}, basic("uri", "3")),
            ({"tracking_uri": "https://uri:3@mlflow.test"}, ENV_PASSWORD | ENV_TOKEN, basic("uri", "3")),
            (RECIPE_PASSWORD | {"tracking_uri": "https://uri:3@mlflow.test"}, {}, basic("recipe", "1")),
            ({}, ENV_PASSWORD, basic("env", "2")),
            ({}, ENV_TOKEN, "Bearer env-token"),
            ({}, ENV_PASSWORD | ENV_TOKEN, basic("env", "2")),
            ({}, {"MLFLOW_TRACKING_USERNAME": "env"}, None),
            ({"username": "", "password": "", "token": ""}, ENV_TOKEN, "Bearer env-token"),
        ],
    )
    def test_the_recipe_comes_first_and_the_environment_next(
        self, recipe: dict[str, Any], environment: dict[str, str], expected: str | None
    ) -> None:
        assert authorization(connect(environment, **recipe)) == expected

    @pytest.mark.parametrize(
        ("recipe", "environment", "expected"),
        [
            ({"username": "recipe"}, ENV_PASSWORD | ENV_TOKEN, basic("recipe", "2")),
            ({"password": "1"}, ENV_PASSWORD | ENV_TOKEN, basic("env", "1")),
            ({"username": "", "password": "1"}, ENV_PASSWORD, basic("env", "1")),
        ],
    )
    def test_what_the_recipe_lacks_of_a_login_is_the_environments(
        self, home: dict[str, str], recipe: dict[str, str], environment: dict[str, str], expected: str
    ) -> None:
        assert authorization(connect(home | environment, **recipe)) == expected

    @pytest.mark.parametrize(
        ("recipe", "environment", "expected"),
        [
            (
                {"username": "ada"},
                {"MLFLOW_TRACKING_USERNAME": "env"} | ENV_TOKEN,
                "`username` is set, but neither `password` nor MLFLOW_TRACKING_PASSWORD: it takes both to log in",
            ),
            (
                {"password": SECRET},
                {"MLFLOW_TRACKING_PASSWORD": SECRET},
                "`password` is set, but neither `username` nor MLFLOW_TRACKING_USERNAME: it takes both to log in",
            ),
        ],
    )
    def test_half_a_login_is_refused(
        self, home: dict[str, str], recipe: dict[str, str], environment: dict[str, str], expected: str
    ) -> None:
        assert refusal(home | environment, **recipe) == expected

    @pytest.mark.parametrize(
        ("recipe", "environment", "expected"),
        [
            ({}, {}, basic("file", "100%% sure")),
            ({}, {"MLFLOW_TRACKING_PASSWORD": "2"}, basic("file", "2")),
            ({}, ENV_PASSWORD, basic("env", "2")),
            ({}, ENV_TOKEN, "Bearer env-token"),
            (RECIPE_PASSWORD, {}, basic("recipe", "1")),
            ({"token": "t"}, {}, "Bearer t"),
        ],
    )
    def test_mlflows_credentials_file_comes_last(
        self, home: dict[str, str], recipe: dict[str, Any], environment: dict[str, str], expected: str
    ) -> None:
        assert authorization(connect(home | environment, **recipe)) == expected

    @pytest.mark.parametrize("variable", ["HOME", "USERPROFILE"])
    def test_a_home_without_that_file_is_fine(self, tmp_path: Path, variable: str) -> None:
        assert authorization(connect({variable: str(tmp_path)})) is None

    @pytest.mark.parametrize("text", [f"password = {SECRET}\n", f"[mlflow]\n{SECRET}\n", f"[a]\n[a]\n{SECRET} = 1"])
    def test_a_credentials_file_that_is_none_is_told_without_what_is_in_it(
        self, home: dict[str, str], text: str
    ) -> None:
        path = Path(home["HOME"], ".mlflow", "credentials")
        path.write_text(text)
        message = refusal(home)
        assert message.startswith(f"{path}, where MLflow keeps credentials, can't be read")
        assert "section [mlflow]" in message

    def test_one_with_other_sections_only_is_passed_over(self, home: dict[str, str]) -> None:
        Path(home["HOME"], ".mlflow", "credentials").write_text("[other]\na = b\n")
        assert authorization(connect(home)) is None

    @pytest.mark.parametrize("login", ["ädä:pässwört", "ada:密码€", "ada:with:colon", "ada:"])
    def test_passwords_are_sent_in_utf_8(self, login: str) -> None:
        user, _, password = login.partition(":")
        environment = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password or "x"}
        assert authorization(connect(environment)) == basic(user, password or "x")
        assert authorization(connect(tracking_uri=f"https://{login}@mlflow.test")) == basic(user, password)

    def test_a_login_in_the_address_is_unquoted(self) -> None:
        assert authorization(connect(tracking_uri="https://a%40b:p%2Fw@mlflow.test")) == basic("a@b", "p/w")


class TestSecretsThatAreSent:
    """So that no message repeats them, whatever a server says."""

    @pytest.mark.parametrize(
        ("recipe", "environment", "expected"),
        [
            ({}, {}, set()),
            ({"token": SECRET}, {}, {SECRET}),
            ({}, {"MLFLOW_TRACKING_TOKEN": SECRET}, {SECRET}),
            ({"username": "ada", "password": SECRET}, {}, {SECRET, basic("ada", SECRET)[6:]}),
            ({"username": "ada"}, {"MLFLOW_TRACKING_PASSWORD": SECRET}, {SECRET, basic("ada", SECRET)[6:]}),
            ({"tracking_uri": f"https://ada:{SECRET}@mlflow.test"}, {}, {SECRET, basic("ada", SECRET)[6:]}),
            ({"headers_secret": {"X-Key": f"{SECRET}\n"}, "headers": {"X-Tenant": "reds"}}, {}, {SECRET}),
            ({"headers_secret": {"Authorization": f"Bearer {SECRET}"}}, {}, {SECRET, f"Bearer {SECRET}"}),
            ({"headers": {"authorization": f"Custom {SECRET}"}}, {}, {SECRET, f"Custom {SECRET}"}),
        ],
    )
    def test_they_are_known(self, recipe: dict[str, Any], environment: dict[str, str], expected: set[str]) -> None:
        connection = connect(environment, **recipe)
        assert connection.secrets == expected
        assert SECRET not in repr(connection)

    def test_one_that_is_in_every_other_word_is_not(self) -> None:
        assert connect(headers_secret={"X-Key": "1", "X-Other": ""}).secrets == frozenset()


class TestWarnings:
    def test_a_login_in_an_address_of_the_recipe_is_warned_about_without_showing_it(self) -> None:
        uri = f"https://ada:{SECRET}@mlflow.test"
        config = MlflowSourceConfig(tracking_uri=uri, registry_uri=uri.replace("mlflow", "registry"))
        _, _, warnings = connections(config, {})
        assert [warning.partition(" holds")[0] for warning in warnings] == ["`tracking_uri`", "`registry_uri`"]
        assert "use `username` and `password` (or `token`)" in warnings[0]
        assert SECRET not in repr(warnings)

    def test_one_in_the_environment_is_not_as_datahub_does_not_store_that(self) -> None:
        environment = {"MLFLOW_TRACKING_URI": f"https://ada:{SECRET}@mlflow.test"}
        assert connections(MlflowSourceConfig(), environment)[2] == ()

    def test_there_are_none_otherwise(self) -> None:
        config = MlflowSourceConfig(tracking_uri=URL, username="ada", password=SECRET)
        assert connections(config, {})[2] == ()


class TestHeaders:
    def test_plain_and_secret_ones_are_sent_alike(self) -> None:
        connection = connect(headers={"X-Tenant": "red"}, headers_secret={"X-Key": SECRET})
        assert connection.headers == {"X-Tenant": "red", "X-Key": SECRET}

    def test_a_line_break_at_the_end_of_a_secret_is_no_part_of_it(self) -> None:
        """A secret that was written into a file often has one."""
        connection = connect(token=f"{SECRET}\n", headers_secret={"X-Key": f" {SECRET}\r\n"})
        assert authorization(connection) == f"Bearer {SECRET}"
        assert connection.headers == {"X-Key": SECRET}
        assert authorization(connect({"MLFLOW_TRACKING_TOKEN": f"{SECRET}\n"})) == f"Bearer {SECRET}"

    @pytest.mark.parametrize("character", ["\n", "\r", "\0", "€", "密", "\x7f"])
    @pytest.mark.parametrize(
        ("config", "key"),
        [
            ({"token": "{}"}, "token"),
            ({"headers_secret": {"X-Key": "{}"}}, "headers_secret.X-Key"),
            ({"headers": {"X-Key": "{}"}}, "headers.X-Key"),
        ],
    )
    def test_what_no_header_may_hold_is_refused_without_showing_it(
        self, config: dict[str, Any], key: str, character: str
    ) -> None:
        value = f"{SECRET}{character}{SECRET}"
        config = {
            name: value if isinstance(setting, str) else dict.fromkeys(setting, value)
            for name, setting in config.items()
        }
        assert refusal(**config).startswith(f"`{key}` holds a character that no HTTP header may hold")

    def test_so_is_a_token_of_the_environment(self) -> None:
        environment = {"MLFLOW_TRACKING_TOKEN": f"{SECRET}\n{SECRET}"}
        assert refusal(environment).startswith("`MLFLOW_TRACKING_TOKEN` holds a character")


class TestTls:
    @pytest.fixture
    def pem(self, tmp_path: Path) -> str:
        path = tmp_path / "recipe.pem"
        path.touch()
        return str(path)

    @pytest.fixture
    def environment(self, tmp_path: Path) -> dict[str, str]:
        ca, cert = tmp_path / "ca.pem", tmp_path / "cert.pem"
        ca.touch()
        cert.touch()
        return {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(ca), "MLFLOW_TRACKING_CLIENT_CERT_PATH": str(cert)}

    def test_servers_are_verified_unless_said_otherwise(self) -> None:
        assert connect().verify is True

    def test_files_come_from_the_recipe(self, pem: str, environment: dict[str, str]) -> None:
        connection = connect(environment, tls={"ca_bundle": pem, "client_cert": pem, "client_key_path": pem})
        assert (connection.verify, connection.cert) == (pem, (pem, pem))

    def test_else_from_the_environment(self, environment: dict[str, str]) -> None:
        connection = connect(environment)
        assert connection.verify == environment["MLFLOW_TRACKING_SERVER_CERT_PATH"]
        assert connection.cert == environment["MLFLOW_TRACKING_CLIENT_CERT_PATH"]

    @pytest.mark.parametrize(("value", "verify"), [("true", False), ("TRUE", False), ("1", False), ("0", True)])
    def test_any_server_is_trusted_where_the_environment_says_so(self, value: str, verify: bool) -> None:
        assert connect({"MLFLOW_TRACKING_INSECURE_TLS": value}).verify is verify

    def test_the_recipe_can_say_otherwise(self, environment: dict[str, str]) -> None:
        insecure = {"MLFLOW_TRACKING_INSECURE_TLS": "true"}
        assert connect(insecure, tls={"verify": True}).verify is True
        assert connect(environment, tls={"verify": False}).verify is False

    def test_a_bundle_of_authorities_outweighs_trusting_anybody(self, pem: str, environment: dict[str, str]) -> None:
        insecure = {"MLFLOW_TRACKING_INSECURE_TLS": "true"}
        assert connect(insecure, tls={"ca_bundle": pem}).verify == pem
        assert connect(insecure | environment).verify == environment["MLFLOW_TRACKING_SERVER_CERT_PATH"]

    def test_trusting_anybody_asks_for_no_authorities(self) -> None:
        environment = {"MLFLOW_TRACKING_SERVER_CERT_PATH": "/no/such/file.pem"}
        assert connect(environment, tls={"verify": False}).verify is False
        assert refusal(environment) == "`MLFLOW_TRACKING_SERVER_CERT_PATH`: there is no file /no/such/file.pem"

    @pytest.mark.parametrize("key", ["ca_bundle", "client_cert", "client_key_path"])
    def test_a_file_that_is_not_there_is_told_by_its_key(self, pem: str, key: str) -> None:
        message = refusal(tls={"client_cert": pem, key: "/no/such/file.pem"})
        assert message == f"`tls.{key}`: there is no file /no/such/file.pem"


class TestSecretsStay:
    def test_none_is_in_what_a_connection_shows_of_itself(self) -> None:
        config = MlflowSourceConfig(
            tracking_uri=f"https://ada:{SECRET}@mlflow.test/?token={SECRET}",
            token=SECRET,
            headers_secret={"X-Key": SECRET},
        )
        tracking, registry, warnings = connections(config, {})
        assert tracking.headers["X-Key"] == SECRET
        for thing in (tracking, registry, warnings, tracking.auth, tracking.host):
            assert SECRET not in f"{thing!r} {thing}"

    def test_the_environment_is_read_and_never_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in (ENV_PASSWORD | ENV_TOKEN | {"MLFLOW_TRACKING_URI": URL}).items():
            monkeypatch.setenv(name, value)
        before = dict(os.environ)
        config = MlflowSourceConfig(username="ada", password=SECRET, registry_uri="https://r.test")
        for connection in connections(config, os.environ)[:2]:
            MlflowHttp(connection).close()
        assert dict(os.environ) == before


class TestDatabricks:
    """With databricks-sdk, which asks the host how to log in; the web server stands for the workspace."""

    @pytest.fixture(autouse=True)
    def _no_other_configuration(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in [name for name in os.environ if name.startswith(("DATABRICKS_", "ARM_", "GOOGLE_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "databrickscfg"))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path))  # no az, gcloud or databricks to ask

    def test_host_and_token_come_from_databricks_own_variables(
        self, web: WebServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        web.reply = lambda _: Reply(status=404)
        monkeypatch.setenv("DATABRICKS_HOST", f"{web.url}/")
        monkeypatch.setenv("DATABRICKS_TOKEN", SECRET)
        before = dict(os.environ)
        connection = connect(tracking_uri="databricks", headers={"X-Tenant": "red"}, max_retries=1)
        assert (connection.url, connection.headers, connection.max_retries) == (web.url, {"X-Tenant": "red"}, 1)
        assert authorization(connection) == f"Bearer {SECRET}"
        assert connection.secrets == {SECRET}
        assert SECRET not in repr(connection)
        assert dict(os.environ) == before

    def test_a_profile_is_read_from_databricks_own_file(self, web: WebServer, tmp_path: Path) -> None:
        web.reply = lambda _: Reply(status=404)
        (tmp_path / "databrickscfg").write_text(f"[DEFAULT]\n[test]\nhost = {web.url}\ntoken = {SECRET}\n")
        connection = connect(tracking_uri="databricks://test")
        assert (connection.url, authorization(connection)) == (web.url, f"Bearer {SECRET}")

    def test_a_profile_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "databrickscfg").write_text("[DEFAULT]\n")
        message = refusal(tracking_uri="databricks://test")
        assert message.startswith("`tracking_uri`: Databricks' configuration can't be used: ")
        assert "test" in message

    def test_no_configuration_at_all_is_told(self) -> None:
        message = refusal({"MLFLOW_TRACKING_URI": "databricks"}, tracking_uri=None)
        assert message.startswith("`MLFLOW_TRACKING_URI`: Databricks' configuration can't be used: ")

    def test_a_login_that_fails_later_is_told_in_one_line(
        self, web: WebServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        web.reply = lambda _: Reply(status=404)
        monkeypatch.setenv("DATABRICKS_HOST", web.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", SECRET)
        connection = connect(tracking_uri="databricks")

        def fail(self: object) -> None:
            raise ValueError("the refresh token has expired")

        monkeypatch.setattr("databricks.sdk.core.Config.authenticate", fail)
        with pytest.raises(ServerError, match="Databricks' login failed: the refresh token has expired"):
            MlflowHttp(connection).get("runs/search", {})


@pytest.mark.parametrize(
    ("uri", "scheme"),
    {
        "https://x": "https",
        "HTTP://x": "http",
        " databricks ": "databricks",
        "databricks://profile": "databricks",
        "Databricks-UC": "databricks-uc",
        "databricks-uc://profile": "databricks-uc",
        "postgresql+psycopg2://x": "postgresql+psycopg2",
        "./mlruns": "",
        "/mlruns": "",
        "": "",
    }.items(),
)
def test_the_scheme_of_an_address(uri: str, scheme: str) -> None:
    assert scheme_of(uri) == scheme


class TestAddressesThatCannotBeRead:
    @pytest.mark.parametrize(
        "uri",
        [
            *("http://h", "https://h:5000/x", "http://[::1]:5000", "databricks", "databricks://p"),
            *("sqlite:///mlflow.db", "postgres://h/db", "mysql+pymysql://h/db", "mariadb://h/db", "PostgreSQL://h/db"),
        ],
    )
    def test_others_can(self, uri: str) -> None:
        assert why_not("tracking_uri", uri) is None

    @pytest.mark.parametrize(
        ("uri", "kind"),
        [
            ("MSSQL://h/db", "mssql"),
            ("oracle://h/db", "oracle"),
            ("cockroachdb://h/db", "cockroachdb"),
            (f"mssql+{SECRET}:u", "mssql"),
        ],
    )
    def test_a_database_of_another_kind_is_told_to_be_served(self, uri: str, kind: str) -> None:
        message = self.message(uri)
        assert f"`tracking_uri` is a database ({kind}) of a kind that can't be read directly" in message
        assert "give the address of the `mlflow server` that runs on it" in message

    @pytest.mark.parametrize("uri", ["./mlruns", "mlruns", "/data/mlruns", "file:///data/mlruns", "file:mlruns", " "])
    def test_a_file_store_is_told_to_be_migrated(self, uri: str) -> None:
        message = self.message(uri)
        assert "`tracking_uri` is a folder" in message
        assert "`mlflow migrate-filestore`" in message

    @pytest.mark.parametrize("uri", ["databricks-uc", "databricks-uc://profile"])
    def test_unity_catalog_has_a_source_of_its_own(self, uri: str) -> None:
        assert "type `unity-catalog`" in self.message(uri)

    @pytest.mark.parametrize(
        ("uri", "scheme"),
        [(f"ftp://u:{SECRET}@h", "ftp"), ("s3://b", "s3"), (" GS://b", "gs")],
    )
    def test_another_scheme_is_named_with_those_that_are_known(self, uri: str, scheme: str) -> None:
        assert self.message(uri) == (
            f"`tracking_uri` has the scheme `{scheme}`, which is none of http, https, databricks, postgresql, mysql, "
            "mariadb, sqlite. It should look like https://mlflow.example.com"
        )

    @pytest.mark.parametrize(
        "uri",
        [
            *("localhost:5000", "C:\\mlruns", f"{SECRET}:pw@h", f"https//u:{SECRET}@h", f"{SECRET}:x://h"),
            *(f"u:{SECRET}@h", f"{SECRET}_:pw//h"),
        ],
    )
    def test_where_a_scheme_was_forgotten_nothing_is_repeated(self, uri: str) -> None:
        assert self.message(uri) == "`tracking_uri` should look like https://mlflow.example.com"

    @pytest.mark.parametrize(
        "uri",
        ["http:/h", "https://", "http://:80", "http://h:99999", "http://h:x", "http://[::1", f"http://u:{SECRET}@"],
    )
    def test_an_address_without_host_or_with_no_port_is_told(self, uri: str) -> None:
        assert self.message(uri) == (
            "`tracking_uri` names no host and port. It should look like https://mlflow.example.com"
        )

    @staticmethod
    def message(uri: str) -> str:
        message = why_not("tracking_uri", uri)
        assert message
        assert SECRET not in message
        return message
