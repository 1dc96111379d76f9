"""The running service, as the command line sees it: found through the state directory, asked over HTTP."""

from __future__ import annotations

import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from stillframe.domain.errors import ErrorCase
from stillframe.settings import Settings
from stillframe.spoken import is_spoken

EXIT_FAILED = 1
EXIT_NO_SERVICE = 3

CONNECT_TIMEOUT_S = 5.0
# making a guest or deleting its snapshots may take as long as the storage does
ANSWER_TIMEOUT_S = 3600.0


class CliError(Exception):
    """Something to tell the user, line by line, and the exit code to end with."""

    def __init__(self, exit_code: int, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.exit_code = exit_code
        self.lines = lines


def call(settings: Settings, method: str, path: str, **arguments: Any) -> Any:
    """The ``data`` of one call to the service of the settings' state directory. ``arguments``: httpx's ``params``, ``json``.

    Raises:
        CliError: no service runs (exit 3), or it answered with an error or not at all (exit 1).
    """
    told = service_address(settings)
    headers, why_no_key = _api_key(settings)
    timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    try:
        # no proxy of the environment: the service is on this machine
        with httpx.Client(base_url=told.url, timeout=timeout, trust_env=False, verify=told.trust()) as client:
            answer = client.request(method, path, headers=headers, **arguments)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise _no_service(settings.state, f"nothing answers at {told.url}", f"{told.url} 无响应") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CliError(
            EXIT_FAILED,
            f"stillframe: the service did not answer; its log says more ({error or type(error).__name__})",
            "stillframe：服务未返回结果；请查看服务日志",
        ) from error
    return _data_of(answer, _no_key(settings, why_no_key) if why_no_key else None)


@dataclass(frozen=True)
class Address:
    """How a service is reached. ``certificate``: the file of the one that it shows, "" without TLS."""

    url: str
    certificate: str = ""

    def trust(self) -> ssl.SSLContext | bool:
        """That very certificate is trusted, whoever signed it and whatever name is in it: it is this machine's own."""
        if not self.certificate:
            return True
        context = ssl.create_default_context(cafile=self.certificate)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


def service_address(settings: Settings) -> Address:
    """Where the service of the settings' state directory listens, by its own word in ``service.json``.

    Raises:
        CliError: exit 3, when there is no such file, it does not say, or who wrote it is no more.
    """
    file = settings.service_file
    try:
        with file.open("rb") as opened:
            told = json.loads(opened.read().decode("utf-8"))
            is_alive = is_spoken(opened.fileno())
        address = Address(told["url"], told.get("certificate", ""))
    except FileNotFoundError as error:
        raise _no_service(settings.state, f"{file} does not exist", f"{file} 不存在") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _no_service(settings.state, f"{file} cannot be read", f"{file} 无法读取") from error
    if not isinstance(address.url, str) or not address.url.startswith(("http://", "https://")):
        raise _no_service(settings.state, f"{file} names no address", f"{file} 中没有服务地址")
    # one that was killed leaves its word behind, and whoever listens at its address now would be given the key
    if not is_alive:
        raise _no_service(settings.state, "the one that ran was killed", "之前的服务已被终止")
    return address


def _api_key(settings: Settings) -> tuple[dict[str, str], str]:
    """The header with the key, or none and why: from STILLFRAME_API_KEY, else the file that the service wrote for its owner.

    It is never a command's argument: those can be read by everybody on the machine.
    """
    text = os.environ.get("STILLFRAME_API_KEY", "")
    if not text:
        try:
            text = settings.key_file.read_text("ascii")
        except (OSError, ValueError) as error:
            return {}, (error.strerror or "") if isinstance(error, OSError) else "not a key"
    return {"ApiKey": text.strip()}, ""


def _no_key(settings: Settings, why: str) -> CliError:
    return CliError(
        EXIT_FAILED,
        f"stillframe: no key: {settings.key_file}: {why}; set STILLFRAME_API_KEY, or run as the service's owner",
        f"stillframe：没有密钥：无法读取 {settings.key_file}；请设置 STILLFRAME_API_KEY，或以服务的属主身份运行",
    )


def _data_of(answer: httpx.Response, without_key: CliError | None) -> Any:
    try:
        envelope = answer.json()
        scode, data = envelope["scode"], envelope["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise CliError(
            EXIT_FAILED,
            f"stillframe: what answers there is not Stillframe (HTTP {answer.status_code})",
            f"stillframe：该地址上的服务不是 Stillframe（HTTP {answer.status_code}）",
        ) from error
    if scode == 0:
        return data
    if without_key is not None and scode == ErrorCase.NOT_AUTHENTICATED.code:
        raise without_key
    lines = [str(envelope.get(key, "")) for key in ("message", "message_cn", "desc")]
    raise CliError(EXIT_FAILED, *(line for line in lines if line))


def _no_service(state: Path, why: str, why_cn: str) -> CliError:
    return CliError(
        EXIT_NO_SERVICE,
        f'stillframe: no service runs for {state} ({why}); start it with "stillframe serve --state {state}"',
        f"stillframe：{state} 没有正在运行的服务（{why_cn}）；请用“stillframe serve --state {state}”启动",
    )
