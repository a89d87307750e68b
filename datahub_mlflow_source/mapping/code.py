"""The code that a run was started from, as an address for a browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, urlsplit

from datahub_mlflow_source.mapping.rules import tag_value
from datahub_mlflow_source.records import Tags
from datahub_mlflow_source.redaction import HIDDEN, redact

# git@github.com:acme/churn.git. One letter would be a drive of Windows; an @ further on ends a password.
_SCP_LIKE = re.compile(r"^(?:[\w.-]+@)?([\w.-]{2,}):(?!/)([^@]+)$")
_HOST = re.compile(r"[\w.-]+|\[?[0-9a-f:.]+\]?", re.ASCII)
_AZURE_BY_SSH = {"ssh.dev.azure.com": "dev.azure.com", "vs-ssh.visualstudio.com": "{}.visualstudio.com"}
_COMMIT = re.compile(r"[0-9a-fA-F]{7,64}")
# By MLflow's client, and by Databricks, whose jobs may take their code from a repository (`mlflow_tags.py`).
_REPOSITORY = ("mlflow.source.git.repoURL", "mlflow.databricks.gitRepoUrl")
_COMMITS = ("mlflow.source.git.commit", "mlflow.databricks.gitRepoCommit")
_STARTED = ("mlflow.source.type", "mlflow.source.name")
_LONGEST = 2000  # characters: of any of these tags, as of an address
_OF_DATABRICKS = "mlflow.databricks.gitRepoRelativePath"
# What people start, written relative to where they start it.
_SCRIPT = re.compile(r"(?:\./)?((?:\.?[\w+-][\w.+-]*/){0,20}[\w+-][\w.+-]*\.(?:py|ipynb|r|R|jl|sh|scala|sql|Rmd|qmd))")
_FOLDER = re.compile(r"(?:[\w+-][\w.+ -]*/){0,20}[\w+-][\w.+ -]*")


@dataclass(frozen=True, slots=True)
class _Place:
    """In a repository."""

    repository: str  # https://host/path
    commit: str
    path: str = ""  # of a file or folder, from the repository's root; "" for all of it
    is_file: bool = False

    @property
    def host(self) -> str:
        return urlsplit(self.repository).hostname or ""


def source_code_url(tags: Tags, templates: Mapping[str, str]) -> str | None:
    """What a run was started from, at its commit, where the host's pages are known; else its repository.

    None without a repository. Credentials in its address are dropped. `templates`: addresses of pages by host, with
    `{repository}`, `{commit}` and `{file}` in them.
    """
    remote = _first(tags, _REPOSITORY)
    if not remote:
        return None
    said = (_first(tags, _COMMITS), *(tag_value(tags, key) for key in (_OF_DATABRICKS, *_STARTED)))
    if len(remote) > _LONGEST or any(len(text) > _LONGEST for text in said):
        return None
    return _url(remote, *said, tuple(templates.items()))


@lru_cache(maxsize=1024)  # many runs are of one commit
def _url(
    remote: str, commit: str, in_databricks: str, kind: str, name: str, templates: tuple[tuple[str, str], ...]
) -> str | None:
    repository = _web_address(remote)
    if not repository or not _COMMIT.fullmatch(commit):
        return repository
    path, is_file = _path(in_databricks, kind, name)
    place = _Place(repository, commit, quote(path), is_file)
    for host, template in templates:
        if _is_of(place.host, host):
            filled = template.replace("{repository}", repository).replace("{commit}", commit)
            return filled.replace("{file}", place.path).rstrip("/")
    return next(
        (page(place) for words, page in _PAGES.items() if any(word in place.host for word in words)), repository
    )


def commit_of(tags: Tags) -> str:
    """Of the code that a run was started from; "" where that is not known."""
    commit = _first(tags, _COMMITS)
    return commit if _COMMIT.fullmatch(commit) else ""


def _path(in_databricks: str, kind: str, name: str) -> tuple[str, bool]:
    """From the repository's root, and whether it is a file. MLflow tells where a script is from where it was started,
    which is the root as a rule; an absolute path tells nothing.
    """
    if in_databricks and _FOLDER.fullmatch(in_databricks.strip("/")):
        return in_databricks.strip("/"), True
    if kind == "PROJECT":  # https://github.com/acme/churn#folder
        folder = name.partition("#")[2].strip("/")
        return (folder, False) if _FOLDER.fullmatch(folder) else ("", False)
    script = _SCRIPT.fullmatch(name)
    return (script[1], True) if script else ("", False)


def _github(place: _Place) -> str:
    return f"{place.repository}/{'blob' if place.is_file else 'tree'}/{place.commit}/{place.path}".rstrip("/")


def _gitlab(place: _Place) -> str:
    return f"{place.repository}/-/{'blob' if place.is_file else 'tree'}/{place.commit}/{place.path}".rstrip("/")


def _gitea(place: _Place) -> str:
    return f"{place.repository}/src/commit/{place.commit}/{place.path}".rstrip("/")


def _bitbucket(place: _Place) -> str:
    """In the cloud; on a server of one's own, `/scm/<project>/<repository>` over HTTP and no `/scm` over SSH."""
    if place.host == "bitbucket.org":
        return f"{place.repository}/src/{place.commit}/{place.path}".rstrip("/")
    parts = urlsplit(place.repository)
    names = parts.path.strip("/").removeprefix("scm/").split("/")
    if len(names) != 2:
        return place.repository
    project, repository = names
    owner = f"users/{project[1:]}" if project.startswith("~") else f"projects/{project}"
    browse = f"{parts.scheme}://{parts.netloc}/{owner}/repos/{repository}/browse/{place.path}".rstrip("/")
    return f"{browse}?at={place.commit}"


def _azure(place: _Place) -> str:
    path = f"path=/{place.path}&" if place.path else ""
    return f"{place.repository}?{path}version=GC{place.commit}"


# Words in the names of hosts, of companies' own too.
_PAGES: Mapping[tuple[str, ...], Callable[[_Place], str]] = {
    ("gitlab",): _gitlab,
    ("bitbucket",): _bitbucket,
    ("github",): _github,
    ("dev.azure.com", "visualstudio.com"): _azure,
    ("gitea", "codeberg", "forgejo"): _gitea,
}


def _is_of(host: str, wanted: str) -> bool:
    return host == wanted.lower() or host.endswith(f".{wanted.lower()}")


def _first(tags: Tags, keys: tuple[str, ...]) -> str:
    return next(filter(None, (tag_value(tags, key) for key in keys)), "")


def _web_address(remote: str) -> str | None:
    """https://host/path of a git remote in any of git's forms; None for a local path or none at all.

    Whatever may be a credential in it is cut off, or there is no address.
    """
    remote = re.split(r"[;&?#]", redact(remote.strip()))[0]
    if HIDDEN in remote or remote.count("://") > 1:
        return None
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
    if not host or not _HOST.fullmatch(host) or parts.scheme not in ("http", "https", "ssh", "git"):
        return None
    kept_port = f":{port}" if port and parts.scheme in ("http", "https") else ""
    host = f"[{host}]" if ":" in host else host
    scheme = "http" if parts.scheme == "http" else "https"
    path = parts.path.rstrip("/").removesuffix(".git")
    of_azure = re.fullmatch(r"/v3/([^/]+)/([^/]+)/([^/]+)", path) if host in _AZURE_BY_SSH else None
    if of_azure:
        organisation, project, repository = of_azure.groups()
        host, path = _AZURE_BY_SSH[host].format(organisation), f"/{project}/_git/{repository}"
        path = f"/{organisation}{path}" if host == "dev.azure.com" else path
    host = "github.com" if host == "ssh.github.com" else host
    return f"{scheme}://{host}{kept_port}{quote(path, safe='/%~@+')}"
