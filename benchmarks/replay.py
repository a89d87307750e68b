"""The framework's ceiling: the connector's own work units, made beforehand."""

from __future__ import annotations

import gc
import os
import pickle
import tempfile
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


class StoredReplaySource(MlflowSource):
    """The same from a file, for more than fits into memory: for what the framework needs of that, not for its speed."""

    def __init__(self, config: MlflowSourceConfig, ctx: PipelineContext) -> None:
        super().__init__(config, ctx)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the source lives
        # In a process of its own, or what making them took would count as well.
        writer = os.fork()
        if writer == 0:
            for unit in super().get_workunits_internal():
                pickle.dump(unit, self._file)
            self._file.flush()
            os._exit(0)
        if os.waitpid(writer, 0)[1]:
            raise RuntimeError("the work units could not be made")
        self._file.seek(0)

    def get_workunits_internal(self) -> Iterable[MetadataWorkUnit]:
        while True:
            try:
                yield pickle.load(self._file)  # noqa: S301 - our own
            except EOFError:
                return
