"""`python -m benchmarks.read_sql <address>`: all runs of a database by the connector's reader, dropped."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from datahub_mlflow_source.backend_store import database_connection
from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.readers.base import RunScope
from datahub_mlflow_source.readers.sql import SqlReader
from datahub_mlflow_source.records import Experiment


def main(address: str) -> dict[str, Any]:
    """How many runs and statements, and seconds."""
    config = MlflowSourceConfig()
    connection, _ = database_connection("backend_store_uri", address, config)
    began = time.perf_counter()
    reader = SqlReader(connection, connection, config.page_size)
    reader.check()
    ids = [found.experiment_id for found in reader.experiments() if isinstance(found, Experiment)]
    runs = sum(1 for _ in reader.runs(ids, RunScope()))
    seconds = time.perf_counter() - began
    reader.close()
    return {"seconds": seconds, "runs": runs, "requests": reader.requests_sent}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
