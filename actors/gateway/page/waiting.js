// Messages that are not in the transcript yet: on their way to the daemon, or waiting there for their turn.

import { arrange, button, h } from "./dom.js";
import * as format from "./format.js";

export class Waiting {
  constructor(page, { onRestore }) {
    this._page = page;
    this._link = page.link;
    this._onRestore = onRestore;
    this._runs = [];
    this._rows = new Map();
    this._asked = 0;
    this._shown = null;
    this.element = h("ul", { class: "waiting", "aria-label": "Messages that wait", hidden: true });
  }

  get any() {
    return !this.element.hidden;
  }

  /** The session has changed: look again at who waits in it. */
  async refresh(session) {
    const asked = ++this._asked;
    if (session.queued === 0) {
      this._runs = [];
    } else {
      try {
        const { runs } = await this._link.request("run.list", { session_id: session.id, active: true });
        if (asked !== this._asked) return;
        this._runs = runs.filter((run) => run.status === "queued").sort((one, two) => one.position - two.position);
      } catch {
        return; // the next change, or the next connection, asks again
      }
    }
    this.show(session.id);
  }

  show(id) {
    const rows = this._page.outbox.items.filter((item) => item.session === id).map((item) => this._row(item.key, () => this._sending(item), item.error ?? this._link.state));
    for (const run of this._runs) if (run.session_id === id) rows.push(this._row(run.id, () => this._queued(run), String(run.position)));
    const keep = new Set(rows);
    for (const [key, { element }] of this._rows) if (!keep.has(element)) this._rows.delete(key);
    arrange(this.element, rows);
    this.element.hidden = rows.length === 0;
  }

  /** The row of a key, made again when `mark` has changed. */
  _row(key, make, mark) {
    let row = this._rows.get(key);
    if (row?.mark !== mark) this._rows.set(key, (row = { mark, element: make() }));
    return row.element;
  }

  _sending(item) {
    const text = h("p", { class: "plain", text: format.line(item.text, 400) });
    if (item.error === null) return h("li", {}, text, h("p", { class: "muted", text: this._link.state === "open" ? "Being sent…" : "It is sent when the daemon is there again." }));
    const { outbox } = this._page;
    return h(
      "li",
      {},
      text,
      h("p", { class: "error", role: "alert", text: `It was not sent: ${item.error}` }),
      h(
        "div",
        { class: "buttons" },
        button("Try again", () => outbox.retry(item), { kind: "small" }),
        button("Edit", () => {
          outbox.drop(item);
          this._onRestore(item.text);
        }, { kind: "small" }),
      ),
    );
  }

  _queued(run) {
    const said = this._page.outbox.said(run.id);
    const cancel = button("Cancel", async () => {
      cancel.disabled = true;
      await this._link.request("run.stop", { run_id: run.id }).catch(() => (cancel.disabled = false));
    }, { kind: "small" });
    return h(
      "li",
      {},
      h("p", { class: said === null ? "muted" : "plain", text: said === null ? "A message that was sent elsewhere" : format.line(said, 400) }),
      h("p", { class: "muted", text: `Waits for its turn: ${run.position === 1 ? "the next" : `number ${run.position}`}` }),
      cancel,
    );
  }
}
