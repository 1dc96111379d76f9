"""What can go wrong with a call, as the caller sees it: every error speaks English and Chinese, as the API does.

ClientError
├── ApiError             the service said no: its own words and code
├── NoServiceError       nothing was sent: there is nobody to send it to
├── NoAnswerError        it was sent and no answer came; a call that changes something may have been carried out
├── NotStillframeError   what answers there does not speak this API
├── NoKeyError           there is no key to show
├── NotFoundError        nothing has this name
├── MemoryNotSavedError  the snapshot was taken, its memory was not saved
├── StillGoingOnError    the wait was too short; the work goes on
└── ProfileError         profiles.toml, or what it names, cannot be used
"""

from __future__ import annotations

from stillframe.client.models import Task
from stillframe.domain.errors import ErrorCase

# said by the service when what was begun is not decided yet: it goes on by itself
_OPEN = frozenset({ErrorCase.LEFT_BEHIND.code, ErrorCase.STOPPING.code})


class ClientError(Exception):
    """``message`` and ``message_cn`` say the same; ``desc`` has the details, in whatever language they came."""

    def __init__(self, message: str, message_cn: str, desc: str = "") -> None:
        super().__init__(f"{message}: {desc}" if desc else message)
        self.message = message
        self.message_cn = message_cn
        self.desc = desc

    @property
    def is_open(self) -> bool:
        """What was asked for may still come about, or already has."""
        return False


class ApiError(ClientError):
    """The service's envelope said no. ``scode``: the code of docs/errors.md."""

    def __init__(
        self,
        scode: int,
        message: str,
        message_cn: str,
        desc: str = "",
        *,
        request_id: str = "",
        retry_after_s: float | None = None,
        operation_uuids: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, message_cn, desc)
        self.scode = scode
        self.request_id = request_id
        """Under which the service's log has the full story; empty: it gave none."""
        self.retry_after_s = retry_after_s
        """When the same request may succeed, seconds from now; None: it did not say."""
        self.operation_uuids = operation_uuids
        """The tasks that the call was, when it failed after it had begun."""

    @property
    def is_open(self) -> bool:
        return self.scode in _OPEN


class NoServiceError(ClientError):
    """Nothing was sent. ``may_pass``: somebody should be there, and a second try may find him."""

    def __init__(self, message: str, message_cn: str, *, may_pass: bool = False) -> None:
        super().__init__(message, message_cn)
        self.may_pass = may_pass


class NoAnswerError(ClientError):
    """It was sent, and the answer did not come. ``changes``: it was a call that changes something."""

    def __init__(self, changes: bool, why: str) -> None:
        if changes:
            super().__init__(
                "stillframe: the service did not answer, and what was asked may or may not have been done; "
                f"look before you repeat it, its task list tells ({why})",
                f"stillframe：服务未返回结果，该操作可能已执行也可能未执行；重试前请先查看任务列表（{why}）",
            )
        else:
            super().__init__(
                f"stillframe: the service did not answer; its log says more ({why})",
                f"stillframe：服务未返回结果；请查看服务日志（{why}）",
            )
        self.changes = changes

    @property
    def is_open(self) -> bool:
        return self.changes


class NotStillframeError(ClientError):
    """An answer came, and it is none of this API's."""

    def __init__(self, http_status: int, desc: str = "") -> None:
        super().__init__(
            f"stillframe: what answers there is not Stillframe (HTTP {http_status})",
            f"stillframe：该地址上的服务不是 Stillframe（HTTP {http_status}）",
            desc,
        )


class NoKeyError(ClientError):
    """The service wants a key, and there is none."""


class NotFoundError(ClientError):
    """No virtual machine, snapshot or disk has this name, or several have it."""


class MemoryNotSavedError(ClientError):
    """The snapshot is there, of the disks alone."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f'stillframe: the snapshot "{name}" was taken, but its memory could not be saved: it has the disks alone',
            f"stillframe：快照“{name}”已创建，但内存保存失败：仅包含磁盘",
            why,
        )


class StillGoingOnError(ClientError):
    """The time to wait is over and the work is not. ``task``: how far it was."""

    def __init__(self, task: Task) -> None:
        super().__init__(
            f"stillframe: it still goes on ({task.kind}, {task.progress} %): task {task.uuid}",
            f"stillframe：操作仍在进行（{task.kind}，{task.progress} %）：任务 {task.uuid}",
        )
        self.task = task

    @property
    def is_open(self) -> bool:
        return True


class ProfileError(ClientError):
    """There is no such profile, or it cannot be used as it stands."""
