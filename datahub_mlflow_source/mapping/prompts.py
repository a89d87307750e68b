"""Prompts: registered models whose versions hold a text instead of files (MLflow 2.21 and newer)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from datahub_mlflow_source.mapping.rules import Trim, tag_value
from datahub_mlflow_source.records import PROMPT_TAG, ModelVersion, Tags, in_workspace
from datahub_mlflow_source.text import json_list

PROMPT = "Prompt"
PROMPT_VERSION = "Prompt Version"
PROMPT_TEXT = "mlflow.prompt.text"

PromptVersion = tuple[str, str]  # full name, version

_USED = "mlflow.linkedPrompts"  # of a run or logged model: JSON, [{"name": …, "version": …}]
# Of a version: ids of runs, with commas. By MLflow 2.21 and 2.22, and by 3.
_USED_BY = ("mlflow.prompt.run_ids", "mlflow.prompt.associatedRunIds")
_VARIABLE = re.compile(r"\{\{\s*([a-zA-Z_]\w*(?:\.[a-zA-Z_]\w*)*)\s*\}\}")  # mlflow/prompt/constants.py
_MOST_VARIABLES = 200


def is_prompt(tags: Tags) -> bool:
    """Of a registered model, or of one of its versions."""
    return PROMPT_TAG in tags


def prompt_text(tags: Tags) -> str:
    """As Markdown; of a chat with the role before each message. "" for what is no prompt."""
    text = tag_value(tags, PROMPT_TEXT) if is_prompt(tags) else ""
    if tag_value(tags, "_mlflow_prompt_type") != "chat":
        return text
    messages = json_list(text)
    said = [message for message in messages if isinstance(message, dict) and isinstance(message.get("content"), str)]
    if not said or len(said) < len(messages):
        return text
    return "\n\n".join(f"**{message.get('role', '')}**: {message['content']}" for message in said)


def prompt_properties(version: ModelVersion, trim: Trim) -> Iterator[tuple[str, str]]:
    """Keys without our prefix, and values."""
    if not is_prompt(version.tags):
        return
    variables = sorted(set(_VARIABLE.findall(tag_value(version.tags, PROMPT_TEXT))))
    yield "variables", ", ".join(trim.first("variables", variables, _MOST_VARIABLES))
    yield "commit_message", version.description


def linked_prompts(tags: Tags, workspace: str) -> Iterator[PromptVersion]:
    """Versions that a run or a logged model of this workspace says it used."""
    for entry in json_list(tag_value(tags, _USED)):
        if isinstance(entry, dict) and "name" in entry and "version" in entry:
            yield in_workspace(str(entry["name"]), workspace), str(entry["version"])


def runs_that_used(version: ModelVersion) -> list[str]:
    """Their ids, where the version knows them."""
    said = ",".join(tag_value(version.tags, key) for key in _USED_BY)
    return [run_id.strip() for run_id in said.split(",") if run_id.strip()]
