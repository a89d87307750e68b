"""Many processes and one recipe: together they send what one sends, and nothing is removed but what is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from datahub_mlflow_source import cli, shard_pool
from datahub_mlflow_source.mapping.urns import Naming, model_group_urn
from tests.support.bulk import Bulk, bulk_content
from tests.support.content import CHURN, bad_run_row, plain_runs, rich_content
from tests.support.gms import GmsStandIn
from tests.support.ingest import Aspect, Ingested, ingest, ingest_into
from tests.support.interrupts import interruptible
from tests.support.proxy import CountingProxy, Request
from tests.support.servers import MlflowServer, free_port, mlflow_server

BIN = Path(sys.executable).parent
Config = dict[str, Any]


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """With datasets that several runs speak of, and versions of all kinds of runs."""
    with mlflow_server(tmp_path_factory.mktemp("shards")) as server:
        rich_content(server)
        yield server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[MlflowServer]:
    """To be changed."""
    with mlflow_server(tmp_path / "own") as server:
        for number in range(8):
            plain_runs(server, f"experiment {number}", 3)
            server.post("registered-models/create", name=f"model {number}")
            server.post("model-versions/create", name=f"model {number}", source="s3://acme/model")
        yield server


@pytest.fixture
def gms() -> Iterator[GmsStandIn]:
    with GmsStandIn() as gms:
        yield gms


READERS: dict[str, Callable[[MlflowServer], Config]] = {
    "server": lambda server: {"tracking_uri": server.url},
    "database": lambda server: {"tracking_uri": server.url, "backend_store_uri": server.backend_uri},
}
CONFIGS: dict[str, Config] = {
    "everything": {},
    "deleted ones too": {"include_deleted": True},
    "runs of versions": {"include_runs": "registered"},
    "no runs": {"include_runs": "none"},
    "one experiment": {"experiment_pattern": {"allow": [CHURN]}},
    "some users": {"run_user_pattern": {"allow": ["ada"]}},
    "a filter": {"run_filter": "attributes.status != 'FINISHED'"},
    "an instance": {"platform_instance": "acme", "env": "DEV"},
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("count", [2, 3])
def test_shards_together_send_the_whole_and_nothing_twice(
    rich: MlflowServer, reader: str, case: str, count: int, tmp_path: Path
) -> None:
    config = {**READERS[reader](rich), **CONFIGS[case]}
    whole = ingest(config, tmp_path / "whole.json")
    shards = [
        ingest({**config, "shard": {"index": index, "count": count}}, tmp_path / f"{index}.json")
        for index in range(count)
    ]
    assert not whole.failed
    assert not any(shard.failed for shard in shards)
    senders = Counter(urn for shard in shards for urn in shard.aspects)
    assert senders.keys() == whole.aspects.keys()
    # A dataset is sent by each shard that read it, unless a closing step follows; a tag comes with who names it.
    twice = {urn for urn, times in senders.items() if times > 1}
    assert all(urn.startswith(("urn:li:dataset:(urn:li:dataPlatform:mlflow,", "urn:li:tag:")) for urn in twice)
    for shard in shards:
        for urn in shard.aspects.keys() - twice:
            assert shard.aspects[urn] == whole.aspects[urn]
            assert shard.events.get(urn) == whole.events.get(urn)
    for kind in ("experiments", "runs", "models", "versions", "logged_models"):
        sent = [getattr(shard.report, kind).sent for shard in shards]
        assert sum(sent) == getattr(whole.report, kind).sent, kind
        assert getattr(shards[0].report, kind).read >= sent[0]


def run_ids(ingested: Ingested) -> list[str]:
    return [ingested.aspects[urn]["mlTrainingRunProperties"]["id"] for urn in ingested.urns("dataProcessInstance")]


def test_each_shard_has_its_part(rich: MlflowServer, tmp_path: Path) -> None:
    for reader, make in READERS.items():
        shards = [
            ingest({**make(rich), "shard": {"index": index, "count": 2}}, tmp_path / f"{index}.json")
            for index in range(2)
        ]
        if reader == "database":  # by random run ids: with so few runs one half may hold none
            low, high = map(run_ids, shards)
            assert max(low, default="0") < "8" <= min(high, default="f")
            assert sum(shard.report.runs.sent for shard in shards) > 5
        else:
            assert all(shard.report.runs.sent > 1 for shard in shards)
        assert not shards[1].urns("container")
        assert not shards[1].urns("mlModelGroup")


def test_the_whole_of_a_shard_is_of_one_ingestion(rich: MlflowServer, tmp_path: Path) -> None:
    """One shard of one is everything."""
    config = {"tracking_uri": rich.url}
    one: Ingested = ingest({**config, "shard": {"index": 0, "count": 1}}, tmp_path / "one.json")
    assert one.aspects == ingest(config, tmp_path / "whole.json").aspects


# The command


def _recipe(folder: Path, config: Config, sink: Config, name: str | None = None) -> Path:
    file = folder / "recipe.yml"
    source = {"type": "datahub-mlflow-source", "config": config}
    recipe = {"source": source, "sink": sink, **({"pipeline_name": name} if name else {})}
    file.write_text(yaml.safe_dump(recipe))
    return file


def _into(gms: GmsStandIn) -> Config:
    return {"type": "datahub-rest", "config": {"server": gms.url}}


def _command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "datahub-mlflow"), *map(str, arguments)]
    env = os.environ | {"DATAHUB_TELEMETRY_ENABLED": "false"} | environment
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)


def _content(gms: GmsStandIn) -> dict[str, dict[str, Aspect]]:
    """All that DataHub has, but for its own bookkeeping and the time of the ingestion."""
    urns = [urn for urn in gms.urns() if not urn.startswith("urn:li:dataJob:")]
    content = {
        urn: {name: aspect for name, aspect in gms.aspects(urn).items() if not name.endswith("Key")} for urn in urns
    }
    for (
        aspects
    ) in content.values():  # the server says it only of a version that was the latest before: a matter of order
        if not (version := aspects.get("versionProperties", {})).get("isLatest"):
            version.pop("isLatest", None)
    return content


@pytest.mark.parametrize("reader", READERS)
def test_the_command_leaves_in_datahub_what_one_process_does(
    rich: MlflowServer, reader: str, gms: GmsStandIn, tmp_path: Path
) -> None:
    served = {"include_deployments": True, "deployments": {"tags": {"name": "approved by"}}}
    config = {**READERS[reader](rich), **served}
    ended = _command("ingest", "-c", _recipe(tmp_path, config, _into(gms)), "--shards", "3")
    assert ended.returncode == 0, ended.stderr
    with GmsStandIn() as other:
        ingest_into(other, config)
        assert _content(gms) == _content(other)
    assert gms.rejections == []
    report = yaml.safe_load(ended.stdout)["source"]
    assert report["runs"]["sent"] == len([urn for urn in gms.urns("dataProcessInstance")])
    assert report["deployments"]["sent"] == len(list(gms.urns("mlModelDeployment"))) > 2
    datasets = [urn for urn in gms.urns("dataset") if ":mlflow," in urn]
    assert report["datasets"]["sent"] + report["evaluation_datasets"]["sent"] == len(datasets)


def test_files_are_one_for_each_shard(rich: MlflowServer, tmp_path: Path) -> None:
    sink = {"type": "file", "config": {"filename": str(tmp_path / "out.json")}}
    ended = _command("ingest", "-c", _recipe(tmp_path, {"tracking_uri": rich.url}, sink), "--shards", "2")
    assert ended.returncode == 0, ended.stderr
    names = {"out.shard-0.json", "out.shard-1.json", "out.closing.json"}
    assert {file.name for file in tmp_path.glob("out*.json")} == names
    sent = [proposal["entityUrn"] for name in names for proposal in json.loads((tmp_path / name).read_text())]
    assert set(sent) == ingest({"tracking_uri": rich.url}, tmp_path / "whole.json").aspects.keys()


@pytest.mark.parametrize(
    ("config", "sink", "said"),
    [
        ({"no_such_key": 1}, {"type": "blackhole"}, "unknown key `no_such_key`"),
        ({"max_runs_per_experiment": 1}, {"type": "blackhole"}, "only who reads all runs knows the latest"),
        ({"stateful_ingestion": {"enabled": True}}, {"type": "blackhole"}, "needs a `pipeline_name` in the recipe"),
        ({}, {"type": "datahub-lite", "config": {}}, "can't write into one DataHub Lite"),
        ({}, {"type": "file"}, "filename"),
        ({}, {"type": "no such sink"}, "Failed to find a registered sink"),
    ],
)
def test_a_recipe_that_cannot_run_is_told_once(
    rich: MlflowServer, config: Config, sink: Config, said: str, tmp_path: Path
) -> None:
    recipe = _recipe(tmp_path, {"tracking_uri": rich.url, **config}, sink)
    ended = _command("ingest", "-c", recipe, "--shards", "2")
    assert ended.returncode == 1
    assert ended.stderr.count(said) == 1
    assert "Traceback" not in ended.stderr


def test_a_server_that_is_not_there_fails_all_shards_and_removes_nothing(gms: GmsStandIn, tmp_path: Path) -> None:
    config = {"tracking_uri": "http://127.0.0.1:9", "max_retries": 0, "stateful_ingestion": {"enabled": True}}
    ended = _command("ingest", "-c", _recipe(tmp_path, config, _into(gms), "shards"), "--shards", "2")
    assert ended.returncode == 1
    assert "MLflow can't be read" in ended.stdout
    assert _removed(gms) == set()


def test_a_process_that_is_killed_is_replaced(tmp_path: Path, gms: GmsStandIn) -> None:
    with _filled(tmp_path / "bulk") as database:
        recipe = _recipe(tmp_path, {"backend_store_uri": database}, _into(gms))
        running = _started("ingest", "-c", str(recipe), "--shards", "2")
        _killed_half_way(gms, running.pid)
        _comes_to_all_of_it(running, database, gms)


def test_ctrl_c_ends_it_promptly_and_leaves_no_process_and_no_state(tmp_path: Path, gms: GmsStandIn) -> None:
    # The test's own folder has too long a name for the sockets of Python's fork server.
    with _filled(tmp_path / "bulk") as database, TemporaryDirectory() as temporary:
        config = {"backend_store_uri": database, "stateful_ingestion": {"enabled": True}}
        recipe = _recipe(tmp_path, config, _into(gms), "shards")
        running = _started("ingest", "-c", str(recipe), "--shards", "2", TMPDIR=temporary)
        _until(lambda: len(gms.urns("dataProcessInstance")) > 10)
        assert list(Path(temporary).glob("datahub-mlflow-*/*"))
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=240)
        assert running.returncode not in (0, None)
        assert len(gms.urns("dataProcessInstance")) < RUNS
        _until(lambda: not _children(running.pid))
        assert not gms.urns("dataJob")
        _until(lambda: not list(Path(temporary).glob("datahub-mlflow-*")))


# Dask


def test_on_a_dask_cluster_that_loses_a_worker_the_result_is_the_same(tmp_path: Path, gms: GmsStandIn) -> None:
    with _filled(tmp_path / "bulk") as database, _dask(tmp_path) as (scheduler, workers):
        recipe = _recipe(tmp_path, {"backend_store_uri": database}, _into(gms))
        running = _started("ingest", "-c", str(recipe), "--shards", "2", "--scheduler", scheduler)
        _until(lambda: len(gms.urns("dataProcessInstance")) > RUNS // 3)
        workers[0].kill()
        _comes_to_all_of_it(running, database, gms)


def test_ctrl_c_ends_what_dask_has_begun(tmp_path: Path, gms: GmsStandIn) -> None:
    with _filled(tmp_path / "bulk") as database, _dask(tmp_path) as (scheduler, _):
        config = {"backend_store_uri": database, "stateful_ingestion": {"enabled": True}}
        recipe = _recipe(tmp_path, config, _into(gms), "shards")
        running = _started("ingest", "-c", str(recipe), "--shards", "2", "--scheduler", scheduler)
        _until(lambda: len(gms.urns("dataProcessInstance")) > 10)
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=240)
        assert running.returncode not in (0, None)
        sent: list[int] = []
        _until(lambda: sent[-60:] == 60 * [_count_into(sent, gms)])  # nothing more for 3 seconds
        assert sent[-1] < RUNS
        assert not gms.urns("dataJob")


def _count_into(counts: list[int], gms: GmsStandIn) -> int:
    counts.append(len(gms.urns("dataProcessInstance")))
    return counts[-1]


def test_a_dask_cluster_without_workers_is_told(
    rich: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_pool, "_WORKERS_SECONDS", 1)
    with _dask(tmp_path, workers=0) as (scheduler, _):
        recipe = _recipe(tmp_path, {"tracking_uri": rich.url}, {"type": "blackhole"})
        ended = CliRunner().invoke(cli.main, ["ingest", "-c", str(recipe), "--scheduler", scheduler])
    assert ended.exit_code == 1
    assert "The Dask scheduler has no worker" in ended.output


def test_a_dask_scheduler_that_is_not_there_is_told(rich: MlflowServer, tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, {"tracking_uri": rich.url}, {"type": "blackhole"})
    ended = _command("ingest", "-c", recipe, "--scheduler", "tcp://127.0.0.1:9")
    assert ended.returncode == 1
    assert "No Dask scheduler answers at tcp://127.0.0.1:9" in ended.stderr
    assert "Traceback" not in ended.stderr


# Removal


def _removed(gms: GmsStandIn) -> set[str]:
    return {urn for urn in gms.urns() if gms.is_removed(urn) and not urn.startswith("urn:li:dataJob:")}


def _delete_model(server: MlflowServer, name: str) -> None:
    server.session.delete(f"{server.url}/api/2.0/mlflow/registered-models/delete", json={"name": name})


def test_another_number_of_shards_removes_nothing_but_what_is_gone(
    own: MlflowServer, gms: GmsStandIn, tmp_path: Path
) -> None:
    config = {"tracking_uri": own.url, "stateful_ingestion": {"enabled": True}}
    recipe = _recipe(tmp_path, config, _into(gms), "shards")
    ingest_into(gms, config, name="shards")
    for count in (1, 2, 3):
        ended = _command("ingest", "-c", recipe, "--shards", str(count))
        assert ended.returncode == 0, ended.stderr
        assert _removed(gms) == set()
    _delete_model(own, "model 3")
    assert _command("ingest", "-c", recipe, "--shards", "2").returncode == 0
    gone = _removed(gms)
    assert str(model_group_urn("model 3", Naming())) in gone
    assert len(gone) == 2
    _delete_model(own, "model 4")
    ingest_into(gms, config, name="shards")
    assert len(_removed(gms) - gone) == 2


def test_shards_that_another_scheduler_runs_are_closed_by_finish(
    own: MlflowServer, gms: GmsStandIn, tmp_path: Path
) -> None:
    config = {"tracking_uri": own.url, "stateful_ingestion": {"enabled": True}}
    recipe = _recipe(tmp_path, {**config, "shard": {"index": 0, "count": 2}}, _into(gms), "shards")

    def shards(*indexes: int) -> None:
        for index in indexes:
            pipeline = ingest_into(gms, {**config, "shard": {"index": index, "count": 2}}, name="shards")
            assert not pipeline.has_failures()

    shards(0, 1)
    assert not [urn for urn in gms.urns("dataset") if ":mlflow," in urn]  # they come with the closing step
    ended = _command("finish", "-c", recipe)
    assert ended.returncode == 0, ended.stderr
    with GmsStandIn() as other:
        ingest_into(other, config, name="shards")
        assert _content(gms) == _content(other)
    _delete_model(own, "model 5")
    shards(0)
    assert _removed(gms) == set()
    ended = _command("finish", "-c", recipe)
    assert ended.returncode == 1
    assert "shard 1 of 2 left nothing since the closing step before" in " ".join(ended.stdout.split())
    assert _removed(gms) == set()
    shards(1)
    assert _removed(gms) == set()
    assert _command("finish", "-c", recipe, "--shards", "2").returncode == 0
    assert str(model_group_urn("model 5", Naming())) in _removed(gms)
    assert len(_removed(gms)) == 2


def test_what_one_shard_could_not_read_is_kept_by_the_closing_step(
    own: MlflowServer, gms: GmsStandIn, tmp_path: Path
) -> None:
    experiment_id, _ = plain_runs(own, "with a dataset", 1)
    config = {"tracking_uri": own.url, "backend_store_uri": own.backend_uri, "stateful_ingestion": {"enabled": True}}
    recipe = _recipe(tmp_path, config, _into(gms), "shards")
    assert _command("ingest", "-c", recipe, "--shards", "2").returncode == 0
    bad_run_row(own, experiment_id, 0)
    _delete_model(own, "model 6")
    rest = _recipe(tmp_path, {"tracking_uri": own.url, "stateful_ingestion": {"enabled": True}}, _into(gms), "shards")
    ended = _command("ingest", "-c", rest, "--shards", "2")
    assert ended.returncode == 1
    assert "MLflow can't serve it" in ended.stdout
    assert "A shard had failures" in ended.stdout
    assert len(_removed(gms)) == 2  # the model and its version: one bad row stops nothing


def test_what_only_one_shard_cannot_read_is_kept(own: MlflowServer, gms: GmsStandIn, tmp_path: Path) -> None:
    """The first shard leaves the versions of other shards' runs to them."""
    for number, (_, (run_id,)) in enumerate(plain_runs(own, f"trained {number}", 1) for number in range(6)):
        own.post("model-versions/create", name=f"model {number}", source="s3://acme/model", run_id=run_id)
    config = {"max_retries": 0, "stateful_ingestion": {"enabled": True}}
    recipe = _recipe(tmp_path, {"tracking_uri": own.url, **config}, _into(gms), "shards")
    assert _command("ingest", "-c", recipe, "--shards", "2").returncode == 0
    before = _content(gms)
    with CountingProxy(own.url) as proxy:
        proxy.fail(_of_the_second_shard, status=503)
        recipe = _recipe(tmp_path, {"tracking_uri": proxy.url, **config}, _into(gms), "shards")
        ended = _command("ingest", "-c", recipe, "--shards", "2")
    assert ended.returncode == 1
    assert "A listing broke off" in ended.stdout
    assert "Versions that no shard sent" in ended.stdout
    assert _removed(gms) == set()
    links = {urn: aspects.get("mlModelProperties", {}).get("trainingJobs") for urn, aspects in before.items()}
    assert links == {
        urn: aspects.get("mlModelProperties", {}).get("trainingJobs") for urn, aspects in _content(gms).items()
    }


def _of_the_second_shard(request: Request) -> bool:
    """Reads the runs of its experiments only: those with odd ids."""
    if "runs/search" not in request.path:
        return False
    ids = json.loads(request.body)["experiment_ids"]
    return all(int(id_) % 2 for id_ in ids)


def test_a_run_that_goes_between_two_shards_takes_no_version_with_it(
    own: MlflowServer, gms: GmsStandIn, tmp_path: Path
) -> None:
    experiment_id, (run_id,) = plain_runs(own, "trained", 1)
    own.post("model-versions/create", name="model 1", source="s3://acme/model", run_id=run_id)
    config = {"tracking_uri": own.url, "stateful_ingestion": {"enabled": True}}
    ingest_into(gms, config, name="shards")
    own_shard = int(experiment_id) % 2
    count = 2 if own_shard == 1 else 3
    for index in range(count):
        if index == 1:
            own.execute("DELETE FROM runs WHERE run_uuid = ?", run_id)
        ingest_into(gms, {**config, "shard": {"index": index, "count": count}}, name="shards")
    recipe = _recipe(tmp_path, config, _into(gms), "shards")
    ended = _command("finish", "-c", recipe, "--shards", str(count))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert _removed(gms) == set()


def test_what_was_closed_once_is_not_closed_again_where_nothing_is_removed(
    own: MlflowServer, gms: GmsStandIn, tmp_path: Path
) -> None:
    config = {"tracking_uri": own.url, "stateful_ingestion": {"enabled": True, "remove_stale_metadata": False}}
    recipe = _recipe(tmp_path, config, _into(gms), "shards")
    for index in (0, 1):
        ingest_into(gms, {**config, "shard": {"index": index, "count": 2}}, name="shards")
    assert _command("finish", "-c", recipe, "--shards", "2").returncode == 0
    ended = _command("finish", "-c", recipe, "--shards", "2")
    assert ended.returncode == 1
    assert "shards 0, 1 of 2 left nothing since the closing step before" in " ".join(ended.stdout.split())


@pytest.mark.parametrize("shard", [{"shard": {"index": 0, "count": 2}}, {}], ids=["shard", "whole"])
def test_a_state_that_is_too_large_is_told(shard: dict[str, Any], own: MlflowServer, gms: GmsStandIn) -> None:
    """DataHub's framework leaves it out, with a line in the log."""
    state = {"enabled": True, "max_checkpoint_state_size": 100}
    pipeline = ingest_into(gms, {"tracking_uri": own.url, "stateful_ingestion": state, **shard}, name="shards")
    assert pipeline.has_failures()
    assert "Too much to be remembered" in str(pipeline.source.get_report().failures)
    state["max_checkpoint_state_size"] = 1 << 24
    assert not ingest_into(
        gms, {"tracking_uri": own.url, "stateful_ingestion": state, **shard}, name="shards"
    ).has_failures()


def test_a_state_in_a_file_is_refused_to_shards_that_another_scheduler_runs(own: MlflowServer, tmp_path: Path) -> None:
    state = {"enabled": True, "state_provider": {"type": "file", "config": {"filename": str(tmp_path / "state.json")}}}
    config = {"tracking_uri": own.url, "stateful_ingestion": state}
    shard = ingest({**config, "shard": {"index": 0, "count": 2}}, tmp_path / "out.json", "shards")
    assert "can't remember in a file" in str(shard.report.failures)
    assert not shard.proposals
    ingest(config, tmp_path / "whole.json", "shards")
    _delete_model(own, "model 2")
    sink = {"type": "file", "config": {"filename": str(tmp_path / "out.json")}}
    assert _command("ingest", "-c", _recipe(tmp_path, config, sink, "shards"), "--shards", "2").returncode == 0
    closing = json.loads((tmp_path / "out.closing.json").read_text())
    removed = [p["entityUrn"] for p in closing if p["aspectName"] == "status" and p["aspect"]["json"]["removed"]]
    assert str(model_group_urn("model 2", Naming())) in removed


def test_finish_without_a_state_says_what_is_missing(own: MlflowServer, gms: GmsStandIn, tmp_path: Path) -> None:
    ended = _command("finish", "-c", _recipe(tmp_path, {"tracking_uri": own.url}, _into(gms), "n"), "--shards", "2")
    assert ended.returncode == 1
    assert "`stateful_ingestion.enabled: true` and `pipeline_name` are needed" in " ".join(ended.stdout.split())
    ended = _command("finish", "-c", _recipe(tmp_path, {"tracking_uri": own.url}, _into(gms), "n"))
    assert ended.returncode == 2
    assert "Say --shards" in ended.stderr


def test_one_shard_that_cannot_begin_takes_no_other_along(
    rich: MlflowServer, gms: GmsStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OneCannot(shard_pool.Processes):
        def shards(self, recipe: Any, count: int, tell: Any, *, dry_run: bool) -> Any:
            done = super().shards(recipe, count, tell, dry_run=dry_run)
            return [done[0], replace(done[1], failed=True, message="DataHub was away", state="", report={})]

    monkeypatch.setattr(cli, "Processes", OneCannot)
    recipe = _recipe(tmp_path, {"tracking_uri": rich.url, "stateful_ingestion": {"enabled": True}}, _into(gms), "one")
    ended = CliRunner().invoke(cli.main, ["ingest", "-c", str(recipe), "--shards", "2"])
    assert ended.exit_code == 1
    assert "DataHub was away" in ended.output
    assert "A shard did not come to its end" in ended.output
    assert "experiments:" in ended.output
    assert gms.urns("dataset")  # which the closing step sends
    assert not _removed(gms)


@pytest.mark.parametrize(
    "text", ["[1, 2]", "", "source: text", "source: {config: text}", "a: [", "source: ${NOT_SET_X}"]
)
@pytest.mark.parametrize("command", ["ingest", "finish"])
def test_a_file_that_is_no_recipe_is_told(command: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yml").write_text(text)
    ended = _command(command, "-c", tmp_path / "recipe.yml", "--shards", "2")
    assert ended.returncode == 1
    assert "recipe.yml" in ended.stderr
    assert "Traceback" not in ended.stderr


# --- what the tests above need ---

RUNS = 1500


@contextmanager
def _filled(folder: Path) -> Iterator[str]:
    """The address of a database with many runs."""
    with mlflow_server(folder) as server:
        database = server.database
    bulk_content(database, Bulk(experiments=3, runs=RUNS, datasets=5, models=4, versions=10))
    yield f"sqlite:///{database}"


@contextmanager
def _dask(folder: Path, workers: int = 2) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers, each a process of its own."""
    scheduler = f"tcp://127.0.0.1:{free_port()}"
    python = [sys.executable, "-m"]
    options = ["--no-dashboard", "--host", "127.0.0.1", "--port", scheduler.rpartition(":")[2]]
    with ExitStack() as stack:

        def start(name: str, *command: str) -> subprocess.Popen[bytes]:
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen([*python, *command], stdout=log, stderr=log, cwd=folder)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        start("scheduler", "distributed.cli.dask_scheduler", *options)
        worker = ["distributed.cli.dask_worker", scheduler, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        yield scheduler, [start(f"worker-{number}", *worker) for number in range(workers)]


def _started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = interruptible([BIN / "datahub-mlflow", *arguments])
    env = os.environ | {"DATAHUB_TELEMETRY_ENABLED": "false"} | environment
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _until(condition: Callable[[], Any], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def _comes_to_all_of_it(running: subprocess.Popen[str], database: str, gms: GmsStandIn) -> None:
    output, errors = running.communicate(timeout=240)
    assert running.returncode == 0, errors
    assert yaml.safe_load(output)["source"]["runs"]["sent"] == RUNS
    with GmsStandIn() as other:
        ingest_into(other, {"backend_store_uri": database})
        assert _content(gms) == _content(other)


def _killed_half_way(gms: GmsStandIn, parent: int) -> None:
    """A shard's process: the last of those that the fork server, the parent's only child, has started."""
    _until(lambda: len(gms.urns("dataProcessInstance")) > RUNS // 3)
    shards = [pid for child in _children(parent) for pid in _children(child)]
    assert len(shards) == 2
    os.kill(shards[-1], signal.SIGKILL)


def _children(parent: int) -> list[int]:
    """Straight from the kernel, oldest first."""
    found: list[int] = []
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        found += [int(pid) for pid in task.read_text().split()]
    return sorted(found)
