// Drawn figures: areas that are stacked over time with a line above them, and a small line for one figure.

import { arrange, h, setText, svg } from "./dom.js";
import * as format from "./format.js";

const HEIGHT = 260;
const EDGE = { left: 58, right: 12, top: 10, bottom: 24 };
export const COLOURS = 14; // classes c0 … c13 of the style sheet

/** A round step of which about `wanted` fit into `most`. */
function step(most, wanted, bases = [1, 2, 5, 10]) {
  const rough = most / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * bases.find((base) => base * power >= rough);
}

const SPANS = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];

/**
 * Bytes by owner over time. `show(samples, owners)`: samples are `{at, resident, owned}` in order of time, owners the
 * layers from the bottom up. Pointer and arrow keys pick a moment, whose figures are told.
 */
export class StackedPlot {
  constructor() {
    this._samples = [];
    this._owners = [];
    this._picked = null; // how many samples before the last
    this._grid = svg("g", { class: "grid" });
    this._areas = svg("g");
    this._line = svg("path", { class: "resident" });
    this._cross = svg("path", { class: "cross" });
    this._svg = svg("svg", { class: "plot", role: "img", height: HEIGHT }, this._grid, this._areas, this._line, this._cross);
    this._reading = h("p", { class: "reading muted", "aria-live": "polite" });
    this.element = h("figure", { class: "figure", tabindex: 0, "aria-label": "Bytes by owner over time. Arrow keys pick a moment." }, this._svg, this._reading);
    this._width = 0;
    new ResizeObserver(([entry]) => {
      this._width = Math.max(240, Math.floor(entry.contentRect.width));
      this._draw();
    }).observe(this.element);
    this.element.addEventListener("pointermove", (event) => this._point(event));
    this.element.addEventListener("pointerleave", () => this._pick(null));
    this.element.addEventListener("blur", () => this._pick(null));
    this.element.addEventListener("keydown", (event) => this._key(event));
  }

  show(samples, owners) {
    this._samples = samples;
    this._owners = owners;
    this._draw();
  }

  _draw() {
    if (this._width === 0 || this._samples.length === 0) return;
    const samples = this._samples;
    const [first, last] = [samples[0].at, samples.at(-1).at];
    const span = Math.max(last - first, 30_000);
    const sums = samples.map((sample) => this._owners.reduce((sum, owner) => sum + (sample.owned[owner] ?? 0), 0));
    const most = Math.max(...sums, ...samples.map((sample) => sample.resident), 1) * 1.05;
    const [width, height] = [this._width - EDGE.left - EDGE.right, HEIGHT - EDGE.top - EDGE.bottom];
    this._x = (at) => EDGE.left + width * (1 - (last - at) / span);
    this._y = (bytes) => EDGE.top + height * (1 - bytes / most);
    this._svg.setAttribute("viewBox", `0 0 ${this._width} ${HEIGHT}`);
    this._svg.setAttribute("width", this._width);
    const newest = samples.at(-1);
    this._svg.setAttribute("aria-label", `${format.bytes(newest.resident)} resident, ${format.bytes(sums.at(-1))} with an owner`);
    this._drawGrid(last, span, most);
    this._drawAreas(samples);
    this._line.setAttribute("d", this._path(samples.map((sample) => [sample.at, sample.resident])));
    this._drawCross();
  }

  _path(points) {
    return points.map(([at, bytes], index) => `${index ? "L" : "M"}${this._x(at).toFixed(1)} ${this._y(bytes).toFixed(1)}`).join("");
  }

  _drawGrid(last, span, most) {
    const marks = [];
    const right = this._width - EDGE.right;
    const tick = step(most, 4);
    for (let bytes = 0; bytes <= most; bytes += tick) {
      const y = this._y(bytes);
      marks.push(svg("path", { d: `M${EDGE.left} ${y.toFixed(1)}H${right}` }));
      const label = svg("text", { x: EDGE.left - 8, y: y + 4, class: "to-left" });
      label.textContent = format.bytes(bytes);
      marks.push(label);
    }
    const seconds = SPANS.find((length) => (span / 1000 / length) * 80 <= this._width - EDGE.left) ?? SPANS.at(-1);
    for (let back = 0; back * 1000 <= span; back += seconds) {
      const x = this._x(last - back * 1000);
      if (x < EDGE.left - 1) break;
      const label = svg("text", { x, y: HEIGHT - 6, class: back === 0 ? "to-left" : "middle" });
      label.textContent = back === 0 ? "now" : `−${back < 120 ? `${back} s` : back < 7200 ? `${Math.round(back / 60)} min` : `${Math.round(back / 3600)} h`}`;
      marks.push(label);
    }
    arrange(this._grid, marks);
  }

  _drawAreas(samples) {
    const base = samples.map(() => 0);
    this._owners.forEach((owner, index) => {
      const area = this._areas.children[index] ?? this._areas.appendChild(svg("path"));
      area.setAttribute("class", `area c${index % COLOURS}`);
      const below = samples.map((sample, at) => [sample.at, base[at]]);
      samples.forEach((sample, at) => (base[at] += sample.owned[owner] ?? 0));
      const above = samples.map((sample, at) => [sample.at, base[at]]);
      area.setAttribute("d", `${this._path(above)}${this._path(below.reverse()).replace("M", "L")}Z`);
    });
    while (this._areas.children.length > this._owners.length) this._areas.lastChild.remove();
  }

  // ------------------------------------------------------------ a moment that is picked
  _point(event) {
    const x = event.clientX - this._svg.getBoundingClientRect().left;
    let nearest = 0;
    this._samples.forEach((sample, at) => {
      if (Math.abs(this._x(sample.at) - x) < Math.abs(this._x(this._samples[nearest].at) - x)) nearest = at;
    });
    this._pick(this._samples.length - 1 - nearest);
  }

  _key(event) {
    const now = this._picked ?? 0;
    const to = { ArrowLeft: now + 1, ArrowRight: now - 1, Home: this._samples.length - 1, End: 0, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to === null) event.stopPropagation();
    this._pick(to === null ? null : Math.max(0, Math.min(to, this._samples.length - 1)));
  }

  _pick(back) {
    this._picked = back;
    this._drawCross();
  }

  _drawCross() {
    const sample = this._picked === null ? undefined : this._samples.at(-1 - this._picked);
    if (sample === undefined) {
      this._cross.setAttribute("d", "");
      setText(this._reading, "The line is resident memory; the areas are what has an owner.");
      return;
    }
    this._cross.setAttribute("d", `M${this._x(sample.at).toFixed(1)} ${EDGE.top}V${HEIGHT - EDGE.bottom}`);
    const largest = Object.entries(sample.owned).sort((one, two) => two[1] - one[1]).slice(0, 4);
    setText(this._reading, `${format.clock(sample.at)}: ${format.bytes(sample.resident)} resident · ${largest.map(([owner, bytes]) => `${owner} ${format.bytes(bytes)}`).join(" · ")}`);
  }
}

/** A line of one figure without axes; what it says has to stand beside it. */
export class SmallPlot {
  constructor() {
    this._line = svg("path", {});
    this.element = svg("svg", { class: "small-plot", viewBox: "0 0 120 28", preserveAspectRatio: "none", "aria-hidden": "true" }, this._line);
  }

  show(values) {
    const most = Math.max(...values, 1e-9);
    const wide = 120 / Math.max(values.length - 1, 1);
    this._line.setAttribute("d", values.map((value, at) => `${at ? "L" : "M"}${(at * wide).toFixed(1)} ${(26 - (24 * value) / most).toFixed(1)}`).join(""));
  }
}
