"""What could not be read stays in DataHub, what is gone from MLflow goes.

With DataHub's own handler of stale entities, and its state in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import requests
from datahub.emitter.mcp import MetadataChangeProposalWrapper
from datahub.ingestion.api.common import PipelineContext
from datahub.ingestion.api.workunit import MetadataWorkUnit
from datahub.ingestion.graph.client import DataHubGraph
from datahub.ingestion.source.state.entity_removal_state import GenericCheckpointState
from datahub.ingestion.source.state.stale_entity_removal_handler import (
    StaleEntityRemovalHandler,
    auto_stale_entity_removal,
)
from datahub.ingestion.source.state.stateful_ingestion_base import StateProviderWrapper
from datahub.metadata.schema_classes import (
    ContainerPropertiesClass,
    DataProcessInstanceInputClass,
    EdgeClass,
    StatusClass,
)
from datahub.metadata.urns import DataProcessInstanceUrn

from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.mapping.urns import Naming, logged_model_urn
from datahub_mlflow_source.records import Experiment, Kind
from datahub_mlflow_source.removal import RemovalGuard
from datahub_mlflow_source.report import MlflowSourceReport
from tests.unit.records import make_experiment

RUN = DataProcessInstanceUrn("a")


def containers(count: int) -> list[str]:
    return [f"urn:li:container:{number:032x}" for number in range(count)]


def groups(count: int) -> list[str]:
    return [f"urn:li:mlModelGroup:(urn:li:dataPlatform:mlflow,m{number},PROD)" for number in range(count)]


def versions(count: int) -> list[str]:
    return [f"urn:li:mlModel:(urn:li:dataPlatform:mlflow,m_{number},PROD)" for number in range(count)]


def datasets(count: int, platform: str = "mlflow") -> list[str]:
    return [f"urn:li:dataset:(urn:li:dataPlatform:{platform},d{number},PROD)" for number in range(count)]


def our_datasets(count: int) -> list[str]:
    return [f"urn:li:dataset:(urn:li:dataPlatform:mlflow,train-{number:08x},PROD)" for number in range(count)]


REGISTRY = f"urn:li:container:{'f' * 32}"
EVERYTHING = [*containers(3), *groups(3), *versions(3), *datasets(3)]


class Graph:
    """As much of a DataHub server as the guard asks."""

    def __init__(self, aspects: Mapping[str, object], *, answers: bool = True) -> None:
        self.aspects, self.asked, self.answers = aspects, 0, answers

    def get_config(self) -> dict[str, Any]:
        return {}

    def get_aspect(self, urn: str, aspect_type: type) -> object:
        self.asked += 1
        if not self.answers:
            raise requests.HTTPError("500")
        aspect = self.aspects.get(urn)
        assert aspect is None or isinstance(aspect, aspect_type)
        return aspect


@dataclass
class Outcome:
    report: MlflowSourceReport
    kept: set[str] = field(default_factory=set)  # written, to be kept alive
    removed: set[str] = field(default_factory=set)


class Catalog:
    """One ingestion after the other, with the state in a file between them."""

    def __init__(self, folder: Path, graph: Graph | None = None) -> None:
        self._state = folder / "state.json"
        self._graph = graph

    def ingest(
        self,
        sent: Collection[str],
        act: Callable[[RemovalGuard], None] = lambda _: None,
        *,
        experiments: Collection[Experiment] = (make_experiment(),),
        **stateful_ingestion: Any,
    ) -> Outcome:
        """Sends these entities; `act` tells the guard what went wrong meanwhile."""
        provider = {"type": "file", "config": {"filename": str(self._state)}}
        settings = {"enabled": True, "state_provider": provider, **stateful_ingestion}
        config = MlflowSourceConfig.model_validate({"stateful_ingestion": settings})
        ctx = PipelineContext("run", cast(DataHubGraph, self._graph), "pipeline")
        state = StateProviderWrapper(config.stateful_ingestion, ctx)
        outcome = Outcome(MlflowSourceReport())
        handler = StaleEntityRemovalHandler(
            state, outcome.report, config, GenericCheckpointState, "pipeline", "run", "mlflow"
        )
        guard = RemovalGuard(config.stateful_ingestion, state, ctx, outcome.report)

        def units() -> Iterator[MetadataWorkUnit]:
            for urn in sent:
                guard.sent(urn)
                unit = MetadataChangeProposalWrapper(entityUrn=urn, aspect=StatusClass(removed=False)).as_workunit()
                outcome.report.report_workunit(unit)
                yield unit
            act(guard)
            for unit in guard.work_units({e.experiment_id: e.name for e in experiments}, REGISTRY):
                outcome.kept.add(unit.get_urn())
                yield unit

        for unit in auto_stale_entity_removal(handler, units()):
            if is_removal(unit):
                outcome.removed.add(unit.get_urn())
        outcome.report.report_entity_failures()
        state.prepare_for_commit()
        for _, committable in ctx.get_committables():
            committable.commit()
        return outcome


def is_removal(unit: MetadataWorkUnit) -> bool:
    status = unit.get_aspect_of_type(StatusClass)
    assert status
    return status.removed


def incomplete(*kinds: Kind) -> Callable[[RemovalGuard], None]:
    def act(guard: RemovalGuard) -> None:
        for kind in kinds:
            guard.listing_incomplete(kind)

    return act


def keeping(*urns: str) -> Callable[[RemovalGuard], None]:
    def act(guard: RemovalGuard) -> None:
        for urn in urns:
            guard.keep(urn)

    return act


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path)


class TestWhatIsGone:
    def test_it_goes(self, catalog: Catalog) -> None:
        catalog.ingest(EVERYTHING)
        outcome = catalog.ingest(EVERYTHING[1:])
        assert outcome.removed == {EVERYTHING[0]}
        assert outcome.kept == set()
        assert not outcome.report.failures

    def test_the_first_ingestion_keeps_and_removes_nothing(self, catalog: Catalog) -> None:
        def all_kinds_of_trouble(guard: RemovalGuard) -> None:
            guard.keep(EVERYTHING[0])
            guard.listing_incomplete("run")
            guard.run_unreadable(RUN)

        outcome = catalog.ingest(versions(1), all_kinds_of_trouble)
        assert (outcome.kept, outcome.removed) == (set(), set())


class TestWhatCouldNotBeRead:
    def test_it_stays(self, catalog: Catalog) -> None:
        catalog.ingest(EVERYTHING)
        bad, gone, *rest = EVERYTHING
        outcome = catalog.ingest(rest, keeping(bad))
        assert outcome.kept == {bad}
        assert outcome.removed == {gone}
        assert outcome.report.kept_although_not_read == 1

    def test_when_it_is_deleted_later_it_goes(self, catalog: Catalog) -> None:
        bad, *rest = EVERYTHING
        catalog.ingest(EVERYTHING)
        catalog.ingest(rest, keeping(bad))
        catalog.ingest(rest, keeping(bad))
        assert catalog.ingest(rest).removed == {bad}

    def test_what_datahub_never_had_is_not_made_by_keeping_it(self, catalog: Catalog) -> None:
        catalog.ingest(EVERYTHING[1:])
        assert catalog.ingest(EVERYTHING[1:], keeping(EVERYTHING[0])).kept == set()

    @pytest.mark.parametrize(
        ("kind", "stay"),
        [
            ("experiment", {"container", "dataset"}),
            ("run", {"dataset"}),
            ("registered model", {"mlModelGroup", "mlModel"}),
            ("model version", {"mlModel"}),
            ("logged model", set()),
        ],
    )
    def test_where_nobody_knows_what_is_missing_all_of_its_types_stay(
        self, catalog: Catalog, kind: Kind, stay: set[str]
    ) -> None:
        first_of_each = {EVERYTHING[place] for place in (0, 3, 6, 9)}
        catalog.ingest(EVERYTHING)
        outcome = catalog.ingest([urn for urn in EVERYTHING if urn not in first_of_each], incomplete(kind))
        assert {urn.split(":")[2] for urn in outcome.kept} == stay
        assert outcome.removed == first_of_each - outcome.kept


class TestUnreadableRuns:
    """A run itself is never removed; its datasets are known to DataHub only."""

    @pytest.mark.parametrize(("inputs", "stay"), [(datasets(1), datasets(1)), ([], [])])
    def test_the_datasets_that_datahub_knows_of_stay(self, tmp_path: Path, inputs: list[str], stay: list[str]) -> None:
        edges = [EdgeClass(destinationUrn=urn) for urn in inputs]
        graph = Graph({str(RUN): DataProcessInstanceInputClass(inputs=[], inputEdges=edges)})
        assert self.after(Catalog(tmp_path, graph)).kept == set(stay)

    def test_all_datasets_stay_where_datahub_knows_nothing_of_the_run(self, tmp_path: Path) -> None:
        assert self.after(Catalog(tmp_path, Graph({}))).kept == set(datasets(2))

    def test_all_datasets_stay_where_nobody_can_be_asked(self, tmp_path: Path) -> None:
        assert self.after(Catalog(tmp_path)).kept == set(datasets(2))

    def test_all_datasets_stay_where_datahub_does_not_answer(self, tmp_path: Path) -> None:
        assert self.after(Catalog(tmp_path, Graph({}, answers=False))).kept == set(datasets(2))

    def test_nobody_is_asked_where_nothing_would_be_removed(self, tmp_path: Path) -> None:
        graph = Graph({})
        Catalog(tmp_path, graph).ingest(EVERYTHING, lambda guard: guard.run_unreadable(RUN))
        assert graph.asked == 0

    @staticmethod
    def after(catalog: Catalog) -> Outcome:
        catalog.ingest([*EVERYTHING[:9], *datasets(2)])
        outcome = catalog.ingest(EVERYTHING[:9], lambda guard: guard.run_unreadable(RUN))
        assert outcome.removed == set(datasets(2)) - outcome.kept
        return outcome


class TestSuddenDrop:
    """A permission that was lost looks like a deletion."""

    @pytest.mark.parametrize(
        "some", [containers, groups, versions, our_datasets], ids=["experiments", "models", "versions", "datasets"]
    )
    def test_too_much_of_one_kind_gone_at_once_stays_and_is_a_failure(
        self, catalog: Catalog, some: Callable[[int], list[str]]
    ) -> None:
        others = datasets(40)
        catalog.ingest([*some(10), *others])
        outcome = catalog.ingest([*some(2), *others])
        assert outcome.kept == set(some(10)) - set(some(2))
        assert outcome.removed == set()
        (failure,) = outcome.report.failures
        assert failure.title == "Too much is gone at once"
        assert "`stateful_ingestion.fail_safe_threshold: 100`" in failure.message
        kind = some(1)[0].split(":")[2]
        assert list(failure.context) == [f"8 of 10 entities of type {kind}"]

    def test_other_kinds_are_still_removed(self, catalog: Catalog) -> None:
        catalog.ingest([*containers(10), *versions(10), *groups(40)])
        outcome = catalog.ingest([*versions(9), *groups(40)])
        assert outcome.kept == set(containers(10))
        assert outcome.removed == {versions(10)[9]}

    @pytest.mark.parametrize(
        ("before", "after", "threshold"), [(8, 2, 75), (10, 0, 100), (1, 0, 75), (2, 1, 50)], ids=str
    )
    def test_as_much_as_the_recipe_allows_goes(
        self, catalog: Catalog, before: int, after: int, threshold: float
    ) -> None:
        catalog.ingest([*groups(before), *versions(40)])
        outcome = catalog.ingest([*groups(after), *versions(40)], fail_safe_threshold=threshold)
        assert outcome.removed == set(groups(before)) - set(groups(after))
        assert not outcome.report.failures

    def test_datasets_are_not_judged_as_those_of_the_built_in_all_go(self, catalog: Catalog) -> None:
        catalog.ingest([*datasets(10), *versions(40)])
        assert catalog.ingest(versions(40)).removed == set(datasets(10))

    def test_what_hangs_on_them_stays_too(self, catalog: Catalog) -> None:
        catalog.ingest([*groups(10), *versions(20), *containers(10), *datasets(9)])
        outcome = catalog.ingest([*groups(1), *versions(19), *containers(1), *datasets(5)])
        assert outcome.removed == set()
        assert {*versions(20)[19:], *datasets(9)[5:]} < outcome.kept

    def test_the_only_model_stays_with_its_versions(self, catalog: Catalog) -> None:
        catalog.ingest([*containers(1), *groups(1), *versions(3)])
        outcome = catalog.ingest(containers(1))
        assert (outcome.kept, outcome.removed) == ({*groups(1), *versions(3)}, set())
        assert outcome.report.failures

    def test_the_registry_which_is_always_there_is_not_counted(self, catalog: Catalog) -> None:
        catalog.ingest([REGISTRY, *containers(3), *versions(40)])
        outcome = catalog.ingest([REGISTRY, *versions(40)])
        assert (outcome.kept, outcome.removed) == (set(containers(3)), set())
        assert outcome.report.failures

    def test_where_mlflow_lists_nothing_at_all_even_a_single_one_stays(self, catalog: Catalog) -> None:
        single = [REGISTRY, *containers(1), *groups(1), *versions(1)]
        catalog.ingest(single)
        outcome = catalog.ingest([REGISTRY], experiments=())
        assert (outcome.kept, outcome.removed) == (set(single[1:]), set())
        assert outcome.report.failures

    def test_what_is_kept_anyway_is_not_counted_as_gone(self, catalog: Catalog) -> None:
        catalog.ingest([*groups(10), *versions(40)])
        outcome = catalog.ingest([*groups(10)[:1], *versions(40)], keeping(*groups(9)))
        assert outcome.removed == {groups(10)[9]}
        assert not outcome.report.failures

    def test_an_incomplete_listing_is_not_judged_beside(self, catalog: Catalog) -> None:
        catalog.ingest([*groups(10), *datasets(40)])
        outcome = catalog.ingest(datasets(40), incomplete("registered model"))
        assert outcome.kept == set(groups(10))
        assert not outcome.report.failures


class TestOtherPlatforms:
    """The built-in source could put them into the state; the connectors of those platforms own them."""

    @pytest.mark.parametrize("act", [lambda _: None, incomplete("run", "experiment")], ids=["all read", "not all"])
    def test_their_datasets_are_neither_removed_nor_written(
        self, catalog: Catalog, act: Callable[[RemovalGuard], None]
    ) -> None:
        theirs = datasets(3, platform="s3")
        catalog.ingest([*EVERYTHING, *theirs])
        outcome = catalog.ingest(EVERYTHING, act)
        assert (outcome.kept, outcome.removed) == (set(), set())


class TestSwitchedOff:
    @pytest.mark.parametrize(
        "settings", [{"enabled": False}, {"remove_stale_metadata": False}, {"ignore_old_state": True}], ids=str
    )
    def test_nothing_is_kept_or_asked_for_where_nothing_is_removed(
        self, tmp_path: Path, settings: dict[str, Any]
    ) -> None:
        graph = Graph({})
        catalog = Catalog(tmp_path, graph)
        catalog.ingest(EVERYTHING)
        outcome = catalog.ingest(versions(1), lambda guard: guard.run_unreadable(RUN), **settings)
        assert (outcome.kept, outcome.removed, graph.asked) == (set(), set(), 0)
        assert not outcome.report.failures


class TestRenames:
    OLD = containers(1)[0]
    EXPERIMENTS = (make_experiment(experiment_id="7", name="churn v2"), make_experiment(experiment_id="8", name="x"))

    @pytest.mark.parametrize(
        ("properties", "told"),
        [
            (ContainerPropertiesClass(name="churn", customProperties={"mlflow_source.experiment_id": "7"}), True),
            (ContainerPropertiesClass(name="gone", customProperties={"mlflow_source.experiment_id": "9"}), False),
            (ContainerPropertiesClass(name="x", customProperties={"mlflow_source.experiment_id": "8"}), False),
            (ContainerPropertiesClass(name="of the built-in", customProperties={}), False),
            (None, False),
        ],
        ids=["renamed", "deleted", "same name", "no id", "unknown"],
    )
    def test_an_experiment_with_another_name_is_told(
        self, tmp_path: Path, properties: ContainerPropertiesClass | None, told: bool
    ) -> None:
        catalog = Catalog(tmp_path, Graph({self.OLD: properties}))
        catalog.ingest([self.OLD, *versions(9)])
        outcome = catalog.ingest(versions(9), experiments=self.EXPERIMENTS)
        assert outcome.removed == {self.OLD}
        expected = [f"'churn' is now 'churn v2'; old entity {self.OLD}"] if told else []
        assert [line for info in outcome.report.infos for line in info.context] == expected
        assert not outcome.report.failures

    def test_one_that_stays_is_not(self, tmp_path: Path) -> None:
        graph = Graph({})
        catalog = Catalog(tmp_path, graph)
        catalog.ingest([self.OLD, *versions(9)])
        catalog.ingest(versions(9), keeping(self.OLD), experiments=self.EXPERIMENTS)
        assert graph.asked == 0

    def test_it_is_no_matter_where_datahub_does_not_answer(self, tmp_path: Path) -> None:
        catalog = Catalog(tmp_path, Graph({}, answers=False))
        catalog.ingest([self.OLD, *versions(9)])
        assert catalog.ingest(versions(9), experiments=self.EXPERIMENTS).removed == {self.OLD}

    def test_twenty_at_most_are_looked_up(self, tmp_path: Path) -> None:
        graph = Graph({})
        catalog = Catalog(tmp_path, graph)
        catalog.ingest([*containers(50), *versions(50)])
        assert len(catalog.ingest([*containers(20), *versions(50)]).removed) == 30
        assert graph.asked == 20


class TestLoggedModels:
    """They come and go with experiments, though DataHub has them as models, as versions are."""

    LOGGED = tuple(
        str(logged_model_urn(f"m-{number:032x}", naming))
        for number, naming in enumerate([Naming(), Naming("DEV", "eu")] * 4)
    )

    @pytest.mark.parametrize(
        ("kind", "stay"),
        [
            ("experiment", True),
            ("logged model", True),
            ("model version", True),
            ("registered model", False),
            ("run", False),
        ],
    )
    def test_they_stay_where_something_is_missing_that_they_hang_on(
        self, catalog: Catalog, kind: Kind, stay: bool
    ) -> None:
        catalog.ingest([*self.LOGGED, *containers(4)])
        outcome = catalog.ingest([*self.LOGGED[1:], *containers(4)], incomplete(kind))
        assert (self.LOGGED[0] in outcome.kept, self.LOGGED[0] in outcome.removed) == (stay, not stay)

    def test_too_many_gone_at_once_stay_and_versions_go(self, catalog: Catalog) -> None:
        catalog.ingest([*self.LOGGED, *versions(10)])
        outcome = catalog.ingest([self.LOGGED[0], *versions(9)])
        assert outcome.kept == set(self.LOGGED[1:])
        assert outcome.removed == {versions(10)[9]}
