"""The URNs that our unit tests expect of other tools' entities are those that DataHub's own code gives today.

Its plugins' for tasks, its connectors' for tables and features. `make test-matrix`; each are in an environment of their
own. Where this fails after a renewed lock, one of them has changed its form: our rules must follow, then the recording.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.matrix

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("environment", "recording"), [(".venv-plugins", "plugin_urns"), (".venv-connectors", "connector_urns")]
)
def test_recorded_urns_are_those_of_today(environment: str, recording: str) -> None:
    script = ROOT / "tests" / "support" / f"{recording}.py"
    python = ROOT / environment / "bin" / "python"
    run = subprocess.run([python, "-I", script], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout) == json.loads((ROOT / "tests" / "unit" / f"{recording}.json").read_text("utf-8"))
