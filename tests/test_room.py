"""Arrays that go on where their files end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist.room import map_with_room

AT_EXIT = """
import atexit, sys
from pathlib import Path
held = []
atexit.register(lambda: print(held[0].sum()))  # registered first, so it runs last
from shortlist.room import map_with_room
held.append(map_with_room(Path(sys.argv[1]), 5000)[0])
"""


@pytest.mark.parametrize("rows", [1, 1000, 4096 // 12 + 1])  # files that end within a page, and anywhere in one
def test_it_goes_on_with_zeros_that_can_be_written(tmp_path: Path, rows: int) -> None:
    known = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
    np.save(tmp_path / "a.npy", known)
    table, count = map_with_room(tmp_path / "a.npy", rows + 5000)
    assert (count, table.shape) == (rows, (rows + 5000, 3))
    assert (table[:rows] == known).all()
    assert not table[rows:].any()
    table[:] = 7
    assert (np.load(tmp_path / "a.npy") == known).all()


def test_a_file_that_is_deleted_stays(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(10_000))
    table, _ = map_with_room(tmp_path / "a.npy", 20_000)
    (tmp_path / "a.npy").unlink()
    assert table.sum() == sum(range(10_000))


def test_a_file_that_is_replaced_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, load = tmp_path / "a.npy", np.load
    np.save(path, np.zeros(10))

    def slow(*arguments: Any, **options: Any) -> Any:
        loaded = load(*arguments, **options)
        path.unlink()
        np.save(path, np.zeros(20))
        return loaded

    monkeypatch.setattr(np, "load", slow)
    with pytest.raises(ValueError, match="has been replaced"):
        map_with_room(path, 100)


def test_it_can_be_read_until_the_process_is_gone(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(1000))
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT, str(tmp_path / "a.npy")], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "1000.0\n")
