"""The framework's ceiling: the connector's own work units, made beforehand."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Iterable
from typing import Any

from datahub.ingestion.api.common import PipelineContext
from datahub.ingestion.api.workunit import MetadataWorkUnit

from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.source import MlflowSource

_END = "end"


class ReplaySource(MlflowSource):
    """Reads and maps when it is made, and only hands out when it is run.

    For all the rest (report, configuration) it is the connector, but for one thing: it goes through all processors of
    the framework, also the one that the connector leaves out.
    """

    def __init__(self, config: MlflowSourceConfig, ctx: PipelineContext) -> None:
        super().__init__(config, ctx)
        self._collected = list(super().get_workunits_internal())
        # Else each full collection walks over all of them, which no pipeline that streams has to.
        gc.collect()
        gc.freeze()

    def get_workunits_internal(self) -> Iterable[MetadataWorkUnit]:
        return iter(self._collected)

    def get_excluded_workunit_processors(self) -> list[Any]:
        return []


class ShortReplaySource(ReplaySource):
    """The same through the processors that the connector goes through: no source can be as fast as this one.

    Its objects are all there, while who streams makes and drops them.
    """

    def get_excluded_workunit_processors(self) -> list[Any]:
        return MlflowSource.get_excluded_workunit_processors(self)


class PipedReplaySource(MlflowSource):
    """The same out of another process, for more than fits into memory.

    For what the framework needs of that, not for its speed: work units are made while earlier ones are handed out.
    """

    def __init__(self, config: MlflowSourceConfig, ctx: PipelineContext) -> None:
        super().__init__(config, ctx)
        receiver, sender = os.pipe()
        if os.fork() == 0:  # and never waited for, or its memory would count as this process's
            os.close(receiver)
            with os.fdopen(sender, "wb") as stream:
                for unit in super().get_workunits_internal():
                    pickle.dump(unit, stream)
                pickle.dump(_END, stream)
            os._exit(0)
        os.close(sender)
        self._stream = os.fdopen(receiver, "rb")

    def get_workunits_internal(self) -> Iterable[MetadataWorkUnit]:
        """Raises EOFError where making them failed."""
        while (unit := pickle.load(self._stream)) != _END:  # noqa: S301 - our own
            yield unit
