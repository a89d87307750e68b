"""From recipe and environment to "where MLflow is, and how to get in".

What the recipe leaves out falls back to MLflow's own variables (mlflow 3.17, `mlflow/environment_variables.py`).
They are read and never written: DataHub runs other things in the same process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from datahub_mlflow_source.addresses import scheme_of, why_not
from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.errors import RecipeError

_DATABRICKS_ANSWERS_WITHIN = 8  # seconds; databricks-sdk by itself tries for five minutes to learn about the host
_TRUE = ("true", "1")  # MLflow's _BooleanEnvironmentVariable
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
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

    @property
    def host(self) -> str:
        """For messages."""
        return urlsplit(self.url).netloc


class BearerAuth(AuthBase):
    """A token in the Authorization header. As `auth` and no plain header, or a ~/.netrc would replace it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class HeaderAuth(AuthBase):
    """The Authorization header that the recipe gives. As `auth`, or a ~/.netrc would replace it."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class DatabricksAuth(AuthBase):
    """Whatever databricks-sdk makes of a profile: tokens, OAuth, cloud logins; renewed as it sees fit."""

    def __init__(self, sdk_config: Any) -> None:
        self._sdk_config = sdk_config

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        try:
            request.headers.update(self._sdk_config.authenticate())
        except (OSError, ValueError) as error:  # databricks-sdk: no token was to be had
            raise requests.RequestException(f"Databricks' login failed: {error}") from error
        return request


def connections(
    config: MlflowSourceConfig, environment: Mapping[str, str]
) -> tuple[Connection, Connection, tuple[str, ...]]:
    """The tracking server, the registry (often the same), and warnings about the recipe.

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
    if refusal:
        raise RecipeError(refusal)
    if scheme_of(uri) == "databricks":
        return _databricks_connection(key, uri, config, environment), ()
    return _http_connection(key, uri.strip(), config, environment)


def _http_connection(
    key: str, uri: str, config: MlflowSourceConfig, environment: Mapping[str, str]
) -> tuple[Connection, tuple[str, ...]]:
    parts = urlsplit(uri)
    warnings: tuple[str, ...] = ()
    auth = _recipe_auth(config)
    if parts.username or parts.password:
        if key in MlflowSourceConfig.model_fields:
            warnings = (
                f"`{key}` holds a user name or password, which DataHub stores in clear: "
                "use `username` and `password` (or `token`), with a ${VARIABLE} for the secret",
            )
        auth = auth or _basic(unquote(parts.username or ""), unquote(parts.password or ""))
    auth = auth or _environment_auth(environment)
    host = parts.netloc.rpartition("@")[2]
    url = urlunsplit((parts.scheme.lower(), host, parts.path.rstrip("/"), "", ""))
    return replace(_settings(config, environment), url=url, auth=auth), warnings


def _settings(config: MlflowSourceConfig, environment: Mapping[str, str]) -> Connection:
    """All but the address and who we are."""
    tls = config.tls
    asked_to_trust = environment.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in _TRUE
    insecure = asked_to_trust and "verify" not in tls.model_fields_set
    ca_bundle = _file("tls.ca_bundle", tls.ca_bundle) or _file(
        "MLFLOW_TRACKING_SERVER_CERT_PATH", environment.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    )
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
            if not _HEADER_NAME.fullmatch(name):
                raise RecipeError(f"`{key}`: {name!r} is no name of an HTTP header")
            yield name, _header_value(f"{key}.{name}", value)


def _header_value(key: str, value: str) -> str:
    """Without blanks around it, as a secret read from a file often ends in a line break."""
    value = value.strip()
    if not _HEADER_VALUE.fullmatch(value):
        raise RecipeError(f"`{key}` holds a character that no HTTP header may hold, such as a line break in the middle")
    return value


def _recipe_auth(config: MlflowSourceConfig) -> AuthBase | None:
    if config.username and config.password:
        return _basic(config.username, config.password.get_secret_value())
    if config.token:
        return _bearer("token", config.token.get_secret_value())
    names = {name.lower() for name in (*config.headers, *config.headers_secret)}
    return HeaderAuth() if "authorization" in names else None


def _environment_auth(environment: Mapping[str, str]) -> AuthBase | None:
    """MLflow's variables first, then its credentials file; None: anonymous."""
    username = environment.get("MLFLOW_TRACKING_USERNAME")
    password = environment.get("MLFLOW_TRACKING_PASSWORD")
    if username and password:
        return _basic(username, password)
    if token := environment.get("MLFLOW_TRACKING_TOKEN"):
        return _bearer("MLFLOW_TRACKING_TOKEN", token)
    from_file = _credentials_file(environment)
    username = username or from_file.get("mlflow_tracking_username")
    password = password or from_file.get("mlflow_tracking_password")
    return _basic(username, password) if username and password else None


def _bearer(key: str, token: str) -> BearerAuth:
    return BearerAuth(_header_value(key, token))


def _basic(username: str, password: str) -> HTTPBasicAuth:
    # `requests` would encode a str as Latin-1 and fail on anything else; MLflow's server reads UTF-8.
    return HTTPBasicAuth(username.encode(), password.encode())


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
    settings = _settings(config, environment)
    return replace(settings, url=str(sdk_config.host).rstrip("/"), auth=DatabricksAuth(sdk_config))
