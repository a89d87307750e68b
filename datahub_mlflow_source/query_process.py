"""Queries are parsed in a process of their own, which can be ended.

People log any text, and there are short ones that keep the parser busy for years (thirty joins without `ON`), or fill
all memory. It is compiled code, which nothing in the same process can interrupt. The process is started with the
first query and serves all of them; what the parser imports never takes memory of the ingestion itself.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from contextlib import suppress
from functools import lru_cache
from typing import IO, Any, cast

from datahub_mlflow_source.mapping.queries import Asked, Upstreams, read

_SECONDS = 20  # for one query, and for importing the parser. DataHub gives up on columns after ten by itself
_MOST_LOST = 10  # queries that took the process down; then there are no more tries
_BYTES = 1 << 30  # of memory, at most
_ENVIRONMENT = {
    "DATAHUB_SQL_PARSE_CACHE_SIZE": "1",  # by itself it keeps a thousand parsed queries in memory
    "DATAHUB_SQL_AGG_SKIP_JOINS": "true",  # which are found for no use of ours
    "PYTHONSAFEPATH": "1",
}
_GIVEN_UP = Upstreams(problem="given up")


class QueryProcess:
    """What queries read, each asked for once. One that takes too much time or memory has no upstreams."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lost = 0
        # One query is the source of many datasets, and of one dataset it is asked for twice.
        self.read = lru_cache(maxsize=256)(self._read)

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _read(self, asked: Asked) -> Upstreams:
        if self._lost >= _MOST_LOST:
            return _GIVEN_UP
        try:
            return self._answer(asked)
        except (OSError, EOFError, pickle.UnpicklingError):  # it was killed, or could not be started
            self.close()
            self._lost += 1
            return _GIVEN_UP

    def _answer(self, asked: Asked) -> Upstreams:
        process = self._process = self._process or _started()
        questions, answers = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        too_long = threading.Timer(self._seconds, process.kill)
        too_long.start()
        try:
            pickle.dump(asked, questions)
            questions.flush()
            return cast("Upstreams", pickle.load(answers))  # noqa: S301 - of a process of our own
        finally:
            too_long.cancel()


def _started() -> subprocess.Popen[bytes]:
    code = f"from {__name__} import serve; serve()"
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(  # noqa: S603 - this Python, and words of ours
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the parsers log pieces of what they don't understand, which may be a credential
        env={**os.environ, **paths, **_ENVIRONMENT},
    )


def serve() -> None:
    """In that process: one query after the other, until the ingestion is gone."""
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    sys.stdout = sys.stderr  # for whatever else is printed
    _bound_memory()
    while (asked := _next(questions)) is not None:
        _bound_time()
        pickle.dump(read(asked), answers)
        answers.flush()


def _next(questions: IO[bytes]) -> Any:
    try:
        return pickle.load(questions)  # noqa: S301 - of the ingestion
    except EOFError:
        return None


def _bound_memory() -> None:
    _bound("RLIMIT_AS", _BYTES)


def _bound_time() -> None:
    """Should the ingestion be gone meanwhile: of all time that the process takes."""
    _bound("RLIMIT_CPU", int(sum(os.times()[:2])) + 2 * _SECONDS)


def _bound(what: str, most: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    limit = getattr(resource, what)
    _, hard = resource.getrlimit(limit)
    with suppress(ValueError, OSError):  # macOS has no bound of memory
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
