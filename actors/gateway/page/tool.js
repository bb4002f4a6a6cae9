// A tool call: its state on one line, input and result folded below it, what it writes meanwhile, and its question.

import { inputView } from "./approval.js";
import { arrange, h, icon, setText } from "./dom.js";
import * as format from "./format.js";
import { moreOf } from "./output.js";

const LINES = 8; // of the live preview
const GLYPHS = { pending: "wait", running: "spin", completed: "done", error: "fail" };
const WORDS = { pending: "waits", running: "at work", completed: "done", error: "failed" };
// What says most about a call, in this order.
const TELLING = ["path", "command", "query", "pattern", "url", "text", "name"];

function gist(part) {
  if (part.title) return part.title;
  const input = part.input ?? {};
  const name = TELLING.find((key) => typeof input[key] === "string") ?? Object.keys(input).find((key) => typeof input[key] === "string");
  return name === undefined ? "" : input[name];
}

export class ToolView {
  constructor(link) {
    this._link = link;
    this._state = h("span", { class: "state" });
    this._glyph = h("span", { class: "glyph" });
    this._name = h("code");
    this._gist = h("span", { class: "gist" });
    this._body = h("div", { class: "tool-body" });
    this._details = h("details", { on: { toggle: () => this._fill() } }, h("summary", {}, this._glyph, this._name, this._gist, this._state), this._body);
    this._preview = h("pre", { class: "preview", hidden: true, "aria-label": "What the tool writes" });
    this._failure = h("p", { class: "error", hidden: true });
    this.slot = h("div", { class: "slot" }); // for its questions
    this.element = h("div", { class: "tool" }, this._details, this._failure, this._preview, this.slot);
    this._part = null;
    this._filled = null;
  }

  get callId() {
    return this._part?.call_id;
  }

  update(part) {
    this._part = part;
    const denied = part.decision === "deny" || part.decision === "cancel";
    if (this.element.dataset.state !== part.state) {
      this.element.dataset.state = part.state;
      this._glyph.replaceChildren(icon(GLYPHS[part.state] ?? "wait"));
    }
    setText(this._name, part.tool ?? "tool");
    setText(this._gist, format.line(gist(part), 160));
    const took = part.finished_at && part.started_at ? ` · ${format.duration(Math.max(0, part.finished_at - part.started_at))}` : "";
    setText(this._state, (denied ? "denied" : WORDS[part.state] ?? part.state ?? "") + took);
    const working = part.state === "running" || part.state === "pending";
    this._preview.hidden = !(working && part.preview);
    if (!this._preview.hidden) setText(this._preview, part.preview.split("\n").slice(-LINES - 1).join("\n"));
    this._failure.hidden = part.state !== "error" || !part.error;
    if (!this._failure.hidden) setText(this._failure, format.line(part.error, 240));
    this._fill();
  }

  /** Input and result are made when they are first looked at. */
  _fill() {
    const part = this._part;
    if (!this._details.open || part === null) return;
    const mark = `${part.state} ${(part.output ?? part.error ?? "").length} ${JSON.stringify(part.input ?? null).length}`;
    if (mark === this._filled) return;
    this._filled = mark;
    const parts = [h("h4", { text: "Input" }), inputView(part.input ?? {})];
    if (part.input_more) parts.push(this._more("input", part.input_more));
    for (const name of ["output", "error"]) {
      if (part[name] === undefined) continue;
      const text = h("pre", { class: "result", tabindex: 0, "aria-label": name, text: part[name] });
      parts.push(h("h4", { text: name === "output" ? "Result" : "Error" }), text);
      if (part[`${name}_more`]) parts.push(this._more(name, part[`${name}_more`], text));
    }
    arrange(this._body, parts);
  }

  /** Of a long string head and tail are shown: what is asked for begins with its first byte. */
  _more(name, more, shown = h("pre", { class: "result", hidden: true, tabindex: 0, "aria-label": name })) {
    const line = moreOf(this._link, more, 0, (text, first) => {
      shown.hidden = false;
      if (first) shown.textContent = "";
      shown.append(text);
    }, `${name}.txt`);
    return name === "input" ? h("div", {}, shown, line) : line;
  }

  want() {}
  close() {}
}
