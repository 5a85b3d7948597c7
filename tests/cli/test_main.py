"""What goes wrong on the machine is told in a line, with the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from shortlist.cli.main import main


def test_a_path_that_cannot_be_written_is_a_line_and_no_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, taken = tmp_path / "log.csv", tmp_path / "taken"
    log.write_text("user_id,item_id\na,x\na,y\n")
    taken.write_text("a file")
    arguments = ["data", "describe", "table", "--path", str(log), "--save", str(taken / "folder")]
    monkeypatch.setattr(sys, "argv", ["shortlist", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err.strip() == f"error: {taken / 'folder'}: Not a directory"
