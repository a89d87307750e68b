"""Text that people logged, made fit to be worked with."""

from __future__ import annotations

import json
from typing import Any


def sound(text: str) -> str:
    """Without halves of characters, which JSON can hold but UTF-8 cannot."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def json_list(text: str) -> list[Any]:
    """What a list in JSON holds; nothing, where the text is none."""
    try:
        found = json.loads(text) if text else []
    except (ValueError, RecursionError):
        return []
    return found if isinstance(found, list) else []
