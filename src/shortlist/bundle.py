"""The versioned artifact of one training run: arrays, ONNX graphs, JSON documents and files under one manifest.

A bundle knows names and checksums, not meanings: `catalog`, `profiles` and `stages` say what each part is for.
Everything in it is data (NumPy arrays without objects, ONNX, FAISS, JSON); nothing executes on load.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import BundleError
from shortlist.stamp import verify_once

FORMAT_VERSION = 2  # 1 had the filter's and the diversifier's columns in the item table
MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def write_bundle(
    path: Path,
    *,
    arrays: Mapping[str, NDArray[Any]],
    graphs: Mapping[str, bytes],
    documents: Mapping[str, Any],
    files: Mapping[str, Path] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a bundle folder in one step: it appears complete at `path` or not at all; an older one is replaced.

    Raises BundleError for an unusable name or an array of objects, OSError when the disk refuses.
    """
    with bundle_folder(path, metadata) as folder:
        for name, array in arrays.items():
            if array.dtype.hasobject:
                raise BundleError(f"array {name!r} has dtype {array.dtype}; only plain numbers and bytes are allowed")
            np.save(folder / f"{_checked(name)}.npy", array, allow_pickle=False)
        for name, graph in graphs.items():
            (folder / f"{_checked(name)}.onnx").write_bytes(graph)
        for name, document in documents.items():
            (folder / f"{_checked(name)}.json").write_text(json.dumps(document), encoding="utf-8")
        for name, source in (files or {}).items():
            shutil.copyfile(source, folder / _checked(name))
    return path


@contextmanager
def bundle_folder(path: Path, metadata: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """An empty folder to write a bundle's files into, for arrays that memory does not hold.

    It becomes the bundle at `path` when the block ends, and vanishes when the block fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield staging
        _write_manifest(staging, dict(metadata or {}))
        staging.chmod(0o755)
        _replace(staging, path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


class Bundle:
    """A verified bundle, opened read-only. Arrays are memory-mapped and shared between processes."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.metadata: dict[str, Any] = manifest["metadata"]
        self.version: str = manifest["digest"][:12]
        self.files: dict[str, dict[str, Any]] = manifest["files"]

    @classmethod
    def open(cls, path: Path, verify: bool = True) -> Bundle:
        """Open the bundle at `path`; `verify` compares every file with its checksum, once for all who open it.

        What was compared is noted beside the files (`shortlist.stamp`), and not read again until one of them is
        written to, replaced or moved. Raises BundleError when a file is missing, truncated or changed, or the format
        is newer than this code.
        """
        manifest = _read_manifest(path)
        for name, entry in manifest["files"].items():
            _check_size(path / _checked(name), entry)
        if verify:
            verify_once(path, manifest["digest"], [*manifest["files"]], lambda: _check_sums(path, manifest["files"]))
        return cls(path, manifest)

    def array(self, name: str) -> NDArray[Any]:
        """The array called `name`, memory-mapped read-only."""
        # np.asarray drops the memmap subclass (still the same mapping), which Numba dispatches faster on.
        return np.asarray(np.load(self.file(f"{name}.npy"), mmap_mode="r", allow_pickle=False))

    def graph(self, name: str) -> Path:
        """Path of the ONNX graph called `name`."""
        return self.file(f"{name}.onnx")

    def document(self, name: str) -> Any:
        """The parsed JSON document called `name`."""
        return json.loads(self.file(f"{name}.json").read_text(encoding="utf-8"))

    def has(self, file_name: str) -> bool:
        """Whether the manifest lists `file_name`."""
        return file_name in self.files

    def file(self, file_name: str) -> Path:
        """Path of a listed file. Raises BundleError when the manifest does not list it."""
        if file_name not in self.files:
            raise BundleError(f"{self.path}: has no {file_name}; it has {', '.join(sorted(self.files))}")
        return self.path / file_name


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_manifest(folder: Path, metadata: dict[str, Any]) -> None:
    entries = sorted(p for p in folder.iterdir() if p.is_file())
    files = {p.name: {"sha256": sha256(p), "bytes": p.stat().st_size} for p in entries}
    manifest = {"format_version": FORMAT_VERSION, "files": files, "metadata": metadata}
    manifest["digest"] = _digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{path}: is not a bundle (no {MANIFEST}); make one with `shortlist train`") from None
    except OSError as error:
        raise BundleError(f"{path / MANIFEST}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path / MANIFEST}: is damaged ({error}); restore the bundle or train again") from None
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int):
        raise BundleError(f"{path / MANIFEST}: names no format_version; restore the bundle or train again")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{path}: bundle format {version} is newer than {FORMAT_VERSION}, the newest this version reads; "
            "upgrade shortlist"
        )
    if version < FORMAT_VERSION:
        raise BundleError(f"{path}: bundle format {version} is older than {FORMAT_VERSION}; train again")
    if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("metadata"), dict):
        raise BundleError(f"{path / MANIFEST}: names no files or metadata; restore the bundle or train again")
    if manifest.get("digest") != _digest(manifest):
        raise BundleError(f"{path / MANIFEST}: does not match its own checksum; restore the bundle or train again")
    return manifest


def _digest(manifest: dict[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_size(path: Path, entry: dict[str, Any]) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise BundleError(f"{path}: is missing; restore the bundle or train again") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); restore the bundle") from None
    if size != entry["bytes"]:
        raise BundleError(f"{path}: has {size} bytes, its manifest says {entry['bytes']}; restore the bundle")


def _check_sums(path: Path, files: Mapping[str, dict[str, Any]]) -> None:
    for name, entry in files.items():
        if sha256(path / name) != entry["sha256"]:
            raise BundleError(f"{path / name}: does not match its checksum (sha256); restore the bundle or train again")


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BundleError(f"{name!r} is not a usable file name: letters, digits, '_', '-' and '.' are allowed")
    return name


def _replace(staging: Path, path: Path) -> None:
    if not path.exists():
        staging.rename(path)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
    path.rename(retired / path.name)
    staging.rename(path)
    shutil.rmtree(retired)
