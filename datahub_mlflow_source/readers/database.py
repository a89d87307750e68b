"""MLflow's database, opened for reading only: short transactions, lost connections, and errors people can use.

Never through MLflow's own store: that one migrates a database it is pointed at (measured on mlflow 3.17).
"""

from __future__ import annotations

import logging
import sqlite3
import time
from array import array
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from threading import Lock, current_thread, main_thread
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
import tenacity
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from datahub_mlflow_source.backend_store import DatabaseConnection
from datahub_mlflow_source.errors import PageError, ServerError
from datahub_mlflow_source.readers.collector import without_collecting
from datahub_mlflow_source.readers.workers import beside
from datahub_mlflow_source.redaction import redact

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CONNECT_SECONDS = 10
_backoff = tenacity.wait_random_exponential(multiplier=0.5, max=8)
# A statement was ended for its length: SQLSTATE of PostgreSQL; numbers of MySQL (3024) and MariaDB (1969).
_TOOK_TOO_LONG = ("57014", 3024, 1969)
_SQLITE_STEPS = 100_000  # of its virtual machine between two looks at the clock: some 5 ms


class Database:
    """One database. Safe to use from several threads.

    Attributes:
        query_seconds: how long each SELECT took, fetching included; retries too.
    """

    def __init__(self, connection: DatabaseConnection) -> None:
        """Connects when it is first read. Raises nothing for a database that isn't there."""
        self.connection = connection
        self.query_seconds = array("d")
        self._counting = Lock()
        self._engine = _engine(connection)
        self._closed = False
        self._holds_bytes = connection.url.get_backend_name() == "sqlite"  # where a text should be, if told to

    def close(self) -> None:
        """Connections that are in use close once they are not."""
        self._closed = True
        self._engine.dispose()

    def columns(self, tables: Collection[str]) -> dict[str, frozenset[str]]:
        """Which of these tables there are, and their columns. Raises as `read`."""

        def look(reading: Reading) -> dict[str, frozenset[str]]:
            inspector = sa.inspect(reading.connection)
            return {
                table: frozenset(str(column["name"]) for column in inspector.get_columns(table))
                for table in inspector.get_table_names()
                if table in tables
            }

        return self.read(look, tries=2)

    def read(self, work: Callable[[Reading], T], tries: int | None = None) -> T:
        """`work` in one short transaction that can't write and in which all is of one moment.

        Done again, from its start, where the connection was lost. The main thread waits for another one that does it,
        so that Ctrl-C ends it.

        Raises:
            PageError: a row holds what can't be read, such as text that is not in its encoding.
            ServerError: the database can't be reached, refuses, or takes too long.
        """
        if current_thread() is main_thread():
            return beside(partial(self._read, work, tries)).result()
        return self._read(work, tries)

    def _read(self, work: Callable[[Reading], T], tries: int | None) -> T:
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(tries or self.connection.max_retries + 1),
            wait=_backoff,
            retry=tenacity.retry_if_exception(is_transient),
            before_sleep=_log_retry,
            reraise=True,
        )
        try:
            found: T = retrying(self._once, work)
            return found
        except (UnicodeDecodeError, SQLAlchemyError) as error:
            raise self._told(error) from error
        except (TypeError, ValueError, OverflowError) as error:  # SQLite keeps text where a number should be
            what = redact(str(error))[:100]
            raise PageError(f"{self.connection.shown} holds a row that is none of MLflow's: {what}") from error

    def _once(self, work: Callable[[Reading], T]) -> T:
        with self._connect() as connection:
            _begin(connection, self.connection.statement_timeout_seconds)
            reading = Reading(connection, self)
            try:
                with without_collecting():
                    return work(reading)
            finally:
                if self._closed:  # meanwhile: nobody would close it
                    connection.invalidate()
                else:
                    connection.rollback()

    def _connect(self) -> sa.engine.Connection:
        try:
            return self._engine.connect()
        except (TypeError, ValueError, AttributeError) as error:  # a driver's own, of an option that it doesn't know
            raise ServerError(
                f"{self.connection.shown}: its driver can't use an option in `{self.connection.key}`: "
                f"{redact(str(error))[:200]}. Check what stands behind the `?` there."
            ) from error

    def checked(self, rows: list[Any], seconds: float) -> list[Any]:
        """What one statement gave, which took so long. Raises TypeError for bytes, which no column of MLflow's has."""
        with self._counting:
            self.query_seconds.append(seconds)
        if self._holds_bytes and any(isinstance(value, bytes) for row in rows for value in row):
            raise TypeError("bytes where a text or number should be")
        return rows

    def _told(self, error: UnicodeDecodeError | SQLAlchemyError) -> ServerError:
        where = self.connection.shown
        if _is_bad_text(error):
            return PageError(f"{where} holds text that is not {_encoding_of(error)}")
        if isinstance(error, PoolTimeoutError):
            return ServerError(f"{where}: all connections are in use. Set `database.pool_size` higher.")
        reason = redact(str(getattr(error, "orig", None) or error)).strip()[:300].rstrip(".")
        if took_too_long(error):
            return ServerError(
                f"{where} ended a statement that took longer than {self.connection.statement_timeout_seconds} s. Check "
                "its load, or set `page_size` lower or `database.statement_timeout_seconds` higher."
            )
        return ServerError(f"{where}: {reason}. {self._advice(reason)}")

    def _advice(self, reason: str) -> str:
        said = reason.lower()
        key = self.connection.key
        if "permission denied" in said or "command denied" in said or "no such grant" in said:
            return "The user needs SELECT on MLflow's tables, and nothing else."
        if "password" in said or "authentication" in said or "access denied" in said:
            return f"Check the user in `{key}`, and `backend_store_password`."
        if "does not exist" in said or "unknown database" in said or "unable to open" in said:
            return f"Check the name of the database in `{key}`, and that this user may open it."
        if "locked" in said:
            return "Something writes to the file for long: try again later, or read a copy."
        return f"Check `{key}`, and that this machine can reach the database."


class Reading:
    """One transaction, for as long as `Database.read` lasts.

    Attributes:
        rows_read: by all its statements.
    """

    def __init__(self, connection: sa.engine.Connection, database: Database) -> None:
        self.connection = connection
        self.rows_read = 0
        self._database = database

    def rows(self, statement: sa.sql.Select[Any], **values: Any) -> list[Any]:
        """All rows of a statement that has a bound."""
        began = time.perf_counter()
        found: list[Any] = []
        try:
            found = list(self.connection.execute(statement, values).fetchall())
        finally:
            found = self._database.checked(found, time.perf_counter() - began)
        self.rows_read += len(found)
        return found


def _engine(connection: DatabaseConnection) -> sa.engine.Engine:
    settings: dict[str, Any] = {
        "poolclass": QueuePool,
        "pool_size": connection.pool_size,
        "max_overflow": 0,
        # For the longest that another statement of ours may be at it.
        "pool_timeout": connection.statement_timeout_seconds + _CONNECT_SECONDS,
        "pool_pre_ping": True,
        "hide_parameters": True,
    }
    if connection.url.get_backend_name() == "sqlite":
        return sa.create_engine("sqlite://", creator=lambda: _open_sqlite(connection), **settings)
    options = {key: value for key, value in _options(connection).items() if key not in connection.url.query}
    return sa.create_engine(connection.url, connect_args=options, **settings)


def _options(connection: DatabaseConnection) -> dict[str, Any]:
    """For the driver. A server that goes away without a word is noticed too: its own timeout never arrives then."""
    driver = connection.url.get_driver_name()
    if driver in ("psycopg2", "psycopg"):
        probes = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
        return {"connect_timeout": _CONNECT_SECONDS, **probes}
    if driver in ("mysqldb", "pymysql"):
        seconds = int(connection.statement_timeout_seconds) + _CONNECT_SECONDS
        return {"connect_timeout": _CONNECT_SECONDS, "read_timeout": seconds, "charset": "utf8mb4"}
    return {}


def _open_sqlite(connection: DatabaseConnection) -> sqlite3.Connection:
    """Read-only by the operating system, and once more by SQLite. Transactions are begun by us."""
    path = Path(connection.url.database or "").absolute()
    opened = sqlite3.connect(
        f"file:{quote(str(path))}?mode=ro", uri=True, check_same_thread=False, isolation_level=None, timeout=5
    )
    opened.execute("PRAGMA query_only = ON")
    return opened


def _begin(connection: sa.engine.Connection, timeout_seconds: float) -> None:
    """A transaction that can't write, in which all is of one moment, and every statement has a bound."""
    millis = max(int(timeout_seconds * 1000), 1)  # 0 would be no bound
    backend = connection.dialect.name
    if backend == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {millis}")
    elif backend == "sqlite":
        deadline = time.monotonic() + timeout_seconds
        driver: Any = connection.connection.dbapi_connection
        driver.set_progress_handler(lambda: time.monotonic() > deadline, _SQLITE_STEPS)
        connection.exec_driver_sql("BEGIN")
    else:
        is_mariadb = getattr(connection.dialect, "is_mariadb", False)
        limit = f"max_statement_time = {timeout_seconds}" if is_mariadb else f"max_execution_time = {millis}"
        connection.exec_driver_sql(f"SET SESSION {limit}")
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # or there is no snapshot
        connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")


def is_transient(error: BaseException) -> bool:
    """Worth another try: a connection that was lost or not to be had, a SQLite file that is being written."""
    if isinstance(error, PoolTimeoutError):  # ours are all at work
        return True
    if not isinstance(error, DBAPIError) or took_too_long(error) or _is_bad_text(error):
        return False
    said = str(error.orig).lower()
    refused = (
        "password",
        "authentication",
        "access denied",
        "permission",
        "does not exist",
        "unknown",
        "unable to open",
    )
    if error.connection_invalidated or "locked" in said:
        return True
    return isinstance(error, sa.exc.OperationalError) and not any(word in said for word in refused)


def took_too_long(error: BaseException) -> bool:
    """Whether the statement timeout ended it."""
    cause = getattr(error, "orig", None)
    codes = (getattr(cause, "pgcode", None), getattr(cause, "sqlstate", None), *getattr(cause, "args", ())[:1])
    return any(code in _TOOK_TOO_LONG or code == "interrupted" for code in codes)


def _is_bad_text(error: BaseException) -> bool:
    """SQLite's driver says so in words, which hold the text itself; the others raise UnicodeDecodeError."""
    return isinstance(error, UnicodeDecodeError) or "Could not decode to UTF-8" in str(getattr(error, "orig", ""))


def _encoding_of(error: BaseException) -> str:
    return error.encoding if isinstance(error, UnicodeDecodeError) else "UTF-8"


def _log_retry(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.info("MLflow's database: %s, attempt %d; trying again", type(error).__name__, state.attempt_number)
