// A session that is not there yet: model and folder are chosen, and the first message makes it.

import { Composer } from "./composer.js";
import { arrange, button, h } from "./dom.js";
import * as format from "./format.js";

export class Start {
  /** `page` has `link`, `outbox` and `go(hash)`. */
  constructor(page) {
    this._page = page;
    this._link = page.link;
    this.title = "New session";
    this._model = h("select");
    this._folder = h("input", { type: "text", placeholder: "the daemon's default", maxlength: 4096, autocomplete: "off", spellcheck: "false" });
    this._sending = h("ul", { class: "waiting", "aria-label": "Messages that wait", hidden: true });
    this.composer = new Composer({ onSend: (message) => this._send(message), onStop: () => {}, limits: () => this._link.hello?.limits ?? {} });
    this.element = h(
      "div",
      { class: "conversation" },
      h(
        "div",
        { class: "scroller" },
        h(
          "div",
          { class: "column start" },
          h("h2", { text: "What is it about?" }),
          h("p", { class: "muted", text: "The run goes on when you close this page. Come back at any time." }),
          h("label", { class: "field" }, h("span", { text: "Model" }), this._model),
          h("label", { class: "field" }, h("span", { text: "Folder" }), this._folder, h("small", { text: "Where its tools work: an absolute path on the daemon's machine" })),
          this._sending,
        ),
      ),
      h("div", { class: "dock" }, this.composer.element),
    );
    this._link.addEventListener("open", () => this._offer());
    page.outbox.addEventListener("change", () => this._show());
    page.outbox.addEventListener("created", ({ detail }) => {
      if (this.element.isConnected) page.go(`#/s/${detail.session.id}`);
    });
  }

  open() {
    this.composer.open("new");
    this._offer();
    this._show();
  }

  _offer() {
    const { models, default_model: usual } = this._link.hello ?? { models: [] };
    const chosen = this._model.value || usual;
    arrange(this._model, models.map(({ name, provider }) => h("option", { value: name, text: name === provider ? name : `${name} (${provider})`, selected: name === chosen })));
  }

  _send(message) {
    const folder = this._folder.value.trim();
    const create = { ...(this._model.value ? { model: this._model.value } : {}), ...(folder ? { cwd: folder } : {}) };
    this._page.outbox.send({ ...message, session: null, create });
  }

  _show() {
    const { outbox } = this._page;
    const rows = outbox.items.filter((item) => item.session === null).map((item) =>
      h(
        "li",
        {},
        h("p", { class: "plain", text: format.line(item.text, 400) }),
        item.error === null
          ? h("p", { class: "muted", text: "Being sent…" })
          : [
              h("p", { class: "error", role: "alert", text: `It was not sent: ${item.error}` }),
              h("div", { class: "buttons" }, button("Edit", () => {
                outbox.drop(item);
                this.composer.restore(item.text);
              }, { kind: "small" })),
            ],
      ),
    );
    arrange(this._sending, rows);
    this._sending.hidden = rows.length === 0;
  }
}
