"""`datahub-mlflow`: one recipe by many processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from datahub_mlflow_source import __version__
from datahub_mlflow_source.progress import pace
from datahub_mlflow_source.shard_pool import DaskCluster, LostError, Processes, cores
from datahub_mlflow_source.shard_report import merged, shown

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from datahub_mlflow_source.shard_pool import Tell
    from datahub_mlflow_source.shard_work import Outcome

_TOLD_EVERY_SECONDS = 10.0
_RECIPE = click.option(
    "-c",
    "--config",
    "path",
    required=True,
    type=click.Path(dir_okay=False, exists=True),
    help="The recipe, as for `datahub ingest`.",
)
_DRY_RUN = click.option("-n", "--dry-run", is_flag=True, help="Send, remove and remember nothing.")


@click.group()
@click.version_option(__version__, package_name="datahub-mlflow-source")
def main() -> None:
    """MLflow into DataHub, shared by many processes."""


@main.command(short_help="Ingest a recipe by several processes, and close it.")
@_RECIPE
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    default=cores,
    show_default="one for each core",
    help="Into how many parts the work is cut.",
)
@click.option("--scheduler", help="Of a Dask cluster that runs the shards: tcp://host:8786. Without: this machine.")
@_DRY_RUN
def ingest(path: str, shards: int, scheduler: str | None, dry_run: bool) -> None:
    """Ingests a recipe by several processes, then removes what is gone, once for all of them."""
    processes = Processes()
    recipe = _recipe(path)
    began = time.monotonic()
    with _complaints(), _bar(shards) as tell:
        if scheduler is None:
            outcomes = processes.shards(recipe, shards, tell, dry_run=dry_run)
        else:
            outcomes = _by_dask(scheduler, recipe, shards, tell, dry_run)
    seconds = time.monotonic() - began
    if all(outcome.message for outcome in outcomes):
        _stop_at_what_did_not_begin(outcomes)
    states = [outcome.state for outcome in outcomes if outcome.state]
    with _complaints():
        closing = processes.closing(recipe, shards, states, dry_run=dry_run)
    _end([*outcomes, closing], seconds)


@main.command(short_help="Close shards that another scheduler ran.")
@_RECIPE
@click.option("--shards", type=click.IntRange(min=1), help="How many there were. Without: the recipe's `shard.count`.")
@_DRY_RUN
def finish(path: str, shards: int | None, dry_run: bool) -> None:
    """The closing step, where another scheduler ran the shards: sends datasets, removes what is gone."""
    processes = Processes()
    recipe = _recipe(path)
    shard = (recipe["source"].get("config") or {}).get("shard")
    count = str(shards or (shard.get("count") if isinstance(shard, dict) else None) or "")
    if not count.isdecimal() or int(count) < 1:
        raise click.UsageError("How many shards were there? Say --shards, or put `shard.count` into the recipe.")
    with _complaints():
        closing = processes.closing(recipe, int(count), None, dry_run=dry_run)
    _end([closing])


def _recipe(path: str) -> dict[str, Any]:
    from datahub.configuration.config_loader import load_config_file

    try:
        recipe: Any = load_config_file(path, resolve_env_vars=True, process_directives=True)
    except Exception as error:  # of YAML, of an unset variable, of a file: each library's own
        raise click.ClickException(f"{path} can't be read: {error}") from error
    source = recipe.get("source") if isinstance(recipe, dict) else None
    if not isinstance(source, dict) or not isinstance(source.get("config") or {}, dict):
        raise click.ClickException(f"{path} is no recipe: `source` with a `type` and a `config` is missing")
    return dict(recipe)


def _by_dask(scheduler: str, recipe: dict[str, Any], shards: int, tell: Tell, dry_run: bool) -> list[Outcome]:
    try:
        cluster = DaskCluster(scheduler)
    except ImportError as error:
        raise click.ClickException(
            "--scheduler needs Dask: pip install 'datahub-mlflow-source[dask]', here and on the workers"
        ) from error
    except (OSError, ValueError) as error:
        raise click.ClickException(f"No Dask scheduler answers at {scheduler}: {error}") from error
    try:
        return cluster.shards(recipe, shards, tell, dry_run=dry_run)
    finally:
        cluster.close()


@contextmanager
def _complaints() -> Iterator[None]:
    try:
        yield
    except LostError as error:
        raise click.ClickException(f"{error} Nothing was removed.") from error


@contextmanager
def _bar(shards: int) -> Iterator[Tell]:
    """One for all shards: how much of the runs is read."""
    shares, runs = [0.0] * shards, [0] * shards
    bar: ProgressBar[int]
    with click.progressbar(
        length=1000, label="runs", item_show_func=lambda _: f"{sum(runs):,}", file=sys.stderr, update_min_steps=1
    ) as bar:
        told = began = time.monotonic()

        def tell(index: int, share: float, read: int) -> None:
            nonlocal told
            shares[index], runs[index] = max(share, shares[index]), read
            done = sum(shares) / shards
            bar.update(int(1000 * done) - bar.pos)
            # In a log no bar can move.
            now = time.monotonic()
            if not sys.stderr.isatty() and now - told >= _TOLD_EVERY_SECONDS:
                told = now
                click.echo(f"{sum(runs):,} runs, {done:.0%}, in {pace(sum(runs), now - began, done)}", err=True)

        yield tell
        bar.update(1000 - bar.pos)


def _stop_at_what_did_not_begin(outcomes: list[Outcome]) -> None:
    messages = list(dict.fromkeys(outcome.message for outcome in outcomes if outcome.message))
    if messages:
        raise click.ClickException("\n".join(messages))


def _end(outcomes: list[Outcome], seconds: float | None = None) -> None:
    report = merged([outcome.report for outcome in outcomes])
    click.echo(shown(report, merged([outcome.sink_report for outcome in outcomes]), seconds))
    _stop_at_what_did_not_begin(outcomes)
    if any(outcome.failed for outcome in outcomes):
        sys.exit(1)
