"""Three teams train small models with scikit-learn and leave in MLflow what teams leave there.

`python -m demo.seed FOLDER` fills the server that MLFLOW_TRACKING_URI names; FOLDER takes the CSV
files that the runs read. All training is real, on data that scikit-learn ships; what is made up is
the story around it: team names, commits and the two places (S3, a website) where data is said to
come from, which MLflow notes and never opens.
"""

# scikit-learn has neither types nor stubs.
# mypy: disable-error-code="import-untyped"
from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.data.numpy_dataset import from_numpy
from mlflow.data.pandas_dataset import from_pandas
from mlflow.models import infer_signature
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.metrics import f1_score, root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SEED = 7
# Inferring what a model needs starts a process of its own for each of them: ten seconds a model.
REQUIREMENTS = ["scikit-learn"]
# MLflow reads a model back after saving it, and refuses trees unless told who made them: we did, just now.
TRUSTED_TYPES = ["sklearn.tree._tree.Tree"]


@dataclass(frozen=True, slots=True)
class Team:
    """Who trains, and from which checkout: what MLflow's own tags say about a run."""

    user: str
    repository: str
    commit: str
    script: str

    @property
    def tags(self) -> dict[str, str]:
        """The tags that MLflow itself writes when training is started from a git checkout."""
        return {
            "mlflow.user": self.user,
            "mlflow.source.name": self.script,
            "mlflow.source.type": "JOB",
            "mlflow.source.git.commit": self.commit,
            "mlflow.source.git.branch": "main",
            "mlflow.source.git.repoURL": self.repository,
        }

    def run(self, name: str, note: str = "", **tags: str) -> mlflow.ActiveRun:
        """A run of this team's, nested if another is open."""
        nested = mlflow.active_run() is not None
        return mlflow.start_run(run_name=name, description=note, nested=nested, tags=self.tags | tags)


def experiment(name: str, note: str, **tags: str) -> None:
    """Make an experiment and have the next runs go there."""
    mlflow.set_experiment(name)
    mlflow.set_experiment_tags({"mlflow.note.content": note, **tags})


def registered(name: str, description: str, **tags: str) -> None:
    """Make a registered model that has no version yet."""
    mlflow.MlflowClient().create_registered_model(name, tags=tags, description=description)


def register(model: Any, example: Any, name: str, description: str, *aliases: str) -> str:
    """Log the model in the open run as a new version of `name`; its version number."""
    info = mlflow.sklearn.log_model(
        model,
        name="model",
        signature=infer_signature(example, model.predict(example)),
        pip_requirements=REQUIREMENTS,
        skops_trusted_types=TRUSTED_TYPES,
        registered_model_name=name,
    )
    version = str(info.registered_model_version)
    client = mlflow.MlflowClient()
    client.update_model_version(name, version, description)
    for alias in aliases:
        client.set_registered_model_alias(name, alias, version)
    return version


def tumour_screening(folder: Path) -> str:
    """A baseline and a sweep of random forests; the sweep's two best are registered."""
    team = Team(
        user="maria.keller",
        repository="https://github.com/example-clinic/tumour-screening.git",
        commit="4f0d6c1be92a7d35c8e1f7a90b6d2e4c8f135a7b",
        script="train_forest.py",
    )
    name = "tumour-classifier"
    experiment("tumour-screening", "Is a tumour malignant? From a biopsy.", team="diagnostics")
    registered(name, "Malignant or benign, from thirty measurements of a biopsy.", risk="high", owner="maria")
    train, validation, inputs = screening_data(folder)

    def fit(model: Any) -> tuple[float, Any]:
        """Train on one file, measure on the other; the accuracy and the model."""
        for dataset, context in inputs:
            mlflow.log_input(dataset, context)
        model.fit(train.drop(columns="malignant"), train["malignant"])
        predicted = model.predict(validation.drop(columns="malignant"))
        accuracy = float(np.mean(predicted == validation["malignant"]))
        mlflow.log_metrics({"accuracy": accuracy, "f1": float(f1_score(validation["malignant"], predicted))})
        return accuracy, model

    with team.run("baseline", "The model to beat.", purpose="baseline"):
        mlflow.log_params({"model": "logistic regression", "C": 0.01})
        _, model = fit(make_pipeline(StandardScaler(), LogisticRegression(C=0.01)))
        first = register(model, train.drop(columns="malignant"), name, "Logistic regression, for comparison.")

    results = []
    with team.run("forest-sweep", "How deep should the trees be?", purpose="sweep"):
        mlflow.log_param("depths", "2, 4, 8")
        for depth in (2, 4, 8):
            with team.run(f"forest-depth-{depth}") as child:
                mlflow.log_params({"model": "random forest", "max_depth": depth, "n_estimators": 20})
                accuracy, model = fit(RandomForestClassifier(20, max_depth=depth, random_state=SEED))
                results.append((accuracy, depth, model, child.info.run_id))
        mlflow.log_metric("best_accuracy", max(results)[0])

    results.sort(key=lambda result: result[0])
    for (_, depth, model, run_id), alias in zip(results[-2:], ("challenger", "champion"), strict=True):
        with mlflow.start_run(run_id=run_id):
            latest = register(model, train.drop(columns="malignant"), name, f"Forest, depth {depth}.", alias)
    client = mlflow.MlflowClient()
    client.transition_model_version_stage(name, first, "Archived")
    client.transition_model_version_stage(name, latest, "Production")
    return f"5 runs, three of them in a sweep; {name}: 3 versions"


def screening_data(folder: Path) -> tuple[Any, Any, list[tuple[Any, str]]]:
    """Breast cancer measurements as two CSV files; the two tables, and both as dataset inputs."""
    table = load_breast_cancer(as_frame=True).frame.rename(columns={"target": "malignant"})
    table["malignant"] = 1 - table["malignant"]  # scikit-learn's 1 means benign
    tables = train_test_split(table, random_state=SEED)
    inputs = []
    for part, context, rows in zip(("train", "validation"), ("training", "validation"), tables, strict=True):
        path = folder / f"biopsies_{part}.csv"
        rows.to_csv(path, index=False)
        dataset = from_pandas(rows, source=str(path), name=f"biopsies-{part}", targets="malignant")
        inputs.append((dataset, context))
    return *tables, inputs


def cheque_digits() -> str:
    """A linear reader of digits, trained epoch by epoch: metrics over steps, data from S3."""
    team = Team(
        user="jonas.weber",
        repository="https://github.com/example-bank/cheque-digits.git",
        commit="b81c55d3e0f94a6278d1c0aa47be9f3215e6d804",
        script="jobs/train_reader.py",
    )
    name = "digit-reader"
    experiment("cheque-digits", "Read the amount on a scanned cheque, digit by digit.", team="payments")
    registered(name, "One handwritten digit, from a scan of 8 x 8 pixels.", risk="medium", owner="jonas")
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(digits.data, digits.target, random_state=SEED)
    scans = "s3://cheque-scans/2026-09/digits"
    inputs = (
        (from_numpy(train_x, f"{scans}/train.npz", targets=train_y, name="digits-train"), "training"),
        (from_numpy(test_x, f"{scans}/test.npz", targets=test_y, name="digits-test"), "validation"),
    )
    for epochs, alias in ((2, "previous"), (12, "champion")):
        with team.run(f"sgd-{epochs}-epochs", camera="flatbed"):
            for dataset, context in inputs:
                mlflow.log_input(dataset, context)
            mlflow.log_params({"epochs": epochs, "alpha": 0.01, "loss": "log_loss"})
            model = SGDClassifier(loss="log_loss", alpha=0.01, random_state=SEED)
            for epoch in range(epochs):
                model.partial_fit(train_x, train_y, classes=digits.target_names)
                mlflow.log_metric("training_accuracy", model.score(train_x, train_y), step=epoch)
                mlflow.log_metric("accuracy", model.score(test_x, test_y), step=epoch)
            register(model, train_x, name, f"Stochastic gradient descent, {epochs} epochs.", alias)
    return f"2 runs, metrics by epoch; {name}: 2 versions"


def disease_progression() -> str:
    """Two boosted regressions, and a third model that a gap in the data makes fail."""
    team = Team(
        user="aisha.rahman",
        repository="https://github.com/example-clinic/disease-progression.git",
        commit="0c9e7f12ab3d48566e1f7b90d2c4a8135f7be6d9",
        script="notebooks/boosting.py",
    )
    name = "progression-forecast"
    experiment("disease-progression", "How far will diabetes have gone in a year?", team="research")
    registered(name, "Progression of diabetes one year ahead (25 to 346).", risk="high", owner="aisha")
    x, y = load_diabetes(return_X_y=True, as_frame=True)
    train_x, test_x, train_y, test_y = train_test_split(x, y, random_state=SEED)
    source = "https://www4.stat.ncsu.edu/~boos/var.select/diabetes.tab.txt"  # where scikit-learn has it from
    dataset = from_pandas(train_x.assign(y=train_y), source=source, targets="y", name="diabetes")

    for rate, alias in ((0.3, "challenger"), (0.05, "champion")):
        with team.run(f"boosting-rate-{rate}"):
            mlflow.log_input(dataset, "training")
            model = GradientBoostingRegressor(learning_rate=rate, n_estimators=60, random_state=SEED)
            mlflow.log_params({"learning_rate": rate, "n_estimators": 60})
            model.fit(train_x, train_y)
            for trees, predicted in enumerate(model.staged_predict(test_x), start=1):
                if trees % 10 == 0:
                    mlflow.log_metric("rmse", float(root_mean_squared_error(test_y, predicted)), step=trees)
            register(model, train_x, name, f"Boosted trees, learning rate {rate}.", alias)

    # The error leaves the run's body, as in anybody's script, and MLflow marks the run as failed.
    with suppress(ValueError), team.run("ridge-new-clinic", "First try with the new clinic's records."):
        mlflow.log_input(dataset, "training")
        mlflow.log_param("alpha", 1.0)
        Ridge(alpha=1.0).fit(train_x.where(train_x["bmi"] < 0.1), train_y)  # refuses the gaps
    return f"3 runs, one of them failed; {name}: 2 versions"


def main() -> None:
    """Fill the server, with a line for each experiment."""
    folder = Path(sys.argv[1])
    print(f"  tumour-screening: {tumour_screening(folder)}", flush=True)
    print(f"  cheque-digits: {cheque_digits()}", flush=True)
    print(f"  disease-progression: {disease_progression()}", flush=True)


if __name__ == "__main__":
    main()
