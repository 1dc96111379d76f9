// Elements made of words, never of markup: a name that looks like a tag is only a name.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element; attributes that begin with "on" are listeners. */
export const h = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);

/** An SVG element. */
export const s = (tag, attributes, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

export function replace(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

const alike = (one, other) => one.localName === other.localName && one.textContent === other.textContent
  && one.getAttribute("aria-label") === other.getAttribute("aria-label");

/** Focus what stands in `parent` where `gone` stood, if there is such a thing; else whatever `otherwise` is. */
export function focusLike(gone, parent, otherwise = null) {
  ([...parent.querySelectorAll(gone.localName)].find((one) => alike(one, gone)) ?? otherwise)?.focus({ preventScroll: true });
}

/** An element whose words grow old without anything being asked: `fill` writes them, now and each minute. */
export function ageing(element, fill) {
  element.classList.add("ages");
  element.fillAge = () => fill(element);
  element.fillAge();
  return element;
}
setInterval(() => { for (const element of document.querySelectorAll(".ages")) element.fillAge(); }, 60_000);

/** `replace`, where somebody may stand with the keyboard: they stay where they were; where that has gone, on the page. */
export function refill(parent, ...children) {
  const held = document.activeElement;
  const within = held !== parent && parent.contains(held);
  replace(parent, ...children);
  if (within) focusLike(held, parent, parent.closest("main"));
}

/** A button; `kind` is a class: "", "main", "danger" or "quiet". */
export const button = (text, onclick, { kind = "", ...more } = {}) =>
  h("button", { type: "button", class: kind, onclick, ...more }, text);
