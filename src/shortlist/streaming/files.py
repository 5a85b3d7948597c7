"""Folders and small files where the job's tables lie: a path, or a URI that pyarrow knows (s3, gs, hdfs, file)."""

from __future__ import annotations

import json
from typing import Any

from pyarrow import fs

_COMPLETE = "_SUCCESS"  # Spark's mark of a folder that was written to its end


def names(folder: str) -> list[str]:
    """What a folder holds; nothing where it is not there."""
    files, path = _files(folder)
    return [entry.base_name for entry in files.get_file_info(fs.FileSelector(path, allow_not_found=True))]


def exists(path: str) -> bool:
    """Whether there is such a file or folder."""
    files, inner = _files(path)
    return bool(files.get_file_info(inner).type != fs.FileType.NotFound)


def is_complete(folder: str) -> bool:
    """Whether Spark wrote a folder to its end."""
    return exists(f"{folder}/{_COMPLETE}")


def remove(path: str) -> None:
    """Delete a file or folder, if it is there."""
    files, inner = _files(path)
    kind = files.get_file_info(inner).type
    if kind == fs.FileType.Directory:
        files.delete_dir(inner)
    elif kind == fs.FileType.File:
        files.delete_file(inner)


def read_json(path: str) -> Any:
    """The content of a JSON file."""
    files, inner = _files(path)
    with files.open_input_stream(inner) as stream:
        return json.loads(stream.read())


def write_json(path: str, content: Any) -> None:
    """Write a JSON file, and the folder that it lies in."""
    files, inner = _files(path)
    files.create_dir(inner.rpartition("/")[0])
    with files.open_output_stream(inner) as stream:
        stream.write(json.dumps(content).encode())


def _files(path: str) -> tuple[fs.FileSystem, str]:
    if "://" in path:
        found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(path)
        return found
    return fs.LocalFileSystem(), path
