"""TLS and mutual TLS of the inference port, with certificates made here: who gets in, and who does not."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from shortlist.cli.recommend import recommend
from shortlist.errors import ConfigError, ServerError
from shortlist.serving.client import AsyncClient, Client
from shortlist.serving.control import Control
from shortlist.serving.process import free_address
from shortlist.serving.supervisor import Supervisor
from shortlist.serving.tls import ServerTls, Tls
from tests.serving.certificates import Authority, Pair
from tests.serving.stand_in import WATCH, answers, seconds_until, stand_in_at

ASK = typer.Typer()
ASK.command()(recommend)
CANARY = Path(__file__).parents[2] / "deploy" / "docker" / "canary.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder, "authority")


@pytest.fixture(scope="module")
def stranger(folder: Path) -> Authority:
    """Somebody else's authority."""
    return Authority(folder, "stranger")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Pair:
    return authority.sign("server", "shortlist.test", "127.0.0.1", client=False)


@pytest.fixture(scope="module")
def person(authority: Authority) -> Pair:
    """A client's certificate."""
    return authority.sign("person")


@pytest.fixture(scope="module")
def tls(server: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A server that shows its certificate and lets in everybody."""
    with Supervisor(
        stand_in_at(tmp_path_factory.mktemp("tls")), free_address(), watch=WATCH, tls=ServerTls(server.cert, server.key)
    ) as running:
        yield running


@pytest.fixture(scope="module")
def mutual(
    server: Pair, person: Pair, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Supervisor]:
    """A server that lets in whom the authority signed."""
    files = ServerTls(server.cert, server.key, authority.cert, person.cert, person.key)
    repository = stand_in_at(tmp_path_factory.mktemp("mutual"))
    with Supervisor(repository, free_address(), watch=WATCH, tls=files) as running:
        yield running


def is_refused(supervisor: Supervisor, tls: Tls | None) -> bool:
    with Client(supervisor.address.grpc, timeout=3, tls=tls) as client:
        try:
            return client.recommend("user-0") is None
        except ServerError as error:
            return "no server answers" in str(error)


def test_who_trusts_the_authority_is_answered(tls: Supervisor, authority: Authority) -> None:
    with Client(tls.address.grpc, tls=Tls(ca=authority.cert)) as client:
        assert client.recommend("user-0").ids == ["one"]


def test_asyncio_is_answered_too(tls: Supervisor, authority: Authority) -> None:
    async def ask() -> list[str]:
        async with AsyncClient(tls.address.grpc, tls=Tls(ca=authority.cert)) as client:
            return (await client.recommend("user-0")).ids

    assert asyncio.run(ask()) == ["one"]


def test_plaintext_is_refused(tls: Supervisor) -> None:
    assert is_refused(tls, None)


def test_who_trusts_another_authority_does_not_talk_to_it(tls: Supervisor, stranger: Authority) -> None:
    assert is_refused(tls, Tls(ca=stranger.cert))


def test_a_certificate_for_another_name_is_not_accepted(tls: Supervisor, authority: Authority) -> None:
    assert is_refused(tls, Tls(ca=authority.cert, name="elsewhere.test"))


def test_a_name_of_the_certificate_may_stand_for_the_address(tls: Supervisor, authority: Authority) -> None:
    with Client(tls.address.grpc, tls=Tls(ca=authority.cert, name="shortlist.test")) as client:
        assert client.recommend("user-0").ids == ["one"]


def test_what_is_killed_comes_back_under_tls(tls: Supervisor, authority: Authority) -> None:
    with Client(tls.address.grpc, timeout=3, tls=Tls(ca=authority.cert)) as client:
        tls.server.kill()
        seconds_until(lambda: tls.restarts > 0 and answers(client))


def test_a_client_whom_the_authority_signed_comes_in(mutual: Supervisor, authority: Authority, person: Pair) -> None:
    with Client(mutual.address.grpc, tls=Tls(authority.cert, person.cert, person.key)) as client:
        assert client.recommend("user-0").ids == ["one"]


def test_a_client_without_a_certificate_does_not_come_in(mutual: Supervisor, authority: Authority) -> None:
    assert is_refused(mutual, Tls(ca=authority.cert))


def test_a_client_whom_another_authority_signed_does_not_come_in(
    mutual: Supervisor, authority: Authority, stranger: Authority
) -> None:
    other = stranger.sign("other")
    assert is_refused(mutual, Tls(authority.cert, other.cert, other.key))


def test_what_is_killed_comes_back_under_mutual_tls(mutual: Supervisor, authority: Authority, person: Pair) -> None:
    with Client(mutual.address.grpc, timeout=3, tls=Tls(authority.cert, person.cert, person.key)) as client:
        for stub in mutual.server.stubs():
            stub.kill()
        seconds_until(lambda: mutual.reloads + mutual.restarts > 0 and answers(client))


def test_the_supervisor_may_show_the_servers_own_certificate(authority: Authority, tmp_path: Path) -> None:
    both = authority.sign("both", "127.0.0.1")
    with Supervisor(
        stand_in_at(tmp_path), free_address(), watch=WATCH, tls=ServerTls(both.cert, both.key, authority.cert)
    ) as running:
        control = Control(running.address, "", ServerTls(both.cert, both.key, authority.cert).supervisor())
        assert control.canary(5.0) is None
        control.close()


def test_recommend_speaks_tls(mutual: Supervisor, authority: Authority, person: Pair) -> None:
    files = ["--tls-ca", str(authority.cert), "--tls-cert", str(person.cert), "--tls-key", str(person.key)]
    asked = CliRunner().invoke(ASK, ["--url", mutual.address.grpc, *files], catch_exceptions=False)
    assert "one" in asked.output


def test_the_health_check_of_a_container_speaks_tls(mutual: Supervisor, authority: Authority, person: Pair) -> None:
    files = ["--tls-ca", authority.cert, "--tls-cert", person.cert, "--tls-key", person.key]
    asked = [sys.executable, CANARY, "--port", str(mutual.address.grpc_port), *files]
    assert subprocess.run(asked, capture_output=True, text=True, timeout=60).stderr == ""


def test_a_key_of_another_certificate_is_named(server: Pair, person: Pair) -> None:
    with pytest.raises(ConfigError, match=r"--tls-cert = .*server.pem: does not go with the key .*person.key"):
        ServerTls(server.cert, person.key).supervisor()


def test_a_certificate_that_is_over_is_named(authority: Authority) -> None:
    old = authority.sign("old", "shortlist.test", days=-1)
    with pytest.raises(ConfigError, match=r"--tls-cert = .*old.pem: is refused \(certificate has expired\)"):
        ServerTls(old.cert, old.key).supervisor()


def test_a_certificate_without_names_is_named(authority: Authority) -> None:
    nameless = authority.sign("nameless")
    with pytest.raises(ConfigError, match="no subject alternative name"):
        ServerTls(nameless.cert, nameless.key).supervisor()


def test_a_server_certificate_that_is_none_for_clients_is_named(server: Pair, authority: Authority) -> None:
    with pytest.raises(ConfigError, match="for want of --tls-supervisor-cert"):
        ServerTls(server.cert, server.key, authority.cert).supervisor()


def test_a_supervisor_whom_another_authority_signed_is_named(
    server: Pair, authority: Authority, stranger: Authority
) -> None:
    other = stranger.sign("supervisor")
    with pytest.raises(ConfigError, match=r"--tls-supervisor-cert = .*supervisor.pem: is refused"):
        ServerTls(server.cert, server.key, authority.cert, other.cert, other.key).supervisor()


def test_a_file_that_is_not_there_is_named(server: Pair, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--tls-key = .*nothing.key: cannot be read"):
        ServerTls(server.cert, folder / "nothing.key").supervisor()
    with pytest.raises(ConfigError, match=r"tls.ca = .*nothing.pem: cannot be read"):
        Client(tls=Tls(ca=folder / "nothing.pem"))


def test_a_client_certificate_without_its_key_is_named(person: Pair) -> None:
    with pytest.raises(ConfigError, match=r"tls.cert without tls.key"):
        Client(tls=Tls(cert=person.cert))
