"""What was measured, and how it reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

SINKS = ("blackhole", "datahub-rest")


@dataclass(frozen=True, slots=True)
class Ingestion:
    """One `datahub ingest`, as a whole process."""

    source: str  # "ours", "built-in"
    sink: str
    wall_seconds: float
    cpu_seconds: float
    peak_mb: float
    requests: int  # that MLflow's server logged
    events: int  # that reached the sink


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """One `Pipeline.run()`, without the imports and the set-up around it."""

    source: str  # "ours", "replay"
    sink: str
    seconds: float
    cpu_seconds: float
    units: int

    @property
    def rate(self) -> float:
        """Work units per second, waiting for servers included."""
        return self.units / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Work units per second of the process's own work."""
        return self.units / self.cpu_seconds


@dataclass(slots=True)
class Results:
    """All of one benchmark, in the order of measuring."""

    machine: dict[str, str]
    content: str
    empty: dict[str, Ingestion] = field(default_factory=dict)  # by source, of a server without content
    floor: list[dict[str, Any]] = field(default_factory=list)  # what benchmarks.floor says
    ingestions: list[Ingestion] = field(default_factory=list)
    pipeline_runs: list[PipelineRun] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Every round, and the ratios of their medians."""
        return {**asdict(self), "ratios": self.ratios()}

    def ratios(self) -> dict[str, dict[str, float]]:
        """By sink: how many times as much the built-in takes, and our share of the ceiling."""
        return {sink: {**self._built_in_over_ours(sink), **self._shares_of_ceiling(sink)} for sink in SINKS}

    def _built_in_over_ours(self, sink: str) -> dict[str, float]:
        built_in, ours = self.middle("built-in", sink), self.middle("ours", sink)
        measures = ("wall_seconds", "cpu_seconds", "peak_mb", "requests", "events")
        return {measure: getattr(built_in, measure) / getattr(ours, measure) for measure in measures}

    def middle(self, source: str, sink: str) -> Ingestion:
        """The median of all rounds, and the most of what is counted."""
        rounds = [i for i in self.ingestions if (i.source, i.sink) == (source, sink)]
        return Ingestion(
            source,
            sink,
            median(i.wall_seconds for i in rounds),
            median(i.cpu_seconds for i in rounds),
            median(i.peak_mb for i in rounds),
            max(i.requests for i in rounds),
            max(i.events for i in rounds),
        )

    def middle_run(self, source: str, sink: str) -> PipelineRun:
        """The same for `Pipeline.run()`."""
        rounds = [run for run in self.pipeline_runs if (run.source, run.sink) == (source, sink)]
        seconds, cpu_seconds = median(run.seconds for run in rounds), median(run.cpu_seconds for run in rounds)
        return PipelineRun(source, sink, seconds, cpu_seconds, rounds[0].units)

    def _shares_of_ceiling(self, sink: str) -> dict[str, float]:
        ours, replay = self.middle_run("ours", sink), self.middle_run("replay", sink)
        return {"share_of_ceiling": ours.rate / replay.rate, "share_by_cpu": ours.cpu_rate / replay.cpu_rate}

    def text(self) -> str:
        """All of it for a terminal; the tables are markdown."""
        empty = ", ".join(f"{i.source} {i.wall_seconds:.1f} s ({i.cpu_seconds:.1f} s CPU)" for i in self.empty.values())
        seconds = median(floor["seconds"] for floor in self.floor)
        floor = "{runs:,} runs in {requests} requests".format(**self.floor[0])
        return "\n".join(
            [
                *(f"{key}: {value}" for key, value in self.machine.items()),
                f"content: {self.content}",
                "",
                *self._ingestion_table(),
                "",
                *self._pipeline_table(),
                "",
                f"An ingestion of an empty server, whole process: {empty}",
                f"Floor, reading with `requests` alone: {floor}, {seconds:.2f} s",
            ]
        )

    def _ingestion_table(self) -> Iterable[str]:
        header = ["`datahub ingest`, whole process", "rounds", "wall s", "CPU s", "peak MB", "requests", "events"]
        rows: list[Sequence[str]] = []
        for sink in SINKS:
            for source in ("ours", "built-in"):
                middle, rounds = self.middle(source, sink), self._rounds(self.ingestions, source, sink)
                seconds = [f"{middle.wall_seconds:.1f}", f"{middle.cpu_seconds:.1f}"]
                counts = [f"{middle.peak_mb:.0f}", f"{middle.requests:,}", f"{middle.events:,}"]
                rows.append([f"{sink}: {source}", str(rounds), *seconds, *counts])
            ratios = [f"{ratio:.2f} x" for ratio in self._built_in_over_ours(sink).values()]
            rows.append([f"{sink}: built-in / ours", "", *ratios])
        return table(header, rows)

    def _pipeline_table(self) -> Iterable[str]:
        header = ["`Pipeline.run()` alone", "rounds", "work units", "s", "per s", "CPU s", "per CPU s"]
        rows: list[Sequence[str]] = []
        for sink in SINKS:
            for source in ("ours", "replay"):
                middle, rounds = self.middle_run(source, sink), self._rounds(self.pipeline_runs, source, sink)
                by_wall = [f"{middle.seconds:.2f}", f"{middle.rate:,.0f}"]
                by_cpu = [f"{middle.cpu_seconds:.2f}", f"{middle.cpu_rate:,.0f}"]
                rows.append([f"{sink}: {source}", str(rounds), f"{middle.units:,}", *by_wall, *by_cpu])
            shares = self._shares_of_ceiling(sink)
            by_wall, by_cpu = ["", f"{shares['share_of_ceiling']:.0%}"], ["", f"{shares['share_by_cpu']:.0%}"]
            rows.append([f"{sink}: ours / replay", "", "", *by_wall, *by_cpu])
        return table(header, rows)

    @staticmethod
    def _rounds(measured: Sequence[Ingestion | PipelineRun], source: str, sink: str) -> int:
        return sum((one.source, one.sink) == (source, sink) for one in measured)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Markdown, padded; the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join([cells[0].ljust(widths[0]), *numbers])} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return [line(header), f"|{rule}|", *(line(row) for row in rows)]
