"""`shortlist precompute` on the command line; what it makes is tested with a real server in tests/serving."""

import socket
import ssl
import threading
from pathlib import Path

from typer.testing import CliRunner

from shortlist.cli.main import app
from shortlist.errors import ServerError
from shortlist.profiles.embedded import EmbeddedStore
from shortlist.serving.process import free_address
from tests.factories import make_bundle
from tests.serving.certificates import Authority


def test_without_a_server_one_cycle_fails(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with EmbeddedStore(tmp_path / "store") as store:
        said = ["--profiles", store.url, "--grpc", free_address().grpc, "--no-segments"]
        result = CliRunner().invoke(app, ["precompute", str(bundle), *said])
    assert isinstance(result.exception, ServerError)


def test_a_server_that_asks_who_calls_is_shown_the_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    server, person = authority.sign("server", "shortlist.test"), authority.sign("person")
    door = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    door.load_cert_chain(server.cert, server.key)
    door.load_verify_locations(authority.cert)
    door.verify_mode = ssl.CERT_REQUIRED
    door.set_alpn_protocols(["h2"])
    shown: list[str] = []

    def answer(listener: socket.socket) -> None:
        with door.wrap_socket(listener.accept()[0], server_side=True) as visitor:
            shown.append(dict(pair for (pair,) in visitor.getpeercert()["subject"])["commonName"])
        listener.close()

    bundle = make_bundle(tmp_path / "bundle")
    with EmbeddedStore(tmp_path / "store") as store, socket.create_server(("127.0.0.1", 0)) as listener:
        waiting = threading.Thread(target=answer, args=[listener], daemon=True)
        waiting.start()
        said = ["--profiles", store.url, "--grpc", f"127.0.0.1:{listener.getsockname()[1]}", "--no-segments"]
        said += ["--grpc-tls-ca", str(authority.cert), "--grpc-tls-name", "shortlist.test"]
        said += ["--grpc-tls-cert", str(person.cert), "--grpc-tls-key", str(person.key)]
        result = CliRunner().invoke(app, ["precompute", str(bundle), *said])
        waiting.join(60)
    assert isinstance(result.exception, ServerError)
    assert shown == ["person"]


def test_slates_without_a_store_are_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["serve", str(tmp_path), "--precomputed"])
    assert "--profiles or --realtime" in str(result.exception)
