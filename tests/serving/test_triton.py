"""Finding a Triton and unpacking the wheel's one."""

import errno
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

from shortlist.errors import ServerError
from shortlist.serving import triton
from shortlist.serving.triton import STUB, TritonInstall, find_triton, unpack

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A folder laid out as the wheel's, with small files."""
    root = tmp_path / "wheel"
    for name in (
        "bin/tritonserver",
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_utils.py",
        "caches/local/libtritoncache_local.so",
        f"python_backend_stubs/{VERSION}/triton_python_backend_stub",
        "python_backend_stubs/3.8/triton_python_backend_stub",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_the_copy_has_the_stub_of_this_python_beside_the_backend(wheel: Path, tmp_path: Path) -> None:
    target = unpack(wheel, tmp_path / "cache" / "triton")
    assert (target / STUB).read_text() == f"python_backend_stubs/{VERSION}/triton_python_backend_stub"


def test_a_whole_copy_is_used_as_it_is(wheel: Path, tmp_path: Path) -> None:
    target = unpack(wheel, tmp_path / "triton")
    before = (target / STUB).stat().st_ino
    unpack(wheel, target)
    assert (target / STUB).stat().st_ino == before


@pytest.mark.parametrize("name", ["bin/tritonserver", str(STUB)])
def test_a_damaged_copy_is_made_again(wheel: Path, tmp_path: Path, name: str) -> None:
    target = unpack(wheel, tmp_path / "triton")
    (target / name).write_text("")
    unpack(wheel, target)
    assert (target / name).stat().st_size > 0


def test_a_full_disk_leaves_nothing_behind(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(ServerError, match=r"No space left on device.*XDG_CACHE_HOME"):
        unpack(wheel, tmp_path / "cache" / "triton")
    assert list((tmp_path / "cache").iterdir()) == []


def test_processes_may_unpack_at_the_same_time(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "triton"
    failures: list[BaseException] = []

    def work() -> None:
        try:
            unpack(wheel, target)
        except ServerError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [p.name for p in target.parent.iterdir()] == ["triton"]


def test_a_python_without_a_stub_is_refused_by_name(wheel: Path, tmp_path: Path) -> None:
    shutil.rmtree(wheel / "python_backend_stubs" / VERSION)
    with pytest.raises(ServerError, match=f"no stub for Python {VERSION}"):
        unpack(wheel, tmp_path / "triton")


def test_tritonserver_on_path_comes_first(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (wheel / "bin" / "tritonserver").chmod(0o755)
    monkeypatch.setenv("PATH", str(wheel / "bin"))
    assert find_triton().root == wheel


def test_without_any_triton_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(triton.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ServerError, match=r"pip install nvidia-pytriton==0\.7\.0"):
        find_triton()


def test_the_environment_is_that_of_one_thread_and_this_python(install: TritonInstall) -> None:
    environment = install.environment()
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_onnx_runtime_in_the_stubs_is_told_not_to_report_home(tmp_path: Path) -> None:
    assert TritonInstall(tmp_path, "here", ()).environment()["ORT_DISABLE_TELEMETRY"] == "1"
