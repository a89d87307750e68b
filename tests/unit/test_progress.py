"""Long ingestions tell how far they are, and how long it will take."""

from __future__ import annotations

import logging

import pytest

from datahub_mlflow_source.progress import Progress, share_before
from datahub_mlflow_source.report import MlflowSourceReport
from tests.unit.records import make_run


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_every_five_seconds_it_tells_how_much_how_fast_and_how_long(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    report, clock = MlflowSourceReport(), Clock()
    progress = Progress(report, {"1": "churn", "2": "fraud"}, {"1": 3000, "2": 1000}, clock=clock)
    for second in range(12):
        clock.now += 1
        for number in range(100):
            progress.passed(make_run(run_id=f"{second * 100 + number:08x}".ljust(32, "0"), experiment_id="1"))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("401 of 4,000 runs in 5 s, 80 a second, about ")
    progress.finished()
    assert report.progress == "1,200 of 4,000 runs in 12 s, 100 a second"
    assert report.runs_by_experiment == {"churn": "1,200 of 3,000", "fraud": "0 of 1,000"}


def test_time_left_goes_by_the_ids_which_are_random() -> None:
    report, clock = MlflowSourceReport(), Clock()
    progress = Progress(report, {}, None, clock=clock)
    clock.now += 100
    progress.passed(make_run(run_id="40000000" + "0" * 24))
    assert report.progress == "1 runs in 1 min 40 s, 0 a second, about 5 min 00 s left"


@pytest.mark.parametrize(
    ("run_id", "share"), [("0" * 32, 0.0), ("80" + "0" * 30, 0.5), ("f" * 32, 1.0), ("short", None), ("z" * 32, None)]
)
def test_the_share_of_runs_before_one(run_id: str, share: float | None) -> None:
    assert share_before(run_id) == (pytest.approx(share, abs=1e-6) if share is not None else None)


def test_where_the_total_is_unknown_only_what_was_read_is_told() -> None:
    report, clock = MlflowSourceReport(), Clock()
    progress = Progress(report, {"1": "churn"}, None, clock=clock)
    progress.passed(make_run(experiment_id="1"))
    clock.now += 7200
    progress.finished()
    assert report.progress == "1 runs in 2 h 00 min, 0 a second"
    assert report.runs_by_experiment == {"churn": "1"}


def test_only_the_largest_experiments_are_in_the_report() -> None:
    report = MlflowSourceReport()
    Progress(report, {}, {str(number): number for number in range(1000)}).finished()
    assert len(report.runs_by_experiment) == 50
    assert "999" in report.runs_by_experiment
