"""A bundle is complete and unchanged, or it is refused with a reason."""

import json
from pathlib import Path

import numpy as np
import pytest

from shortlist.bundle import Bundle, write_bundle
from shortlist.errors import BundleError


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(
        tmp_path / "bundle",
        arrays={"numbers": np.arange(100, dtype=np.float32)},
        graphs={"user": b"not really onnx"},
        documents={"layout": {"retrieval": [0, 4]}},
        metadata={"name": "test"},
    )


def test_round_trip(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.array("numbers").tolist() == list(range(100))
    assert opened.document("layout") == {"retrieval": [0, 4]}
    assert opened.graph("user").read_bytes() == b"not really onnx"
    assert opened.metadata["name"] == "test"


@pytest.mark.parametrize("name", ["numbers.npy", "user.onnx", "layout.json", "manifest.json"])
def test_a_changed_byte_is_refused(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    for position in range(0, len(content), max(1, len(content) // 25)):
        changed = bytearray(content)
        changed[position] ^= 1
        (bundle / name).write_bytes(changed)
        with pytest.raises(BundleError):
            Bundle.open(bundle)


def test_a_truncated_file_is_refused_even_unverified(bundle: Path) -> None:
    (bundle / "numbers.npy").write_bytes((bundle / "numbers.npy").read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"numbers\.npy: has 527 bytes, its manifest says 528"):
        Bundle.open(bundle, verify=False)


def test_a_missing_file_is_refused(bundle: Path) -> None:
    (bundle / "user.onnx").unlink()
    with pytest.raises(BundleError, match=r"user\.onnx: is missing"):
        Bundle.open(bundle)


@pytest.mark.parametrize(("version", "problem"), [(3, "format 3 is newer than 2"), (1, "older than 2; train again")])
def test_another_format_is_refused(bundle: Path, version: int, problem: str) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["format_version"] = version
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=problem):
        Bundle.open(bundle)


def test_a_manifest_cannot_point_outside(bundle: Path) -> None:
    from shortlist.bundle import _digest

    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["../secret"] = {"sha256": "", "bytes": 0}
    manifest["digest"] = _digest(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="not a usable file name"):
        Bundle.open(bundle)


def test_arrays_of_objects_are_refused_and_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="plain numbers"):
        write_bundle(tmp_path / "b", arrays={"bad": np.array([{}], object)}, graphs={}, documents={})
    assert list(tmp_path.iterdir()) == []


def test_no_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(tmp_path / "nowhere")


def test_writing_again_replaces(bundle: Path) -> None:
    before = Bundle.open(bundle).version
    write_bundle(bundle, arrays={}, graphs={}, documents={}, metadata={"name": "second"})
    assert Bundle.open(bundle).metadata["name"] == "second"
    assert Bundle.open(bundle).version != before
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_a_manifest_without_its_parts_is_refused(bundle: Path) -> None:
    from shortlist.bundle import _digest

    for part in ("files", "metadata"):
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest[part] = []
        manifest["digest"] = _digest(manifest)
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(BundleError, match="names no files or metadata"):
            Bundle.open(bundle)


def test_a_file_in_the_place_of_a_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(tmp_path / "file")


def test_a_link_to_itself_is_a_clear_error(bundle: Path) -> None:
    (bundle / "numbers.npy").unlink()
    (bundle / "numbers.npy").symlink_to("numbers.npy")
    with pytest.raises(BundleError, match=r"numbers\.npy: cannot be read"):
        Bundle.open(bundle)
