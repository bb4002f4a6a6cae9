// What can be done with a session, in a small menu that opens at its button.

import { askFields, askText, confirm, tell } from "./dialogs.js";
import { button, h } from "./dom.js";

/** A button with a menu of `items()`: `[label, run, kind?]`. It closes by Escape, a click elsewhere, or a choice. */
export function menuButton(label, items) {
  const anchor = button(label, () => open(anchor, items()), { kind: "quiet round", glyph: "more", shown: false, "aria-haspopup": "menu" });
  return anchor;
}

function open(anchor, items) {
  const entries = items.map(([label, run, kind = ""]) =>
    h("button", { type: "button", role: "menuitem", tabindex: -1, class: `entry ${kind}`, text: label, on: { click: () => {
      menu.hidePopover();
      run();
    } } }),
  );
  const menu = h("div", { class: "menu", role: "menu", popover: "auto" }, entries);
  menu.addEventListener("keydown", (event) => {
    if (event.key === "Tab") {
      anchor.focus(); // the key goes on from there
      menu.hidePopover();
      return;
    }
    const at = entries.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: entries.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    entries.at(to % entries.length).focus();
  });
  menu.addEventListener("toggle", (event) => {
    if (event.newState === "open") return;
    const inside = menu.contains(document.activeElement) || document.activeElement === document.body;
    menu.remove();
    if (inside) anchor.focus();
  });
  document.body.append(menu);
  menu.showPopover();
  const { top, bottom, right } = anchor.getBoundingClientRect();
  const { width, height } = menu.getBoundingClientRect();
  menu.style.left = `${Math.max(8, Math.min(right - width, innerWidth - width - 8))}px`;
  menu.style.top = `${bottom + height + 8 > innerHeight ? Math.max(8, top - height - 4) : bottom + 4}px`;
  entries[0]?.focus();
}

/** The entries for a session. `page` has `link`, `go(hash)`, `onChanged(session)` and `onDeleted(id)`. */
export function sessionItems(page, session) {
  const failing = (work) => work().catch((error) => tell("That did not work", error.message));
  return [
    ["Rename…", () => failing(() => rename(page, session))],
    ["Settings…", () => failing(() => settings(page, session))],
    ["Fork", () => failing(() => fork(page, session.id))],
    ["Summarise for the model", () => failing(() => page.link.request("session.compact", { session_id: session.id }))],
    ["Delete…", () => failing(() => remove(page, session)), "danger"],
  ];
}

async function rename(page, session) {
  const title = await askText("Rename the session", "Title", session.title, "Rename");
  if (title === null || title === session.title) return;
  page.onChanged((await page.link.request("session.update", { session_id: session.id, title })).session);
}

/** The session's instructions, also where the daemon tells no more than the head of them. */
async function instructionsOf(page, session) {
  const { instructions = "", instructions_more: more } = session;
  if (!more) return instructions;
  let text = "";
  for (let offset = 0; offset !== undefined; ) {
    const piece = await page.link.request("output.read", { handle: more.handle, offset });
    text += piece.text ?? "";
    offset = piece.next_offset;
  }
  return text;
}

async function settings(page, session) {
  const instructions = await instructionsOf(page, session);
  const models = page.link.hello.models.map((model) => model.name);
  const given = await askFields(
    "Settings of the session",
    [
      { name: "model", label: "Model", value: session.model, choices: models.includes(session.model) ? models : [session.model, ...models] },
      { name: "toolsets", label: "Toolsets", value: session.toolsets.join(", "), hint: `of ${page.link.hello.toolsets.join(", ")}` },
      { name: "instructions", label: "Instructions for the model", value: instructions, kind: "textarea" },
    ],
    "Save",
  );
  if (given === null) return;
  const toolsets = given.toolsets.split(/[\s,]+/u).filter(Boolean);
  const changed = {
    ...(given.model === session.model ? {} : { model: given.model }),
    ...(toolsets.join() === session.toolsets.join() ? {} : { toolsets }),
    ...(given.instructions === instructions.trim() ? {} : { instructions: given.instructions }),
  };
  if (Object.keys(changed).length) page.onChanged((await page.link.request("session.update", { session_id: session.id, ...changed })).session);
}

/** A new session with a copy up to a message, or of all; it is opened. */
export async function fork(page, id, message = null) {
  const { session } = await page.link.request("session.fork", { session_id: id, ...(message === null ? {} : { message_id: message }) });
  page.onChanged(session);
  page.go(`#/s/${session.id}`);
}

async function remove(page, session) {
  const title = session.title || "This session";
  if (!(await confirm("Delete the session?", `“${title}” is deleted with all its messages and files. Its runs are stopped. This cannot be undone.`, "Delete"))) return;
  page.onDeleting(session.id);
  await page.link.request("session.delete", { session_id: session.id });
  page.onDeleted(session.id);
}
