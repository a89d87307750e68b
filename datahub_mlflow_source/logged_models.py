"""Logged models, waiting for the version that was made of them, or for the run that logged them."""

from __future__ import annotations

from collections.abc import Iterator

from datahub.utilities.file_backed_collections import FileBackedDict

from datahub_mlflow_source.records import LoggedModel, ModelVersion
from datahub_mlflow_source.versions import ByRun, HashSet

_NO_RUN = "\n"  # before the id of one that was logged outside a run: no run id begins so
_IN_MEMORY = 2000  # of each of the three: some 10 KB each, with params, metrics and tags


class LoggedModelIndex:
    """Read before the runs, as versions are. Most of them are in temporary files."""

    def __init__(self, most_per_run: int, in_memory: int = _IN_MEMORY) -> None:
        """`most_per_run`: so many models of their own are kept of one run, the latest."""
        self._most_per_run = most_per_run
        self._registered: FileBackedDict[LoggedModel] = FileBackedDict(cache_max_size=in_memory)
        self._by_run: ByRun[LoggedModel] = ByRun(in_memory, _latest_first)
        self._version_of: FileBackedDict[tuple[str, str]] = FileBackedDict(cache_max_size=in_memory)
        self._of_their_own = HashSet()

    def close(self) -> None:
        """Removes the temporary files."""
        self._registered.close()
        self._by_run.close()
        self._version_of.close()

    def add_version(self, version: ModelVersion) -> None:
        """That was made of one, the first of several."""
        if version.model_id and version.model_id not in self._version_of:
            self._version_of[version.model_id] = (version.full_name, version.version)

    def version_of(self, model_id: str) -> tuple[str, str] | None:
        """Full name and number of the version that was made of it."""
        return self._version_of.get(model_id)

    def add_of_its_own(self, model_id: str) -> None:
        """One that is sent as a model of its own, by whatever shard."""
        self._of_their_own.add(model_id)

    def is_of_its_own(self, model_id: str) -> bool:
        """Whether it is."""
        return self._of_their_own.may_have(model_id)

    def add_registered(self, model: LoggedModel) -> None:
        """One that a version was made of."""
        self._registered[model.model_id] = model

    def registered(self, model_id: str) -> LoggedModel | None:
        """What such a version was made of; None where nobody knows."""
        return self._registered.get(model_id) if model_id else None

    def add(self, model: LoggedModel) -> bool:
        """One that is a model of its own. False where the run now has one too many, and the oldest is left out."""
        models = self._by_run.for_adding(model.source_run_id or _NO_RUN + model.model_id)
        models.append(model)
        if len(models) <= self._most_per_run:
            return True
        models.sort(key=_latest_first)
        models.pop()
        return False

    def of_run(self, run_id: str) -> list[LoggedModel]:
        """The models of their own that this run logged, the latest first."""
        return self._by_run.of(run_id)

    def take(self, run_id: str) -> list[LoggedModel]:
        """The same; they wait no longer."""
        return self._by_run.take(run_id)

    def take_all(self) -> Iterator[LoggedModel]:
        """Those whose run did not come by, or that have none."""
        return self._by_run.take_all()


def _latest_first(model: LoggedModel) -> tuple[int, str]:
    return -(model.creation_time or 0), model.model_id
