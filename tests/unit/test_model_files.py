"""Model files come with what they belong to, several at a time, and a store that fails is given up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from threading import Barrier, Lock
from typing import Any

import pytest

from datahub_mlflow_source import model_files
from datahub_mlflow_source.errors import ArtifactError
from datahub_mlflow_source.model_files import ModelFiles, WantedFile, file_of_logged_model, file_of_version
from datahub_mlflow_source.records import FoundFile, ModelFile, ModelFolder, Run
from datahub_mlflow_source.report import MlflowSourceReport
from tests.unit.records import RUN_ID, make_logged_model, make_run, make_version

CONTENT = b"flavors: {sklearn: {sklearn_version: '1.9'}}"
Read = Callable[[ModelFolder, str], bytes | None]


class Store:
    """In place of artifacts: answers as it is told, and counts."""

    def __init__(self, read: Read) -> None:
        self._read, self._lock = read, Lock()
        self.asked: list[tuple[str, str]] = []

    def store_of(self, folder: ModelFolder) -> str:
        return "/".join(folder.uri.split("/")[:3])

    def reach(self, folder: ModelFolder) -> bool:
        return not folder.uri.startswith("far:")

    def read(self, folder: ModelFolder, name: str, most: int) -> bytes | None:
        assert most
        with self._lock:
            self.asked.append((folder.uri, name))
        return self._read(folder, name)


def wanted(number: int, **how: Any) -> WantedFile:
    known = {"kept": None, "wants_card": True, **how}
    folder = ModelFolder(uri=f"s3://bucket/{number}")
    return WantedFile(**{"key": str(number), "shown": f"model {number}", "folder": folder, **known})


def fetched(
    store: Store, numbers: Iterable[int], wants: Callable[[int], Iterable[WantedFile]] = lambda number: [wanted(number)]
) -> tuple[list[tuple[int, FoundFile | None]], MlflowSourceReport]:
    report = MlflowSourceReport()
    files = ModelFiles(store, report, 8)  # type: ignore[arg-type]
    found = [(number, files.of(str(number))) for number in files.ahead(numbers, wants)]
    files.close()
    return found, report


def warnings(report: MlflowSourceReport) -> list[str]:
    return [f"{entry.title}: {context}" for entry in report.warnings for context in entry.context]


def test_each_comes_in_order_with_its_file() -> None:
    found, report = fetched(Store(lambda *_: CONTENT), range(100))
    assert [number for number, _ in found] == list(range(100))
    assert {file.state for _, file in found if file} == {"read"}
    assert report.model_files.read == 100


def test_those_that_want_none_are_not_kept_waiting() -> None:
    taken: list[int] = []

    def things() -> Iterable[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    files = ModelFiles(Store(lambda *_: CONTENT), MlflowSourceReport(), 8)  # type: ignore[arg-type]
    assert next(files.ahead(things(), lambda _: [])) == 0
    assert taken == [0]


def test_eight_are_fetched_at_a_time() -> None:
    together = Barrier(8, timeout=20)
    found, _ = fetched(Store(lambda *_: CONTENT if together.wait() >= 0 else None), range(16))
    assert [file.state for _, file in found if file] == ["read"] * 16


def test_few_things_are_held_however_seldom_one_wants_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    go_on = Barrier(2, timeout=20)

    def things() -> Iterable[int]:
        for number in range(10_000):
            taken.append(number)
            if number == 500:
                go_on.wait()  # the first file is there now
            yield number

    store = Store(lambda *_: CONTENT if go_on.wait() >= 0 else None)
    files = ModelFiles(store, MlflowSourceReport(), 8)  # type: ignore[arg-type]
    assert next(files.ahead(things(), lambda number: [wanted(0)] if number == 0 else [])) == 0
    assert len(taken) == 501


def test_what_was_found_is_forgotten_behind_its_thing() -> None:
    files = ModelFiles(Store(lambda *_: CONTENT), MlflowSourceReport(), 8)  # type: ignore[arg-type]
    for number in files.ahead(range(20), lambda number: [wanted(number)]):
        assert files.of(str(number))
        assert files.of(str(number - 1)) is None


def test_a_missing_file_is_counted_and_no_warning() -> None:
    found, report = fetched(Store(lambda *_: None), range(20))
    assert {file.state for _, file in found if file} == {"missing"}
    assert report.model_files.missing == 20
    assert warnings(report) == []


def test_a_bad_file_is_warned_of_and_the_others_are_read() -> None:
    found, report = fetched(Store(lambda folder, _: b"[1]" if folder.uri[-1] in "13579" else CONTENT), range(10))
    assert [file.state for _, file in found if file] == ["read", "unreadable"] * 5
    assert len(warnings(report)) == 5
    assert "model 1: it is YAML, but no mapping" in warnings(report)[0]


def test_a_store_that_fails_on_end_is_given_up() -> None:
    def fail(*_: Any) -> bytes:
        raise ArtifactError("no bucket")

    store = Store(fail)
    found, report = fetched(store, range(1000))
    assert len(found) == 1000
    assert report.model_files.unreadable == 5
    assert report.model_files.not_tried == 995
    assert len(store.asked) < 30
    assert len(report.warnings) == 1
    assert found[-1] == (999, None)


def test_the_other_stores_are_read_on() -> None:
    def fail(folder: ModelFolder, _: str) -> bytes:
        if folder.uri.startswith("s3://gone/"):
            raise ArtifactError("no bucket")
        return CONTENT

    def wants(number: int) -> list[WantedFile]:
        return [wanted(number, folder=ModelFolder(uri=f"s3://{'gone' if number % 2 else 'here'}/{number}"))]

    _, report = fetched(Store(fail), range(100), wants)
    assert (report.model_files.read, report.model_files.unreadable, report.model_files.not_tried) == (50, 5, 45)


def test_many_stores_that_fail_are_given_up_together() -> None:
    def fail(*_: Any) -> bytes:
        raise ArtifactError("no bucket")

    def wants(number: int) -> list[WantedFile]:
        return [wanted(number, folder=ModelFolder(uri=f"s3://bucket-{number}/model"))]

    _, report = fetched(Store(fail), range(100), wants)
    assert (report.model_files.unreadable, report.model_files.not_tried) == (50, 50)


def test_what_there_is_no_way_to_is_told_once() -> None:
    store = Store(lambda *_: CONTENT)
    found, report = fetched(store, range(3), lambda number: [wanted(number, folder=ModelFolder(uri="far:/x"))])
    assert found == [(0, None), (1, None), (2, None)]
    assert (store.asked, report.model_files.out_of_reach) == ([], 3)
    assert warnings(report) == []
    assert [list(entry.context) for entry in report.infos] == [["3 models"]]


def test_one_that_fails_now_and_then_is_not() -> None:
    def flicker(folder: ModelFolder, _: str) -> bytes:
        if int(folder.uri[-1]) % 5:
            raise ArtifactError("busy")
        return CONTENT

    _, report = fetched(Store(flicker), range(100))
    assert (report.model_files.read, report.model_files.unreadable) == (20, 80)


def test_a_store_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "_LONGEST_SECONDS", 0.05)
    found, report = fetched(Store(lambda *_: time.sleep(3600)), range(100))
    assert len(found) == 100
    assert "no answer within" in warnings(report)[0]
    assert report.model_files.unreadable == 5


def test_an_error_that_nobody_thought_of_stays_with_its_file() -> None:
    def odd(folder: ModelFolder, _: str) -> bytes:
        if folder.uri.endswith("3"):
            raise KeyError("Body")
        return CONTENT

    found, report = fetched(Store(odd), range(6))
    assert [file.state for _, file in found if file] == ["read"] * 3 + ["unreadable"] + ["read"] * 2
    assert warnings(report) == ["A model file can't be read: model 3: KeyError"]  # its text might be a secret


def test_a_store_that_hangs_keeps_no_other_waiting_for_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "_LONGEST_SECONDS", 0.3)

    def hang(folder: ModelFolder, _: str) -> bytes:
        if folder.uri.startswith("s3://dead/"):
            time.sleep(3600)
        return CONTENT

    def wants(number: int) -> list[WantedFile]:
        return [wanted(number, folder=ModelFolder(uri=f"s3://{'dead' if number < 20 else 'good'}/{number}"))]

    _, report = fetched(Store(hang), range(60), wants)
    tally = report.model_files
    assert (tally.read, tally.unreadable, tally.not_tried) == (40, 5, 15)


def test_time_that_is_lost_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many stores there are, and though some files come in between."""
    monkeypatch.setattr(model_files, "_LONGEST_SECONDS", 0.1)
    monkeypatch.setattr(model_files, "_MOST_SECONDS_LOST", 0.25)

    def hang(folder: ModelFolder, _: str) -> bytes:
        if "dead" in folder.uri:
            time.sleep(3600)
        return CONTENT

    def wants(number: int) -> list[WantedFile]:
        where = "good" if number % 20 else f"dead-{number}"
        return [wanted(number, folder=ModelFolder(uri=f"s3://{where}/{number}"))]

    _, report = fetched(Store(hang), range(1000), wants)
    assert report.model_files.unreadable <= 10
    assert report.model_files.not_tried > 500


def test_a_storm_of_bad_files_is_no_storm_of_messages(caplog: pytest.LogCaptureFixture) -> None:
    _, report = fetched(Store(lambda *_: b"<html>"), range(200))
    assert report.model_files.unreadable == 200
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 20


class TestCard:
    WITH_CARD = b"flavors: {python_function: {artifacts: {r: {path: artifacts/README.md}}}}"

    def store(self) -> Store:
        return Store(lambda _, name: b"# \xc3\x9cber \xff" if name.endswith(".md") else self.WITH_CARD)

    def test_is_read_where_there_is_no_other_description(self) -> None:
        found, _ = fetched(self.store(), [0])
        assert found[0][1] is not None
        assert found[0][1].card == "# Über \N{REPLACEMENT CHARACTER}"

    def test_costs_nothing_where_there_is(self) -> None:
        store = self.store()
        fetched(store, [0], lambda number: [wanted(number, wants_card=False)])
        assert store.asked == [("s3://bucket/0", "MLmodel")]

    def test_that_fails_leaves_the_file(self) -> None:
        def fail(_: ModelFolder, name: str) -> bytes:
            if name.endswith(".md"):
                raise ArtifactError("busy")
            return self.WITH_CARD

        found, report = fetched(Store(fail), range(20))
        assert {file.state for _, file in found if file} == {"read"}
        assert (report.model_files.read, report.model_files.unreadable) == (20, 0)
        assert "A model card can't be read: model" in warnings(report)[0]

    def test_that_is_not_there_is_no_error(self) -> None:
        found, report = fetched(Store(lambda _, name: None if name.endswith(".md") else self.WITH_CARD), [0])
        assert found[0][1] == FoundFile("read", found[0][1].file if found[0][1] else None, "")
        assert warnings(report) == []


def test_what_the_run_kept_is_not_read() -> None:
    kept = ModelFile((), "", "", "", (), "")
    store = Store(lambda *_: CONTENT)
    found, report = fetched(store, [0], lambda number: [wanted(number, kept=kept)])
    assert found == [(0, FoundFile("tag", kept, ""))]
    assert store.asked == []
    assert report.model_files.read == 1


class TestWhereItLies:
    RUN: Run = make_run()

    def folder(self, source: str, run: Run | None = RUN, **of_version: Any) -> ModelFolder:
        return file_of_version(make_version(source=source, **of_version), run, None, "").folder

    def test_in_the_artifacts_of_its_run(self) -> None:
        for source in (f"{self.RUN.artifact_uri}/model", f"runs:/{RUN_ID}/model", f"{self.RUN.artifact_uri}/model/"):
            folder = self.folder(source)
            assert (folder.uri, folder.run_id, folder.path_in_run) == (
                f"{self.RUN.artifact_uri}/model",
                RUN_ID,
                "model",
            )

    def test_elsewhere(self) -> None:
        folder = self.folder("s3://bucket/model")
        assert (folder.uri, folder.run_id, folder.path_in_run) == ("s3://bucket/model", "", "")
        assert self.folder(f"{self.RUN.artifact_uri}-2/model").run_id == ""
        assert self.folder("s3://bucket/model", None).run_id == ""

    def test_in_the_folder_of_its_logged_model(self) -> None:
        logged = make_logged_model(artifact_uri="s3://bucket/models/m-1/artifacts")
        version = make_version(source=f"models:/{logged.model_id}", model_id=logged.model_id)
        assert file_of_version(version, self.RUN, logged, "").folder.uri == "s3://bucket/models/m-1/artifacts"
        assert file_of_logged_model(logged, "").folder == ModelFolder(logged.artifact_uri, model_id=logged.model_id)

    def test_where_mlflows_database_says_it_is(self) -> None:
        folder = self.folder("models:/other/1", storage_location="s3://bucket/other/1")
        assert folder.uri == "s3://bucket/other/1"

    def test_a_card_is_wanted_where_nobody_wrote_a_description(self) -> None:
        assert file_of_version(make_version(description=""), None, None, "").wants_card
        assert not file_of_version(make_version(description="x"), None, None, "").wants_card
        assert not file_of_version(
            make_version(description="", tags={"mlflow.note.content": "x"}), None, None, ""
        ).wants_card
        assert not file_of_logged_model(make_logged_model(tags={"mlflow.note.content": "x"}), "").wants_card
