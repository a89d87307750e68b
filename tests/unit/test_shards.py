"""How the work is cut, and how the reports of the parts become one."""

from __future__ import annotations

import random
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.progress import MOST_EXPERIMENTS
from datahub_mlflow_source.readers.base import WHOLE, Shard
from datahub_mlflow_source.shard_report import merged, shown


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_each_run_id_is_in_one_shard(count: int) -> None:
    random_ = random.Random(count)
    ids = [f"{random_.getrandbits(128):032x}" for _ in range(2000)]
    odd = ["", "0" * 32, "f" * 32, "My-Run", "zz", "~", *(f"{16**8 * i // count:08x}" for i in range(count))]
    shards = [Shard(index, count) for index in range(count)]
    assert all(sum(shard.has_run(run_id) for shard in shards) == 1 for run_id in [*ids, *odd])
    sizes = [sum(shard.has_run(run_id) for run_id in ids) for shard in shards]
    assert max(sizes) < 1.2 * len(ids) / count + 30


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_each_experiment_is_in_one_shard(count: int) -> None:
    ids = [*map(str, range(100)), "891234567890123456", "not-a-number", "模型"]
    shards = [Shard(index, count) for index in range(count)]
    assert all(sum(shard.has_experiment(id_) for shard in shards) == 1 for id_ in ids)


def test_the_whole_has_no_bounds_and_its_parts_make_it_up() -> None:
    assert WHOLE.run_ids() == (None, None)
    bounds = [part.run_ids() for part in WHOLE.parts(16)]
    assert [low for low, _ in bounds] == [None, *(f"{digit:x}0000000" for digit in range(1, 16))]
    assert [high for _, high in bounds] == [*(low for low, _ in bounds[1:]), None]
    second = Shard(1, 2)
    assert second.parts(4)[0].run_ids()[0] == second.run_ids()[0] == "80000000"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"shard": {"index": 2, "count": 2}}, "of 2 shards the last is 1"),
        ({"shard": {"index": -1, "count": 2}}, "greater than or equal to 0"),
        ({"shard": {"index": 0, "count": 0}}, "greater than 0"),
        ({"shard": {"index": 0}}, "Field required"),
        ({"shard": {"index": 0, "count": 2, "of": 2}}, "unknown key `of`"),
        ({"shard": {"index": 0, "count": 2}, "max_runs_per_experiment": 5}, "only who reads all runs"),
    ],
)
def test_a_shard_that_cannot_be_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MlflowSourceConfig.model_validate({"tracking_uri": "http://127.0.0.1", **config})


def test_an_index_may_come_from_the_environment() -> None:
    config = MlflowSourceConfig.model_validate({"shard": {"index": "1", "count": "2"}})
    assert config.shard is not None
    assert (config.shard.index, config.shard.count) == (1, 2)


def _failure(context: str, message: str = "Why") -> dict[str, Any]:
    return {"title": "Not sent", "message": message, "context": [context]}


def test_reports_are_added_up_and_what_several_say_is_said_once() -> None:
    one = {"runs": {"read": 2, "sent": 1}, "query_p95_millis": 7.0, "failures": [_failure("a"), _failure("b", "Other")]}
    other = {"runs": {"read": 3, "sent": 3}, "query_p95_millis": 5.0, "failures": [_failure("c"), _failure("a")]}
    total = merged([one, other])
    assert total["runs"] == {"read": 5, "sent": 4}
    assert total["query_p95_millis"] == 7.0
    assert [failure["context"] for failure in total["failures"]] == [["a", "c"], ["b"]]


def test_what_is_shown_leaves_out_what_is_nothing() -> None:
    report = {"runs": {"read": 5, "sent": 5, "failed": 0}, "models": {"read": 0}, "cut": [], "aspects": {"x": 1}}
    text = shown(report, {"total_records_written": 12, "failures": []})
    assert yaml.safe_load(text) == {"source": {"runs": {"read": 5, "sent": 5}}, "sink": {"records_written": 12}}


def test_the_pace_of_all_and_the_slowest_shard_of_each_stage_are_shown() -> None:
    def report(read: int, seconds: float, churn: str) -> dict[str, Any]:
        stages = {
            f"(Ingestion, Runs at 2026-01-01 00:00:0{read}+00:00)": seconds,
            f"(Ingestion, Datasets at 2026-01-01 00:01:0{read}+00:00)": 0.5,
        }
        return {
            "runs": {"read": read},
            "ingestion_stage_durations": stages,
            "runs_by_experiment": {"churn": churn, f"of {read}": "1"},
        }

    both = merged([report(1, 2.0, "1,999 of 2,000"), report(9, 4.0, "1 of 1,000")])
    found = yaml.safe_load(shown(both, {}, seconds=5.0))  # one after the other, as on one core
    assert found["source"] == {
        "runs_a_second": 2,
        "slowest_seconds_by_stage": {"Runs": 4.0, "Datasets": 0.5},
        "runs_by_experiment": {"churn": "2,000 of 3,000", "of 1": "1", "of 9": "1"},
        "runs": {"read": 10},
    }
    assert "runs_a_second" not in shown(both, {})


def test_of_many_experiments_those_are_shown_of_which_every_shard_tells_its_part() -> None:
    """Each shard tells its largest only, which differ by chance."""
    by_shard = [{f"e{id_}": "10 of 20" for id_ in range(start, start + MOST_EXPERIMENTS)} for start in (0, 2, 1)]
    found = merged([{"runs_by_experiment": told} for told in by_shard])["runs_by_experiment"]
    assert found == {f"e{id_}": "30 of 60" for id_ in range(2, MOST_EXPERIMENTS)}
    over_rest = [{f"e{id_}": "10" for id_ in range(start, start + MOST_EXPERIMENTS)} for start in (0, 50)]
    found = merged([{"runs_by_experiment": told} for told in over_rest])["runs_by_experiment"]
    assert len(found) == 2 * MOST_EXPERIMENTS
