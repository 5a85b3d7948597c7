"""Checksums are compared once, and again after anything that may have changed a file."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from shortlist import bundle as bundles
from shortlist.bundle import Bundle, write_bundle
from shortlist.errors import BundleError
from shortlist.stamp import NOTE, settle


@pytest.fixture
def verified(tmp_path: Path) -> Path:
    path = write_bundle(tmp_path / "b", arrays={"numbers": np.arange(9)}, graphs={}, documents={"a": 1, "b": 2})
    settle(path, ["numbers.npy", "a.json", "b.json"])
    Bundle.open(path)
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose bytes were read."""
    names: list[str] = []
    sha256 = bundles.sha256
    monkeypatch.setattr(bundles, "sha256", lambda path: [names.append(path.name), sha256(path)][1])
    return names


def test_what_was_verified_is_not_read_again(verified: Path, hashed: list[str]) -> None:
    Bundle.open(verified)
    assert hashed == []


def test_a_byte_that_changes_afterwards_is_refused(verified: Path) -> None:
    content = bytearray((verified / "a.json").read_bytes())
    content[0] ^= 1
    (verified / "a.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"a\.json: does not match its checksum"):
        Bundle.open(verified)


def test_a_change_whose_time_is_set_back_is_refused(verified: Path) -> None:
    status = (verified / "numbers.npy").stat()
    with (verified / "numbers.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    os.utime(verified / "numbers.npy", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (verified / "numbers.npy").stat().st_mtime_ns == status.st_mtime_ns
    with pytest.raises(BundleError, match="does not match its checksum"):
        Bundle.open(verified)


def test_a_change_through_a_mapping_is_refused(verified: Path) -> None:
    mapped = np.load(verified / "numbers.npy", mmap_mode="r+")
    mapped[3] = 77
    mapped.flush()
    with pytest.raises(BundleError, match="does not match its checksum"):
        Bundle.open(verified)


def test_a_copy_is_verified_anew(verified: Path, hashed: list[str]) -> None:
    shutil.copytree(verified, verified.parent / "copy")
    Bundle.open(verified.parent / "copy")
    assert sorted(hashed) == ["a.json", "b.json", "numbers.npy"]


def test_a_bundle_that_is_being_written_is_read_each_time(tmp_path: Path, hashed: list[str]) -> None:
    """A write in the same tick of the clock would not show in a note."""
    path = write_bundle(tmp_path / "b", arrays={}, graphs={}, documents={"a": 1})
    os.utime(path / "a.json", (time.time(), time.time()))
    Bundle.open(path)
    assert not (path / NOTE).exists()


def test_another_manifest_is_verified_anew(verified: Path, hashed: list[str]) -> None:
    note = (verified / NOTE).read_text()
    (verified / NOTE).write_text(note.replace(Bundle.open(verified).version, "0" * 12))
    Bundle.open(verified)
    assert len(hashed) == 3


@pytest.mark.parametrize("note", ["", "[]", "\xff"])
def test_a_damaged_note_only_costs_a_reading(verified: Path, hashed: list[str], note: str) -> None:
    (verified / NOTE).write_bytes(note.encode("latin-1"))
    Bundle.open(verified)
    assert len(hashed) == 3
