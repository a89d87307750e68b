"""Which addresses of MLflow can be read, and what to do about the others."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

_DATABASES = ("sqlite", "postgresql", "postgres", "mysql", "mariadb")
_OTHER_DATABASES = ("mssql", "oracle", "cockroachdb")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def scheme_of(uri: str) -> str:
    """`https` of `https://…`; also `databricks`, which may stand alone. "" for a path."""
    scheme, colon, _ = uri.strip().partition(":")
    return scheme.lower() if colon or scheme.lower() in ("databricks", "databricks-uc") else ""


def without_secrets(url: str) -> str:
    """The web address without user, password, query, fragment and slash at the end. Raises ValueError: it is none."""
    parts = urlsplit(url.strip())
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def is_address(uri: str) -> bool:
    """Whether it can be taken apart."""
    try:
        urlsplit(uri)
    except ValueError:
        return False
    return True


def is_web_address(url: str) -> bool:
    """Whether it can be asked: `http` or `https`, and a host."""
    if scheme_of(url) not in ("http", "https") or not is_address(url) or any(map(str.isspace, url)):
        return False
    parts = urlsplit(url)
    try:
        return bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is none
        return False


def is_database(uri: str) -> bool:
    """Whether this is the address of a database that can be read."""
    return scheme_of(uri).split("+")[0] in _DATABASES


def why_no_database(key: str, uri: str) -> str | None:
    """Why what stands under this key can't be read as a database; None if it can. It is not repeated."""
    if is_database(uri):
        return None
    return (
        f"`{key}` must be a database of PostgreSQL, MySQL, MariaDB or SQLite, like postgresql://user@host:5432/mlflow. "
        "The address of an MLflow server goes into `tracking_uri`"
    )


def why_not(key: str, uri: str) -> str | None:
    """Why the address under this recipe key can't be read; None if it can.

    It may hold a password, and so is not repeated.
    """
    scheme = scheme_of(uri)
    if scheme in ("http", "https"):
        return _why_not_web(key, uri)
    if scheme == "databricks":
        return None
    if scheme == "databricks-uc":
        return (
            f"`{key}`: models in Unity Catalog are read by DataHub's own source, type `unity-catalog` "
            "(`include_ml_models`). For the workspace's experiments and registry use `databricks`."
        )
    if is_database(uri):
        return None
    if scheme.split("+")[0] in _OTHER_DATABASES:
        return (
            f"`{key}` is a database ({scheme.split('+')[0]}) of a kind that can't be read directly: give the address "
            "of the `mlflow server` that runs on it, like https://mlflow.example.com"
        )
    if scheme in ("file", ""):
        return (
            f"`{key}` is a folder. MLflow itself has put file stores into maintenance: move it into a database "
            "with `mlflow migrate-filestore`, run `mlflow server` on that, and give the server's address here, "
            "like https://mlflow.example.com"
        )
    if not _SCHEME.match(uri.strip()):  # a forgotten one: what stands before the first colon may be a secret
        return f"`{key}` should look like https://mlflow.example.com"
    return (
        f"`{key}` has the scheme `{scheme}`, which is none of http, https, databricks, postgresql, "
        "mysql, mariadb, sqlite. It should look like https://mlflow.example.com"
    )


def _why_not_web(key: str, uri: str) -> str | None:
    try:
        parts = urlsplit(uri.strip())
        valid = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number, an unclosed bracket
        valid = False
    return None if valid else f"`{key}` names no host and port. It should look like https://mlflow.example.com"
