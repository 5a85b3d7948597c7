"""Deploying, rolling back and listing, over a repository that a stand-in serves; `test_hot_swap` has the real one."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shortlist.bundle import Bundle
from shortlist.cli.main import app
from shortlist.errors import BundleError, ConfigError, ServerError
from shortlist.serving import deploy as module
from shortlist.serving.deploy import check_compatible, deploy, roll_back
from shortlist.serving.process import free_address
from shortlist.serving.releases import prune, releases
from shortlist.serving.repository import build_repository
from shortlist.serving.supervisor import Supervisor
from tests.factories import make_bundle
from tests.serving.stand_in import WATCH, answering


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles."""
    folder = tmp_path_factory.mktemp("bundles")
    return [make_bundle(folder / name, items=60, users=5, seed=seed) for seed, name in enumerate(("first", "second"))]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rehearsals take seconds; those here have their own tests."""
    monkeypatch.setattr(module, "rehearse", lambda _: "tried out")


@pytest.fixture
def repository(bundles: list[Path], tmp_path: Path, quick: None) -> Path:
    build_repository(bundles[0], tmp_path / "repository", instances=1)
    return tmp_path / "repository"


@pytest.fixture
def served(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """A server over it, whose versions answer themselves instead of loading their bundles."""
    monkeypatch.setattr("shortlist.serving.repository.model_source", lambda _: answering("it").encode())
    (repository / "cascade" / "1" / "model.py").write_text(answering("it"))
    with Supervisor(repository, free_address(), watch=WATCH) as supervisor:
        yield supervisor


def states(repository: Path) -> dict[int, str]:
    return {release.number: release.state for release in releases(repository)}


def silent(_: str) -> None:
    """Nobody listens."""


def test_a_deployed_bundle_is_the_next_version_and_served(
    served: Supervisor, repository: Path, bundles: list[Path]
) -> None:
    said: list[str] = []
    assert deploy(bundles[1], repository, said.append) == 2
    assert states(repository) == {2: "serving", 1: "standby"}
    assert said[-1] == f"{served.address.grpc} serves version 2"


def test_the_same_bundle_is_not_added_twice(served: Supervisor, repository: Path, bundles: list[Path]) -> None:
    assert deploy(bundles[0], repository, silent) == 1
    assert states(repository) == {1: "serving"}


def test_a_version_that_the_server_refuses_is_an_error_and_the_old_one_goes_on(
    served: Supervisor, repository: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist.serving.repository.model_source", lambda _: b"raise RuntimeError('on purpose')")
    with pytest.raises(ServerError, match=r"refused version 2, version 1 goes on: .*on purpose"):
        deploy(bundles[1], repository, silent)
    assert states(repository) == {2: "refused", 1: "serving"}


def test_a_refused_bundle_may_be_deployed_again(
    served: Supervisor, repository: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("shortlist.serving.repository.model_source", lambda _: b"raise RuntimeError('on purpose')")
        with pytest.raises(ServerError):
            deploy(bundles[1], repository, silent)
    assert deploy(bundles[1], repository, silent) == 2
    assert states(repository) == {2: "serving", 1: "standby"}


def test_rolling_back_publishes_the_earlier_bundle_again(
    served: Supervisor, repository: Path, bundles: list[Path]
) -> None:
    deploy(bundles[1], repository, silent)
    assert roll_back(repository, None, silent) == 3
    assert states(repository) == {3: "serving", 2: "standby", 1: "standby"}
    assert releases(repository)[0].bundle == Bundle.open(bundles[0]).version


def test_rolling_back_twice_returns(repository: Path, bundles: list[Path]) -> None:
    deploy(bundles[1], repository, silent)
    roll_back(repository, None, silent)
    roll_back(repository, None, silent)
    assert releases(repository)[0].bundle == Bundle.open(bundles[1]).version


def test_rolling_back_takes_no_space(repository: Path, bundles: list[Path]) -> None:
    deploy(bundles[1], repository, silent)
    roll_back(repository, 1, silent)
    table = Path("bundle", "table.npy")
    assert (repository / "cascade" / "3" / table).samefile(repository / "cascade" / "1" / table)


def test_there_may_be_nothing_to_roll_back_to(repository: Path) -> None:
    with pytest.raises(ConfigError, match="no version before 1 holds another bundle"):
        roll_back(repository, None, silent)


def test_an_unknown_version_is_refused_with_those_there_are(repository: Path) -> None:
    with pytest.raises(ConfigError, match=r"VERSION = 7: .* holds 1; see `shortlist versions"):
        roll_back(repository, 7, silent)


def test_a_damaged_version_is_not_rolled_back_to(repository: Path, bundles: list[Path]) -> None:
    deploy(bundles[1], repository, silent)
    damaged = repository / "cascade" / "1" / "bundle" / "layout.json"
    content = damaged.read_bytes()
    damaged.unlink()  # the bundle that was exported links to it
    damaged.write_bytes(content[:-1] + b" ")
    with pytest.raises(BundleError, match=r"layout\.json: does not match its checksum"):
        roll_back(repository, None, silent)
    assert states(repository).keys() == {1, 2}


def test_all_models_of_a_version_are_published_and_removed_together(
    bundles: list[Path], tmp_path: Path, quick: None
) -> None:
    repository = tmp_path / "repository"
    build_repository(bundles[0], repository, stages=True)
    deploy(bundles[1], repository, silent)
    roll_back(repository, None, silent)
    prune(repository, 2)
    kept = {model.name: {v.name for v in model.iterdir() if v.is_dir()} for model in repository.iterdir()}
    assert kept == {name: {"2", "3"} for name in ("cascade", "retrieve", "filter", "rank", "diversify", "stages")}


def test_pruning_spares_what_is_served(
    served: Supervisor, repository: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist.serving.repository.model_source", lambda _: b"raise RuntimeError('on purpose')")
    with pytest.raises(ServerError):
        deploy(bundles[1], repository, silent)
    assert prune(repository, 1) == []
    assert states(repository) == {2: "refused", 1: "serving"}


def test_without_a_server_the_version_waits_for_the_next(repository: Path, bundles: list[Path]) -> None:
    said: list[str] = []
    deploy(bundles[1], repository, said.append)
    assert said[-1] == f"no server runs over {repository}; the next one will serve version 2"


def test_a_bundle_that_fails_its_rehearsal_is_not_published(
    repository: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> str:
        raise BundleError("golden request 3 of 50 is not answered as after training")

    monkeypatch.setattr(module, "rehearse", fail)
    with pytest.raises(BundleError, match="golden request 3"):
        deploy(bundles[1], repository, silent)
    assert states(repository).keys() == {1}


def test_a_context_field_that_callers_send_must_stay(bundles: list[Path], tmp_path: Path) -> None:
    poorer = shutil.copytree(bundles[1], tmp_path / "poorer")
    document = json.loads((poorer / "features.json").read_text())
    document["context"] = [column for column in document["context"] if column["name"] != "device"]
    (poorer / "features.json").write_text(json.dumps(document))
    opened = Bundle(poorer, json.loads((poorer / "manifest.json").read_text()))
    with pytest.raises(ConfigError, match=r"context\.device is not known, and of kind category in the bundle that is"):
        check_compatible(opened, Bundle.open(bundles[0]))


def test_a_full_disk_leaves_the_repository_as_it_was(
    repository: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    deploy(bundles[1], repository, silent)
    before = sorted(repository.rglob("*"))
    monkeypatch.setattr("shortlist.serving.releases.shutil.copyfile", full)
    with pytest.raises(ConfigError, match=r"cannot write version 3 .*No space left on device.*free space"):
        roll_back(repository, None, silent)
    assert sorted(repository.rglob("*")) == before


def test_a_repository_that_is_none_is_refused(bundles: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="shortlist export"):
        deploy(bundles[0], tmp_path, silent)


def test_the_command_line_deploys_rolls_back_lists_and_prunes(repository: Path, bundles: list[Path]) -> None:
    def shortlist(*arguments: object) -> str:
        done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    shortlist("deploy", bundles[1], repository)
    shortlist("rollback", repository)
    assert "removed version 1" in shortlist("deploy", bundles[1], repository, "--keep", 3)
    listed = json.loads(shortlist("versions", repository, "--json"))
    assert [(v["number"], v["state"]) for v in listed] == [(4, "standby"), (3, "standby"), (2, "standby")]
    assert Bundle.open(bundles[1]).version in shortlist("versions", repository)
