// A text as it grows: plain at once, then the daemon's HTML. What the daemon has taken is final and never touched again.

import { clean } from "./format.js";
import { fragment } from "./html.js";

const PERIOD = 250; // ms between two renderings of one text while it grows
const BEHIND = 16_384; // characters that are not rendered: more does not wait for the period
const PLAIN = 32_768; // characters that are shown as they are until they are rendered; the rest waits
const PIECE = 65_536; // bytes sent at a time, unless the daemon says otherwise
const AT_ONCE = 2; // requests of the page at the same time: the daemon renders one after the other
const AGAIN = 1000; // ms after a lost connection

let link = null;
let working = 0;
const waiting = [];
const encoder = new TextEncoder();
let room = new Uint8Array(PIECE);

/** The connection that renders; without one all text stays plain. */
export function renderWith(connection) {
  link = connection;
  link.addEventListener("open", () => (room = new Uint8Array(link.hello.limits.markdown_bytes ?? PIECE)));
}

function pump() {
  while (working < AT_ONCE && waiting.length) {
    const view = waiting.shift();
    if (!view._wanted) {
      view._queued = false;
      continue;
    }
    working += 1;
    view._render().finally(() => {
      working -= 1;
      pump();
    });
  }
}

export class Markdown {
  constructor() {
    this._open = document.createElement("div"); // what is behind the final part, as it looks if the text ended here
    this._open.className = "open";
    this.element = document.createElement("div");
    this.element.className = "markdown";
    this.element.append(this._open);
    this._text = "";
    this._done = false;
    this._wanted = false;
    this._queued = false; // waits or is being rendered
    this._timer = 0;
    this._last = 0; // when it was rendered
    this._clear();
  }

  get text() {
    return this._text;
  }

  /** Show `text`, which usually is what was shown and more; `done` when no more follows. */
  set(text, done) {
    this._done = done; // only says how long to wait: what is rendered so far is right whether more comes or not
    if (text === this._text) return;
    if (!text.startsWith(this._text)) this._clear();
    this._text = text;
    this._settled = false;
    this._showPlain();
    this._schedule();
  }

  /** It is about to be seen: only then it is rendered. */
  want() {
    this._wanted = true;
    this._schedule();
  }

  close() {
    clearTimeout(this._timer);
    this._wanted = false;
  }

  _clear() {
    this._taken = 0; // characters whose nodes are final
    this._rendered = 0; // characters of which there is HTML at all
    this._state = undefined;
    this._plain = null; // the text node behind them
    this._settled = false; // there is nothing to render
    this._open.replaceChildren();
    this.element.replaceChildren(this._open);
  }

  _showPlain() {
    const rest = clean(this._text.slice(this._rendered, this._rendered + PLAIN));
    if (this._plain === null) {
      if (!rest) return;
      const holder = document.createElement(this._rendered === this._taken ? "p" : "span");
      holder.className = "plain";
      this._plain = holder.appendChild(document.createTextNode(""));
      // The words that come are the end of the open paragraph, if it ends in one.
      (holder.localName === "p" ? this._open : lastBlock(this._open)).append(holder);
    }
    if (rest.startsWith(this._plain.data)) this._plain.appendData(rest.slice(this._plain.data.length));
    else this._plain.data = rest;
  }

  _schedule() {
    this.element.setAttribute("aria-busy", String(this._wanted && !this._settled && this._text !== ""));
    if (!this._wanted || this._queued || this._settled || this._timer || this._text === "") return;
    const behind = this._text.length - this._rendered >= BEHIND;
    const wait = this._done || behind ? 0 : Math.max(0, this._last + PERIOD - performance.now());
    this._timer = setTimeout(() => {
      this._timer = 0;
      this._queued = true;
      waiting.push(this);
      pump();
    }, wait);
  }

  async _render() {
    this._last = performance.now();
    const [text, taken] = [this._text, this._taken];
    const rest = text.slice(taken, taken + room.length);
    // As much as the daemon takes, counted in its bytes; a pair of surrogates is not cut.
    const piece = rest.slice(0, encoder.encodeInto(rest, room).read);
    try {
      const state = this._state === undefined ? {} : { state: this._state };
      const made = await link.request("markdown.render", { text: piece, ...state });
      // The text may have been replaced by another meanwhile.
      if (this._taken === taken && this._text.startsWith(text)) this._show(made, piece);
    } catch (error) {
      if (error.code === "lost") setTimeout(() => this._schedule(), AGAIN);
      this._settled = error.code !== "lost"; // what is refused stays plain
    }
    this._queued = false;
    this._schedule();
  }

  _show(made, piece) {
    this._open.before(fragment(made.html));
    const size = position(piece, made.taken);
    this._taken += size;
    this._state = made.state;
    // White space at the end is not seen in HTML: what comes behind it brings it along.
    this._rendered = this._taken + (made.more ? 0 : piece.slice(size).trimEnd().length);
    this._plain = null;
    this._open.replaceChildren(fragment(made.open_html));
    this._settled = !made.more && this._text.length === this._taken + piece.length - size; // until there is more of it
    if (!this._settled) this._showPlain();
  }
}

function lastBlock(element) {
  let block = element;
  while (block.lastElementChild && /^(?:p|h[1-6]|ul|ol|li|blockquote|pre|code)$/u.test(block.lastElementChild.localName)) block = block.lastElementChild;
  return block;
}

/** Where the first `points` characters of Unicode end, in the units that JavaScript counts. */
function position(text, points) {
  let at = 0;
  for (let left = points; left > 0 && at < text.length; left -= 1) at += text.codePointAt(at) > 0xffff ? 2 : 1;
  return at;
}
