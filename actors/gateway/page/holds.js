// What the daemon holds: bytes by owner over time, and what is there: actors, runs, connections, processes, latency.

import { arrange, h, setText } from "./dom.js";
import * as format from "./format.js";
import { COLOURS, SmallPlot, StackedPlot } from "./plot.js";

const KEPT = 600; // samples of a second each
const COARSE = 360; // samples before them, as far apart as the daemon keeps them
const SPANS = [["10 min", 600_000], ["1 hour", 3_600_000]];

// Layers from the bottom up; owners that a newer daemon has follow them.
const OWNERS = ["program", "files", "free", "sqlite", "rows", "http", "requests", "logs", "unsaved", "runs", "ended_runs", "sessions", "connections"];
// What each is, in words.
const MEANT = {
  program: "code and data of the program", files: "mapped files: libraries and databases", free: "freed, and kept for what comes next",
  sqlite: "SQLite's pages", rows: "decoded messages", http: "requests and answers of models", requests: "requests of clients",
  logs: "events of runs, to replay", unsaved: "text that is on its way to the disk", runs: "runs at work", ended_runs: "runs that have ended",
  sessions: "sessions in memory", connections: "open connections",
};
const STATES = { normal: "normal", soft: "above the soft limit: caches are dropped", hard: "above the hard limit: no new runs" };

function actorsBelow(actors) {
  return Object.values(actors ?? {}).reduce((sum, actor) => sum + 1 + actorsBelow(actor.children), 0);
}

function tree(actors) {
  return h("ul", { class: "tree" }, Object.entries(actors ?? {}).slice(0, 200).map(([name, actor]) =>
    h("li", {}, h("span", { text: name }), h("span", { class: "muted", text: ` ${actor.kind} · ${actor.state}` }), actor.children && tree(actor.children)),
  ));
}

export class Holds {
  constructor(page) {
    this._link = page.link;
    this._past = []; // from before this view was opened, and what is older than the samples
    this._period = 10_000; // ms between two of them
    this._samples = [];
    this._owners = [];
    this._asksPast = true;
    this._span = SPANS[0][1];
    this._plot = new StackedPlot();
    this._tiles = new Map();
    this._tileList = h("dl", { class: "tiles" });
    this._legend = h("tbody");
    this._rows = new Map();
    this._actors = h("details", { class: "actors", on: { toggle: () => this._showTree() } }, h("summary", { text: "Actors" }), h("div"));
    const heads = [h("th", { scope: "col", text: "Owner" }), h("th", { scope: "col", class: "right", text: "Bytes" }), h("th", { scope: "col", class: "right", text: "Share" }), h("th", { scope: "col", text: "What it is" })];
    this.element = h(
      "div",
      { class: "view holds" },
      
      this._tileList,
      h("div", { class: "view-head" }, this._spans()),
      this._plot.element,
      h("table", { class: "legend" }, h("caption", { class: "hidden", text: "Bytes by owner now" }), h("thead", {}, h("tr", {}, heads)), this._legend),
      this._actors,
    );
    this.title = "What the daemon holds";
    this.period = 1000;
    this._link.addEventListener("open", () => (this._asksPast = true));
  }

  /** It is about to be looked at. */
  opened() {
    this._asksPast = true;
    // While nobody looked nothing was read: the daemon has what was in between.
    if ((this._samples.at(-1)?.at ?? 0) < Date.now() - 2 * this._period) this._samples = [];
  }

  _spans() {
    const choices = SPANS.map(([label, span]) => {
      const input = h("input", { type: "radio", name: "span", checked: span === this._span, on: { change: () => {
        this._span = span;
        this._draw();
      } } });
      return h("label", {}, input, h("span", { text: label }));
    });
    return h("fieldset", { class: "modes" }, h("legend", { class: "hidden", text: "Time that is drawn" }), choices);
  }

  async refresh() {
    if (this._asksPast) await this._readPast();
    const stats = await this._link.request("daemon.stats");
    this._stats = stats;
    const { resident, owned } = stats.memory;
    // Another daemon, or this one begun again: its past is not what was drawn.
    if (this._samples.length && stats.uptime_s < this._samples.at(-1).uptime) {
      this._past = [];
      this._samples = [];
      this._asksPast = true;
    }
    this._samples.push({ at: Date.now(), uptime: stats.uptime_s, resident, owned, lag: stats.loop.lag_p99_ms });
    while (this._samples.length > KEPT) this._retire(this._samples.shift());
    const names = new Set([...this._owners, ...Object.keys(owned)]);
    this._owners = [...OWNERS.filter((name) => names.delete(name)), ...[...names].sort()];
    this._draw();
    this._showLegend(owned, resident);
    this._showTiles(stats);
    this._showTree();
  }

  /** What the daemon has kept of the last hour. */
  async _readPast() {
    this._asksPast = false;
    try {
      const past = await this._link.request("daemon.history");
      const { at, memory, loop } = past;
      const pick = (lists, index) => Object.fromEntries(Object.entries(lists).map(([name, list]) => [name, list[index]]));
      const before = this._samples[0]?.at ?? Date.now();
      this._period = past.period_s * 1000;
      // The newest is of a period ago at the most: more is the difference of two clocks.
      const late = Date.now() - (at.at(-1) ?? 0);
      const shift = late < 0 || late > 3 * this._period ? late - this._period / 2 : 0;
      this._past = at
        .map((moment, index) => ({ at: moment + shift, resident: memory.resident[index], owned: pick(memory.owned, index), lag: loop.lag_p99_ms[index] }))
        .filter((sample) => sample.at < before)
        .slice(-COARSE);
    } catch (error) {
      if (error.code === "lost") throw error;
    }
  }

  /** A sample that is too old for its second is kept among those of the past, if it is its turn. */
  _retire(sample) {
    if (sample.at - (this._past.at(-1)?.at ?? 0) < this._period) return;
    this._past.push(sample);
    if (this._past.length > COARSE) this._past.shift();
  }

  _draw() {
    const since = (this._samples.at(-1)?.at ?? 0) - this._span;
    this._plot.show([...this._past, ...this._samples].filter((sample) => sample.at >= since), this._owners);
  }

  _showTiles({ memory, counts, processes, loop, actors, uptime_s: uptime }) {
    this._tile("Resident", format.bytes(memory.resident), STATES[memory.state] ?? memory.state, memory.state);
    this._tile("Loop lag p99", `${loop.lag_p99_ms.toFixed(1)} ms`, "how late it wakes up", "", this._samples.map((sample) => sample.lag));
    this._tile("Runs at work", String(counts.active_runs ?? 0), `${counts.retained_runs ?? 0} ended, to replay`);
    this._tile("Actors", String(actorsBelow(actors)), `${format.many(counts.sessions ?? 0, "session")} in memory`);
    this._tile("Connections", String(counts.connections ?? 0), `${format.many(counts.requests ?? 0, "request")} so far`);
    this._tile("Processes", String(processes.programs), processes.all ? `${processes.all} in all with ${format.bytes(processes.resident)}` : "tool servers and commands");
    this._tile("Up for", format.roughly(uptime * 1000), `${format.count(counts.commits ?? 0)} commits`);
  }

  _tile(name, value, note, state = "", values = null) {
    let tile = this._tiles.get(name);
    if (tile === undefined) {
      tile = { value: h("dd", { class: "value" }), note: h("dd", { class: "muted" }), plot: values && new SmallPlot() };
      tile.element = h("div", { class: "tile" }, h("dt", { text: name }), tile.value, tile.plot?.element, tile.note);
      this._tiles.set(name, tile);
      this._tileList.append(tile.element);
    }
    setText(tile.value, value);
    setText(tile.note, note);
    tile.element.dataset.state = state;
    tile.plot?.show(values);
  }

  _showLegend(owned, resident) {
    const wanted = this._owners.map((owner, index) => {
      let row = this._rows.get(owner);
      if (row === undefined) {
        row = { swatch: h("span", { class: "swatch" }), bytes: h("td", { class: "right" }), share: h("td", { class: "right" }) };
        row.element = h("tr", {}, h("th", { scope: "row" }, row.swatch, owner.replaceAll("_", " ")), row.bytes, row.share, h("td", { class: "muted", text: MEANT[owner] ?? "" }));
        this._rows.set(owner, row);
      }
      row.swatch.className = `swatch c${index % COLOURS}`;
      setText(row.bytes, format.bytes(owned[owner] ?? 0));
      setText(row.share, `${((100 * (owned[owner] ?? 0)) / resident).toFixed(1)} %`);
      return [owned[owner] ?? 0, row.element];
    });
    wanted.sort(([one], [two]) => two - one);
    arrange(this._legend, wanted.map(([, element]) => element));
  }

  _showTree() {
    if (this._actors.open && this._stats) this._actors.lastChild.replaceChildren(tree(this._stats.actors));
  }
}
