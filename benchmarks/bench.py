"""What is measured, and in which order."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.processes import LOGS, ROOT, StepError, Usage, run
from benchmarks.results import Ingestion, PipelineRun, Results
from tests.support.servers import MlflowServer

BUILT_IN = ROOT / ".venv-builtin"
BIN = Path(sys.executable).parent  # of the environment that this runs in
LIMIT_SECONDS = 45 * 60  # for all of it; ten minutes are usual
SOURCE_TYPES = {
    "ours": "datahub-mlflow-source",
    "built-in": "mlflow",
    "replay": "benchmarks.replay.ReplaySource",
}
# In uvicorn's access log: INFO:     127.0.0.1:40000 - "POST /api/2.0/mlflow/runs/search HTTP/1.1" 200 OK
REQUEST = re.compile(rb'"[A-Z]+ /\S* HTTP/[\d.]+" \d{3}')
FINISHED = re.compile(r"Pipeline finished .*; produced (\d+) events")


@dataclass(frozen=True, slots=True)
class Bench:
    """One MLflow server full of runs, read again and again."""

    server: MlflowServer
    gms: str  # address
    results: Results
    rounds: int
    built_in_rounds: int
    deadline: float = field(default_factory=lambda: time.monotonic() + LIMIT_SECONDS)

    @property
    def sinks(self) -> dict[str, dict[str, Any]]:
        """As a recipe has them: one that throws records away, and DataHub's default."""
        return {
            "blackhole": {"type": "blackhole"},
            "datahub-rest": {"type": "datahub-rest", "config": {"server": self.gms}},
        }

    def warm_up(self) -> None:
        """On a server without content. Raises as `measure`.

        The first round through each sink compiles Python's modules in new environments, and is forgotten.
        """
        for sink in ("datahub-rest", "blackhole"):
            for source in ("ours", "built-in"):
                self.results.empty[source] = self._ingestion(source, self.sinks[sink], f"empty-{sink}-{source}")

    def measure(self) -> None:
        """What is compared, in turn.

        Raises StepError when a process fails, or all of it takes too long.
        """
        for number in range(1, self.rounds + 1):
            read = self._run(f"floor-{number}", [sys.executable, "-m", "benchmarks.floor", self.server.url])
            self.results.floor.append(json.loads(read.stdout))
        for name, sink in self.sinks.items():
            for source, number in self._in_turn({"ours": self.rounds, "built-in": self.built_in_rounds}):
                self.results.ingestions.append(self._ingestion(source, sink, f"{name}-{source}-{number}"))
            for source, number in self._in_turn({"ours": self.rounds, "replay": self.rounds}):
                self.results.pipeline_runs.append(
                    self._pipeline_run(source, sink, f"{name}-pipeline-{source}-{number}")
                )
            self._same_work_units(name)

    @staticmethod
    def _in_turn(rounds: dict[str, int]) -> Iterator[tuple[str, int]]:
        """So that whatever else the machine does meanwhile hits both alike."""
        for number in range(1, max(rounds.values()) + 1):
            yield from ((source, number) for source, wanted in rounds.items() if number <= wanted)

    def _ingestion(self, source: str, sink: dict[str, Any], name: str) -> Ingestion:
        logged = self.server.log.stat().st_size
        datahub = (BUILT_IN / "bin" if source == "built-in" else BIN) / "datahub"
        recipe = self._recipe(source, sink, name)
        used = self._run(name, [datahub, "ingest", "-c", recipe])
        finished = FINISHED.search(used.stdout)
        if not finished:
            raise StepError(f"{name} does not say how many events it produced.")
        return Ingestion(
            source,
            sink["type"],
            used.wall_seconds,
            used.cpu_seconds,
            used.peak_mb,
            requests=self._requests_since(logged),
            events=int(finished[1]),
        )

    def _requests_since(self, logged: int) -> int:
        """What the server logged behind this place: to count so costs nothing, unlike a proxy in between."""
        with self.server.log.open("rb") as log:
            log.seek(logged)
            count = len(REQUEST.findall(log.read()))
        if not count:
            raise StepError(f"The server did not log its requests in {self.server.log}.")
        return count

    def _pipeline_run(self, source: str, sink: dict[str, Any], name: str) -> PipelineRun:
        recipe = self._recipe(source, sink, name)
        used = self._run(name, [sys.executable, "-m", "benchmarks.pipeline", recipe])
        said = json.loads(used.stdout)
        return PipelineRun(source, sink["type"], said["seconds"], said["cpu_seconds"], said["units"])

    def _same_work_units(self, sink: str) -> None:
        counts = {run.units for run in self.results.pipeline_runs if run.sink == sink}
        if len(counts) != 1:
            raise StepError(f"Ours and the replay must have the same work units through {sink}, not {counts}.")

    def _recipe(self, source: str, sink: dict[str, Any], name: str) -> Path:
        config = {"tracking_uri": self.server.url}
        if source != "built-in":
            config["include_artifacts"] = "none"  # the built-in reads none either
        recipe = LOGS / f"{name}.yml"  # JSON is YAML
        recipe.write_text(json.dumps({"source": {"type": SOURCE_TYPES[source], "config": config}, "sink": sink}))
        return recipe

    def _run(self, name: str, command: Sequence[str | Path]) -> Usage:
        """As `processes.run`, and says so."""
        print(f"{name} … ", end="", flush=True)
        used = run(name, command, self.deadline)
        print(f"{used.wall_seconds:.1f} s", flush=True)
        return used
