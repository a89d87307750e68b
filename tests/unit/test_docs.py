"""Documentation is tested like code: what is generated is in sync, and what is shown works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from datahub.configuration.common import AllowDenyPattern, redact_raw_config
from datahub.configuration.config_loader import EnvResolver, load_config_file
from datahub.ingestion.sink.datahub_rest import DatahubRestSinkConfig
from jsonschema import Draft7Validator  # type: ignore[import-untyped]
from pydantic import BaseModel, SecretStr, ValidationError

import docs.generate
from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.config_blocks import (
    ArtifactStoreConfig,
    DatabaseConfig,
    DeploymentsConfig,
    DeploymentTagsConfig,
    LimitsConfig,
    LoggedModelsConfig,
    ModelServerConfig,
    RemovalConfig,
    ShardConfig,
    TlsConfig,
)
from datahub_mlflow_source.config_lineage import DatasetPlatformConfig, DatasetRuleConfig, OrchestratorConfig
from datahub_mlflow_source.config_meaning import OwnerConfig
from datahub_mlflow_source.connection import connections, workspaces_of
from docs.generate import GROUPS, PAGE, ROOT, SCHEMA, Group, page, recipe_schema, rows, schema_text

RECIPES = sorted((ROOT / "recipes").glob("*.yml"))
BLOCKS: dict[str, type[BaseModel]] = {
    "logged_models": LoggedModelsConfig,
    "tls": TlsConfig,
    "artifact_store": ArtifactStoreConfig,
    "database": DatabaseConfig,
    "limits": LimitsConfig,
    "shard": ShardConfig,
    "dataset_platform_map": DatasetPlatformConfig,
    "dataset_rules": DatasetRuleConfig,
    "orchestrators": OrchestratorConfig,
    "owners": OwnerConfig,
    "deployments": DeploymentsConfig,
    "deployments.servers": ModelServerConfig,
    "deployments.tags": DeploymentTagsConfig,
    "stateful_ingestion": RemovalConfig,
}


_WITHIN = {
    **dict.fromkeys(("servers", "dataset_rules", "owners"), "[]"),
    **dict.fromkeys(("dataset_platform_map", "orchestrators"), ".<name>"),
}


def is_accepted(config: dict[str, Any], source_type: str = "datahub-mlflow-source") -> bool:
    """Whether an editor shows such a recipe as right."""
    recipe = {"source": {"type": source_type, "config": config}, "sink": {"type": "console"}}
    valid: bool = Draft7Validator(recipe_schema()).is_valid(recipe)
    return valid


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name in model.model_fields:
        yield f"{prefix}{name}"
        if block := BLOCKS.get(f"{prefix}{name}"):
            within = _WITHIN.get(name, "")
            yield from keys(block, f"{prefix}{name}{within}.")


# What is generated


def test_the_page_is_what_the_config_says_of_itself() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_the_schema_is_what_the_config_says_of_itself() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), "run `make docs`"


def test_every_key_is_on_the_page_and_described() -> None:
    documented = {row.key: row.description for row in rows()}
    assert set(documented) == set(keys(MlflowSourceConfig))
    assert [key for key, description in documented.items() if len(description) < 20] == []
    assert [key for key in documented if f"| `{key}` |" not in page()] == []


def test_the_keys_of_a_pattern_are_on_the_page() -> None:
    assert [key for key in AllowDenyPattern.model_fields if f"| `<pattern>.{key}` |" not in page()] == []


def test_the_example_of_deployments_works() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "mapping.md").read_text(encoding="utf-8"), re.DOTALL)
    assert MlflowSourceConfig.model_validate(yaml.safe_load(example)).deployments.tags


def test_a_key_that_is_in_no_section_stops_the_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    without_limits = [Group(group.title, group.about, group.keys.replace("limits", "")) for group in GROUPS]
    monkeypatch.setattr(docs.generate, "GROUPS", without_limits)
    with pytest.raises(ValueError, match=r"differ in limits$"):
        page()


def test_the_variables_that_are_read_are_on_the_page() -> None:
    asked: set[str] = set()

    class Environment(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            asked.add(name)
            return super().get(name, default)

    connections(MlflowSourceConfig(), Environment(MLFLOW_TRACKING_URI="https://mlflow.example.com"))
    workspaces_of(MlflowSourceConfig(), Environment())
    read = {name for name in asked if name.startswith("MLFLOW_")}
    assert read == set(re.findall(r"^\| `(MLFLOW_\w+)` \|", page(), re.MULTILINE))


# What editors make of a recipe


def test_the_schema_is_one() -> None:
    Draft7Validator.check_schema(recipe_schema())


ACCEPTED: list[dict[str, Any]] = [
    {},
    {"experiments": [{"name": "churn-*"}, "fraud"]},
    {"include_run_details": False},
    {"include_artifacts": False},
    {"include_artifacts": True},
    {"include_artifacts": "current", "artifact_store": {"endpoint_url": "http://minio:9000"}},
    {"include_runs": "registered", "env": "dev", "max_retries": 0, "timeout_seconds": 0.5},
    {"backend_store_uri": "sqlite:////data/mlflow.db", "database": {"statement_timeout_seconds": 5, "pool_size": 1}},
    {"headers_secret": {"CF-Access-Client-Id": "made-up"}, "tls": {"verify": False}},
    {"experiment_pattern": {"deny": ["tmp"], "ignoreCase": False}, "run_retention_days": None},
    {"stateful_ingestion": {"enabled": True, "ignore_old_state": True, "max_checkpoint_state_size": 1}},
    {"stateful_ingestion": {"state_provider": {"type": "file", "config": {"filename": "state.json"}}}},
]
REFUSED: list[dict[str, Any]] = [
    {"experimant_pattern": {"deny": ["tmp"]}},
    {"tls": {"ca_file": "ca.pem"}},
    {"stateful_ingestion": {"enable": True}},
    {"experiment_pattern": {"denied": ["tmp"]}},
    {"experiment_pattern": "churn.*"},
    {"include_runs": "some"},
    {"include_artifacts": "every"},
    {"page_size": 0},
    {"max_retries": 11},
    {"timeout_seconds": 0},
    {"include_deleted": "perhaps"},
    {"experiments": []},
    {"experiments": [{"name": "churn-*", "nam": "x"}]},
    {"timeout_seconds": 86_401},
    {"database": {"pool": 2}},
]


@pytest.mark.parametrize("config", ACCEPTED, ids=str)
def test_an_editor_accepts_what_the_source_accepts(config: dict[str, Any]) -> None:
    MlflowSourceConfig.model_validate(config)
    assert is_accepted(config)


@pytest.mark.parametrize("config", REFUSED, ids=str)
def test_an_editor_refuses_what_the_source_refuses(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MlflowSourceConfig.model_validate(config)
    assert not is_accepted(config)


@pytest.mark.parametrize("reference", ["${RUNS}", "$RUNS", "${RUNS:-all}"])
def test_an_editor_accepts_a_variable_for_any_value(reference: str) -> None:
    assert is_accepted({"include_runs": reference, "page_size": reference, "include_deleted": reference})


def test_an_editor_knows_both_names_of_the_source() -> None:
    assert is_accepted({}, "datahub_mlflow_source.MlflowSource")
    assert not is_accepted({}, "mlflow")


# What is shown


def load(path: Path) -> dict[str, Any]:
    """As `datahub ingest` does, with the variables of this process."""
    return load_config_file(path)


def set_all_variables(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EnvResolver.list_referenced_variables(recipe):
        monkeypatch.setenv(name, "https://example.com" if name.endswith(("_URI", "_URL")) else "dev")


def texts_under_secret_keys(node: Any, key: str = "") -> Iterator[str]:
    """Under keys that DataHub takes for a secret's."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from texts_under_secret_keys(value, key if is_masked(key) else name)
    elif isinstance(node, str) and is_masked(key):
        yield node


def is_masked(key: str) -> bool:
    return bool(redact_raw_config({key: "text"}) != {key: "text"})


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_accepted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert list(Draft7Validator(recipe_schema()).iter_errors(recipe)) == []
    set_all_variables(recipe, monkeypatch)
    MlflowSourceConfig.model_validate(load(path)["source"]["config"])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_takes_secrets_from_variables(path: Path) -> None:
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert [text for text in texts_under_secret_keys(recipe) if not text.startswith("$")] == []


def test_datahub_masks_every_secret_of_the_config() -> None:
    secrets = [name for name, field in MlflowSourceConfig.model_fields.items() if SecretStr.__name__ in str(field)]
    assert {"password", "token", "headers_secret", "backend_store_password"} <= set(secrets)
    assert [name for name in secrets if not is_masked(name)] == []


def test_the_main_recipe_needs_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "recipes" / "mlflow.yml"
    for name in EnvResolver.list_referenced_variables(yaml.safe_load(path.read_text(encoding="utf-8"))):
        monkeypatch.delenv(name, raising=False)
    recipe = load(path)
    config = MlflowSourceConfig.model_validate(recipe["source"]["config"])
    assert (config.tracking_uri, config.env) == ("http://localhost:5000", "PROD")
    sink = DatahubRestSinkConfig.model_validate(recipe["sink"]["config"])
    assert (sink.server, sink.token or None) == ("http://localhost:8080", None)


def test_the_main_recipe_takes_all_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.com/team")
    monkeypatch.setenv("DATAHUB_ENV", "DEV")
    monkeypatch.setenv("DATAHUB_GMS_URL", "https://datahub.example.com/gms")
    monkeypatch.setenv("DATAHUB_GMS_TOKEN", "made-up")
    recipe = load(ROOT / "recipes" / "mlflow.yml")
    config = MlflowSourceConfig.model_validate(recipe["source"]["config"])
    assert (config.tracking_uri, config.env) == ("https://mlflow.example.com/team", "DEV")
    sink = DatahubRestSinkConfig.model_validate(recipe["sink"]["config"])
    assert (sink.server, sink.token) == ("https://datahub.example.com/gms", "made-up")


def test_the_example_of_the_page_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", page(), re.DOTALL)
    path = tmp_path / "recipe.yml"
    path.write_text(example, encoding="utf-8")
    recipe = yaml.safe_load(example)
    assert list(Draft7Validator(recipe_schema()).iter_errors(recipe)) == []
    set_all_variables(recipe, monkeypatch)
    MlflowSourceConfig.model_validate(load(path)["source"]["config"])
