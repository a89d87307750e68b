"""`python -m benchmarks.read_store <address>`: all runs of a database by MLflow's own store, dropped."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from mlflow.entities import ViewType
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

PAGE_SIZE = 1000  # as all others


def main(address: str) -> dict[str, Any]:
    """How many runs, and seconds: opening the store, which looks whether the schema is its own, is not among them."""
    store: Any = SqlAlchemyStore(address, "mlflow-artifacts:/")  # type: ignore[no-untyped-call]
    began = time.perf_counter()
    ids = [experiment.experiment_id for experiment in store.search_experiments(view_type=ViewType.ALL)]
    runs, token = 0, None
    while True:
        page = store.search_runs(ids, "", ViewType.ACTIVE_ONLY, PAGE_SIZE, ["attributes.run_id ASC"], token)
        runs, token = runs + len(page), page.token
        if not token:
            return {"seconds": time.perf_counter() - began, "runs": runs}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
