"""Model versions, waiting for the run they came from to pass by."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from datahub.utilities.file_backed_collections import FileBackedDict

from datahub_mlflow_source.records import ModelVersion

# Before the name of a model, for its versions that came from no run; before the id of a logged model, for those whose
# run that one may know. No run id begins so.
_NO_RUN, _RUN_OF = "\n", "\r"


class VersionIndex:
    """Run id → versions. Read before the runs, so that no run or version needs a request of its own.

    Of each version some 40 bytes stay in memory. The rest does up to so many runs, and is else in a temporary file.
    """

    def __init__(self, runs_in_memory: int) -> None:
        self._of_run: FileBackedDict[list[ModelVersion]] = FileBackedDict(cache_max_size=runs_in_memory)
        self._runs = HashSet()  # most runs have no version
        self._logged_models = HashSet()
        self._latest: dict[str, ModelVersion] = {}
        self._jobs: dict[str, list[tuple[int, str]]] = defaultdict(list)

    def close(self) -> None:
        """Removes the temporary file."""
        self._of_run.close()

    def add(self, version: ModelVersion) -> None:
        without = _RUN_OF + version.model_id if version.model_id else _NO_RUN + version.name
        run_id = version.run_id or without
        self._of_run.for_mutation(run_id, []).append(version)
        self._runs.add(run_id)
        if version.model_id:
            self._logged_models.add(version.model_id)
        latest = self._latest.get(version.name)
        if latest is None or version_number(version) > version_number(latest):
            self._latest[version.name] = version

    def has_registered(self, model_id: str) -> bool:
        """Whether a version was made of this logged model."""
        return self._logged_models.may_have(model_id)

    def lacks_run(self, model_id: str) -> bool:
        """Whether such a version does not say from which run it came."""
        return self._runs.may_have(_RUN_OF + model_id)

    def recover_runs(self, run_of: Mapping[str, str]) -> None:
        """The runs of versions that name none, by their logged models."""
        found = [replace(v, run_id=run_id) for model, run_id in run_of.items() for v in self.take(_RUN_OF + model)]
        for version in found:
            self.add(version)

    def latest(self, model: str) -> str | None:
        """A model's newest version; None where it has none."""
        latest = self._latest.get(model)
        return latest.version if latest else None

    def run_ids(self) -> list[str]:
        """Runs that versions still wait for."""
        return sorted(run_id for run_id in self._of_run if not run_id.startswith((_NO_RUN, _RUN_OF)))

    def of_run(self, run_id: str) -> list[ModelVersion]:
        """The versions that came from this run, by model and number."""
        if not self._runs.may_have(run_id):
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


class HashSet:
    """Of texts: eight bytes for each, sorted once all are there."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._sorted = True

    def add(self, text: str) -> None:
        self._hashes.append(hash(text))
        self._sorted = False

    def may_have(self, text: str) -> bool:
        """False for nearly all that were not added."""
        if not self._sorted:
            self._hashes = array("q", sorted(self._hashes))
            self._sorted = True
        wanted = hash(text)
        place = bisect_left(self._hashes, wanted)
        return place < len(self._hashes) and self._hashes[place] == wanted


def version_number(version: ModelVersion) -> int:
    """MLflow counts versions; a registry that names them otherwise sorts them first."""
    return int(version.version) if version.version.isdecimal() else 0
