"""A deployment's own predicate: part of each version, and of every answer that is served from it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shortlist.errors import ConfigError, RequestError
from shortlist.serving.client import Client
from shortlist.serving.process import free_address
from shortlist.serving.releases import republish
from shortlist.serving.repository import build_repository
from shortlist.serving.standing import STANDING, parse_standing, read_standing
from shortlist.serving.supervisor import Supervisor
from tests.eligible import attributes_of, is_eligible, make_items
from tests.factories import make_bundle

ITEMS = 300
TABLE = make_items(ITEMS)
GERMAN, STOCK = {"locale": "de"}, {"in_stock": True}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("standing") / "bundle", ITEMS, attributes=attributes_of(TABLE))


def test_a_version_keeps_its_predicate_and_the_next_inherits_it(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    first = build_repository(bundle, out, eligible=STOCK)
    other = make_bundle(tmp_path / "other", ITEMS, seed=1, attributes=attributes_of(TABLE))
    second = build_repository(other, out)
    assert [v.name for v in (first, second)] == ["1", "2"]
    assert read_standing(first) == read_standing(second) == STOCK


def test_the_same_bundle_with_another_predicate_is_another_version(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    versions = [build_repository(bundle, out, eligible=e).name for e in ({}, GERMAN, GERMAN, None, {})]
    assert versions == ["1", "2", "2", "2", "3"]
    assert not (out / "cascade" / "3" / STANDING).exists()


def test_a_rollback_brings_the_predicate_back(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    build_repository(bundle, out, eligible=GERMAN)
    build_repository(bundle, out, eligible={})
    republish(out, 1, 3)
    assert read_standing(out / "cascade" / "3") == GERMAN


def test_a_predicate_that_the_bundle_cannot_evaluate_is_refused_before_anything_is_written(
    bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"--eligible\.colour = 'red' .* in_stock, locale"):
        build_repository(bundle, tmp_path / "repository", eligible={"colour": "red"})
    assert not (tmp_path / "repository").exists()


def test_an_inherited_predicate_that_a_new_bundle_cannot_evaluate_is_refused(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    build_repository(bundle, out, eligible=STOCK)
    with pytest.raises(ConfigError, match=r"cascade\.eligibility names no attribute"):
        build_repository(make_bundle(tmp_path / "plain"), out)


@pytest.mark.parametrize("text", ["{in_stock: true}", "[1]", "null", "[" * 100_000])
def test_an_option_that_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--eligible = "):
        parse_standing(text)


def test_a_damaged_predicate_is_an_error_not_no_predicate(bundle: Path, tmp_path: Path) -> None:
    version = build_repository(bundle, tmp_path / "repository", eligible=STOCK)
    (version / STANDING).write_text("{")
    with pytest.raises(ConfigError, match="export again"):
        read_standing(version)


@pytest.fixture(scope="module")
def served(bundle: Path) -> Iterator[Supervisor]:
    out = bundle.parent / "repository"
    build_repository(bundle, out, eligible=STOCK)
    with Supervisor(out, free_address(), instances=1) as supervisor:
        yield supervisor


def _items(ids: list[str]) -> list[dict]:
    return [dict(TABLE[int(i.removeprefix("item-"))]) for i in ids]


@pytest.mark.parametrize("user", ["user-0", "nobody"])
@pytest.mark.parametrize("own", [{}, GERMAN, {"locale": ["fr", "is"], "age_rating": {"max": 12, "missing": True}}])
def test_every_served_answer_satisfies_both_predicates(served: Supervisor, user: str, own: dict) -> None:
    with Client(served.address.grpc) as client:
        answer = client.recommend(user, k=50, eligible=own)
    assert len(answer) > 0
    assert all(is_eligible(item, STOCK) and is_eligible(item, own) for item in _items(answer.ids))


def test_an_unknown_attribute_is_named_to_the_caller(served: Supervisor) -> None:
    unknown = pytest.raises(RequestError, match=r"eligible\.colour = 'red' .* locale")
    with Client(served.address.grpc) as client, unknown:
        client.recommend("user-0", eligible={"colour": "red"})


STAGE = """
import json, sys, types
utils = types.ModuleType("triton_python_backend_utils")
utils.Tensor = lambda name, values: values
utils.deserialize_bytes_tensor = utils.serialize_byte_tensor = None
sys.modules[utils.__name__] = utils
from shortlist.serving.stage_models import RetrieveModel
from shortlist.types import Request

model = RetrieveModel()
model.initialize({"model_repository": sys.argv[1], "model_version": "1"})
rows, scores, channels = model.answer([Request(user_id=b"user-0", eligible={"locale": "de"})])[0]
print(json.dumps(rows[0].tolist()))
"""


def test_the_stage_models_satisfy_both_too(bundle: Path, tmp_path: Path) -> None:
    build_repository(bundle, tmp_path / "repository", stages=True, eligible=STOCK)
    command = [sys.executable, "-c", STAGE, str(tmp_path / "repository" / "retrieve")]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(rows) > 50
    assert all(is_eligible(TABLE[row], STOCK) and is_eligible(TABLE[row], GERMAN) for row in rows)
