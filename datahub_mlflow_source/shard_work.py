"""What a process does that was given one shard, or the closing step: an ingestion by DataHub's own pipeline."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datahub.configuration.common import ConfigurationError
from datahub.ingestion.run.pipeline import Pipeline, PipelineInitError

from datahub_mlflow_source.closing import ClosingSource
from datahub_mlflow_source.redaction import redact
from datahub_mlflow_source.source import MlflowSource
from datahub_mlflow_source.state.shards import ShardState

logger = logging.getLogger(__name__)

Recipe = Mapping[str, Any]
_TOLD_EVERY_SECONDS = 0.5
_CANT_BEGIN = (PipelineInitError, ConfigurationError, ValueError)
_CLOSING = f"{ClosingSource.__module__}.{ClosingSource.__name__}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a shard, or of the closing step, in a form that goes from process to process."""

    failed: bool
    message: str = ""  # of what kept it from beginning
    state: str = ""  # a ShardState as JSON
    report: dict[str, Any] = field(default_factory=dict)
    sink_report: dict[str, Any] = field(default_factory=dict)


# Is told how much of the shard's runs is read, from 0 to 1, and how many that are; says whether anybody waits for it.
Tell = Callable[[float, int], bool]


def said_of(work: Callable[[], Outcome]) -> Outcome:
    """What came of it; of an error that nobody foresaw, its name and text."""
    try:
        return work()
    except Exception as error:
        logger.debug("A shard failed", exc_info=True)
        return Outcome(failed=True, message=f"{type(error).__name__}: {redact(str(error))}")


def run_shard(recipe: Recipe, index: int, count: int, tell: Tell, *, dry_run: bool) -> Outcome:
    """One shard from start to end. Its state comes back, and nothing of it is kept in DataHub."""
    # Which says of each shard that it leaves no state: that is what comes back.
    logging.getLogger("datahub.ingestion.source.state_provider").setLevel(logging.ERROR)
    try:
        shard = {"shard": {"index": index, "count": count}}
        pipeline = _pipeline(_changed(recipe, f"shard-{index}", shard), dry_run=dry_run)
    except _CANT_BEGIN as error:
        return Outcome(failed=True, message=redact(str(error)))
    source = pipeline.source
    if not isinstance(source, MlflowSource):
        return Outcome(failed=True, message=f"shards are of a recipe with our source, not {type(source).__name__}")
    source.closing_follows = True
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_TOLD_EVERY_SECONDS):
            source.given_up = not tell(source.report.share_of_runs, source.report.runs.read)

    watcher = threading.Thread(target=watch, name="mlflow-shard-progress", daemon=True)
    watcher.start()
    try:
        pipeline.run()
    finally:
        ended.set()
        watcher.join()
    state = source.shard_state.model_dump_json() if source.shard_state else ""
    return _outcome(pipeline, state)


def run_closing(recipe: Recipe, count: int, states: Sequence[str] | None, *, dry_run: bool) -> Outcome:
    """The step behind the shards. `states` are those that came back; None: they are in DataHub."""
    try:
        closing = _changed(recipe, "closing", {"shard": None})
        closing["source"]["type"] = _CLOSING
        pipeline = _pipeline(closing, dry_run=dry_run)
    except _CANT_BEGIN as error:
        return Outcome(failed=True, message=redact(str(error)))
    source = pipeline.source
    if not isinstance(source, ClosingSource):
        raise TypeError(_CLOSING)
    source.count = count
    source.states = None if states is None else [ShardState.model_validate_json(state) for state in states]
    pipeline.run()
    return _outcome(pipeline, "")


def _changed(recipe: Recipe, part: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with this in the source's config, and with a file of its own for each part that goes into files."""
    changed = copy.deepcopy(dict(recipe))
    given = changed["source"].get("config") or {}
    if not isinstance(given, dict):
        raise ValueError("the recipe's `source.config` holds no keys")
    merged = {**given, **config}
    changed["source"]["config"] = {key: value for key, value in merged.items() if value is not None}
    sink = changed.get("sink") or {}
    if sink.get("type") == "datahub-lite":
        raise ValueError("several processes can't write into one DataHub Lite: use `datahub ingest`, or another sink")
    if sink.get("type") == "file" and "filename" in (sink.get("config") or {}):
        file = Path(sink["config"]["filename"])
        sink["config"]["filename"] = str(file.with_name(f"{file.stem}.{part}{file.suffix}"))
    return changed


def _pipeline(recipe: dict[str, Any], *, dry_run: bool) -> Pipeline:
    return Pipeline.create(recipe, dry_run=dry_run, report_to=None, no_progress=True)


def _outcome(pipeline: Pipeline, state: str) -> Outcome:
    source, sink = pipeline.source.get_report(), pipeline.sink.get_report()
    return Outcome(
        failed=pipeline.has_failures(),
        state=state,
        report=source.as_obj(),
        sink_report=sink.as_obj(),
    )
