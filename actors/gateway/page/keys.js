// Keys that work everywhere on the page. None takes a key from a field that needs it.

import { showKeys } from "./dialogs.js";

function isTyping(target) {
  return target.closest?.("input, textarea, select, [contenteditable]") !== null;
}

/** `act` has what the keys do; see KEYS in dialogs.js. */
export function listen(act) {
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open], .menu:popover-open")) return;
    const run = find(event, act);
    if (run === null) return;
    event.preventDefault();
    run();
  });
}

function find(event, act) {
  const { key, altKey, ctrlKey, metaKey, code } = event;
  const command = ctrlKey || metaKey;
  if (key === "Escape") return event.target.type === "search" ? null : act.escape; // there it clears the field
  if (command && !altKey && key.toLowerCase() === "k") return act.search;
  if (command && !altKey && key === "End" && !isTyping(event.target)) return act.newest;
  if (key === "?" && !command && !isTyping(event.target)) return showKeys;
  if (!altKey || command) return null;
  // By place on the keyboard: with Alt some layouts write other characters.
  const found = {
    KeyN: act.start, KeyA: act.answer, KeyI: act.write, ArrowUp: () => act.neighbour(-1), ArrowDown: () => act.neighbour(1),
    Digit1: () => act.view(0), Digit2: () => act.view(1), Digit3: () => act.view(2), Digit4: () => act.view(3),
  }[code];
  return found ?? null;
}
