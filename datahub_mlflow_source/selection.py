"""What the recipe leaves in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from datahub_mlflow_source.readers.base import RunScope

Allowed = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class DeploymentTags:
    """Keys of tags on versions that say where they are served."""

    target: str
    name: str
    url: str
    status: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Entity by entity, and switch by switch."""

    experiment: Allowed
    model: Allowed
    run_name: Allowed
    run_user: Allowed
    runs: RunScope
    include_runs: Literal["all", "registered", "none"]
    metric_history: Allowed | None  # metrics by key; None: of none
    include_datasets: bool
    include_prompts: bool
    include_traces: bool
    include_deployments: bool
    deployment_tags: DeploymentTags | None
    include_logged_models: bool
    logged_model: Allowed
    most_logged_models: int  # of one run
    include_artifacts: Literal["none", "current", "all"]
    artifacts_at_once: int
    stage_tags: bool
    writes: bool  # False for a preview or dry run
    stamps_terms: bool  # whether it needs a stamp on them
    marks_domains: bool  # whether this DataHub server takes whom they come from
    aspects_not_patched: frozenset[str]  # that this DataHub server takes no such patches of
    patches: bool  # whether they go where patches are understood: not a file, not DataHub Lite
    versions_in_memory: int
    hold_said_by_runs: bool = False  # for the closing step, as other shards may have a later word on it
