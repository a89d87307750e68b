"""`python -m benchmarks.floor <address>`: all runs of an MLflow server, read by `requests` alone and dropped.

Nobody who reads runs over REST, page by page, can be faster than that.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import requests

PAGE_SIZE = 1000  # the connector's own default


def main(address: str) -> dict[str, Any]:
    """How many runs and requests, and seconds."""
    began = time.perf_counter()
    runs, asked = 0, 0
    with requests.Session() as session:

        def search(what: str, body: dict[str, Any]) -> dict[str, Any]:
            nonlocal asked
            asked += 1
            response = session.post(f"{address}/api/2.0/mlflow/{what}/search", json=body, timeout=120)
            response.raise_for_status()
            answer: dict[str, Any] = response.json()
            return answer

        experiments = search("experiments", {"max_results": PAGE_SIZE})["experiments"]
        ids = [experiment["experiment_id"] for experiment in experiments]
        query: dict[str, Any] = {"experiment_ids": ids, "max_results": PAGE_SIZE, "order_by": ["run_id"]}
        token: str | None = ""
        while token is not None:
            page = search("runs", query | ({"page_token": token} if token else {}))
            runs += len(page.get("runs", []))
            token = page.get("next_page_token")
    return {"seconds": time.perf_counter() - began, "runs": runs, "requests": asked}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
