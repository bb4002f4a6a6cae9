// Where a message is written: text, files, and what becomes of it while a run is at work.

import { draftOf, keepDraft } from "./drafts.js";
import { arrange, button, h, icon } from "./dom.js";
import * as format from "./format.js";

const FRAME_SHARE = 0.7; // of the bytes of a message to the daemon, for files: base64 takes a third more
const MODES = [
  ["queue", "Queue", "It waits for its turn, and is a run of its own"],
  ["steer", "Steer", "The run takes it in: the model sees it with its next turn"],
  ["interrupt", "Interrupt", "The run is stopped, then this begins"],
];

function readFile(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result.slice(reader.result.indexOf(",") + 1)));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
}

/** `onSend({key, text, input, mode})` and `onStop()` are called; `limits` gives those of the daemon. */
export class Composer {
  constructor({ onSend, onStop, limits }) {
    this._onSend = onSend;
    this._limits = limits;
    this._session = null;
    this._files = [];
    this._busy = false;
    this.field = h("textarea", {
      rows: 1, dir: "auto", placeholder: "Write a message", "aria-label": "Message", enterkeyhint: "send", autocomplete: "off",
      on: { input: () => this._typed(), keydown: (event) => this._key(event), paste: (event) => this._pasted(event) },
    });
    this._chips = h("ul", { class: "chips", "aria-label": "Files", hidden: true });
    this._note = h("p", { class: "error", role: "alert", hidden: true });
    this._modes = h("fieldset", { class: "modes", hidden: true }, h("legend", { class: "hidden", text: "While the run is at work" }));
    for (const [value, label, title] of MODES) {
      const input = h("input", { type: "radio", name: "mode", value, checked: value === "queue" });
      this._modes.append(h("label", { title }, input, h("span", { text: label })));
    }
    const files = h("input", { type: "file", multiple: true, hidden: true, on: { change: () => this._add([...files.files]).then(() => (files.value = "")) } });
    this._send = button("Send", () => this.send(), { kind: "round primary", glyph: "send", shown: false });
    this._stop = button("Stop the run", onStop, { kind: "round stop", glyph: "stop", shown: false, hidden: true });
    this.element = h(
      "form",
      { class: "composer", "aria-label": "Write a message", on: { submit: (event) => event.preventDefault() } },
      this._note,
      this._chips,
      this.field,
      h("div", { class: "row" }, button("Attach files", () => files.click(), { kind: "round quiet", glyph: "attach", shown: false }), files, this._modes, h("span", { class: "grow" }), this._stop, this._send),
    );
    this.element.addEventListener("dragover", (event) => event.preventDefault());
    this.element.addEventListener("drop", (event) => {
      event.preventDefault();
      this._add([...event.dataTransfer.files]);
    });
    this._typed();
  }

  /** Write to this session from now on: `new`, or an id. */
  open(session) {
    this._session = session;
    this._files = [];
    this._showFiles();
    this._fail("");
    this.field.value = draftOf(session).text;
    this._typed();
  }

  set busy(on) {
    if (on === this._busy) return;
    this._busy = on;
    this._modes.hidden = this._stop.hidden = !on;
    this.field.placeholder = on ? "Write what comes next" : "Write a message";
  }

  set stopping(on) {
    this._stop.disabled = on;
  }

  /** Give a text back that was not sent. */
  restore(text) {
    this.field.value = this.field.value ? `${text}\n\n${this.field.value}` : text;
    this._typed();
    this.field.focus();
  }

  send() {
    const text = this.field.value.trim();
    if (text === "" && this._files.length === 0) return;
    const files = this._files.map(({ name, mime, data }) => ({ kind: "file", name, mime, data_base64: data }));
    const input = files.length ? [...(text ? [{ kind: "text", text }] : []), ...files] : null;
    const mode = this._busy ? this._modes.querySelector("input:checked").value : "queue";
    const names = this._files.map((file) => file.name).join(", ");
    const { key } = draftOf(this._session);
    this._onSend({ key, text: text || names, input, mode });
    this.field.value = "";
    this._files = [];
    this._showFiles();
    this._typed();
  }

  _typed() {
    if (this._session !== null) keepDraft(this._session, this.field.value);
    this._send.disabled = this.field.value.trim() === "" && this._files.length === 0;
    // The height of what is written, where the browser does not do it by itself (`field-sizing`).
    if (!CSS.supports("field-sizing", "content")) {
      this.field.style.height = "auto";
      this.field.style.height = `${this.field.scrollHeight}px`;
    }
  }

  _key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    // On a touch screen Enter is the only way to a new line.
    if (matchMedia("(pointer: coarse)").matches && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.send();
  }

  _pasted(event) {
    const files = [...event.clipboardData.files];
    if (files.length === 0) return;
    event.preventDefault();
    this._add(files);
  }

  async _add(files) {
    const room = (this._limits().message_bytes ?? 1048576) * FRAME_SHARE;
    this._fail("");
    for (const file of files) {
      const taken = this._files.reduce((sum, other) => sum + other.size, 0);
      if (taken + file.size > room) {
        this._fail(`${file.name} (${format.bytes(file.size)}) does not fit: a message has ${format.bytes(room)} of files.`);
        continue;
      }
      try {
        this._files.push({ name: file.name.slice(0, 200) || "file", mime: file.type || "application/octet-stream", size: file.size, data: await readFile(file) });
      } catch {
        this._fail(`${file.name} cannot be read.`);
      }
    }
    this._showFiles();
    this._typed();
  }

  _showFiles() {
    this._chips.hidden = this._files.length === 0;
    arrange(this._chips, this._files.map((file) => h("li", {}, icon("file"), h("span", { text: file.name }), h("small", { text: format.bytes(file.size) }), button(`Remove ${file.name}`, () => {
      this._files = this._files.filter((other) => other !== file);
      this._showFiles();
      this._typed();
    }, { kind: "quiet tiny", glyph: "close", shown: false }))));
  }

  _fail(text) {
    this._note.textContent = text;
    this._note.hidden = text === "";
  }
}
