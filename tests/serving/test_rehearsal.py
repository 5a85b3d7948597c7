"""A bundle is tried out in a process of its own: whatever becomes of that, there is a reason."""

import json
import os
from pathlib import Path

import pytest

from shortlist.bundle import Bundle, write_bundle
from shortlist.cascade import Cascade
from shortlist.errors import BundleError
from shortlist.golden import DOCUMENT, golden_document
from shortlist.serving import rehearsal
from shortlist.serving.rehearsal import rehearse
from tests.factories import make_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", items=60, users=5)


def with_golden(bundle: Path, first: list[str] | None = None) -> Path:
    """The bundle with golden requests; `first` in place of the items that the first of them is answered with."""
    opened = Bundle.open(bundle)
    document = golden_document(Cascade.load(bundle))
    if first:
        document["cases"][0]["answer"]["items"] = first
    stems = {name: Path(name).stem for name in opened.files}
    return write_bundle(
        bundle.parent / "golden",
        arrays={stem: opened.array(stem).copy() for name, stem in stems.items() if name.endswith(".npy")},
        graphs={stem: opened.graph(stem).read_bytes() for name, stem in stems.items() if name.endswith(".onnx")},
        documents={s: opened.document(s) for name, s in stems.items() if name.endswith(".json")} | {DOCUMENT: document},
        files={"index.faiss": opened.file("index.faiss")},
        metadata=opened.metadata,
    )


def test_a_bundle_that_answers_as_after_training_passes(bundle: Path) -> None:
    assert "all 50 golden requests are answered as after training" in rehearse(with_golden(bundle))


def test_a_bundle_that_answers_otherwise_is_refused_with_the_request(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"golden request 1 of 50 \(\{'user_id': 'user-.*instead of \['item-1'\]"):
        rehearse(with_golden(bundle, first=["item-1"]))


def test_a_damaged_bundle_is_refused_with_the_file(bundle: Path) -> None:
    (bundle / "table.npy").write_bytes((bundle / "table.npy").read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"table\.npy: has \d+ bytes, its manifest says"):
        rehearse(bundle)


def instead(program: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a shell script where Python would run."""
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(rehearsal.sys, "executable", str(program))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("kill -9 $$", "ended with signal 9: no word"),
        ("echo out of memory >&2; exit 3", "ended with exit code 3: out of memory"),
        ("sleep 60", "does not answer its golden requests within 0.5 s"),
    ],
    ids=["killed", "failed", "hung"],
)
def test_a_process_that_does_not_come_through_is_told(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    instead(tmp_path / "program", script, monkeypatch)
    monkeypatch.setattr(rehearsal, "PATIENCE", 0.5 if "sleep" in script else 60.0)
    with pytest.raises(BundleError, match=reason):
        rehearse(bundle)


def test_it_runs_at_low_priority(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nicenesses: list[int] = []
    monkeypatch.setattr(os, "nice", nicenesses.append)
    (bundle / "manifest.json").write_text(json.dumps({}))
    assert rehearsal.main(bundle) == 1
    assert nicenesses == [19]
