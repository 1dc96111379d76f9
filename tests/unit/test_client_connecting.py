"""How a client finds a service, whom it believes to be it, and to whom it never shows its key."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from stillframe.client import (
    Client,
    NoKeyError,
    NoServiceError,
)
from stillframe.client.ways import ByState
from stillframe.settings import Settings
from support.http_door import (
    ADMIN_KEY,
    VM,
    DoorClient,
)
from support.http_server import serving
from unit.test_cli import spoken
from unit.test_client import VERSION, scripted
from unit.test_http_tls import certificate

__all__ = ["certificate"]  # a fixture


@pytest.mark.parametrize(
    "url", ["", "door", "ftp://door", "http://", "http://192.0.2.1:8080", "http://door:8080", "https://me:secret@door"]
)
def test_an_address_that_is_none_or_shows_the_key_to_the_network(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|network"):
        Client(url, "k")


def test_a_key_that_would_be_two_headers() -> None:
    with pytest.raises(ValueError, match="not a key"):
        Client("http://127.0.0.1:1", "a\r\nX: y")


def test_plain_http_beyond_loopback_is_a_choice() -> None:
    Client("http://192.0.2.1:8080", "k", plain_http=True).close()
    Client("http://localhost:8080", "k").close()


def test_without_a_key_the_service_is_told_to_want_one(door: DoorClient, served: tuple[DoorClient, str]) -> None:
    with Client(served[1]) as client, pytest.raises(NoKeyError):
        client.version()


def test_the_files_of_a_state_directory_are_the_services(tmp_path: Path) -> None:
    settings, way = Settings(state=tmp_path), ByState(tmp_path)
    assert (way.service_file, way.key_file) == (settings.service_file, settings.key_file)


@pytest.fixture
def state(served: tuple[DoorClient, str], tmp_path: Path) -> Path:
    (tmp_path / "admin.key").write_text(f"{ADMIN_KEY}\n")
    return tmp_path


def test_the_key_is_not_sent_once_the_service_has_died_between_two_calls(
    door: DoorClient, served: tuple[DoorClient, str], state: Path
) -> None:
    with Client.by_state(state) as client:
        with spoken(state, served[1]):
            client.version()
            client.vms()
        door.stub.asked.clear()
        with pytest.raises(NoServiceError, match="was killed"):
            client.vms()
    assert door.stub.asked == []


def test_a_service_that_was_started_elsewhere_is_found_again(
    door: DoorClient, served: tuple[DoorClient, str], state: Path
) -> None:
    with Client.by_state(state) as client, scripted(VERSION) as (script, url):
        with spoken(state, served[1]):
            client.vms()
        with spoken(state, url):
            assert client.version().version == "1"
        assert script.keys == [ADMIN_KEY]


def test_the_environments_key_goes_before_the_files(
    door: DoorClient, served: tuple[DoorClient, str], state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state / "admin.key").unlink()
    with spoken(state, served[1]), Client.by_state(state) as client:
        with pytest.raises(NoKeyError) as caught:
            client.version()
        assert str(state / "admin.key") in caught.value.message
        monkeypatch.setenv("STILLFRAME_API_KEY", ADMIN_KEY)
        client.version()
        monkeypatch.setenv("STILLFRAME_API_KEY", "line\nbreak")
        with pytest.raises(NoKeyError):
            client.version()


def test_no_proxy_of_the_environment_sees_the_key(
    door: DoorClient, served: tuple[DoorClient, str], state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted(VERSION) as (script, proxy), spoken(state, served[1]), Client.by_state(state) as client:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        client.vms()
        assert script.asked == []


def test_tls_believes_the_certificate_that_is_named_and_no_other(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """By its state directory whatever name is in it; by an address only that name."""
    secured = DoorClient(tls_certificate=certificate[0], tls_key=certificate[1])
    with serving(secured.app) as (host, port):
        url = f"https://{host}:{port}"
        (tmp_path / "admin.key").write_text(ADMIN_KEY)
        with spoken(tmp_path, url, str(certificate[0])), Client.by_state(tmp_path) as client:
            client.version()
        for trusted in (None, certificate[0]):
            with Client(url, ADMIN_KEY, certificate=trusted) as stranger, pytest.raises(NoServiceError, match="verify"):
                stranger.modify(VM, "a", "")
        assert [call[0] for call in secured.stub.asked] == []
        named = _certificate_for(host, tmp_path)
    secured = DoorClient(tls_certificate=named[0], tls_key=named[1])
    with serving(secured.app) as (host, port), Client(f"https://{host}:{port}", ADMIN_KEY, certificate=named[0]) as by:
        by.version()


def _certificate_for(address: str, where: Path) -> tuple[Path, Path]:
    pair = where / "named.pem", where / "named.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=other", "-addext", f"subjectAltName=IP:{address}", "-keyout", str(pair[1]), "-out", str(pair[0])],
        check=True, capture_output=True,
    )  # fmt: skip
    return pair


def test_a_certificate_that_is_not_there(tmp_path: Path) -> None:
    with (
        Client("https://127.0.0.1:1", "k", certificate=tmp_path / "none.pem") as client,
        pytest.raises(NoServiceError, match=r"none\.pem"),
    ):
        client.version()
    (tmp_path / "bad.pem").write_text("no certificate")
    with (
        Client("https://127.0.0.1:1", "k", certificate=tmp_path / "bad.pem") as client,
        pytest.raises(NoServiceError, match=r"bad\.pem") as caught,
    ):
        client.version()
    assert isinstance(caught.value.__cause__, ssl.SSLError)
