"""Datasets that a param or tag of a run names, by a rule of the recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from datahub.metadata.urns import DatasetUrn

from datahub_mlflow_source.mapping.datasets import CONTEXT, InputDataset
from datahub_mlflow_source.mapping.lineage import real_dataset
from datahub_mlflow_source.mapping.rules import Rules, TableRule, tag_value
from datahub_mlflow_source.mapping.sources import DatasetSource, location
from datahub_mlflow_source.records import DatasetInput, Run
from datahub_mlflow_source.redaction import HIDDEN, redact

_LONGEST, _MOST = 500, 100  # characters of a name, names in one value


def tables_of(run: Run, rules: Rules) -> list[InputDataset]:
    """The real datasets that rules find on this run: other connectors' entities, which are only referenced."""
    found = (_table(name, rule, rules) for rule in rules.table_rules for name in _names(run, rule))
    return [table for table in found if table is not None]


def unresolved(run: Run, rules: Rules) -> Iterator[str]:
    """Values that a rule applies to and that name no dataset of its platform, for the report."""
    for rule in rules.table_rules:
        for name in _names(run, rule):
            if _urn(name, rule, rules) is None:
                yield f"{rule.of} {rule.key}: {name} is no whole name on {rule.platform}"


def _names(run: Run, rule: TableRule) -> Sequence[str]:
    value = tag_value(run.params if rule.of == "param" else run.tags, rule.key).strip()
    if not value:
        return []
    names = _json_names(value) if value.startswith("[") else value.split(rule.separator)
    clean = (redact(name.strip()) for name in names[:_MOST])
    return [name for name in clean if name and len(name) <= _LONGEST and name.isprintable() and HIDDEN not in name]


def _json_names(value: str) -> list[str]:
    try:
        names = json.loads(value)
    except (ValueError, RecursionError):
        return []
    return [name for name in names if isinstance(name, str)]


def _urn(name: str, rule: TableRule, rules: Rules) -> DatasetUrn | None:
    return real_dataset(
        DatasetSource(location=location(f"{rule.prefix}{name}")),
        rule.of,
        env=rules.naming.env,
        platform_of_type={rule.of: rule.platform},
        naming_of_platform=rules.naming_of_platform,
    )


def _table(name: str, rule: TableRule, rules: Rules) -> InputDataset | None:
    urn = _urn(name, rule, rules)
    if urn is None:
        return None
    said = DatasetInput(name, "", rule.of, "", None, None, ((CONTEXT, rule.context),))
    return InputDataset(urn, said, DatasetSource(details={rule.of: rule.key}), "")
