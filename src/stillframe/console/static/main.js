// Who is signed in, which page is shown, and what is said to everybody.

import * as api from "./api.js";
import { activityPage } from "./activity.js";
import { button, h, replace } from "./dom.js";
import { listPage } from "./list.js";
import { machinePage } from "./machine.js";
import * as words from "./words.js";
import { t } from "./words.js";

const app = document.getElementById("app");
const notices = h("div", { class: "notices", role: "region", "aria-live": "polite", "aria-label": "Stillframe" });
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
let leave = () => {};
let viewer = null, isBegun = false, retry;
const AGAIN_MS = 3000;

/** Something to read; an error stays until it is dismissed, and says what the service says. */
export function tell(text, { error = null } = {}) {
  const notice = error
    ? h("div", { class: "notice error", role: "alert" }, h("div", {},
        text && h("p", {}, text),
        h("p", {}, h("strong", {}, words.said(error))),
        error.desc && h("p", { class: "desc" }, error.desc),
        error.requestId && h("p", { class: "desc" }, `${t("request")} ${error.requestId}`)))
    : h("div", { class: "notice" }, h("div", {}, h("p", {}, text)));
  notice.append(button("×", () => notice.remove(), { kind: "quiet", "aria-label": t("dismiss") }));
  notices.append(notice);
  if (!error) setTimeout(() => notice.remove(), 6000);
  return notice;
}

/** Do something for the user; what fails is said. Returns whether it went well. */
export async function attempt(what, act) {
  try {
    await act();
    if (what) tell(t("done", { what }));
    return true;
  } catch (error) {
    if (!(error instanceof api.Failure)) throw error;
    tell(what, { error });
    return false;
  }
}

function choice(id, current, options, onchange) {
  const select = h("select", { id, "aria-label": t(id), onchange: () => onchange(select.value) },
    Object.entries(options).map(([value, text]) => h("option", { value, selected: value === current }, text)));
  return select;
}

function preferences() {
  return [
    choice("theme", words.theme, { auto: t("auto"), light: t("light"), dark: t("dark") }, words.setTheme),
    choice("language", words.language, { en: "English", zh: "中文" }, speak),
  ];
}

/** All is drawn anew: who chose by keys stays where they chose, and what they had typed of their key and chosen on a
machine's page stays too. */
function speak(chosen) {
  const typed = document.getElementById("key")?.value ?? "";
  words.setLanguage(chosen);
  draw({ again: true });
  const key = document.getElementById("key");
  if (key) key.value = typed;
  document.getElementById("language").focus();
}

function header(page) {
  const link = (href, text, name) => h("a", { href, "aria-current": page === name ? "page" : null }, text);
  return h("header", {},
    h("a", { class: "skip", href: "#main", onclick: (event) => { event.preventDefault(); document.getElementById("main").focus(); } }, t("skip")),
    h("a", { class: "brand", href: "#/" }, h("img", { src: "/console/icon.svg", alt: "", width: "24", height: "24" }), "Stillframe"),
    h("nav", { "aria-label": t("console") }, link("#/", t("machines"), "list"), link("#/activity", t("activity"), "activity")),
    h("div", { class: "who" }, ...preferences(),
      h("span", { class: "soft", title: viewer.key_id }, viewer.tenant || viewer.role),
      button(t("signOut"), async () => { if (await attempt("", api.signOut)) { viewer = null; draw(); } }, { kind: "quiet" })));
}

function signInPage() {
  const key = h("input", { id: "key", type: "password", autocomplete: "current-password", required: true, spellcheck: "false" });
  const problem = h("div", { class: "problem", role: "alert" });
  const form = h("form", { class: "sign-in", onsubmit: async (event) => {
    event.preventDefault();
    replace(problem);
    try {
      viewer = await api.signIn(key.value.trim());
      key.value = "";
      draw();
      document.getElementById("main").focus();
    } catch (error) {
      if (!(error instanceof api.Failure)) throw error;
      replace(problem, h("p", {}, h("strong", {}, words.said(error))), error.desc && h("p", { class: "desc" }, error.desc));
      key.select();
    }
  } },
  h("h1", {}, h("img", { src: "/console/icon.svg", alt: "", width: "40", height: "40" }), "Stillframe"),
  h("label", { for: "key" }, t("key")), key, h("p", { class: "soft" }, t("keyHint")), problem,
  h("button", { type: "submit", class: "main" }, t("signIn")));
  replace(app, h("main", { id: "main", class: "alone", tabindex: "-1" }, form, h("div", { class: "who" }, ...preferences())), notices);
  key.focus();
}

/** Who cannot be told who they are is not signed out: it is asked again, until there is an answer. */
async function begin() {
  clearTimeout(retry);
  try {
    viewer = await api.who();
  } catch (error) {
    if (!(error instanceof api.Failure)) throw error;
    if (isBegun) return;
    if (error.scode !== api.SIGNED_OUT) { unansweredPage(error); return; }
  }
  if (isBegun) return;
  isBegun = true;
  draw();
}

function unansweredPage(error) {
  clearTimeout(retry);
  retry = setTimeout(begin, AGAIN_MS);
  const why = h("div", { role: "alert" }, h("p", {}, h("strong", {}, words.said(error))), error.desc && h("p", { class: "desc" }, error.desc));
  // said once: who stands on the button stays there
  if (document.querySelector("main.unanswered [role=alert]")?.textContent === why.textContent) return;
  replace(app, h("main", { id: "main", class: "alone unanswered", tabindex: "-1" },
    h("h1", {}, h("img", { src: "/console/icon.svg", alt: "", width: "40", height: "40" }), "Stillframe"),
    why, button(t("again"), begin, { kind: "main" })), notices);
}

function route() {
  const [, name = "", argument = ""] = location.hash.split("/");
  if (name === "vm" && UUID.test(argument)) return ["machine", machinePage, argument];
  if (name === "activity") return ["activity", activityPage, ""];
  return ["list", listPage, ""];
}

/** `again`: it is the same page, for the same reader. */
function draw({ again = false } = {}) {
  const left = leave();
  leave = () => {};
  // what it asks is about a page, or for somebody, that is no longer there
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  document.title = "Stillframe";
  if (!viewer) { signInPage(); return; }
  const [name, page, argument] = route();
  const main = h("main", { id: "main", tabindex: "-1" });
  replace(app, header(name), main, notices);
  leave = page(main, { argument, viewer, mayAct: viewer.role !== "reader", kept: (again && left) || null }) ?? (() => {});
}

words.show();
api.whenSignedOut(() => { viewer = null; draw(); });
window.addEventListener("hashchange", () => { if (!isBegun) return; draw(); document.getElementById("main")?.focus(); });
begin();
