"""What all of mapping shares: limits and what they cut, custom properties, links; and that mapping is pure."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest
from datahub.metadata.schema_classes import MLHyperParamClass, MLMetricClass

import datahub_mlflow_source.mapping
from datahub_mlflow_source.mapping.rules import Limits, Trim, Web, plain, platform_aspects, tag_value, without
from datahub_mlflow_source.mapping.urns import Naming

MODULES = sorted(Path(datahub_mlflow_source.mapping.__path__[0]).glob("*.py"))


# Custom properties


def properties(tags: dict[str, str], ours: dict[str, str | None] | None = None) -> dict[str, str]:
    return Trim(Limits()).properties(tuple(sorted(tags.items())), (ours or {}).items())


def test_a_tag_keeps_its_key_and_what_is_ours_has_a_prefix() -> None:
    assert properties({"team": "risk", "mlflow.user": "ada"}, {"run_id": "r1"}) == {
        "team": "risk",
        "mlflow.user": "ada",
        "mlflow_source.run_id": "r1",
    }


def test_what_is_ours_and_empty_is_left_out_and_an_empty_tag_is_not() -> None:
    assert properties({"checked": ""}, {"run_link": "", "experiment": None}) == {"checked": ""}


def test_a_tag_that_looks_like_one_of_ours_is_set_apart() -> None:
    tags = {
        "mlflow_source.run_id": "theirs",
        "signature.inputs": "a",
        "tag.signature.inputs": "b",
        "tag.tag.signature.inputs": "c",
        "tag.mlflow_source.x": "d",
        "tag.other": "e",
        "mlflow_sourcery": "f",
        "signatures": "g",
    }
    assert properties(tags, {"run_id": "ours"}) == {
        "mlflow_source.run_id": "ours",
        "tag.mlflow_source.run_id": "theirs",
        "tag.signature.inputs": "a",
        "tag.tag.signature.inputs": "b",
        "tag.tag.tag.signature.inputs": "c",
        "tag.tag.mlflow_source.x": "d",
        "tag.other": "e",
        "mlflow_sourcery": "f",
        "signatures": "g",
    }


def test_one_that_looks_so_many_times_over_is_known_at_once() -> None:
    key = "tag." * 500_000 + "signature.inputs"
    began = time.perf_counter()
    assert properties({key: "a"}) == {f"tag.{key}": "a"}
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("key", ["GITHUB_TOKEN", "hf_token", "PGPASSWORD", "MYSQL_PWD", "passwords", "credentials"])
def test_what_is_called_like_a_credential_is_never_sent(key: str) -> None:
    assert properties({key: "made-up", "pad_token": "<pad>"}) == {key: "***", "pad_token": "<pad>"}


def test_uncommitted_code_and_the_history_of_model_files_are_never_sent() -> None:
    tags = {
        "mlflow.source.git.diff": "diff --git",
        "mlflow.log-model.history": "[]",
        "mlflow.source.git.commit": "4f1a6a2",
    }
    assert properties(tags) == {"mlflow.source.git.commit": "4f1a6a2"}


def test_what_is_left_out_takes_no_room_from_other_tags() -> None:
    trim = Trim(Limits(max_tags=1))
    tags = (("mlflow.log-model.history", "[]"), ("mlflow.source.git.diff", "x"), ("team", "risk"))
    assert trim.properties(tags, []) == {"team": "risk"}
    assert trim.cut == []


@pytest.mark.parametrize(
    ("value", "sent"),
    {
        "https://ada:hunter2@github.com/acme/churn.git": "https://github.com/acme/churn.git",
        "see https://h/x?token=hunter2": "see https://h/x?token=***",
        "Server=h;Password=hunter2": "Server=h;Password=***",
    }.items(),
)
def test_credentials_in_a_tag_or_property_are_taken_out(value: str, sent: str) -> None:
    assert properties({"where": value}, {"artifact_uri": value}) == {
        "where": sent,
        "mlflow_source.artifact_uri": sent,
    }


# Limits


def test_a_value_at_the_limit_stays_whole_and_one_over_it_is_cut_and_noted() -> None:
    trim = Trim(Limits(max_value_chars=10))
    assert trim.value("a", "0123456789") == "0123456789"
    assert trim.cut == []
    assert trim.value("b", "0123456789x") == "012345678…"
    assert trim.cut == ["b: 11 characters, 10 sent"]


def test_a_long_tag_is_cut_and_noted_by_its_key() -> None:
    trim = Trim(Limits(max_value_chars=10))
    assert trim.properties((("long", "x" * 11), ("short", "y")), [("source", "z" * 12)]) == {
        "long": "xxxxxxxxx…",
        "short": "y",
        "mlflow_source.source": "zzzzzzzzz…",
    }
    assert trim.cut == ["long: 11 characters, 10 sent", "source: 12 characters, 10 sent"]


def test_the_note_about_a_cut_is_short_itself() -> None:
    trim = Trim(Limits(max_value_chars=10))
    trim.value("k" * 250, "x" * 11)
    assert trim.cut == ["k" * 100 + ": 11 characters, 10 sent"]


def test_a_cut_leaves_no_half_of_a_credential() -> None:
    trim = Trim(Limits(max_value_chars=24))
    assert trim.value("url", "https://host/x?token=hunter2hunter2hunter2") == "https://host/x?token=***"
    assert trim.cut == []


def test_only_the_first_tags_are_sent_and_ours_always() -> None:
    trim = Trim(Limits(max_tags=2))
    assert trim.properties((("a", "1"), ("b", "2"), ("c", "3")), [("run_id", "r")]) == {
        "a": "1",
        "b": "2",
        "mlflow_source.run_id": "r",
    }
    assert trim.cut == ["tags: 3, 2 sent"]


def test_as_many_as_the_limit_are_all_sent() -> None:
    trim = Trim(Limits())
    assert trim.first("params", ["a", "b"], 2) == ["a", "b"]
    assert trim.cut == []


def test_a_description_has_its_own_limit_and_loses_its_credentials() -> None:
    trim = Trim(Limits(max_value_chars=10, max_description_chars=20))
    assert trim.description("") is None
    assert trim.description("twenty characters 20") == "twenty characters 20"
    assert trim.cut == []
    assert trim.description("https://ada:hunter2@h/x is") == "https://h/x is"
    assert trim.description("more than twenty characters") == "more than twenty ch…"
    assert trim.cut == ["description: 27 characters, 20 sent"]


def test_the_limits_are_the_documented_ones() -> None:
    assert Limits() == Limits(
        max_params=2000, max_metrics=2000, max_tags=1000, max_value_chars=10_000, max_description_chars=65_000
    )


# Links


def test_links_lead_into_mlflows_ui() -> None:
    web = Web("https://mlflow.example.com/team")
    assert web.experiment("1") == "https://mlflow.example.com/team/#/experiments/1"
    assert web.run("1", "r") == "https://mlflow.example.com/team/#/experiments/1/runs/r"
    assert web.models() == "https://mlflow.example.com/team/#/models"
    assert web.model("churn") == "https://mlflow.example.com/team/#/models/churn"
    assert web.version("churn", "3") == "https://mlflow.example.com/team/#/models/churn/versions/3"


@pytest.mark.parametrize(
    ("name", "quoted"),
    {
        "fraud, v2 (EU)": "fraud%2C%20v2%20%28EU%29",
        "模型/卡": "%E6%A8%A1%E5%9E%8B%2F%E5%8D%A1",
        "a#b?c%d": "a%23b%3Fc%25d",
        "it's": "it%27s",
    }.items(),
)
def test_the_name_of_a_model_is_quoted_in_links(name: str, quoted: str) -> None:
    web = Web("https://h")
    assert web.model(name) == f"https://h/#/models/{quoted}"
    assert web.version(name, "1") == f"https://h/#/models/{quoted}/versions/1"


@pytest.mark.parametrize(
    "base",
    [
        "https://acme.cloud.databricks.com",
        "https://adb-1234567890.12.azuredatabricks.net",
        "https://1234.5.gcp.databricks.com",
    ],
)
def test_links_lead_into_a_databricks_workspace(base: str) -> None:
    """Where MLflow's own client leads (`_construct_databricks_run_url` in `mlflow/utils/databricks_utils.py`)."""
    web = Web(base)
    assert web.run("1", "r") == f"{base}/#mlflow/experiments/1/runs/r"
    assert web.version("churn", "3") == f"{base}/#mlflow/models/churn/versions/3"


def test_a_host_that_only_sounds_like_databricks_is_any_mlflow() -> None:
    assert Web("https://databricks.com.example.org").models() == "https://databricks.com.example.org/#/models"


def test_without_an_address_there_are_no_links() -> None:
    web = Web()
    assert [web.experiment("1"), web.run("1", "r"), web.models(), web.model("m"), web.version("m", "1")] == [None] * 5


# The rest


def test_every_entity_says_its_subtype_and_platform() -> None:
    subtypes, platform = platform_aspects("ML Model", Naming())
    assert subtypes.to_obj() == {"typeNames": ["ML Model"]}
    assert platform.to_obj() == {"platform": "urn:li:dataPlatform:mlflow"}


def test_every_entity_says_its_instance() -> None:
    _, platform = platform_aspects("ML Model", Naming(platform_instance="eu"))
    assert platform.to_obj() == {
        "platform": "urn:li:dataPlatform:mlflow",
        "instance": "urn:li:dataPlatformInstance:(urn:li:dataPlatform:mlflow,eu)",
    }


def test_tags_are_found_by_key() -> None:
    tags = (("a", "1"), ("b", "2"), ("c", "3"))
    assert tag_value(tags, "b") == "2"
    assert tag_value(tags, "d") == ""
    assert without(tags, "a", "c", "d") == (("b", "2"),)


# Purity

IMPURE = {
    *("os", "time", "datetime", "random", "secrets", "uuid"),  # what answers differently each time
    *("requests", "urllib3", "http", "socket", "ssl", "subprocess", "sqlalchemy", "mlflow", "logging", "pathlib"),
}
NOT_FOR_MAPPING = ("config", "connection", "ingestion", "readers", "removal", "report", "source")


def imported(module: Path) -> set[str]:
    """Every name that a module imports, at its top or anywhere in it, with all its prefixes."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {".".join(name.split(".")[:length]) for name in names for length in range(1, name.count(".") + 2)}


def test_all_of_mapping_is_looked_at() -> None:
    assert {"urns", "rules", "experiments", "runs", "models", "datasets", "stages", "code"} <= {m.stem for m in MODULES}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_mapping_does_no_input_or_output_and_knows_no_clock(module: Path) -> None:
    found = imported(module)
    assert found & IMPURE == set()
    assert found & {f"datahub_mlflow_source.{name}" for name in NOT_FOR_MAPPING} == set()


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_mapping_opens_no_file_and_prints_nothing(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert called & {"open", "print", "input", "exec", "eval", "compile", "__import__"} == set()


def test_the_value_of_a_param_called_password_is_hidden() -> None:
    trim = Trim(Limits())
    assert trim.value("db_password", "hunter2") == "***"
    assert trim.value("pad_token", "<pad>") == "<pad>"


@pytest.mark.parametrize("kind", [MLHyperParamClass, MLMetricClass])
def test_plain_gives_what_the_constructor_gives(kind: type[MLHyperParamClass] | type[MLMetricClass]) -> None:
    fields: dict[str, str | int | None] = {"name": "n", "description": "d", "value": "v", "createdAt": 7}

    made = plain(kind, **fields)

    assert set(fields) == set(kind.RECORD_SCHEMA.fields_dict)
    assert made == kind(**fields)  # type: ignore[arg-type]
    assert made.to_obj() == kind(**fields).to_obj()  # type: ignore[arg-type]
    assert made.validate()
