"""How far the runs are: told in the log and the report every few seconds, for ingestions that take hours."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from datahub_mlflow_source.readers.base import WHOLE, Shard
from datahub_mlflow_source.records import Run

if TYPE_CHECKING:
    from datahub_mlflow_source.report import MlflowSourceReport

logger = logging.getLogger(__name__)

_TOLD_EVERY_SECONDS = 5.0
_NOTED_EVERY_SECONDS = 0.5  # for who shows a bar
MOST_EXPERIMENTS = 50  # in the report, those with the most runs first


class Progress:
    """Of one walk over runs, ordered by their ids."""

    def __init__(
        self,
        report: MlflowSourceReport,
        names: Mapping[str, str],
        counts: Mapping[str, int] | None,
        shard: Shard = WHOLE,
        *,
        in_order: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`names` and `counts` are of experiments, by id: how many runs each has; None where nobody knows.

        `in_order`: they come by their ids, of which each is as far in all of them as it says.
        Who counts runs, cuts them by their ids too: then what comes before a run is not all of its shard.
        """
        self._report, self._names, self._counts, self._clock = report, names, counts, clock
        self._in_order = in_order
        self._shard = shard if counts is not None else WHOLE
        self._read: Counter[str] = Counter()
        self._began = self._told = self._noted = clock()

    def passed(self, run: Run) -> None:
        """One more."""
        self._read[run.experiment_id] += 1
        now = self._clock()
        if now - self._noted < _NOTED_EVERY_SECONDS:
            return
        self._noted = now
        share = share_before(run.run_id) if self._in_order else None
        share = None if share is None else min(max(share * self._shard.count - self._shard.index, 0.0), 1.0)
        self._report.share_of_runs = share or 0.0
        if now - self._told >= _TOLD_EVERY_SECONDS:
            self._told = now
            self._tell(now - self._began, share)

    def finished(self) -> None:
        """The last figures, for the report."""
        self._report.share_of_runs = 1.0
        self._tell(max(self._clock() - self._began, 0.001), 1.0)

    def _tell(self, seconds: float, share: float | None) -> None:
        read = self._read.total()
        of = f" of {sum(self._counts.values()):,}" if self._counts is not None else ""
        self._report.progress = f"{read:,}{of} runs in {pace(read, seconds, share)}"
        logger.info("%s", self._report.progress)
        expected = self._counts if self._counts is not None else self._read
        largest = sorted(expected, key=lambda id_: (-expected[id_], id_))[:MOST_EXPERIMENTS]
        self._report.runs_by_experiment = {
            self._names.get(id_, id_): f"{self._read[id_]:,} of {expected[id_]:,}" if of else f"{self._read[id_]:,}"
            for id_ in largest
        }


def share_before(run_id: str) -> float | None:
    """How much of all runs comes before this one: their ids are random. None where it is no id of MLflow's."""
    try:
        return int(run_id[:8], 16) / 16**8 if len(run_id) == 32 else None
    except ValueError:
        return None


def pace(read: int, seconds: float, share: float | None) -> str:
    """`2 min 05 s, 800 a second, about 4 min 10 s left`, where this share of all is read."""
    left = f", about {_duration(seconds * (1 - share) / share)} left" if share and share < 1 else ""
    return f"{_duration(seconds)}, {read / seconds:,.0f} a second{left}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
