"""What a person sees of `datahub ingest` when recipe or server are wrong: one message, exit code 1, nothing touched."""

from __future__ import annotations

import base64
import bz2
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.gms import GmsStandIn
from tests.support.ingest import recipe
from tests.support.proxy import CountingProxy, everything
from tests.support.servers import MlflowServer, free_port

PASSWORD = "made-up-secret"
HANGS_SECONDS = 60  # not what it may take (a message within 30 is asked for), but when the test gives up
LOGIN_PAGE = "<html><title>Sign in</title></html>"


@pytest.fixture(scope="module")
def gms(server: MlflowServer, content: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GmsStandIn]:
    """In which an earlier ingestion left everything."""
    with GmsStandIn() as gms:
        code, output = _datahub_ingest(gms, {"tracking_uri": server.url}, tmp_path_factory.mktemp("good"))
        assert code == 0, output
        yield gms


@pytest.fixture
def addresses(server: MlflowServer) -> Iterator[dict[str, str]]:
    """Of servers that are no good."""
    with ExitStack() as stack:
        wants_login, login_page, other_json, other_site = (
            stack.enter_context(CountingProxy(server.url)) for _ in range(4)
        )
        wants_login.fail(everything, status=401, body="no")
        login_page.fail(everything, status=200, body=LOGIN_PAGE, headers={"Content-Type": "text/html"})
        other_json.fail(everything, status=200, body='{"hello": 1}', headers={"Content-Type": "application/json"})
        other_site.fail(everything, status=404, body="<html>not here</html>", headers={"Content-Type": "text/html"})
        silent = stack.enter_context(socket.create_server(("127.0.0.1", free_port())))
        yield {
            "closed": f"http://127.0.0.1:{free_port()}",
            "silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "wants login": wants_login.url,
            "login page": login_page.url,
            "other JSON": other_json.url,
            "other site": other_site.url,
        }


def _datahub_ingest(gms: GmsStandIn, config: dict[str, Any], folder: Path) -> tuple[int, str]:
    """Exit code, and all that a terminal would show."""
    config = {"stateful_ingestion": {"enabled": True}, **config}
    sink = config.pop("sink", {"type": "datahub-rest", "config": {"server": gms.url}})
    raw = recipe(config, sink, config.pop("pipeline_name", "bad input"))
    (folder / "recipe.yml").write_text(yaml.safe_dump(raw, allow_unicode=True))
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_TRACKING", "MLFLOW_REG"))}
    environment = clean | {"HOME": str(folder), "DATAHUB_TELEMETRY_ENABLED": "false", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [Path(sys.executable).parent / "datahub", "ingest", "-c", "recipe.yml"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANGS_SECONDS,
    )
    return done.returncode, done.stdout + done.stderr


def _entities(gms: GmsStandIn) -> dict[str, Any]:
    """All but DataHub's diary of ingestions: every aspect, and what is remembered to have been sent."""
    diary = ("urn:li:dataHub", "urn:li:dataJob:")
    remembered = {urn: _remembered(gms, urn) for urn in gms.urns("dataJob")}
    return {urn: gms.aspects(urn) for urn in gms.urns() if not urn.startswith(diary)} | remembered


def _remembered(gms: GmsStandIn, urn: str) -> set[str]:
    """What the last checkpoint of this job holds (`CheckpointStateBase.to_bytes`)."""
    checkpoints = gms.timeseries(urn, "datahubIngestionCheckpoint")
    if not checkpoints:
        return set()
    state = checkpoints[-1]["state"]
    assert state["serde"] == "base85-bz2-json"
    return set(json.loads(bz2.decompress(base64.b85decode(state["payload"])))["urns"])


# An address from `addresses` and other keys, and what the message says: what is wrong, and the key to look at.
SERVERS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "nobody listens": ("closed", {}, ("No answer from MLflow at 127.0.0.1:", "refused", "Check `tracking_uri`")),
    "nobody answers": ("silent", {}, ("No answer from MLflow at 127.0.0.1:", "did not answer")),
    "wrong password": (
        "wants login",
        {"username": "ada", "password": PASSWORD},
        ("with 401", "Check `username` and `password`, or `token`"),
    ),
    "wrong token": ("wants login", {"token": PASSWORD}, ("with 401", "`token`")),
    "a login page that says 200": (
        "login page",
        {"headers_secret": {"CF-Access-Client-Secret": PASSWORD}},
        ("text/html instead of MLflow's JSON", "login page", "`headers_secret`"),
    ),
    "other JSON": ("other JSON", {}, ("instead of MLflow's JSON", "Check `tracking_uri`")),
    "another site": ("other site", {}, ("no MLflow API at this address", "check `tracking_uri`")),
}
RECIPES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no address": ({}, ("`tracking_uri` is not set", "MLFLOW_TRACKING_URI")),
    "unknown scheme": ({"tracking_uri": f"ftp://ada:{PASSWORD}@mlflow"}, ("`tracking_uri` has the scheme `ftp`",)),
    "file store": ({"tracking_uri": "./mlruns"}, ("`tracking_uri` is a folder", "mlflow migrate-filestore")),
    "unknown key": (
        {"tracking_uri": "http://localhost", "experimant_pattern": {"deny": ["x"]}},
        ("unknown key `experimant_pattern`", "Did you mean `experiment_pattern`?"),
    ),
    "bad regex": (
        {"tracking_uri": "http://localhost", "model_pattern": {"allow": ["*churn"]}},
        ("model_pattern", "'*churn' is no regular expression"),
    ),
    "a filter that is none": (
        {"run_filter": "metrics.auc >"},
        ("Invalid clause(s) in filter string", "Check `run_filter`"),
    ),
    "a filter with a comparison that there is not": (
        {"run_filter": "params.depth > '0.1'"},
        ("Invalid comparator '>' not one of", "Check `run_filter`"),
    ),
    "no name to remember by": (
        {"tracking_uri": "http://localhost", "pipeline_name": None},
        ("`stateful_ingestion.enabled` needs a `pipeline_name` in the recipe",),
    ),
    "nobody to remember it": (
        {"tracking_uri": "http://localhost", "sink": {"type": "blackhole"}},
        ("remembers in DataHub what was sent: it needs the sink `datahub-rest`, or `datahub_api`",),
    ),
    "a rule with a bad regex": (
        {
            "tracking_uri": "http://localhost",
            "meta_mapping": {"class": {"match": "[", "operation": "add_tag", "config": {"tag": "x"}}},
        },
        ("`meta_mapping.class`: `match` '[' is no regular expression",),
    ),
    "a scheduler without a flow": (
        {"tracking_uri": "http://localhost", "orchestrators": {"acme": {"when": {"source": "acme"}}}},
        ("`orchestrators.acme` is not known: it needs `flow`",),
    ),
    "a domain that DataHub lacks": (
        {"tracking_uri": "http://localhost", "domain": {"nowhere": {"allow": [".*"]}}},
        ("`domain`: ",),
    ),
    "an owner that is none": (
        {"tracking_uri": "http://localhost", "owners": ["urn:li:tag:x"]},
        ("`owners`: 'urn:li:tag:x' is no user or group",),
    ),
    "bad value": (
        {"tracking_uri": "http://localhost", "include_runs": "some", "password": PASSWORD},
        ("include_runs", "'all', 'registered' or 'none'"),
    ),
}


@pytest.mark.parametrize("case", SERVERS)
def test_a_server_that_cannot_be_read(gms: GmsStandIn, addresses: dict[str, str], case: str, tmp_path: Path) -> None:
    address, config, expected = SERVERS[case]
    _is_refused(gms, {"tracking_uri": addresses[address], **config}, expected, tmp_path)


@pytest.mark.parametrize("case", RECIPES)
def test_a_recipe_that_cannot_be_used(gms: GmsStandIn, server: MlflowServer, case: str, tmp_path: Path) -> None:
    config, expected = RECIPES[case]
    if "run_filter" in config:  # MLflow itself reads it
        config = {"tracking_uri": server.url, **config}
    _is_refused(gms, config, expected, tmp_path)


def _is_refused(gms: GmsStandIn, config: dict[str, Any], expected: tuple[str, ...], folder: Path) -> None:
    before = _entities(gms)
    code, output = _datahub_ingest(gms, config, folder)
    said = re.sub(r"\s+", " ", output)  # the CLI breaks lines
    assert code == 1
    assert [part for part in expected if part not in said] == [], output
    assert "Traceback" not in output
    assert PASSWORD not in output
    assert _entities(gms) == before


def test_a_good_recipe_still_works_afterwards(gms: GmsStandIn, server: MlflowServer, tmp_path: Path) -> None:
    """And so the checks above could have failed."""
    before = _entities(gms)
    code, output = _datahub_ingest(gms, {"tracking_uri": server.url, "model_pattern": {"deny": ["logged"]}}, tmp_path)
    assert code == 0, output
    assert _entities(gms) != before
