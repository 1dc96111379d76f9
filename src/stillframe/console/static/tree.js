// The tree as a picture that can be moved, searched and walked through by keys. The service says where everything stands.

import { picture } from "./api.js";
import { ageing, button, h, replace, s } from "./dom.js";
import { age, size, t } from "./words.js";

const STEP_X = 268, STEP_Y = 84, WIDTH = 228, HEIGHT = 64, MARGIN = 28, THUMB = 72;
const LEAST = 0.08, MOST = 2.5;
const NOW = "now";

const place = (item) => ({ x: MARGIN + item.depth * STEP_X, y: MARGIN + item.lane * STEP_Y });

export function treeView({ onChoose, onOpen, onFold }) {
  let seen = null, byKey = new Map(), byUuid = new Map(), itemOf = new Map(), drawn = new Map();
  let chosen = "", focused = "", view = null, mode = "auto", hits = [], hit = -1;

  const stage = s("g");
  const svg = s("svg", { role: "tree", "aria-label": t("tree"), class: "tree" }, stage);
  const find = h("input", { type: "search", placeholder: t("findSnapshot"), "aria-label": t("findSnapshot"),
    oninput: () => look(find.value), onkeydown: (event) => { if (event.key === "Enter") { event.preventDefault(); next(event.shiftKey ? -1 : 1); } } });
  const found = h("span", { class: "soft", role: "status" });
  const fold = h("input", { type: "checkbox", id: "fold", onchange: () => onFold(fold.checked) });
  const frame = h("div", { class: "frame" }, svg);
  const element = h("section", { class: "tree-view", "aria-label": t("tree") },
    h("div", { class: "tools" }, find, found,
      h("label", { for: "fold", class: "check" }, fold, t("foldAll")),
      h("span", { class: "zoom" },
        button("−", () => zoom(1 / 1.3), { kind: "quiet", "aria-label": t("zoomOut") }),
        button("+", () => zoom(1.3), { kind: "quiet", "aria-label": t("zoomIn") }),
        button(t("fit"), () => { mode = "fit"; fit(); }, { kind: "quiet" }))),
    frame);

  // --- drawing -------------------------------------------------------------------------------------------------

  function edge(item) {
    const above = byKey.get(item.parent);
    const from = place(above), to = place(item);
    const y = from.y + HEIGHT / 2, end = to.y + HEIGHT / 2, x = from.x + WIDTH, turn = x + (to.x - x) / 2;
    const way = y === end ? `H${to.x}` : `H${turn - 8}q8 0 8 8V${end - 8}q0 8 8 8H${to.x}`;
    return s("path", { class: item.key === NOW ? "edge now" : "edge", d: `M${x} ${y}${way}` });
  }

  function cut(text, columns) {
    const chars = [...text];
    let used = 0;
    for (const [position, char] of chars.entries()) {
      used += char.codePointAt(0) > 0x2e7f ? 2 : 1;
      if (used > columns) return `${chars.slice(0, Math.max(position - 1, 1)).join("")}…`;
    }
    return text;
  }

  function changed() {
    // what descends from none may have some beside it all the same
    if (!seen.snapshots.length) return t("nowEmpty");
    return seen.now.changed_bytes === null ? t("sizeUnknown") : t("changed", { size: size(seen.now.changed_bytes) });
  }

  function label(item) {
    if (item.key === NOW) return { first: t("now"), second: changed() };
    const first = byUuid.get(item.uuids[0]);
    if (item.uuids.length > 1) {
      return { first: t("folded", { n: item.uuids.length }), second: `${cut(first.name, 10)} … ${cut(byUuid.get(item.uuids.at(-1)).name, 10)}` };
    }
    const bytes = first.disk_bytes + (first.memory?.bytes ?? 0);
    return { first: first.name, second: `${age(first.ctime)} · ${size(bytes)}` };
  }

  function card(item) {
    const { first } = label(item);
    const snapshot = item.uuids.length === 1 ? byUuid.get(item.key) : null;
    const isNow = item.key === NOW, isHead = snapshot !== null && item.key === seen.now.head;
    const runs = isNow && ["running", "blocked"].includes(seen.vm.state);
    const marks = [];
    const textX = snapshot?.screenshot_url ? THUMB + 18 : 14;
    if (runs) marks.push(s("circle", { class: "pulse", cx: WIDTH - 16, cy: 18, r: 6 }));
    if (isNow) marks.push(s("circle", { class: runs ? "dot on" : "dot", cx: WIDTH - 16, cy: 18, r: 6 }));
    if (snapshot?.memory) marks.push(s("path", { class: `chip ${snapshot.memory.status}`, d: `M${WIDTH - 24} 12h12v12h-12zM${WIDTH - 20} 8v4m4-4v4m-4 12v4m4-4v4` }));
    const what = (second) => (snapshot
      ? [first, second, snapshot.memory ? t("withMemory") : t("withoutMemory"), snapshot.description, isHead ? t("headMark") : ""]
      : isNow ? [first, runs ? t("running") : "", second] : [t("unfold", { n: item.uuids.length }), second]).filter(Boolean).join(", ");
    const below = s("text", { x: textX, y: 48, class: "soft" });
    const group = s("g", {
      role: "treeitem", class: ["item", isNow ? "now" : "", isHead ? "head" : "", snapshot || isNow ? "" : "folded"].join(" ").trim(),
      "aria-level": item.depth + 1, "aria-selected": "false", tabindex: "-1",
      transform: `translate(${place(item).x} ${place(item).y})`, "data-key": item.key,
    },
    s("rect", { class: "card", width: WIDTH, height: HEIGHT, rx: 9 }),
    snapshot?.screenshot_url ? s("rect", { class: "thumb", x: 8, y: 8, width: THUMB, height: HEIGHT - 16, rx: 3 }) : null,
    s("text", { x: textX, y: 28 }, cut(first, Math.floor((WIDTH - textX - (marks.length ? 32 : 10)) / 8.6))),
    below,
    ...marks);
    ageing(group, () => {
      const { second } = label(item);
      replace(below, cut(second, Math.floor((WIDTH - textX - 8) / 6)));
      group.setAttribute("aria-label", what(second));
    });
    group.addEventListener("click", () => act(item));
    group.addEventListener("focus", () => { focused = item.key; });
    return group;
  }

  function show(data, isFolded) {
    const isFirst = seen === null || seen.vm.uuid !== data.vm.uuid;
    const hadFocus = svg.contains(document.activeElement);
    seen = data;
    fold.checked = isFolded;
    byKey = new Map(data.items.map((item) => [item.key, item]));
    byUuid = new Map(data.snapshots.map((one) => [one.uuid, one]));
    itemOf = new Map(data.items.flatMap((item) => item.uuids.map((uuid) => [uuid, item])));
    drawn = new Map(data.items.map((item) => [item.key, card(item)]));
    replace(stage, data.items.filter((item) => item.parent).map(edge), [...drawn.values()]);
    if (!byKey.has(focused)) focused = itemOf.get(focused)?.key ?? NOW;
    if (chosen && !byUuid.has(chosen) && chosen !== NOW) { chosen = ""; onChoose(null); }
    mark();
    // whoever has moved it finds it where they left it
    if (isFirst || view === null || mode === "auto") begin(); else if (mode === "fit") fit(); else paint();
    if (hadFocus) drawn.get(focused)?.focus({ preventScroll: true });
    if (find.value) look(find.value, true);
  }

  function mark() {
    for (const [key, group] of drawn) {
      const is = chosen !== "" && (key === chosen || byKey.get(key).uuids.includes(chosen));
      group.setAttribute("aria-selected", String(is));
      group.setAttribute("tabindex", key === focused ? "0" : "-1");
      group.classList.toggle("hit", hits.some((uuid) => itemOf.get(uuid)?.key === key));
    }
  }

  // --- moving ---------------------------------------------------------------------------------------------------

  const extent = () => ({ width: 2 * MARGIN + (seen.depth - 1) * STEP_X + WIDTH, height: 2 * MARGIN + (seen.lanes - 1) * STEP_Y + HEIGHT });
  const room = () => ({ width: Math.max(frame.clientWidth, 50), height: Math.max(frame.clientHeight, 50) });

  function paint() {
    const { width, height } = extent(), { width: w, height: hh } = room();
    // the tree may be pushed aside, but never out of sight
    view.x = Math.min(w - 60, Math.max(60 - width * view.scale, view.x));
    view.y = Math.min(hh - 40, Math.max(40 - height * view.scale, view.y));
    stage.setAttribute("transform", `translate(${view.x.toFixed(1)} ${view.y.toFixed(1)}) scale(${view.scale.toFixed(4)})`);
    svg.classList.toggle("far", view.scale < 0.45);
    thumbnails(w, hh);
  }

  // pictures are fetched only where they are seen
  function thumbnails(w, hh) {
    if (view.scale < 0.3) return;
    for (const [key, group] of drawn) {
      const snapshot = byUuid.get(key);
      if (!snapshot?.screenshot_url || byKey.get(key).uuids.length > 1 || group.querySelector("image")) continue;
      const { x, y } = place(byKey.get(key));
      const left = view.x + x * view.scale, top = view.y + y * view.scale;
      if (left > w || top > hh || left + WIDTH * view.scale < 0 || top + HEIGHT * view.scale < 0) continue;
      const image = s("image", { x: 8, y: 8, width: THUMB, height: HEIGHT - 16, preserveAspectRatio: "xMidYMid slice", href: picture(snapshot.screenshot_url), class: "shot" });
      image.addEventListener("error", () => image.remove());
      group.querySelector("text").before(image);
    }
  }

  function centre(key) {
    mode = "free";
    const item = byKey.get(key), { width, height } = room(), { x, y } = place(item);
    view.x = width / 2 - (x + WIDTH / 2) * view.scale;
    view.y = height / 2 - (y + HEIGHT / 2) * view.scale;
    paint();
  }

  function bring(key) {
    const { width, height } = room(), { x, y } = place(byKey.get(key));
    const left = view.x + x * view.scale, top = view.y + y * view.scale;
    if (left < 8 || top < 8 || left + WIDTH * view.scale > width - 8 || top + HEIGHT * view.scale > height - 8) centre(key);
  }

  function fit() {
    if (!seen) return;
    const { width, height } = extent(), { width: w, height: hh } = room();
    const scale = Math.max(LEAST, Math.min(1, w / width, hh / height));
    view = { scale, x: Math.max(0, (w - width * scale) / 2), y: Math.max(0, (hh - height * scale) / 2) };
    paint();
  }

  function begin() {
    frame.style.height = `min(62vh, max(16rem, ${extent().height + 24}px))`;
    fit();
    if (view.scale >= 0.6) return;
    view.scale = Math.min(1, room().width / (STEP_X + WIDTH * 0.6));
    centre(NOW);
    mode = "auto";
  }

  function zoom(factor, x = room().width / 2, y = room().height / 2) {
    if (!view) return;
    mode = "free";
    const scale = Math.min(MOST, Math.max(LEAST, view.scale * factor));
    view = { scale, x: x - (x - view.x) * (scale / view.scale), y: y - (y - view.y) * (scale / view.scale) };
    paint();
  }

  const pointers = new Map();
  let dragged = false;
  const inFrame = (event) => { const box = frame.getBoundingClientRect(); return { x: event.clientX - box.left, y: event.clientY - box.top }; };
  frame.addEventListener("pointerdown", (event) => { pointers.set(event.pointerId, inFrame(event)); dragged = false; });
  frame.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before || !view) return;
    const after = inFrame(event);
    if (!dragged && Math.hypot(after.x - before.x, after.y - before.y) < 4 && pointers.size === 1) return;
    if (!dragged) { dragged = true; frame.setPointerCapture(event.pointerId); }
    if (pointers.size === 2) {
      const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const factor = Math.hypot(after.x - other.x, after.y - other.y) / Math.max(1, Math.hypot(before.x - other.x, before.y - other.y));
      zoom(factor, (after.x + other.x) / 2, (after.y + other.y) / 2);
    } else {
      mode = "free";
      view.x += after.x - before.x;
      view.y += after.y - before.y;
      paint();
    }
    pointers.set(event.pointerId, after);
  });
  for (const name of ["pointerup", "pointercancel"]) frame.addEventListener(name, (event) => pointers.delete(event.pointerId));
  // what ends a drag is no click
  frame.addEventListener("click", (event) => { if (dragged) { event.stopPropagation(); dragged = false; } }, true);
  frame.addEventListener("wheel", (event) => {
    if (!view) return;
    event.preventDefault();
    mode = "free";
    const { x, y } = inFrame(event);
    if (event.ctrlKey || event.metaKey) zoom(Math.exp(-event.deltaY / 300), x, y);
    else { view.x -= event.shiftKey ? event.deltaY : event.deltaX; view.y -= event.shiftKey ? 0 : event.deltaY; paint(); }
  }, { passive: false });
  const resized = new ResizeObserver(() => { if (view) paint(); });
  resized.observe(frame);

  // --- choosing -------------------------------------------------------------------------------------------------

  function act(item) {
    focused = item.key;
    if (item.uuids.length > 1) { onOpen(item.key); mark(); return; }
    choose(item.key);
  }

  function choose(key) {
    chosen = key;
    focused = itemOf.get(key)?.key ?? key;
    mark();
    onChoose(key === NOW ? null : byUuid.get(key));
  }

  function go(key) {
    if (!key || !byKey.has(key)) return;
    focused = key;
    mark();
    drawn.get(key).focus({ preventScroll: true });
    bring(key);
  }

  svg.addEventListener("keydown", (event) => {
    const item = byKey.get(focused);
    if (!item) return;
    const lines = [...byKey.values()].sort((a, b) => a.order - b.order);
    const at = lines.indexOf(item);
    const moves = {
      ArrowUp: () => go(lines[at - 1]?.key), ArrowDown: () => go(lines[at + 1]?.key), Home: () => go(lines[0].key), End: () => go(lines.at(-1).key),
      ArrowLeft: () => go(item.parent), ArrowRight: () => go([...byKey.values()].find((one) => one.parent === item.key)?.key),
      Enter: () => act(item), " ": () => act(item), "+": () => zoom(1.3), "-": () => zoom(1 / 1.3), 0: () => { mode = "fit"; fit(); },
    };
    if (moves[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); moves[event.key](); }
  });

  // --- finding --------------------------------------------------------------------------------------------------

  function look(text, quietly = false) {
    const part = text.trim().toLowerCase();
    hits = part && seen ? seen.snapshots.filter((one) => one.name.toLowerCase().includes(part) || one.description.toLowerCase().includes(part)
      || one.uuid.startsWith(part)).map((one) => one.uuid) : [];
    hit = Math.min(hit, hits.length - 1);
    if (!quietly) { hit = -1; if (hits.length) next(1); }
    replace(found, part ? (hits.length ? t("found", { i: Math.max(hit, 0) + 1, n: hits.length }) : t("notFound")) : "");
    mark();
  }

  function next(step) {
    if (!hits.length) return;
    hit = (hit + step + hits.length) % hits.length;
    replace(found, t("found", { i: hit + 1, n: hits.length }));
    const item = itemOf.get(hits[hit]);
    if (item.uuids.length > 1) onOpen(item.key, hits[hit]);
    else { choose(item.key); bring(item.key); }
  }

  return {
    element, show, choose: (key) => { choose(key); if (byKey.has(key)) bring(key); }, end: () => resized.disconnect(),
    get chosen() { return chosen === NOW ? "" : chosen; },
  };
}
