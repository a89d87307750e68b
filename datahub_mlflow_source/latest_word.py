"""What several runs say about one entity: the latest run's word stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from datahub.utilities.file_backed_collections import FileBackedDict

from datahub_mlflow_source.records import Run

T = TypeVar("T")

# With their schemas, a thousand datasets may be a gigabyte: the rest is in a temporary file.
_IN_MEMORY = 1000

SaidAt = tuple[int, str]  # start of the run, and its id


class LatestWord(Generic[T]):
    """By URN, until all runs have spoken."""

    def __init__(self) -> None:
        self._said: FileBackedDict[tuple[SaidAt, T]] = FileBackedDict(cache_max_size=_IN_MEMORY)

    def hear(self, urn: str, run: Run, word: T) -> None:
        """What this run says."""
        said_at = (run.start_time or 0, run.run_id)
        known = self._said.get(urn)
        if known is None or known[0] <= said_at:
            self._said[urn] = (said_at, word)

    def __iter__(self) -> Iterator[tuple[str, SaidAt, T]]:
        """Each once, and when that was said about it."""
        for urn, (said_at, word) in self._said.items():
            yield urn, said_at, word

    def close(self) -> None:
        """Removes the temporary file."""
        self._said.close()
