"""Text that people logged, made fit to be worked with, and times as text."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def sound(text: str) -> str:
    """Without halves of characters, which JSON can hold but UTF-8 cannot."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def printable(text: str) -> str:
    """Without line breaks and other characters that nobody sees, nor blanks around it."""
    return "".join(character for character in sound(text) if character.isprintable()).strip()


def json_list(text: str) -> list[Any]:
    """What a list in JSON holds; nothing, where the text is none."""
    found = _json(text)
    return found if isinstance(found, list) else []


def json_object(text: str) -> dict[str, Any]:
    """The same of an object."""
    found = _json(text)
    return found if isinstance(found, dict) else {}


def _json(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def iso_time(millis: int) -> str:
    """Epoch milliseconds as ISO 8601 has them, in UTC; the number itself, where no calendar has it."""
    try:
        return (_EPOCH + timedelta(milliseconds=millis)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError:
        return str(millis)
