"""What doctor can find: the catalogue of kinds, each with what it means and what to do, in both languages.

Kinds are stable for ever: one may be added, never renamed or reused.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FindingKind(StrEnum):
    """Every way in which database, files and hypervisor can disagree."""

    DATABASE_DAMAGED = "database_damaged"
    NOT_LOOKED_AT = "not_looked_at"
    OPERATION_LEFT = "operation_left"
    VM_UNKNOWN = "vm_unknown"
    DISK_DRIFTED = "disk_drifted"
    FOREIGN_OVERLAY = "foreign_overlay"
    MISSING_LAYER = "missing_layer"
    UNREADABLE_LAYER = "unreadable_layer"
    DAMAGED_LAYER = "damaged_layer"
    WRONG_BACKING = "wrong_backing"
    LOOSE_LAYER = "loose_layer"
    ORPHAN_LAYER = "orphan_layer"
    UNFINISHED_LAYER = "unfinished_layer"
    MISSING_MEMORY = "missing_memory"
    DAMAGED_MEMORY = "damaged_memory"
    STUCK_MEMORY = "stuck_memory"
    ORPHAN_MEMORY = "orphan_memory"
    MISSING_SCREENSHOT = "missing_screenshot"
    DAMAGED_SCREENSHOT = "damaged_screenshot"
    ORPHAN_SCREENSHOT = "orphan_screenshot"
    DAMAGED_CONFIGURATION = "damaged_configuration"

    @property
    def words(self) -> Words:
        return _WORDS[self]


@dataclass(frozen=True)
class Words:
    """``repair``: what ``--repair`` does, "" where no answer is the only right one; ``advice``: what else can be done."""

    message: str
    message_cn: str
    advice: str
    advice_cn: str
    repair: str = ""
    repair_cn: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    ``vm_uuid`` is "" where no VM is known to own it; ``snapshots`` are the names of those that need it. ``path`` is the
    file's, or "". ``uuid`` names the row or the file: a layer, memory state, snapshot, operation or VM. ``size_bytes``
    is what the file occupies; of a missing memory state what it occupied; 0 where nobody knows or there is no file.
    ``desc`` says what was seen. ``repairable``: ``--repair`` would try it now.
    """

    kind: FindingKind
    vm_uuid: str = ""
    vm_name: str = ""
    snapshots: tuple[str, ...] = ()
    path: str = ""
    uuid: str = ""
    size_bytes: int = 0
    desc: str = ""
    repairable: bool = False

    @property
    def remedy(self) -> str:
        words = self.kind.words
        return words.repair if self.repairable else words.advice

    @property
    def remedy_cn(self) -> str:
        words = self.kind.words
        return words.repair_cn if self.repairable else words.advice_cn


_PROVE = "nothing is deleted unless it is proved that nobody uses it and that Stillframe made it; see desc"
_PROVE_CN = "只有在证明无人使用且确由 Stillframe 创建时才会删除；详见 desc"

_WORDS: dict[FindingKind, Words] = {
    FindingKind.DATABASE_DAMAGED: Words(
        "the database is damaged",
        "数据库已损坏",
        "stop the service and bring the database back from a backup; nothing is deleted while this lasts",
        "请停止服务并从备份恢复数据库；在此期间不会删除任何文件",
    ),
    FindingKind.NOT_LOOKED_AT: Words(
        "something could not be looked at, so that nothing can be said about it",
        "无法检查该对象，因此无法判断其状态",
        "see desc, then run doctor again",
        "请查看 desc，处理后再次运行 doctor",
    ),
    FindingKind.OPERATION_LEFT: Words(
        "an operation is unfinished; the service goes on trying",
        "有操作尚未完成；服务会继续处理",
        "see desc for what stands in its way",
        "阻碍其完成的原因见 desc",
        "finish it, or undo it completely",
        "完成该操作，或将其完全撤销",
    ),
    FindingKind.VM_UNKNOWN: Words(
        "libvirt does not know this virtual machine, which has snapshots or unfinished operations",
        "libvirt 中没有这台拥有快照或未完成操作的虚拟机",
        "define it again under the same uuid; its files are kept, and what is unfinished is finished then",
        "请以相同的 uuid 重新定义；其文件会被保留，未完成的操作届时会继续完成",
    ),
    FindingKind.DISK_DRIFTED: Words(
        "a disk is not on the file that Stillframe left it on",
        "磁盘不在 Stillframe 记录的文件上",
        "somebody changed it outside: take the change back, see desc",
        "已被外部修改：请撤销该修改，详见 desc",
    ),
    FindingKind.FOREIGN_OVERLAY: Words(
        "somebody put a file of their own on top of a layer",
        "有人在快照层之上放置了自己的文件",
        "merge it back, for example with virsh blockcommit --active --pivot",
        "请将其合并回去，例如使用 virsh blockcommit --active --pivot",
    ),
    FindingKind.MISSING_LAYER: Words(
        "a layer's file does not exist; the snapshots that need it cannot be rolled back",
        "快照层的文件不存在；依赖它的快照无法回滚",
        "bring the file back from a backup to the same path",
        "请从备份将该文件恢复到原路径",
    ),
    FindingKind.UNREADABLE_LAYER: Words(
        "a layer's file cannot be read as the image that it should be",
        "快照层的文件无法按应有的镜像格式读取",
        "see desc; bring the file back from a backup if it is damaged",
        "详见 desc；如已损坏，请从备份恢复该文件",
    ),
    FindingKind.DAMAGED_LAYER: Words(
        "the structure of a layer's file is damaged",
        "快照层文件的内部结构已损坏",
        "bring the file back from a backup, or look at it with qemu-img check",
        "请从备份恢复该文件，或使用 qemu-img check 检查",
    ),
    FindingKind.WRONG_BACKING: Words(
        "a layer's header names another backing file than its parent",
        "快照层文件头中的后备文件不是其父层",
        "shut the virtual machine down and see that the parent's file is intact; then it can be repaired",
        "请关闭虚拟机并确认父层文件完好，之后即可修复",
        "write the parent's path and format into the header",
        "将父层的路径和格式写入文件头",
    ),
    FindingKind.LOOSE_LAYER: Words(
        "a layer that nothing refers to any more",
        "已无任何引用的快照层",
        _PROVE,
        _PROVE_CN,
        "delete its file, unless it is the user's own, and its row",
        "删除其文件（用户自己的文件除外）及其记录",
    ),
    FindingKind.ORPHAN_LAYER: Words(
        "a layer file that no row of the database knows",
        "数据库中没有记录的快照层文件",
        _PROVE,
        _PROVE_CN,
        "delete it",
        "删除该文件",
    ),
    FindingKind.UNFINISHED_LAYER: Words(
        "a layer file whose making was cut off",
        "创建过程被中断的快照层文件",
        _PROVE,
        _PROVE_CN,
        "delete it",
        "删除该文件",
    ),
    FindingKind.MISSING_MEMORY: Words(
        "a memory state's file does not exist; the snapshot's disks can still be rolled back without domain_memory",
        "内存状态文件不存在；仍可不带 domain_memory 回滚该快照的磁盘",
        "bring the file back from a backup, or delete the snapshot",
        "请从备份恢复该文件，或删除该快照",
    ),
    FindingKind.DAMAGED_MEMORY: Words(
        "a memory state's file is damaged; the snapshot's disks can still be rolled back without domain_memory",
        "内存状态文件已损坏；仍可不带 domain_memory 回滚该快照的磁盘",
        "bring the file back from a backup, or delete the snapshot",
        "请从备份恢复该文件，或删除该快照",
    ),
    FindingKind.STUCK_MEMORY: Words(
        "a memory state is said to be on its way, but nobody is saving it",
        "内存状态显示正在保存，但没有任何操作在保存它",
        "another memory state of this virtual machine is being saved; run doctor again when that has ended",
        "该虚拟机正在保存另一个内存状态；请待其结束后再次运行 doctor",
        "mark it as failed and delete its file; the snapshot's disks are as good as before",
        "将其标记为失败并删除其文件；该快照的磁盘不受影响",
    ),
    FindingKind.ORPHAN_MEMORY: Words(
        "a memory file that no snapshot can be restored from",
        "没有快照可用来恢复的内存文件",
        _PROVE,
        _PROVE_CN,
        "delete it",
        "删除该文件",
    ),
    FindingKind.MISSING_SCREENSHOT: Words(
        "a snapshot's screenshot does not exist; the snapshot itself is not affected",
        "快照的屏幕截图不存在；快照本身不受影响",
        "bring the file back from a backup, or leave it",
        "请从备份恢复该文件，或忽略",
    ),
    FindingKind.DAMAGED_SCREENSHOT: Words(
        "a snapshot's screenshot is damaged; the snapshot itself is not affected",
        "快照的屏幕截图已损坏；快照本身不受影响",
        "bring the file back from a backup, or leave it",
        "请从备份恢复该文件，或忽略",
    ),
    FindingKind.ORPHAN_SCREENSHOT: Words(
        "a screenshot that belongs to no snapshot",
        "不属于任何快照的屏幕截图",
        _PROVE,
        _PROVE_CN,
        "delete it",
        "删除该文件",
    ),
    FindingKind.DAMAGED_CONFIGURATION: Words(
        "a snapshot's saved configuration is damaged; single disks can still be rolled back",
        "快照保存的虚拟机配置已损坏；仍可单独回滚磁盘",
        "bring the database back from a backup, or delete the snapshot",
        "请从备份恢复数据库，或删除该快照",
    ),
}
