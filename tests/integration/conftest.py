"""The server that most integration tests read. What changes its server starts one of its own."""

from __future__ import annotations

from collections.abc import Iterator

import mlflow
import pytest

from tests.support.content import Content, rich_content
from tests.support.ingest import Ingested, ingest
from tests.support.servers import MlflowServer, mlflow_server


@pytest.fixture(scope="session")
def rich_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MlflowServer, Content]]:
    with mlflow_server(tmp_path_factory.mktemp("rich")) as server:
        yield server, rich_content(server)


@pytest.fixture(scope="session")
def server(rich_server: tuple[MlflowServer, Content]) -> MlflowServer:
    return rich_server[0]


@pytest.fixture(scope="session")
def content(rich_server: tuple[MlflowServer, Content]) -> Content:
    return rich_server[1]


@pytest.fixture(scope="session")
def client(server: MlflowServer) -> mlflow.MlflowClient:
    """MLflow's own, as the independent witness of what the server has."""
    return mlflow.MlflowClient(server.url)


@pytest.fixture(scope="session")
def ingested(
    server: MlflowServer,
    content: Content,
    tmp_path_factory: pytest.TempPathFactory,
) -> Ingested:
    return ingest({"tracking_uri": server.url}, tmp_path_factory.mktemp("ingested") / "out.json")
