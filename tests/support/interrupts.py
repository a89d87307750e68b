"""Commands that Ctrl-C ends, wherever the tests run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

_HEARS = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


def interruptible(command: Sequence[str | Path]) -> list[str]:
    """The same command, which hears SIGINT. Below a shell's background job everybody ignores it."""
    return [sys.executable, "-c", _HEARS, *map(str, command)]
