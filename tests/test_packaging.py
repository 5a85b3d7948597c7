"""What is installed is what is in the tree: an unlisted nested package works editable and is missing from the wheel."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = {
    "shortlist": "src/shortlist",
    "shortlist.kernels": "kernels",
    "shortlist.export": "export",
    "shortlist.loadtest": "loadtest",
    "shortlist.model_repository": "model_repository",
}


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_of_the_tree_is_listed() -> None:
    found = set()
    for name, folder in SOURCES.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join([name, *parts]))
    assert set(_project()["tool"]["setuptools"]["packages"]) == found


def test_every_module_lies_in_a_package() -> None:
    stray = [
        path
        for folder in SOURCES.values()
        for path in (ROOT / folder).rglob("*.py")
        if not (path.parent / "__init__.py").exists() and path.name != "model.py"
    ]
    assert stray == []


def test_constraints_pin_every_dependency() -> None:
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    project = _project()["project"]
    extras = [d for extra in project["optional-dependencies"].values() for d in extra]
    for dependency in [*project["dependencies"], *extras]:
        name = dependency.split(";")[0].split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip().lower()
        assert name in pinned, f"{name} is not pinned in constraints.txt"
