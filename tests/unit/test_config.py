"""A recipe that asks for something else than it says is refused, in one message that names the key."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from datahub_mlflow_source.config import MlflowSourceConfig

SECRET = "hunter2"


def accepted(**config: Any) -> MlflowSourceConfig:
    return MlflowSourceConfig.model_validate(config)


def refusal(**config: Any) -> tuple[str, str]:
    """Key and message of the one thing that is wrong."""
    with pytest.raises(ValidationError) as raised:
        accepted(**config)
    assert SECRET not in f"{raised.value} {raised.value!r}"
    (error,) = raised.value.errors()
    return ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")


def message(**config: Any) -> str:
    return refusal(**config)[1]


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("config", "place", "expected"),
        [
            ({"trackng_uri": "x"}, "", "unknown key `trackng_uri`. Did you mean `tracking_uri`?"),
            ({"experiment_patern": {}}, "", "unknown key `experiment_patern`. Did you mean `experiment_pattern`?"),
            ({"experiment": []}, "", "unknown key `experiment`. Did you mean `experiments`?"),
            ({"tls": {"ca_bundel": "x"}}, "tls", "unknown key `ca_bundel`. Did you mean `ca_bundle`?"),
            ({"limits": {"max_param": 3}}, "limits", "unknown key `max_param`. Did you mean `max_params`?"),
            (
                {"stateful_ingestion": {"enabeld": True}},
                "stateful_ingestion",
                "unknown key `enabeld`. Did you mean `enabled`?",
            ),
        ],
    )
    def test_one_is_refused_with_the_nearest_known_one(self, config: dict[str, Any], place: str, expected: str) -> None:
        assert refusal(**config) == (place, expected)

    def test_one_like_no_other_is_refused_with_all_known_ones(self) -> None:
        assert message(tls={"zzz": 1}) == (
            "unknown key `zzz`. Known keys: ca_bundle, client_cert, client_key_path, verify."
        )

    def test_its_value_is_not_shown(self) -> None:
        refusal(pasword=SECRET)
        refusal(tokens={"a": SECRET})
        refusal(tls={"key": SECRET})


class TestPatterns:
    @pytest.mark.parametrize("key", ["experiment_pattern", "model_pattern", "run_name_pattern", "run_user_pattern"])
    @pytest.mark.parametrize("side", ["allow", "deny"])
    def test_what_is_no_regular_expression_is_refused(self, key: str, side: str) -> None:
        place, text = refusal(**{key: {side: ["fine", "*-eu"]}})
        assert place == key
        assert text == (
            "'*-eu' is no regular expression: nothing to repeat at position 0. "
            "(These are not globs: `.*` matches anything.)"
        )

    def test_they_match_from_the_start_of_the_name(self) -> None:
        pattern = accepted(experiment_pattern={"allow": ["churn"], "deny": [".*-test$"]}).experiment_pattern
        assert [name for name in ("churn", "churn-eu", "my-churn", "churn-test") if pattern.allowed(name)] == [
            "churn",
            "churn-eu",
        ]


class TestOtherSpellings:
    @pytest.mark.parametrize("experiments", [[{"name": "churn-*"}, {"name": "fraud (EU)"}], ["churn-*", "fraud (EU)"]])
    def test_globs_for_experiments_become_patterns(self, experiments: list[Any]) -> None:
        pattern = accepted(experiments=experiments).experiment_pattern
        names = ("churn-eu", "churn-", "fraud (EU)", "churn", "my-churn-eu", "fraud (EU) 2", "fraud EU")
        assert [name for name in names if pattern.allowed(name)] == ["churn-eu", "churn-", "fraud (EU)"]

    @pytest.mark.parametrize(
        "experiments", ["churn-*", [], [{}], [{"name": 1}], ["churn-*", 5], {"name": "churn-*"}, None]
    )
    def test_anything_else_there_is_refused(self, experiments: Any) -> None:
        assert message(experiments=experiments).startswith("`experiments` must be a list like [{name: ")

    @pytest.mark.parametrize(
        ("entry", "hint"), [({"name": "a", "nam": "b"}, "Did you mean `name`?"), ({"nam": "b"}, "Did you mean `name`?")]
    )
    def test_an_unknown_key_there_is_refused(self, entry: dict[str, str], hint: str) -> None:
        assert message(experiments=["a", entry]) == f"unknown key `nam` in `experiments`. {hint}"

    def test_both_spellings_at_once_are_refused(self) -> None:
        assert message(experiments=["a"], experiment_pattern={"allow": ["a"]}) == (
            "`experiments` and `experiment_pattern` say the same: keep `experiment_pattern`"
        )

    @pytest.mark.parametrize(("details", "runs"), [(True, "all"), (False, "none")])
    def test_run_details_are_runs(self, details: bool, runs: str) -> None:
        assert accepted(include_run_details=details).include_runs == runs

    def test_both_at_once_are_refused(self) -> None:
        assert message(include_run_details=True, include_runs="all") == (
            "`include_run_details` and `include_runs` say the same: keep `include_runs`"
        )

    @pytest.mark.parametrize(
        ("given", "meant"), [(False, "none"), (True, "all"), ("none", "none"), ("current", "current")]
    )
    def test_artifacts_may_be_a_switch(self, given: object, meant: str) -> None:
        assert accepted(include_artifacts=given).include_artifacts == meant

    def test_artifacts_are_those_in_use_unless_told_otherwise(self) -> None:
        assert accepted().include_artifacts == "current"
        assert refusal(include_artifacts="newest")[0] == "include_artifacts"

    def test_the_keys_of_an_artifact_store_need_each_other(self) -> None:
        assert "need each other" in message(artifact_store={"access_key_id": "a"})
        assert "need each other" in message(artifact_store={"secret_access_key": "made-up"})
        assert "http://" in message(artifact_store={"endpoint_url": "minio:9000"})

    def test_what_was_given_is_left_as_it_was(self) -> None:
        config = {"experiments": ["a"], "include_run_details": True, "include_artifacts": False}
        accepted(**config)
        assert config == {"experiments": ["a"], "include_run_details": True, "include_artifacts": False}

    def test_every_key_of_the_built_in_source_is_accepted(self) -> None:
        config = accepted(
            tracking_uri="http://mlflow.test",
            registry_uri="http://registry.test",
            model_name_separator="-",
            base_external_url="https://mlflow.test/",
            materialize_dataset_inputs=True,
            source_mapping_to_platform={"local": "file"},
            username="ada",
            password=SECRET,
            env="DEV",
            stateful_ingestion={"enabled": False},
        )
        assert config.base_external_url == "https://mlflow.test"
        assert config.source_mapping_to_platform == {"local": "file"}


class TestCredentials:
    def test_a_token_and_a_name_are_two_ways(self) -> None:
        assert message(username="ada", password=SECRET, token=SECRET) == (
            "`token` and `username` are two ways to log in: choose one"
        )
        assert message(password=SECRET, token=SECRET) == "`token` and `password` are two ways to log in: choose one"

    def test_a_variable_that_is_empty_is_as_if_it_were_not_there(self) -> None:
        config = accepted(tracking_uri="", username="", password="", token="")
        assert not any((config.tracking_uri, config.username, config.password, config.token))

    def test_a_header_is_secret_or_it_is_not(self) -> None:
        assert message(headers={"X-Key": "1"}, headers_secret={"x-key": SECRET}) == (
            "in both `headers` and `headers_secret`: x-key"
        )

    @pytest.mark.parametrize(
        "name", ["X-Tenant:", "X Tenant", "", "X-Ténant", "X\n", f"Authorization: Bearer {SECRET}"]
    )
    @pytest.mark.parametrize("value", [SECRET, None])
    def test_a_name_of_a_header_that_is_none_is_refused_and_shown_only_where_it_is_no_secret(
        self, name: str, value: str | None
    ) -> None:
        assert refusal(headers_secret={name: value}) == (
            "headers_secret",
            "`headers_secret`: one of the names is no name of an HTTP header",
        )
        if SECRET not in name:
            assert message(headers={name: value}) == f"`headers`: {name!r} is no name of an HTTP header"

    @pytest.mark.parametrize("name", ["Content-Length", "content-length", "Transfer-Encoding", "CONNECTION"])
    @pytest.mark.parametrize("key", ["headers", "headers_secret"])
    def test_a_header_that_requests_set_themselves_is_refused(self, key: str, name: str) -> None:
        assert refusal(**{key: {name: SECRET}}) == (
            key,
            f"`{key}`: {name} is set by each request itself, leave it out",
        )

    def test_none_is_in_what_a_config_shows_of_itself(self) -> None:
        config = accepted(
            password=SECRET, username="ada", headers_secret={"X-Key": SECRET}, backend_store_password=SECRET
        )
        token = accepted(token=SECRET)
        assert SECRET not in f"{config!r} {config} {config.headers_secret} {token!r} {token}"

    def test_an_error_shows_none_in_datahubs_debug_mode_either(self) -> None:
        """It is chosen when DataHub is imported, and makes pydantic show what was given."""
        code = (
            "from datahub_mlflow_source.config import MlflowSourceConfig\n"
            "try: MlflowSourceConfig(username='ada', password='hunter2', token='hunter2')\n"
            "except ValueError as error: print(error)"
        )
        environment = os.environ | {"DATAHUB_DEBUG": "true"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert "`token` and `username` are two ways" in done.stdout
        assert SECRET not in done.stdout + done.stderr

    @pytest.mark.parametrize(
        "config",
        [
            {"password": {"a": SECRET}},
            {"password": [SECRET]},
            {"token": [SECRET]},
            {"headers_secret": SECRET},
            {"headers_secret": [SECRET]},
            {"headers_secret": {"X-Key": [SECRET]}},
        ],
        ids=str,
    )
    def test_one_of_a_wrong_type_is_refused_without_showing_it(self, config: dict[str, Any]) -> None:
        place, _ = refusal(**config)
        assert place.startswith(next(iter(config)))


class TestAddresses:
    @pytest.mark.parametrize("key", ["tracking_uri", "registry_uri"])
    @pytest.mark.parametrize(
        ("uri", "part"),
        [
            ("./mlruns", "is a folder"),
            (f"mssql+pyodbc://u:{SECRET}@h/db", "is a database (mssql) of a kind that can't be read directly"),
            ("gopher://h", "has the scheme `gopher`"),
            (f"{SECRET}:pw@h", "should look like https://mlflow.example.com"),
            (f"https//u:{SECRET}@h", "should look like https://mlflow.example.com"),
            ("https://", "names no host and port"),
            ("databricks-uc", "type `unity-catalog`"),
        ],
    )
    def test_what_cannot_be_read_is_refused_by_its_key(self, key: str, uri: str, part: str) -> None:
        place, text = refusal(**{key: uri})
        assert place == key
        assert text.startswith(f"`{key}`")
        assert part in text

    @pytest.mark.parametrize("key", ["tracking_uri", "registry_uri", "backend_store_uri"])
    @pytest.mark.parametrize(
        "uri",
        [f"postgresql+psycopg2://u:{SECRET}@h/db", "postgres://h/db", "mysql://h/db", "MariaDB://h/db", "sqlite:///x"],
    )
    def test_a_database_may_stand_under_each(self, key: str, uri: str) -> None:
        assert getattr(accepted(**{key: uri}), key) == uri

    @pytest.mark.parametrize(
        "uri",
        ["https://mlflow.test", "mssql://h/db", "./mlruns", f"{SECRET}:pw@h", f"redis://u:{SECRET}@h", "databricks"],
    )
    def test_anything_else_is_no_backend_store(self, uri: str) -> None:
        place, text = refusal(backend_store_uri=uri)
        assert place == "backend_store_uri"
        assert text == (
            "`backend_store_uri` must be a database of PostgreSQL, MySQL, MariaDB or SQLite, like "
            "postgresql://user@host:5432/mlflow. The address of an MLflow server goes into `tracking_uri`"
        )

    @pytest.mark.parametrize(
        ("url", "clean", "warned"),
        [
            ("https://mlflow.test", "https://mlflow.test", False),
            (" HTTPS://mlflow.test:8443/a/ ", "https://mlflow.test:8443/a", False),
            ("https://mlflow.test/#/experiments/1", "https://mlflow.test", False),
            (f"https://ada:{SECRET}@mlflow.test/a", "https://mlflow.test/a", True),
            (f"https://{SECRET}@mlflow.test/a", "https://mlflow.test/a", True),
            (f"https://mlflow.test/a/?token={SECRET}#b", "https://mlflow.test/a", True),
        ],
    )
    def test_links_hold_no_secret(self, url: str, clean: str, warned: bool) -> None:
        config = accepted(base_external_url=url)
        assert config.base_external_url == clean
        assert [warning.partition(" holds")[0] for warning in config.warnings] == ["`base_external_url`"] * warned
        assert SECRET not in f"{config!r} {config.warnings} {config.model_dump()}"

    @pytest.mark.parametrize("url", ["https://", f"https://ada:{SECRET}@", "https://[::1", "https://h:x"])
    def test_links_need_a_host(self, url: str) -> None:
        assert message(base_external_url=url).startswith("`base_external_url` names no host and port.")

    @pytest.mark.parametrize("url", ["mlflow.test", "ftp://mlflow.test", "javascript:alert(1)"])
    def test_links_lead_to_web_pages_only(self, url: str) -> None:
        assert refusal(base_external_url=url) == (
            "base_external_url",
            "must start with http:// or https://, as it does in a browser",
        )


class TestTls:
    def test_a_key_needs_its_certificate(self) -> None:
        assert refusal(tls={"client_key_path": "/k.pem"}) == ("tls", "`tls.client_key_path` needs `tls.client_cert`")

    def test_whom_to_trust_and_trusting_anybody_are_two_things(self) -> None:
        place, text = refusal(tls={"ca_bundle": "/ca.pem", "verify": False})
        assert place == "tls"
        assert text == "`tls.ca_bundle` says whom to trust, `tls.verify: false` to trust anybody: choose"


class TestPlatformInstance:
    @pytest.mark.parametrize("name", ["prod", "mlflow.eu-1", "team a/b", "größe", "x" * 100])
    def test_a_name_is_taken_as_it_is(self, name: str) -> None:
        assert accepted(platform_instance=name).platform_instance == name

    def test_an_empty_one_is_none(self) -> None:
        assert accepted(platform_instance="").platform_instance is None

    @pytest.mark.parametrize("name", ["a,b", "a(b", "a)b", "a,b)(", " a", "a ", "a\n", "a\tb", "a\x00b", "a␟b", " "])
    def test_one_that_would_break_urns_is_refused(self, name: str) -> None:
        assert refusal(platform_instance=name) == (
            "platform_instance",
            "`platform_instance` is part of URNs: no comma, brackets, control characters, nor blanks at its ends",
        )

    def test_so_is_one_that_leaves_no_room_for_names(self) -> None:
        assert message(platform_instance="x" * 101) == "`platform_instance` has 101 characters: 100 are allowed"


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), ".inf", "nan"])
@pytest.mark.parametrize(
    "place", ["timeout_seconds", "database.statement_timeout_seconds", "stateful_ingestion.fail_safe_threshold"]
)
def test_numbers_are_finite(place: str, value: float | str) -> None:
    parent, _, key = place.rpartition(".")
    assert refusal(**({parent: {key: value}} if parent else {key: value}))[0] == place


@pytest.mark.parametrize(
    ("place", "below", "lowest", "highest", "above"),
    [
        ("limits.max_params", 0, 1, 10**6, None),
        ("limits.max_metrics", 0, 1, 10**6, None),
        ("limits.max_tags", 0, 1, 10**6, None),
        ("limits.max_value_chars", 9, 10, 10**6, None),
        ("limits.max_description_chars", 9, 10, 10**6, None),
        ("page_size", 0, 1, 50_000, 50_001),
        ("max_retries", -1, 0, 10, 11),
        ("timeout_seconds", 0, 0.1, 86_400, 86_401),
        ("database.statement_timeout_seconds", 0, 0.01, 3600, 3601),
        ("database.pool_size", 0, 1, 16, 17),
        ("run_retention_days", 0, 1, 10_000, None),
        ("max_runs_per_experiment", 0, 1, 10**6, None),
        ("stateful_ingestion.fail_safe_threshold", -1, 0, 100, 101),
    ],
)
def test_numbers_have_bounds(place: str, below: float, lowest: float, highest: float, above: float | None) -> None:
    def config(value: float) -> dict[str, Any]:
        parent, _, key = place.rpartition(".")
        return {parent: {key: value}} if parent else {key: value}

    accepted(**config(lowest))
    accepted(**config(highest))
    for value in (below, above):
        if value is not None:
            assert refusal(**config(value))[0] == place
