"""`shortlist precompute` on the command line; what it makes is tested with a real server in tests/serving."""

from pathlib import Path

from typer.testing import CliRunner

from shortlist.cli.main import app
from shortlist.errors import ServerError
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.serving.process import free_address
from tests.factories import make_bundle


def test_without_a_server_one_cycle_fails(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with EmbeddedStore(tmp_path / "store") as store:
        said = ["--profiles", store.url, "--grpc", free_address().grpc, "--no-segments"]
        result = CliRunner().invoke(app, ["precompute", str(bundle), *said])
    assert isinstance(result.exception, ServerError)


def test_slates_without_a_store_are_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["serve", str(tmp_path), "--precomputed"])
    assert "--profiles or --realtime" in str(result.exception)
