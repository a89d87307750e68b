"""From git remote and commit to an address for a browser, and never a credential in it."""

from __future__ import annotations

import pytest

from datahub_mlflow_source.mapping.code import source_code_url

COMMIT = "4f1a6a2f0c5f4f0b9f7f3e0d5a1b2c3d4e5f6a7b"


def url(repository: str, commit: str = "") -> str | None:
    return source_code_url((("mlflow.source.git.commit", commit), ("mlflow.source.git.repoURL", repository)))


@pytest.mark.parametrize(
    "remote",
    [
        "https://github.com/acme/churn.git",
        "https://github.com/acme/churn",
        "https://github.com/acme/churn/",
        "https://GitHub.com/acme/churn.git",
        "git@github.com:acme/churn.git",
        "github.com:acme/churn.git",
        "ssh://git@github.com/acme/churn.git",
        "ssh://git@github.com:22/acme/churn.git",
        "git://github.com/acme/churn.git",
        "  https://github.com/acme/churn.git\n",
        "https://hunter2@github.com/acme/churn.git",
        "https://ada:hunter2@github.com/acme/churn.git",
        "https://x-access-token:hunter2@github.com/acme/churn.git",
        "https://ada:hunt@er2@github.com/acme/churn.git",
        "https://github.com/acme/churn.git?private_token=hunter2#x",
    ],
)
def test_every_form_of_a_remote_leads_to_the_repository(remote: str) -> None:
    assert url(remote) == "https://github.com/acme/churn"


@pytest.mark.parametrize(
    ("remote", "expected"),
    {
        "https://github.com/acme/churn.git": f"https://github.com/acme/churn/tree/{COMMIT}",
        "git@github.acme.example:ml/churn.git": f"https://github.acme.example/ml/churn/tree/{COMMIT}",
        "https://gitlab.com/acme/ml/churn.git": f"https://gitlab.com/acme/ml/churn/-/tree/{COMMIT}",
        "git@gitlab.acme.example:ml/churn.git": f"https://gitlab.acme.example/ml/churn/-/tree/{COMMIT}",
        "https://ada@bitbucket.org/acme/churn.git": f"https://bitbucket.org/acme/churn/src/{COMMIT}",
        "https://git.acme.example/ml/churn.git": "https://git.acme.example/ml/churn",
    }.items(),
)
def test_a_commit_is_shown_where_its_host_is_known(remote: str, expected: str) -> None:
    assert url(remote, COMMIT) == expected


@pytest.mark.parametrize("commit", ["", "main", "4f1a6a", "../../x", f"{COMMIT}\n", f"{COMMIT}?x=1", "z" * 40])
def test_what_is_no_commit_is_left_out(commit: str) -> None:
    assert url("https://github.com/acme/churn", commit) == "https://github.com/acme/churn"


@pytest.mark.parametrize("commit", ["4f1a6a2", COMMIT, COMMIT.upper(), "a" * 64])
def test_commits_may_be_short_or_of_sha256(commit: str) -> None:
    assert url("https://github.com/acme/churn", commit) == f"https://github.com/acme/churn/tree/{commit}"


@pytest.mark.parametrize(
    "remote",
    [
        "",
        "   ",
        "/home/ada/churn",
        "../churn",
        "churn",
        "file:///home/ada/churn",
        r"C:\Users\ada\churn",
        "C:/Users/ada/churn",
        "D:churn",
        "s3://bucket/churn",
        "javascript:alert(1)//@x",
        "https://",
        "https://[::1",
        "https://host:port/x",
    ],
)
def test_what_no_browser_can_open_gives_no_address(remote: str) -> None:
    assert url(remote, COMMIT) is None


def test_a_run_without_git_tags_has_no_address() -> None:
    assert source_code_url(()) is None
    assert source_code_url((("mlflow.source.git.commit", COMMIT),)) is None


@pytest.mark.parametrize(
    "remote",
    [
        "https://ada:hunter2@host/x.git",
        "https://hunter2@host/x.git",
        "ssh://ada:hunter2@host/x.git",
        "https://host/x.git?token=hunter2",
        "https://host/x.git#access_token=hunter2",
        "ada:hunter2@host:x.git",
        "ada:hunter2@host/x.git",
        "oauth2:hunter2@gitlab.com/acme/churn.git",
    ],
)
def test_credentials_in_a_remote_never_come_out(remote: str) -> None:
    assert "hunter2" not in (url(remote, COMMIT) or "")


@pytest.mark.parametrize(
    ("remote", "expected"),
    {
        "http://git.acme.example:8080/x.git": "http://git.acme.example:8080/x",
        "https://git.acme.example:8443/x.git": "https://git.acme.example:8443/x",
        "ssh://git@git.acme.example:2222/x.git": "https://git.acme.example/x",
        "https://[::1]:8443/x.git": "https://[::1]:8443/x",
        "https://dev.azure.com/acme/ml/_git/churn": "https://dev.azure.com/acme/ml/_git/churn",
        "https://github.com/acme/with space.git": "https://github.com/acme/with%20space",
        "https://github.com/acme/with%20space.git": "https://github.com/acme/with%20space",
        "https://github.com/acme/需求": "https://github.com/acme/%E9%9C%80%E6%B1%82",
        'https://github.com/acme/"><script>': "https://github.com/acme/%22%3E%3Cscript%3E",
    }.items(),
)
def test_ports_and_odd_characters_stay_correct(remote: str, expected: str) -> None:
    assert url(remote) == expected
