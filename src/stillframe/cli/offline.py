"""Doctor where no service runs: what can be seen without one."""

from __future__ import annotations

from typing import Any

from stillframe.cli.ending import FAILED, NO_SERVICE, CliError
from stillframe.cli.words import Words
from stillframe.settings import Settings

OFFLINE = Words(
    "stillframe: no service runs: this is what can be seen of the database and of files; libvirt was not asked",
    "stillframe：没有正在运行的服务：以下仅为数据库和文件的检查结果；未查询 libvirt",
)


def look_offline(settings: Settings, no_service: CliError, *, repair: bool, deep: bool) -> dict[str, Any]:
    """The data of doctor's call, as the service would answer it; nothing is changed.

    Raises:
        CliError: ``no_service`` itself where none has ever run; exit 3 when a repair is wanted, or a service has the state
            directory but does not answer; exit 1 when the directory cannot be used.
    """
    if repair:
        raise CliError(
            NO_SERVICE,
            *no_service.words,
            Words(
                "stillframe: --repair needs the running service; without it doctor can look by itself",
                "stillframe：--repair 需要服务正在运行；不带该选项时 doctor 可自行检查",
            ),
        )
    try:
        if not (settings.database_path.exists() or settings.lock_file.exists()):
            raise no_service
        return _data(settings, no_service, deep=deep)
    except OSError as error:
        raise CliError(
            FAILED,
            Words(
                f"stillframe: cannot use {settings.state}: {error.strerror or error}",
                f"stillframe：无法使用 {settings.state}：{error.strerror or error}",
            ),
        ) from error


def _data(settings: Settings, no_service: CliError, *, deep: bool) -> dict[str, Any]:
    # all that the service is made of, as for "serve"
    from stillframe import bootstrap  # noqa: PLC0415
    from stillframe.http.answers import doctor_data  # noqa: PLC0415 -- see above

    try:
        return doctor_data(bootstrap.look_offline(settings, deep=deep)).model_dump(mode="json")
    except bootstrap.StateInUseError as error:
        raise CliError(
            NO_SERVICE,
            *no_service.words,
            Words(
                f"stillframe: a service holds {settings.state} all the same: it is being started or stopped, or does not "
                "answer",
                f"stillframe：但仍有服务占用 {settings.state}：它可能正在启动或停止，或没有响应",
            ),
        ) from error
