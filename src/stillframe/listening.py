"""Where the service may listen and keep its state, and the one secret that it writes to a file for its owner."""

from __future__ import annotations

import ipaddress
import os
import ssl
import stat
from pathlib import Path

from stillframe.settings import Settings


def split_listen(listen: str) -> tuple[str, int]:
    """``HOST:PORT`` in its parts; an IPv6 address stands in brackets."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]") or "127.0.0.1", int(port)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def why_not_listen(settings: Settings) -> str:
    """Why the service does not listen as these settings say, in both languages; empty when it may.

    A key is as good as its secrecy: beyond loopback it travels through TLS, or the operator has said otherwise.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if (certificate is None) != (key is None):
        return (
            "refused: tls_certificate and tls_key belong together; give both or none\n"
            "拒绝：tls_certificate 与 tls_key 必须同时提供，或都不提供"
        )
    if certificate is not None and key is not None:
        return _why_no_tls(certificate, key)
    host, _port = split_listen(settings.listen)
    if is_loopback(host) or settings.plain_http:
        return ""
    return (
        f"refused: {settings.listen} is not loopback, and without TLS whoever sees the network can read the keys; give "
        "--tls-certificate and --tls-key, or --plain-http where something in front of the service speaks TLS\n"
        f"拒绝：{settings.listen} 不是回环地址，没有 TLS 时网络上的任何人都能读到密钥；请提供 --tls-certificate 和 --tls-key，"
        "若前端已有 TLS 代理则使用 --plain-http"
    )


def _why_no_tls(certificate: Path, key: Path) -> str:
    try:
        # an encrypted key would ask at a terminal that a service does not have
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or str(error)
        return (
            f"refused: {certificate} and {key} are not a certificate and its key, unencrypted PEM, that can be read: {why}\n"
            f"拒绝：{certificate} 与 {key} 不是可读取的未加密 PEM 证书和密钥"
        )
    return ""


def why_not_kept(state: Path) -> str:
    """Why the service does not work on this directory, in both languages; empty when it does.

    Who may write there may put another database, or another key, in the place of ours.

    Raises:
        OSError: it cannot be looked at.
    """
    found = state.stat()
    if found.st_uid not in (0, os.geteuid()):
        return (
            f"refused: {state} belongs to uid {found.st_uid}, who could replace the keys and the database; run the service "
            f"as that user, or: chown {os.geteuid()} {state}\n"
            f"拒绝：{state} 属于 uid {found.st_uid}，该用户能替换密钥和数据库；请以该用户运行服务，或执行 chown {os.geteuid()} {state}"
        )
    mode = stat.S_IMODE(found.st_mode)
    if not mode & (stat.S_IWGRP | stat.S_IWOTH):
        return ""
    return (
        f"refused: others may write into {state} (mode {mode:04o}), and so replace the keys and the database; "
        f"take that from them: chmod go-w {state}\n"
        f"拒绝：其他用户可以写入 {state}（权限 {mode:04o}），因而能替换密钥和数据库；请执行 chmod go-w {state}"
    )


def local_url(scheme: str, host: str, port: int) -> str:
    """How commands on this machine reach a service that listens there."""
    reachable = _reachable(host)
    return f"{scheme}://[{reachable}]:{port}" if ":" in reachable else f"{scheme}://{reachable}:{port}"


def _reachable(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"  # noqa: PLR2004 -- IPv4


def write_secret(path: Path, text: str) -> None:
    """The file holds this line, durably, and only its owner can read it: at no moment can anybody else.

    Written by root, it is its directory's owner's: a command of root's does not take the service's key from it.

    Raises:
        OSError: it could not be written; what stood there still does.
    """
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        owner = path.parent.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
