"""Building a deployable repository from a bundle."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from shortlist.bundle import Bundle
from shortlist.errors import BundleError, ConfigError
from shortlist.serving import repository
from shortlist.serving.repository import build_repository, find_bundle
from tests.factories import make_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "run" / "bundle", items=30, users=3)


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_it_holds_everything_that_serving_needs(bundle: Path, tmp_path: Path) -> None:
    version = build_repository(bundle, tmp_path / "out")
    shutil.rmtree(bundle)
    assert names(tmp_path / "out" / "cascade") == {"config.pbtxt", "1"}
    assert names(version) == {"model.py", "__pycache__", "bundle"}
    Bundle.open(version / "bundle")


def test_another_bundle_becomes_the_next_version(bundle: Path, tmp_path: Path) -> None:
    build_repository(bundle, tmp_path / "out")
    other = make_bundle(tmp_path / "other", items=30, users=3, seed=1)
    version = build_repository(other, tmp_path / "out")
    assert version.name == "2"
    assert Bundle.open(version / "bundle").version == Bundle.open(other).version
    assert names(tmp_path / "out" / "cascade") == {"config.pbtxt", "1", "2"}


def test_the_same_bundle_is_not_added_twice(bundle: Path, tmp_path: Path) -> None:
    assert build_repository(bundle, tmp_path / "out") == build_repository(bundle, tmp_path / "out")
    assert names(tmp_path / "out" / "cascade") == {"config.pbtxt", "1"}


def test_a_damaged_version_is_superseded(bundle: Path, tmp_path: Path) -> None:
    version = build_repository(bundle, tmp_path / "out")
    (version / "bundle" / "layout.json").unlink()
    assert build_repository(bundle, tmp_path / "out").name == "2"


def test_a_retrained_bundle_leaves_the_served_one_alone(bundle: Path, tmp_path: Path) -> None:
    version = build_repository(bundle, tmp_path / "out")
    before = Bundle.open(version / "bundle").version
    make_bundle(bundle, items=30, users=3, seed=5)
    assert Bundle.open(version / "bundle").version == before


def test_it_works_where_hard_links_do_not(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refused)
    Bundle.open(build_repository(bundle, tmp_path / "out") / "bundle")


def test_stage_models_can_be_added_later(bundle: Path, tmp_path: Path) -> None:
    build_repository(bundle, tmp_path / "out")
    build_repository(bundle, tmp_path / "out", stages=True)
    assert names(tmp_path / "out") == {"cascade", "retrieve", "filter", "rank", "diversify", "stages"}
    assert names(tmp_path / "out" / "stages") == {"config.pbtxt", "1"}


def test_an_unknown_target_is_refused_clearly(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"target = 'tpu': cpu or gpu is allowed"):
        build_repository(bundle, tmp_path / "out", "tpu")


def test_a_changed_byte_in_the_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    table = bundle / "table.npy"
    content = bytearray(table.read_bytes())
    content[-1] ^= 1
    table.write_bytes(content)
    with pytest.raises(BundleError, match=r"table\.npy: does not match its checksum"):
        build_repository(bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_in_it_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "holiday.jpg").touch()
    with pytest.raises(ConfigError, match=r"holds holiday\.jpg"):
        build_repository(bundle, tmp_path / "out")


def test_a_file_in_place_of_the_folder_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ConfigError, match="it is a file"):
        build_repository(bundle, tmp_path / "out")


def test_a_full_disk_leaves_the_repository_as_it_was(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_repository(bundle, tmp_path / "out")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(repository, "_copy_bundle", full)
    other = make_bundle(tmp_path / "other", items=30, users=3, seed=1)
    with pytest.raises(ConfigError, match="No space left on device"):
        build_repository(other, tmp_path / "out")
    assert names(tmp_path / "out") == {"cascade"}
    assert names(tmp_path / "out" / "cascade") == {"config.pbtxt", "1"}


def test_a_run_and_its_bundle_both_name_the_bundle(bundle: Path) -> None:
    assert find_bundle(bundle.parent) == find_bundle(bundle) == bundle
