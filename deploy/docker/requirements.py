"""Prints what a project and its extra need, one requirement a line.

The image installs this before the project itself, so that a change of code rebuilds a layer of a megabyte and not one
of gigabytes.

    python requirements.py pyproject.toml gpu
"""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extra: str) -> list[str]:
    """The dependencies of the project and of its `extra`."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"][extra]]


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2])))
