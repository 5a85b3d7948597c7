from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from shortlist.data.read import LINE, SURPLUS, read_csv, read_lines, read_table, require_columns
from shortlist.errors import DataError


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_the_header_shows_the_separator(tmp_path: Path, separator: str) -> None:
    path = write(tmp_path / "a.csv", separator.join(["a", "b"]).encode() + b"\n" + separator.join("12").encode())
    assert read_table(path).select("a", "b").row(0) == ("1", "2")


def test_lines_are_counted_over_blank_lines_and_quoted_line_breaks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'a,b\n1,2\n\n3,"x\ny"\n5,6\n')
    assert read_table(path)[LINE].to_list() == [2, 4, 6]


def test_a_byte_order_mark_and_windows_line_ends_are_no_content(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path / "a.csv", b"\xef\xbb\xbfa,b\r\n1,2\r\n"))
    assert frame.select("a", "b").row(0) == ("1", "2")


def test_surplus_fields_are_kept_for_the_report(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path / "a.csv", b"a,b\n1,2\n\n3,4,5,6\n7,8\n"))
    assert frame[SURPLUS].to_list() == [None, "5,6", None]
    assert frame[LINE].to_list() == [2, 4, 5]


def test_a_separator_may_have_two_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dat", "1::Am\xe9lie: une vie\n".encode("latin-1"))
    frame = read_csv(path, separator="::", header=["a", "b"], quoted=False, encoding="latin-1")
    assert frame.select("a", "b", LINE).row(0) == ("1", "Amélie: une vie", 1)


def test_quotes_are_text_where_the_format_has_no_quoting(tmp_path: Path) -> None:
    frame = read_csv(write(tmp_path / "a.tsv", b'a\tb\n"x\ty"\n'), separator="\t", quoted=False)
    assert frame.select("a", "b").row(0) == ('"x', 'y"')


def test_blank_lines_are_no_lines_of_text(tmp_path: Path) -> None:
    frame = read_lines(write(tmp_path / "a.txt", b"a b\n\n  \nc\n"))
    assert frame.select("text", LINE).rows() == [("a b", 1), ("c", 4)]


def test_parquet_rows_count_from_one(tmp_path: Path) -> None:
    pl.DataFrame({"a": [5, 6]}).write_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet")[LINE].to_list() == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b"a,b\n", "no rows below the header"),
        (b"a,b\n\n\n", "no rows below the header"),
        (b"PAR1\x15\x00\x15", "line 1: byte 0x00 is not UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "line 1: byte 0x89 is not UTF-8"),
        (b"a,b\n1,2\n\xff\xfe,2\n", "line 3: byte 0xff is not UTF-8"),
        (b'a,b\n1,2\n3,"4\n5,6\n', "line 3: a quoted cell does not end"),
    ],
)
def test_what_is_no_table_is_refused_with_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path / "bad.csv", content)
    with pytest.raises(DataError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "absent.csv")


def test_a_text_file_named_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_table(write(tmp_path / "a.parquet", b"a,b\n1,2\n"))


def test_an_empty_parquet_file_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"a": []}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no rows"):
        read_table(tmp_path / "a.parquet")


def test_a_missing_column_is_named_with_those_present(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"who,what\n1,2\n")
    with pytest.raises(DataError, match=r"column 'user_id' is missing; the file has: who, what\. Map it"):
        require_columns(read_table(path), ["user_id"], path, "Map it.")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder, and a file is needed"):
        read_table(tmp_path)


def test_json_lines_keep_their_types_and_lines(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path / "a.jsonl", b'{"a": 1, "b": "x"}\n\n{"a": 2.5}\n'))
    assert frame.select("a", "b", LINE).rows() == [(1.0, "x", 1), (2.5, None, 3)]


@pytest.mark.parametrize("line", [b'{"a":', b"[1]"])
def test_a_line_that_is_no_json_object_is_named(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(DataError, match="line 2: a JSON object a line is needed"):
        read_table(write(tmp_path / "a.jsonl", b'{"a": 1}\n' + line + b"\n"))


def test_an_array_of_json_is_told_from_lines_of_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1: a JSON object a line is needed"):
        read_table(write(tmp_path / "a.json", b'[{"a": 1}]'))
