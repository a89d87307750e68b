"""Python's collector rests while a page is built, and is as it was afterwards."""

from __future__ import annotations

import gc

import pytest

from datahub_mlflow_source.readers.collector import without_collecting


def test_it_rests_within_and_goes_on_behind() -> None:
    assert gc.isenabled()
    with without_collecting():
        assert not gc.isenabled()
        with without_collecting():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_an_error_too() -> None:
    with pytest.raises(ValueError, match="made up"), without_collecting():
        raise ValueError("made up")
    assert gc.isenabled()


def test_one_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with without_collecting():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
