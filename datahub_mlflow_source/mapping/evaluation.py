"""What answers are measured with, and what came out: evaluation datasets, scorers, and traces in numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datahub.metadata.schema_classes import (
    ContainerClass,
    DatasetPropertiesClass,
    _Aspect,
)

from datahub_mlflow_source.mapping.rules import Entity, Rules, Trim, platform_aspects, time_stamp
from datahub_mlflow_source.mapping.schemas import row_count, schema_fields, schema_metadata
from datahub_mlflow_source.mapping.urns import evaluation_dataset_urn, experiment_urn
from datahub_mlflow_source.records import EvaluationDataset, Experiment, Scorer, TraceCounts
from datahub_mlflow_source.redaction import redact
from datahub_mlflow_source.text import json_object

EVALUATION_DATASET = "Evaluation Dataset"
_PARTS = ("inputs", "outputs", "expectations")  # of a record
_MOST_SCORERS = _MOST_ASSESSMENTS = 100  # of one experiment
# In a scorer's definition: where what it is made of stands, and what that is called.
_KINDS = {
    "instructions_judge_pydantic_data": "instructions",
    "builtin_scorer_pydantic_data": "built-in",
    "memory_augmented_judge_data": "memory-augmented",
    "third_party_scorer_data": "third-party",
    "ensemble_scorer_data": "ensemble",
    "call_source": "code",
}


def map_evaluation_dataset(dataset: EvaluationDataset, experiments: Mapping[str, Experiment], rules: Rules) -> Entity:
    """Everything DataHub shows about one. `experiments` are those that are sent, by id."""
    trim = Trim(rules.limits)
    its = [experiments[id_] for id_ in dataset.experiment_ids if id_ in experiments]
    web = rules.web.of(its[0].workspace) if its else rules.web
    records = row_count(dataset.profile)
    name = redact(dataset.name)
    properties = DatasetPropertiesClass(
        name=name,
        externalUrl=web.evaluation_dataset(its[0].experiment_id, dataset.dataset_id) if its else None,
        created=time_stamp(dataset.creation_time, dataset.created_by),
        lastModified=time_stamp(dataset.last_updated_time, dataset.last_updated_by),
        customProperties=trim.properties(
            dataset.tags,
            [
                ("dataset_id", dataset.dataset_id),
                ("digest", dataset.digest),
                ("records", str(records) if records is not None else ""),
                ("profile", dataset.profile),
                ("experiments", ", ".join(experiment.name for experiment in its)),
                ("created_by", dataset.created_by),
                ("last_updated_by", dataset.last_updated_by),
            ],
        ),
    )
    aspects: list[_Aspect] = [properties, *platform_aspects(EVALUATION_DATASET, rules.naming)]
    if len(its) == 1:
        aspects.append(ContainerClass(str(experiment_urn(its[0].name, rules.naming, its[0].workspace))))
    columns = schema_fields(json.dumps(list(_columns(dataset.schema))))
    if columns:
        aspects.append(schema_metadata(name, columns, dataset.schema or "", trim))
    return Entity(evaluation_dataset_urn(dataset.dataset_id, rules.naming), aspects, trim.cut)


@dataclass(frozen=True, slots=True)
class Measured:
    """How the answers of one experiment are measured, and what came out."""

    scorers: Sequence[Scorer] = ()  # by name
    traces: TraceCounts | None = None


def measured_properties(measured: Measured, trim: Trim) -> Iterator[tuple[str, str]]:
    """Of an experiment: keys without our prefix, and values."""
    yield from _of_scorers(measured.scorers, trim)
    if measured.traces:
        yield from _of_traces(measured.traces, trim)


def _of_scorers(scorers: Sequence[Scorer], trim: Trim) -> Iterator[tuple[str, str]]:
    """Their code is left out, as uncommitted code is."""
    for scorer in trim.first("scorers", scorers, _MOST_SCORERS):
        name, said = f"scorer.{scorer.name}", json_object(scorer.definition)
        key = next((key for key in _KINDS if said.get(key)), None)
        inner = said.get(key) if key else None
        yield f"{name}.version", str(scorer.version)
        yield f"{name}.kind", " ".join(filter(None, (_KINDS.get(key or ""), _text(said.get("builtin_scorer_class")))))
        yield f"{name}.description", _text(said.get("description"))
        for field in ("model", "instructions", "guidelines", "metric_name"):
            yield f"{name}.{field}", _text(inner.get(field)) if isinstance(inner, dict) else ""


def _of_traces(traces: TraceCounts, trim: Trim) -> Iterator[tuple[str, str]]:
    counts = dict(traces.by_status)
    ended = counts.get("OK", 0) + counts.get("ERROR", 0)
    yield "traces", str(sum(counts.values()))
    for status, count in traces.by_status:
        yield f"traces.{status.lower()}", str(count)
    if ended:
        yield "traces.error_rate", f"{counts.get('ERROR', 0) / ended:.4f}"
    if traces.mean_millis is not None:
        yield "traces.mean_millis", str(traces.mean_millis)
    if traces.longest_millis is not None:
        yield "traces.longest_millis", str(traces.longest_millis)
    for name, count in traces.tokens:
        yield f"traces.{name}", str(count)
    for name, count in trim.first("names of assessments", traces.assessments, _MOST_ASSESSMENTS):
        yield f"traces.assessments.{name}.count", str(count)


def _columns(schema: str | None) -> Iterator[dict[str, Any]]:
    """As those of a table: `inputs.question`."""
    parts = json_object(schema or "")
    for part in _PARTS:
        of_part = parts.get(part)
        if isinstance(of_part, str):  # an output that is a value, not fields
            yield {"name": part, "type": of_part}
        for name, kind in of_part.items() if isinstance(of_part, dict) else ():
            yield {"name": f"{part}.{redact(name)}", "type": kind if isinstance(kind, str) else "object"}


def _text(value: object) -> str:
    return value if isinstance(value, str) else _listed(value) if isinstance(value, list) else ""


def _listed(values: Iterable[object]) -> str:
    return "\n".join(value for value in values if isinstance(value, str))
