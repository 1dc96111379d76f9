// The virtual machines, with what they do, found as one types.

import * as api from "./api.js";
import { h, refill, replace } from "./dom.js";
import { tell } from "./main.js";
import { one, t } from "./words.js";

const EVERY_MS = 4000;
const kept = { part: "", state: "" }; // over another language, and the way back from a machine

export function listPage(main) {
  let rows = [], timer, ended = false, trouble = null;
  const search = h("input", { type: "search", placeholder: t("searchMachines"), "aria-label": t("search"), value: kept.part, oninput: draw });
  const state = h("select", { "aria-label": t("state"), onchange: draw });
  const count = h("p", { class: "soft", role: "status" });
  const body = h("tbody");
  const table = h("table", { class: "machines" },
    h("thead", {}, h("tr", {}, ["name", "state", "work", "tenant"].map((name) => h("th", { scope: "col" }, t(name))))), body);
  replace(main, h("h1", {}, t("machines")), h("div", { class: "tools" }, search, state), count, table);

  function states() {
    const present = [...new Set(rows.map((row) => row.state))].sort();
    const chosen = kept.state;
    replace(state, h("option", { value: "" }, t("allStates")),
      present.map((name) => h("option", { value: name, selected: name === chosen }, one("power", name))));
  }

  function draw() {
    Object.assign(kept, { part: search.value, state: state.value });
    const part = search.value.trim().toLowerCase();
    const shown = rows.filter((row) => (!state.value || row.state === state.value)
      && (row.name.toLowerCase().includes(part) || row.uuid.includes(part)));
    replace(count, shown.length ? t("nMachines", { n: shown.length }) : t(rows.length ? "noMachines" : "noneYet"));
    refill(body, shown.map((row) => h("tr", {},
      h("th", { scope: "row" }, h("a", { href: `#/vm/${row.uuid}` }, row.name)),
      h("td", {}, h("span", { class: `state ${row.state}` }, one("power", row.state))),
      h("td", {}, h("span", { class: row.action === "noaction" ? "soft" : null }, one("actions", row.action))),
      h("td", {}, row.tenant_name || row.tenant))));
  }

  async function load() {
    try {
      const found = (await api.machines({})).domains;
      if (ended) return;
      const changed = JSON.stringify(found) !== JSON.stringify(rows);
      rows = found;
      trouble?.remove();
      trouble = null;
      if (changed || !body.children.length) { states(); draw(); }
    } catch (error) {
      if (!(error instanceof api.Failure)) throw error;
      if (!trouble && !ended) trouble = tell("", { error });
    }
    if (!ended) timer = setTimeout(load, EVERY_MS);
  }

  replace(count, t("loading"));
  load();
  return () => { ended = true; clearTimeout(timer); };
}
