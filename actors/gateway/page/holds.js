// What the daemon holds: bytes by owner over time, and what is there: actors, runs, connections, processes, latency.

import { arrange, h, setText } from "./dom.js";
import * as format from "./format.js";
import { COLOURS, SmallPlot, StackedPlot } from "./plot.js";

const KEPT = 600; // samples

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
    this._samples = [];
    this._owners = [];
    this._plot = new StackedPlot();
    this._tiles = new Map();
    this._tileList = h("dl", { class: "tiles" });
    this._legend = h("tbody");
    this._rows = new Map();
    this._actors = h("details", { class: "actors", on: { toggle: () => this._showTree() } }, h("summary", { text: "Actors" }), h("div"));
    const heads = [h("th", { scope: "col", text: "Owner" }), h("th", { scope: "col", class: "right", text: "Bytes" }), h("th", { scope: "col", class: "right", text: "Share" }), h("th", { scope: "col", text: "What it is" })];
    this.element = h(
      "div",
      { class: "view" },
      
      this._tileList,
      this._plot.element,
      h("table", { class: "legend" }, h("caption", { class: "hidden", text: "Bytes by owner now" }), h("thead", {}, h("tr", {}, heads)), this._legend),
      this._actors,
    );
    this.title = "What the daemon holds";
    this.period = 1000;
  }

  anew() {
    return this.refresh();
  }

  async refresh() {
    const stats = await this._link.request("daemon.stats");
    this._stats = stats;
    const { resident, owned } = stats.memory;
    // Another daemon, or this one begun again: its past is not what was drawn.
    if (this._samples.length && stats.uptime_s < this._samples.at(-1).uptime) this._samples = [];
    this._samples.push({ at: Date.now(), uptime: stats.uptime_s, resident, owned, lag: stats.loop.lag_p99_ms });
    if (this._samples.length > KEPT) this._samples.splice(0, this._samples.length - KEPT);
    const names = new Set([...this._owners, ...Object.keys(owned)]);
    this._owners = [...OWNERS.filter((name) => names.delete(name)), ...[...names].sort()];
    this._plot.show(this._samples, this._owners);
    this._showLegend(owned, resident);
    this._showTiles(stats);
    this._showTree();
  }

  _showTiles({ memory, counts, processes, loop, actors, uptime_s: uptime }) {
    this._tile("Resident", format.bytes(memory.resident), STATES[memory.state] ?? memory.state, memory.state);
    this._tile("Loop lag p99", `${loop.lag_p99_ms.toFixed(1)} ms`, "how late it wakes up", "", this._samples.map((sample) => sample.lag));
    this._tile("Runs at work", String(counts.active_runs ?? 0), `${counts.retained_runs ?? 0} ended, to replay`);
    this._tile("Actors", String(actorsBelow(actors)), `${counts.sessions ?? 0} sessions in memory`);
    this._tile("Connections", String(counts.connections ?? 0), `${format.many(counts.requests ?? 0, "request")} so far`);
    this._tile("Processes", String(processes.programs), processes.all ? `${processes.all} in all with ${format.bytes(processes.resident)}` : "tool servers and commands");
    this._tile("Up for", format.duration(uptime * 1000), `${format.count(counts.commits ?? 0)} commits`);
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
      return row.element;
    });
    arrange(this._legend, wanted.reverse());
  }

  _showTree() {
    if (this._actors.open && this._stats) this._actors.lastChild.replaceChildren(tree(this._stats.actors));
  }
}
