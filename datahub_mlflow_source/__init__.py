"""A DataHub ingestion source for MLflow: `source.type: datahub-mlflow-source` in a recipe.

`MlflowSource` is imported when it is first asked for (PEP 562), so that a submodule can be
used where acryl-datahub is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datahub_mlflow_source.source import MlflowSource

__version__ = "0.1.0"
__all__ = ["MlflowSource", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "MlflowSource":
        from datahub_mlflow_source.source import MlflowSource

        return MlflowSource
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
