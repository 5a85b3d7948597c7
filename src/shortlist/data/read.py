"""Text, Parquet and JSON-lines files as frames of raw columns, each row with its line number.

Here a file is found to be missing, empty, binary or without its columns. What the cells mean is left to the loaders,
and which rows are acceptable to `shortlist.data.validate`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from shortlist.errors import DataError

LINE = "__line__"  # 1-based line of the file (for Parquet: row)
SURPLUS = "__surplus__"  # the fields beyond the header's, joined; null where a row has none
BOM = b"\xef\xbb\xbf"
UNIT_SEPARATOR = "\x1f"  # stands in for separators of several characters, and as "no separator"


def read_table(path: Path, content: bytes | None = None) -> pl.DataFrame:
    """Read a file of Parquet or of JSON lines (by suffix), or a CSV/TSV file whose separator its header shows.

    Of a text file, `content` may be given instead of being read.
    """
    if is_parquet(path):
        return read_parquet(path)
    content = read_text(path, content=content)
    if is_json(path):
        return _read_json_lines(path, content)
    header = content.split(b"\n", 1)[0]
    separator = max("\t,;|", key=lambda mark: header.count(mark.encode()))
    return _read_csv(path, content, separator, None, quoted=True)


def is_parquet(path: Path) -> bool:
    """Whether the suffix says Parquet."""
    return path.suffix.lower() in {".parquet", ".pq"}


def is_json(path: Path) -> bool:
    """Whether the suffix says JSON lines."""
    return path.suffix.lower() in {".jsonl", ".ndjson", ".json"}


def read_csv(
    path: Path,
    *,
    separator: str = ",",
    header: Sequence[str] | None = None,
    quoted: bool = True,
    encoding: str = "utf-8",
) -> pl.DataFrame:
    """Read every cell as text (empty: null). `header` names the columns of a file that has no header line.

    A `separator` of several characters (`::`) is allowed. Blank lines are no rows.
    """
    return _read_csv(path, read_text(path, encoding), separator, header, quoted)


def _read_csv(path: Path, content: bytes, separator: str, header: Sequence[str] | None, quoted: bool) -> pl.DataFrame:
    if len(separator) > 1:
        content, separator = content.replace(separator.encode(), UNIT_SEPARATOR.encode()), UNIT_SEPARATOR
    quote = '"' if quoted else None
    frame = _parse(path, content, separator, header, quote, ragged=False)
    if frame is None:
        frame = _parse(path, content, separator, header, quote, ragged=True)
        assert frame is not None
        surplus = _surplus_fields(content, separator, len(frame.columns), quoted, header is None)
        frame = frame.with_columns(pl.Series(SURPLUS, surplus[: len(frame)], dtype=pl.String))
    else:
        frame = frame.with_columns(pl.lit(None, pl.String).alias(SURPLUS))
    first_line = 2 if header is None else 1
    breaks = pl.sum_horizontal(pl.exclude(SURPLUS).str.count_matches("\n", literal=True).fill_null(0))
    lines = pl.int_range(pl.len()) + first_line + breaks.cum_sum() - breaks
    frame = frame.with_columns(lines.cast(pl.Int64).alias(LINE))
    frame = frame.filter(~pl.all_horizontal(pl.exclude(LINE, SURPLUS).is_null()))
    if frame.is_empty():
        raise DataError(f"{path}: no rows below the header; expected at least one")
    return frame


def read_lines(path: Path) -> pl.DataFrame:
    """Read a text file as one column `text`, a row for each line that is not blank."""
    content = read_text(path)
    frame = _parse(path, content, UNIT_SEPARATOR, ["text"], None, ragged=True)
    assert frame is not None
    frame = frame.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(LINE))
    return frame.filter(pl.col("text").str.strip_chars() != "")


def read_parquet(path: Path) -> pl.DataFrame:
    """Read a Parquet file; rows count from 1."""
    require_file(path)
    try:
        frame = pl.read_parquet(path, use_pyarrow=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from error
    if frame.is_empty():
        raise DataError(f"{path}: no rows; expected at least one")
    return frame.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(LINE))


def _read_json_lines(path: Path, content: bytes) -> pl.DataFrame:
    """A JSON object a line; a column has the type that fits all of its values."""
    numbers = [number for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
    try:
        frame = pl.read_ndjson(content, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        lines = enumerate(content.split(b"\n"), start=1)
        where = next((f"line {number}: " for number, line in lines if not _is_object(line)), "")
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: {where}a JSON object a line is needed, of equal types ({reason})") from error
    return frame.with_columns(pl.Series(LINE, numbers, pl.Int64))


def read_text(path: Path, encoding: str = "utf-8", content: bytes | None = None) -> bytes:
    """The file as UTF-8 without a byte-order mark. Raises DataError if it is missing, empty or binary."""
    require_file(path)
    content = (path.read_bytes() if content is None else content).removeprefix(BOM)
    if not content.strip():
        raise DataError(f"{path}: the file is empty; expected text with at least one row")
    zero = content.find(b"\0")
    if zero >= 0:
        raise _binary(path, content, zero)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise _binary(path, content, error.start) from error
    return content if encoding == "utf-8" else text.encode()


def require_columns(frame: pl.DataFrame, names: Sequence[str], path: Path, hint: str = "") -> None:
    """Raise DataError naming the first column of `names` that `frame` lacks."""
    for name in names:
        if name not in frame.columns:
            present = ", ".join(column for column in frame.columns if column not in (LINE, SURPLUS))
            raise DataError(f"{path}: line 1: column {name!r} is missing; the file has: {present}. {hint}".rstrip())


def _is_object(line: bytes) -> bool:
    """Whether a line, if it is not blank, holds a JSON object."""
    try:
        return not line.strip() or isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def require_file(path: Path) -> None:
    """Raise DataError unless `path` is a file."""
    if path.is_dir():
        raise DataError(f"{path}: is a folder, and a file is needed; check data.path")
    if not path.is_file():
        raise DataError(f"{path}: no such file; check data.path")


def _binary(path: Path, content: bytes, at: int) -> DataError:
    line = content.count(b"\n", 0, at) + 1
    return DataError(
        f"{path}: line {line}: byte 0x{content[at]:02x} is not UTF-8 text (the file starts with {content[:8]!r}); "
        "give an uncompressed text file, or Parquet with the suffix .parquet"
    )


def _parse(
    path: Path, content: bytes, separator: str, header: Sequence[str] | None, quote: str | None, *, ragged: bool
) -> pl.DataFrame | None:
    """Parse with Polars; None where rows have more fields than the header and `ragged` does not allow it."""
    try:
        return pl.read_csv(
            content,
            separator=separator,
            has_header=header is None,
            new_columns=header,
            infer_schema=False,
            quote_char=quote,
            truncate_ragged_lines=ragged,
        )
    except (pl.exceptions.PolarsError, ValueError) as error:
        if "more fields" in str(error) and not ragged:
            return None
        if line := _unbalanced_line(content):
            raise DataError(f"{path}: line {line}: a quoted cell does not end; double the quotes in a cell") from error
        raise DataError(f"{path}: not a table of text: {str(error).strip().splitlines()[0]}") from error


def _surplus_fields(content: bytes, separator: str, width: int, quoted: bool, has_header: bool) -> list[str | None]:
    """For each record, its fields beyond `width`: slow, and only needed for files that have such rows."""
    lines = content.decode().splitlines(keepends=True)
    rows = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    surplus = [separator.join(row[width:]) if len(row) > width else None for row in rows]
    return surplus[1:] if has_header else surplus


def _unbalanced_line(content: bytes) -> int | None:
    """The first line with an odd number of quotes."""
    lines = enumerate(content.split(b"\n"), start=1)
    return next((number for number, line in lines if line.count(b'"') % 2), None)
