"""The error catalogue: the only place that knows an error's code, its English and its Chinese.

Codes are stable for ever: a case may be added, never renumbered or reused. ``docs/errors.md`` is generated
from this table and a test fails when the two differ.

    StillframeError
    ├── Refused     nothing was done; the request may be corrected and repeated
    ├── Failed      something was tried and broke; the state afterwards is said in ``desc``
    └── Unknown     the reply was lost: it may or may not have happened; probe before repeating

"Not found" (proved absent) and "could not look" (``Failed``/``Unknown``) are different results everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class Case:
    """One row of the catalogue: what went wrong and what to do next, in both languages."""

    code: int
    http_status: int
    message: str
    message_cn: str


class ErrorCase(Enum):
    """Every way a call can end other than well."""

    PARAMETER_MISSING = Case(
        21001, 400, "a required parameter is missing; add it and repeat", "缺少必需的参数；请补上后重试"
    )
    PARAMETER_MALFORMED = Case(
        21002,
        400,
        "a parameter has the wrong form; correct it and repeat",
        "参数格式不正确；请更正后重试",
    )
    NAME_ILLEGAL = Case(
        21003,
        400,
        "this snapshot name cannot be used: 1 to 128 characters, no '/', no control characters, not 'head'; choose another",
        "快照名称不可用：须为 1 至 128 个字符，不含“/”和控制字符，且不为“head”；请另选名称",
    )
    BODY_TOO_LARGE = Case(
        21004,
        413,
        "the request body is larger than this service accepts; shorten it",
        "请求内容超过服务允许的大小；请缩短后重试",
    )
    CALL_UNKNOWN = Case(
        21005,
        404,
        "this service has no such call; check path and method against /openapi.json",
        "没有这个接口；请对照 /openapi.json 检查路径和方法",
    )
    REQUEST_TOO_SLOW = Case(
        21006,
        408,
        "the request did not arrive in time, and the connection is closed; connect again and send it without pauses",
        "请求未在规定时间内发送完毕，连接已关闭；请重新连接并一次性发送",
    )
    URL_TOO_LONG = Case(
        21007,
        414,
        "the URL is longer than this service accepts; shorten its parameters",
        "URL 超过服务允许的长度；请缩短参数后重试",
    )
    HEADERS_TOO_LARGE = Case(
        21008,
        431,
        "the request's headers are larger than this service accepts; send fewer or shorter ones",
        "请求头超过服务允许的大小；请减少或缩短请求头后重试",
    )
    REQUEST_BROKEN = Case(
        21009,
        400,
        "this is not a request that an HTTP/1.1 server can answer, and the connection is closed; see desc for why",
        "这不是 HTTP/1.1 服务器可以应答的请求，连接已关闭；原因见 desc",
    )
    CLUSTER_UNKNOWN = Case(
        22001,
        404,
        "no such cluster; take cluster_uuid from /v1/compute/list",
        "集群不存在；请从 /v1/compute/list 获取 cluster_uuid",
    )
    VM_UNKNOWN = Case(
        22002, 404, "no such virtual machine; see /v1/compute/list", "虚拟机不存在；请查看 /v1/compute/list"
    )
    TENANT_WRONG = Case(
        22003,
        404,
        "the virtual machine does not belong to this tenant; check tenant",
        "虚拟机不属于该租户；请检查 tenant 参数",
    )
    SNAPSHOT_UNKNOWN = Case(
        22004,
        404,
        "no such snapshot of this virtual machine; see its snapshot list",
        "该虚拟机没有这个快照；请查看快照列表",
    )
    TASK_UNKNOWN = Case(22005, 404, "no such task; see the task list", "没有这个任务；请查看任务列表")
    KEY_UNKNOWN = Case(22006, 404, "no such key; see the key list", "没有这个密钥；请查看密钥列表")
    LOG_LINE_UNKNOWN = Case(
        22007,
        404,
        "no such line of the operation log, or not any more; begin again with its first page",
        "操作日志中没有这一行，或已被清除；请从第一页重新查询",
    )
    TENANT_UNKNOWN = Case(
        22008,
        404,
        "no such tenant: it has no virtual machine, no limits and no key; see the tenant list",
        "没有这个租户：没有属于它的虚拟机、限额或密钥；请查看租户列表",
    )
    NAME_TAKEN = Case(
        23001,
        409,
        "the virtual machine already has a snapshot of this name; choose another",
        "该虚拟机已有同名快照；请另选名称",
    )
    VM_BUSY = Case(
        23002,
        409,
        "another operation is running on this virtual machine; wait for it and repeat",
        "虚拟机正在执行另一个操作；请等待其完成后重试",
    )
    VM_NOT_RUNNING = Case(
        23003,
        409,
        "the virtual machine must be running for this; start it first",
        "该操作要求虚拟机处于运行状态；请先开机",
    )
    VM_NOT_SHUTOFF = Case(
        23004,
        409,
        "the virtual machine must be shut off for this; shut it down first",
        "该操作要求虚拟机处于关机状态；请先关机",
    )
    VM_STARTED_ALREADY = Case(
        23024,
        409,
        "the virtual machine runs already; there is nothing to start",
        "虚拟机已在运行；无需开机",
    )
    MEMORY_SPACE_CLOSED = Case(
        23005,
        403,
        "memory-snapshot space is not open for this tenant; ask the administrator to open it",
        "该租户未开启内存快照空间；请联系管理员开启",
    )
    SPACE_EXHAUSTED = Case(
        23006, 507, "not enough space; delete snapshots or add storage, then repeat", "空间不足；请删除快照或扩容后重试"
    )
    DISK_UNSUPPORTED = Case(
        23007,
        409,
        "a disk of this virtual machine cannot be snapshotted; see desc for which and why",
        "该虚拟机有不支持快照的磁盘；详见 desc",
    )
    SNAPSHOT_NOT_READY = Case(
        23008,
        409,
        "a memory snapshot is still being saved; repeat when it is available",
        "内存快照仍在保存中；请待其可用后重试",
    )
    SNAPSHOT_WITHOUT_MEMORY = Case(
        23009,
        409,
        "this snapshot has no memory state; roll back without domain_memory",
        "该快照没有内存状态；请不带 domain_memory 回滚",
    )
    SNAPSHOT_HAS_CHILDREN = Case(
        23010,
        409,
        "the snapshot has several children; delete all but one of them first",
        "该快照有多个子快照；请先删除其余子快照，只保留一个",
    )
    CHAIN_TOO_DEEP = Case(
        23011,
        409,
        "the chain of snapshots is at its depth limit; delete a snapshot on it first",
        "快照链已达深度上限；请先删除链上的快照",
    )
    DISK_DRIFTED = Case(
        23012,
        409,
        "a disk is not on the layer that Stillframe left it on; somebody changed it outside; see desc",
        "磁盘不在 Stillframe 记录的层上，已被外部修改；详见 desc",
    )
    VOLUME_UNKNOWN = Case(
        23013,
        404,
        "no such volume, disk or volume snapshot on this virtual machine; see its disk_snapshot_list",
        "该虚拟机没有这个卷、磁盘或卷快照；请查看 disk_snapshot_list",
    )
    VOLUME_REPEATED = Case(
        23014,
        409,
        "the same volume is named twice in one request; name it once",
        "同一请求中重复指定了同一个卷；请只指定一次",
    )
    VM_TRANSIENT = Case(
        23015,
        409,
        "the virtual machine has no saved definition (it is transient); define it in libvirt first",
        "该虚拟机没有持久化配置（临时虚拟机）；请先在 libvirt 中定义",
    )
    POWER_STATE_WRONG = Case(
        23016,
        409,
        "the virtual machine's power state does not allow this; see desc",
        "虚拟机当前的电源状态不允许该操作；详见 desc",
    )
    NAME_OF_VM_TAKEN = Case(
        23017, 409, "a virtual machine of this name exists already; choose another", "已有同名虚拟机；请另选名称"
    )
    VM_RENAMED = Case(
        23018,
        409,
        "the virtual machine was renamed since the snapshot, and its memory can only be restored under the old name; "
        "rename it back, or roll back without domain_memory",
        "虚拟机在快照之后被改名，内存只能以原名恢复；请改回原名，或不带 domain_memory 回滚",
    )
    TASK_NOT_CANCELLABLE = Case(
        23019,
        409,
        "this task can no longer be cancelled; see desc for why; wait for its end",
        "该任务已无法取消；原因见 desc；请等待其结束",
    )
    QUOTA_EXHAUSTED = Case(
        23020,
        507,
        "this does not fit into the tenant's budget; delete snapshots, or ask the administrator for a larger one",
        "超出该租户的空间配额；请删除部分快照，或联系管理员提高配额",
    )
    SNAPSHOTS_TOO_MANY = Case(
        23021,
        409,
        "the virtual machine has as many snapshots as it may have; delete one first",
        "虚拟机的快照数量已达上限；请先删除部分快照",
    )
    IMAGE_REFUSED = Case(
        23022,
        409,
        "an image file of this virtual machine is not one that Stillframe opens; see desc for which disk and why",
        "该虚拟机的镜像文件不符合 Stillframe 的打开条件；涉及的磁盘和原因详见 desc",
    )
    TOO_BUSY = Case(
        23023,
        503,
        "too many operations are under way; repeat when one has ended",
        "正在执行的操作过多；请待其中一些完成后重试",
    )
    MEMORY_DAMAGED = Case(
        24001,
        500,
        "the saved memory state is damaged (its checksum does not match); the disks can still be rolled back without domain_memory",
        "保存的内存状态已损坏（校验和不符）；仍可不带 domain_memory 回滚磁盘",
    )
    HOST_UNREACHABLE = Case(
        24002,
        503,
        "the hypervisor cannot be reached; check libvirt on the host, then repeat",
        "无法连接虚拟化主机；请检查主机上的 libvirt 后重试",
    )
    STORAGE_FAILED = Case(
        24003, 500, "the storage failed; see desc for its own words", "存储操作失败；详见 desc 中的原始信息"
    )
    HYPERVISOR_FAILED = Case(
        24004, 500, "the hypervisor failed; see desc for its own words", "虚拟化层操作失败；详见 desc 中的原始信息"
    )
    INTERRUPTED = Case(
        24005, 500, "the operation was interrupted and has been undone; repeat it", "操作被中断并已撤销；请重试"
    )
    CONFIGURATION_DAMAGED = Case(
        24006,
        500,
        "the saved configuration is damaged (its checksum does not match); single disks can still be rolled back",
        "保存的虚拟机配置已损坏（校验和不符）；仍可单独回滚磁盘",
    )
    LEFT_BEHIND = Case(
        24007,
        500,
        "the operation could not be finished or undone completely; the service goes on trying, and nothing is lost; "
        "see desc, and run doctor if it stays",
        "操作未能全部完成或撤销；服务会继续处理，数据没有丢失；详见 desc，如长时间未恢复请运行 doctor",
    )
    MEMORY_RESTORE_FAILED = Case(
        24008,
        500,
        "disks and configuration were rolled back, but the hypervisor did not accept the saved memory; the virtual machine is shut off",
        "磁盘和配置已回滚，但虚拟化层未能恢复保存的内存；虚拟机处于关机状态",
    )
    CANCELLED = Case(
        24009,
        409,
        "the operation was cancelled and has been undone; nothing of it is left",
        "操作已被取消并已撤销；没有任何残留",
    )
    STOPPING = Case(
        24010,
        503,
        "the service is being stopped; what it was doing is finished or undone at its next start; see the task list then",
        "服务正在停止；未完成的操作将在下次启动时完成或撤销；请届时查看任务列表",
    )
    MEMORY_NOT_RESTORED = Case(
        24011,
        409,
        "disks and configuration were rolled back, but the virtual machine ran on them before its memory was restored, "
        "and keeps what it wrote; roll back again to get the memory",
        "磁盘和配置已回滚，但虚拟机在恢复内存之前已在其上运行，其写入的数据已保留；如需恢复内存，请再次回滚",
    )
    DATABASE_DAMAGED = Case(
        24012,
        500,
        "the service's database is damaged; stop the service, see what stillframe doctor says, and bring the database back "
        "from a backup",
        "服务的数据库已损坏；请停止服务，运行 stillframe doctor 查看详情，并从备份恢复数据库",
    )
    NOT_AUTHENTICATED = Case(
        25001, 401, "no valid ApiKey was given; send the header ApiKey", "未提供有效的 ApiKey；请在请求头中携带 ApiKey"
    )
    NOT_ALLOWED = Case(
        25002, 403, "this key may not do that; use one with the right", "该 ApiKey 无权执行此操作；请使用有权限的密钥"
    )
    LAST_ADMINISTRATOR = Case(
        25003,
        409,
        "this is the last administrator's key that does not expire; make another first",
        "这是最后一个不过期的管理员密钥；请先创建另一个",
    )
    KEY_ENDED = Case(
        25004,
        409,
        "this key has been revoked or has expired; create a new one",
        "该密钥已被吊销或已过期；请创建新的密钥",
    )
    LINK_INVALID = Case(
        25005,
        403,
        "this link is not valid any more; ask for the snapshot again to get a new one",
        "该链接已失效；请重新查询快照以获取新链接",
    )
    RATE_LIMITED = Case(
        26001,
        429,
        "too many requests in a short time; wait as many seconds as the header Retry-After says, then repeat",
        "短时间内请求过多；请按响应头 Retry-After 给出的秒数等待后重试",
    )
    INTERNAL = Case(
        29001,
        500,
        "an internal error; nothing is left half-done; the server's log has the story under the id in desc",
        "内部错误；未留下半成品；详情见服务日志，编号在 desc 中",
    )

    @property
    def code(self) -> int:
        return self.value.code


class StillframeError(Exception):
    """An outcome from the catalogue.

    ``desc`` says about which VM, disk or snapshot, with the hypervisor's or storage's own words where they help.
    It may reach a client: no secret, no path outside the VM's own disks, no stack.
    ``retry_after_s``: when the same request may succeed, where that is known.
    """

    def __init__(self, case: ErrorCase, desc: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(f"{case.name} ({case.code}): {desc}" if desc else f"{case.name} ({case.code})")
        self.case = case
        self.desc = desc
        self.retry_after_s = retry_after_s


class Refused(StillframeError):
    """A rule, the hypervisor or the storage said no before anything happened."""


class Failed(StillframeError):
    """It was tried and broke. Whoever raises it has left the world as the call's docstring promises."""


class Unknown(StillframeError):
    """The reply did not come in time. The act may have happened: probe, then repeat or undo."""
