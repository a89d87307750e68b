"""`python -m benchmarks.read_files <address> <versions>`: signatures one by one, as people read them.

By MLflow's own client; each is fetched, parsed and dropped.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import mlflow


def main(address: str, most: int) -> dict[str, Any]:
    """How many files, and seconds."""
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    mlflow.set_tracking_uri(address)
    versions = mlflow.MlflowClient().search_model_versions(max_results=most)
    began = time.perf_counter()
    signatures = [mlflow.models.get_model_info(f"models:/{each.name}/{each.version}").signature for each in versions]
    return {"seconds": time.perf_counter() - began, "files": sum(map(bool, signatures))}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
