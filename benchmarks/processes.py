"""Child processes: what they may touch, what they cost, and that none is left behind."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".bench"
LOGS = FOLDER / "logs"
POLL_SECONDS = 0.02  # how exactly an end is seen; the processes take seconds
# `ru_maxrss` is in kilobytes on Linux, in bytes on macOS (getrusage(2)).
RSS_UNITS_PER_MB = 1024 * 1024 if sys.platform == "darwin" else 1024


class StepError(Exception):
    """A process failed or took too long: the message says which, and where its log is."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process cost, from its start to its end."""

    wall_seconds: float
    cpu_seconds: float  # user and system, all threads
    peak_mb: float  # resident; at least what the parent has (Linux hands it on), which is why that imports little
    stdout: str


def empty_folder() -> None:
    """.bench/, with nothing in it of the benchmark before."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for folder in (FOLDER / "home", FOLDER / "tmp", LOGS):
        folder.mkdir(parents=True)


def run(name: str, command: Sequence[str | Path], deadline: float) -> Usage:
    """Run to the end. What it prints stays in .bench/logs, as `<name>.out` and `<name>.err`.

    Raises StepError for an exit code other than 0, and when `deadline` (of `time.monotonic`) passes.
    """
    out, err = LOGS / f"{name}.out", LOGS / f"{name}.err"
    began = time.perf_counter()
    process = start(command, stdin=subprocess.DEVNULL, out=out, err=err)
    try:
        code, used = _wait(process, deadline)
    except TimeoutError:
        raise StepError(f"{name} was stopped, as it took too long. Its logs are {out} and {err.name}.") from None
    finally:
        kill(process)
    wall_seconds = time.perf_counter() - began
    if code:
        raise StepError(f"{name} ended with exit code {code}. Its logs are {out} and {err.name}.")
    return Usage(wall_seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / RSS_UNITS_PER_MB, out.read_text())


def _wait(process: subprocess.Popen[bytes], deadline: float) -> tuple[int, resource.struct_rusage]:
    """Exit code and resources. Raises TimeoutError at the deadline."""
    while time.monotonic() < deadline:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, used
        time.sleep(POLL_SECONDS)
    raise TimeoutError


def start(command: Sequence[str | Path], *, stdin: int, out: Path, err: Path) -> subprocess.Popen[bytes]:
    """Leader of a process group of its own, to be ended by `kill`."""
    with out.open("wb") as stdout, err.open("wb") as stderr:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """End it and its children, if it still runs: there is nothing that a polite end would save."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdin:
        process.stdin.close()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A process that answers DataHub's REST calls at once."""

    url: str
    pid: int

    def cpu_seconds(self) -> float:
        """What it has used so far, from the kernel (proc(5))."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def gms_stand_in() -> Iterator[Endpoint]:
    """Where DataHub's REST calls are answered at once."""
    out, err = LOGS / "gms.out", LOGS / "gms.err"
    process = start([sys.executable, "-m", "benchmarks.gms"], stdin=subprocess.PIPE, out=out, err=err)
    try:
        yield Endpoint(_first_line(process, out), process.pid)
    finally:
        kill(process)


def _first_line(process: subprocess.Popen[bytes], out: Path) -> str:
    while process.poll() is None:
        if (text := out.read_text()).endswith("\n"):
            return text.strip()
        time.sleep(POLL_SECONDS)
    raise StepError(f"The stand-in of DataHub's server did not start. See {out.with_suffix('.err')}.")


def environment() -> dict[str, str]:
    """Nothing of the user's own MLflow or DataHub, nothing written outside .bench/, no telemetry.

    Compiled code is kept, as everywhere but where PYTHONDONTWRITEBYTECODE is set: one second of each start.
    """
    others = ("MLFLOW_", "DATAHUB_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return kept | {
        "HOME": str(FOLDER / "home"),
        "TMPDIR": str(FOLDER / "tmp"),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "DATAHUB_TELEMETRY_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
