// A virtual machine: the tree of its snapshots, what the chosen one holds, and what can be done.

import { endedRow, workList, ACTIVE } from "./activity.js";
import * as api from "./api.js";
import { askDisks, askEdit, askOff, askRemove, askRollBack, askTake, enlarge } from "./dialogs.js";
import { ageing, button, h, refill, replace } from "./dom.js";
import { attempt, tell } from "./main.js";
import { treeView } from "./tree.js";
import { age, moment, one, said, size, t } from "./words.js";

const FOLD_FROM = 40; // snapshots
const REFRESH_MS = 30 * 60 * 1000; // links to pictures expire
const WRITTEN_MS = 60 * 1000; // a guest that runs writes, and nobody tells of it
const AGAIN_MS = 3000;
const OPENED_MAX = 200; // folded runs that the service lets one have unfolded at once

/** `kept`: what an earlier page of this machine, which this one stands in place of, gave back as it was left; else null. */
export function machinePage(main, { argument: uuid, mayAct, kept }) {
  let { folded, opened, chosen: wanted } = kept ?? { folded: null, opened: [], chosen: "" };
  let data = null, told = "", ended = false, asking = null, again = false, trying, failing = null, left = false;
  const title = h("h1"), state = h("span", { class: "state" }), facts = h("p", { class: "soft" });
  const power = h("div", { class: "row" }), trouble = h("p", { class: "problem", role: "status" });
  const details = h("aside", { class: "details", "aria-label": t("details") });
  const work = workList(mayAct, false), working = h("section", { class: "working", "aria-label": t("working") }, h("h2", {}, t("working")), work);
  const recent = h("ul", { class: "tasks" });
  const tree = treeView({
    onChoose: describe,
    onOpen: (key, then = "") => { opened = [...opened, key].slice(-OPENED_MAX); wanted = then || key; refresh(); },
    onFold: (wish) => { folded = wish; opened = []; refresh(); },
  });
  working.hidden = true;
  replace(main,
    h("p", {}, h("a", { href: "#/" }, `← ${t("machines")}`)),
    h("div", { class: "title" }, title, state, power), facts, trouble, working,
    h("div", { class: "panes" }, tree.element, details),
    h("section", { class: "recent" }, h("h2", {}, t("recent")), recent));

  // --- what there is --------------------------------------------------------------------------------------------

  /** Once more, and once more behind that for whoever asked meanwhile. */
  async function refresh() {
    if (ended) return;
    if (asking) { again = true; return asking; }
    asking = load();
    try { await asking; } finally { asking = null; }
    if (again && !ended) { again = false; await refresh(); }
  }

  /** One that fails is tried again, for what it would have shown may not be told of once more; it is said once. */
  async function load() {
    clearTimeout(trying);
    try {
      const asked = opened;
      let found = await api.overview(uuid, folded ?? false, opened);
      if (folded === null) {
        folded = found.snapshots.length >= FOLD_FROM;
        if (folded) found = await api.overview(uuid, true, opened);
      }
      if (ended) return;
      data = found;
      head();
      tree.show(data, folded);
      // an answer that was asked for before the run was opened has it folded still
      if (wanted && asked === opened) { const key = wanted; wanted = ""; if (data.snapshots.some((one) => one.uuid === key)) tree.choose(key); }
      describe(data.snapshots.find((one) => one.uuid === tree.chosen) ?? null);
      failing?.remove();
      failing = null;
    } catch (error) {
      if (!(error instanceof api.Failure)) throw error;
      if (left) return;
      failing ??= tell("", { error });
      if (!ended) trying = setTimeout(refresh, AGAIN_MS);
    }
  }

  function head() {
    const { vm } = data;
    document.title = `${vm.name} · Stillframe`;
    replace(title, vm.name);
    state.className = `state ${vm.state}`;
    replace(state, one("power", vm.state));
    replace(facts, [t("snapshots", { n: data.snapshots.length }), t("total", { size: size(data.total_bytes) })].join(" · "));
    const off = ["shutoff", "crashed", "nostate"].includes(vm.state);
    refill(power, mayAct ? [
      button(t("take"), () => askTake(data.vm, taking), { kind: "main" }),
      off ? button(t("start"), () => attempt(t("start"), () => api.power(uuid, "start")))
        : [button(t("shutdown"), () => attempt("", () => api.power(uuid, "shutdown"))),
          button(t("shutoff"), () => askOff(data.vm, () => api.power(uuid, "shutoff")))],
    ].flat() : h("span", { class: "soft" }, t("actsReader")));
  }

  function memoryOf(memory) {
    if (!memory) return t("withoutMemory");
    if (memory.status === "available") return t("memoryAvailable", { size: size(memory.bytes) });
    if (memory.status === "failed") return t("memoryFailed", { why: memory.reason });
    return t("memorySaving", { n: memory.progress });
  }

  function describe(snapshot) {
    if (!data) return;
    if (!snapshot) { refill(details, h("h2", {}, t("details")), h("p", { class: "soft" }, t("choose"))); return; }
    const above = data.snapshots.find((one) => one.uuid === snapshot.parent);
    const fact = (name, value) => [h("dt", {}, name), h("dd", {}, value)];
    const many = data.vm.disks.length > 1 ? button(t("rollBackDisks"), () => opening(() => api.snapshot(uuid, snapshot.name),
      ({ disk_snapshot_list: disks }) => askDisks(data.vm, snapshot, disks, (chosen) => rollingDisks(snapshot, chosen)))) : null;
    refill(details,
      h("h2", {}, snapshot.name),
      data.now.head === snapshot.uuid && h("p", { class: "head-mark" }, t("headMark")),
      snapshot.screenshot_url && h("button", { type: "button", class: "shot", "aria-label": t("enlarge", { name: snapshot.name }), onclick: () => enlarge(snapshot) },
        h("img", { src: api.picture(snapshot.screenshot_url), alt: "", loading: "lazy" })),
      h("dl", {},
        snapshot.description && fact(t("description"), snapshot.description),
        fact(t("taken"), ageing(h("time", { datetime: new Date(snapshot.ctime * 1000).toISOString() }),
          (element) => replace(element, `${moment(snapshot.ctime)} (${age(snapshot.ctime)})`))),
        fact(t("disks"), t("onDisk", { size: size(snapshot.disk_bytes) })),
        fact(t("memory"), memoryOf(snapshot.memory)),
        fact(t("parent"), above ? above.name : t("root")),
        fact("uuid", h("code", {}, snapshot.uuid))),
      mayAct && h("div", { class: "row" },
        button(t("rollBack"), () => opening(costs(snapshot), (cost) => askRollBack(data.vm, snapshot, cost, costs(snapshot), (memory) => rolling(snapshot, memory))), { kind: "main" }),
        many,
        button(t("edit"), () => askEdit(snapshot, async (text) => { await api.edit(uuid, snapshot.name, text); refresh(); })),
        button(t("remove"), () => opening(costs(snapshot), (cost) => askRemove(data.vm, snapshot, cost, costs(snapshot), () => removing(snapshot))), { kind: "danger" })));
  }

  // --- what can be done -----------------------------------------------------------------------------------------

  /** A dialog that needs to know something first; whoever has left the page meanwhile is asked nothing. */
  const opening = (ask, open) => attempt("", async () => {
    const known = await ask();
    if (!ended && !document.querySelector("dialog[open]")) open(known);
  });
  const costs = (snapshot) => () => api.consequences(uuid, snapshot.name);

  async function taking(name, description, memory) {
    await api.take(uuid, name, description, memory);
    tell(t("done", { what: `${t("take")} “${name}”` }));
    refresh();
  }

  /** Work that may go on for long: its dialog closes, and the strip above shows it; how it ends is said. */
  function goingOn(what, act) {
    attempt(what, act).then(refresh);
    return Promise.resolve();
  }

  const rolling = (snapshot, memory) => goingOn(`${t("rollBack")} “${snapshot.name}”`, () => api.rollBack(uuid, snapshot.name, memory));
  const removing = (snapshot) => goingOn(`${t("remove")} “${snapshot.name}”`, () => api.remove(uuid, snapshot.name));

  async function rollingDisks(snapshot, disks) {
    const { results } = await api.rollBackDisks(uuid, disks);
    refresh();
    // in the order in which they were asked for
    const all = results.map((result, i) => ({ ...result, disk: disks[i].DiskDrive }));
    const failed = all.filter((one) => one.scode !== 0), done = all.filter((one) => one.scode === 0).map((one) => one.disk);
    if (failed.length) throw new api.DisksFailure(done, failed);
    tell(t("done", { what: `${t("rollBackDisks")} “${snapshot.name}”` }));
  }

  // --- what goes on ---------------------------------------------------------------------------------------------

  function hear(now) {
    working.hidden = work.tell(now.tasks) === 0;
    replace(recent, now.tasks.filter((task) => !ACTIVE.has(task.state)).slice(0, 8).map((task) => endedRow(task, false)));
    if (!recent.children.length) recent.append(h("li", { class: "soft" }, t("noTasks")));
    // progress alone changes nothing of the tree
    const saving = now.tasks.filter((task) => task.kind === "save_memory" && ACTIVE.has(task.state)).map((task) => Math.floor(task.progress / 10));
    const fresh = JSON.stringify([now.vm, now.tasks.map((task) => [task.uuid, task.state]), saving]);
    if (fresh !== told) { told = fresh; refresh(); }
  }

  function troubled(failure) {
    replace(trouble, failure ? (api.isAway(failure) ? t("away") : [said(failure), failure.desc].filter(Boolean).join(" · ")) : "");
    if (failure?.scode !== api.UNKNOWN) return;
    // it is no more, or no longer ours: what stands here would be what was
    for (const gone of [power, facts, details, recent, work]) replace(gone);
    working.hidden = true;
    tree.element.remove();
    tree.end();
    clearTimeout(trying);
    ended = true;
  }

  replace(details, h("p", { class: "soft" }, t("loading")));
  const stop = api.listen(uuid, hear, troubled);
  const timer = setInterval(refresh, REFRESH_MS);
  const writing = setInterval(() => { if (!document.hidden && ["running", "blocked"].includes(data?.vm.state)) refresh(); }, WRITTEN_MS);
  refresh();
  return () => {
    ended = left = true;
    stop();
    for (const each of [timer, writing]) clearInterval(each);
    clearTimeout(trying);
    failing?.remove();
    tree.end();
    return { folded, opened, chosen: tree.chosen || wanted };
  };
}
