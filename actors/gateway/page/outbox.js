// Messages on their way: each has a key, so that sending it again after a lost connection never doubles it.

import { utf8Length } from "./format.js";
import { newKey } from "./link.js";

const SAID = "greenroom.said"; // texts of messages that wait for their turn, by run: the daemon tells them with the run
const SAID_MAX = 40;
const FRAME = 256; // bytes of a request beside its parameters
const UNSENT = "greenroom.unsent"; // what was on its way when the page was left; files are not kept

function recall(place) {
  try {
    return JSON.parse(sessionStorage.getItem(place) ?? "[]");
  } catch {
    return [];
  }
}

function keep(place, value) {
  try {
    sessionStorage.setItem(place, JSON.stringify(value));
  } catch {
    // private windows may refuse: it is then known until the page is left
  }
}

/** Emits `change`, and `sent` (detail: `{item, reply}`) when the daemon has a message. */
export class Outbox extends EventTarget {
  constructor(link) {
    super();
    // {key, session, create, text, params, error, busy}
    this.items = recall(UNSENT).map((item) => ({ ...item, error: null, busy: false }));
    this._link = link;
    this._said = new Map(recall(SAID));
    link.addEventListener("open", () => this._again());
  }

  /** `session` is an id, or null with `create` for a session that is made first. `key` is the draft's. */
  send({ key = newKey(), session, create = null, text, input = null, mode }) {
    const params = { when_busy: mode, idempotency_key: key, ...(input === null ? { text } : { input }) };
    const item = { key, session, create, text, params, error: null, busy: false };
    this.items.push(item);
    this._try(item);
    return item;
  }

  retry(item) {
    item.error = null;
    this._try(item);
  }

  drop(item) {
    this.items = this.items.filter((other) => other !== item);
    this._tell();
  }

  /** What a run that waits was asked, if this browser sent it. */
  said(runId) {
    return this._said.get(runId) ?? null;
  }

  _again() {
    for (const item of this.items) if (item.error === null && !item.busy) this._try(item);
  }

  async _try(item) {
    item.busy = true;
    this._tell();
    try {
      if (item.session === null) {
        const made = await this._link.request("session.create", { ...item.create, idempotency_key: `${item.key}-s` });
        item.session = made.session.id;
        this.dispatchEvent(new CustomEvent("created", { detail: { item, session: made.session } }));
      }
      const params = { session_id: item.session, ...item.params };
      // The daemon would close the connection, and what is sent again with it.
      const room = (this._link.hello?.limits.message_bytes ?? 1048576) - FRAME;
      if (utf8Length(JSON.stringify(params)) > room) throw new Error("it is too long for one message");
      const reply = await this._link.request("run.start", params);
      this._remember(reply.run.id, item.text);
      this.items = this.items.filter((other) => other !== item);
      this.dispatchEvent(new CustomEvent("sent", { detail: { item, reply } }));
    } catch (error) {
      if (error.code !== "lost") item.error = error.message;
    }
    item.busy = false;
    this._tell();
  }

  _remember(runId, text) {
    this._said.set(runId, text.slice(0, 500));
    for (const id of this._said.keys()) if (this._said.size > SAID_MAX) this._said.delete(id);
    keep(SAID, [...this._said]);
  }

  _tell() {
    const plain = this.items.filter((item) => item.params.text !== undefined);
    keep(UNSENT, plain.map(({ key, session, create, text, params }) => ({ key, session, create, text, params })));
    this.dispatchEvent(new Event("change"));
  }
}
