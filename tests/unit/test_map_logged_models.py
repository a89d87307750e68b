"""Logged models become models of DataHub, or part of the version that was made of one."""

from __future__ import annotations

from typing import Any

import pytest
from datahub.metadata.schema_classes import (
    ContainerClass,
    DeprecationClass,
    MLModelPropertiesClass,
    SourceCodeClass,
    SubTypesClass,
    TrainingDataClass,
)
from datahub.metadata.urns import MlModelUrn

from datahub_mlflow_source.mapping.datasets import input_dataset
from datahub_mlflow_source.mapping.logged_models import is_ours, map_logged_model, superseded
from datahub_mlflow_source.mapping.models import map_version
from datahub_mlflow_source.mapping.rules import Entity, Limits, Rules, Web
from datahub_mlflow_source.mapping.runs import map_run
from datahub_mlflow_source.mapping.urns import Naming, experiment_urn, registry_urn, run_urn
from datahub_mlflow_source.records import LoggedModel, Metric, Run
from tests.unit.entities import aspect, assert_accepted, names
from tests.unit.records import (
    END,
    MODEL_ID,
    RUN_ID,
    make_dataset_input,
    make_experiment,
    make_logged_model,
    make_metric,
    make_model_metric,
    make_run,
    make_version,
)

RULES = Rules(web=Web("https://mlflow.example.com"))
OTHER_RUN = "f" * 32


def own(record: LoggedModel, run: Run | None = None, rules: Rules = RULES, *, run_is_emitted: bool = True) -> Entity:
    inputs = [input_dataset(dataset, make_experiment(), rules) for dataset in run.datasets] if run else []
    return map_logged_model(record, run, run is not None and run_is_emitted, None, inputs, make_experiment(), rules)


def folded(record: LoggedModel, run: Run | None = None, rules: Rules = RULES) -> Entity:
    version = make_version(source=f"models:/{record.model_id}", model_id=record.model_id)
    return map_version(version, run, run is not None, record, None, [], [], registry_urn(rules.naming), rules)


def properties(entity: Entity) -> dict[str, Any]:
    found = aspect(entity, MLModelPropertiesClass).to_obj()
    assert isinstance(found, dict)
    return found


def metrics(entity: Entity) -> list[tuple[str, str, str]]:
    return [(m["name"], m["value"], m["description"]) for m in properties(entity)["trainingMetrics"]]


class TestOnItsOwn:
    def test_it_is_a_model_in_its_experiment(self) -> None:
        entity = own(make_logged_model())
        assert str(entity.urn) == f"urn:li:mlModel:(urn:li:dataPlatform:mlflow,{MODEL_ID},PROD)"
        assert aspect(entity, SubTypesClass).typeNames == ["ML Logged Model"]
        assert aspect(entity, ContainerClass).container == str(experiment_urn("churn", RULES.naming))
        assert names(entity) == ["mlModelProperties", "container", "subTypes", "dataPlatformInstance"]

    def test_what_it_has_is_shown(self) -> None:
        record = make_logged_model(
            model_type="agent",
            status="FAILED",
            status_message="disk full",
            params={"depth": "7"},
            metrics=(make_model_metric("auc", 0.5, step=3),),
            tags={"team": "risk", "mlflow.user": "grace", "mlflow.note.content": "Half-way."},
        )
        found = properties(own(record))
        assert found["name"] == "classifier"
        assert found["description"] == "Half-way."
        assert found["externalUrl"] == f"https://mlflow.example.com/#/experiments/1/models/{MODEL_ID}"
        assert found["created"] == {"time": END, "actor": "urn:li:corpuser:grace"}
        assert found["hyperParams"] == [{"name": "depth", "value": "7"}]
        assert metrics(own(record)) == [("auc", "0.5", "step 3")]
        assert found["customProperties"] == {
            "team": "risk",
            "mlflow.user": "grace",
            "mlflow.note.content": "Half-way.",
            "mlflow_source.model_id": MODEL_ID,
            "mlflow_source.name": "classifier",
            "mlflow_source.experiment_id": "1",
            "mlflow_source.run_id": RUN_ID,
            "mlflow_source.model_type": "agent",
            "mlflow_source.status": "FAILED",
            "mlflow_source.status_message": "disk full",
            "mlflow_source.artifact_uri": f"mlflow-artifacts:/1/models/{MODEL_ID}/artifacts",
        }

    def test_its_run_says_from_what_it_was_made_and_by_whom(self) -> None:
        tags = {"mlflow.source.git.repoURL": "https://github.com/acme/churn", "mlflow.source.git.commit": "4f1a6a2f"}
        run = make_run(datasets=(make_dataset_input(),), tags=tags)
        entity = own(make_logged_model(), run)
        assert properties(entity)["trainingJobs"] == [str(run_urn(RUN_ID, RULES.naming))]
        assert properties(entity)["created"]["actor"] == "urn:li:corpuser:ada"
        assert len(aspect(entity, TrainingDataClass).trainingData) == 1
        assert aspect(entity, SourceCodeClass).sourceCode[0].sourceCodeUrl.startswith("https://github.com/acme/churn")
        assert properties(own(make_logged_model(), run, run_is_emitted=False))["trainingJobs"] == []

    def test_an_instance_is_in_its_urn(self) -> None:
        rules = Rules(naming=Naming(env="DEV", platform_instance="eu"))
        assert str(own(make_logged_model(), rules=rules).urn) == (
            f"urn:li:mlModel:(urn:li:dataPlatform:mlflow,eu.{MODEL_ID},DEV)"
        )

    def test_its_run_leads_to_it(self) -> None:
        entity = map_run(make_run(), make_experiment(), [make_version()], [make_logged_model()], [], [], RULES)
        edges = entity.aspects[-1].to_obj()["outputEdges"]
        assert [edge["destinationUrn"] for edge in edges][1:] == [str(own(make_logged_model()).urn)]

    def test_datahub_takes_it(self) -> None:
        record = make_logged_model(
            name="a, (b) 模型", metrics=(make_model_metric("loss", float("nan")),), tags={"signature.inputs": "theirs"}
        )
        assert_accepted(own(record, make_run(datasets=(make_dataset_input(),))))
        assert_accepted(superseded(MODEL_ID, MlModelUrn("mlflow", "churn-model_1", "PROD"), RULES))


class TestInItsVersion:
    def test_its_tags_and_fields_are_custom_properties(self) -> None:
        record = make_logged_model(tags={"team": "risk"}, model_type="agent", status_message="ok")
        found = properties(folded(record))["customProperties"]
        assert found["mlflow_source.model_id"] == MODEL_ID
        assert found["mlflow_source.logged_model_name"] == "classifier"
        assert found["mlflow_source.logged_model.team"] == "risk"
        assert found["mlflow_source.model_type"] == "agent"
        assert found["mlflow_source.logged_model_status"] == "READY"
        assert found["mlflow_source.logged_model_status_message"] == "ok"
        assert found["mlflow_source.artifact_uri"].endswith(f"{MODEL_ID}/artifacts")

    def test_its_params_join_those_of_the_run(self) -> None:
        run = make_run(params={"depth": "7", "rate": "0.1"})
        found = properties(folded(make_logged_model(params={"depth": "8", "trees": "100"}), run))
        assert [(p["name"], p["value"]) for p in found["hyperParams"]] == [
            ("depth", "8"),
            ("rate", "0.1"),
            ("trees", "100"),
        ]

    def test_without_its_run_it_still_has_them(self) -> None:
        record = make_logged_model(params={"trees": "100"}, metrics=(make_model_metric("auc", 0.5),))
        entity = folded(record)
        assert properties(entity)["hyperParams"] == [{"name": "trees", "value": "100"}]
        assert metrics(entity) == [("auc", "0.5", "step 0")]

    @pytest.mark.parametrize(
        ("of_run", "of_model", "shown"),
        [
            ([make_metric("auc", 0.5)], [make_model_metric("auc", 0.5)], [("auc", "0.5", "step 0")]),
            ([make_metric("loss", float("nan"))], [make_model_metric("loss", 0.0)], [("loss", "nan", "step 0")]),
            (
                [make_metric("auc", 0.5, step=9)],
                [make_model_metric("auc", 0.4)],
                [("auc", "0.5", "step 9"), ("auc", "0.4", "step 0")],
            ),
            (
                [make_metric("auc", 0.5), make_metric("b", 1.0)],
                [make_model_metric("auc", 0.5, dataset_name="holdout", dataset_digest="abcd")],
                [("auc", "0.5", "step 0, on holdout (abcd)"), ("b", "1.0", "step 0")],
            ),
            (
                [],
                [make_model_metric("auc", 0.5, run_id=OTHER_RUN, dataset_name="holdout")],
                [("auc", "0.5", f"step 0, on holdout, by run {OTHER_RUN}")],
            ),
            (
                [make_metric("auc", 0.5)],
                [make_model_metric("auc", 0.5, dataset_name=name) for name in ("a", "b")],
                [("auc", "0.5", "step 0, on a"), ("auc", "0.5", "step 0, on b")],
            ),
        ],
        ids=[
            "the same",
            "NaN, which MLflow copies as 0",
            "another step",
            "of a dataset",
            "of another run",
            "of two datasets",
        ],
    )
    def test_metrics_of_both_are_shown_once(
        self, of_run: list[Metric], of_model: list[Any], shown: list[tuple[str, str, str]]
    ) -> None:
        entity = folded(make_logged_model(metrics=tuple(of_model)), make_run(metrics=tuple(of_run)))
        assert metrics(entity) == shown

    def test_its_limits_are_those_of_all(self) -> None:
        limits = Limits(max_params=1, max_metrics=1, max_tags=1)
        record = make_logged_model(
            params={"a": "1", "b": "2"},
            metrics=(make_model_metric("m1"), make_model_metric("m2")),
            tags={"t1": "", "t2": ""},
        )
        entity = folded(record, rules=Rules(limits=limits))
        assert entity.cut == ["tags of the logged model: 2, 1 sent", "params: 2, 1 sent", "metrics: 2, 1 sent"]


def test_credentials_that_somebody_logged_never_come_out() -> None:
    record = make_logged_model(
        tags={"db_password": "hunter2", "url": "https://ada:hunter2@host/x", "mlflow.source.git.diff": "+hunter2"},
        params={"api_key": "hunter2"},
        metrics=(make_model_metric(dataset_name="ftp://ada:hunter2@host/x.csv", dataset_digest="d"),),
    )
    for entity in (own(record), folded(record)):
        assert "hunter2" not in str([found.to_obj() for found in entity.aspects])


def test_one_that_was_registered_leads_to_its_version() -> None:
    version = MlModelUrn("mlflow", "churn-model_1", "PROD")
    deprecation = aspect(superseded(MODEL_ID, version, RULES), DeprecationClass)
    assert deprecation.deprecated
    assert deprecation.replacement == str(version)
    assert is_ours(deprecation)
    theirs = DeprecationClass(deprecated=True, note="Too old.", actor="urn:li:corpuser:grace")
    assert not is_ours(theirs)
