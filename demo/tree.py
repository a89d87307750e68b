"""The catalog as trees of text: what DataHub has been told, never what MLflow says.

Pure functions: rows of the catalog in, lines out.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from datahub.metadata.urns import DatasetUrn
from datahub.utilities.urns.urn import guess_entity_type

WIDTH = 100  # columns; longer lines are cut
SOURCE_WIDTH = 70  # the most that fits behind its branch
METRICS_SHOWN = 3
STAGE_TAGS = {f"urn:li:tag:mlflow_{stage}": stage for stage in ("staging", "production", "archived")}

Row = tuple[str, str, str]  # URN, name of the aspect, the aspect as JSON


@dataclass(frozen=True, slots=True)
class Node:
    """A line of a tree, and what hangs from it."""

    text: str
    children: list[Node] = field(default_factory=list)


class Catalog:
    """The aspects of all entities, by URN. What isn't there reads as empty: a tree is no check."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._entities: dict[str, dict[str, Any]] = defaultdict(dict)
        for urn, name, aspect in rows:
            self._entities[urn][name] = json.loads(aspect)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entities)

    def of_type(self, entity_type: str) -> list[str]:
        """The URNs of all entities of a type, such as mlModelGroup."""
        return [urn for urn in self if guess_entity_type(urn) == entity_type]

    def get(self, urn: str, aspect: str) -> dict[str, Any]:
        """An aspect as plain JSON."""
        found: dict[str, Any] = self._entities.get(urn, {}).get(aspect, {})
        return found

    def subtype(self, urn: str) -> str:
        """What DataHub's UI calls such an entity, or ""."""
        return next(iter(self.get(urn, "subTypes").get("typeNames", [])), "")


def tree_lines(rows: Iterable[Row]) -> list[str]:
    """Everything worth showing: models, experiments, and how many entities there are of each type."""
    catalog = Catalog(rows)
    return [
        "Registered models → versions → the run each came from → the data it was trained on",
        *draw(model_groups(catalog)),
        "",
        "Experiments → runs → the model versions they made",
        *draw(experiments(catalog)),
        "",
        "Entities in the catalog",
        *counts(catalog),
    ]


def draw(nodes: list[Node], indent: str = "") -> list[str]:
    """Nodes as lines with box characters, none wider than `WIDTH`."""
    lines = []
    for node in nodes:
        last = node is nodes[-1]
        lines.append(_cut(f"{indent}{'└─' if last else '├─'} {node.text}"))
        lines += draw(node.children, indent + ("   " if last else "│  "))
    return lines


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def model_groups(catalog: Catalog) -> list[Node]:
    """Registered models by name, each with its versions, oldest first."""
    versions = defaultdict(list)
    for urn in sorted(catalog.of_type("mlModel"), key=lambda urn: _sort_id(catalog, urn)):
        for group in catalog.get(urn, "mlModelProperties").get("groups", []):
            versions[group].append(urn)
    groups = sorted(catalog.of_type("mlModelGroup"), key=lambda urn: _group_name(catalog, urn))
    return [
        Node(
            _joined(_group_name(catalog, group), catalog.get(group, "mlModelGroupProperties").get("description")),
            [_version(catalog, version) for version in versions[group]],
        )
        for group in groups
    ]


def _group_name(catalog: Catalog, urn: str) -> str:
    return str(catalog.get(urn, "mlModelGroupProperties").get("name", urn))


def _sort_id(catalog: Catalog, urn: str) -> str:
    return str(catalog.get(urn, "versionProperties").get("sortId", ""))


def _version(catalog: Catalog, urn: str) -> Node:
    properties = catalog.get(urn, "mlModelProperties")
    text = f"version {_version_label(catalog, urn)}"
    runs = [Node(_run_text(catalog, run), _datasets(catalog, run)) for run in properties.get("trainingJobs", [])]
    return Node(text, [*_signature(properties), *runs])


def _signature(properties: Any) -> list[Node]:
    """What the model takes, where its file was read: `sklearn, takes 30 columns: mean radius, …`."""
    columns = json.loads(properties.get("customProperties", {}).get("signature.inputs", "[]"))
    names = [column.get("name", "without a name") for column in columns]
    takes = f"takes {len(names)} column{'s' * (len(names) > 1)}: {', '.join(names)}"
    return [Node(f"{properties.get('type', 'model')}, {takes}")] if names else []


def _version_label(catalog: Catalog, urn: str) -> str:
    """Number, aliases and stage of a version: `3 ★champion · production`."""
    properties = catalog.get(urn, "versionProperties")
    aliases = [f" ★{alias['versionTag']}" for alias in properties.get("aliases", [])]
    tags = [entry["tag"] for entry in catalog.get(urn, "globalTags").get("tags", [])]
    stages = [STAGE_TAGS[tag] for tag in tags if tag in STAGE_TAGS]
    number = properties.get("version", {}).get("versionTag", urn)
    return _joined(number + "".join(aliases), *stages)


def _run_text(catalog: Catalog, urn: str) -> str:
    name = catalog.get(urn, "dataProcessInstanceProperties").get("name", urn)
    return _joined(f"run {name}", _status(catalog, urn), _metrics(catalog, urn))


def _status(catalog: Catalog, urn: str) -> str:
    """MLflow's word for how a run ended; RUNNING if nothing is said of an end."""
    event = catalog.get(urn, "dataProcessInstanceRunEvent")
    return str(event.get("result", {}).get("nativeResultType", "RUNNING" if event else ""))


def _metrics(catalog: Catalog, urn: str) -> str:
    metrics = catalog.get(urn, "mlTrainingRunProperties").get("trainingMetrics", [])
    shown = [f"{metric['name']} {float(metric['value']):.4g}" for metric in metrics[:METRICS_SHOWN]]
    return ", ".join(shown + ["…"] * (len(metrics) > METRICS_SHOWN))


def _datasets(catalog: Catalog, run: str) -> list[Node]:
    """What a run read: name, digest and context, and under each the real dataset behind it."""
    nodes = []
    for edge in catalog.get(run, "dataProcessInstanceInput").get("inputEdges", []):
        urn, said = edge["destinationUrn"], edge.get("properties", {})
        name = catalog.get(urn, "datasetProperties").get("name", urn)
        upstreams = catalog.get(urn, "upstreamLineage").get("upstreams", [])
        text = f"{said.get('context', 'input')} data {name} (digest {said.get('digest', '?')})"
        nodes.append(Node(text, [Node(f"from {_source(upstream['dataset'])}") for upstream in upstreams]))
    return sorted(nodes, key=lambda node: node.text)  # training data before validation data


def _source(dataset: str) -> str:
    """Platform and name of a dataset: `s3: bucket/key`. Of a long name the end says most."""
    urn = DatasetUrn.from_string(dataset)
    name = urn.name if len(urn.name) <= SOURCE_WIDTH else "…" + urn.name[1 - SOURCE_WIDTH :]
    return f"{urn.get_data_platform_urn().platform_name}: {name}"


def experiments(catalog: Catalog) -> list[Node]:
    """Experiments by name, each with its runs, first to last; a nested run under its parent."""
    runs = sorted(catalog.of_type("dataProcessInstance"), key=lambda urn: _started(catalog, urn))
    known = set(runs)
    children = defaultdict(list)
    for run in runs:
        parent = catalog.get(run, "dataProcessInstanceRelationships").get("parentInstance")
        children[parent if parent in known else catalog.get(run, "container").get("container")].append(run)

    def node(run: str) -> Node:
        return Node(_run_text(catalog, run), [*_made(catalog, run), *(node(child) for child in children[run])])

    found = []
    for urn in catalog.of_type("container"):
        if catalog.subtype(urn) == "ML Experiment":
            properties = catalog.get(urn, "containerProperties")
            text = _joined(properties.get("name", urn), properties.get("description"))
            found.append(Node(text, [node(run) for run in children[urn]]))
    return sorted(found, key=lambda experiment: experiment.text)


def _started(catalog: Catalog, run: str) -> int:
    return int(catalog.get(run, "dataProcessInstanceProperties").get("created", {}).get("time", 0))


def _made(catalog: Catalog, run: str) -> list[Node]:
    """The model versions that a run made: `→ churn version 3 ★champion`."""
    nodes = []
    for edge in catalog.get(run, "dataProcessInstanceOutput").get("outputEdges", []):
        urn = edge["destinationUrn"]
        groups = catalog.get(urn, "mlModelProperties").get("groups", [])
        names = [_group_name(catalog, group) for group in groups]
        nodes.append(Node(" ".join(["→", *names, "version", _version_label(catalog, urn)])))
    return nodes


def counts(catalog: Catalog) -> list[str]:
    """How many entities there are of each type and subtype."""
    kinds = Counter((guess_entity_type(urn), catalog.subtype(urn)) for urn in catalog)
    return [
        f"{number:5} {kind}{f' ({subtype})' if subtype else ''}" for (kind, subtype), number in sorted(kinds.items())
    ]


def _joined(*parts: str | None) -> str:
    """The parts that say something; of a long text the first line."""
    return " · ".join(part.splitlines()[0] for part in parts if part)
