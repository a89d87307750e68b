"""Model files, fetched for what the recipe chooses while what comes before it is mapped and sent."""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from typing_extensions import LiteralString

from datahub_mlflow_source.errors import ArtifactError
from datahub_mlflow_source.mapping.rules import NOTE, tag_value
from datahub_mlflow_source.readers import mlmodel
from datahub_mlflow_source.readers.artifacts import Artifacts
from datahub_mlflow_source.readers.workers import Workers
from datahub_mlflow_source.records import FoundFile, LoggedModel, ModelFile, ModelFolder, ModelVersion, Run
from datahub_mlflow_source.report import MlflowSourceReport

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_WAITING = 500  # runs, behind the first whose file is on its way
_LONGEST_SECONDS = 30  # for one file
_FAILURES_TO_GIVE_UP = 5  # on end, of one store
_FAILURES_OF_ALL = 50  # on end, wherever
_MOST_SECONDS_LOST = 300
_MOST_LOGGED = 20  # of each kind of warning; the report counts them, and shows some
_GLANCE_SECONDS = 0.2
_ANYWHERE = "*"
_MOST_CARD_BYTES = 260_000  # 65,000 characters in any script


@dataclass(frozen=True, slots=True)
class WantedFile:
    """The file of one model, and what is known of it beforehand."""

    key: str  # the model's own, of all models
    shown: str  # for messages
    folder: ModelFolder
    kept: ModelFile | None  # what the run kept of it, which saves reading it
    wants_card: bool  # there is no other description


@dataclass(slots=True)
class _Fetch:
    file: WantedFile
    began: float | None = None  # once a thread is at it
    result: Future[tuple[FoundFile, str]] = field(default_factory=Future)


class ModelFiles:
    """Asked for ahead, and forgotten once what wanted them is mapped."""

    def __init__(self, artifacts: Artifacts, report: MlflowSourceReport, at_once: int) -> None:
        """`at_once`: so many are on their way at a time."""
        self._artifacts, self._report, self._at_once = artifacts, report, at_once
        self._workers = Workers(at_once)
        self._found: dict[str, FoundFile] = {}
        self._failures: dict[str, int] = defaultdict(int)  # on end, by store
        self._seconds_lost = 0.0  # by waiting for what then failed

    def close(self) -> None:
        """Begins nothing more, and tells of what nobody could ask for."""
        self._workers.close()
        if self._report.model_files.out_of_reach:
            self._report.info(
                title="Model files are out of reach",
                message="They are behind MLflow's server, or in a store of an unknown kind: set `tracking_uri` beside "
                "`backend_store_uri`. Their models are sent without signature and flavors.",
                context=f"{self._report.model_files.out_of_reach} models",
                log=False,
            )

    def ahead(self, things: Iterable[T], wanted: Callable[[T], Iterable[WantedFile]]) -> Iterator[T]:
        """The same things, each once the files that it wants are there for `of`, until the next one comes."""
        waiting: deque[tuple[T, list[_Fetch]]] = deque()
        on_their_way = 0
        for thing in things:
            begun = [self._begun(file) for file in self._tried(wanted(thing))]
            waiting.append((thing, begun))
            on_their_way += len(begun)
            while waiting and (not waiting[0][1] or on_their_way > self._at_once or len(waiting) > _MOST_WAITING):
                first, fetches = waiting.popleft()
                on_their_way -= len(fetches)
                self._arrive(fetches)
                yield first
        for thing, fetches in waiting:
            self._arrive(fetches)
            yield thing

    def of(self, key: str) -> FoundFile | None:
        """What was found for the model of this key; None where nobody asked, or no more are tried."""
        return self._found.get(key)

    def _tried(self, files: Iterable[WantedFile]) -> Iterator[WantedFile]:
        for file in files:
            if not self._artifacts.reach(file.folder):
                self._report.model_files.out_of_reach += 1
            elif self._is_given_up(file):
                self._report.model_files.not_tried += 1
            else:
                yield file

    def _is_given_up(self, file: WantedFile) -> bool:
        of_store = self._failures[self._artifacts.store_of(file.folder)]
        in_all = self._failures[_ANYWHERE] >= _FAILURES_OF_ALL or self._seconds_lost >= _MOST_SECONDS_LOST
        return of_store >= _FAILURES_TO_GIVE_UP or in_all

    def _begun(self, file: WantedFile) -> _Fetch:
        fetch = _Fetch(file)
        fetch.result = self._workers.begin(partial(self._find, fetch))
        return fetch

    def _arrive(self, fetches: Iterable[_Fetch]) -> None:
        self._found.clear()
        for fetch in fetches:
            if self._is_given_up(fetch.file):
                if not fetch.result.cancel() and not fetch.result.done():
                    self._workers.add()  # in place of the one that may be stuck
                self._report.model_files.not_tried += 1
                continue
            with self._report.waiting_for_mlflow:
                self._found[fetch.file.key] = self._arrived(fetch)

    def _arrived(self, fetch: _Fetch) -> FoundFile:
        waited_since = time.monotonic()
        try:
            found, card_error = self._waited_for(fetch)
        except mlmodel.BadModelFileError as error:
            self._count(fetch, 0)
            return self._unreadable("A model file is none of MLflow's", fetch, str(error))
        except Exception as error:
            logger.debug("Reading a model file failed", exc_info=True)
            self._seconds_lost += time.monotonic() - waited_since
            self._count(fetch, 1)
            return self._unreadable("A model file can't be read", fetch, _said(error))
        self._count(fetch, 0)
        if card_error:
            self._report.warning(
                title="A model card can't be read",
                message="The model is sent without it.",
                context=f"{fetch.file.shown}: {card_error}",
                log=False,
            )
        if found.state == "missing":
            self._report.model_files.missing += 1
        else:
            self._report.model_files.read += 1
        return found

    def _unreadable(self, title: LiteralString, fetch: _Fetch, said: str) -> FoundFile:
        self._report.model_files.unreadable += 1
        self._report.warning(
            title=title,
            message="The model is sent without signature and flavors. A store that fails five times is given up.",
            context=f"{fetch.file.shown}: {said}",
            log=self._report.model_files.unreadable <= _MOST_LOGGED,
        )
        return FoundFile("unreadable")

    def _waited_for(self, fetch: _Fetch) -> tuple[FoundFile, str]:
        """What `_find` gives or raises. Its time counts from when a thread began: others may be stuck before it."""
        while True:
            left = _LONGEST_SECONDS - (time.monotonic() - fetch.began) if fetch.began is not None else _GLANCE_SECONDS
            try:
                return fetch.result.result(max(left, 0))
            except FutureTimeoutError:
                if fetch.result.done():
                    raise
                if fetch.began is not None and time.monotonic() - fetch.began >= _LONGEST_SECONDS:
                    self._workers.add()  # in place of the one that is stuck
                    raise ArtifactError(f"no answer within {_LONGEST_SECONDS} seconds") from None

    def _count(self, fetch: _Fetch, failures: int) -> None:
        for store in (self._artifacts.store_of(fetch.file.folder), _ANYWHERE):
            self._failures[store] = failures and self._failures[store] + failures

    def _find(self, fetch: _Fetch) -> tuple[FoundFile, str]:
        """In another thread: what was found, and what is wrong with the card."""
        fetch.began = time.monotonic()
        wanted = fetch.file
        if wanted.kept:
            return self._with_card(wanted, FoundFile("tag", wanted.kept))
        content = self._artifacts.read(wanted.folder, mlmodel.FILE, mlmodel.MOST_BYTES)
        if content is None:
            return FoundFile("missing"), ""
        return self._with_card(wanted, FoundFile("read", mlmodel.parse(content)))

    def _with_card(self, wanted: WantedFile, found: FoundFile) -> tuple[FoundFile, str]:
        if not found.file or not found.file.card or not wanted.wants_card:
            return found, ""
        try:
            content = self._artifacts.read(wanted.folder, found.file.card, _MOST_CARD_BYTES) or b""
        except Exception as error:
            logger.debug("Reading a model card failed", exc_info=True)
            return found, _said(error)
        return replace(found, card=content.decode(errors="replace")), ""


def _said(error: Exception) -> str:
    """Of an exception that isn't ours only its kind: it may show an address with a password."""
    return str(error) if isinstance(error, ArtifactError) else type(error).__name__


def file_of_version(version: ModelVersion, run: Run | None, logged: LoggedModel | None, workspace: str) -> WantedFile:
    """What to look for, for a version: `run` and `logged` are what it was made of, as far as that is known.

    `workspace`: theirs, or the version's own.
    """
    folder = _folder(version, run, logged, workspace)
    return WantedFile(
        key=version_key(version),
        shown=f"{version.full_name} version {version.version}",
        folder=folder,
        kept=mlmodel.kept_by_run(run.tags, folder.path_in_run) if run and folder.path_in_run else None,
        wants_card=not (version.description or tag_value(version.tags, NOTE)),
    )


def file_of_logged_model(model: LoggedModel, workspace: str) -> WantedFile:
    """The same for a logged model of this workspace that no version was made of."""
    return WantedFile(
        key=model.model_id,
        shown=f"{model.name} ({model.model_id})",
        folder=ModelFolder(uri=model.artifact_uri, model_id=model.model_id, workspace=workspace),
        kept=None,
        wants_card=not tag_value(model.tags, NOTE),
    )


def version_key(version: ModelVersion) -> str:
    """Of its file."""
    return f"{version.full_name}\n{version.version}"


def _folder(version: ModelVersion, run: Run | None, logged: LoggedModel | None, workspace: str) -> ModelFolder:
    uri = logged.artifact_uri if logged else version.storage_location or version.source
    path = ""
    if run:
        for start in (f"runs:/{run.run_id}/", f"{run.artifact_uri.rstrip('/')}/"):
            if uri.startswith(start):
                path = uri.removeprefix(start).strip("/")
                uri = f"{run.artifact_uri.rstrip('/')}/{path}"
    return ModelFolder(
        uri=uri,
        name=version.name,
        version=version.version,
        model_id=version.model_id,
        run_id=run.run_id if run and path else "",
        path_in_run=path,
        workspace=workspace,
        registered_in=version.workspace,
    )
