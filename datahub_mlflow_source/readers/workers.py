"""Threads that do work beside the one that asks for it, and never keep a process alive that was told to end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")


def beside(call: Callable[[], T]) -> Future[T]:
    """In a thread of its own, from now on. Whoever waits for the result can be interrupted, by Ctrl-C for instance:
    a database's driver or a socket that waits in C can't.
    """
    future: Future[T] = Future()
    Thread(target=_do, args=(future, call), name="mlflow-beside", daemon=True).start()
    return future


def _do(future: Future[T], call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for the result
        future.set_exception(error)


class Workers:
    """So many threads. Those of `concurrent.futures` are waited for at the end of a process, however long."""

    def __init__(self, count: int) -> None:
        self._count = 0
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        for _ in range(count):
            self.add()

    def add(self) -> None:
        """One thread more."""
        self._count += 1
        Thread(target=self._work, name=f"mlflow-worker-{self._count}", daemon=True).start()

    def begin(self, call: Callable[[], T]) -> Future[T]:
        """As soon as a thread is free; in the order of calling."""
        future: Future[T] = Future()
        self._tasks.put((future, call))
        return future

    def close(self) -> None:
        """Behind what was begun, which is not waited for."""
        for _ in range(self._count):
            self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, call = task
            if future.set_running_or_notify_cancel():
                _do(future, call)
            del task, future, call  # or the last result is kept until there is a next


def in_order(work: Callable[[T], U], things: Iterable[T], at_once: int) -> Iterator[U]:
    """`work` on each, on so many at a time.

    A thing is taken only where there is room for its work, and one fewer is worked on while the consumer is busy.
    """
    workers = Workers(at_once)
    begun: deque[Future[U]] = deque()
    try:
        for thing in things:
            begun.append(workers.begin(partial(work, thing)))
            if len(begun) == at_once:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        workers.close()
