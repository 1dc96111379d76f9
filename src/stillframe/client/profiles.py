"""Several services by name: ``~/.config/stillframe/profiles.toml``.

    default = "lab"

    [profile.lab]
    url = "https://lab.example:8443"
    certificate = "~/lab.pem"            # trusted alone; without it: what this machine trusts
    key_file = "~/.config/stillframe/lab.key"

    [profile.here]
    state = "/var/lib/stillframe"

A key may stand in the file itself (``key``). The file, or the key's, is then its owner's alone: else it is refused. A profile
without a key takes STILLFRAME_API_KEY.
"""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from stillframe.client.errors import NoKeyError, ProfileError
from stillframe.client.ways import KEY_VARIABLE, ByState, ByUrl, Way, checked_key

_TEXTS = frozenset({"url", "certificate", "key", "key_file", "state"})
_KNOWN = _TEXTS | {"plain_http"}
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def profiles_file() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(home) if home else Path.home() / ".config") / "stillframe" / "profiles.toml"


def default_profile(file: Path | None = None) -> str:
    """The profile that is meant where none is named; "" for none.

    Raises:
        ProfileError: the file cannot be used.
    """
    file = file or profiles_file()
    chosen = _read(file).get("default", "") if file.exists() else ""
    if not isinstance(chosen, str):
        raise _wrong(file, "default is not a text", "default 不是文本")
    return chosen


def profile_names(file: Path | None = None) -> list[str]:
    """Raises: ProfileError: the file cannot be used."""
    file = file or profiles_file()
    return sorted(_profiles(file)) if file.exists() else []


def way_of_profile(name: str, file: Path | None = None) -> Way:
    """Raises: ProfileError: there is no such profile, or it cannot be used; NoKeyError: its key is none."""
    file = file or profiles_file()
    profiles = _profiles(file)
    if name not in profiles:
        there = ", ".join(sorted(profiles)) or "none"
        raise _wrong(file, f'there is no profile "{name}"; there are: {there}', f"没有配置“{name}”；现有：{there}")
    profile = profiles[name]
    _check(file, name, profile)
    if "state" in profile:
        return ByState(Path(profile["state"]).expanduser())
    certificate = Path(profile["certificate"]).expanduser() if "certificate" in profile else None
    try:
        return ByUrl(
            profile["url"],
            _key_of(file, profile),
            certificate=certificate,
            plain_http=profile.get("plain_http", False),
        )
    except ValueError as error:
        raise _wrong(file, f"profile {name}: {error}", f"配置 {name}：{error}") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            told = tomllib.load(opened)
            mode = os.fstat(opened.fileno()).st_mode
    except FileNotFoundError as error:
        raise _wrong(file, "does not exist", "不存在") from error
    except (OSError, ValueError) as error:
        raise _wrong(file, f"cannot be read: {error}", f"无法读取：{error}") from error
    holds_key = any(isinstance(one, dict) and "key" in one for one in _tables(told).values())
    if holds_key and mode & _OTHERS:
        raise _open_to_others(file, mode)
    return told


def _tables(told: dict[str, Any]) -> dict[str, Any]:
    tables = told.get("profile", {})
    return tables if isinstance(tables, dict) else {}


def _profiles(file: Path) -> dict[str, Any]:
    return _tables(_read(file))


def _check(file: Path, name: str, profile: Any) -> None:
    if not isinstance(profile, dict):
        raise _wrong(file, f"profile {name} is not a table", f"配置 {name} 不是表")
    unknown = ", ".join(sorted(set(profile) - _KNOWN))
    if unknown:
        raise _wrong(file, f"profile {name} has what is not known: {unknown}", f"配置 {name} 含有未知项：{unknown}")
    if not all(isinstance(profile[one], str) for one in _TEXTS & set(profile)):
        raise _wrong(file, f"profile {name}: what is known is text", f"配置 {name}：各项须为文本")
    if not isinstance(profile.get("plain_http", False), bool):
        raise _wrong(
            file, f"profile {name}: plain_http is true or false", f"配置 {name}：plain_http 须为 true 或 false"
        )
    if ("url" in profile) == ("state" in profile):
        raise _wrong(file, f"profile {name} needs url or state, not both", f"配置 {name} 须有 url 或 state 之一")


def _key_of(file: Path, profile: dict[str, Any]) -> str:
    """Its own before the environment's, which may be another service's."""
    if "key" in profile:
        return checked_key(profile["key"].strip(), str(file))
    if "key_file" in profile:
        return _secret(Path(profile["key_file"]).expanduser())
    text = os.environ.get(KEY_VARIABLE, "").strip()
    return checked_key(text, KEY_VARIABLE) if text else ""


def _secret(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            text = opened.read(4096).decode("ascii").strip()
    except (OSError, ValueError) as error:
        why = (error.strerror or "") if isinstance(error, OSError) else "not a key"
        raise NoKeyError(f"stillframe: no key: {file}: {why}", f"stillframe：没有密钥：无法读取 {file}") from error
    if mode & _OTHERS:
        raise _open_to_others(file, mode)
    return checked_key(text, str(file))


def _open_to_others(file: Path, mode: int) -> ProfileError:
    shown = f"{stat.S_IMODE(mode):04o}"
    return ProfileError(
        f"stillframe: {file} holds a key and others may read or write it (mode {shown}); chmod 600 {file}",
        f"stillframe：{file} 含有密钥，但其他用户可读写（权限 {shown}）；请执行 chmod 600 {file}",
    )


def _wrong(file: Path, why: str, why_cn: str) -> ProfileError:
    return ProfileError(f"stillframe: {file}: {why}", f"stillframe：{file}：{why_cn}")
