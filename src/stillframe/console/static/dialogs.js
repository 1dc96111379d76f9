// What is asked before something is done, with what it costs in plain words.

import * as api from "./api.js";
import { button, focusLike, h, replace } from "./dom.js";
import { tell } from "./main.js";
import { moment, now, said, size, t, time } from "./words.js";

/** A dialog; `act` is called when it is confirmed, and what it throws is said in the dialog, which stays; so does one whose
`act` returns words: they are said. */
function ask(title, content, { confirm, kind = "main", act, width = "" }) {
  const problem = h("div", { role: "alert", class: "problem" });
  const opener = document.activeElement;
  const go = confirm ? h("button", { type: "submit", class: kind }, confirm) : null;
  const leave = button(confirm ? t("cancel") : t("close"), () => dialog.close());
  const form = h("form", { method: "dialog", onsubmit: async (event) => {
    event.preventDefault();
    if (!go || go.disabled || go.hidden) return;
    const byKeys = document.activeElement === go;
    let next = go;
    go.disabled = true;
    replace(problem);
    try {
      const why = await act();
      // what a call answered is no word
      if (typeof why === "string" && why) replace(problem, h("p", {}, h("strong", {}, why))); else dialog.close();
      // a key that is still held down shall not confirm what nobody has read yet
      next = leave;
    } catch (error) {
      if (!(error instanceof api.Failure)) throw error;
      // who has left the dialog meanwhile has not taken back what was asked for
      if (!dialog.isConnected) tell(title, { error });
      replace(problem, h("p", {}, h("strong", {}, said(error))), error.desc && h("p", { class: "desc" }, error.desc));
    } finally {
      go.disabled = false;
      // a button that could not be pressed for a while has lost the keyboard to the page behind
      if (byKeys && dialog.open && [document.body, go].includes(document.activeElement)) next.focus();
    }
  } }, h("h2", {}, title), content, problem,
  h("div", { class: "row" }, leave, go));
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

// a guest that runs writes on while it is read: what is more than this is news
const grown = (before, after) => (before === null || after === null ? before !== after : after > 2 * before + (64 << 20));

/** What an act costs, asked for once more when it is confirmed: where it is another by then, perhaps because of somebody
else, that is shown, and nothing is done before it is confirmed as well. `tell` says what it costs, in elements. */
function weighed(first, again, differs, tell) {
  let shown = first;
  const box = h("div", {}, tell(shown));
  const thenAct = (act) => async () => {
    const fresh = await again();
    // who has left meanwhile has confirmed nothing more
    if (!box.isConnected) return "";
    const before = shown;
    shown = fresh;
    replace(box, tell(shown));
    return differs(before, fresh) ? t("costChanged") : act();
  };
  return { box, thenAct };
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
  return t("rollLost", { time: time(now() - back.since), from: back.stands_on, size: bytes });
}

/** Why memory cannot be had; "": it can. */
function memoryLacks({ memory }) {
  if (memory === null) return t("rollMemoryNone");
  if (memory.status === "available") return "";
  return memory.status === "failed" ? t("rollMemoryFailed") : t("rollMemorySaving");
}

export function askRollBack(vm, snapshot, cost, again, run) {
  const lacks = memoryLacks(snapshot), has = !lacks;
  const [memory, memoryRow] = check("memory", t("rollMemory"), { checked: has, disabled: !has });
  const off = h("p", {}, t("rollOff"));
  off.hidden = has;
  memory.addEventListener("change", () => { off.hidden = memory.checked; });
  const { box, thenAct } = weighed(cost, again, ({ rollback: before }, { rollback: after }) =>
    before.head !== after.head || before.since !== after.since || grown(before.changed_bytes, after.changed_bytes),
  ({ rollback }) => h("p", { class: "warn" }, lost(rollback)));
  ask(t("rollTitle", { vm: vm.name, name: snapshot.name }), [
    box, h("p", {}, t("rollKeeps")), memoryRow, !has && h("p", { class: "soft" }, lacks), off,
  ], { confirm: t("rollBack"), kind: "danger", act: thenAct(() => run(memory.checked)) });
}

function costOfRemoval({ delete: cost }) {
  if (!cost.allowed) return [h("p", {}, t("deleteRefused")), h("p", { class: "warn" }, said(cost)), h("p", { class: "desc" }, cost.desc)];
  return [
    h("p", {}, t("deleteOthers")),
    cost.merges.length ? cost.merges.map((merge) => h("p", {}, t("deleteMerge", { size: size(merge.bytes), disk: merge.disk }))) : h("p", {}, t("deleteNoMerge")),
    cost.freed_bytes > 0 && h("p", {}, t("deleteFrees", { size: size(cost.freed_bytes) })),
  ];
}

const removalDiffers = ({ delete: before }, { delete: after }) => before.allowed !== after.allowed
  || before.freed_bytes !== after.freed_bytes || before.merges.length !== after.merges.length
  || before.merges.some((merge, i) => merge.disk !== after.merges[i].disk || grown(merge.bytes, after.merges[i].bytes));

export function askRemove(vm, snapshot, cost, again, run) {
  const title = t("deleteTitle", { vm: vm.name, name: snapshot.name });
  if (!cost.delete.allowed) { ask(title, costOfRemoval(cost), {}); return; }
  let go = null;
  const { box, thenAct } = weighed(cost, again, removalDiffers, (seen) => {
    // what may not be done by now is not offered
    if (go) go.hidden = !seen.delete.allowed;
    return costOfRemoval(seen);
  });
  ({ go } = ask(title, box, { confirm: t("remove"), kind: "danger", act: thenAct(run) }));
}

export function askEdit(snapshot, run) {
  const description = h("textarea", { id: "description", rows: "3", maxlength: "1000" });
  description.value = snapshot.description;
  ask(t("editTitle", { name: snapshot.name }), [h("label", { for: "description" }, t("description")), description],
    { confirm: t("save"), act: () => run(description.value) });
  description.focus();
}

export function askDisks(vm, snapshot, disks, run) {
  const off = vm.state === "shutoff";
  const rows = disks.map((disk) => [disk, ...check(`disk-${disk.DiskDrive}`, disk.DiskDrive, { disabled: !off })]);
  const none = h("p", { class: "soft" }, t("disksNone"));
  const act = async () => {
    try {
      await run(rows.filter(([, input]) => input.checked).map(([disk]) => disk));
    } catch (error) {
      // what is done is not done once more with what failed
      for (const [disk, input] of rows) if (error.done?.includes(disk.DiskDrive)) input.checked = false;
      throw error;
    }
  };
  const { go } = ask(t("disksTitle", { vm: vm.name, name: snapshot.name }), [
    h("p", { class: "warn" }, t("disksLost")), h("p", {}, t("disksHint")), !off && h("p", { class: "warn" }, t("disksOff")),
    h("fieldset", {}, h("legend", {}, t("disks")), rows.map(([, , row]) => row)), none,
  ], { confirm: t("rollBack"), kind: "danger", act });
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
