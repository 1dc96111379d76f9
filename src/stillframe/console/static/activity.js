// Long work: what runs and how far it is, what was done, and why it failed.

import * as api from "./api.js";
import { ageing, button, h, replace } from "./dom.js";
import { attempt } from "./main.js";
import { age, moment, one, said, size, stepName, t, time } from "./words.js";

export const ACTIVE = new Set(["planning", "running", "cancelling", "finishing", "undoing"]);

const what = (task) => `${one("kinds", task.kind)}${task.snapshot ? ` “${task.snapshot}”` : ""}`;

/** One that is under way, with its bar; it is kept and filled anew, so that nothing jumps. */
export function runningRow(mayAct) {
  const title = h("strong"), state = h("span", { class: "soft" }), figures = h("span", { class: "soft" });
  const bar = h("progress", { max: "100" });
  const stop = button(t("cancel"), () => attempt("", () => api.cancel(row.dataset.uuid)), { kind: "quiet" });
  const row = h("li", { class: "task" }, h("div", { class: "head" }, title, state, stop), bar, figures);
  row.fill = (task, withMachine) => {
    row.dataset.uuid = task.uuid;
    replace(title, withMachine ? `${task.compute_name}: ${what(task)}` : what(task));
    replace(state, `${one("states", task.state)}${task.step ? ` · ${stepName(task.step)}` : ""}`);
    bar.value = task.progress;
    bar.setAttribute("aria-label", `${what(task)}: ${task.progress} %`);
    const parts = [`${task.progress} %`];
    if (task.bytes_total) parts.push(`${size(task.bytes_done)} / ${size(task.bytes_total)}`);
    if (task.rate_bytes_s) parts.push(`${size(task.rate_bytes_s)}/s`);
    if (task.time_left_s !== null) parts.push(t("left", { time: time(task.time_left_s) }));
    replace(figures, parts.join(" · "));
    stop.hidden = !(mayAct && task.cancellable);
    stop.setAttribute("aria-label", t("cancelWork", { what: what(task) }));
    return row;
  };
  return row;
}

/** One that has ended. */
export const endedRow = (task, withMachine) => h("li", { class: `task ${task.state}` },
  h("div", { class: "head" }, h("strong", {}, withMachine ? `${task.compute_name}: ${what(task)}` : what(task)),
    h("span", { class: `outcome ${task.state}` }, one("states", task.state)),
    ageing(h("time", { class: "soft", datetime: new Date(task.started_at * 1000).toISOString(), title: moment(task.started_at) }),
      (element) => replace(element, age(task.started_at)))),
  task.error && h("p", { class: "desc" }, task.error));

/** Keeps a list of running work as it is told. */
export function workList(mayAct, withMachine) {
  const rows = new Map();
  const list = h("ul", { class: "tasks" });
  list.tell = (tasks) => {
    const active = tasks.filter((task) => ACTIVE.has(task.state));
    for (const [uuid, row] of rows) if (!active.some((task) => task.uuid === uuid)) { row.remove(); rows.delete(uuid); }
    for (const task of active) {
      if (!rows.has(task.uuid)) { rows.set(task.uuid, runningRow(mayAct)); list.append(rows.get(task.uuid)); }
      rows.get(task.uuid).fill(task, withMachine);
    }
    return active.length;
  };
  return list;
}

export function activityPage(main, { mayAct }) {
  const work = workList(mayAct, true), done = h("ul", { class: "tasks" }), trouble = h("p", { class: "problem", role: "status" });
  const none = h("p", { class: "soft" }, t("noTasks"));
  const known = new Map();
  let after = "", told = null;
  const more = button(t("more"), () => attempt("", async () => { await page(); }));
  replace(main, h("h1", {}, t("activity")), trouble, h("h2", {}, t("working")), work, h("h2", {}, t("recent")), none, done, more);

  function draw() {
    const ended = [...known.values()].filter((task) => !ACTIVE.has(task.state)).sort((a, b) => b.started_at - a.started_at);
    none.hidden = known.size > 0;
    replace(done, ended.map((task) => endedRow(task, true)));
    more.hidden = !after;
  }

  async function page() {
    const found = await api.tasks({ limit: "50", ...(after ? { after } : {}) });
    // what was told meanwhile is newer
    for (const task of found.list) if (!known.has(task.uuid)) known.set(task.uuid, task);
    after = found.next;
    draw();
    await catchUp();
  }

  /** How one ended that went on when it was told of last, and is among the newest no more. */
  async function catchUp() {
    if (!told) return;
    const missed = [...known.values()].filter((task) => ACTIVE.has(task.state) && !told.has(task.uuid));
    for (const { uuid } of missed) known.set(uuid, await api.task(uuid));
    if (missed.length) draw();
  }

  function hear({ tasks }) {
    for (const task of tasks) known.set(task.uuid, task);
    work.tell(tasks);
    draw();
    told = new Set(tasks.map((task) => task.uuid));
    attempt("", catchUp);
  }

  attempt("", page);
  return api.listen("", hear, (failure) => replace(trouble, failure ? (api.isAway(failure) ? t("away") : said(failure)) : ""));
}
