// Runs of all sessions, the latest first.

import { arrange, button, h, setText } from "./dom.js";
import * as format from "./format.js";
import { isTerminal } from "./transcript.js";

const PAGE = 50;
const MOST = 400;

const WORDS = {
  queued: "waits", running: "at work", waiting_approval: "asks", stopping: "stopping",
  completed: "completed", failed: "failed", cancelled: "cancelled", interrupted: "interrupted",
};

export class Runs {
  constructor(page) {
    this._page = page;
    this._link = page.link;
    this._runs = [];
    this._cursor = undefined;
    this._rows = new Map();
    this._only = h("input", { type: "checkbox", on: { change: () => this.anew() } });
    this._body = h("tbody");
    this._none = h("p", { class: "muted empty", hidden: true, text: "No runs." });
    this._more = button("Show older", () => this._readOn(), { hidden: true });
    const heads = ["Status", "Session", "Model", "Started", "Took", "Used", ""].map((text) => h("th", { scope: "col", text }));
    this.element = h(
      "div",
      { class: "view" },
      h("div", { class: "view-head" }, h("label", { class: "check" }, this._only, h("span", { text: "At work only" }))),
      h("div", { class: "wide-table" }, h("table", { class: "runs" }, h("thead", {}, h("tr", {}, heads)), this._body)),
      this._none,
      this._more,
    );
    this.title = "Runs";
    this.period = 2000;
  }

  anew() {
    this._runs = [];
    return this.refresh();
  }

  /** Read the newest again; what was read before them stays. */
  async refresh() {
    const active = this._only.checked ? { active: true } : {};
    const { runs, next_cursor: cursor } = await this._link.request("run.list", { limit: PAGE, ...active });
    const fresh = new Set(runs.map((run) => run.id));
    const rest = active.active ? [] : this._runs.slice(PAGE).filter((run) => !fresh.has(run.id));
    if (rest.length === 0) this._cursor = cursor;
    this._runs = [...runs, ...rest];
    this._show();
  }

  async _readOn() {
    const active = this._only.checked ? { active: true } : {};
    const page = await this._link.request("run.list", { limit: PAGE, cursor: this._cursor, ...active });
    const known = new Set(this._runs.map((run) => run.id));
    this._runs.push(...page.runs.filter((run) => !known.has(run.id)));
    this._cursor = page.next_cursor;
    this._show();
  }

  _show() {
    const wanted = this._runs.slice(0, MOST).map((run) => {
      let row = this._rows.get(run.id);
      if (row === undefined) this._rows.set(run.id, (row = this._row(run)));
      row.update(run);
      return row.element;
    });
    const keep = new Set(wanted);
    for (const [id, row] of this._rows) if (!keep.has(row.element)) this._rows.delete(id);
    arrange(this._body, wanted);
    this._none.hidden = wanted.length > 0;
    this._more.hidden = this._cursor === undefined || wanted.length >= MOST;
  }

  _row({ id, session_id: session }) {
    const badge = h("span", { class: "badge" });
    const why = h("span", { class: "why" });
    const facts = h("span", { class: "facts" }); // the other columns, where there is no room for them
    const [model, started, took, used] = ["", "", "", ""].map(() => h("td"));
    const link = h("a", { href: `#/s/${session}`, text: this._page.titleOf(session) ?? session });
    const stop = button("Stop", async () => {
      stop.disabled = true;
      await this._link.request("run.stop", { run_id: id, reason: "stopped on the page" }).catch(() => {});
      stop.disabled = false;
      this.refresh().catch(() => {});
    }, { kind: "small" });
    const element = h("tr", {}, h("td", {}, badge), h("td", { class: "name" }, link, facts, why), model, started, took, used, h("td", { class: "act" }, stop));
    return {
      element,
      update: (run) => {
        setText(badge, WORDS[run.status] ?? run.status);
        badge.dataset.state = run.status;
        setText(why, format.line(run.error?.message ?? "", 160));
        setText(link, this._page.titleOf(session) ?? session);
        setText(model, run.model);
        setText(started, run.started_at ? format.ago(run.started_at) : "");
        started.title = run.started_at ? format.moment(run.started_at) : "";
        setText(took, run.started_at ? format.duration((run.ended_at ?? Math.max(Date.now(), run.started_at)) - run.started_at) : "");
        setText(used, format.usage(run.usage, this._page.currency()));
        setText(facts, [model, started, took, used].map((cell) => cell.textContent).filter(Boolean).join(" · "));
        stop.hidden = isTerminal(run.status);
      },
    };
  }
}
