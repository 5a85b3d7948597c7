"""The image's recipe: what can be known of it without a container engine."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from shortlist.cli.serve import serve
from tests.deploy.files import DOCKERFILE, ENTRYPOINT, ROOT, arguments, command, instructions

TOOLS = Path(sys.executable).parent


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps `path` out of the build: the last pattern that covers it, or a parent, decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        glob = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{glob}(?:/.*)?", path):
            out = not line.startswith("!")
    return out


@pytest.mark.parametrize(
    "lint", [["hadolint", str(DOCKERFILE)], ["shellcheck", str(ENTRYPOINT)]], ids=["hadolint", "shellcheck"]
)
def test_linters_have_no_complaint(lint: list[str]) -> None:
    result = subprocess.run([TOOLS / lint[0], *lint[1:]], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_no_package_index_is_written_down() -> None:
    texts = [DOCKERFILE.read_text(), *(p.read_text() for p in ENTRYPOINT.parent.iterdir() if p.is_file())]
    assert re.findall(r"https?://\S+|index-url|find-links", "\n".join(texts)) == []


def test_the_user_is_a_number_and_not_root() -> None:
    assert arguments("USER") == "1000:1000"


def test_an_init_forwards_signals_to_the_entrypoint() -> None:
    assert command("ENTRYPOINT") == ["tini", "-g", "--", ENTRYPOINT.name]


def test_listening_to_the_network_is_explicit_and_serve_takes_every_option() -> None:
    app = typer.Typer()
    app.command()(serve)
    context = typer.main.get_command(app).make_context("serve", ["repository", *command("CMD")])
    assert context.params["host"] == "0.0.0.0"
    assert arguments("EXPOSE") == f"{context.params['grpc_port']} {context.params['metrics_port']}"


def test_the_health_check_asks_for_a_slate() -> None:
    assert '["python", "/opt/shortlist/bin/canary.py"' in arguments("HEALTHCHECK")


def test_everything_that_is_copied_or_mounted_is_in_the_context() -> None:
    copied = [path for path in arguments("COPY").split() if path.startswith("deploy/")]
    mounted = [m for _, rest in instructions() for m in re.findall(r"type=bind,source=([^,]+)", rest) if m != "."]
    assert [p for p in [*copied, *mounted] if ignored(p) or not (ROOT / p).is_file()] == []


def test_the_context_holds_the_whole_package() -> None:
    sources = [p for top in ("src", "kernels", "export", "model_repository") for p in (ROOT / top).rglob("*.*")]
    wanted = [p.relative_to(ROOT).as_posix() for p in sources if p.is_file() and "__pycache__" not in p.parts]
    assert [p for p in ["pyproject.toml", "README.md", "LICENSE", *wanted] if ignored(p)] == []


@pytest.mark.parametrize("path", [".git/config", ".env", "runs/demo/run.json", "tests/conftest.py", "src/a/b.pyc"])
def test_the_context_holds_nothing_else(path: str) -> None:
    assert ignored(path)


def test_what_is_installed_first_is_what_the_project_needs() -> None:
    script = ENTRYPOINT.parent / "requirements.py"
    listed = subprocess.run(
        [sys.executable, script, ROOT / "pyproject.toml", "gpu"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert any(line.startswith("onnxruntime") for line in listed)
    assert any(line.startswith("cupy-cuda12x") for line in listed)
