"""Which addresses of MLflow can be read, and what to do about the others."""

from __future__ import annotations

from urllib.parse import urlsplit

_DATABASES = ("sqlite", "postgresql", "postgres", "mysql", "mariadb", "mssql", "oracle")


def scheme_of(uri: str) -> str:
    """`https` of `https://…`; also `databricks`, which may stand alone. "" for a path."""
    scheme, colon, _ = uri.strip().partition(":")
    return scheme.lower() if colon or scheme.lower() in ("databricks", "databricks-uc") else ""


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
    if scheme.split("+")[0] in _DATABASES:
        return (
            f"`{key}` is a database ({scheme}). Reading MLflow's database directly is not supported yet: "
            "give the address of the `mlflow server` that runs on it, like https://mlflow.example.com"
        )
    if scheme in ("file", ""):
        return (
            f"`{key}` is a folder. MLflow itself has put file stores into maintenance: move it into a database "
            "with `mlflow migrate-filestore`, run `mlflow server` on that, and give the server's address here, "
            "like https://mlflow.example.com"
        )
    return (
        f"`{key}` has the scheme `{scheme}`, which is none of http, https, databricks. "
        "It should look like https://mlflow.example.com"
    )


def _why_not_web(key: str, uri: str) -> str | None:
    try:
        parts = urlsplit(uri.strip())
        valid = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number, an unclosed bracket
        valid = False
    return None if valid else f"`{key}` names no host and port. It should look like https://mlflow.example.com"
