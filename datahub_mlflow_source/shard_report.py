"""The reports of all shards as one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from datahub_mlflow_source.progress import MOST_EXPERIMENTS

_NOTHING_PRODUCED = "No metadata was produced by the source"
_MOST_EXAMPLES = 10  # as DataHub's own reports have it
# Of a process, or of the whole: to be added up they make no sense.
_NOT_ADDED = ("query_p95_millis", "query_slowest_millis", "share_of_runs", "running_time", "start_time", "peak")
_SHOWN = (
    "mlflow_version",
    "events_produced",
    "requests_sent",
    "query_p95_millis",
    "query_slowest_millis",
    "runs_a_second",
    "slowest_seconds_by_stage",
    "runs_by_experiment",
    "workspaces",
    "experiments",
    "runs",
    "datasets",
    "models",
    "versions",
    "logged_models",
    "evaluation_datasets",
    "deployments",
    "kept_although_not_read",
    "unresolved_datasets",
    "cut",
    "names_shortened",
    "soft_deleted_stale_entities",
    "failures",
    "warnings",
    "infos",
)


_STAGE = re.compile(r"\(\w+, (.*) at \d{4}-.*\)")  # as DataHub's ingestion_stage_durations names it
_NUMBER = re.compile(r"\d[\d,]*")


def merged(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts added up, examples joined, what was said by several said once."""
    found: dict[str, Any] = {}
    for report in reports:
        for key, value in report.items():
            found[key] = _both(key, found[key], value) if key in found else value
    return found


def _both(key: str, one: Any, other: Any) -> Any:
    if key == "runs_by_experiment":
        return {name: _added(one.get(name), other.get(name)) for name in _in_full(one, other)}
    if isinstance(one, dict) and isinstance(other, dict):
        return merged([one, other])
    if isinstance(one, list) and isinstance(other, list):
        return _examples(one, other)
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return max(one, other) if key.startswith(_NOT_ADDED) else one + other
    return one


def _in_full(one: dict[str, str], other: dict[str, str]) -> Iterable[str]:
    """Experiments of which neither side leaves its part out: where there are many, each names its largest only.

    Over REST an experiment is one shard's alone, and nothing is said of how many runs there are.
    """
    both = {**one, **other}
    is_cut = max(len(one), len(other)) >= MOST_EXPERIMENTS and any(" of " in said for said in both.values())
    return [name for name in both if name in one and name in other] if is_cut else both


def _added(one: str | None, other: str | None) -> str:
    """`3 of 1,000` and `4 of 1,000` are `7 of 2,000`."""
    if one is None or other is None:
        return one or other or ""
    others = iter(_NUMBER.findall(other))
    return _NUMBER.sub(lambda number: f"{_int(number[0]) + _int(next(others, '0')):,}", one)


def _int(text: str) -> int:
    return int(text.replace(",", ""))


def _by_stage(report: Mapping[str, Any]) -> dict[str, float]:
    """How long the slowest shard was at it, in seconds."""
    slowest: dict[str, float] = {}
    for said, seconds in (report.get("ingestion_stage_durations") or {}).items():
        if (found := _STAGE.fullmatch(said)) and isinstance(seconds, (int, float)):
            slowest[found[1]] = max(float(seconds), slowest.get(found[1], 0.0))
    return slowest


def _examples(one: list[Any], other: list[Any]) -> list[Any]:
    """Failures and warnings that are the same but for their context become one."""
    joined = list(one)
    for found in other:
        same = next((known for known in joined if _same(known, found)), None)
        if same is None:
            joined.append(found)
        elif isinstance(same, dict) and "context" in same:
            same["context"] = _joined_context(same.get("context"), found.get("context"))
    return joined


def _same(known: Any, found: Any) -> bool:
    if isinstance(known, dict) and isinstance(found, dict) and "message" in known:
        return all(known.get(key) == found.get(key) for key in ("title", "message"))
    return bool(known == found)


def _joined_context(one: Any, other: Any) -> list[Any]:
    ones, others = ([context] if isinstance(context, str) else list(context or []) for context in (one, other))
    return list(dict.fromkeys([*ones, *others]))[:_MOST_EXAMPLES]


def _without_nothing(value: Any) -> Any:
    """None where nothing is left: of a dozen counts most are 0."""
    if isinstance(value, dict):
        return {key: kept for key, part in value.items() if (kept := _without_nothing(part))}
    return round(value, 1) if isinstance(value, float) else value


def shown(report: dict[str, Any], sink_report: dict[str, Any], seconds: float | None = None) -> str:
    """What a person wants to see at the end. `seconds`: from the first shard's start to the last one's end."""
    rate = round(report["runs"]["read"] / seconds) if seconds else 0
    report = {**report, "runs_a_second": rate, "slowest_seconds_by_stage": _by_stage(report)}
    chosen = {key: counts for key in _SHOWN if (counts := _without_nothing(report.get(key)))}
    if report.get("events_produced"):  # which the framework misses in each part that has nothing of its own
        warnings = [warning for warning in chosen.pop("warnings", []) if warning.get("title") != _NOTHING_PRODUCED]
        chosen |= {"warnings": warnings} if warnings else {}
    written = sink_report.get("total_records_written", 0)
    failures = sink_report.get("failures") or []
    sink = {"records_written": written} | ({"failures": failures} if failures else {})
    return yaml.safe_dump({"source": chosen, "sink": sink}, sort_keys=False, allow_unicode=True, width=110).rstrip()
