"""Model versions, waiting for the run they came from to pass by."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

from datahub.utilities.file_backed_collections import FileBackedDict

from datahub_mlflow_source.records import ModelVersion

# Before the name of a model, for its versions that came from no run: no run id begins so.
_NO_RUN = "\n"


class VersionIndex:
    """Run id → versions. Read before the runs, so that no run or version needs a request of its own.

    Of each version some 40 bytes stay in memory. The rest does up to so many runs, and is else in a temporary file.
    """

    def __init__(self, runs_in_memory: int) -> None:
        self._of_run: FileBackedDict[list[ModelVersion]] = FileBackedDict(cache_max_size=runs_in_memory)
        self._hashes = array("q")  # of run ids, sorted once all are there: most runs have no version
        self._sorted = True
        self._latest: dict[str, ModelVersion] = {}
        self._jobs: dict[str, list[tuple[int, str]]] = defaultdict(list)

    def close(self) -> None:
        """Removes the temporary file."""
        self._of_run.close()

    def add(self, version: ModelVersion) -> None:
        run_id = version.run_id or _NO_RUN + version.name
        self._of_run.for_mutation(run_id, []).append(version)
        self._hashes.append(hash(run_id))
        self._sorted = False
        latest = self._latest.get(version.name)
        if latest is None or version_number(version) > version_number(latest):
            self._latest[version.name] = version

    def latest(self, model: str) -> str | None:
        """A model's newest version; None where it has none."""
        latest = self._latest.get(model)
        return latest.version if latest else None

    def run_ids(self) -> list[str]:
        """Runs that versions still wait for."""
        return sorted(run_id for run_id in self._of_run if not run_id.startswith(_NO_RUN))

    def of_run(self, run_id: str) -> list[ModelVersion]:
        """The versions that came from this run, by model and number."""
        if not self._may_have(run_id):
            return []
        versions = self._of_run.get(run_id, [])
        return sorted(versions, key=lambda version: (version.name, version_number(version)))

    def take(self, run_id: str) -> list[ModelVersion]:
        """The same; they wait no longer."""
        versions = self.of_run(run_id)
        if versions:
            del self._of_run[run_id]
        return versions

    def take_all(self) -> Iterator[ModelVersion]:
        """Those whose run did not come by, or that have none."""
        for run_id in sorted(self._of_run):
            yield from self.take(run_id)

    def run_sent(self, version: ModelVersion) -> None:
        """Remembers for the model that this version's run is in DataHub."""
        self._jobs[version.name].append((version_number(version), version.run_id))

    def runs_sent(self, model: str) -> list[str]:
        """Runs in DataHub that the model's versions came from, of the latest version first."""
        return list(dict.fromkeys(run_id for _, run_id in sorted(self._jobs[model], reverse=True)))

    def _may_have(self, run_id: str) -> bool:
        """False for nearly all runs without versions, without a look into the file."""
        if not self._sorted:
            self._hashes = array("q", sorted(self._hashes))
            self._sorted = True
        wanted = hash(run_id)
        place = bisect_left(self._hashes, wanted)
        return place < len(self._hashes) and self._hashes[place] == wanted


def version_number(version: ModelVersion) -> int:
    """MLflow counts versions; a registry that names them otherwise sorts them first."""
    return int(version.version) if version.version.isdecimal() else 0
