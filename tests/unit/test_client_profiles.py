"""Profiles: several services by name, and who may read their keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.client import ClientError, NoKeyError, ProfileError
from stillframe.client.profiles import default_profile, profile_names, profiles_file, way_of_profile
from stillframe.client.ways import ByState

Write = Callable[[str], Path]


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Write:
    """Write the file that is meant where none is named, readable by everybody."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def write_file(text: str) -> Path:
        file = profiles_file()
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o644)
        return file

    return write_file


def test_without_a_file_there_is_none(write: Write) -> None:
    assert (default_profile(), profile_names()) == ("", [])
    with pytest.raises(ProfileError, match="does not exist"):
        way_of_profile("lab")


def test_a_service_elsewhere_and_one_of_this_machine(write: Write, tmp_path: Path) -> None:
    key = tmp_path / "lab.key"
    key.write_text("sfk_lab\n")
    key.chmod(0o600)
    write(
        f'default = "lab"\n[profile.lab]\nurl = "https://lab:8443/"\nkey_file = "{key}"\ncertificate = "/c.pem"\n'
        f'[profile.here]\nstate = "{tmp_path}"\n'
    )
    assert (default_profile(), profile_names()) == ("lab", ["here", "lab"])
    target = way_of_profile("lab").target()
    assert (target.url, target.key, target.certificate) == ("https://lab:8443", "sfk_lab", Path("/c.pem"))
    here = way_of_profile("here")
    assert isinstance(here, ByState)
    assert here.state == tmp_path


def test_the_keys_place_decides_over_the_environment(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment has may be another service's key."""
    monkeypatch.setenv("STILLFRAME_API_KEY", "sfk_environment")
    write('[profile.a]\nurl = "https://a"\nkey = "sfk_own"\n[profile.b]\nurl = "https://b"\n').chmod(0o600)
    assert way_of_profile("a").target().key == "sfk_own"
    assert way_of_profile("b").target().key == "sfk_environment"
    monkeypatch.delenv("STILLFRAME_API_KEY")
    without = way_of_profile("b").target()
    assert without.key == ""
    assert isinstance(without.without_key, NoKeyError)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o601])
def test_a_file_with_a_key_is_its_owners_alone(write: Write, tmp_path: Path, mode: int) -> None:
    file = write('[profile.a]\nurl = "https://a"\nkey = "sfk_own"\n')
    file.chmod(mode)
    with pytest.raises(ProfileError, match="chmod 600"):
        way_of_profile("a")
    key = tmp_path / "k"
    key.write_text("sfk_own")
    key.chmod(mode)
    write(f'[profile.a]\nurl = "https://a"\nkey_file = "{key}"\n')
    with pytest.raises(ProfileError, match="chmod 600"):
        way_of_profile("a")
    key.chmod(0o400)
    assert way_of_profile("a").target().key == "sfk_own"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("not toml", "cannot be read"),
        ("profile = 5", "no profile"),
        ("[profile]\na = 5", "is not a table"),
        ('[profile.b]\nurl = "https://b"', "there are: b"),
        ("[profile.a]", "url or state"),
        ('[profile.a]\nurl = "https://a"\nstate = "/s"', "url or state"),
        ('[profile.a]\nurl = "https://a"\nkye_file = "x"', "kye_file"),
        ("[profile.a]\nurl = 5", "is text"),
        ('[profile.a]\nurl = "http://192.0.2.1:8080"', "plain_http"),
        ('[profile.a]\nurl = "http://192.0.2.1:8080"\nplain_http = "yes"', "true or false"),
        ('[profile.a]\nurl = "a"', "address"),
        ('[profile.a]\nurl = "https://a"\nkey_file = "/none"', "No such file"),
        ('[profile.a]\nurl = "https://a"\nkey = ""', "not a key"),
        ('[profile.a]\nurl = "https://a"\nkey = "a\\nb"', "not a key"),
    ],
)
def test_what_is_wrong_is_said_in_both_languages(write: Write, text: str, why: str) -> None:
    write(text).chmod(0o600)
    with pytest.raises(ClientError, match=why) as caught:
        way_of_profile("a")
    assert any("\u4e00" <= char <= "\u9fff" for char in caught.value.message_cn)


def test_a_default_that_is_no_text(write: Write) -> None:
    write("default = 5")
    with pytest.raises(ProfileError):
        default_profile()
    write("default = [")
    with pytest.raises(ProfileError):
        profile_names()
