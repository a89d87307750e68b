"""The URNs that our unit tests expect of other tools' entities are those that DataHub's plugins give today.

`make test-matrix`; the plugins are in an environment of their own. Where this fails after a renewed lock, a plugin has
changed its form: our rules must follow, then `tests/unit/plugin_urns.json`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.matrix

ROOT = Path(__file__).parents[2]


def test_recorded_urns_are_those_of_the_plugins() -> None:
    script = ROOT / "tests" / "support" / "plugin_urns.py"
    python = ROOT / ".venv-plugins" / "bin" / "python"
    run = subprocess.run([python, "-I", script], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout) == json.loads((ROOT / "tests" / "unit" / "plugin_urns.json").read_text("utf-8"))
