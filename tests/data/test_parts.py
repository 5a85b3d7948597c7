from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from shortlist.data import parts
from shortlist.data.parts import read_parts
from shortlist.data.read import LINE, SURPLUS, read_table
from shortlist.errors import DataError


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 16)
    monkeypatch.setattr(parts, "PART_ROWS", 3)


CSV = b'a,b\n1,2\n\n3,"x\ny, ""z"" and\nmore"\n5,6\n7,8,9\n\n\n' + b"10,11\n" * 9 + b"12,13"


def test_parts_of_a_text_are_the_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + CSV)
    found = list(read_parts(tmp_path / "a.csv"))
    assert len(found) > 3
    assert_frame_equal(pl.concat(found), read_table(tmp_path / "a.csv"), check_column_order=False)
    assert pl.concat(found)[SURPLUS].drop_nulls().to_list() == ["9"]


def test_parts_of_parquet_are_the_table(tmp_path: Path) -> None:
    pl.DataFrame({"a": range(10)}).write_parquet(tmp_path / "a.parquet")
    assert_frame_equal(pl.concat(read_parts(tmp_path / "a.parquet")), read_table(tmp_path / "a.parquet"))


def test_a_column_that_a_part_of_json_lines_lacks_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1, "b": "x"}\n\n{"a": 2}\n{"a": 3}\n')
    assert pl.concat(read_parts(tmp_path / "a.jsonl"), how="diagonal").select("a", "b", LINE).rows() == [
        (1, "x", 1),
        (2, None, 3),
        (3, None, 4),
    ]


def test_a_column_that_only_later_json_lines_name_is_there_from_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": 3}\n{"a": 4, "b": "x"}\n')
    found = list(read_parts(tmp_path / "a.jsonl"))
    assert len(found) > 1
    assert pl.concat(found, how="diagonal_relaxed")["b"].to_list() == [None, None, None, "x"]
    assert all("b" in part.columns for part in found)


@pytest.mark.parametrize("bad", [b"1,\xff\n", b"1,\0\n"])
def test_what_is_wrong_is_told_with_the_line_of_the_file(tmp_path: Path, bad: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,b\n" + b"1,2\n" * 20 + bad)
    with pytest.raises(DataError, match="line 22"):
        list(read_parts(tmp_path / "a.csv"))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=name):
        list(read_parts(tmp_path / name))
