"""From git remote and commit to an address for a browser, and never a credential in it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from pydantic import ValidationError

from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.mapping.code import source_code_url

COMMIT = "4f1a6a2f0c5f4f0b9f7f3e0d5a1b2c3d4e5f6a7b"


def url(
    repository: str, commit: str = "", templates: Mapping[str, str] | None = None, more: Mapping[str, str] | None = None
) -> str | None:
    tags = {"mlflow.source.git.commit": commit, "mlflow.source.git.repoURL": repository, **(more or {})}
    return source_code_url(tuple(tags.items()), templates or {})


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
    assert source_code_url((), {}) is None
    assert source_code_url((("mlflow.source.git.commit", COMMIT),), {}) is None


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


GITHUB = "https://github.com/acme/churn"
SCRIPT, PROJECT = {"mlflow.source.type": "LOCAL"}, {"mlflow.source.type": "PROJECT"}


@pytest.mark.parametrize(
    ("remote", "page"),
    {
        "git@github.com:acme/churn.git": f"https://github.com/acme/churn/blob/{COMMIT}/src/train.py",
        "https://gitlab.com/acme/churn.git": f"https://gitlab.com/acme/churn/-/blob/{COMMIT}/src/train.py",
        "https://bitbucket.org/acme/churn.git": f"https://bitbucket.org/acme/churn/src/{COMMIT}/src/train.py",
        "https://bitbucket.acme.example/scm/ml/churn.git": "https://bitbucket.acme.example/projects/ml/repos/churn/"
        f"browse/src/train.py?at={COMMIT}",
        "ssh://git@bitbucket.acme.example:7999/~ada/churn.git": "https://bitbucket.acme.example/users/ada/repos/churn/"
        f"browse/src/train.py?at={COMMIT}",
        "https://ada@dev.azure.com/acme/ml/_git/churn": "https://dev.azure.com/acme/ml/_git/churn"
        f"?path=/src/train.py&version=GC{COMMIT}",
        "git@ssh.dev.azure.com:v3/acme/my%20ml/churn": "https://dev.azure.com/acme/my%20ml/_git/churn"
        f"?path=/src/train.py&version=GC{COMMIT}",
        "https://acme.visualstudio.com/ml/_git/churn": "https://acme.visualstudio.com/ml/_git/churn"
        f"?path=/src/train.py&version=GC{COMMIT}",
        "https://codeberg.org/acme/churn.git": f"https://codeberg.org/acme/churn/src/commit/{COMMIT}/src/train.py",
        "https://git.acme.example/ml/churn.git": f"https://code.acme.example/?r=https://git.acme.example/ml/churn&c={COMMIT}"
        "&f=src/train.py",
    }.items(),
)
def test_the_file_is_shown_at_its_commit(remote: str, page: str) -> None:
    templates = {"Git.Acme.Example": "https://code.acme.example/?r={repository}&c={commit}&f={file}"}
    assert url(remote, COMMIT, templates, {**SCRIPT, "mlflow.source.name": "src/train.py"}) == page


@pytest.mark.parametrize(
    ("name", "path"),
    {
        "train.py": "blob/{}/train.py",
        "./train.py": "blob/{}/train.py",
        "notebooks/a+b.ipynb": "blob/{}/notebooks/a%2Bb.ipynb",
        "/home/ada/churn/train.py": "tree/{}",
        "../train.py": "tree/{}",
        "a/../../x.py": "tree/{}",
        "C:\\churn\\train.py": "tree/{}",
        "train.py?x=1": "tree/{}",
        "a.py\n": "tree/{}",
        "pytest": "tree/{}",
        "": "tree/{}",
        ".github/x.py": "blob/{}/.github/x.py",
        "..": "tree/{}",
        "a/" * 900: "tree/{}",
    }.items(),
    ids=lambda value: value[:30],
)
def test_only_what_is_in_the_repository_for_certain_is_a_file(name: str, path: str) -> None:
    assert url(GITHUB, COMMIT, None, {**SCRIPT, "mlflow.source.name": name}) == f"{GITHUB}/{path.format(COMMIT)}"


@pytest.mark.parametrize(
    ("name", "path"),
    {
        "https://github.com/acme/churn#projects/a b": "projects/a%20b",
        "https://github.com/acme/churn": "",
        "https://github.com/acme/churn#../../x": "",
        "/home/ada/churn#train.py": "train.py",
    }.items(),
)
def test_of_a_project_the_folder_is_shown(name: str, path: str) -> None:
    expected = f"{GITHUB}/tree/{COMMIT}/{path}".rstrip("/")
    assert url(GITHUB, COMMIT, None, {**PROJECT, "mlflow.source.name": name}) == expected


def test_databricks_says_it_in_its_own_words() -> None:
    tags = {
        "mlflow.databricks.gitRepoUrl": "https://github.com/acme/churn.git",
        "mlflow.databricks.gitRepoCommit": COMMIT,
        "mlflow.databricks.gitRepoRelativePath": "jobs/train",
        "mlflow.source.type": "JOB",
        "mlflow.source.name": "jobs/1/run/2",
    }
    assert source_code_url(tuple(tags.items()), {}) == f"{GITHUB}/blob/{COMMIT}/jobs/train"


@pytest.mark.parametrize("remote", ["https://bitbucket.acme.example/churn", "https://bitbucket.acme.example/a/b/c"])
def test_of_an_odd_address_the_repository_is_shown(remote: str) -> None:
    assert url(remote, COMMIT) == remote


@pytest.mark.parametrize(
    "remote",
    [
        "https://github.com/acme/churn&access_token=hunter2",
        "https://github.com/acme/churn.git;token=hunter2",
        "https://github.com/password=hunter2",
        "https://github.com/https://u:hunter2@github.com/acme",
        "https://github.com/acme/churn#token=hunter2",
    ],
)
def test_no_credential_behind_the_host_goes_out(remote: str) -> None:
    assert "hunter2" not in str(url(remote, COMMIT))
    assert "hunter2" not in str(url(remote))


@pytest.mark.parametrize("remote", ['https://github.com"><x/a', "https://git hub.com/a", "https://github.com\x00/a"])
def test_what_is_no_host_gives_no_address(remote: str) -> None:
    assert url(remote, COMMIT) is None


def test_tags_without_end_give_no_address() -> None:
    assert url(f"{GITHUB}/{'x' * 1_000_000}", COMMIT) is None
    assert url(GITHUB, COMMIT, None, {**SCRIPT, "mlflow.source.name": "x" * 1_000_000}) is None


@pytest.mark.parametrize(
    ("remote", "repository"),
    {
        "ssh://git@ssh.github.com:443/acme/churn.git": GITHUB,
        "acme@vs-ssh.visualstudio.com:v3/acme/ml/churn": "https://acme.visualstudio.com/ml/_git/churn",
        "https://[2001:db8::1]/acme/churn": "https://[2001:db8::1]/acme/churn",
    }.items(),
)
def test_hosts_for_ssh_alone_have_pages_elsewhere(remote: str, repository: str) -> None:
    assert url(remote) == repository


def test_a_template_is_for_its_host_alone() -> None:
    templates = {"acme.example": "{repository}/at/{commit}/{file}"}
    assert url("https://git.acme.example/churn", COMMIT, templates) == f"https://git.acme.example/churn/at/{COMMIT}"
    assert url("https://notacme.example/churn", COMMIT, templates) == "https://notacme.example/churn"


@pytest.mark.parametrize(
    ("host", "template", "said"),
    [
        ("git.acme.example", "{repository}/{branch}", "{branch}"),
        ("git.acme.example", "javascript:{file}", "must start"),
        ("https://git.acme.example", "{repository}", "no name of a host"),
        ("", "{repository}", "no name of a host"),
        ("*.acme", "{repository}", "no name of a host"),
        ("git.acme.example", "https://u:hunter2@code/{file}", "without a password"),
        ("git.acme.example", "https://", "must start"),
    ],
)
def test_a_template_that_leads_nowhere_is_refused(host: str, template: str, said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        MlflowSourceConfig.model_validate({"code_url_templates": {host: template}})
    assert said in str(refused.value)
