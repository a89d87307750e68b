"""Model versions, waiting for the run they came from to pass by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from datahub_mlflow_source.records import ModelVersion


class VersionIndex:
    """Run id → versions. Read before the runs, so that no run or version needs a request of its own."""

    def __init__(self) -> None:
        self._of_run: dict[str, list[ModelVersion]] = defaultdict(list)
        self._latest: dict[str, ModelVersion] = {}
        self._jobs: dict[str, list[tuple[int, str]]] = defaultdict(list)

    def add(self, version: ModelVersion) -> None:
        self._of_run[version.run_id].append(version)
        latest = self._latest.get(version.name)
        if latest is None or version_number(version) > version_number(latest):
            self._latest[version.name] = version

    def latest(self, model: str) -> str | None:
        """A model's newest version; None where it has none."""
        latest = self._latest.get(model)
        return latest.version if latest else None

    def run_ids(self) -> list[str]:
        """Runs that versions still wait for."""
        return sorted(run_id for run_id in self._of_run if run_id)

    def of_run(self, run_id: str) -> list[ModelVersion]:
        """The versions that came from this run, by model and number."""
        versions = self._of_run.get(run_id, ())
        return sorted(versions, key=lambda version: (version.name, version_number(version)))

    def take(self, run_id: str) -> list[ModelVersion]:
        """The same; they wait no longer."""
        versions = self.of_run(run_id)
        self._of_run.pop(run_id, None)
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


def version_number(version: ModelVersion) -> int:
    """MLflow counts versions; a registry that names them otherwise sorts them first."""
    return int(version.version) if version.version.isdecimal() else 0
