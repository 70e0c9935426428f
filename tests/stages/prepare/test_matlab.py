"""MATLAB files as SciPy writes them, and damaged ones."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from ovseg_cli.errors import InputError
from ovseg_cli.stages.prepare.matlab import read_matrix

NUMBERS = np.arange(42).reshape(6, 7)


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "i8"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_matrix_among_other_things(tmp_path: Path, kind: str, packed: bool) -> None:
    content = {
        "name": "a street",
        "cells": np.array([1, "b"], dtype=object),
        "LabelMap": NUMBERS.astype(kind),
        "more": {"field": 1.5},
    }
    savemat(tmp_path / "a.mat", content, do_compression=packed)
    found = read_matrix(tmp_path / "a.mat", "LabelMap")
    assert found.dtype == np.int32
    assert found.tolist() == NUMBERS.tolist()


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 1), (375, 500)])
def test_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    numbers = np.random.default_rng(0).integers(0, 460, size, dtype=np.uint16)
    savemat(tmp_path / "a.mat", {"LabelMap": numbers}, do_compression=True)
    assert (read_matrix(tmp_path / "a.mat", "LabelMap") == numbers).all()


@pytest.mark.parametrize("value", ["text", 1.5, np.zeros((2, 2, 2), np.uint8), {"a": 1}])
def test_what_is_no_matrix_of_whole_numbers(tmp_path: Path, value: object) -> None:
    savemat(tmp_path / "a.mat", {"LabelMap": value, "other": NUMBERS})
    with pytest.raises(InputError, match="no matrix of whole numbers 'LabelMap'"):
        read_matrix(tmp_path / "a.mat", "LabelMap")


def test_a_file_that_is_missing_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_matrix(tmp_path / "a.mat", "LabelMap")
    (tmp_path / "a.mat").write_bytes(b"<html>" * 100)
    with pytest.raises(InputError, match="no MATLAB file of level 5"):
        read_matrix(tmp_path / "a.mat", "LabelMap")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), packed=st.booleans())
def test_a_damaged_file_is_read_or_refused(
    tmp_path: Path, data: st.DataObject, packed: bool
) -> None:
    savemat(tmp_path / "a.mat", {"LabelMap": NUMBERS.astype("u2")}, do_compression=packed)
    content = bytearray((tmp_path / "a.mat").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(124, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.mat").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(InputError):
        assert read_matrix(tmp_path / "a.mat", "LabelMap").ndim == 2
