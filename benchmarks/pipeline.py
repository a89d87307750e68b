"""`python -m benchmarks.pipeline <recipe>`: how long `Pipeline.run()` alone takes, without imports and set-up."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from datahub.ingestion.run.pipeline import Pipeline

from datahub_mlflow_source.report import MlflowSourceReport


class OfflinePipeline(Pipeline):
    """As the framework's, but asks nobody on the internet for the newest version of DataHub."""

    def _warn_old_cli_version(self) -> None:
        pass


def main(recipe: Path) -> dict[str, Any]:
    """Seconds, and how many work units came out of the source's processors. Raises for any failure reported."""
    pipeline = OfflinePipeline.create(json.loads(recipe.read_text()), no_progress=True)
    began, cpu_began = time.perf_counter(), time.process_time()
    pipeline.run()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    pipeline.raise_from_status()
    report = pipeline.source.get_report()
    found = {"seconds": seconds, "cpu_seconds": cpu_seconds, "units": report.events_produced}
    if isinstance(report, MlflowSourceReport):
        found |= {"requests": report.requests_sent}
        if report.query_p95_millis is not None:
            found |= {"p95_ms": report.query_p95_millis, "slowest_ms": report.query_slowest_millis or 0.0}
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
