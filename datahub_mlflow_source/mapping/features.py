"""Features that a run read from Feast, by the tags that Feast writes (`mlflow_integration/` in its package)."""

from __future__ import annotations

from datahub.metadata.urns import MlFeatureUrn

from datahub_mlflow_source.mapping.rules import tag_value
from datahub_mlflow_source.mapping.urns import ml_feature_urn
from datahub_mlflow_source.records import Run
from datahub_mlflow_source.redaction import redact

_PROJECT, _FEATURES = "feast.project", "feast.feature_refs"
_MOST = 2000  # of one run
_CUT_OFF = ("...", "…")  # where Feast itself cut the list


def features_of(run: Run | None) -> list[MlFeatureUrn]:
    """As DataHub's Feast source calls them; none without the project, which is part of their names.

    Feast cuts a long list off in the middle of a name: that one is left out.
    """
    if run is None:
        return []
    project = tag_value(run.tags, _PROJECT)
    said = tag_value(run.tags, _FEATURES) or tag_value(run.params, _FEATURES)
    if not project or not said or redact(project) != project or redact(said) != said:
        return []
    names = said.split(",")
    if said.endswith(_CUT_OFF):
        names.pop()
    views = {tuple(part.strip() for part in name.partition(":")[::2]) for name in names[:_MOST]}
    found = (ml_feature_urn(project.strip(), view, name) for view, name in sorted(views) if view and name)
    return [urn for urn in found if urn is not None]


def model_that_predicted(run: Run) -> tuple[str, str] | None:
    """Name and version of the model that a run of predictions used."""
    name, version = tag_value(run.tags, "feast.model_name"), tag_value(run.tags, "feast.model_version")
    return (name, version) if name and version else None
