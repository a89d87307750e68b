"""Artifact stores other than S3, read straight: Google's from an emulator, Azure's by its answers, and folders."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import requests
import responses

from datahub_mlflow_source.errors import ArtifactError
from datahub_mlflow_source.readers.stores import S3Settings, Stores
from tests.support.servers import free_port, guarded, stopped

CONTENT = b"flavors: {sklearn: {sklearn_version: 1.9}}\n"


@pytest.fixture
def stores() -> Stores:
    return Stores(S3Settings())


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The emulator's address. It answers as Google does, but takes any credentials."""
    port, folder = free_port(), tmp_path_factory.mktemp("gcs")
    address = f"http://127.0.0.1:{port}"
    emulator = str(Path(sys.executable).parent / "gcp-storage-emulator")
    options = ["start", "--host=127.0.0.1", f"--port={port}", "--in-memory", "--default-bucket=mlflow"]
    with guarded([emulator, *options], {**os.environ, "HOME": str(folder)}, folder / "log") as guard:
        try:
            _wait_for(address, guard)
            bucket = _client(address).bucket("mlflow")
            for name, content in {"model/MLmodel": CONTENT, "empty/MLmodel": b""}.items():
                bucket.blob(name).upload_from_string(content)
            yield address
        finally:
            stopped(guard, port)


def _client(address: str) -> Any:
    anonymous = import_module("google.auth.credentials").AnonymousCredentials()
    storage = import_module("google.cloud.storage")
    return storage.Client("acme", anonymous, client_options={"api_endpoint": address})


def _wait_for(address: str, guard: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while guard.poll() is None and time.monotonic() < deadline:
        try:
            requests.get(address, timeout=5)
        except requests.ConnectionError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the emulator did not start")


class TestGoogle:
    @pytest.fixture(autouse=True)
    def emulated(self, google: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", google)

    def test_a_file_is_read_up_to_the_bound(self, stores: Stores) -> None:
        assert stores.read("gs://mlflow/model", "MLmodel", 1000) == CONTENT
        assert stores.read("gs://mlflow/model", "MLmodel", 10) == CONTENT[:11]
        assert stores.read("gs://mlflow/empty", "MLmodel", 1000) == b""

    def test_one_that_is_not_there_is_none(self, stores: Stores) -> None:
        assert stores.read("gs://mlflow/none", "MLmodel", 1000) is None

    @responses.activate
    def test_a_bucket_that_is_not_there_is_told(self, stores: Stores, google: str) -> None:
        """The emulator says nothing of it, Google does."""
        address = f"{google}/download/storage/v1/b/gone/o/model%2FMLmodel"
        responses.get(address, status=404, body="The specified bucket does not exist.")
        with pytest.raises(ArtifactError, match="no Google Cloud Storage bucket gone"):
            stores.read("gs://gone/model", "MLmodel", 1000)

    @responses.activate
    def test_a_refusal_is_told(self, stores: Stores, google: str) -> None:
        responses.get(f"{google}/download/storage/v1/b/b/o/model%2FMLmodel", status=403, body="no storage.objects.get")
        with pytest.raises(ArtifactError, match=r"storage\.objects\.get"):
            stores.read("gs://b/model", "MLmodel", 1000)


BLOB = "https://acme.blob.core.windows.net/models/churn/MLmodel"


@pytest.mark.parametrize("start", ["wasbs://models@acme.blob.core", "abfss://models@acme.dfs.core"])
class TestAzure:
    @pytest.fixture(autouse=True)
    def key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AZURE_STORAGE_ACCESS_KEY", "bWFkZS11cA==")

    @responses.activate
    def test_the_first_bytes_are_asked_for_with_the_key(self, stores: Stores, start: str) -> None:
        headers = {"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}", "ETag": "1"}
        responses.get(BLOB, status=206, body=CONTENT, headers=headers)
        assert stores.read(f"{start}.windows.net/churn", "MLmodel", 1000) == CONTENT
        (asked,) = (call.request.headers for call in responses.calls if call.request.url == BLOB)
        assert asked["x-ms-range"] == "bytes=0-1000"
        assert asked["Authorization"].startswith("SharedKey acme:")

    @responses.activate
    def test_one_that_is_not_there_is_none(self, stores: Stores, start: str) -> None:
        responses.get(BLOB, status=404, headers={"x-ms-error-code": "BlobNotFound"})
        assert stores.read(f"{start}.windows.net/churn", "MLmodel", 1000) is None

    @responses.activate
    @pytest.mark.parametrize(
        ("status", "code", "said"),
        [
            (404, "ContainerNotFound", "no container models in Azure account acme"),
            (403, "AuthenticationFailed", "acme"),
        ],
    )
    def test_what_is_wrong_is_told(self, stores: Stores, start: str, status: int, code: str, said: str) -> None:
        responses.get(BLOB, status=status, headers={"x-ms-error-code": code})
        with pytest.raises(ArtifactError, match=said):
            stores.read(f"{start}.windows.net/churn", "MLmodel", 1000)


@pytest.mark.parametrize(
    "folder",
    [
        "abfss://c@acme.evil.example/x",
        "wasbs://c@acme.blob.core.windows.net.evil.example/x",
        "wasbs://acme.blob.core.windows.net/x",
        "wasbs://c@evil.example:443#@acme.blob.core.windows.net/x",
        "s3://AKIA:made-up-secret@bucket/model",
        "s3:///model",
        "gs://made-up-secret@bucket/model",
    ],
)
def test_what_is_no_address_of_the_store_is_asked_nothing_and_not_shown(
    stores: Stores, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else our credentials would go where somebody who may register a model wants them."""
    monkeypatch.setenv("AZURE_STORAGE_ACCESS_KEY", "bWFkZS11cA==")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with responses.RequestsMock(), pytest.raises(ArtifactError) as caught:
        stores.read(folder, "MLmodel", 1000)
    assert "secret" not in str(caught.value)
    assert "evil" not in str(caught.value)


class TestFolders:
    def test_a_file_is_read_by_path_or_address(self, stores: Stores, tmp_path: Path) -> None:
        file = tmp_path / "a b%20c" / "MLmodel"
        file.parent.mkdir()
        file.write_bytes(CONTENT)
        assert stores.read(str(file.parent), "MLmodel", 1000) == CONTENT
        assert stores.read(file.parent.as_uri(), "MLmodel", 10) == CONTENT[:11]
        assert stores.read(f"file:{tmp_path}", "a b%20c/MLmodel", 1000) == CONTENT

    def test_what_is_no_file_is_none(self, stores: Stores, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "MLmodel")  # whoever reads it waits for ever
        assert stores.read(str(tmp_path), "MLmodel", 1000) is None
        assert stores.read(str(tmp_path.parent), tmp_path.name, 1000) is None
        assert stores.read(str(tmp_path / "none"), "MLmodel", 1000) is None

    @pytest.mark.parametrize("end", ["", "?", "#", "/%2e%2e/model?x"])
    def test_nothing_outside_the_folder_is_read(self, stores: Stores, tmp_path: Path, end: str) -> None:
        (tmp_path / "secret").write_text("hunter2")
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "README.md").symlink_to(tmp_path / "secret")
        for name in ("README.md", "../secret", "%2e%2e/secret"):
            try:
                found = stores.read(f"file://{tmp_path}/model{end}", name, 1000)
            except ArtifactError:
                found = None
            assert found is None


def test_stores_of_other_kinds_are_not_known(stores: Stores) -> None:
    known = ("s3://b/k", "S3A://b/k", "gs://b/k", "file:///k", "/k", "wasbs://c@a/k", "abfss://c@a/k")
    assert [uri for uri in known if not stores.know(uri)] == []
    unknown = (
        "mlflow-artifacts:/k",
        "dbfs:/k",
        "hdfs://h/k",
        "https://h/k",
        "models:/m/1",
        "runs:/r/k",
        "ftp://h/k",
        "k",
        "",
    )
    assert [uri for uri in unknown if stores.know(uri)] == []


def test_a_library_that_is_not_installed_names_its_extra(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ArtifactError, match=r"pip install 'datahub-mlflow-source\[s3\]'"):
        stores.read("s3://bucket/model", "MLmodel", 1000)
