"""`docs/built-in.md` keeps its word: all of the built-in's defects are there, and each test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "built-in.md"
TEXT = PAGE.read_text(encoding="utf-8")
TEST = re.compile(r"\[`(test_\w+)`\]\(([^)]*)\)")
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]*)\|$", re.MULTILINE)
DEFECTS = 31
FORCED = {14, 16}
LATER = {10, 18, 27, 29, 31}  # at least in part


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", sorted({name for name, _ in TEST.findall(TEXT)}))
def test_a_test_that_the_page_names_is_where_it_says(name: str) -> None:
    for cited, link in TEST.findall(TEXT):
        if cited == name:
            assert name in functions_of(PAGE.parent / link)


def test_every_word_that_looks_like_a_test_is_such_a_link() -> None:
    assert len(re.findall(r"`test_\w+`", TEXT)) == len(TEST.findall(TEXT)) > DEFECTS


def test_every_defect_has_its_row() -> None:
    assert [int(number) for number, *_ in ROW.findall(TEXT)] == list(range(1, DEFECTS + 1))


def test_every_defect_that_is_not_for_later_has_a_test() -> None:
    without = {int(number) for number, _, _, tests in ROW.findall(TEXT) if not TEST.search(tests)}
    assert without == set()


def test_what_is_not_absent_is_what_the_page_says() -> None:
    said = {int(number): status for number, _, status, _ in ROW.findall(TEXT)}
    assert {number for number, status in said.items() if "forced" in status} == FORCED
    not_absent = {number for number, status in said.items() if not status.startswith("absent")}
    assert not_absent == {16} | LATER - {29}
