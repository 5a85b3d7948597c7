from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shortlist.data import ml_100k
from shortlist.data.dataset import Dataset
from shortlist.data.validate import count_reasons
from shortlist.errors import DataError


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return ml_100k.load()


def test_it_has_the_published_sizes(dataset: Dataset) -> None:
    log = dataset.log()
    assert (len(log), log.n_users, log.n_items) == (100_000, 943, 1682)


def test_its_attributes_are_read(dataset: Dataset) -> None:
    assert dataset.items.row(0) == ("1", "Toy Story", 1995.0, ["Animation", "Children's", "Comedy"])
    assert dataset.users.row(0) == ("1", 24.0, "M", "technician")


def test_its_two_odd_years_are_missing_and_counted(dataset: Dataset) -> None:
    assert count_reasons(dataset.rejected) == {"release_year is not a number; read as missing": 2}
    assert dataset.items["year"].null_count() == 2


def test_nobody_rates_a_film_twice(dataset: Dataset) -> None:
    assert dataset.log().repeat_rate() == 0


def test_ties_in_time_keep_the_order_of_the_file(dataset: Dataset) -> None:
    log = dataset.log()
    user = log.user_ids.index("196")
    lines = (ml_100k.cache_folder() / "ml-100k.inter").read_text().splitlines()[1:]
    rated = [line.split("\t") for line in lines if line.startswith("196\t")]
    expected = [item for _, item, _, _ in sorted(rated, key=lambda row: float(row[3]))]
    assert [log.item_ids[row] for row in log.history(user)] == expected
    assert len(np.unique(log.timestamps[log.offsets[user] : log.offsets[user + 1]])) < len(expected)


def test_a_changed_file_in_the_cache_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_cache(tmp_path)
    (folder / "ml-100k.inter").write_text("user_id:token\titem_id:token\n1\t2\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataError, match="could not be fetched"):
        ml_100k.fetch()


def test_a_good_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_cache(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert ml_100k.fetch() == folder


def test_without_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataError, match=r"pip download --no-deps recbole==1\.2\.1") as caught:
        ml_100k.fetch()
    assert str(tmp_path / "shortlist" / "ml-100k") in str(caught.value)


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    write_wheel(wheels / ml_100k.WHEEL)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    with pytest.raises(DataError, match="its SHA-256 is not"):
        ml_100k.fetch()
    assert not list((tmp_path / "cache" / "shortlist" / "ml-100k").iterdir())


def copy_cache(cache_home: Path) -> Path:
    """The real files in a cache folder of their own."""
    source, folder = ml_100k.fetch(), cache_home / "shortlist" / "ml-100k"
    folder.mkdir(parents=True)
    for name in ml_100k.MEMBERS:
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


def write_wheel(path: Path) -> None:
    """A valid wheel with the right name and other content."""
    import zipfile

    info = "recbole-1.2.1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
