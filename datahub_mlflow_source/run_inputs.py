"""The datasets that runs say they read, until all runs have spoken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from datahub.utilities.file_backed_collections import FileBackedDict

from datahub_mlflow_source.mapping.datasets import InputDataset, input_dataset
from datahub_mlflow_source.mapping.rules import Rules
from datahub_mlflow_source.records import Experiment, Run

# With their schemas, a thousand may be a gigabyte: the rest is in a temporary file.
_IN_MEMORY = 1000

SaidAt = tuple[int, str]  # start of the run, and its id


class RunInputs:
    """Of what several runs say about one dataset, the latest run's word stands."""

    def __init__(self) -> None:
        self._datasets: FileBackedDict[tuple[SaidAt, InputDataset]] = FileBackedDict(cache_max_size=_IN_MEMORY)

    def of(self, run: Run, experiment: Experiment, rules: Rules) -> Sequence[InputDataset]:
        """The run's datasets, which are remembered."""
        inputs = [input_dataset(dataset, experiment, rules) for dataset in run.datasets]
        said_at = (run.start_time or 0, run.run_id)
        for dataset in inputs:
            known = self._datasets.get(str(dataset.urn))
            if known is None or known[0] <= said_at:
                self._datasets[str(dataset.urn)] = (said_at, dataset)
        return inputs

    def __iter__(self) -> Iterator[tuple[SaidAt, InputDataset]]:
        """Each dataset once, and when that was said about it."""
        yield from self._datasets.values()

    def close(self) -> None:
        """Removes the temporary file."""
        self._datasets.close()
