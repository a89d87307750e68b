# mypy: ignore-errors
# MLflow's client and what it logs have no types.
"""`python -m tests.support.by_client <server>`: content made as people make it, by MLflow's own client.

In a process of its own: the client keeps the server and the open run in the process. Prints what it made, as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

EXPERIMENT = "by client"


def make_by_client(url: str, folder: Path) -> dict[str, Any]:
    """Runs this module against the server at `url`; what it prints. CalledProcessError with its output."""
    environment = {
        **os.environ,
        "HOME": str(folder),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "MPLBACKEND": "agg",
    }
    command = [sys.executable, "-m", "tests.support.by_client", url]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-1000:]}{done.stderr[-4000:]}")
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def _models(made: dict[str, Any]) -> None:
    """Three flavors, of which scikit-learn's has all there is to a model."""
    import mlflow
    import numpy as np
    import pandas as pd
    import statsmodels.api as sm
    from sklearn.linear_model import LogisticRegression

    features = pd.DataFrame({"tenure": [1.0, 2.0, 3.0, 4.0], "age": [30.0, 41.0, 25.0, 60.0]})
    labels = np.array([0, 0, 1, 1])
    data = mlflow.data.from_pandas(features.assign(left=labels), source="s3://acme/churn.parquet", targets="left")
    with mlflow.start_run(run_name="sklearn", description="By *client*.", tags={"team": "retention"}) as run:
        made["runs"]["sklearn"] = run.info.run_id
        mlflow.log_params({"C": 0.5, "penalty": "l2"})
        mlflow.log_input(data, context="training", tags={"split": "2024"})
        model = LogisticRegression(C=0.5).fit(features, labels)
        info = mlflow.sklearn.log_model(
            model,
            name="classifier",
            signature=mlflow.models.infer_signature(features, labels, params={"threshold": 0.5}),
            input_example=features.head(1),
            registered_model_name="client-churn",
            params={"solver": "lbfgs"},
            tags={"stage of life": "young"},
            model_type="classifier",
            metadata={"owner": "ada"},
        )
        made["models"]["sklearn"] = info.model_uri
        for step in range(3):
            values = {"auc": 0.7 + step / 10, "loss": 1.0 - step / 10}
            mlflow.log_metrics(values, step=step, model_id=info.model_id, dataset=data)
        mlflow.models.evaluate(
            info.model_uri, features.assign(left=labels), targets="left", model_type="classifier",
            evaluator_config={"log_explainer": False, "log_model_explainability": False},
        )  # fmt: skip
    with mlflow.start_run(run_name="statsmodels") as run:
        made["runs"]["statsmodels"] = run.info.run_id
        fitted = sm.OLS(np.array([1.0, 2.0, 3.0]), np.array([[1.0], [2.0], [3.0]])).fit()
        info = mlflow.statsmodels.log_model(fitted, name="line", registered_model_name="client-line")
        made["models"]["statsmodels"] = info.model_uri

    class Doubles(mlflow.pyfunc.PythonModel):
        """As small as a model can be."""

        def predict(self, context, model_input):  # noqa: ARG002
            return model_input * 2

    with mlflow.start_run(run_name="pyfunc") as run:
        made["runs"]["pyfunc"] = run.info.run_id
        info = mlflow.pyfunc.log_model(name="doubles", python_model=Doubles(), pip_requirements=["numpy"])
        made["models"]["pyfunc"] = info.model_uri
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("client-churn", "champion", "1")
    client.update_registered_model("client-churn", description="Who leaves.")
    client.set_model_version_tag("client-churn", "1", "approved by", "grace")


def _evaluation(made: dict[str, Any]) -> None:
    """A dataset, a scorer of code, and what it says of two answers."""
    import mlflow
    from mlflow.genai.datasets import create_dataset
    from mlflow.genai.scorers import scorer

    @scorer
    def exact(outputs: str, expectations: dict[str, Any]) -> bool:
        return bool(outputs == expectations["answer"])

    dataset = create_dataset(name="client-questions", experiment_id=made["experiment_id"], tags={"team": "desk"})
    records = [
        {"inputs": {"question": "What is churn?"}, "expectations": {"answer": "Leaving."}},
        {"inputs": {"question": "Why?"}, "expectations": {"answer": "Who knows."}},
    ]
    dataset.merge_records(records)
    made["evaluation_dataset"] = dataset.dataset_id
    found = mlflow.genai.evaluate(data=dataset, predict_fn=lambda question: "Leaving.", scorers=[exact])  # noqa: ARG005
    made["runs"]["evaluation"] = found.run_id


def main() -> None:
    """Makes it."""
    import mlflow

    mlflow.set_tracking_uri(sys.argv[1])
    experiment = mlflow.set_experiment(EXPERIMENT)
    made: dict[str, Any] = {"experiment_id": experiment.experiment_id, "runs": {}, "models": {}}
    _models(made)
    _evaluation(made)
    sys.stdout.write("\n" + json.dumps(made))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
