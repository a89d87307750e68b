"""Writes the reference of the recipe from its model, for people and for editors. `make docs` runs it.

`docs/configuration.md` and `recipes/schema.json` are never edited by hand: what they say about a key is its
description in `datahub_mlflow_source/config.py`. A test holds them in sync.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from datahub_mlflow_source.config import MlflowSourceConfig
from datahub_mlflow_source.config_blocks import RemovalConfig

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "configuration.md"
SCHEMA = ROOT / "recipes" / "schema.json"

SOURCE_TYPES = ["datahub-mlflow-source", "datahub_mlflow_source.MlflowSource"]

Node = dict[str, Any]  # a part of a JSON Schema


@dataclass(frozen=True)
class Group:
    """A section of the page."""

    title: str
    about: str  # Markdown
    keys: str  # with blanks between


GROUPS = (
    Group(
        "Connection",
        """\
Where the recipe has neither `username` nor `token` nor an `Authorization` header, MLflow's variables are asked: for
user name and password, else for a token. Then section `[mlflow]` of `~/.mlflow/credentials`, which its client reads
too. Without that either, requests are anonymous.
""",
        "tracking_uri registry_uri base_external_url username password token headers headers_secret tls "
        "timeout_seconds max_retries page_size max_workers",
    ),
    Group(
        "Database",
        """\
Instead of over the server's REST API, MLflow's own database can be read: much faster, and the server doesn't notice.
The driver comes with `pip install 'datahub-mlflow-source[postgres]'` or `[mysql]`; SQLite needs none.
""",
        "backend_store_uri backend_store_password database",
    ),
    Group(
        "Naming",
        """\
What entities are called in DataHub. Decide before the first ingestion: these are parts of URNs.
""",
        "platform_instance env model_name_separator",
    ),
    Group(
        "Scope",
        """\
Which entities are taken. What is left out is neither an error nor a warning; the report counts it. What these keys
make of a name can be tried out: [Trying a recipe](#trying-a-recipe).
""",
        "workspaces experiment_pattern model_pattern run_name_pattern run_user_pattern run_filter run_retention_days "
        "max_runs_per_experiment include_runs include_deleted include_datasets include_prompts include_logged_models "
        "logged_models "
        "include_artifacts artifact_store include_traces metric_history_pattern include_deployments deployments",
    ),
    Group(
        "Limits",
        """\
DataHub refuses an aspect over 16 MB whole, and its UI is slow long before. What is cut is counted in the report, with
examples.
""",
        "limits",
    ),
    Group(
        "Lineage",
        """\
Where data comes from, by which code, and what started the runs: [datasets](mapping.md#datasets),
[orchestrators](orchestrators.md).
""",
        "dataset_platform_map dataset_rules source_mapping_to_platform materialize_dataset_inputs orchestrators "
        "code_url_templates",
    ),
    Group(
        "Meaning",
        """\
Whose it is, and what it means to people: [governance](governance.md).
""",
        "stage_tags alias_tags meta_mapping extract_owners owners owner_type owner_deny_pattern owner_urn_template "
        "domain links structured_properties deprecate_archived",
    ),
    Group(
        "Scale",
        """\
For hundreds of thousands of runs and more: [docs/scale.md](scale.md).
""",
        "shard versions_in_memory",
    ),
    Group(
        "Removal",
        """\
What happens in DataHub to what is gone from MLflow. The last four keys are described in DataHub's own words. They are
for special cases: `state_provider: {type: file, config: {filename: state.json}}` remembers in a file instead of in
DataHub, and from some 780,000 experiments on the state needs a larger `max_checkpoint_state_size`.
""",
        "stateful_ingestion",
    ),
)

INTRO = """\
# Configuration

<!-- Written by `make docs` from the descriptions in datahub_mlflow_source/config.py: change them there. -->

All keys of `source.config` in a recipe with `type: datahub-mlflow-source`. None is required: what the recipe leaves
out has a default, or is taken from [MLflow's own variables](#environment-variables).

```yaml
# yaml-language-server: $schema=recipes/schema.json
source:
  type: datahub-mlflow-source
  config:
    tracking_uri: https://mlflow.example.com
    token: ${MLFLOW_TOKEN}
    experiment_pattern:
      deny: ["tmp-"]
sink:
  type: datahub-rest
  config:
    server: https://datahub.example.com/gms
    token: ${DATAHUB_GMS_TOKEN}
```

- `${NAME}` is replaced by the environment variable of that name, or by DataHub's secret where DataHub runs the
  recipe; `${NAME:-default}` says what to take where there is none. Write no secret into a recipe: DataHub stores it.
- A nested key is written here with dots: `tls.ca_bundle` is `ca_bundle` below `tls`.
- An unknown key is an error that names the nearest known one.
- An editor with the [YAML language server](https://github.com/redhat-developer/yaml-language-server) completes and
  checks keys by `recipes/schema.json`. The first line of the example says where that is, seen from the recipe.
"""

PATTERNS = """\
### Patterns

A pattern takes a name that one expression in `allow` matches and none in `deny` does.

| Key | Type and default | Description |
|---|---|---|
| `<pattern>.allow` | list of strings<br>`[".*"]` | Regular expressions; without it, all names are taken. |
| `<pattern>.deny` | list of strings<br>`[]` | Regular expressions; they win over `allow`. |
| `<pattern>.ignoreCase` | boolean<br>`true` | Takes upper and lower case for the same. |

They are regular expressions, no globs, and match from the start of the name: `churn` matches `churn` and `churn-eu`,
and not `my-churn`. `^churn$` matches that name only, `.*-test$` all that end in `-test`.
"""

OTHER_RECIPES_ABOUT = """\
## Spellings of other recipes

A recipe for DataHub's built-in `mlflow` source works as it is when its `type` is changed. Accepted besides, as recipes
documented elsewhere have them:
"""

OTHER_RECIPES: Mapping[str, Node] = {
    "experiments": {
        "description": 'Globs for names of experiments, like `[{name: "churn-*"}]`: stands for an '
        "`experiment_pattern`, which is what to write in a new recipe.",
        "type": "array",
        "minItems": 1,
        "items": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string"}},
                    "additionalProperties": False,
                },
            ]
        },
    },
    "include_run_details": {
        "description": "true stands for `include_runs: all`, false for `include_runs: none`.",
        "type": "boolean",
    },
}

ENVIRONMENT_ABOUT = """\
## Environment variables

MLflow's own, for what the recipe leaves out. They are read and never written.
"""

TRYING = """\
## Trying a recipe

Without an ingestion; each command prints JSON. `probe` needs acryl-datahub 1.7.0.15 or newer.

```sh
datahub recipe validate recipe.yml                   # is it right? connects to nothing
datahub recipe test-connection --recipe recipe.yml   # is MLflow there, and does it let us in?

datahub recipe probe run server --recipe recipe.yml  # where MLflow is, and its version
datahub recipe probe run counts --recipe recipe.yml  # how much it holds
datahub recipe probe run experiments --recipe recipe.yml --report-to listing.json
datahub recipe probe run runs --experiment churn --recipe recipe.yml --report-to listing.json
datahub recipe probe run models --recipe recipe.yml --report-to listing.json
datahub recipe probe run versions --model fraud --recipe recipe.yml --report-to listing.json

# Which of the listed ones the recipe takes, and which key leaves out the others:
datahub recipe probe filter --recipe recipe.yml --from-run listing.json
# The same for a name (--kind Experiment, Run or Model), and for another pattern than the recipe's:
datahub recipe probe filter --recipe recipe.yml --kind Model --name fraud-test --try-deny '.*-test$'
```
"""


def config_schema() -> Node:
    """The JSON Schema of `source.config`, with the keys that DataHub hides from its own documentation too."""
    schema: Node = _without_titles(MlflowSourceConfig.model_json_schema())
    properties = schema["$defs"][RemovalConfig.__name__]["properties"]
    for name, field in RemovalConfig.model_fields.items():
        if name not in properties:
            node = TypeAdapter[Any](field.annotation or Any).json_schema(ref_template="#/$defs/{model}")
            schema["$defs"].update(_without_titles(node.pop("$defs", {})))
            properties[name] = {**node, "description": field.description, "default": field.default}
    return schema


def _without_titles(node: Any) -> Any:
    """pydantic gives each property its name as a title."""
    if isinstance(node, list):
        return [_without_titles(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _without_titles(value) for key, value in node.items() if key != "title" or isinstance(value, dict)}


# recipes/schema.json


def schema_text() -> str:
    """The whole of recipes/schema.json."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"


def recipe_schema() -> Node:
    """The JSON Schema of a recipe, in draft 7, which every editor knows. Only the source is ours, and closed."""
    config = config_schema()
    definitions = {**config.pop("$defs"), "MlflowSourceConfig": config}
    config["properties"].update(OTHER_RECIPES)
    artifacts = config["properties"]["include_artifacts"]
    del artifacts["type"]
    artifacts["enum"] += [True, False]
    config["properties"]["owners"]["items"] = {"anyOf": [config["properties"]["owners"]["items"], {"type": "string"}]}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "DataHub recipe for MLflow",
        "type": "object",
        "required": ["source"],
        "properties": {
            "pipeline_name": {
                "description": "Under this name DataHub remembers what was sent: `stateful_ingestion` needs it.",
                "type": "string",
            },
            "source": {
                "type": "object",
                "required": ["type"],
                "properties": {
                    "type": {"description": "The dotted one is for DataHub's UI.", "enum": SOURCE_TYPES},
                    "config": {"$ref": "#/$defs/MlflowSourceConfig"},
                },
            },
            "sink": {"description": "Where the metadata goes.", "type": "object"},
            "datahub_api": {"description": "DataHub's server, where the sink is another.", "type": "object"},
            "transformers": {"description": "They don't reach ML entities by default."},
            "flags": {"description": "Switches of DataHub's framework.", "type": "object"},
        },
        "$defs": {name: _or_variable(definition) for name, definition in sorted(definitions.items())},
    }


def _or_variable(node: Any) -> Any:
    """Takes `${VARIABLE}` also where something else than text is wanted."""
    variable = {"type": "string", "pattern": r"^\$|\$\{"}
    if isinstance(node, list):
        return [_or_variable(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") in ("boolean", "integer", "number"):
        return {**node, **variable, "type": [node["type"], "string"]}
    if "enum" in node:
        wanted = {key: node[key] for key in ("type", "enum") if key in node}
        rest = {key: value for key, value in node.items() if key not in wanted}
        return {**rest, "anyOf": [wanted, variable]}
    return {key: value if key == "default" else _or_variable(value) for key, value in node.items()}


# docs/configuration.md


@dataclass(frozen=True)
class Row:
    """A key of the config, as Markdown."""

    key: str
    type: tuple[str, str]  # and default, "" where there is nothing to say
    description: str


def page() -> str:
    """The whole of docs/configuration.md. Raises ValueError for a key that is in no group."""
    schema = config_schema()
    grouped = [key for group in GROUPS for key in group.keys.split()]
    if missing := set(schema["properties"]).symmetric_difference(grouped):
        raise ValueError(f"GROUPS in docs/generate.py and the config differ in {', '.join(sorted(missing))}")
    sections = [INTRO]
    for group in GROUPS:
        sections.append(f"## {group.title}\n\n{group.about}\n{_table(schema, group.keys.split())}")
        if "experiment_pattern" in group.keys:
            sections.append(PATTERNS)
    others = {"properties": OTHER_RECIPES, "$defs": {}}
    sections.append(f"{OTHER_RECIPES_ABOUT}\n{_table(others, OTHER_RECIPES)}")
    sections.append(f"{ENVIRONMENT_ABOUT}\n{_variables()}")
    sections.append(TRYING)
    return "\n".join(sections)


def _table(schema: Node, keys: Iterable[str]) -> str:
    found = [row for key in keys for row in _rows(key, schema["properties"][key], schema)]
    cells = [f"| `{row.key}` | {'<br>'.join(filter(None, row.type))} | {row.description} |\n" for row in found]
    return "".join(["| Key | Type and default | Description |\n|---|---|---|\n", *cells])


def _variables() -> str:
    """The variables that descriptions name, each with its key."""
    cells = [
        f"| `{variable}` | `{row.key}` |\n"
        for row in rows()
        for variable in re.findall(r"`(MLFLOW_\w+)`", row.description)
    ]
    return "".join(["| Variable | Stands in for |\n|---|---|\n", *cells])


def rows() -> Iterator[Row]:
    """All keys, nested ones behind the one that holds them; those of a pattern are described once for all."""
    schema = config_schema()
    for key, node in schema["properties"].items():
        yield from _rows(key, node, schema)


def _rows(key: str, node: Node, schema: Node) -> Iterator[Row]:
    wanted = _wanted(node)
    description = node.get("description", "").replace("|", r"\|").replace("\n", " ")
    yield Row(key, (_type(wanted), _default(node, wanted)), description)
    if "$ref" in wanted.get("items", ()):
        wanted, key = wanted["items"], f"{key}[]"
    elif "$ref" in _of_each(wanted):
        wanted, key = _of_each(wanted), f"{key}.<name>"
    if not _is(wanted, "AllowDenyPattern", "DynamicTypedStateProviderConfig") and "$ref" in wanted:
        definition = schema["$defs"][wanted["$ref"].rpartition("/")[2]]
        for child, child_node in definition["properties"].items():
            yield from _rows(f"{key}.{child}", child_node, schema)


def _of_each(wanted: Node) -> Node:
    """What a map whose keys are names holds under each of them."""
    values = wanted.get("additionalProperties")
    return values if isinstance(values, dict) else {}


def _wanted(node: Node) -> Node:
    """Without the null that stands for a key which is not set."""
    wanted: Node = next((one for one in node.get("anyOf", ()) if one.get("type") != "null"), node)
    return wanted


def _is(wanted: Node, *models: str) -> bool:
    return str(wanted.get("$ref", "")).rpartition("/")[2] in models


def _type(wanted: Node) -> str:
    if "$ref" in wanted:
        if _is(wanted, "AllowDenyPattern"):
            return "[pattern](#patterns)"
        return "map" if _is(wanted, "DynamicTypedStateProviderConfig") else "map, with these keys"
    choices = wanted.get("enum") or ([wanted["const"]] if "const" in wanted else [])
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if wanted.get("format") == "password":
        return "secret"
    if isinstance(wanted.get("additionalProperties"), dict):
        return f"map of strings to {_type(wanted['additionalProperties'])}s"
    if "$ref" in wanted.get("items", ()):
        return "list of maps, with these keys"
    if "$ref" in _of_each(wanted):
        return "map of maps, with these keys"
    name = {"array": "list", "object": "map"}.get(wanted["type"], wanted["type"])
    return f"{name}{_bounds(wanted)}"


def _bounds(wanted: Node) -> str:
    if "minimum" in wanted and "maximum" in wanted:
        return f", {wanted['minimum']:g} to {wanted['maximum']:g}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}
    return " and".join(f" {sign} {wanted[bound]:g}" for bound, sign in signs.items() if bound in wanted)


def _default(node: Node, wanted: Node) -> str:
    if "default" in node:
        return "not set" if node["default"] is None else f"`{json.dumps(node['default'], ensure_ascii=False)}`"
    return "all names" if _is(wanted, "AllowDenyPattern") else ""


def main() -> None:
    """Writes both files."""
    PAGE.write_text(page(), encoding="utf-8")
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    print(f"Written: {PAGE.relative_to(ROOT)}, {SCHEMA.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
