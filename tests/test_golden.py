"""A bundle answers what it answered after training, or it is refused with the request that tells."""

import json
from pathlib import Path
from typing import Any

import pytest

from shortlist.bundle import Bundle, write_bundle
from shortlist.cascade import Cascade
from shortlist.errors import BundleError
from shortlist.golden import DOCUMENT, TOLERANCE, check_golden, golden_document, golden_requests
from shortlist.types import MAX_K
from tests.factories import make_bundle

Document = dict[str, Any]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("golden") / "bundle", exploration=0.5)


@pytest.fixture(scope="module")
def cascade(bundle: Path) -> Cascade:
    return Cascade.load(bundle)


@pytest.fixture
def document(cascade: Cascade) -> Document:
    return golden_document(cascade)


def holding(folder: Path, document: Document) -> Bundle:
    """A bundle that holds nothing else."""
    return Bundle.open(write_bundle(folder / "held", arrays={}, graphs={}, documents={DOCUMENT: document}))


def test_requests_are_of_every_kind(cascade: Cascade) -> None:
    requests = golden_requests(cascade)
    kinds = {
        "known": any(r.user_id in (b"user-0", b"user-1", b"user-2", b"user-3") for r in requests),
        "given": any(r.history for r in requests),
        "anonymous": any(r.user_id == b"" and not r.history for r in requests),
        "exclude": any(r.exclude for r in requests),
        "context": any("device" in r.context for r in requests),
        "lengths": {r.k for r in requests} >= {1, None, MAX_K},
    }
    assert all(kinds.values()), kinds


def test_the_same_bundle_answers_the_same(cascade: Cascade, document: Document, tmp_path: Path) -> None:
    assert check_golden(holding(tmp_path, document), cascade) == len(document["cases"]) == 50


def test_another_load_of_it_does_too_whatever_it_explores(bundle: Path, document: Document, tmp_path: Path) -> None:
    assert check_golden(holding(tmp_path, document), Cascade.load(bundle, seed=7)) == 50


def test_a_cascade_explores_again_after_the_check(cascade: Cascade, document: Document, tmp_path: Path) -> None:
    check_golden(holding(tmp_path, document), cascade)
    assert cascade.config.exploration == 0.5


def test_another_item_is_refused(cascade: Cascade, document: Document, tmp_path: Path) -> None:
    items = document["cases"][3]["answer"]["items"]
    items[0], items[1] = items[1], items[0]
    with pytest.raises(BundleError, match=r"golden request 4 of 50 .*items \['item-"):
        check_golden(holding(tmp_path, document), cascade)


def test_scores_may_differ_by_the_tolerance(cascade: Cascade, document: Document, tmp_path: Path) -> None:
    document["cases"][0]["answer"]["scores"][2] *= 1 + TOLERANCE / 2
    assert check_golden(holding(tmp_path, document), cascade) == 50


def test_scores_may_not_differ_by_more(cascade: Cascade, document: Document, tmp_path: Path) -> None:
    document["cases"][0]["answer"]["scores"][2] *= 1 + 2 * TOLERANCE
    with pytest.raises(BundleError, match=r"golden request 1 of 50 .*scores .* instead of"):
        check_golden(holding(tmp_path, document), cascade)


def test_a_request_that_the_bundle_refuses_is_told(cascade: Cascade, document: Document, tmp_path: Path) -> None:
    document["cases"][0]["context"] = {"mood": "blue"}
    with pytest.raises(BundleError, match=r"not answered in full: context\.mood"):
        check_golden(holding(tmp_path, document), cascade)


def test_a_bundle_from_before_golden_requests_only_has_to_answer(bundle: Path, cascade: Cascade) -> None:
    assert check_golden(Bundle.open(bundle), cascade) == 0


def test_training_writes_them(planted_run: Path) -> None:
    bundle = Bundle.open(planted_run / "bundle")
    assert check_golden(bundle, Cascade.load(bundle.path)) == len(bundle.document(DOCUMENT)["cases"]) == 50


def test_they_are_json(document: Document) -> None:
    assert json.loads(json.dumps(document)) == document
