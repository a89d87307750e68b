"""An ingestion that is only tried, or is stopped half-way, ends at once and leaves nothing that is remembered."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.bulk import Bulk, bulk_content
from tests.support.gms import GmsStandIn
from tests.support.ingest import recipe
from tests.support.interrupts import interruptible
from tests.support.servers import MlflowServer, mlflow_server

RUNS = 3000  # many seconds of work for a server that checks each aspect


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """With runs enough."""
    with mlflow_server(tmp_path_factory.mktemp("early")) as server:
        bulk_content(server.database, Bulk(experiments=3, runs=RUNS, datasets=5, models=4, versions=10))
        yield server


@pytest.fixture
def gms() -> Iterator[GmsStandIn]:
    with GmsStandIn() as gms:
        yield gms


@pytest.fixture(params=["database", "server"])
def config(request: pytest.FixtureRequest, server: MlflowServer) -> dict[str, Any]:
    address = {"backend_store_uri": server.backend_uri} if request.param == "database" else {}
    return {"tracking_uri": server.url, **address, "stateful_ingestion": {"enabled": True}}


def _started(gms: GmsStandIn, config: dict[str, Any], folder: Path, *options: str) -> subprocess.Popen[str]:
    file = folder / "recipe.yml"
    file.write_text(yaml.safe_dump(recipe(config, {"type": "datahub-rest", "config": {"server": gms.url}}, "early")))
    environment = os.environ | {"HOME": str(folder), "DATAHUB_TELEMETRY_ENABLED": "false", "PYTHONWARNINGS": "ignore"}
    command = interruptible([Path(sys.executable).parent / "datahub", "ingest", "-c", file, *options])
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _remembered(gms: GmsStandIn) -> list[str]:
    return gms.urns("dataJob")


def test_a_preview_sends_a_few_and_remembers_nothing(gms: GmsStandIn, config: dict[str, Any], tmp_path: Path) -> None:
    ended = _started(gms, config, tmp_path, "--preview")
    output, _ = ended.communicate(timeout=300)
    assert ended.returncode == 0, output
    assert 0 < len(gms.urns()) < 20
    assert _remembered(gms) == []


def test_a_dry_run_sends_and_remembers_nothing(gms: GmsStandIn, config: dict[str, Any], tmp_path: Path) -> None:
    ended = _started(gms, config, tmp_path, "--dry-run")
    output, _ = ended.communicate(timeout=300)
    assert ended.returncode == 0, output
    diary = ("urn:li:dataHubIngestionSource:", "urn:li:dataHubExecutionRequest:")  # which `datahub` itself keeps
    assert [urn for urn in gms.urns() if not urn.startswith(diary)] == []


@pytest.mark.parametrize("half_way", [1, RUNS // 20], ids=["at first", "half-way"])
def test_ctrl_c_ends_it_at_once_and_nothing_is_remembered(
    gms: GmsStandIn, config: dict[str, Any], half_way: int, tmp_path: Path
) -> None:
    running = _started(gms, config, tmp_path)
    deadline = time.monotonic() + 300
    while len(gms.urns("dataProcessInstance")) < half_way:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=300)  # the sink first sends what it has taken
    assert running.returncode not in (0, None), output
    assert len(gms.urns("dataProcessInstance")) < RUNS
    assert _remembered(gms) == []
