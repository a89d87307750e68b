"""Dataset inputs of runs: what MLflow says was read, and the real dataset behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from datahub.metadata.schema_classes import (
    DataPlatformInstanceClass,
    DatasetLineageTypeClass,
    DatasetPropertiesClass,
    EdgeClass,
    FineGrainedLineageClass,
    FineGrainedLineageDownstreamTypeClass,
    FineGrainedLineageUpstreamTypeClass,
    UpstreamClass,
    UpstreamLineageClass,
    _Aspect,
)
from datahub.metadata.urns import DataPlatformUrn, DatasetUrn

from datahub_mlflow_source.mapping.lakefs import in_lakefs
from datahub_mlflow_source.mapping.lineage import platform_info, real_dataset
from datahub_mlflow_source.mapping.queries import ColumnRead, Reader, Upstreams, upstreams_of_query
from datahub_mlflow_source.mapping.rules import Entity, Rules, Trim, tag_value
from datahub_mlflow_source.mapping.schemas import row_count, schema_fields, schema_metadata
from datahub_mlflow_source.mapping.sources import DatasetSource, Query, parse_source
from datahub_mlflow_source.mapping.urns import (
    PLATFORM_URN,
    column_urn,
    dataset_urn,
    evaluation_dataset_urn,
    platform_instance_urn,
)
from datahub_mlflow_source.records import DatasetInput, Experiment, Tags
from datahub_mlflow_source.redaction import redact

CONTEXT = "mlflow.data.context"
EVALUATION_SOURCE = "mlflow_evaluation_dataset"  # type of an input that is one

# One dataset is the input of many runs.
_parse_source = lru_cache(maxsize=4096)(parse_source)
_row_count = lru_cache(maxsize=4096)(row_count)
_dataset_urn = lru_cache(maxsize=4096)(dataset_urn)


@dataclass(frozen=True, slots=True)
class InputDataset:
    """A run's input together with the DataHub dataset that it is."""

    urn: DatasetUrn
    input: DatasetInput
    source: DatasetSource
    identity: str


def input_dataset(dataset: DatasetInput, experiment: Experiment, rules: Rules, run_tags: Tags = ()) -> InputDataset:
    """Which dataset this input is.

    Two experiments that both log `train` from different sources have two datasets; where the source is not usable
    (made up in code), the experiment stands for it. `run_tags` may say that it is in lakeFS.
    """
    name = redact(dataset.name)  # some call it by its address
    if name != dataset.name:
        dataset = replace(dataset, name=name)
    source = in_lakefs(_parse_source(dataset.source_type, dataset.source), run_tags)
    identity = f"{dataset.source_type}|{source.canonical}" if source.canonical else _made_up_in(experiment)
    return InputDataset(_dataset_urn(dataset.name, identity, rules.naming), dataset, source, identity)


def _made_up_in(experiment: Experiment) -> str:
    kind = f"experiment of {experiment.workspace}" if experiment.workspace else "experiment"
    return f"{kind}|{experiment.name}"


def map_dataset(dataset: InputDataset, upstreams: Upstreams, rules: Rules) -> Entity:
    """Everything DataHub shows about a dataset of MLflow, apart from who read it. `upstreams` are by `upstreams_of`."""
    trim = Trim(rules.limits)
    experiment = dataset.identity.partition("|")[2] if dataset.source.canonical is None else None
    properties = DatasetPropertiesClass(
        name=dataset.input.name,
        customProperties=trim.properties(
            (),
            [
                ("source_type", dataset.input.source_type),
                ("source", dataset.source.display),
                ("experiment", experiment),
            ],
        ),
    )
    instance = platform_instance_urn(rules.naming)
    aspects: list[_Aspect] = [
        properties,
        DataPlatformInstanceClass(PLATFORM_URN, str(instance) if instance else None),
    ]
    columns = schema_fields(dataset.input.schema)
    if columns:
        aspects.append(schema_metadata(dataset.input.name, columns, dataset.input.schema or "", trim))
    if upstreams.datasets:
        is_query = isinstance(dataset.source.location, Query)
        kind = DatasetLineageTypeClass.TRANSFORMED if is_query else DatasetLineageTypeClass.COPY
        of_columns = _column_lineage(dataset.urn, [field.fieldPath for field in columns], upstreams.columns)
        lineage = [UpstreamClass(str(upstream), kind) for upstream in upstreams.datasets]
        aspects.append(UpstreamLineageClass(lineage, of_columns or None))
    return Entity(dataset.urn, aspects, trim.cut)


def _column_lineage(
    dataset: DatasetUrn, paths: Sequence[str], columns: Sequence[ColumnRead]
) -> list[FineGrainedLineageClass]:
    """Of those columns that the dataset was logged with, if it was with any; where its case decides, of none."""
    known: dict[str, list[str]] = {}
    for path in paths:
        known.setdefault(path.lower(), []).append(path)
    found = []
    for column in columns:
        ours = known.get(column.name.lower(), []) if paths else [column.name]
        downstream = column_urn(dataset, ours[0]) if len(ours) == 1 else None
        upstreams = [str(urn) for of, path in column.of if (urn := column_urn(of, path))]
        if downstream and upstreams:
            found.append(
                FineGrainedLineageClass(
                    upstreamType=FineGrainedLineageUpstreamTypeClass.FIELD_SET,
                    downstreamType=FineGrainedLineageDownstreamTypeClass.FIELD,
                    upstreams=upstreams,
                    downstreams=[str(downstream)],
                )
            )
    return found


def upstreams_of(dataset: InputDataset, rules: Rules, read_query: Reader) -> Upstreams:
    """The real dataset, on its own platform, or those that a query reads; none where the source doesn't tell.

    Evaluation datasets are MLflow's. `read_query` understands SQL.
    """
    if dataset.input.source_type == EVALUATION_SOURCE and dataset.source.canonical:
        return Upstreams((evaluation_dataset_urn(dataset.source.canonical, rules.naming),))
    if isinstance(dataset.source.location, Query):
        return upstreams_of_query(
            dataset.source.location,
            dataset.input.source_type,
            env=rules.naming.env,
            platform_of_type=rules.platform_of_type,
            naming_of_platform=rules.naming_of_platform,
            read_query=read_query,
        )
    found = real_dataset(
        dataset.source,
        dataset.input.source_type,
        env=rules.naming.env,
        platform_of_type=rules.platform_of_type,
        naming_of_platform=rules.naming_of_platform,
    )
    return Upstreams((found,) if found else ())


def platform_of(dataset: DatasetUrn) -> Entity | None:
    """The platform entity of a real dataset, where DataHub doesn't know that platform by itself."""
    platform = DataPlatformUrn.from_string(dataset.platform)
    info = platform_info(platform.platform_name)
    return Entity(platform, [info]) if info else None


def is_evaluation(dataset: DatasetInput) -> bool:
    """Whether the run logged it to be measured against, not to be trained on."""
    return tag_value(dataset.tags, CONTEXT).lower().startswith(("eval", "test", "valid"))


def edges(inputs: Sequence[InputDataset], trim: Trim) -> list[EdgeClass]:
    """One edge per dataset; what is said of each input of it (digest, context, …) is in the edge's properties."""
    by_urn: dict[str, list[dict[str, str]]] = {}
    for dataset in inputs:
        by_urn.setdefault(str(dataset.urn), []).append(_edge_properties(dataset))
    return [
        EdgeClass(urn, properties={key: trim.value(key, value) for key, value in _joined(said).items()})
        for urn, said in sorted(by_urn.items())
    ]


def _edge_properties(dataset: InputDataset) -> dict[str, str]:
    rows = _row_count(dataset.input.profile)
    ours = {
        "name": dataset.input.name,
        "digest": dataset.input.digest,
        "context": tag_value(dataset.input.tags, CONTEXT),
        "source_type": dataset.input.source_type,
        "rows": str(rows) if rows is not None else "",
        "profile": dataset.input.profile or "",
        **{f"tag.{key}": value for key, value in dataset.input.tags if key != CONTEXT},
    }
    # The keys of details are whatever stands in the source: none of them may take the place of ours.
    return {**dataset.source.details, **{key: value for key, value in ours.items() if value}}


def _joined(said: Sequence[dict[str, str]]) -> dict[str, str]:
    """The same dataset twice in one run, as "train" and as "test" say, is one edge with both words."""
    if len(said) == 1:
        return said[0]
    keys = sorted({key for properties in said for key in properties})
    return {key: ", ".join(dict.fromkeys(properties[key] for properties in said if key in properties)) for key in keys}
