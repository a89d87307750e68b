"""The framework's ceiling: the connector's own work units, made beforehand."""

from __future__ import annotations

import gc
from collections.abc import Iterable

from datahub.ingestion.api.common import PipelineContext
from datahub.ingestion.api.workunit import MetadataWorkUnit

from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.source import MlflowSource


class ReplaySource(MlflowSource):
    """Reads and maps when it is made, and only hands out when it is run.

    For all the rest (work unit processors, report, configuration) it is the connector.
    """

    def __init__(self, config: MlflowSourceConfig, ctx: PipelineContext) -> None:
        super().__init__(config, ctx)
        self._collected = list(super().get_workunits_internal())
        # Else each full collection walks over all of them, which no pipeline that streams has to.
        gc.collect()
        gc.freeze()

    def get_workunits_internal(self) -> Iterable[MetadataWorkUnit]:
        return iter(self._collected)
