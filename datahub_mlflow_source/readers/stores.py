"""Artifact stores read straight, as MLflow's clients do, with the libraries and credentials that those use.

A file is asked for by its first bytes only, so that one of any size costs no more than the bound.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import unquote

import requests

from datahub_mlflow_source.errors import ArtifactError
from datahub_mlflow_source.redaction import redact

_PATH = "/"  # in place of a scheme, of an absolute path
_CONNECT_SECONDS, _READ_SECONDS = 5, 15

# How a file is read: folder, name in it, and how many bytes at most; None where there is no such file.
Read = Callable[[str, str, int], bytes | None]

_BUCKET = re.compile(r"[\w.-]{1,255}")
# Only there, for the address comes from MLflow, and our credentials go where it leads.
_AZURE = re.compile(r"[a-z0-9]{3,24}\.(?:blob|dfs)\.core\.(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net)")


@dataclass(frozen=True, slots=True)
class S3Settings:
    """What the recipe says of an S3 store. What it leaves out comes from where boto3 and MLflow look for it."""

    endpoint_url: str | None = None
    region: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)


class Stores:
    """All of them, each opened when the first of its files is asked for. Safe to use from several threads."""

    def __init__(self, s3: S3Settings) -> None:
        self._opening = Lock()
        self._opened: dict[str, Read] = {}
        self._openers: dict[str, Callable[[], Read]] = {
            **dict.fromkeys(("s3", "s3a"), lambda: open_s3(s3)),
            "gs": open_gcs,
            **dict.fromkeys(("wasb", "wasbs", "abfs", "abfss"), open_azure),
            **dict.fromkeys(("file", _PATH), lambda: read_local),
        }

    def know(self, uri: str) -> bool:
        """Whether it is in a store of a kind that is known here."""
        return _scheme(uri) in self._openers

    def read(self, folder: str, name: str, most: int) -> bytes | None:
        """The first `most` bytes, and perhaps one more, of a file in a folder that is known; None where there is none.

        Raises:
            ArtifactError: the store can't be read.
        """
        scheme = _scheme(folder)
        with self._opening:
            if scheme not in self._opened:
                self._opened[scheme] = self._openers[scheme]()
        return self._opened[scheme](folder.rstrip("/"), name, most)


def _scheme(uri: str) -> str:
    return _PATH if uri.startswith("/") else uri.partition(":")[0].lower() if ":/" in uri else ""


def open_s3(settings: S3Settings) -> Read:
    """S3, MinIO, Ceph and others that speak it. Raises ArtifactError where boto3 is not installed."""
    boto3, config = _library("boto3", "s3"), _library("botocore.config", "s3")
    errors = _library("botocore.exceptions", "s3")
    insecure = os.environ.get("MLFLOW_S3_IGNORE_TLS", "").lower() in ("true", "1")
    try:
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=settings.endpoint_url or os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None,
            region_name=settings.region,
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=settings.secret_access_key,
            verify=False if insecure else None,
            config=config.Config(
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                retries={"max_attempts": 2, "mode": "standard"},
                max_pool_connections=16,
            ),
        )
    except (errors.BotoCoreError, ValueError) as error:
        raise ArtifactError(f"S3: {_said(error)}. Check `artifact_store`.") from error

    def read(folder: str, name: str, most: int) -> bytes | None:
        bucket, key = _parts(folder, name)
        try:
            answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{most}")
            content: bytes = answer["Body"].read(most + 1)
        except errors.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in ("NoSuchKey", "404", "NotFound"):
                return None
            if code in ("InvalidRange", "416"):  # a file of no bytes
                return b""
            raise ArtifactError(
                f"S3 bucket {bucket}: {code}. Check the bucket, `artifact_store`, and that its user may read and list."
            ) from error
        except errors.BotoCoreError as error:
            raise ArtifactError(
                f"S3 bucket {bucket}: {_said(error)}. Check `artifact_store`: address, region and keys."
            ) from error
        return content

    return read


def open_gcs() -> Read:
    """Google Cloud Storage, with the application's default credentials. Raises ArtifactError, where there are none."""
    storage, errors = _library("google.cloud.storage", "gcs"), _library("google.api_core.exceptions", "gcs")
    auth = _library("google.auth.exceptions", "gcs")
    try:
        client = storage.Client()
    except (auth.GoogleAuthError, OSError) as error:
        raise ArtifactError(f"Google Cloud Storage: {_said(error)}") from error

    def read(folder: str, name: str, most: int) -> bytes | None:
        bucket, key = _parts(folder, name)
        try:
            blob = client.bucket(bucket).blob(key)
            content: bytes = blob.download_as_bytes(
                end=most, raw_download=True, timeout=(_CONNECT_SECONDS, _READ_SECONDS), retry=None
            )
        except errors.RequestRangeNotSatisfiable:  # a file of no bytes
            return b""
        except errors.NotFound as error:
            if "bucket does not exist" in str(error):
                raise ArtifactError(f"There is no Google Cloud Storage bucket {bucket}.") from error
            return None
        except (errors.GoogleAPIError, auth.GoogleAuthError, requests.RequestException) as error:
            raise ArtifactError(f"Google Cloud Storage bucket {bucket}: {_said(error)}") from error
        return content

    return read


def open_azure() -> Read:
    """Azure Blob Storage, with MLflow's variables or Azure's default credential. Raises ArtifactError."""
    blob, core = _library("azure.storage.blob", "azure"), _library("azure.core.exceptions", "azure")
    clients: dict[str, Any] = {}

    def read(folder: str, name: str, most: int) -> bytes | None:
        place, _, path = folder.partition("://")[2].partition("/")
        container, _, host = place.lower().rpartition("@")
        account = host.partition(".")[0]
        if not _AZURE.fullmatch(host) or not _BUCKET.fullmatch(container):
            raise ArtifactError("It is no address of Azure's: <container>@<account>.blob.core.windows.net")
        try:
            if host not in clients:
                clients[host] = _azure_client(blob, account, host)
            found = clients[host].get_blob_client(container, unquote(f"{path}/{name}" if path else name))
            content: bytes = found.download_blob(offset=0, length=most + 1).readall()
        except core.ResourceNotFoundError as error:
            if getattr(error, "error_code", None) == "ContainerNotFound":
                raise ArtifactError(f"There is no container {container} in Azure account {account}.") from error
            return None
        except (core.AzureError, ValueError) as error:
            raise ArtifactError(f"Azure account {account}: {_said(error)}") from error
        return content

    return read


def _azure_client(blob: Any, account: str, host: str) -> Any:
    """By the variables of `mlflow/store/artifact/azure_blob_artifact_repo.py`, in its order."""
    settings = {"connection_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS, "retry_total": 1}
    if connection := os.environ.get("AZURE_STORAGE_CONNECTION_STRING"):
        return blob.BlobServiceClient.from_connection_string(connection, **settings)
    url = f"https://{host.replace('.dfs.', '.blob.')}"
    if key := os.environ.get("AZURE_STORAGE_ACCESS_KEY"):
        return blob.BlobServiceClient(url, credential={"account_name": account, "account_key": key}, **settings)
    identity = _library("azure.identity", "azure")
    return blob.BlobServiceClient(url, credential=identity.DefaultAzureCredential(), **settings)


def read_local(folder: str, name: str, most: int) -> bytes | None:
    """A file on this machine, or one that is mounted here. Raises ArtifactError."""
    path = folder
    if not folder.startswith("/"):  # file:///path, file:/path, file://host/path
        rest = unquote(folder.partition(":")[2])
        path = f"/{rest[2:].partition('/')[2]}" if rest.startswith("//") else rest
    try:
        within = Path(path).resolve()
        file = (within / name).resolve()
        if not file.is_relative_to(within):
            raise ArtifactError("A link leads out of the model's folder.")
        if not file.is_file():  # a pipe would never end
            return None
        with file.open("rb") as opened:
            return opened.read(most + 1)
    except (OSError, RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"{redact(path)[:200]}: {type(error).__name__}. Check that this machine may read it"
        ) from error


def _parts(folder: str, name: str) -> tuple[str, str]:
    """Bucket and key. A key may hold anything, ? and # too. Raises ArtifactError for what is no bucket."""
    bucket, _, key = folder.partition("://")[2].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ArtifactError("Its address names no bucket: it should look like s3://<bucket>/<path>")
    return bucket, f"{key}/{name}" if key else name


def _library(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ArtifactError(
            f"`{module}` is not installed, which reads model files from that store: "
            f"pip install 'datahub-mlflow-source[{extra}]'"
        ) from error


def _said(error: Exception) -> str:
    return redact(" ".join(str(error).split()))[:300].rstrip(".")
