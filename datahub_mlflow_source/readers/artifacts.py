"""Small files from the folder of a model: through MLflow's server, or straight from the store that it lies in."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from datahub_mlflow_source.connection import Connection
from datahub_mlflow_source.errors import ArtifactError, PageError, ServerError
from datahub_mlflow_source.readers.http import MlflowHttp
from datahub_mlflow_source.readers.mlmodel import BadModelFileError
from datahub_mlflow_source.readers.stores import Stores
from datahub_mlflow_source.records import ModelFolder
from datahub_mlflow_source.redaction import redact

# What the server's own client of the store said, which MLflow repeats.
_NOT_THERE = re.compile(
    r"\(404\) when calling|NoSuchKey|No such object|BlobNotFound|No such file or directory|No such artifact"
)
_PROXY = "/api/2.0/mlflow-artifacts/artifacts"


class Artifacts:
    """Of one deployment. Safe to use from several threads."""

    def __init__(self, servers: tuple[Connection, Connection] | None, stores: Stores, read_straight: bool) -> None:
        """`servers`: of runs, and of the registry. `read_straight`: an S3 store, without asking a server."""
        self._stores = stores
        self._read_straight = read_straight
        self._tracking = MlflowHttp(servers[0]) if servers else None
        same = servers is not None and servers[0] == servers[1]
        self._registry = self._tracking if same or not servers else MlflowHttp(servers[1])

    @property
    def requests_sent(self) -> int:
        """To MLflow, retries included."""
        servers = {self._tracking, self._registry} - {None}
        return sum(server.requests_sent for server in servers if server)

    def close(self) -> None:
        """Gives back connections."""
        for server in (self._tracking, self._registry):
            if server:
                server.close()

    def reach(self, folder: ModelFolder) -> bool:
        """Whether there is a way to it. Without a server, there is none to its own proxy."""
        return self._tracking is not None or self._stores.know(folder.uri)

    def store_of(self, folder: ModelFolder) -> str:
        """What fails together: the server's own store, or one that is named in the address."""
        own = _proxied(folder.uri) or "://" not in folder.uri
        return "" if own else "/".join(folder.uri.split("/")[:3]).lower()

    def read(self, folder: ModelFolder, name: str, most: int) -> bytes | None:
        """The first `most` bytes, and perhaps one more, of a file in this folder; None where there is none.

        Raises:
            BadModelFileError: the address can't be one of a model's folder.
            ArtifactError: the store, or the server in front of it, can't be read.
        """
        if ".." in unquote(folder.uri).replace("\\", "/").split("/"):
            raise BadModelFileError("its address leads out of the store")
        straight = self._read_straight and folder.uri.lower().startswith(("s3:", "s3a:"))
        if self._tracking is None or self._registry is None or straight:
            return self._stores.read(folder.uri, name, most)
        server, path, query = self._address(folder, name, self._tracking, self._registry)
        try:
            by_name = server is self._registry and "name" in query
            return server.file(path, query, most, folder.registered_in if by_name else folder.workspace)
        except ServerError as error:
            if error.status == 400:
                raise BadModelFileError("MLflow takes its address for none") from error
            if (error.status == 404 and error.error_code) or self._is_missing(error, folder, name):
                return None
            advice = f". Check its log, and that it may read {_shown(folder.uri)}" if error.status == 500 else ""
            raise ArtifactError(f"{error}{advice}") from error

    def _address(
        self, folder: ModelFolder, name: str, tracking: MlflowHttp, registry: MlflowHttp
    ) -> tuple[MlflowHttp, str, dict[str, str]]:
        """Of the file: the artifact proxy itself where it is in use: other ways lead there too, and take longer."""
        if proxied := _proxied(folder.uri):
            return tracking, f"{_PROXY}/{quote(f'{proxied}/{name}')}", {}
        if folder.name:
            query = {"name": folder.name, "version": folder.version, "path": name}
            return registry, "/model-versions/get-artifact", query
        path = f"/ajax-api/2.0/mlflow/logged-models/{quote(folder.model_id, safe='')}/artifacts/files"
        return tracking, path, {"artifact_file_path": name}

    def _is_missing(self, error: ServerError, folder: ModelFolder, name: str) -> bool:
        """A file that isn't there may be a 500: up to 3.0 always, and in S3 without the proxy still in 3.17.

        Where the server doesn't say why, only a listing tells.
        """
        tracking = self._tracking
        if not isinstance(error, PageError) or tracking is None:
            return False
        if _NOT_THERE.search(str(error)):
            return True
        try:
            if proxied := _proxied(folder.uri):
                listed = tracking.get(_PROXY, {"path": proxied}, folder.workspace)
            elif folder.run_id:
                of_run = {"run_id": folder.run_id, "path": folder.path_in_run}
                listed = tracking.get("artifacts/list", of_run, folder.workspace)
            elif folder.model_id:
                of_model = f"logged-models/{quote(folder.model_id, safe='')}/artifacts/directories"
                listed = tracking.get(of_model, {}, folder.workspace)
            else:
                return False
        except ServerError:
            return False
        files = listed.get("files", [])
        return not any(str(file.get("path", "")).rpartition("/")[2] == name for file in files)


def _shown(uri: str) -> str:
    """The store, without what may be a credential."""
    return redact("/".join(uri.split("/")[:3])) or "where it lies"


def _proxied(uri: str) -> str:
    """The path behind the server's artifact proxy; "" for a URI of anything else, or of another server's proxy."""
    scheme, _, path = uri.partition(":")
    return path.strip("/") if scheme.lower() == "mlflow-artifacts" and not path.startswith("//") else ""
