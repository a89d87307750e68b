"""The URNs that our unit tests expect of tables and features are those that DataHub's connectors give today.

`make test-matrix`; the connectors are in an environment of their own. Where this fails after a renewed lock, a
connector has changed its form: our mapping must follow, then `tests/unit/connector_urns.json`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.matrix

ROOT = Path(__file__).parents[2]


def test_recorded_urns_are_those_of_the_connectors() -> None:
    script = ROOT / "tests" / "support" / "connector_urns.py"
    python = ROOT / ".venv-connectors" / "bin" / "python"
    run = subprocess.run([python, "-I", script], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout) == json.loads((ROOT / "tests" / "unit" / "connector_urns.json").read_text("utf-8"))
