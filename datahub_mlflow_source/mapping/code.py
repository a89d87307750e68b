"""The code that a run was started from, as an address for a browser."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from datahub_mlflow_source.mapping.rules import tag_value
from datahub_mlflow_source.records import Tags

# git@github.com:acme/churn.git. One letter would be a drive of Windows; an @ further on ends a password.
_SCP_LIKE = re.compile(r"^(?:[\w.-]+@)?([\w.-]{2,}):(?!/)([^@]+)$")


def source_code_url(tags: Tags) -> str | None:
    """The commit a run was started from, where its host is known; else its repository; None without one.

    MLflow writes the tags `mlflow.source.git.repoURL` and `.commit`. Credentials in the URL are dropped.
    """
    repository = _web_address(tag_value(tags, "mlflow.source.git.repoURL"))
    commit = tag_value(tags, "mlflow.source.git.commit")
    if not repository or not re.fullmatch(r"[0-9a-fA-F]{7,64}", commit):
        return repository
    host = urlsplit(repository).hostname or ""
    if "gitlab" in host:
        return f"{repository}/-/tree/{commit}"
    if "bitbucket" in host:
        return f"{repository}/src/{commit}"
    if "github" in host:
        return f"{repository}/tree/{commit}"
    return repository


def _web_address(remote: str) -> str | None:
    """https://host/path of a git remote in any of git's forms; None for a local path or none at all."""
    remote = remote.strip()
    if "://" not in remote:
        scp_like = _SCP_LIKE.match(remote)
        if not scp_like:
            return None
        remote = f"ssh://{scp_like[1]}/{scp_like[2]}"
    try:
        parts = urlsplit(remote)
        host, port = parts.hostname, parts.port
    except ValueError:  # no URL after all
        return None
    if not host or parts.scheme not in ("http", "https", "ssh", "git"):
        return None
    kept_port = f":{port}" if port and parts.scheme in ("http", "https") else ""
    host = f"[{host}]" if ":" in host else host
    scheme = "http" if parts.scheme == "http" else "https"
    path = parts.path.rstrip("/").removesuffix(".git")
    return f"{scheme}://{host}{kept_port}{quote(path, safe='/%~@+')}"
