"""The few exceptions of Shortlist. Each message names the field or file, its value, what is allowed, and what to do."""

from pathlib import Path

_CLONE = Path(__file__).parents[2]


class ShortlistError(Exception):
    """Base of every error that Shortlist raises on purpose."""


class DataError(ShortlistError):
    """Input data cannot be used: names the file, column, row and value."""


class ConfigError(ShortlistError):
    """A configuration is invalid: names the field, its value and what is allowed."""


class BundleError(ShortlistError):
    """A bundle is missing, corrupt, or of a format this version does not read."""


class RequestError(ShortlistError):
    """A request is invalid: names the field, its value and what is allowed."""


class DeadlineError(ShortlistError):
    """A request arrived after its own deadline; no work was spent on it."""


class ServerError(ShortlistError):
    """The Triton server cannot be found, started or reached."""


class MissingExtraError(ShortlistError):
    """An optional package is absent: names the extra to install."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed. Install it with: {install_hint(extra)}")


def install_hint(extra: str) -> str:
    """The command that adds an extra to this installation: of the clone that runs, where it is one."""
    clone = (_CLONE / "pyproject.toml").is_file()
    return f"pip install -e '{_CLONE}[{extra}]'" if clone else f"pip install 'shortlist[{extra}]'"
