"""Where a client's requests go, with what key, and whom it believes to be the service.

A way is asked anew before each request: a service that was restarted is found again, and one that was killed is not
mistaken for whoever listens at its address now.
"""

from __future__ import annotations

import ipaddress
import json
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from stillframe.client.errors import ClientError, NoKeyError, NoServiceError
from stillframe.spoken import is_spoken

KEY_VARIABLE = "STILLFRAME_API_KEY"


@dataclass(frozen=True)
class Target:
    """One request's destination. ``certificate``: the file of what is trusted alone; None: what this machine trusts.

    ``pinned``: whatever name is in the certificate, since it is this machine's own. ``without_key``: what to say when
    the service asks for the key that there is none of.
    """

    url: str
    key: str = field(default="", repr=False)
    certificate: Path | None = None
    pinned: bool = False
    without_key: ClientError | None = None

    def trust(self) -> ssl.SSLContext:
        """Raises: OSError, ssl.SSLError: the certificate's file cannot be used."""
        context = ssl.create_default_context(cafile=str(self.certificate) if self.certificate else None)
        if self.certificate is not None:
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if self.pinned:
            context.check_hostname = False
        return context

    @property
    def connection(self) -> tuple[str, str, int]:
        """Equal for those that one connection serves: a certificate that was renewed needs a new one."""
        if self.certificate is None:
            return self.url, "", 0
        return self.url, str(self.certificate), self.certificate.stat().st_mtime_ns

    @property
    def headers(self) -> dict[str, str]:
        return {"ApiKey": self.key} if self.key else {}


class Way(Protocol):
    def target(self) -> Target:
        """Raises: NoServiceError: nobody is to be sent anything; NoKeyError."""

    def unreachable(self, why: str) -> NoServiceError:
        """What to say when no connection comes about."""


class ByUrl:
    """A service anywhere, by its address.

    Raises:
        ValueError: ``url`` is none, or would send the key over the network for everybody to read, and
            ``plain_http`` does not say that this is meant.
    """

    def __init__(self, url: str, key: str = "", *, certificate: Path | None = None, plain_http: bool = False) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError(f"{url!r} is not an address such as https://host:8443")
        if parts.scheme == "http" and not plain_http and not _is_loopback(parts.hostname):
            raise ValueError(f"{url!r} would show the key to the whole network; use https, or say plain_http")
        if key and not is_key(key):
            raise ValueError("this is not a key")
        self._target = Target(url.rstrip("/"), key, certificate, without_key=None if key else _no_key_for(url))

    def target(self) -> Target:
        return self._target

    def unreachable(self, why: str) -> NoServiceError:
        url = self._target.url
        return NoServiceError(
            f"stillframe: nothing answers at {url} ({why}); see whether the service runs there",
            f"stillframe：{url} 无响应（{why}）；请确认服务正在运行",
            may_pass=True,
        )


class ByState:
    """The service of this machine whose state directory it is, with the key that it keeps there for its owner.

    STILLFRAME_API_KEY is taken instead where it is set. A key is never an argument: everybody on the machine can read
    those.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        self.service_file = state / "service.json"
        self.key_file = state / "admin.key"

    def target(self) -> Target:
        url, certificate = self._told()
        try:
            key, without_key = self._key(), None
        except NoKeyError as error:
            key, without_key = "", error
        return Target(url, key, certificate, pinned=certificate is not None, without_key=without_key)

    def unreachable(self, why: str) -> NoServiceError:
        return self._no_service(f"nothing answers there: {why}", f"无响应：{why}", may_pass=True)

    def _told(self) -> tuple[str, Path | None]:
        """Where it listens, by its own word, and who wrote that is alive."""
        file = self.service_file
        try:
            with file.open("rb") as opened:
                told = json.loads(opened.read().decode("utf-8"))
                is_alive = is_spoken(opened.fileno())
            url, certificate = told["url"], told.get("certificate", "")
        except FileNotFoundError as error:
            raise self._no_service(f"{file} does not exist", f"{file} 不存在") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._no_service(f"{file} cannot be read", f"{file} 无法读取") from error
        if not isinstance(url, str) or not url.startswith(("http://", "https://")) or not isinstance(certificate, str):
            raise self._no_service(f"{file} names no address", f"{file} 中没有服务地址")
        # one that was killed leaves its word behind, and whoever listens at its address now would be given the key
        if not is_alive:
            raise self._no_service("the one that ran was killed", "之前的服务已被终止")
        return url, Path(certificate) if certificate else None

    def _key(self) -> str:
        text = os.environ.get(KEY_VARIABLE, "").strip()
        if text:
            return checked_key(text, KEY_VARIABLE)
        try:
            return checked_key(self.key_file.read_text("ascii").strip(), str(self.key_file))
        except (OSError, ValueError) as error:
            why = (error.strerror or "") if isinstance(error, OSError) else "not a key"
            raise NoKeyError(
                f"stillframe: no key: {self.key_file}: {why}; set {KEY_VARIABLE}, or run as the service's owner",
                f"stillframe：没有密钥：无法读取 {self.key_file}；请设置 {KEY_VARIABLE}，或以服务的属主身份运行",
            ) from error

    def _no_service(self, why: str, why_cn: str, *, may_pass: bool = False) -> NoServiceError:
        state = self.state
        return NoServiceError(
            f'stillframe: no service runs for {state} ({why}); start it with "stillframe serve --state {state}"',
            f"stillframe：{state} 没有正在运行的服务（{why_cn}）；请用“stillframe serve --state {state}”启动",
            may_pass=may_pass,
        )


def is_key(text: str) -> bool:
    """It can stand in a header."""
    return text.isascii() and text.isprintable()


def checked_key(text: str, where: str) -> str:
    """Raises: NoKeyError: it cannot be one."""
    if not text or not is_key(text):
        raise NoKeyError(f"stillframe: what stands in {where} is not a key", f"stillframe：{where} 中的内容不是密钥")
    return text


def _no_key_for(url: str) -> NoKeyError:
    return NoKeyError(
        f"stillframe: no key for {url}: set {KEY_VARIABLE}, or name a key_file in the profile",
        f"stillframe：没有 {url} 的密钥：请设置 {KEY_VARIABLE}，或在配置中指定 key_file",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
