// Modal dialogs. The browser keeps the focus inside and gives it back; Escape cancels.

import { button, h } from "./dom.js";

let numbers = 0;

function open(title, body, buttons, { wide = false } = {}) {
  const id = `dialog-${++numbers}`;
  const form = h("form", { method: "dialog" }, h("h2", { id, text: title }), body, h("div", { class: "buttons" }, buttons));
  const dialog = h("dialog", { class: wide ? "wide" : "", "aria-labelledby": id }, form);
  document.body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.showModal();
  return { dialog, form };
}

/** Whether `action` was confirmed. The safe choice has the focus. */
export function confirm(title, text, action) {
  return new Promise((resolve) => {
    const no = button("Cancel", () => dialog.close(), { autofocus: true });
    const yes = button(action, () => dialog.close("yes"), { kind: "danger" });
    const { dialog } = open(title, h("p", { text }), [no, yes]);
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"));
  });
}

/** A line of text, or null. */
export function askText(title, label, value, action, { limit = 200 } = {}) {
  return new Promise((resolve) => {
    const input = h("input", { type: "text", value, maxlength: limit, autofocus: true });
    const yes = h("button", { type: "submit", class: "button primary", text: action });
    const { dialog, form } = open(title, h("label", { class: "field" }, h("span", { text: label }), input), [button("Cancel", () => dialog.close()), yes]);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      dialog.close("yes");
    });
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes" ? input.value.trim() : null));
    input.select();
  });
}

/** Several fields `{name, label, value, kind?, choices?, hint?}`; their values by name, or null. */
export function askFields(title, fields, action) {
  return new Promise((resolve) => {
    const inputs = new Map();
    const rows = fields.map(({ name, label, value = "", choices, hint, kind = "input" }) => {
      const input = choices
        ? h("select", {}, choices.map((choice) => h("option", { value: choice, text: choice, selected: choice === value })))
        : h(kind, kind === "input" ? { type: "text", value } : { rows: 4, value });
      inputs.set(name, input);
      return h("label", { class: "field" }, h("span", { text: label }), input, hint && h("small", { text: hint }));
    });
    const yes = h("button", { type: "submit", class: "button primary", text: action });
    const { dialog, form } = open(title, h("div", {}, rows), [button("Cancel", () => dialog.close()), yes]);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      dialog.close("yes");
    });
    dialog.addEventListener("close", () =>
      resolve(dialog.returnValue === "yes" ? Object.fromEntries([...inputs].map(([name, input]) => [name, input.value.trim()])) : null),
    );
  });
}

export function tell(title, text) {
  const { dialog } = open(title, h("p", { class: "wrap", text }), [button("Close", () => dialog.close(), { autofocus: true })]);
}

const KEYS = [
  ["Enter", "Send the message"],
  ["Shift + Enter", "A new line"],
  ["Escape", "Stop the run; close what is open"],
  ["Ctrl + K", "Search the sessions"],
  ["Alt + N", "A new session"],
  ["Alt + ↑ ↓", "The session above or below"],
  ["Alt + A", "Go to the question that waits"],
  ["Alt + I", "Go to the message field"],
  ["Alt + 1 … 4", "Conversation, runs, toolsets, what the daemon holds"],
  ["Ctrl + End", "Jump to the newest message"],
  ["?", "These keys"],
];

export function showKeys() {
  const rows = KEYS.map(([keys, meaning]) => h("div", {}, h("dt", {}, keys.split(" + ").map((key, at) => [at ? " + " : "", h("kbd", { text: key })])), h("dd", { text: meaning })));
  const { dialog } = open("Keys", h("dl", { class: "keys" }, rows), [button("Close", () => dialog.close(), { autofocus: true })]);
}
