// Elements are made by code alone: text is always a text node, and nothing here takes HTML. What is shown is clean.

import { clean } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

// Paths of 24 × 24 icons, drawn with lines.
const ICONS = {
  menu: "M4 7h16M4 12h16M4 17h16",
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V6M6 11.5l6-6 6 6",
  stop: "M8 8h8v8H8z",
  more: "M5.5 12h.01M12 12h.01M18.5 12h.01",
  down: "M12 5v13M6.5 12.5L12 18l5.5-5.5",
  attach: "M20 11.5l-7.8 7.8a5 5 0 0 1-7-7l8.3-8.3a3.3 3.3 0 0 1 4.7 4.7l-8.2 8.2a1.7 1.7 0 0 1-2.4-2.4l7.6-7.5",
  chat: "M5 5h14a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1h-7l-4.5 4v-4H5a1 1 0 0 1-1-1V6a1 1 0 0 1 1-1z",
  runs: "M5 6h14M5 12h9M5 18h12",
  tools: "M14.5 5.5a4 4 0 0 0-4 5.4L4.8 16.6a1.8 1.8 0 0 0 2.6 2.6l5.7-5.7a4 4 0 0 0 5.4-4.9l-2.5 2.5-2.6-.5-.5-2.6 2.5-2.4a4 4 0 0 0-.9-.1z",
  holds: "M4 19V5M4 19h16M7.5 15.5l4-4.5 3 2.5 4.5-6",
  help: "M9.2 9.2a2.9 2.9 0 1 1 4.2 2.6c-.9.5-1.4 1-1.4 2.2M12 17.5h.01",
  file: "M7 4h7l4 4v12H7zM14 4v4h4",
  spin: "M12 4a8 8 0 1 1-8 8",
  done: "M6 12.5l4 4 8-9",
  fail: "M12 4a8 8 0 1 0 0 16a8 8 0 0 0 0-16M12 8v4.5M12 16h.01",
  wait: "M12 4a8 8 0 1 0 0 16a8 8 0 0 0 0-16M12 8v4.2l2.6 1.6",
  next: "M9 6l6 6-6 6",
};

/**
 * An element. `props`: `class`, `text`, `on` (listeners by event), `data` (dataset), `hidden`, `checked`, `disabled`
 * and `value` as properties; all else as attributes, those that are null or false left out.
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined) continue;
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = clean(String(value));
    else if (name === "on") for (const [event, run] of Object.entries(value)) element.addEventListener(event, run);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (["hidden", "checked", "disabled", "value", "open", "selected"].includes(name)) element[name] = value;
    else if (value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  const wanted = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  element.append(...wanted.map((child) => (typeof child === "string" ? clean(child) : child)));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** A decoration: what it means has to stand beside it as text or label. */
export function icon(name) {
  const frame = svg("svg", { viewBox: "0 0 24 24", class: `icon icon-${name}`, "aria-hidden": "true", focusable: "false" });
  frame.append(svg("path", { d: ICONS[name] }));
  return frame;
}

/** A button with an icon whose name is `label`, shown as text too if `shown`. */
export function button(label, run, { kind = "", glyph = null, shown = true, title = null, ...rest } = {}) {
  return h(
    "button",
    { type: "button", class: `button ${kind}`, "aria-label": shown ? null : label, title: title ?? (shown ? null : label), on: { click: run }, ...rest },
    glyph && icon(glyph),
    shown && h("span", { text: label }),
  );
}

/** Set the text only if it differs, so that selections and screen readers are left alone. */
export function setText(element, text) {
  const shown = clean(text ?? "");
  if (element.textContent !== shown) element.textContent = shown;
}

/** Make the children of `parent` exactly `wanted`, moving as little as can be. */
export function arrange(parent, wanted) {
  const keep = new Set(wanted);
  for (const child of [...parent.childNodes]) if (!keep.has(child)) child.remove();
  let at = parent.firstChild;
  for (const child of wanted) {
    if (child === at) at = at.nextSibling;
    else parent.insertBefore(child, at);
  }
}
