// What the model means to do, as it keeps it for itself: the session's todos.

import { arrange, h, icon, setText } from "./dom.js";

const GLYPHS = { pending: "wait", in_progress: "next", completed: "done" };
const WORDS = { pending: "to do", in_progress: "at work", completed: "done" };

export class Todos {
  constructor() {
    this._title = h("span");
    this._list = h("ul");
    this._shown = "";
    this.element = h("details", { class: "todos", hidden: true }, h("summary", {}, icon("next"), this._title), this._list);
  }

  show(todos) {
    const mark = JSON.stringify(todos);
    if (mark === this._shown) return;
    this._shown = mark;
    this.element.hidden = todos.length === 0;
    const done = todos.filter((todo) => todo.status === "completed").length;
    setText(this._title, `Todos · ${done} of ${todos.length} done`);
    arrange(this._list, todos.map(({ text, status }) =>
      h("li", { data: { state: status } }, icon(GLYPHS[status] ?? "wait"), h("span", { class: "hidden", text: `${WORDS[status] ?? status}: ` }), h("span", { text })),
    ));
  }
}
