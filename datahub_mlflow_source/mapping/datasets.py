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
    UpstreamClass,
    UpstreamLineageClass,
    _Aspect,
)
from datahub.metadata.urns import DataPlatformUrn, DatasetUrn

from datahub_mlflow_source.mapping.lineage import platform_info, real_dataset
from datahub_mlflow_source.mapping.rules import Entity, Rules, Trim, tag_value
from datahub_mlflow_source.mapping.schemas import row_count, schema_fields, schema_metadata
from datahub_mlflow_source.mapping.sources import DatasetSource, parse_source
from datahub_mlflow_source.mapping.urns import PLATFORM_URN, dataset_urn, evaluation_dataset_urn, platform_instance_urn
from datahub_mlflow_source.records import DatasetInput, Experiment
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


def input_dataset(dataset: DatasetInput, experiment: Experiment, rules: Rules) -> InputDataset:
    """Which dataset this input is.

    Two experiments that both log `train` from different sources have two datasets; where the source is not usable
    (made up in code), the experiment stands for it.
    """
    name = redact(dataset.name)  # some call it by its address
    if name != dataset.name:
        dataset = replace(dataset, name=name)
    source = _parse_source(dataset.source_type, dataset.source)
    identity = f"{dataset.source_type}|{source.canonical}" if source.canonical else _made_up_in(experiment)
    return InputDataset(_dataset_urn(dataset.name, identity, rules.naming), dataset, source, identity)


def _made_up_in(experiment: Experiment) -> str:
    kind = f"experiment of {experiment.workspace}" if experiment.workspace else "experiment"
    return f"{kind}|{experiment.name}"


def map_dataset(dataset: InputDataset, rules: Rules) -> Entity:
    """Everything DataHub shows about a dataset of MLflow, apart from who read it."""
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
    upstream = upstream_of(dataset, rules)
    if upstream:
        lineage = UpstreamClass(str(upstream), DatasetLineageTypeClass.COPY)
        aspects.append(UpstreamLineageClass([lineage]))
    return Entity(dataset.urn, aspects, trim.cut)


def upstream_of(dataset: InputDataset, rules: Rules) -> DatasetUrn | None:
    """The real dataset, on its own platform; None where the source doesn't tell. Evaluation datasets are MLflow's."""
    if dataset.input.source_type == EVALUATION_SOURCE and dataset.source.canonical:
        return evaluation_dataset_urn(dataset.source.canonical, rules.naming)
    return real_dataset(
        dataset.source,
        dataset.input.source_type,
        env=rules.naming.env,
        platform_of_type=rules.platform_of_type,
        naming_of_platform=rules.naming_of_platform,
    )


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
