"""Data in lakeFS, which is read by addresses of S3 whose bucket is a repository.

`s3://<repository>/<commit or branch>/<path>`, with `lakefs_repo` among the run's tags: the convention of lakeFS'
documentation (docs/src/integrations/mlflow.md in its repository).
"""

from __future__ import annotations

from dataclasses import replace

from datahub_mlflow_source.mapping.rules import tag_value
from datahub_mlflow_source.mapping.sources import DatasetSource, Uri
from datahub_mlflow_source.records import Tags


def in_lakefs(source: DatasetSource, tags: Tags) -> DatasetSource:
    """The source as lakeFS has it, where the run's tags say so: the same data at each commit, which is a detail."""
    place, repository = source.location, tag_value(tags, "lakefs_repo")
    if not repository or not isinstance(place, Uri) or (place.scheme, place.authority) != ("s3", repository):
        return source
    _, reference, *path = [*place.path.split("/"), ""]
    path = [part for part in path if part]
    if not path:
        return source
    uri = Uri("lakefs", repository, "".join(f"/{part}" for part in path))
    details = dict(sorted({**source.details, "revision": reference}.items()))
    return replace(source, canonical=str(uri), location=uri, details=details)
