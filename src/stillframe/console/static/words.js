// Everything that is said, in English and Chinese.

const EN = {
  console: "Console", machines: "Virtual machines", activity: "Activity", signOut: "Sign out", signIn: "Sign in",
  key: "API key", keyHint: "The first administrator's key is in admin.key in the service's state directory.",
  theme: "Theme", light: "Light", dark: "Dark", auto: "As the system", language: "Language", skip: "Skip to the content",
  search: "Search", searchMachines: "Name or uuid", allStates: "All states", state: "State", name: "Name", tenant: "Tenant",
  work: "Work", noMachines: "No virtual machine matches.",
  noneYet: "There is no virtual machine yet. All of the service's libvirt are shown here by themselves, to a tenant those that were assigned to it.",
  nMachines: ["{n} virtual machine", "{n} virtual machines"],
  take: "Take snapshot", rollBack: "Roll back", rollBackDisks: "Single disks …", edit: "Edit", remove: "Delete",
  start: "Start", shutdown: "Shut down", shutoff: "Power off", cancel: "Cancel", close: "Close",
  now: "Current state", running: "running", nowEmpty: "no snapshot yet", changed: "{size} changed", sizeUnknown: "size not known",
  snapshots: ["{n} snapshot", "{n} snapshots"], total: "{size} in all", folded: "{n} snapshots", unfold: "Show {n} snapshots", foldAll: "Fold long runs",
  zoomIn: "Zoom in", zoomOut: "Zoom out", fit: "Show all", findSnapshot: "Find a snapshot", found: "{i} of {n}", notFound: "not found",
  tree: "Tree of snapshots", details: "Details", choose: "Choose a snapshot in the tree to see what it holds.",
  description: "Description", taken: "Taken", disks: "Disks", memory: "Memory", onDisk: "{size} on disk",
  withMemory: "With memory", withoutMemory: "disks only", screenshot: "Screen at that moment", enlarge: "Enlarge the screen of {name}",
  memorySaving: "being saved, {n} %", memoryFailed: "not saved: {why}", memoryAvailable: "{size}", parent: "Descends from", root: "nothing: it is the first",
  headMark: "The current state descends from it.",
  takeTitle: "Take a snapshot of {vm}", takeName: "Name", takeMemory: "With running memory, to resume exactly here",
  takeMemoryOff: "The machine does not run: there is no memory to save.",
  rollTitle: "Roll {vm} back to “{name}”", rollLost: "{time} of changes since “{from}” are thrown away ({size}).",
  rollAll: "Everything that was written to its disks is thrown away ({size}).",
  rollKeeps: "Every snapshot stays, older and newer ones.", rollOff: "The machine ends shut off, with its disks and configuration as they were.",
  rollMemory: "Resume the guest from its memory, exactly where it was", rollMemoryNone: "This snapshot has no memory.",
  rollMemoryFailed: "Its memory could not be saved.", rollMemorySaving: "Its memory is still being saved: until then a rollback is refused.",
  deleteTitle: "Delete “{name}” of {vm}?", deleteOthers: "No other state of the machine changes.", deleteMerge: "{size} of disk {disk} have to be merged first; the machine may go on running.",
  deleteNoMerge: "Nothing has to be merged.", deleteFrees: "At least {size} are freed.", deleteRefused: "It cannot be deleted now:",
  editTitle: "Describe “{name}”", save: "Save", disksTitle: "Roll single disks of {vm} back to “{name}”", disksHint: "Only while the machine is shut off. The other disks stay as they are.",
  costChanged: "It is no longer as it was when you were asked. Read again what stands here, then decide.",
  disksPartly: "Rolled back: {done}. Not rolled back: {failed}.", disksNoneDone: "Not rolled back: {failed}.",
  disksNone: "Choose at least one disk.", disksOff: "Shut the machine off first.", disksLost: "What was written to the chosen disks since the last snapshot or rollback is thrown away.",
  working: "Work in progress", recent: "Recent work", noTasks: "Nothing has been done yet.", left: "{time} left", cancelWork: "Cancel {what}",
  dismiss: "Dismiss", request: "Request", loading: "Loading …", again: "Try again", away: "No connection; trying again.",
  done: "{what}: done", more: "Older", actsReader: "This key may only look.",
  ago: "{time} ago", justNow: "just now", confirmOff: "Power off {vm} at once? What the guest has not written is lost.",
  kinds: { create: "Snapshot", save_memory: "Saving memory", rollback: "Rollback", rollback_volume: "Disk rollback", delete: "Delete", check_memory: "Check of the memory",
    modify: "Description", power: "Power", assign: "Assignment", doctor: "Repair", guest_create: "Guest made", forget: "Guest removed" },
  states: { planning: "planning", running: "running", cancelling: "being cancelled", finishing: "finishing", undoing: "being undone",
    done: "done", refused: "refused", undone: "undone", left: "unfinished; tried again" },
  steps: { "make overlays": "new layers", "make memory file": "memory file", "fix the point in time": "fixing the moment",
    "make durable": "writing to disk", publish: "recording the snapshot", "await the capture": "capturing memory",
    "release the capture": "ending the capture", flush: "writing memory to disk", "finish the image": "completing the memory file",
    seal: "sealing the memory file", "verify and make overlays": "checking files, new layers", define: "restoring the configuration",
    commit: "deciding", "power off": "powering off", "restore memory": "restoring memory", "move the heads": "changing the current state",
    "drop the old heads": "removing what was thrown away", "make the overlay": "new layer",
    "switch the definition": "changing the configuration", "move the head": "changing the disk's current state",
    "drop the old head": "removing what was thrown away", unpublish: "removing the record",
    "drop memory and screenshot": "removing memory and screen", "drop layer *": "removing a layer", "merge *: commit": "merging layers", "merge *: pull": "merging layers",
    "merge *: repoint": "changing what stands on the layer", "merge *: record": "recording the merge",
    "merge *: drop": "removing the merged layer", "drop files": "removing files", "remove the guest": "removing the guest" },
  power: { running: "running", blocked: "running", paused: "paused", pmsuspend: "suspended", shutdown: "shutting down", shutoff: "shut off",
    crashed: "crashed", nostate: "unknown" },
  actions: { noaction: "none", cloning: "being cloned", save: "snapshot", migrating: "migrating", pending: "working", importing: "importing",
    restoring: "rolling back" },
  units: { y: "y", mo: "mo", d: "d", h: "h", min: "min", s: "s" },
};

const ZH = {
  console: "控制台", machines: "虚拟机", activity: "任务", signOut: "退出", signIn: "登录",
  key: "API 密钥", keyHint: "首个管理员密钥保存在服务状态目录的 admin.key 中。",
  theme: "主题", light: "浅色", dark: "深色", auto: "跟随系统", language: "语言", skip: "跳到正文",
  search: "搜索", searchMachines: "名称或 uuid", allStates: "所有状态", state: "状态", name: "名称", tenant: "租户",
  work: "操作", noMachines: "没有符合条件的虚拟机。",
  noneYet: "还没有虚拟机。服务所连接的 libvirt 中的虚拟机会自动显示在这里；租户只能看到分配给它的虚拟机。",
  nMachines: "{n} 台虚拟机",
  take: "创建快照", rollBack: "回滚", rollBackDisks: "单个磁盘…", edit: "编辑", remove: "删除",
  start: "开机", shutdown: "关机", shutoff: "强制断电", cancel: "取消", close: "关闭",
  now: "当前状态", running: "运行中", nowEmpty: "暂无快照", changed: "已更改 {size}", sizeUnknown: "大小未知",
  snapshots: "{n} 个快照", total: "共 {size}", folded: "{n} 个快照", unfold: "展开 {n} 个快照", foldAll: "折叠长链",
  zoomIn: "放大", zoomOut: "缩小", fit: "显示全部", findSnapshot: "查找快照", found: "第 {i} / {n} 个", notFound: "未找到",
  tree: "快照树", details: "详情", choose: "在树中选择一个快照以查看其内容。",
  description: "描述", taken: "创建时间", disks: "磁盘", memory: "内存", onDisk: "占用 {size}",
  withMemory: "含内存", withoutMemory: "仅磁盘", screenshot: "当时的屏幕", enlarge: "放大 {name} 的屏幕",
  memorySaving: "正在保存，{n} %", memoryFailed: "未保存：{why}", memoryAvailable: "{size}", parent: "源自", root: "无：它是第一个",
  headMark: "当前状态源自此快照。",
  takeTitle: "为 {vm} 创建快照", takeName: "名称", takeMemory: "包含运行内存，以便从此刻继续运行",
  takeMemoryOff: "虚拟机未运行，没有可保存的内存。",
  rollTitle: "将 {vm} 回滚到“{name}”", rollLost: "将丢弃自“{from}”以来 {time} 的更改（{size}）。",
  rollAll: "将丢弃写入其磁盘的所有数据（{size}）。",
  rollKeeps: "所有快照都会保留，无论新旧。", rollOff: "虚拟机将处于关机状态，磁盘和配置恢复到当时。",
  rollMemory: "从内存恢复客户机，回到当时的运行状态", rollMemoryNone: "此快照不含内存。",
  rollMemoryFailed: "其内存未能保存。", rollMemorySaving: "其内存仍在保存中：在此之前回滚会被拒绝。",
  deleteTitle: "删除 {vm} 的快照“{name}”？", deleteOthers: "虚拟机的其他状态不会改变。", deleteMerge: "需先合并磁盘 {disk} 的 {size} 数据；虚拟机可继续运行。",
  deleteNoMerge: "无需合并。", deleteFrees: "至少释放 {size}。", deleteRefused: "现在无法删除：",
  editTitle: "描述“{name}”", save: "保存", disksTitle: "将 {vm} 的单个磁盘回滚到“{name}”", disksHint: "仅在虚拟机关机时可用。其他磁盘保持不变。",
  costChanged: "情况与询问时已不同，请重新阅读此处的内容后再决定。",
  disksPartly: "已回滚：{done}。未回滚：{failed}。", disksNoneDone: "未回滚：{failed}。",
  disksNone: "请至少选择一个磁盘。", disksOff: "请先关闭虚拟机。", disksLost: "所选磁盘自最近一次快照或回滚以来写入的数据将被丢弃。",
  working: "进行中的操作", recent: "最近的操作", noTasks: "还没有任何操作。", left: "剩余 {time}", cancelWork: "取消{what}",
  dismiss: "关闭", request: "请求", loading: "加载中…", again: "重试", away: "连接中断，正在重试。",
  done: "{what}：完成", more: "更早", actsReader: "此密钥只能查看。",
  ago: "{time}前", justNow: "刚刚", confirmOff: "立即切断 {vm} 的电源？客户机尚未写入的数据将丢失。",
  kinds: { create: "创建快照", save_memory: "保存内存", rollback: "回滚", rollback_volume: "磁盘回滚", delete: "删除", check_memory: "检查内存",
    modify: "修改描述", power: "电源", assign: "分配", doctor: "修复", guest_create: "创建客户机", forget: "删除客户机" },
  states: { planning: "规划中", running: "进行中", cancelling: "取消中", finishing: "收尾中", undoing: "撤销中",
    done: "完成", refused: "被拒绝", undone: "已撤销", left: "未完成，将重试" },
  steps: { "make overlays": "创建新的磁盘层", "make memory file": "创建内存文件", "fix the point in time": "固定快照时刻",
    "make durable": "写入存储", publish: "登记快照", "await the capture": "捕获内存", "release the capture": "结束捕获",
    flush: "将内存写入存储", "finish the image": "完成内存文件", seal: "封存内存文件",
    "verify and make overlays": "校验文件并创建新的磁盘层", define: "恢复配置", commit: "确认回滚", "power off": "断电",
    "restore memory": "恢复内存", "move the heads": "切换当前状态", "drop the old heads": "删除被丢弃的数据",
    "make the overlay": "创建新的磁盘层", "switch the definition": "切换配置", "move the head": "切换磁盘的当前状态",
    "drop the old head": "删除被丢弃的数据", unpublish: "移除登记", "drop memory and screenshot": "删除内存和屏幕图像",
    "drop layer *": "删除磁盘层", "merge *: commit": "合并磁盘层", "merge *: pull": "合并磁盘层", "merge *: repoint": "调整上层的引用", "merge *: record": "登记合并结果",
    "merge *: drop": "删除已合并的磁盘层", "drop files": "删除文件", "remove the guest": "删除客户机" },
  power: { running: "运行中", blocked: "运行中", paused: "已暂停", pmsuspend: "已挂起", shutdown: "正在关机", shutoff: "已关机",
    crashed: "已崩溃", nostate: "未知" },
  actions: { noaction: "无", cloning: "克隆中", save: "创建快照", migrating: "迁移中", pending: "处理中", importing: "导入中", restoring: "回滚中" },
  units: { y: "年", mo: "个月", d: "天", h: "小时", min: "分钟", s: "秒" },
};

const DICTIONARIES = { en: EN, zh: ZH };
const kept = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
const keep = (name, value) => { try { localStorage.setItem(name, value); } catch { /* a browser that keeps nothing */ } };

export let language = DICTIONARIES[kept("language")] ? kept("language") : (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
export let theme = kept("theme") ?? "auto";

export function setLanguage(chosen) { language = chosen; keep("language", chosen); show(); }
export function setTheme(chosen) { theme = chosen; keep("theme", chosen); show(); }
export function show() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.documentElement.dataset.theme = theme;
}

/** The words of this name in the chosen language, with {names} filled in. */
export function t(name, values = {}) {
  const words = DICTIONARIES[language][name];
  // where one is said otherwise than many there are both
  return (Array.isArray(words) ? words[Number(values.n !== 1)] : words).replace(/\{(\w+)\}/g, (_, key) => String(values[key] ?? ""));
}

/** One of a group of words, such as the states; what has none is shown as it is. */
export const one = (group, key) => DICTIONARIES[language][group][key] ?? key;

/** A step of long work: the numbers that its plan gives it say nothing to people. */
export const stepName = (step) => DICTIONARIES[language].steps[step.replace(/\d+/g, "*")] ?? step;

/** The envelope's own words, in the chosen language. */
export const said = (failure) => (language === "zh" ? failure.message_cn || failure.message : failure.message);

/** What so many bytes are; null: nobody could measure them. */
export function size(count) {
  if (count === null) return t("sizeUnknown");
  let value = count;
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
    if (Math.round(value * 10) / 10 < 1024 || unit === "TiB") return unit === "B" ? `${count} B` : `${value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
}

const LENGTHS = [["y", 31536000], ["mo", 2592000], ["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** The two largest units: 7980 as "2 h 13 min". */
export function time(seconds, units = 2) {
  const parts = [];
  let rest = Math.max(0, Math.floor(seconds));
  for (const [unit, length] of LENGTHS) {
    const count = Math.floor(rest / length);
    if (count || (unit === "s" && !parts.length)) parts.push(`${count} ${one("units", unit)}`);
    else if (parts.length) break;
    rest -= count * length;
    if (parts.length === units) break;
  }
  return parts.join(" ");
}

// how far the service's clock is ahead of the browser's, which may be wrong: what is old is so by the service's
let ahead = 0;
export function hearClock(date) {
  const at = Date.parse(date ?? "");
  if (!Number.isNaN(at)) ahead = at - Date.now();
}
/** Unix seconds, by the service's clock. */
export const now = () => (Date.now() + ahead) / 1000;

export function age(at) {
  const seconds = now() - at;
  return seconds < 60 ? t("justNow") : t("ago", { time: time(seconds, 1) });
}

export const moment = (at) => new Date(at * 1000).toLocaleString(language === "zh" ? "zh-CN" : "en-GB");
