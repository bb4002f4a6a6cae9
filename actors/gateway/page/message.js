// One message of the conversation, and the parts of it.

import { arrange, button, h, icon, setText } from "./dom.js";
import * as format from "./format.js";
import { Markdown } from "./markdown.js";
import { fileView, moreOf } from "./output.js";
import { ToolView } from "./tool.js";

// How an answer ended, where that is not as it should be.
const ENDS = {
  length: "The answer was cut: it reached a bound.",
  content_filter: "The model's service withheld the answer.",
  max_turns: "The run reached its bound of turns.",
  cancelled: "Stopped.",
  interrupted: "Interrupted: the daemon was lost. What was written until then is kept.",
  failed: "The run failed.",
  error: "The model call failed.",
};

const WHOLE = 262_144; // bytes of an answer that is read to its end without being asked

/** Text that is shown as it was written. */
class PlainView {
  constructor(link) {
    this._link = link;
    this._text = h("p", { class: "plain" });
    this.element = h("div", {}, this._text);
    this._more = null;
  }

  update(part) {
    if (this._more !== null) return;
    setText(this._text, part.text ?? "");
    if (part.text_more) this.element.append((this._more = restOf(this._link, part, (text) => this._text.append(text))));
  }

  want() {}
  close() {}
}

/** Text of a model: Markdown. */
class TextView {
  constructor(link) {
    this._link = link;
    this._markdown = new Markdown();
    this.element = h("div", { class: "text" }, this._markdown.element);
    this._more = null;
    this._read = "";
    this._wanted = false;
  }

  update(part) {
    // What was here while it was written stays, though the store shows the head of it alone.
    const { text: shown } = this._markdown;
    const more = part.text_more;
    if (this._more === null && more && shown.startsWith(part.text) && format.utf8Length(shown) === more.bytes) return;
    this._markdown.set((part.text ?? "") + this._read, !part.open && part.text_more === undefined);
    if (part.text_more === undefined || this._more !== null) return;
    this._more = restOf(this._link, part, (text) => {
      this._read += text;
      this._markdown.set((part.text ?? "") + this._read, false);
    });
    this.element.append(this._more);
    this._small = part.text_more.bytes <= WHOLE;
    if (this._wanted) this.want();
  }

  want() {
    this._wanted = true;
    this._markdown.want();
    if (this._more !== null && this._small) {
      this._small = false;
      this._more.readAll().then((all) => (this._more.hidden = all));
    }
  }

  close() {
    this._markdown.close();
  }
}

/** The line below a text of which the head is shown. */
function restOf(link, part, onText) {
  return moreOf(link, part.text_more, format.utf8Length(part.text ?? ""), onText, "text.txt");
}

class ReasoningView {
  constructor(link) {
    this._plain = new PlainView(link);
    this._title = h("span");
    this.element = h("details", { class: "reasoning" }, h("summary", {}, icon("next"), this._title), this._plain.element);
    this.element.addEventListener("toggle", () => this.update(this._part));
  }

  update(part) {
    this._part = part;
    setText(this._title, part.open ? "Thinking…" : `Thoughts · ${format.many(words(part.text ?? ""), "word")}`);
    if (this.element.open) this._plain.update(part);
  }

  want() {}
  close() {}
}

function words(text) {
  return text.match(/\S+/gu)?.length ?? 0;
}

class FileView {
  constructor(link) {
    this._link = link;
    this.element = h("div");
    this._view = null;
  }

  update(part) {
    if (this._view !== null || part.mime === undefined) return;
    this._view = fileView(this._link, part);
    this.element.append(this._view.element);
  }

  want() {}
  close() {
    this._view?.close();
  }
}

class CompactionView {
  constructor(link) {
    this._text = new TextView(link);
    this.element = h("details", { class: "note" }, h("summary", {}, icon("next"), "For the model, a summary stands in place of the conversation before this"), this._text.element);
    this.element.addEventListener("toggle", () => this._text.want());
  }

  update(part) {
    this._text.update({ text: part.summary ?? "", open: part.open, text_more: part.summary_more });
  }

  want() {}
  close() {
    this._text.close();
  }
}

/** A line about something that happened. */
class NoteView {
  constructor(say) {
    this._say = say;
    this.element = h("p", { class: "note" });
  }

  update(part) {
    setText(this.element, this._say(part));
  }

  want() {}
  close() {}
}

const NOTES = {
  retry: (part) => (part.attempt === undefined ? "" : `Attempt ${part.attempt}, after ${format.duration(part.delay_ms)}: ${part.reason}`),
  patch: (part) => (part.path === undefined ? "" : `Changed ${part.path}`),
  agent: (part) => `Agent ${part.name ?? ""}`,
  subtask: (part) => `Task for ${part.agent ?? "an agent"}: ${part.description ?? ""}`,
};

function viewOf(link, role, kind) {
  if (kind === "text") return role === "user" ? new PlainView(link) : new TextView(link);
  if (kind === "reasoning") return new ReasoningView(link);
  if (kind === "tool") return new ToolView(link);
  if (kind === "file") return new FileView(link);
  if (kind === "compaction") return new CompactionView(link);
  return NOTES[kind] ? new NoteView(NOTES[kind]) : null;
}

export class MessageView {
  constructor(link, message, { currency, onFork }) {
    this._link = link;
    this._currency = currency;
    this._views = new Map(); // by part id
    this._version = -1;
    this._wanted = false;
    this._body = h("div", { class: "parts" });
    this._end = h("p", { class: "end", hidden: true });
    this._meta = h("span", { class: "meta" });
    this._copy = button("Copy", () => this._copyText(), { kind: "quiet small" });
    const fork = button("Fork here", () => onFork(message.id), { kind: "quiet small", title: "A new session with a copy of all up to this message" });
    this._foot = h("footer", {}, this._meta, this._copy, fork);
    const user = message.info.role === "user";
    this.element = h(
      "article",
      { class: `message ${user ? "user" : "assistant"}`, "aria-label": user ? "You" : "Answer", data: { id: message.id } },
      this._body,
      this._end,
      this._foot,
    );
    this.update(message);
  }

  update(message) {
    if (message.version === this._version) return;
    this._version = message.version;
    const { info } = message;
    const elements = [];
    const seen = new Set();
    for (const part of message.parts) {
      let view = this._views.get(part.id);
      if (view === undefined) {
        view = viewOf(this._link, info.role, part.kind);
        if (view === null) continue;
        this._views.set(part.id, view);
        if (this._wanted) view.want();
      }
      view.update(part);
      seen.add(part.id);
      elements.push(view.element);
    }
    for (const [id, view] of this._views) if (!seen.has(id)) this._drop(id, view);
    if (message.partsMore) elements.push(h("p", { class: "note", text: `${format.many(message.partsMore, "part")} more of this message cannot be shown here.` }));
    arrange(this._body, elements);
    this._showEnd(info);
    this._showMeta(message);
  }

  _showEnd(info) {
    const how = info.end?.status ?? info.finish;
    const error = info.end?.error ?? info.error;
    const said = error?.message ?? info.end?.reason ?? "";
    const text = ENDS[how] ? (error ? `${ENDS[how]} ${said}` : ENDS[how]) : error ? said : "";
    this._end.hidden = text === "";
    this._end.classList.toggle("error", error !== undefined);
    setText(this._end, text);
  }

  _showMeta(message) {
    const { info } = message;
    const about = [info.role === "user" ? "" : info.model ?? "", format.clock(info.created_at), format.usage(info.usage, this._currency)];
    setText(this._meta, about.filter(Boolean).join(" · "));
    this._meta.title = `${format.moment(info.created_at)}\n${format.usageWhole(info.usage, this._currency)}`;
    // Between two turns of a run the line would only be in the way.
    this._foot.hidden = message.live || info.finish === "tool_calls";
    this.element.setAttribute("aria-busy", String(message.live));
  }

  /** The place for questions of a call, or null. */
  slot(callId) {
    for (const view of this._views.values()) if (view instanceof ToolView && view.callId === callId) return view.slot;
    return null;
  }

  /** The text as a screen reader is told. */
  get text() {
    return [...this._body.querySelectorAll(".text")].map((element) => element.textContent).join("\n");
  }

  /** It is near to what is seen: render its texts. */
  want() {
    this._wanted = true;
    for (const view of this._views.values()) view.want();
  }

  _copyText() {
    const texts = [...this._body.querySelectorAll(".text, .plain")].filter((element) => !element.parentElement.closest(".text, .reasoning"));
    navigator.clipboard?.writeText(texts.map((element) => element.innerText).join("\n\n")).then(() => {
      setText(this._copy.firstChild, "Copied");
      setTimeout(() => setText(this._copy.firstChild, "Copy"), 1500);
    });
  }

  _drop(id, view) {
    view.close();
    this._views.delete(id);
  }

  close() {
    for (const [id, view] of [...this._views]) this._drop(id, view);
    this.element.remove();
  }
}
