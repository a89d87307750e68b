"""Texts with places in them, `{key}`, that values of a run or an entity go into."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

_PLACE = re.compile(r"\{([^{}]+)\}")
_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")


def as_it_is(text: str) -> str:
    """For what is no address."""
    return text


def filled(
    template: str, values: Mapping[str, str], quoting: Callable[[str], str] = as_it_is, *, brackets: bool = True
) -> str:
    """The template with each `{key}` replaced by that value; "" where a value is missing or empty.

    `{a|b}` is the first of the two that has a value. A part in brackets, `[{project}.]{flow}`, goes where its value is
    missing, unless brackets are but `brackets`. `quoting` is done to each value, not to what stands around it.
    """
    texts: list[str] = []
    for text, places, optional in _parsed(template, brackets):
        found = [quoting(next(filter(None, (values.get(key) for key in keys)), "")) for keys in places]
        if all(found):
            texts.append(text % tuple(found))
        elif not optional:
            return ""
    return "".join(texts)


def places(template: str) -> Iterator[str]:
    """The keys that it asks for."""
    for match in _PLACE.finditer(template):
        yield from match[1].split("|")


@lru_cache(maxsize=1024)
def _parsed(template: str, brackets: bool) -> list[tuple[str, list[tuple[str, ...]], bool]]:
    """Its parts: text with %s in place of values, which keys may give each of those, and whether it may be left out."""
    return [
        (
            _PLACE.sub("%s", part.replace("%", "%%")),
            [tuple(match[1].split("|")) for match in _PLACE.finditer(part)],
            number % 2 == 1,
        )
        for number, part in enumerate(_OPTIONAL.split(template) if brackets else [template])
    ]
