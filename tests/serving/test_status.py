"""What servers say of themselves is believed as long as they live, and holds for the folders that they saw."""

import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from shortlist.serving.status import FOLDER, Status, StatusFile, bundle_now, statuses
from shortlist.serving.versions import Refusal, identity
from tests.serving.stand_in import answering, write_version

ADDRESS = "127.0.0.1:8001"


def said(repository: Path, **changes: object) -> list[Status]:
    StatusFile(repository, ADDRESS).write(Status(**{**asdict(Status(ADDRESS, serving="1")), **changes}))
    return statuses(repository)


def test_a_living_server_is_believed(tmp_path: Path) -> None:
    assert [status.serving for status in said(tmp_path)] == ["1"]


def test_a_process_that_ended_says_nothing(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert said(tmp_path, pid=ended.pid) == []


def test_another_process_of_the_same_number_says_nothing(tmp_path: Path) -> None:
    assert said(tmp_path, pid=os.getpid(), started=1) == []


def test_a_server_on_another_machine_is_not_waited_for(tmp_path: Path) -> None:
    assert said(tmp_path, host=f"not-{socket.gethostname()}") == []


def test_a_damaged_file_is_passed_over(tmp_path: Path) -> None:
    said(tmp_path)
    (tmp_path / FOLDER / "broken.json").write_text('{"address": ')
    (tmp_path / FOLDER / "strange.json").write_text('{"mood": "blue"}')
    assert [status.address for status in statuses(tmp_path)] == [ADDRESS]


def test_a_refusal_holds_for_the_folder_that_was_refused(tmp_path: Path) -> None:
    (tmp_path / "cascade").mkdir()
    folder = write_version(tmp_path, 2, answering("two"))
    refused = {"2": Refusal("broken", identity(folder))}
    assert said(tmp_path, refused=refused)[0].refused == refused
    os.utime(folder / "model.py", (1, 1))
    assert said(tmp_path, refused=refused)[0].refused == {}


@pytest.mark.parametrize(("serving", "refused", "number"), [("1", "2", "1"), (None, "2", "1"), (None, None, "2")])
def test_the_bundle_of_now_is_that_which_is_served_or_will_be(
    tmp_path: Path, serving: str | None, refused: str | None, number: str
) -> None:
    (tmp_path / "cascade").mkdir()
    folders = {version: write_version(tmp_path, int(version), answering(version)) for version in ("1", "2")}
    said(tmp_path, serving=serving, refused={refused: Refusal("", identity(folders[refused]))} if refused else {})
    assert bundle_now(tmp_path) == folders[number] / "bundle"


def test_a_repository_that_cannot_be_written_to_is_served_without(tmp_path: Path) -> None:
    (tmp_path / FOLDER).touch()
    assert said(tmp_path) == []
    StatusFile(tmp_path, ADDRESS).remove()
