// What is asked before something is done, with what it costs in plain words.

import * as api from "./api.js";
import { button, focusLike, h, replace } from "./dom.js";
import { tell } from "./main.js";
import { moment, said, size, t, time } from "./words.js";

/** A dialog; `act` is called when it is confirmed, and what it throws is said in the dialog, which stays. */
function ask(title, content, { confirm, kind = "main", act, width = "" }) {
  const problem = h("div", { role: "alert", class: "problem" });
  const opener = document.activeElement;
  const go = confirm ? h("button", { type: "submit", class: kind }, confirm) : null;
  const form = h("form", { method: "dialog", onsubmit: async (event) => {
    event.preventDefault();
    if (!go || go.disabled) return;
    go.disabled = true;
    replace(problem);
    try {
      await act();
      dialog.close();
    } catch (error) {
      if (!(error instanceof api.Failure)) throw error;
      // who has left the dialog meanwhile has not taken back what was asked for
      if (!dialog.isConnected) tell(title, { error });
      replace(problem, h("p", {}, h("strong", {}, said(error))), error.desc && h("p", { class: "desc" }, error.desc));
    } finally {
      go.disabled = false;
    }
  } }, h("h2", {}, title), content, problem,
  h("div", { class: "row" }, button(confirm ? t("cancel") : t("close"), () => dialog.close()), go));
  const dialog = h("dialog", { class: width, "aria-label": title, onclose: () => {
    dialog.remove();
    // what opened it may have been drawn anew
    const main = document.getElementById("main");
    if (main && !opener.isConnected) focusLike(opener, main, main);
  } }, form);
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, go };
}

const check = (id, text, { checked = false, disabled = false } = {}) => {
  const input = h("input", { type: "checkbox", id, checked, disabled });
  return [input, h("label", { for: id, class: "check" }, input, text)];
};

function freshName() {
  const two = (count) => String(count).padStart(2, "0"), now = new Date();
  return `${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())} ${two(now.getHours())}.${two(now.getMinutes())}.${two(now.getSeconds())}`;
}

export function askTake(vm, run) {
  const runs = ["running", "blocked", "paused"].includes(vm.state);
  const name = h("input", { id: "name", required: true, maxlength: "128", value: freshName(), autocomplete: "off" });
  const description = h("textarea", { id: "description", rows: "2", maxlength: "1000" });
  const [memory, memoryRow] = check("memory", t("takeMemory"), { checked: runs, disabled: !runs });
  ask(t("takeTitle", { vm: vm.name }), [
    h("label", { for: "name" }, t("takeName")), name, h("label", { for: "description" }, t("description")), description,
    memoryRow, !runs && h("p", { class: "soft" }, t("takeMemoryOff")),
  ], { confirm: t("take"), act: () => run(name.value, description.value, memory.checked) });
  name.select();
}

function lost(back) {
  const bytes = size(back.changed_bytes);
  if (!back.stands_on) return t("rollAll", { size: bytes });
  if (!back.since) return t("rollAll", { size: bytes });
  return t("rollLost", { time: time(Date.now() / 1000 - back.since), from: back.stands_on, size: bytes });
}

/** Why memory cannot be had; "": it can. */
function memoryLacks({ memory }) {
  if (memory === null) return t("rollMemoryNone");
  if (memory.status === "available") return "";
  return memory.status === "failed" ? t("rollMemoryFailed") : t("rollMemorySaving");
}

export async function askRollBack(vm, snapshot, run) {
  const { rollback } = await api.consequences(vm.uuid, snapshot.name);
  const lacks = memoryLacks(snapshot), has = !lacks;
  const [memory, memoryRow] = check("memory", t("rollMemory"), { checked: has, disabled: !has });
  const off = h("p", {}, t("rollOff"));
  off.hidden = has;
  memory.addEventListener("change", () => { off.hidden = memory.checked; });
  ask(t("rollTitle", { name: snapshot.name }), [
    h("p", { class: "warn" }, lost(rollback)), h("p", {}, t("rollKeeps")), memoryRow, !has && h("p", { class: "soft" }, lacks), off,
  ], { confirm: t("rollBack"), kind: "danger", act: () => run(memory.checked) });
}

export async function askRemove(vm, snapshot, run) {
  const { delete: cost } = await api.consequences(vm.uuid, snapshot.name);
  if (!cost.allowed) {
    ask(t("deleteTitle", { name: snapshot.name }), [
      h("p", {}, t("deleteRefused")), h("p", { class: "warn" }, said(cost)), h("p", { class: "desc" }, cost.desc),
    ], {});
    return;
  }
  ask(t("deleteTitle", { name: snapshot.name }), [
    h("p", {}, t("deleteOthers")),
    cost.merges.length ? cost.merges.map((merge) => h("p", {}, t("deleteMerge", { size: size(merge.bytes), disk: merge.disk }))) : h("p", {}, t("deleteNoMerge")),
    cost.freed_bytes > 0 && h("p", {}, t("deleteFrees", { size: size(cost.freed_bytes) })),
  ], { confirm: t("remove"), kind: "danger", act: run });
}

export function askEdit(snapshot, run) {
  const description = h("textarea", { id: "description", rows: "3", maxlength: "1000" });
  description.value = snapshot.description;
  ask(t("editTitle", { name: snapshot.name }), [h("label", { for: "description" }, t("description")), description],
    { confirm: t("save"), act: () => run(description.value) });
  description.focus();
}

export async function askDisks(vm, snapshot, run) {
  const disks = (await api.snapshot(vm.uuid, snapshot.name)).disk_snapshot_list;
  const off = vm.state === "shutoff";
  const rows = disks.map((disk) => [disk, ...check(`disk-${disk.DiskDrive}`, disk.DiskDrive, { disabled: !off })]);
  const none = h("p", { class: "soft" }, t("disksNone"));
  const { go } = ask(t("disksTitle", { name: snapshot.name }), [
    h("p", { class: "warn" }, t("disksLost")), h("p", {}, t("disksHint")), !off && h("p", { class: "warn" }, t("disksOff")),
    h("fieldset", {}, h("legend", {}, t("disks")), rows.map(([, , row]) => row)), none,
  ], { confirm: t("rollBack"), kind: "danger", act: () => run(rows.filter(([, input]) => input.checked).map(([disk]) => disk)) });
  const enable = () => { go.disabled = !rows.some(([, input]) => input.checked); none.hidden = !go.disabled; };
  for (const [, input] of rows) input.addEventListener("change", enable);
  enable();
}

export const askOff = (vm, run) =>
  ask(t("shutoff"), h("p", { class: "warn" }, t("confirmOff", { vm: vm.name })), { confirm: t("shutoff"), kind: "danger", act: run });

export function enlarge(snapshot) {
  ask(snapshot.name, [
    h("img", { class: "screen", src: api.picture(snapshot.screenshot_url), alt: `${t("screenshot")}: ${snapshot.name}` }),
    h("p", { class: "soft" }, moment(snapshot.ctime)),
  ], { width: "wide" });
}
