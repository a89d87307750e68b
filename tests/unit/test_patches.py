"""Tags of people stay wherever a patch is understood: with DataHub's server, and through Kafka."""

from __future__ import annotations

import pytest
from datahub.ingestion.api.common import PipelineContext
from datahub.ingestion.run.pipeline_config import PipelineConfig

from datahub_mlflow_source.source import MlflowSource

TYPE = "datahub-mlflow-source"


@pytest.mark.parametrize(
    ("sink", "patches"), [("datahub-kafka", True), ("file", False), ("datahub-lite", False), ("console", False)]
)
def test_without_a_server_to_ask_it_goes_by_the_sink(sink: str, patches: bool) -> None:
    config = {"tracking_uri": "http://mlflow.test"}
    recipe = PipelineConfig.model_validate({"source": {"type": TYPE, "config": config}, "sink": {"type": sink}})
    source = MlflowSource.create(config, PipelineContext("run", pipeline_config=recipe))
    assert isinstance(source, MlflowSource)
    assert source._patches_are_taken() is patches
    source.close()
