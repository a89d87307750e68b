"""`python -m benchmarks`: measures everything, prints tables, writes .bench/result.json."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.bench import BUILT_IN, Bench
from benchmarks.processes import FOLDER, StepError, empty_folder, environment, gms_stand_in
from benchmarks.results import Results
from tests.support.bulk import Bulk, bulk_content
from tests.support.servers import mlflow_server

FULL = Bulk()
QUICK = Bulk(experiments=2, runs=500, datasets=4, models=5)


def main() -> int:
    """The exit code: 1 when something can't be measured."""
    for signum in (signal.SIGTERM, signal.SIGHUP):  # not without stopping what was started
        signal.signal(signum, lambda received, _: sys.exit(128 + received))
    options = _options()
    empty_folder()
    try:
        results = _measure(options)
    except StepError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    (FOLDER / "result.json").write_text(json.dumps(results.as_json(), indent=2) + "\n")
    print("", results.text(), "", "Every round is in .bench/result.json, the logs are in .bench/logs/", sep="\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the content: shows that all works, no more")
    parser.add_argument("--rounds", type=int, default=3, help="of ours and of the replay (3)")
    parser.add_argument("--built-in-rounds", type=int, default=1, help="each takes minutes (1)")
    parser.add_argument(
        "--server-processes", type=int, default=1, help="of MLflow (1, the hardest to beat; `mlflow server` has 4)"
    )
    options = parser.parse_args()
    if min(options.rounds, options.built_in_rounds, options.server_processes) < 1:
        parser.error("at least one round of each")
    return options


def _measure(options: argparse.Namespace) -> Results:
    bulk, processes = QUICK if options.quick else FULL, options.server_processes
    machine = _machine()
    with mlflow_server(FOLDER / "mlflow", workers=processes) as server, gms_stand_in() as gms:
        results = Results({**machine, "MLflow server": f"{server.version}, processes: {processes}"}, _content(bulk))
        bench = Bench(server, gms.url, results, options.rounds, options.built_in_rounds)
        bench.warm_up()
        bulk_content(server.database, bulk)
        bench.measure()
    return results


def _machine() -> dict[str, str]:
    """What the figures depend on. Raises StepError when the built-in's environment is not there."""
    if not (BUILT_IN / "bin" / "datahub").exists():
        raise StepError("There is no environment of the built-in. Run `make benchmark`, which builds it.")
    return {
        "processor": f"{os.cpu_count()} cores, {_processor()}",
        "load before": f"{os.getloadavg()[0]:.2f} (of the last minute; the figures want an idle machine)",
        "system": platform.platform(),
        "Python": platform.python_version(),
        "ours": f"datahub-mlflow-source {version('datahub-mlflow-source')}, acryl-datahub {version('acryl-datahub')}",
        "built-in": _built_in_versions(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() knows nothing on Linux
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _built_in_versions() -> str:
    code = (
        "import platform; from importlib.metadata import version; print('acryl-datahub', version('acryl-datahub') "
        "+ ', mlflow-skinny', version('mlflow-skinny') + ', Python', platform.python_version())"
    )
    command = [str(BUILT_IN / "bin" / "python"), "-c", code]
    return subprocess.run(command, env=environment(), check=True, capture_output=True, text=True).stdout.strip()


def _content(bulk: Bulk) -> str:
    return (
        f"{bulk.experiments} experiments, {bulk.runs:,} runs ({bulk.params} params, {bulk.metrics} metrics, "
        f"{bulk.tags} tags and a dataset each), {bulk.models} models x {bulk.versions} versions"
    )


if __name__ == "__main__":
    sys.exit(main())
