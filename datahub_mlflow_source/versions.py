"""Model versions, waiting for the run they came from to pass by."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

from datahub.utilities.file_backed_collections import FileBackedDict

from datahub_mlflow_source.records import ModelVersion

T = TypeVar("T")

# Before the name of a model, for its versions that came from no run; before the id of a logged model, for those whose
# run that one may know. No run id begins so.
_NO_RUN, _RUN_OF = "\n", "\r"


class VersionIndex:
    """Run id → versions. Read before the runs, so that no run or version needs a request of its own.

    Of each version some 50 bytes stay in memory. The rest does up to so many runs, and is else in a temporary file.
    """

    def __init__(self, runs_in_memory: int) -> None:
        self._by_run: ByRun[ModelVersion] = ByRun(runs_in_memory, lambda v: (v.full_name, version_number(v)))
        self._logged_models = HashSet()
        self._all = HashSet()
        self._latest: dict[str, ModelVersion] = {}
        self._jobs: dict[str, list[tuple[int, str]]] = defaultdict(list)

    def close(self) -> None:
        """Removes the temporary file."""
        self._by_run.close()

    def add(self, version: ModelVersion) -> None:
        without = _RUN_OF + version.model_id if version.model_id else _NO_RUN + version.full_name
        run_id = version.run_id or without
        self._by_run.for_adding(run_id).append(version)
        self._all.add(f"{version.full_name}\n{version.version}")
        if version.model_id:
            self._logged_models.add(version.model_id)
        latest = self._latest.get(version.full_name)
        if latest is None or version_number(version) > version_number(latest):
            self._latest[version.full_name] = version

    def has(self, model: str, version: str) -> bool:
        """Whether there is this version of the model, by its full name."""
        return self._all.may_have(f"{model}\n{version}")

    def has_registered(self, model_id: str) -> bool:
        """Whether a version was made of this logged model."""
        return self._logged_models.may_have(model_id)

    def lacks_run(self, model_id: str) -> bool:
        """Whether such a version does not say from which run it came."""
        return self._by_run.may_have(_RUN_OF + model_id)

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
        return sorted(run_id for run_id in self._by_run.run_ids() if not run_id.startswith((_NO_RUN, _RUN_OF)))

    def of_run(self, run_id: str) -> list[ModelVersion]:
        """The versions that came from this run, by model and number."""
        return self._by_run.of(run_id)

    def take(self, run_id: str) -> list[ModelVersion]:
        """The same; they wait no longer."""
        return self._by_run.take(run_id)

    def take_all(self) -> Iterator[ModelVersion]:
        """Those whose run did not come by, or that have none."""
        return self._by_run.take_all()

    def run_sent(self, version: ModelVersion) -> None:
        """Remembers for the model that this version's run is in DataHub."""
        self._jobs[version.full_name].append((version_number(version), version.run_id))

    def runs_sent(self, model: str) -> list[str]:
        """Runs in DataHub that the model's versions came from, of the latest version first."""
        return list(dict.fromkeys(run_id for _, run_id in sorted(self._jobs[model], reverse=True)))


class ByRun(Generic[T]):
    """What waits for its run. So many runs' are in memory, the rest in a temporary file; the ids of all as hashes."""

    def __init__(self, runs_in_memory: int, order: Callable[[T], Any]) -> None:
        """`order`: in which those of one run come."""
        self._lists: FileBackedDict[list[T]] = FileBackedDict(cache_max_size=runs_in_memory)
        self._hashes = HashSet()  # most runs have none
        self._order = order

    def close(self) -> None:
        """Removes the temporary file."""
        self._lists.close()

    def for_adding(self, run_id: str) -> list[T]:
        """Those of this run so far, to be changed at once."""
        self._hashes.add(run_id)
        return self._lists.for_mutation(run_id, [])

    def may_have(self, run_id: str) -> bool:
        """Whether something waits, or waited, for this run."""
        return self._hashes.may_have(run_id)

    def run_ids(self) -> Iterator[str]:
        """Runs that are waited for, in no order."""
        return iter(self._lists)

    def of(self, run_id: str) -> list[T]:
        """Those of this run."""
        return sorted(self._lists.get(run_id, []), key=self._order) if self.may_have(run_id) else []

    def take(self, run_id: str) -> list[T]:
        """The same; they wait no longer."""
        things = self.of(run_id)
        if things:
            del self._lists[run_id]
        return things

    def take_all(self) -> Iterator[T]:
        """All that still wait, run by run."""
        for run_id in sorted(self._lists):
            yield from self.take(run_id)


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
