"""What `datahub recipe probe` makes of the recipe, without a server. With one: integration/test_recipe_commands.py"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import datahub.configuration.common
import pytest

from datahub_mlflow_source import config as config_module
from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.errors import PageError
from datahub_mlflow_source.records import Experiment, Unreadable
from docs.generate import page

pytest.importorskip("datahub.ingestion.agent.provider_helpers", reason="acryl-datahub older than 1.7.0.15")

from datahub.ingestion.agent.declarations import marker_problems
from datahub.ingestion.agent.filter_check import check_filters
from datahub.ingestion.agent.introspect import describe_source
from datahub.ingestion.agent.models import FieldKind
from datahub.ingestion.agent.probe_methods import list_probe_methods, run_probe_method, unknown_provider_attributes
from datahub.ingestion.agent.recipe import scaffold, validate_recipe
from datahub.ingestion.agent.verdicts import ProbeArgumentError, ProbeConnectionError

from datahub_mlflow_source.probe import MlflowProbe, _count, _quoted

TYPE = "datahub-mlflow-source"
SOMEWHERE: dict[str, Any] = {"tracking_uri": "http://127.0.0.1:1"}  # where nothing is


def judged(config: dict[str, Any], kind: str, name: str, *parents: str, **facts: str) -> tuple[str | None, list[str]]:
    """The key that leaves it out, and the warnings. `facts` are what a listing says beside the name."""
    found = check_filters(TYPE, SOMEWHERE | config, kind, parents, [name], attributes=[facts])
    return found.results[0].excluded_by, found.warnings


def excluded_by(config: dict[str, Any], kind: str, name: str, *parents: str, **facts: str) -> str | None:
    key, warnings = judged(config, kind, name, *parents, **facts)
    assert key or warnings == []
    return key


# What the config declares


def test_the_framework_finds_nothing_wrong_with_what_is_declared() -> None:
    assert marker_problems(MlflowSourceConfig) == []
    assert unknown_provider_attributes(MlflowProbe) == []


def test_describe_tells_secrets_and_what_a_pattern_filters() -> None:
    fields = {field.name: field for field in describe_source(TYPE).fields}
    assert {name for name, field in fields.items() if field.kind is FieldKind.SECRET} == {
        "backend_store_password",
        "password",
        "token",
    }
    assert {name: field.filters for name, field in fields.items() if field.filters} == {
        "experiment_pattern": "Experiment",
        "model_pattern": "Model",
        "run_name_pattern": "Run",
    }
    assert [name for name, field in fields.items() if field.required or not field.description] == []


def test_scaffold_takes_secrets_from_variables() -> None:
    assert scaffold(TYPE) == {
        "source": {
            "type": TYPE,
            "config": {
                "backend_store_password": "${BACKEND_STORE_PASSWORD}",
                "password": "${PASSWORD}",
                "token": "${TOKEN}",
            },
        },
    }


def test_validate_names_the_unknown_key_and_finds_secrets_in_clear() -> None:
    config = {"headers_secret": {"CF-Access-Client-Secret": "made-up-1"}, "token": "made-up-2", "tokn": 1}
    report = validate_recipe({"source": {"type": TYPE, "config": config}})
    assert not report["valid"]
    assert "unknown key `tokn`. Did you mean `token`?" in report["errors"][0]
    assert len(report["warnings"]) == 2
    assert "made-up" not in str(report)


def test_an_older_datahub_without_the_probe_can_load_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(datahub.configuration.common, "Filters")
    monkeypatch.setitem(sys.modules, "datahub.ingestion.agent", None)
    monkeypatch.setitem(sys.modules, "datahub.ingestion.agent.verdicts", None)
    spec = importlib.util.spec_from_file_location("config_without_probe", Path(config_module.__file__))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where pydantic looks for the names in annotations
    spec.loader.exec_module(module)
    loaded = module.MlflowSourceConfig.model_validate({"model_pattern": {"deny": ["tmp"]}})
    assert not loaded.model_pattern.allowed("tmp-1")


def test_every_command_is_on_the_page() -> None:
    assert set(re.findall(r"probe run (\w+)", page())) == {spec.command for spec in list_probe_methods(TYPE)}


# Verdicts


@pytest.mark.parametrize(
    ("kind", "pattern"), [("Experiment", "experiment_pattern"), ("Model", "model_pattern"), ("Run", "run_name_pattern")]
)
def test_a_name_is_judged_by_the_pattern_of_its_kind(kind: str, pattern: str) -> None:
    config = {pattern: {"allow": ["churn"], "deny": [".*-test$"]}}
    assert excluded_by(config, kind, "churn-eu") is None
    assert excluded_by(config, kind, "churn-test") == pattern
    assert excluded_by(config, kind, "fraud") == pattern


def test_the_other_spelling_of_the_experiment_pattern_is_judged_too() -> None:
    config = {"experiments": [{"name": "churn-*"}]}
    assert excluded_by(config, "Experiment", "churn-eu") is None
    assert excluded_by(config, "Experiment", "churn") == "experiment_pattern"


@pytest.mark.parametrize(("kind", "parent"), [("Run", "Experiment"), ("Dataset", "Experiment"), ("Version", "Model")])
def test_what_is_in_something_left_out_is_left_out(kind: str, parent: str) -> None:
    pattern = f"{parent.lower()}_pattern"
    config = {pattern: {"deny": ["^tmp$"]}}
    assert excluded_by(config, kind, "1", "tmp") == pattern
    assert excluded_by(config, kind, "1", "kept") is None


def test_what_was_deleted_in_mlflow_is_left_out_unless_asked_for() -> None:
    for kind in ("Experiment", "Run"):
        assert excluded_by({}, kind, "a", lifecycle_stage="deleted") == "include_deleted"
        assert excluded_by({"include_deleted": True}, kind, "a", lifecycle_stage="deleted") is None
        assert excluded_by({}, kind, "a", lifecycle_stage="active") is None


def test_switches_leave_out_whole_kinds() -> None:
    assert excluded_by({"include_runs": "none"}, "Run", "a") == "include_runs"
    assert excluded_by({"include_runs": "none"}, "Dataset", "a") == "include_runs"
    assert excluded_by({"include_datasets": False}, "Dataset", "a") == "include_datasets"
    assert excluded_by({"include_runs": "none", "include_datasets": False}, "Version", "1") is None


def test_the_user_of_a_run_is_judged_where_a_listing_tells_it() -> None:
    config = {"run_user_pattern": {"deny": ["ada"]}}
    assert excluded_by(config, "Run", "a", user="ada") == "run_user_pattern"
    assert excluded_by(config, "Run", "a", user="bob") is None


@pytest.mark.parametrize(
    ("config", "key", "told_by_a_listing"),
    [
        ({"run_user_pattern": {"deny": ["ada"]}}, "run_user_pattern", True),
        ({"run_filter": "metrics.auc > 0.8"}, "run_filter", True),
        ({"run_retention_days": 3}, "run_retention_days", True),
        ({"max_runs_per_experiment": 3}, "max_runs_per_experiment", False),
        ({"include_runs": "registered"}, "include_runs: registered", False),
    ],
)
def test_what_a_name_does_not_tell_is_said(config: dict[str, Any], key: str, told_by_a_listing: bool) -> None:
    (warning,) = judged(config, "Run", "a")[1]
    assert f"`{key}`" in warning
    assert "--from-run" in warning
    warnings = judged(config, "Run", "a", user="bob")[1]
    assert any(f"`{key}`" in warning for warning in warnings) is not told_by_a_listing


# What is asked of MLflow


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 8, 9, 5000])
def test_rows_are_counted_with_few_requests(rows: int) -> None:
    asked: list[int] = []

    def rows_at(place: int) -> list[int]:
        asked.append(place)
        return [1] if place < rows else []

    assert _count(rows_at) == rows
    assert len(asked) <= 2 * rows.bit_length() + 2


def test_a_row_that_mlflow_fails_on_counts_as_a_row() -> None:
    def rows_at(place: int) -> list[int]:
        if place == 4:
            raise PageError("start_time cannot be None")
        return [1] if place < 4 else []

    assert _count(rows_at) == 5


@pytest.mark.parametrize(("name", "literal"), [("fraud", "'fraud'"), ("it's", '"it\'s"'), ('a "b"', "'a \"b\"'")])
def test_a_name_is_quoted_as_mlflow_reads_it(name: str, literal: str) -> None:
    assert _quoted(name) == literal


def test_a_name_with_both_quotes_is_refused_as_mlflow_has_no_escaping() -> None:
    with pytest.raises(ProbeArgumentError, match="holds both"):
        _quoted('it\'s "b"')


def test_what_could_not_be_read_is_told_beside_the_rest() -> None:
    good = Experiment("1", "churn", "", "active", None, None, ())
    probe = MlflowProbe.for_config(MlflowSourceConfig.model_validate(SOMEWHERE))
    bad_row = Unreadable("experiment", "the one at place 0", "a NULL")
    broke_off = Unreadable("experiment", "the listing", "no answer", listing_broke_off=True)
    assert list(probe._readable([bad_row, good, broke_off])) == [good]
    assert probe.warnings == ["experiment the one at place 0: a NULL"]
    assert probe.failures == ["experiment the listing: no answer"]
    probe.__exit__()


def test_an_absent_server_is_told_in_our_words() -> None:
    with pytest.raises(ProbeConnectionError, match=r"No answer from MLflow at 127\.0\.0\.1:1: .* Check `tracking_uri`"):
        run_probe_method(TYPE, SOMEWHERE, "experiments", {})


def test_a_recipe_without_a_server_is_told_in_our_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ProbeArgumentError, match="`tracking_uri` is not set, and neither is MLFLOW_TRACKING_URI"):
        run_probe_method(TYPE, {}, "experiments", {})
