// Unsent text, kept over reloads: by session, the newest few. Its key goes with it until the daemon has the message.

import { newKey } from "./link.js";

const PLACE = "greenroom.drafts";
const KEPT = 30;
const ROOM = 20_000; // characters of one

let drafts = null;

function load() {
  if (drafts === null) {
    try {
      drafts = new Map(JSON.parse(localStorage.getItem(PLACE) ?? "[]"));
    } catch {
      drafts = new Map();
    }
  }
  return drafts;
}

function store() {
  try {
    localStorage.setItem(PLACE, JSON.stringify([...drafts]));
  } catch {
    // a browser that keeps nothing: the text stays in its field
  }
}

/** `{text, key}` of a session. */
export function draftOf(session) {
  return load().get(session) ?? { text: "", key: newKey() };
}

/** Keep what is written; a changed text is another message and gets another key. */
export function keepDraft(session, text) {
  const all = load();
  const old = all.get(session);
  if ((old?.text ?? "") === text) return;
  all.delete(session);
  if (text !== "" && text.length <= ROOM) all.set(session, { text, key: newKey() });
  for (const id of all.keys()) if (all.size > KEPT) all.delete(id);
  store();
}
