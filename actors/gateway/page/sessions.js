// The list of sessions: the latest change first, searched by title, read on as one scrolls.

import { arrange, button, h, setText } from "./dom.js";
import * as format from "./format.js";
import { menuButton, sessionItems } from "./menu.js";

const PAGE = 40;
const REFRESHED = 100; // rows that are read again at a time: what the protocol gives at once
const MOST = 400; // rows in the document; what is older is found by searching
const PERIOD = 5000; // ms between two looks at what other clients have changed
const TYPING = 200; // ms of rest before a search

export class Sessions {
  constructor(page) {
    this._page = page;
    this._link = page.link;
    this._sessions = [];
    this._cursor = undefined;
    this._rows = new Map();
    this._current = null;
    this._asked = 0;
    this._timer = 0;
    this.search = h("input", { type: "search", placeholder: "Search sessions", "aria-label": "Search sessions by title", maxlength: 200, on: { input: () => this._later(TYPING), keydown: (event) => this._enter(event) } });
    this._list = h("ul", { class: "rows" });
    this._none = h("p", { class: "muted empty", hidden: true });
    this._more = button("Show older", () => this._readOn(), { kind: "quiet", hidden: true });
    this._rest = h("p", { class: "muted empty", hidden: true, text: "Older ones are found by searching." });
    this.element = h("nav", { class: "sessions", "aria-label": "Sessions" }, this._list, this._none, this._more, this._rest);
    this._link.addEventListener("open", () => this.refresh());
    document.addEventListener("visibilitychange", () => this.refresh());
  }

  /** The session with this id is the one that is shown. */
  set current(id) {
    this._current = id;
    this._show();
  }

  /** The title of a session of the list, or null. */
  titleOf(id) {
    const session = this._sessions.find((other) => other.id === id);
    return session ? session.title || "Untitled" : null;
  }

  /** The id of the one above (-1) or below (1) the present one. */
  neighbour(step) {
    const at = this._sessions.findIndex((session) => session.id === this._current);
    return this._sessions[at < 0 ? 0 : at + step]?.id ?? null;
  }

  /** A session was made or has changed. */
  put(session) {
    const at = this._sessions.findIndex((other) => other.id === session.id);
    const old = this._sessions[at];
    if (old?.revision === session.revision && old.active_run_id === session.active_run_id) return;
    if (at >= 0) this._sessions.splice(at, 1);
    else if (this.search.value.trim()) return;
    // Only what is newer moves up.
    const to = this._sessions.findIndex((other) => other.updated_at <= session.updated_at);
    this._sessions.splice(to < 0 ? this._sessions.length : to, 0, session);
    this._show();
  }

  drop(id) {
    this._sessions = this._sessions.filter((session) => session.id !== id);
    this._show();
  }

  /** Enter in the search goes to the first that it found. */
  async _enter(event) {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    await this.refresh();
    if (this._sessions.length) this._page.go(`#/s/${this._sessions[0].id}`);
  }

  async refresh() {
    if (document.visibilityState !== "visible" || this._link.state !== "open") return;
    const asked = ++this._asked;
    try {
      const query = this.search.value.trim();
      const limit = Math.min(REFRESHED, Math.max(PAGE, this._query === query ? this._sessions.length : 0));
      const { sessions, next_cursor: cursor } = await this._link.request("session.list", { limit, ...(query ? { query } : {}) });
      if (asked !== this._asked) return;
      const fresh = new Set(sessions.map((session) => session.id));
      const rest = this._query === query && this._sessions.length > limit ? this._sessions.slice(limit).filter((session) => !fresh.has(session.id)) : [];
      if (rest.length === 0) this._cursor = cursor;
      this._query = query;
      this._sessions = [...sessions, ...rest];
      this._show();
    } catch {
      // lost: the next connection asks again
    }
    this._later(PERIOD);
  }

  _later(wait) {
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this.refresh(), wait);
  }

  async _readOn() {
    const query = this._query;
    try {
      const page = await this._link.request("session.list", { limit: PAGE, cursor: this._cursor, ...(query ? { query } : {}) });
      if (query !== this._query) return;
      const known = new Set(this._sessions.map((session) => session.id));
      this._sessions.push(...page.sessions.filter((session) => !known.has(session.id)));
      this._cursor = page.next_cursor;
      this._show();
    } catch {
      // lost: the button is still there
    }
  }

  _show() {
    const elements = this._sessions.map((session) => {
      let row = this._rows.get(session.id);
      if (row === undefined) this._rows.set(session.id, (row = this._row(session)));
      row.update(session);
      return row.element;
    });
    for (const [id, row] of this._rows) if (!elements.includes(row.element)) this._rows.delete(id);
    arrange(this._list, elements);
    this._none.hidden = elements.length > 0;
    setText(this._none, this._query ? "No title has this." : "No sessions yet.");
    const full = this._sessions.length >= MOST;
    this._more.hidden = this._cursor === undefined || full;
    this._rest.hidden = this._cursor === undefined || !full;
  }

  _row(first) {
    let session = first;
    const title = h("span", { class: "title" });
    const about = h("span", { class: "about" });
    const link = h("a", { href: `#/s/${session.id}` }, title, about);
    const menu = menuButton("Session menu", () => sessionItems(this._page, session));
    const element = h("li", {}, link, menu);
    return {
      element,
      update: (now) => {
        session = now;
        const name = now.title || "Untitled";
        setText(title, name);
        setText(about, now.active_run_id ? "at work" : format.ago(now.updated_at));
        element.classList.toggle("busy", now.active_run_id !== undefined);
        menu.setAttribute("aria-label", `Menu of ${name}`);
        if (now.id === this._current) link.setAttribute("aria-current", "page");
        else link.removeAttribute("aria-current");
      },
    };
  }
}
