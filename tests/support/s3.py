"""A real S3 server on loopback, in MinIO's place: SeaweedFS, which checks signatures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.support.servers import free_port, guarded, stopped

START_SECONDS = 60
BUCKET = "mlflow"
WRITER = ("writer", "made-up-secret")
READER = ("reader", "made-up-too")


@dataclass(frozen=True, slots=True)
class S3Server:
    """A server that runs, with one bucket."""

    url: str
    log: Path

    def client(self) -> Any:
        """boto3's, of one who may write."""
        import boto3  # type: ignore[import-untyped]

        key, secret = WRITER
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )

    def put(self, key: str, content: bytes) -> str:
        """Its address."""
        self.client().put_object(Bucket=BUCKET, Key=key, Body=content)
        return f"s3://{BUCKET}/{key}"

    @property
    def environment(self) -> dict[str, str]:
        """By which MLflow's server finds and opens it."""
        key, secret = WRITER
        return {
            "MLFLOW_S3_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Ready for requests, empty, gone at the end. Raises RuntimeError with its log where it does not come up."""
    folder = Path(tempfile.mkdtemp(prefix="s3-"))
    ports = _ports()
    (folder / "users.json").write_text(
        json.dumps({"identities": [_user(WRITER, "Admin"), _user(READER, "Read", "List")]})
    )
    log = folder / "log"
    command = [
        *(str(Path(sys.executable).parent / "weed"), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-master.port={ports[0]}", f"-volume.port={ports[1]}", f"-filer.port={ports[2]}", f"-s3.port={ports[3]}"),
        *("-master.telemetry=false", "-volume.preStopSeconds=0", "-webdav=false", "-admin.ui=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={folder / 'users.json'}", f"-bucket={BUCKET}"),
    ]
    server = S3Server(f"http://127.0.0.1:{ports[3]}", log)
    with guarded(command, {**os.environ, "HOME": str(folder)}, log) as guard:
        try:
            _wait_until_ready(server, guard)
            yield server
        finally:
            stopped(guard, ports[3])
            shutil.rmtree(folder, ignore_errors=True)


def _user(keys: tuple[str, str], *actions: str) -> dict[str, Any]:
    key, secret = keys
    return {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": list(actions)}


def _ports() -> list[int]:
    """Four; it also takes each ten thousand higher."""
    found: list[int] = []
    while len(found) < 4:
        if (port := free_port()) not in found:
            found.append(port)
    return found


def _wait_until_ready(server: S3Server, guard: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _ready(server):
        if guard.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"SeaweedFS did not start:\n{server.log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.1)


def _ready(server: S3Server) -> bool:
    """It answers /healthz before it takes a file."""
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    try:
        if requests.get(f"{server.url}/healthz", timeout=5).status_code != 200:
            return False
        server.put("ready", b"")
    except (requests.RequestException, BotoCoreError, ClientError):
        return False
    return True
