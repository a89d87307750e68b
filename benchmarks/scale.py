"""`python -m benchmarks.scale`: reading from the database beside all other ways, and what more runs cost.

`make benchmark-scale`; docs/performance.md says what is measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bench import BIN, BUILT_IN, SOURCE_TYPES
from benchmarks.processes import FOLDER, LOGS, StepError, Usage, empty_folder, gms_stand_in, run
from benchmarks.results import table
from tests.support.bulk import Bulk, bulk_content
from tests.support.databases import postgres
from tests.support.servers import MlflowServer, mlflow_server

LIMIT_SECONDS = 170 * 60


@dataclass(slots=True)
class Scale:
    """Measures, round by round, and keeps what came out: (what, runs) → seconds, CPU seconds, peak MB, …"""

    rounds: int
    deadline: float = field(default_factory=lambda: time.monotonic() + LIMIT_SECONDS)
    found: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=dict)

    def reading(self, server: MlflowServer, runs: int) -> None:
        """Reads all runs and drops them: REST, MLflow's own store, and our reader."""
        for _ in range(self.rounds):
            self._keep("read by REST", runs, ["benchmarks.floor", server.url])
            self._keep("read by our SQL reader", runs, ["benchmarks.read_sql", server.backend_uri])
            self._keep("read by MLflow's own store", runs, ["benchmarks.read_store", server.backend_uri])

    def ingesting(self, server: MlflowServer, runs: int, sources: Sequence[str]) -> None:
        """`Pipeline.run()` into a sink that throws away."""
        over_rest = {"tracking_uri": server.url, "include_artifacts": "none"}
        over_sql = {**over_rest, "backend_store_uri": server.backend_uri}
        configs = {
            "SQL": ("ours", over_sql),
            "REST": ("ours", over_rest),
            "replay": ("replay", over_sql),
            "short replay": ("short", over_sql),
            "replay from a pipe": ("piped", over_sql),
        }
        types = {
            **SOURCE_TYPES,
            "short": "benchmarks.replay.ShortReplaySource",
            "piped": "benchmarks.replay.PipedReplaySource",
        }
        for _ in range(self.rounds):
            for source in sources:
                kind, config = configs[source]
                recipe = {"source": {"type": types[kind], "config": config}, "sink": {"type": "blackhole"}}
                path = LOGS / f"{source}-{runs}.yml".replace(" ", "-")
                path.write_text(json.dumps(recipe))
                self._keep(f"ingest: {source}", runs, ["benchmarks.pipeline", str(path)])

    def built_in(self, server: MlflowServer, runs: int) -> None:
        """DataHub's own source, a whole process: it has no other form."""
        recipe = {"source": {"type": "mlflow", "config": {"tracking_uri": server.url}}, "sink": {"type": "blackhole"}}
        path = LOGS / f"built-in-{runs}.yml"
        path.write_text(json.dumps(recipe))
        used = self._run("ingest: built-in", runs, [BUILT_IN / "bin" / "datahub", "ingest", "-c", path])
        self._found("ingest: built-in", runs, {"seconds": used.wall_seconds}, used)

    def sharding(self, server: MlflowServer, runs: int) -> None:
        """Whole processes of `datahub-mlflow ingest`, from the database, by one shard and by two."""
        config = {"backend_store_uri": server.backend_uri, "tracking_uri": server.url, "include_artifacts": "none"}
        with gms_stand_in() as gms:
            sinks = {"blackhole": {}, "datahub-rest": {"server": gms.url}}
            for _, (sink, settings), shards in product(range(self.rounds), sinks.items(), (1, 2)):
                path = LOGS / f"shards-{sink}-{runs}.yml"
                source = {"type": SOURCE_TYPES["ours"], "config": config}
                path.write_text(json.dumps({"source": source, "sink": {"type": sink, "config": settings}}))
                what, before = f"{sink}: {shards} shard{'s' * (shards - 1)}", gms.cpu_seconds()
                command: list[str | Path] = [BIN / "datahub-mlflow", "ingest", "-c", path, "--shards", str(shards)]
                used = self._run(what, runs, command)
                said = {"seconds": used.wall_seconds, "endpoint_cpu": gms.cpu_seconds() - before}
                self._found(what, runs, said, used)

    def _keep(self, what: str, runs: int, module: list[str]) -> None:
        used = self._run(what, runs, [sys.executable, "-m", *module])
        self._found(what, runs, json.loads(used.stdout.splitlines()[-1]), used)

    def _run(self, what: str, runs: int, command: Sequence[str | Path]) -> Usage:
        print(f"{what}, {runs:,} runs … ", end="", flush=True)
        name = f"{what}-{runs}".replace(" ", "-").replace(":", "").replace("'", "")
        return run(name, command, self.deadline)

    def _found(self, what: str, runs: int, said: dict[str, Any], used: Usage) -> None:
        print(f"{said['seconds']:.1f} s, {used.peak_mb:.0f} MB", flush=True)
        self.found.setdefault((what, runs), []).append({**said, "peak_mb": used.peak_mb})

    def middle(self, what: str, runs: int, measure: str) -> float:
        return float(median(one[measure] for one in self.found[what, runs]))

    def text(self, runs: int, sizes: Sequence[int]) -> str:
        """Two tables, as Markdown."""
        rows = []
        ways = dict.fromkeys(what for what, size in self.found if size == runs and "shard" not in what)
        for what in ways:
            seconds = self.middle(what, runs, "seconds")
            base = "read by our SQL reader" if what.startswith("read") else "ingest: SQL"
            ratio = seconds / self.middle(base, runs, "seconds") if (base, runs) in self.found else 0
            per_run = f"{seconds / runs * 1e6:.0f}"
            rows.append(
                [what, f"{seconds:.2f}", per_run, f"{self.middle(what, runs, 'peak_mb'):.0f}", f"{ratio:.2f} x"]
            )
        header = [f"{runs:,} runs", "s", "µs per run", "peak MB", "as much as ours by SQL"]
        growth = [
            [what, f"{size:,}", f"{self.middle(what, size, 'seconds'):.1f}"]
            + [f"{self.middle(what, size, 'seconds') / size * 1e6:.0f}", f"{self.middle(what, size, 'peak_mb'):.0f}"]
            + [f"{self.found[what, size][0].get(key, 0):,.3g}" for key in ("requests", "p95_ms", "slowest_ms")]
            for size in sizes
            for what in ("ingest: SQL", "ingest: replay from a pipe")
            if (what, size) in self.found
        ]
        more = ["growth", "runs", "s", "µs per run", "peak MB", "statements", "p95 ms", "slowest ms"]
        tables = [*table(header, rows), "", *table(more, growth)]
        return "\n".join([*tables, "", *self._shards(runs)] if ("blackhole: 2 shards", runs) in self.found else tables)

    def _shards(self, runs: int) -> Iterable[str]:
        rows = []
        for sink, shards in product(("blackhole", "datahub-rest"), ("1 shard", "2 shards")):
            one, this = (self.middle(f"{sink}: {part}", runs, "seconds") for part in ("1 shard", shards))
            endpoint = self.middle(f"{sink}: {shards}", runs, "endpoint_cpu")
            rows.append([f"{sink}: {shards}", f"{this:.1f}", f"{one / this:.2f} x", f"{endpoint:.1f}"])
        return table([f"{runs:,} runs", "s", "as fast as one", "CPU s of the endpoint"], rows)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--runs", type=int, default=50_000, help="for the first table (50000)")
    parser.add_argument("--growth", default="1000,10000,100000", help="runs, for the second table; may go to 1000000")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="postgresql")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-built-in", action="store_true", help="which takes 20 ms for each run of the first table")
    options = parser.parse_args()
    sizes = [int(size) for size in options.growth.split(",") if size]
    empty_folder()
    scale = Scale(options.rounds)
    try:
        if options.runs:
            with filled(options.database, options.runs) as server:
                scale.reading(server, options.runs)
                scale.ingesting(server, options.runs, ("SQL", "REST", "replay", "short replay"))
                scale.sharding(server, options.runs)
                if not options.no_built_in:
                    scale.built_in(server, options.runs)
        scale.rounds = 1
        for size in sizes:
            with filled(options.database, size) as server:
                scale.ingesting(server, size, ("SQL", "replay from a pipe"))
    except StepError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        results = [{"what": what, "runs": runs, "rounds": rounds} for (what, runs), rounds in scale.found.items()]
        (FOLDER / "scale.json").write_text(json.dumps(results, indent=2) + "\n")
    print("", scale.text(options.runs, sizes), sep="\n")
    return 0


def filled(database: str, runs: int) -> Any:
    """A context manager: an MLflow server on a database of this kind that holds so many runs."""
    return _Filled(database, replace(Bulk(), runs=runs, tags=8))


class _Filled(ExitStack):
    def __init__(self, database: str, bulk: Bulk) -> None:
        super().__init__()
        self._database, self._bulk = database, bulk

    def __enter__(self) -> Any:
        super().__enter__()
        folder = FOLDER / f"{self._database}-{self._bulk.runs}"
        uri = self.enter_context(postgres()).create("mlflow") if self._database == "postgresql" else None
        server = self.enter_context(mlflow_server(folder, backend_uri=uri))
        began = time.monotonic()
        bulk_content(uri or server.database, self._bulk)
        print(f"filled with {self._bulk.runs:,} runs in {time.monotonic() - began:.0f} s", flush=True)
        self.callback(shutil.rmtree, folder, ignore_errors=True)
        return server


if __name__ == "__main__":
    sys.exit(main())
