"""What others may rely on: names, the entry point, and that nothing heavy is imported before it is needed."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points, version

import pytest

import datahub_mlflow_source
from datahub_mlflow_source.errors import ConnectorError, PageError, RecipeError, ServerError
from datahub_mlflow_source.report import MlflowSourceReport
from datahub_mlflow_source.source import MlflowSource


class TestNames:
    def test_these_are_public_and_no_others(self) -> None:
        assert datahub_mlflow_source.__all__ == ["MlflowSource", "__version__"]

    def test_the_source_is_found_in_the_package_as_recipes_name_it(self) -> None:
        assert datahub_mlflow_source.MlflowSource is MlflowSource

    def test_any_other_name_is_none(self) -> None:
        with pytest.raises(AttributeError, match="module 'datahub_mlflow_source' has no attribute 'Mlflow'"):
            _ = datahub_mlflow_source.Mlflow

    def test_datahub_finds_the_source_under_its_type(self) -> None:
        (found,) = entry_points(group="datahub.ingestion.source.plugins", name="datahub-mlflow-source")
        assert found.load() is MlflowSource

    def test_the_name_of_the_built_in_source_is_left_to_it(self) -> None:
        """A second plugin of that name breaks DataHub's registry."""
        names = [found.name for found in entry_points(group="datahub.ingestion.source.plugins") if found.dist]
        assert names.count("mlflow") == 1

    def test_the_version_is_that_of_the_distribution(self) -> None:
        assert datahub_mlflow_source.__version__ == version("datahub-mlflow-source")


def test_nothing_of_datahub_is_imported_before_the_source_is_asked_for() -> None:
    code = (
        "import sys, datahub_mlflow_source, datahub_mlflow_source.records, datahub_mlflow_source.errors\n"
        "import datahub_mlflow_source.redaction, datahub_mlflow_source.addresses, datahub_mlflow_source.readers.rows\n"
        "import datahub_mlflow_source.readers.paging, datahub_mlflow_source.readers.bad_runs\n"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in ('datahub', 'mlflow', 'requests')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_nothing_of_a_database_is_imported_for_a_server() -> None:
    """SQLAlchemy takes half a second of every ingestion."""
    code = (
        "import sys, datahub.ingestion.run.pipeline\n"
        "before = set(sys.modules)\n"
        "import datahub_mlflow_source.source\n"
        "print({name.partition('.')[0] for name in set(sys.modules) - before} & {'sqlalchemy', 'mlflow', 'databricks'})"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "parents"),
        [
            (RecipeError, (ConnectorError, ValueError)),
            (ServerError, (ConnectorError,)),
            (PageError, (ServerError,)),
        ],
    )
    def test_they_are_grouped_by_what_is_done_about_them(
        self, error: type[ConnectorError], parents: tuple[type[Exception], ...]
    ) -> None:
        assert all(issubclass(error, parent) for parent in parents)

    def test_an_error_of_the_recipe_is_none_of_the_server(self) -> None:
        assert not issubclass(RecipeError, ServerError)
        assert not issubclass(ServerError, ValueError)

    def test_a_servers_status_and_code_are_kept(self) -> None:
        error = PageError("it failed", status=500, error_code="INTERNAL_ERROR")
        assert (str(error), error.status, error.error_code) == ("it failed", 500, "INTERNAL_ERROR")


class TestReport:
    def test_what_concerns_some_entities_becomes_a_failure_only_at_the_end(self) -> None:
        """DataHub's removal of stale entities, which runs before, stops at any failure."""
        report = MlflowSourceReport()
        for context in ("run a", "run b"):
            report.entity_failure("MLflow can't serve it", "It stays as it was.", context)
        assert not report.failures
        report.report_entity_failures()
        (failure,) = report.failures
        assert (failure.title, failure.message) == ("MLflow can't serve it", "It stays as it was.")
        assert sorted(failure.context) == ["run a", "run b"]

    def test_it_becomes_one_once(self) -> None:
        report = MlflowSourceReport()
        report.entity_failure("MLflow can't serve it", "It stays as it was.", "run a")
        report.report_entity_failures()
        report.report_entity_failures()
        assert [len(failure.context) for failure in report.failures] == [1]

    def test_it_is_logged_at_once(self, caplog: pytest.LogCaptureFixture) -> None:
        MlflowSourceReport().entity_failure("MLflow can't serve it", "It stays as it was.", "run a")
        assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
            ("ERROR", "MLflow can't serve it: It stays as it was. => run a")
        ]
