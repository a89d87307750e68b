"""From recipe and environment to "where MLflow is, and how to get in".

What the recipe leaves out falls back to MLflow's own variables (mlflow 3.17, `mlflow/environment_variables.py`).
They are read and never written: DataHub runs other things in the same process.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from datahub_mlflow_source.addresses import is_database, scheme_of, why_not, without_secrets
from datahub_mlflow_source.config import WORKSPACE_HEADER, MlflowSourceConfig
from datahub_mlflow_source.errors import RecipeError

if TYPE_CHECKING:
    from datahub_mlflow_source.backend_store import DatabaseConnection

_DATABRICKS_ANSWERS_WITHIN = 8  # seconds; databricks-sdk by itself tries for five minutes to learn about the host
_TRUE = ("true", "1")  # MLflow's _BooleanEnvironmentVariable
_SHORTEST_HIDDEN = 4  # characters of a secret that is searched for: a shorter one is in every other word
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")


@dataclass(frozen=True, slots=True)
class Connection:
    """One MLflow server and the way in."""

    url: str  # http(s), no trailing slash, no credentials
    auth: AuthBase | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    verify: bool | str = True  # as `requests` takes it: a file of authorities, or whether to check at all
    cert: str | tuple[str, str] | None = None
    timeout_seconds: float = 120
    max_retries: int = 3
    secrets: frozenset[str] = field(default=frozenset(), repr=False)  # as a server might repeat them in its answers

    @property
    def host(self) -> str:
        """For messages."""
        return urlsplit(self.url).netloc

    def in_workspace(self, name: str) -> Connection:
        """The same, asking for what is in this workspace (MLflow 3.10 and newer)."""
        return replace(self, headers={**self.headers, WORKSPACE_HEADER: name})


class PasswordAuth(HTTPBasicAuth):
    """User name and password, in UTF-8 as MLflow's server reads them: `requests` would take Latin-1 for a str."""

    def __init__(self, username: str, password: str) -> None:
        super().__init__(username.encode(), password.encode())
        self.secrets = (password, base64.b64encode(f"{username}:{password}".encode()).decode())


class BearerAuth(AuthBase):
    """A token in the Authorization header. As `auth` and no plain header, or a ~/.netrc would replace it."""

    def __init__(self, token: str) -> None:
        self.secrets = (token,)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.secrets[0]}"
        return request


class HeaderAuth(AuthBase):
    """The Authorization header that the recipe gives. As `auth`, or a ~/.netrc would replace it."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class DatabricksAuth(AuthBase):
    """Whatever databricks-sdk makes of a profile: tokens, OAuth, cloud logins; renewed as it sees fit."""

    def __init__(self, sdk_config: Any) -> None:
        self._sdk_config = sdk_config
        self.secrets = tuple(filter(None, (sdk_config.token, sdk_config.client_secret)))

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        try:
            request.headers.update(self._sdk_config.authenticate())
        except (OSError, ValueError) as error:  # databricks-sdk: no token was to be had
            raise requests.RequestException(f"Databricks' login failed: {error}") from error
        return request


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where MLflow is. Each pair is for experiments and runs, and for the registry: often the same.

    With databases, those are read, and servers are only linked to.
    """

    servers: tuple[Connection, Connection] | None
    databases: tuple[DatabaseConnection, DatabaseConnection] | None = None
    warnings: tuple[str, ...] = ()


def deployment(config: MlflowSourceConfig, environment: Mapping[str, str]) -> Deployment:
    """What the recipe and MLflow's variables point to.

    Raises:
        RecipeError: for an address that can't be read, saying what to do instead.
    """
    tracking_key, tracking_uri = _address("tracking_uri", config.tracking_uri, environment)
    registry_key, registry_uri = _address("registry_uri", config.registry_uri, environment)
    store_key, store_uri = "backend_store_uri", config.backend_store_uri
    if not store_uri and tracking_uri and is_database(tracking_uri):
        store_key, store_uri = tracking_key, tracking_uri
    if not store_uri:
        tracking, registry, warnings = connections(config, environment)
        return Deployment((tracking, registry), warnings=warnings + config.warnings)
    from datahub_mlflow_source.backend_store import database_connection  # SQLAlchemy: half a second to import

    store, warnings = database_connection(store_key, store_uri, config)
    registry_store = store
    if registry_uri and is_database(registry_uri) and registry_uri != store_uri:
        registry_store, more_warnings = database_connection(registry_key, registry_uri, config)
        warnings += more_warnings
    elif registry_uri and registry_uri not in (tracking_uri, store_uri):
        raise RecipeError(
            f"`{registry_key}` is a server, and `{store_key}` a database: where the registry is elsewhere, give its "
            f"database as `{registry_key}`, or read both over REST"
        )
    servers = None
    if tracking_uri and not is_database(tracking_uri):
        tracking, more_warnings = _connection(tracking_key, tracking_uri, config, environment)
        servers = (tracking, tracking)
        warnings += more_warnings
    return Deployment(servers, (store, registry_store), warnings + config.warnings)


def workspaces_of(config: MlflowSourceConfig, environment: Mapping[str, str]) -> list[str] | None:
    """Those that are to be read; None: all."""
    named = environment.get("MLFLOW_WORKSPACE", "").strip()
    return config.workspaces or ([named] if named else None)


def connections(
    config: MlflowSourceConfig, environment: Mapping[str, str]
) -> tuple[Connection, Connection, tuple[str, ...]]:
    """Over REST: the tracking server, the registry (often the same), and warnings about the recipe.

    Raises:
        RecipeError: for an address that can't be read, saying what to do instead.
    """
    tracking_key, tracking_uri = _address("tracking_uri", config.tracking_uri, environment)
    if not tracking_uri:
        raise RecipeError(
            "`tracking_uri` is not set, and neither is MLFLOW_TRACKING_URI. "
            "Set it to the address of the MLflow tracking server, like https://mlflow.example.com"
        )
    tracking, warnings = _connection(tracking_key, tracking_uri, config, environment)
    registry_key, registry_uri = _address("registry_uri", config.registry_uri, environment)
    if not registry_uri or registry_uri == tracking_uri:
        return tracking, tracking, warnings
    registry, more_warnings = _connection(registry_key, registry_uri, config, environment)
    return tracking, registry, warnings + more_warnings


def _address(key: str, uri: str | None, environment: Mapping[str, str]) -> tuple[str, str | None]:
    """And the name under which people know it."""
    variable = f"MLFLOW_{key.upper()}"
    return (key, uri) if uri else (variable, environment.get(variable))


def _connection(
    key: str, uri: str, config: MlflowSourceConfig, environment: Mapping[str, str]
) -> tuple[Connection, tuple[str, ...]]:
    refusal = why_not(key, uri)
    if refusal or is_database(uri):
        raise RecipeError(
            refusal or f"`{key}` is a database, and `tracking_uri` a server: use `backend_store_uri` for both"
        )
    if scheme_of(uri) == "databricks":
        return _databricks_connection(key, uri, config, environment), ()
    return _http_connection(key, uri.strip(), config, environment)


def _http_connection(
    key: str, uri: str, config: MlflowSourceConfig, environment: Mapping[str, str]
) -> tuple[Connection, tuple[str, ...]]:
    parts = urlsplit(uri)
    warnings: tuple[str, ...] = ()
    auth = _recipe_auth(config, environment)
    if parts.username or parts.password:
        if key in MlflowSourceConfig.model_fields:
            warnings = (
                f"`{key}` holds a user name or password, which DataHub stores in clear: "
                "use `username` and `password` (or `token`), with a ${VARIABLE} for the secret",
            )
        auth = auth or PasswordAuth(unquote(parts.username or ""), unquote(parts.password or ""))
    auth = auth or _environment_auth(environment)
    secrets = _secrets(auth, config)
    return replace(_settings(config, environment), url=without_secrets(uri), auth=auth, secrets=secrets), warnings


def _secrets(auth: AuthBase | None, config: MlflowSourceConfig) -> frozenset[str]:
    """What is sent to let us in: as plain text, and as basic authentication writes it."""
    values = [value.get_secret_value().strip() for value in config.headers_secret.values()]
    values += [value.strip() for name, value in config.headers.items() if name.lower() == "authorization"]
    found = {part for value in values for part in (value, value.rpartition(" ")[2])}  # with and without "Bearer"
    if isinstance(auth, (PasswordAuth, BearerAuth, DatabricksAuth)):
        found.update(auth.secrets)
    return frozenset(secret for secret in found if len(secret) >= _SHORTEST_HIDDEN)


def _settings(config: MlflowSourceConfig, environment: Mapping[str, str]) -> Connection:
    """All but the address and who we are."""
    tls = config.tls
    asked_to_trust = environment.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in _TRUE
    insecure = asked_to_trust and "verify" not in tls.model_fields_set
    ca_bundle = _file("tls.ca_bundle", tls.ca_bundle)
    if tls.verify and not ca_bundle:
        name = "MLFLOW_TRACKING_SERVER_CERT_PATH"
        ca_bundle = _file(name, environment.get(name))
    cert = _file("tls.client_cert", tls.client_cert) or _file(
        "MLFLOW_TRACKING_CLIENT_CERT_PATH", environment.get("MLFLOW_TRACKING_CLIENT_CERT_PATH")
    )
    key = _file("tls.client_key_path", tls.client_key_path)
    return Connection(
        url="",
        headers=dict(_headers(config)),
        verify=tls.verify and (ca_bundle or not insecure),
        cert=(cert, key) if cert and key else cert,
        timeout_seconds=config.timeout_seconds,
        max_retries=config.max_retries,
    )


def _file(key: str, path: str | None) -> str | None:
    if path and not Path(path).exists():
        raise RecipeError(f"`{key}`: there is no file {path}")
    return path


def _headers(config: MlflowSourceConfig) -> Iterator[tuple[str, str]]:
    secret = {name: value.get_secret_value() for name, value in config.headers_secret.items()}
    for key, headers in (("headers", config.headers), ("headers_secret", secret)):
        for name, value in headers.items():
            yield name, _header_value(f"{key}.{name}", value)


def _header_value(key: str, value: str) -> str:
    """Without blanks around it, as a secret read from a file often ends in a line break."""
    value = value.strip()
    if not _HEADER_VALUE.fullmatch(value):
        raise RecipeError(f"`{key}` holds a character that no HTTP header may hold, such as a line break in the middle")
    return value


def _recipe_auth(config: MlflowSourceConfig, environment: Mapping[str, str]) -> AuthBase | None:
    """User name or password may be the environment's, where the recipe has the other one."""
    if config.username or config.password:
        username = config.username or environment.get("MLFLOW_TRACKING_USERNAME")
        in_recipe = config.password.get_secret_value() if config.password else None
        password = in_recipe or environment.get("MLFLOW_TRACKING_PASSWORD")
        if not username or not password:
            there, missing = ("password", "username") if in_recipe else ("username", "password")
            variable = f"MLFLOW_TRACKING_{missing.upper()}"
            raise RecipeError(f"`{there}` is set, but neither `{missing}` nor {variable}: it takes both to log in")
        return PasswordAuth(username, password)
    if config.token:
        return _bearer("token", config.token.get_secret_value())
    names = {name.lower() for name in (*config.headers, *config.headers_secret)}
    return HeaderAuth() if "authorization" in names else None


def _environment_auth(environment: Mapping[str, str]) -> AuthBase | None:
    """MLflow's variables first, then its credentials file; None: anonymous."""
    username = environment.get("MLFLOW_TRACKING_USERNAME")
    password = environment.get("MLFLOW_TRACKING_PASSWORD")
    if username and password:
        return PasswordAuth(username, password)
    if token := environment.get("MLFLOW_TRACKING_TOKEN"):
        return _bearer("MLFLOW_TRACKING_TOKEN", token)
    from_file = _credentials_file(environment)
    username = username or from_file.get("mlflow_tracking_username")
    password = password or from_file.get("mlflow_tracking_password")
    return PasswordAuth(username, password) if username and password else None


def _bearer(key: str, token: str) -> BearerAuth:
    return BearerAuth(_header_value(key, token))


def _credentials_file(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Section [mlflow] of ~/.mlflow/credentials, as MLflow's own client reads it (`mlflow/utils/credentials.py`).

    Raises:
        RecipeError: it can't be read; what stands in it is not shown.
    """
    home = environment.get("HOME") or environment.get("USERPROFILE")
    path = Path(home, ".mlflow", "credentials") if home else None
    if not path or not path.is_file():
        return {}
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
    except (ConfigParserError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{path}, where MLflow keeps credentials, can't be read ({type(error).__name__}). It should have a section "
            "[mlflow]; or set `username` and `password`, or `token`"
        ) from None
    return dict(parser["mlflow"]) if parser.has_section("mlflow") else {}


def _databricks_connection(
    key: str, uri: str, config: MlflowSourceConfig, environment: Mapping[str, str]
) -> Connection:
    """`databricks` or `databricks://<profile>`: host and login from Databricks' own configuration."""
    try:
        from databricks.sdk.core import Config
    except ImportError as error:
        raise RecipeError(f"`{key}: databricks` needs the package databricks-sdk: install it") from error
    profile = urlsplit(uri).netloc or None
    try:
        sdk_config = Config(
            profile=profile,
            http_timeout_seconds=_DATABRICKS_ANSWERS_WITHIN,
            retry_timeout_seconds=_DATABRICKS_ANSWERS_WITHIN // 2,
        )
    except ValueError as error:  # databricks-sdk: no such profile, no credentials, no host
        raise RecipeError(f"`{key}`: Databricks' configuration can't be used: {error}") from error
    if not sdk_config.host:
        raise RecipeError(f"`{key}`: Databricks' configuration names no host. Check DATABRICKS_HOST")
    auth = DatabricksAuth(sdk_config)
    settings = _settings(config, environment)
    return replace(settings, url=str(sdk_config.host).rstrip("/"), auth=auth, secrets=_secrets(auth, config))
