"""From recipe and environment to "where MLflow is, and how to get in".

What the recipe leaves out falls back to MLflow's own variables (mlflow 3.17, `mlflow/environment_variables.py`).
They are read and never written: DataHub runs other things in the same process.
"""

from __future__ import annotations

from collections.abc import Mapping
from configparser import ConfigParser
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from datahub_mlflow_source.addresses import scheme_of, why_not
from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.errors import RecipeError

_TRUE = ("true", "1")  # MLflow's _BooleanEnvironmentVariable


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


class DatabricksAuth(AuthBase):
    """Whatever databricks-sdk makes of a profile: tokens, OAuth, cloud logins; renewed as it sees fit."""

    def __init__(self, sdk_config: Any) -> None:
        self._sdk_config = sdk_config

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(self._sdk_config.authenticate())
        return request


def connections(
    config: MlflowSourceConfig, environment: Mapping[str, str]
) -> tuple[Connection, Connection, tuple[str, ...]]:
    """The tracking server, the registry (often the same), and warnings about the recipe.

    Raises:
        RecipeError: for an address that can't be read, saying what to do instead.
    """
    tracking_uri = config.tracking_uri or environment.get("MLFLOW_TRACKING_URI")
    if not tracking_uri:
        raise RecipeError(
            "`tracking_uri` is not set, and neither is MLFLOW_TRACKING_URI. "
            "Set it to the address of the MLflow tracking server, like https://mlflow.example.com"
        )
    registry_uri = config.registry_uri or environment.get("MLFLOW_REGISTRY_URI") or tracking_uri
    tracking, warnings = _connection("tracking_uri", tracking_uri, config, environment)
    if registry_uri == tracking_uri:
        return tracking, tracking, warnings
    registry, more_warnings = _connection("registry_uri", registry_uri, config, environment)
    return tracking, registry, warnings + more_warnings


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
    auth = _auth(config, environment)
    if parts.username or parts.password:
        warnings = (
            f"`{key}` holds a user name or password, which DataHub stores in clear: "
            "use `username` and `password` (or `token`), with a ${VARIABLE} for the secret",
        )
        auth = auth or HTTPBasicAuth(unquote(parts.username or ""), unquote(parts.password or ""))
    host = parts.netloc.rpartition("@")[2]
    url = urlunsplit((parts.scheme.lower(), host, parts.path.rstrip("/"), "", ""))
    return replace(_settings(config, environment), url=url, auth=auth), warnings


def _settings(config: MlflowSourceConfig, environment: Mapping[str, str]) -> Connection:
    """All but the address and who we are."""
    tls = config.tls
    insecure = environment.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in _TRUE
    ca_bundle = tls.ca_bundle or environment.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    cert = tls.client_cert or environment.get("MLFLOW_TRACKING_CLIENT_CERT_PATH")
    for key, path in (
        ("ca_bundle", ca_bundle),
        ("client_cert", cert),
        ("client_key_path", tls.client_key_path),
    ):
        if path and not Path(path).exists():
            raise RecipeError(f"`tls.{key}`: there is no file {path}")
    secret_headers = {name: value.get_secret_value() for name, value in config.headers_secret.items()}
    return Connection(
        url="",
        headers={**config.headers, **secret_headers},
        verify=False if not tls.verify else ca_bundle or not insecure,
        cert=(cert, tls.client_key_path) if cert and tls.client_key_path else cert,
        timeout_seconds=config.timeout_seconds,
        max_retries=config.max_retries,
    )


def _auth(config: MlflowSourceConfig, environment: Mapping[str, str]) -> AuthBase | None:
    """Recipe first, then MLflow's variables, then its credentials file; None: anonymous."""
    if config.username and config.password:
        return _basic(config.username, config.password.get_secret_value())
    if config.token:
        return BearerAuth(config.token.get_secret_value())
    from_file = _credentials_file(environment)
    username = environment.get("MLFLOW_TRACKING_USERNAME") or from_file.get("mlflow_tracking_username")
    password = environment.get("MLFLOW_TRACKING_PASSWORD") or from_file.get("mlflow_tracking_password")
    if username and password:
        return _basic(username, password)
    token = environment.get("MLFLOW_TRACKING_TOKEN")
    return BearerAuth(token) if token else None


def _basic(username: str, password: str) -> HTTPBasicAuth:
    # `requests` would encode a str as Latin-1 and fail on anything else; MLflow's server reads UTF-8.
    return HTTPBasicAuth(username.encode(), password.encode())


def _credentials_file(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Section [mlflow] of ~/.mlflow/credentials, as MLflow's own client reads it (`mlflow/utils/credentials.py`)."""
    home = environment.get("HOME") or environment.get("USERPROFILE")
    path = Path(home, ".mlflow", "credentials") if home else None
    if not path or not path.is_file():
        return {}
    parser = ConfigParser(interpolation=None)
    parser.read(path, encoding="utf-8")
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
        sdk_config = Config(profile=profile)
    except ValueError as error:  # databricks-sdk: no such profile, no credentials, no host
        raise RecipeError(f"`{key}`: Databricks' configuration can't be used: {error}") from error
    if not sdk_config.host:
        raise RecipeError(f"`{key}`: Databricks' configuration names no host. Check DATABRICKS_HOST")
    settings = _settings(config, environment)
    return replace(settings, url=str(sdk_config.host).rstrip("/"), auth=DatabricksAuth(sdk_config))
