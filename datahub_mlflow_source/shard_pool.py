"""Where shards run: in processes of this machine, or on a Dask cluster. Light to import: the work is done elsewhere."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from datahub_mlflow_source.shard_work import Outcome

Recipe = Mapping[str, Any]
# Is told the shard, how much of its runs is read, from 0 to 1, and how many that are.
Tell = Callable[[int, float, int], None]
_TRIES = 3  # of a shard whose process went away
_WORK = "datahub_mlflow_source.shard_work"
_WORKERS_SECONDS = 60
_DASK_TOPIC = "datahub-mlflow"


def cores() -> int:
    """That this process may use: a container may have fewer than its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LostError(RuntimeError):
    """A shard did not come back."""


class Processes:
    """On all cores of this machine.

    A process that has imported DataHub, and does nothing else, is copied for each shard: that takes no time, where
    starting Python anew takes each shard a second and a half.
    """

    def __init__(self) -> None:
        methods = multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            from multiprocessing.forkserver import ensure_running

            self._context.set_forkserver_preload([_WORK])
            ensure_running()

    def shards(self, recipe: Recipe, count: int, tell: Tell, *, dry_run: bool) -> list[Outcome]:
        """All of them, at most one at a time on each core. Raises LostError."""
        waiting = deque(range(count))
        tries: Counter[int] = Counter()
        # Of their own, and removed however they end.
        folder = tempfile.TemporaryDirectory(prefix="datahub-mlflow-", ignore_cleanup_errors=True)
        outcomes: dict[int, Outcome] = {}
        running: dict[Connection, tuple[int, BaseProcess]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < cores():
                    index = waiting.popleft()
                    tries[index] += 1
                    receiver, process = self._start(_shard, folder.name, recipe, index, count, dry_run)
                    running[receiver] = index, process
                for receiver in cast("list[Connection]", wait(list(running))):
                    index, process = running[receiver]
                    try:
                        said = receiver.recv()
                    except (EOFError, OSError):  # the latter, where it ended in the midst of what it says
                        del running[receiver]
                        process.join()
                        if index not in outcomes:
                            if tries[index] == _TRIES:
                                raise LostError(_lost(index, process.exitcode)) from None
                            waiting.append(index)
                        continue
                    if isinstance(said, tuple):
                        tell(index, *said)
                    else:
                        outcomes[index] = said
        finally:
            for _, process in running.values():
                process.kill()
                process.join()
            folder.cleanup()
        return [outcomes[index] for index in range(count)]

    def closing(self, recipe: Recipe, count: int, states: Sequence[str] | None, *, dry_run: bool) -> Outcome:
        """The step behind the shards. Raises LostError."""
        receiver, process = self._start(_closing, recipe, count, states, dry_run)
        try:
            outcome: Outcome = receiver.recv()
        except (EOFError, OSError):
            process.join()
            raise LostError(
                f"The closing step ended with code {process.exitcode}. Memory is the usual reason."
            ) from None
        finally:
            process.kill()
        return outcome

    def _start(self, target: Callable[..., None], *args: Any) -> tuple[Connection, BaseProcess]:
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=target, args=(sender, *args), daemon=True)
        process.start()
        sender.close()
        return receiver, process


def _shard(sender: Connection, folder: str, recipe: Recipe, index: int, count: int, dry_run: bool) -> None:
    from datahub_mlflow_source.shard_work import run_shard, said_of

    tempfile.tempdir = folder

    def tell(share: float, runs: int) -> bool:
        try:
            sender.send((share, runs))
        except OSError:  # whoever started this is no more
            os._exit(1)
        return True

    sender.send(said_of(lambda: run_shard(recipe, index, count, tell, dry_run=dry_run)))


def _closing(sender: Connection, recipe: Recipe, count: int, states: Sequence[str] | None, dry_run: bool) -> None:
    from datahub_mlflow_source.shard_work import run_closing, said_of

    sender.send(said_of(lambda: run_closing(recipe, count, states, dry_run=dry_run)))


def _lost(index: int, code: int | None) -> str:
    return (
        f"Shard {index} went away {_TRIES} times, the last time with code {code}. Check this machine's log: memory is "
        "the usual reason, and more shards need less each only where fewer of them run at a time."
    )


class DaskCluster:
    """On a Dask cluster that is there. Dask itself gives the shard of a lost worker to another."""

    def __init__(self, scheduler: str) -> None:
        """Raises ImportError where Dask is not installed, OSError where no scheduler answers."""
        from distributed import Client

        self._client: Any = Client(  # type: ignore[no-untyped-call]
            scheduler, timeout="10s", set_as_default=False
        )

    def shards(self, recipe: Recipe, count: int, tell: Tell, *, dry_run: bool) -> list[Outcome]:
        """All of them. Raises LostError."""

        def told(event: tuple[float, Any]) -> None:
            _, (key, index, share, runs) = event
            if key == run_key:
                tell(index, share, runs)

        try:
            self._client.wait_for_workers(1, timeout=_WORKERS_SECONDS)
        except (OSError, TimeoutError) as error:
            raise LostError(f"The Dask scheduler has no worker, for {_WORKERS_SECONDS} seconds now.") from error
        run_key = f"datahub-mlflow-{time.time_ns()}"
        self._client.subscribe_topic(_DASK_TOPIC, told)
        futures = [
            self._client.submit(_on_dask, recipe, index, count, run_key, dry_run, key=f"{run_key}-{index}", pure=False)
            for index in range(count)
        ]
        try:
            outcomes: list[Outcome] = self._client.gather(futures)
        except Exception as error:  # a scheduler that ends, a worker of another version, a shard that kills its workers
            raise LostError(f"Dask gave a shard up: {type(error).__name__}: {error}.") from error
        finally:
            self._client.cancel(futures)
            self._client.unsubscribe_topic(_DASK_TOPIC)
        return outcomes

    def close(self) -> None:
        self._client.close()


def _on_dask(recipe: Recipe, index: int, count: int, run_key: str, dry_run: bool) -> Outcome:
    from distributed import get_worker

    from datahub_mlflow_source.shard_work import run_shard, said_of

    worker = get_worker()
    task = worker.state.tasks[worker.get_current_task()]

    def tell(share: float, runs: int) -> bool:
        worker.log_event(_DASK_TOPIC, (run_key, index, share, runs))
        return bool(task.state == "executing")

    # Nothing may escape: Dask would log the arguments, which hold the recipe's secrets.
    return said_of(lambda: run_shard(recipe, index, count, tell, dry_run=dry_run))
