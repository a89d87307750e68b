"""Work beside the thread that asks for it: in order, bounded, and never in the way of the end."""

from __future__ import annotations

import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from itertools import islice
from threading import Barrier, Event
from threading import enumerate as enumerate_threads

import pytest

from datahub_mlflow_source.readers.workers import Workers, beside, in_order


@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_results_come_in_the_order_of_the_things(at_once: int) -> None:
    assert list(in_order(lambda number: number * 2, range(50), at_once)) == [number * 2 for number in range(50)]
    assert list(in_order(str, [], at_once)) == []


def test_so_many_are_worked_on_at_a_time() -> None:
    together = Barrier(3, timeout=20)
    assert list(in_order(lambda _: together.wait() >= 0, range(6), 3)) == [True] * 6


def test_no_more_things_are_taken_than_there_is_room_for() -> None:
    taken: list[int] = []

    def things() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    results = in_order(str, things(), 2)
    assert next(results) == "0"
    assert taken == [0, 1]


def test_an_error_comes_where_its_result_would() -> None:
    results = in_order(lambda number: 1 / number, [1, 0, 1], 2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_what_was_cancelled_is_not_done_and_the_rest_is() -> None:
    workers = Workers(1)
    go_on = Event()
    first, second, third = workers.begin(go_on.wait), workers.begin(lambda: "second"), workers.begin(lambda: "third")
    assert second.cancel()
    go_on.set()
    assert first.result(20)
    assert third.result(20) == "third"
    workers.close()


def test_threads_end_with_the_last_result_or_with_whoever_wanted_it() -> None:
    before = set(enumerate_threads())  # of other tests
    for take in (3, 10):
        results = in_order(str, range(10), 4)
        list(islice(results, take))
        results.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 20
    while [new for new in set(enumerate_threads()) - before if new.name.startswith("mlflow-worker")]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_whatever_is_raised_comes_where_its_result_would() -> None:
    def end(_: int) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        list(in_order(end, [1], 2))
    with pytest.raises(SystemExit):
        beside(lambda: end(1)).result(20)


def test_an_idle_thread_keeps_nothing_of_what_it_did() -> None:
    class Page:
        pass

    workers = Workers(1)
    page = workers.begin(Page).result(20)
    gone = weakref.ref(page)
    workers.begin(int).result(20)  # the thread is done with the page
    del page
    assert gone() is None
    workers.close()


def test_a_process_ends_though_work_does_not() -> None:
    begun = "Workers(2).begin(lambda: time.sleep(60))"
    code = f"import time; from datahub_mlflow_source.readers.workers import Workers; {begun}"
    subprocess.run([sys.executable, "-c", code], timeout=30, check=True)
