"""A table that may be larger than memory, some rows at a time: what `read_table` gives, cut where a row ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from shortlist.data.read import LINE, is_json, is_parquet, read_parquet, read_table, require_file
from shortlist.errors import DataError

PART_ROWS = 250_000  # of Parquet
PART_BYTES = 8 << 20  # of text


def read_parts(path: Path) -> Iterator[pl.DataFrame]:
    """Frames that make up the table, each with LINE. Raises DataError as `read_table`, whatever part it is in."""
    if is_parquet(path):
        yield from _parquet_parts(path)
        return
    known: dict[str, pl.DataType] = {}
    if is_json(path):  # a part has the columns that its lines name, and which the table has is asked of the first
        for part in _parts_of_text(path):
            known |= part.schema
    for part in _parts_of_text(path):
        lacking = [pl.lit(None, dtype).alias(name) for name, dtype in known.items() if name not in part.columns]
        known |= part.schema
        yield part.with_columns(*lacking)


def _parts_of_text(path: Path) -> Iterator[pl.DataFrame]:
    for content, lines in _text_parts(path, has_header=not is_json(path)):
        try:
            part = read_table(path, content)
        except DataError:
            if lines:
                read_table(path)  # says which line of the file it is
            raise
        yield part.with_columns(pl.col(LINE) + lines)


def _parquet_parts(path: Path) -> Iterator[pl.DataFrame]:
    require_file(path)
    try:
        rows = pl.scan_parquet(path).select(pl.len()).collect().item()
        if rows <= PART_ROWS:
            yield read_parquet(path)
            return
        for start in range(0, rows, PART_ROWS):
            part = pl.scan_parquet(path).slice(start, PART_ROWS).collect()
            yield part.with_columns(pl.int_range(start + 1, start + 1 + pl.len(), dtype=pl.Int64).alias(LINE))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from error


def _text_parts(path: Path, has_header: bool) -> Iterator[tuple[bytes, int]]:
    """Whole rows, after the header where there is one, and how many lines more lie before them in the file."""
    require_file(path)
    with path.open("rb") as file:
        header = file.readline() if has_header else b""
        rest, lines = b"", 0
        while block := file.read(PART_BYTES):
            rest += block
            end = _end_of_rows(rest, quoted=has_header)
            if rest[:end].strip():
                yield header + rest[:end], lines
            lines += rest.count(b"\n", 0, end)
            rest = rest[end:]
        if rest.strip() or not lines:
            yield header + rest, lines


def _end_of_rows(content: bytes, quoted: bool) -> int:
    """Where the last whole row ends; 0 where none does. A line break between quotes ends none."""
    end = content.rfind(b"\n") + 1
    quotes = content.count(b'"', 0, end) if quoted else 0
    while quotes % 2:
        before = content.rfind(b"\n", 0, end - 1) + 1
        quotes -= content.count(b'"', before, end)
        end = before
    return end
