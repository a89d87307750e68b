"""Every way to a real MLflow server: logins, gateways, TLS, Databricks, and networks that fail now and then.

Whatever stands in between, the same metadata comes out as straight from the server, and no secret comes out at all.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from datahub.ingestion.run.pipeline import Pipeline
from urllib3.exceptions import InsecureRequestWarning

from tests.support.content import Content
from tests.support.gms import GmsStandIn
from tests.support.ingest import Ingested, ingest, recipe
from tests.support.proxy import Answer, CountingProxy, Request, everything
from tests.support.servers import MlflowServer, mlflow_server
from tests.support.tls import Certificates, TlsRelay, issue_certificates

PASSWORD = "pä$$wörd: €20"
TOKEN = "made-up-token"
CLIENT_ID, CLIENT_SECRET = "made-up-client.access", "made-up-client-secret"
SECRETS = (PASSWORD, TOKEN, CLIENT_SECRET)
BASIC = {"Authorization": "Basic " + base64.b64encode(f"ada:{PASSWORD}".encode()).decode()}
BEARER = {"Authorization": f"Bearer {TOKEN}"}
CLOUDFLARE = {"CF-Access-Client-Id": CLIENT_ID, "CF-Access-Client-Secret": CLIENT_SECRET}

Read = Callable[..., Ingested]


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("MLFLOW_TRACKING", "MLFLOW_REG", "DATABRICKS"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def proxy(server: MlflowServer) -> Iterator[CountingProxy]:
    with CountingProxy(server.url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return issue_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def without_files(server: MlflowServer, content: Content, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    config = {"tracking_uri": server.url, "include_artifacts": "none"}
    return ingest(config, tmp_path_factory.mktemp("without") / "out.json")


@pytest.fixture
def read(
    server: MlflowServer,
    ingested: Ingested,
    without_files: Ingested,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> Read:
    """Ingests, and holds the outcome against that of the server itself."""

    def read_all(**config: Any) -> Ingested:
        caplog.set_level(logging.DEBUG)
        before = dict(os.environ)
        found = ingest({"base_external_url": server.url, **config}, tmp_path / "out.json")
        assert dict(os.environ) == before
        assert list(found.report.failures) == []
        expected = without_files if config.get("include_artifacts") == "none" else ingested
        assert found.aspects == expected.aspects
        shown = caplog.text + found.report.as_string() + json.dumps(found.proposals, ensure_ascii=False)
        assert [secret for secret in (*SECRETS, *BASIC.values()) if secret in shown] == []
        return found

    return read_all


def refusal(config: Mapping[str, Any], tmp_path: Path) -> str:
    """The one failure of an ingestion that sends nothing."""
    found = ingest(config, tmp_path / "refused.json")
    assert found.proposals == []
    (failure,) = found.report.failures
    (context,) = failure.context
    return context


# Who we are

WAYS_IN: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, str]]] = {  # recipe, environment, what is wanted
    "password": ({"username": "ada", "password": PASSWORD}, {}, BASIC),
    "password in the environment": (
        {},
        {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": PASSWORD},
        BASIC,
    ),
    "token": ({"token": TOKEN}, {}, BEARER),
    "token in the environment": ({}, {"MLFLOW_TRACKING_TOKEN": TOKEN}, BEARER),
    "recipe before environment": ({"token": TOKEN}, {"MLFLOW_TRACKING_TOKEN": "another"}, BEARER),
    "headers": ({"headers": {"X-Tenant": "red", "X-Zone": "eu"}}, {}, {"X-Tenant": "red", "X-Zone": "eu"}),
    "secret headers": ({"headers_secret": CLOUDFLARE}, {}, CLOUDFLARE),
    "token behind Cloudflare": ({"token": TOKEN, "headers_secret": CLOUDFLARE}, {}, {**BEARER, **CLOUDFLARE}),
}


@pytest.mark.parametrize("way", WAYS_IN)
def test_whoever_is_let_in_reads_everything(
    proxy: CountingProxy, read: Read, way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, environment, wanted = WAYS_IN[way]
    proxy.require_headers(wanted)
    assert "answered experiments/search with 403" in refusal({"tracking_uri": proxy.url}, tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    read(tracking_uri=proxy.url, **config)


@pytest.mark.matrix  # MLflow 3 needs a package more for it
def test_mlflows_own_login_takes_a_password_in_any_script(tmp_path: Path) -> None:
    python = Path(__file__).parents[2] / ".venv-server-2.10" / "bin" / "python"
    with mlflow_server(tmp_path / "server", python=python, basic_auth=True) as server:
        server.post("users/create", username="ada", password=PASSWORD)
        mine = {"tracking_uri": server.url, "username": "ada"}
        found = ingest({**mine, "password": PASSWORD}, tmp_path / "out.json")
        assert list(found.report.failures) == []
        found.named("container", "Default")
        for config in ({**mine, "password": "wrong"}, {"tracking_uri": server.url}):
            assert "with 401" in (message := refusal(config, tmp_path))
            assert "Check `username` and `password`, or `token`." in message


@pytest.mark.parametrize("sent", [{}, {"CF-Access-Client-Id": CLIENT_ID, "CF-Access-Client-Secret": "wrong"}])
def test_a_gateway_that_sends_to_its_login_page_is_named_and_not_followed(
    proxy: CountingProxy, sent: dict[str, str], tmp_path: Path
) -> None:
    wanted = {key.lower(): value for key, value in CLOUDFLARE.items()}
    with CountingProxy(proxy.url) as login_page:
        proxy.fail(
            lambda request: not wanted.items() <= request.headers.items(),
            status=302,
            headers={"Location": f"{login_page.url}/cdn-cgi/access/login?kid=made-up"},
        )
        message = refusal({"tracking_uri": proxy.url, "headers_secret": sent}, tmp_path)
        assert f"It redirects to {login_page.url}/cdn-cgi/access/login: a login page" in message
        assert "`headers_secret`" in message
        assert login_page.seen == []


def test_no_secret_is_in_what_datahub_stores_of_the_recipe_and_the_run(proxy: CountingProxy) -> None:
    login = {"username": "ada", "password": PASSWORD, "headers_secret": CLOUDFLARE}
    with GmsStandIn() as gms, patch.object(Pipeline, "_warn_old_cli_version"):
        for config in (login, {"token": TOKEN}):
            sink = {"type": "datahub-rest", "config": {"server": gms.url}}
            raw = recipe({"tracking_uri": proxy.url, "include_runs": "none", **config}, sink, "stored")
            pipeline = Pipeline.create(raw, report_to="datahub", no_progress=True, raw_config=raw)
            pipeline.run()
            assert not pipeline.has_failures()
        assert gms.rejections == []
        stored = json.dumps([gms.aspects(urn) for urn in gms.urns()], ensure_ascii=False)
    assert proxy.url in stored
    assert "headers_secret" in stored
    assert [secret for secret in SECRETS if secret in stored] == []


# TLS

TRUST = {
    "in the recipe": ({"ca_bundle": "authority"}, {}),
    "in MLflow's variable": ({}, {"MLFLOW_TRACKING_SERVER_CERT_PATH": "authority"}),
    "in requests' variable": ({}, {"REQUESTS_CA_BUNDLE": "authority"}),
    "in the recipe, another in requests' variable": ({"ca_bundle": "authority"}, {"REQUESTS_CA_BUNDLE": "client"}),
}
PROOF = {
    "in one file": ({"client_cert": "client_with_key"}, {}),
    "in two files": ({"client_cert": "client", "client_key_path": "client_key"}, {}),
    "in MLflow's variable": ({}, {"MLFLOW_TRACKING_CLIENT_CERT_PATH": "client_with_key"}),
}


def files(certificates: Certificates, names: Mapping[str, str]) -> dict[str, str]:
    return {key: str(getattr(certificates, name)) for key, name in names.items()}


@pytest.mark.parametrize("where", TRUST)
def test_a_private_authority_is_trusted(
    server: MlflowServer, read: Read, certificates: Certificates, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, environment = TRUST[where]
    for name, value in files(certificates, environment).items():
        monkeypatch.setenv(name, value)
    with TlsRelay(server.url, certificates.context()) as https:
        read(tracking_uri=https.url, tls=files(certificates, tls))


def test_without_it_the_keys_to_set_are_named(server: MlflowServer, certificates: Certificates, tmp_path: Path) -> None:
    with TlsRelay(server.url, certificates.context()) as https:
        message = refusal({"tracking_uri": https.url}, tmp_path)
    assert "certificate verify failed" in message
    assert "Check `tls`: `ca_bundle` for a private authority" in message


@pytest.mark.parametrize("where", PROOF)
def test_a_server_that_asks_for_a_certificate_gets_ours(
    server: MlflowServer, read: Read, certificates: Certificates, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, environment = PROOF[where]
    for name, value in files(certificates, environment).items():
        monkeypatch.setenv(name, value)
    with TlsRelay(server.url, certificates.context(ask_client=True)) as https:
        read(tracking_uri=https.url, tls=files(certificates, {"ca_bundle": "authority", **tls}))


def test_without_ours_the_keys_to_set_are_named(
    server: MlflowServer, certificates: Certificates, tmp_path: Path
) -> None:
    with TlsRelay(server.url, certificates.context(ask_client=True)) as https:
        config = {"tracking_uri": https.url, "tls": files(certificates, {"ca_bundle": "authority"})}
        message = refusal(config, tmp_path)
    assert "certificate required" in message
    assert "Check `tls`:" in message
    assert "`client_cert` where the server asks who we are" in message


@pytest.mark.parametrize("tls", [{"verify": False}, {}], ids=["in the recipe", "in MLflow's variable"])
def test_anybody_is_trusted_where_that_is_asked_for_and_it_is_warned_about(
    server: MlflowServer,
    read: Read,
    certificates: Certificates,
    tls: dict[str, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not tls:
        monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    with TlsRelay(server.url, certificates.context()) as https, pytest.warns(InsecureRequestWarning):
        read(tracking_uri=https.url, tls=tls)


def test_plain_http_where_the_server_wants_https_and_the_other_way_round(
    server: MlflowServer, certificates: Certificates, tmp_path: Path
) -> None:
    with TlsRelay(server.url, certificates.context()) as https:
        message = refusal({"tracking_uri": https.url.replace("https:", "http:")}, tmp_path)
    assert "Check `tracking_uri`" in message
    message = refusal({"tracking_uri": server.url.replace("http:", "https:")}, tmp_path)
    assert "whether `tracking_uri` (or `registry_uri`) should start with http://" in message


# Where it is


class Prefixed(CountingProxy):
    """Serves below a path, as many gateways do."""

    def answer(self, request: Request) -> tuple[Answer, int | None]:
        if not request.path.startswith("/ml/flow/"):
            return Answer(404, {"Content-Type": "text/html"}, b"<html>Not found</html>"), None
        return super().answer(replace(request, path=request.path.removeprefix("/ml/flow")))


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_server_below_a_path(
    server: MlflowServer, read: Read, certificates: Certificates, tmp_path: Path, slash: str
) -> None:
    with Prefixed(server.url) as below, TlsRelay(below.url, certificates.context()) as https:
        tls = files(certificates, {"ca_bundle": "authority"})
        read(tracking_uri=f"{https.url}/ml/flow{slash}", tls=tls)
        config = {"tracking_uri": f"{https.url}/ml/flow{slash}", "tls": tls, "include_runs": "none"}
        _, churn = ingest(config, tmp_path / "links.json").named("container", "churn")
        assert churn["containerProperties"]["externalUrl"].startswith(f"{https.url}/ml/flow/#/experiments/")
        message = refusal({"tracking_uri": https.url, "tls": tls}, tmp_path)
        assert "There is no MLflow API at this address: check `tracking_uri` (and `registry_uri`), path" in message


@pytest.mark.parametrize("key", ["registry_uri", "MLFLOW_REGISTRY_URI"])
def test_a_registry_elsewhere_is_asked_for_models_and_the_tracking_server_for_the_rest(
    server: MlflowServer, ingested: Ingested, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CountingProxy(server.url) as tracking, CountingProxy(server.url) as registry:
        config = {"tracking_uri": tracking.url, "token": TOKEN}
        for proxy in (tracking, registry):
            proxy.require_headers(BEARER)
        if key.isupper():
            monkeypatch.setenv(key, registry.url)
            monkeypatch.setenv("MLFLOW_TRACKING_URI", config.pop("tracking_uri"))
        else:
            config[key] = registry.url
        found = ingest(config, tmp_path / "out.json")
        asked = {path.removeprefix("/api/2.0/mlflow/").rpartition("/")[2] for _, path in tracking.requests}
        assert asked == {"search", "server-info", "version", "MLmodel", "list", "experiment-ids"}
        asked = {path.removeprefix("/api/2.0/mlflow/") for _, path in registry.requests}
        assert asked == {"registered-models/search", "model-versions/search", "/api/3.0/mlflow/server-info"}
        assert list(found.report.failures) == []
        assert found.report.requests_sent == len(tracking.seen) + len(registry.seen)
        assert found.aspects.keys() == ingested.aspects.keys()
        _, model = found.named("mlModelGroup", "logged")
        assert model["mlModelGroupProperties"]["externalUrl"].startswith(f"{registry.url}/#/models/")


def test_a_gateway_that_goes_by_the_host_header(server: MlflowServer, read: Read, tmp_path: Path) -> None:
    host = {"Host": "mlflow.acme.example"}
    with CountingProxy(server.url) as gateway:
        gateway.require_headers(host)
        assert "with 403" in refusal({"tracking_uri": gateway.url}, tmp_path)
        read(tracking_uri=gateway.url, headers=host)
    if server.release >= (3, 5):  # MLflow's own protection, where nothing in between rewrites the header
        assert "MLflow's `--allowed-hosts`" in refusal({"tracking_uri": server.url, "headers": host}, tmp_path)


# Databricks


@pytest.fixture
def databricks(proxy: CountingProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CountingProxy:
    """A workspace, and a profile for it."""
    file = tmp_path / ".databrickscfg"
    file.write_text(f"[DEFAULT]\n\n[acme]\nhost = {proxy.url}\ntoken = {TOKEN}\n")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(file))
    monkeypatch.setenv("PATH", str(tmp_path))  # no command line tools of clouds to ask for a login
    proxy.fail(lambda request: "/mlflow/" in request.path and bearer(request) != TOKEN, status=401)
    return proxy


def bearer(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


def test_a_databricks_profile_says_where_and_who(databricks: CountingProxy, read: Read) -> None:
    read(tracking_uri="databricks://acme", include_artifacts="none")
    asked = [request for request in databricks.seen if "/mlflow/" in request.path]
    assert len(asked) >= 5
    assert {bearer(request) for request in asked} == {TOKEN}


def test_databricks_own_variables_name_the_profile(
    databricks: CountingProxy, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABRICKS_CONFIG_PROFILE", "acme")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    read(include_artifacts="none")
    assert TOKEN in {bearer(request) for request in databricks.seen}


# How often, and what happens on the way


def test_a_handful_of_requests_is_enough_and_none_is_for_one_entity(
    proxy: CountingProxy, read: Read, content: Content
) -> None:
    found = read(tracking_uri=proxy.url, include_artifacts="none")
    asked = Counter(path.removeprefix("/api/2.0/mlflow/") for _, path in proxy.requests)
    # Each of four evaluation datasets is asked for its experiments: MLflow says it nowhere else.
    of_datasets = [path for path in asked if path.endswith("/experiment-ids")]
    assert len(of_datasets) == len(content.evaluation_datasets) == 4
    assert found.report.requests_sent == asked.total() == 18 < len(content.runs) + len(content.versions)
    # The first one only asks whether MLflow is there; runs are two listings, and versions of runs left out one search
    # more; whether there are prompts, one.
    assert {path: count for path, count in asked.items() if path not in of_datasets} == {
        "/api/3.0/mlflow/datasets/search": 2,
        "/api/3.0/mlflow/scorers/list": 1,
        "/api/3.0/mlflow/server-info": 1,
        "experiments/search": 2,
        "/version": 1,
        "registered-models/search": 2,
        "model-versions/search": 1,
        "logged-models/search": 1,
        "runs/search": 3,
    }


def test_each_model_in_use_costs_one_more(proxy: CountingProxy, read: Read) -> None:
    found = read(tracking_uri=proxy.url)
    tally = found.report.model_files
    assert min(tally.read, tally.missing) > 0
    assert found.report.requests_sent == len(proxy.seen) == 18 + tally.read + tally.missing


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("path", ["experiments/search", "runs/search"])
def test_a_server_that_asks_to_wait_is_waited_for(proxy: CountingProxy, read: Read, status: int, path: str) -> None:
    arrived: list[float] = []

    def asked_first(request: Request) -> bool:
        if path in request.path:
            arrived.append(time.monotonic())
        return path in request.path and len(arrived) == 1

    proxy.fail(asked_first, status=status, headers={"Retry-After": "1"})
    found = read(tracking_uri=proxy.url, max_workers=1, include_artifacts="none")
    assert arrived[1] - arrived[0] >= 1  # by itself it waits half a second at most
    assert found.report.requests_sent == len(proxy.seen) == 18


@pytest.mark.parametrize(
    "path", ["experiments/search", "registered-models", "model-versions", "logged-models", "runs/search"]
)
@pytest.mark.parametrize("after", [0, 200])
def test_an_answer_that_breaks_off_is_asked_for_again(proxy: CountingProxy, read: Read, path: str, after: int) -> None:
    proxy.fail(lambda request: path in request.path, cut_after=after, times=1)
    read(tracking_uri=proxy.url, include_artifacts="none")
    assert len(proxy.seen) == 19


def test_so_is_a_model_file(proxy: CountingProxy, read: Read) -> None:
    proxy.fail(lambda request: request.path.endswith("/MLmodel"), cut_after=100, times=3)
    read(tracking_uri=proxy.url)


def test_a_connection_that_breaks_off_every_time_is_a_failure(
    proxy: CountingProxy, ingested: Ingested, tmp_path: Path
) -> None:
    proxy.fail(lambda request: "runs/search" in request.path, cut_after=200)
    found = ingest({"tracking_uri": proxy.url, "max_retries": 1}, tmp_path / "out.json")
    assert found.failed
    assert "IncompleteRead" in " ".join(line for failure in found.report.failures for line in failure.context)
    assert found.urns("container") == ingested.urns("container")


def test_a_slow_network_makes_no_difference(proxy: CountingProxy, read: Read) -> None:
    proxy.fail(everything, delay=0.3)
    read(tracking_uri=proxy.url, page_size=5)


def test_an_answer_that_takes_longer_than_allowed_names_the_key(proxy: CountingProxy, tmp_path: Path) -> None:
    proxy.fail(everything, delay=1)
    message = refusal({"tracking_uri": proxy.url, "timeout_seconds": 0.2}, tmp_path)
    assert "set `timeout_seconds` higher" in message


def test_a_first_row_that_mlflow_cannot_serve_does_not_stop_the_rest(proxy: CountingProxy, read: Read) -> None:
    proxy.fail(lambda request: request.path.endswith("experiments/search?max_results=1"), status=500)
    read(tracking_uri=proxy.url)
