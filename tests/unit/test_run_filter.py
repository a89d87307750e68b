"""A filter that MLflow's server would refuse is refused here too, before anything is read."""

from __future__ import annotations

import pytest

from datahub_mlflow_source.errors import ServerError
from datahub_mlflow_source.readers.base import RunScope
from datahub_mlflow_source.readers.sql_runs import filter_of
from tests.unit.records import make_metric, make_run


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("params.depth = '7'", True),
        ("params.depth LIKE '8%'", False),
        ("metrics.auc > 0.5 AND tags.team = 'risk'", True),
        ("metrics.missing > 0.5", False),
        ("attributes.run_id IN ('none', 'others')", False),
        ("attributes.start_time > 5", True),
        ("attributes.end_time < 5", False),
        ("attributes.run_name ILIKE '%OWL%' AND attributes.user_id = 'ada'", True),
        ("dataset.name = 'train'", False),
        ("dataset.context = 'training'", False),
    ],
)
def test_what_mlflow_takes_is_taken(condition: str, kept: bool) -> None:
    said = {"params": {"depth": "7"}, "metrics": [make_metric("auc", 0.8)], "tags": {"team": "risk"}}
    run = make_run(**said, name="bold-owl", user_id="ada")
    assert filter_of(RunScope(filter=condition))([run]) == ([run] if kept else [])


@pytest.mark.parametrize(
    "condition",
    [
        "metrics.auc >",
        "params.depth > '7'",
        "metrics.auc LIKE 0.8",
        "attributes.status > 'A'",
        # The second clause is never looked at where the first one fits no run.
        "params.depth = 'none has it' AND tags.team > 'a'",
        "attributes.start_time > 'yesterday'",
    ],
)
def test_what_it_does_not_is_refused_at_once(condition: str) -> None:
    with pytest.raises(ServerError, match=r"MLflow can't read the filter: .+[^.]\. Check `run_filter`\.$"):
        filter_of(RunScope(filter=condition))
