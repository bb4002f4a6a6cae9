// What waits for a person: a call that no rule allows, or a question of a tool with a small form.

import { button, h } from "./dom.js";
import * as format from "./format.js";
import { moreOf } from "./output.js";

let numbers = 0;

/** The values of a call's input, each as text. */
export function inputView(input) {
  const entries = input !== null && typeof input === "object" ? Object.entries(input) : [["input", input]];
  const rows = entries.map(([name, value]) => h("div", {}, h("dt", { text: name }), h("dd", { text: typeof value === "string" ? value : JSON.stringify(value) })));
  return h("dl", { class: "input" }, rows);
}

/** A form for the flat JSON Schema of a question; `read()` gives its content, or throws an Error for people. */
function schemaForm(schema) {
  const required = new Set(schema.required ?? []);
  const fields = Object.entries(schema.properties ?? {}).map(([name, kind]) => fieldOf(name, kind, required.has(name)));
  return {
    element: h("div", { class: "fields" }, fields.map((field) => field.element)),
    read() {
      const content = {};
      for (const field of fields) {
        const value = field.read();
        if (value !== undefined) content[field.name] = value;
      }
      return content;
    },
  };
}

function choicesOf(kind) {
  const titled = kind.oneOf ?? kind.anyOf;
  if (titled) return titled.map((choice) => [choice.const, choice.title ?? String(choice.const)]);
  return kind.enum?.map((value, at) => [value, kind.enumNames?.[at] ?? String(value)]);
}

function fieldOf(name, kind, required) {
  const label = (kind.title ?? name) + (required ? "" : " (optional)");
  const hint = kind.description && h("small", { text: kind.description });
  const choices = choicesOf(kind);
  const within = (input) => h("label", { class: "field" }, h("span", { text: label }), input, hint);
  if (kind.type === "boolean") {
    const input = h("input", { type: "checkbox", checked: kind.default === true });
    return { name, element: h("label", { class: "field check" }, input, h("span", { text: kind.title ?? name }), hint), read: () => input.checked };
  }
  if (kind.type === "array") {
    const boxes = (choicesOf(kind.items ?? {}) ?? []).map(([value, title]) => {
      const input = h("input", { type: "checkbox", checked: kind.default?.includes(value) ?? false });
      return { value, input, element: h("label", { class: "field check" }, input, h("span", { text: title })) };
    });
    const element = h("fieldset", {}, h("legend", { text: label }), hint, boxes.map((box) => box.element));
    return { name, element, read: () => boxes.filter((box) => box.input.checked).map((box) => box.value) };
  }
  if (choices) {
    const none = required ? [] : [h("option", { value: "", text: "—" })];
    const options = choices.map(([value, title], at) => h("option", { value: String(at), text: title, selected: value === kind.default }));
    const input = h("select", {}, none, options);
    return { name, element: within(input), read: () => (input.value === "" ? undefined : choices[Number(input.value)][0]) };
  }
  const number = kind.type === "number" || kind.type === "integer";
  const type = number ? "number" : { email: "email", date: "date", uri: "url" }[kind.format] ?? "text";
  const input = h("input", {
    type, value: kind.default ?? "", required, min: kind.minimum, max: kind.maximum,
    step: kind.type === "integer" ? 1 : number ? "any" : null, minlength: kind.minLength, maxlength: kind.maxLength,
  });
  return {
    name,
    element: within(input),
    read() {
      if (!input.reportValidity()) throw new Error(`“${kind.title ?? name}” is not right yet`);
      if (input.value === "") return required && !number ? "" : undefined;
      return number ? Number(input.value) : input.value;
    },
  };
}

/** One question. It is removed by who made it, when it has been resolved by anybody. */
export class ApprovalView {
  constructor(link, asked) {
    this.asked = asked;
    this._link = link;
    this._replying = false;
    this._given = null; // what was decided here
    const id = `ask-${++numbers}`;
    this._error = h("p", { class: "error", role: "alert", hidden: true });
    const form = asked.parent_call_id === undefined ? this._call(id) : this._question(id);
    this.element = h("form", { class: "ask", role: "group", "aria-labelledby": id, on: { submit: (event) => event.preventDefault() } }, form, this._error);
  }

  /** Put the focus on its first control. */
  focus() {
    this.element.querySelector("button, input, select")?.focus();
    this.element.scrollIntoView({ block: "nearest" });
  }

  /** What it asks, in a sentence. */
  get sentence() {
    return this.asked.parent_call_id === undefined ? `${this.asked.tool} asks for approval` : `${this.asked.tool} asks: ${this.asked.input?.message ?? ""}`;
  }

  _call(id) {
    const { asked } = this;
    const reason = h("input", { type: "text", maxlength: 500, placeholder: "Reason, for the model", "aria-label": "Reason of a denial (optional)" });
    const deny = (decision) => this._reply(decision, reason.value.trim() ? { reason: reason.value.trim() } : {});
    reason.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) deny("deny");
    });
    return [
      h("p", { id, class: "asks" }, "Allow ", h("code", { text: asked.tool }), "?"),
      asked.question && h("p", { class: "muted", text: asked.question }),
      inputView(asked.input),
      asked.input_more && this._whole(asked.input_more),
      h(
        "div",
        { class: "buttons" },
        button("Allow", () => this._reply("allow"), { kind: "primary" }),
        button("Always in this session", () => this._reply("allow_always")),
      ),
      h("div", { class: "buttons deny" }, reason, button("Deny", () => deny("deny")), button("Deny and stop", () => deny("cancel"), { kind: "danger" })),
    ];
  }

  _question(id) {
    const form = schemaForm(this.asked.input?.schema ?? {});
    const answer = () => {
      try {
        this._reply("allow", { content: form.read() });
      } catch (error) {
        this._fail(error.message);
      }
    };
    return [
      h("p", { id, class: "asks wrap", text: this.asked.input?.message || `${this.asked.tool} has a question` }),
      h("p", { class: "muted" }, "asked by ", h("code", { text: this.asked.tool })),
      form.element,
      h("div", { class: "buttons" }, button("Answer", answer, { kind: "primary" }), button("Decline", () => this._reply("deny"))),
    ];
  }

  /** The input is longer than what is shown: all of it, as it is sent. */
  _whole(more) {
    const text = h("pre", { class: "result", hidden: true, tabindex: 0, "aria-label": "The whole input" });
    const line = moreOf(this._link, more, 0, (piece) => {
      text.hidden = false;
      text.append(piece);
    }, "input.json");
    return h("div", {}, h("p", { text: "The input is longer than what is shown here." }), text, line);
  }

  /** What to tell whoever looked at this and did not decide it; empty if they did, or if the run tells more. */
  outcome({ decision, by }) {
    if (decision === this._given || by === "stop" || by === "call") return "";
    const how = decision === "allow" || decision === "allow_always" ? "allowed" : "denied";
    const who = { client: "in another window or program", rule: "by a rule", expiry: "because nobody answered in time", restart: "because the daemon was lost" }[by];
    return `${this.asked.tool} was ${how} ${who ?? `by ${by}`}${this._given ? ", before your answer" : ""}.`;
  }

  async _reply(decision, more = {}) {
    if (this._replying) return;
    this._given = decision;
    this._replying = true; // nothing is disabled meanwhile: that would take the focus away
    this.element.setAttribute("aria-busy", "true");
    this._error.hidden = true;
    try {
      await this._link.request("approval.reply", { run_id: this.asked.run_id, call_id: this.asked.call_id, decision, ...more });
    } catch (error) {
      if (error.code === "already_resolved") this._fail(`It has been answered already: ${error.data.decision}, by ${error.data.by}.`);
      else if (error.code === "lost") this._fail("The connection was lost before the answer was there. Try again.");
      else {
        this._given = null;
        this._fail(error.message);
      }
    }
    this._replying = false;
    this.element.removeAttribute("aria-busy");
  }

  _fail(text) {
    this._error.textContent = text;
    this._error.hidden = false;
  }
}
