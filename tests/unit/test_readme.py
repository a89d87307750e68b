"""What the README and the pages beside it show works: recipes, commands, links, the list of dependencies."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from datahub.configuration.config_loader import EnvResolver, resolve_env_variables

from datahub_mlflow_source import __version__
from datahub_mlflow_source.config import MlflowSourceConfig
from docs.generate import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def configs() -> Iterator[dict[str, Any]]:
    """Of all YAML that the README shows: whole recipes, and what stands below `source.config`."""
    for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL):
        for shown in yaml.safe_load_all(block):
            yield shown["source"]["config"] if "source" in shown else shown


@pytest.mark.parametrize("config", list(configs()), ids=lambda config: str(list(config)))
def test_a_recipe_it_shows_is_accepted(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in EnvResolver.list_referenced_variables(config):
        monkeypatch.setenv(name, "made-up")
    MlflowSourceConfig.model_validate(resolve_env_variables(config, environ=dict(os.environ)))


def test_it_shows_recipes() -> None:
    assert len(list(configs())) >= 5


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        named = set(
            re.findall(r"(?:`|^)make ([a-z][a-z0-9-]*)(?=`|  | #| *$)", page.read_text(encoding="utf-8"), re.MULTILINE)
        )
        assert named - targets == set(), page.name


def test_every_link_leads_somewhere() -> None:
    broken = [
        f"{page.name}: {link}"
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if not link.startswith("https://") and not is_there(page, link)
    ]
    assert broken == []


def is_there(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    if not target.exists():
        return False
    return not anchor or anchor in anchors(target)


def anchors(page: Path) -> set[str]:
    """Of its headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_its_dependencies_are_those_of_the_package() -> None:
    needed = [line for line in requires("datahub-mlflow-source") or [] if "extra ==" not in line]
    required = {re.split(r"[><=\[]", line)[0] for line in needed}
    section = README.partition("## Dependencies")[2]
    assert set(re.findall(r"^\| ([a-z-]+) \|", section, re.MULTILINE)) - {"package"} == required


def test_the_wheel_it_installs_is_of_this_version() -> None:
    assert set(re.findall(r"datahub_mlflow_source-([\d.]+)-py3", README)) == {__version__}
