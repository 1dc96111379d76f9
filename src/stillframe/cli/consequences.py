"""What an act throws away or takes, in plain words, before it is done."""

from __future__ import annotations

import time

from stillframe.cli.ending import FAILED, CliError
from stillframe.cli.plain import human_bytes, human_time
from stillframe.cli.words import Words
from stillframe.client import Client
from stillframe.client.acting import disk_of
from stillframe.client.overviews import DeleteConsequences, RollbackConsequences
from stillframe.domain.errors import ErrorCase


def what_rollback_does(client: Client, vm: str, snapshot: str, *, memory: bool) -> list[Words]:
    """Raises: CliError: its memory is wanted and cannot be had (exit 1); nobody has to be asked then."""
    if memory:
        _need_memory(client, vm, snapshot)
    end = (
        Words("and goes on from that moment", "并从该时刻继续运行")
        if memory
        else Words("and is shut off then", "随后处于关机状态")
    )
    told = client.consequences(vm, snapshot).rollback
    lost = _what_is_lost(told, time.time())
    return [
        Words(f'{vm} goes back to "{snapshot}" {end.en}.', f"{vm} 将回滚到“{snapshot}”，{end.cn}。"),
        Words(f"Thrown away: {lost.en}. No snapshot is lost.", f"将被丢弃：{lost.cn}。不会丢失任何快照。"),
    ]


def what_disk_rollback_does(client: Client, vm: str, snapshot: str, disks: list[str]) -> Words:
    """Raises: CliError: the machine is not shut off (exit 1). ClientError: there is no such disk, snapshot or machine."""
    taken = client.snapshot(vm, snapshot)
    for disk in disks:
        disk_of(taken, disk)
    state = client.inspect(vm).state
    if state != "shutoff":
        case = ErrorCase.VM_NOT_SHUTOFF.value
        raise CliError(FAILED, Words(case.message, case.message_cn), details=f"{vm}: {state}")
    which = ", ".join(disks)
    return Words(
        f'{which} of {vm} will be as in "{taken.name}"; what was written to it since the last snapshot or rollback is thrown away.',
        f"{vm} 的 {which} 将恢复为“{taken.name}”时的内容；自最近一次快照或回滚以来写入的数据将被丢弃。",
    )


def _need_memory(client: Client, vm: str, snapshot: str) -> None:
    attr = client.snapshot(vm, snapshot).attr or {}
    status = attr.get("status", "")
    if status == "available":
        return
    if status == "":
        words = Words(
            f'stillframe: the snapshot "{snapshot}" has no memory: roll back without --memory',
            f"stillframe：快照“{snapshot}”不含内存：请不带 --memory 回滚",
        )
    elif status == "failed":
        words = Words(
            f'stillframe: the memory of "{snapshot}" could not be saved: roll back without --memory',
            f"stillframe：“{snapshot}”的内存未能保存：请不带 --memory 回滚",
        )
    else:
        words = Words(
            f'stillframe: the memory of "{snapshot}" is still being saved: "stillframe watch {vm}" waits for it',
            f"stillframe：“{snapshot}”的内存仍在保存：“stillframe watch {vm}”可等待其完成",
        )
    raise CliError(FAILED, words, details=attr.get("reason", ""))


def what_delete_does(client: Client, vm: str, snapshot: str) -> list[Words]:
    """Raises: CliError: it would be refused (exit 1); nobody has to be asked then."""
    told = client.consequences(vm, snapshot).delete
    if not told.allowed:
        raise CliError(FAILED, Words(told.message, told.message_cn), details=told.desc)
    freed = human_bytes(told.freed_bytes)
    return [
        Words(f'The snapshot "{snapshot}" of {vm} is deleted.', f"将删除 {vm} 的快照“{snapshot}”。"),
        _what_is_merged(told),
        Words(f"Freed for certain: {freed}.", f"确定释放：{freed}。"),
    ]


def _what_is_lost(told: RollbackConsequences, now: float) -> Words:
    if told.changed_bytes is None:
        size = Words("size not known", "大小未知")
    else:
        size = Words(human_bytes(told.changed_bytes), human_bytes(told.changed_bytes))
    base = Words(f'since "{told.stands_on}"', f"自“{told.stands_on}”以来") if told.stands_on else Words("", "")
    if told.since:
        age = human_time(max(0, int(now) - told.since))
        return Words(f"{age} of changes {base.en} ({size.en})", f"{base.cn} {age} 的更改（{size.cn}）")
    return Words(f"all changes {base.en} ({size.en})", f"{base.cn}的全部更改（{size.cn}）")


def _what_is_merged(told: DeleteConsequences) -> Words:
    if not told.merges:
        return Words("Nothing has to be copied.", "无需复制数据。")
    each = ", ".join(f"{one.disk} {human_bytes(one.bytes)}" for one in told.merges)
    total = human_bytes(sum(one.bytes for one in told.merges))
    return Words(
        f"Merged with what stands on it: {each}; {total} to copy.", f"与其上的层合并：{each}；需复制 {total}。"
    )
