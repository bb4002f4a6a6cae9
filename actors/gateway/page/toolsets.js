// Toolsets: their state, what they offer, and closing and opening one again.

import { confirm } from "./dialogs.js";
import { arrange, button, h, setText } from "./dom.js";
import * as format from "./format.js";

const WORDS = {
  stopped: "stopped", starting: "starting", ready: "ready", degraded: "degraded", restarting: "restarting", failed: "failed", stopping: "stopping",
};

export class Toolsets {
  constructor(page) {
    this._link = page.link;
    this._cards = new Map();
    this._list = h("div", { class: "cards" });
    this._none = h("p", { class: "muted empty", hidden: true, text: "No toolsets are configured." });
    this.element = h("div", { class: "view" },  this._list, this._none);
    this.title = "Toolsets";
    this.period = 3000;
  }

  async refresh() {
    const { toolsets } = await this._link.request("toolset.list");
    const wanted = toolsets.map((toolset) => {
      let card = this._cards.get(toolset.name);
      if (card === undefined) this._cards.set(toolset.name, (card = this._card(toolset.name)));
      card.update(toolset);
      return card.element;
    });
    arrange(this._list, wanted);
    this._none.hidden = wanted.length > 0;
  }

  _card(name) {
    const badge = h("span", { class: "badge" });
    const about = h("p", { class: "muted" });
    const error = h("p", { class: "error wrap", hidden: true });
    const failed = h("p", { class: "error", role: "alert", hidden: true });
    const offers = h("div");
    const restart = button("Restart", async () => {
      if (!(await confirm(`Restart ${name}?`, "It is closed and opened again. Its calls at work end with an error, and so do its background commands.", "Restart"))) return;
      restart.disabled = true;
      failed.hidden = true;
      try {
        card.update((await this._link.request("toolset.restart", { name })).toolset);
      } catch (problem) {
        failed.textContent = problem.message;
        failed.hidden = false;
      }
      restart.disabled = false;
    }, { kind: "small" });
    let shown = "";
    const card = {
      element: h("section", { class: "card", "aria-label": name }, h("header", {}, h("h2", { text: name }), badge, h("span", { class: "grow" }), restart), about, error, failed, offers),
      update: (toolset) => {
        setText(badge, WORDS[toolset.state] ?? toolset.state);
        badge.dataset.state = toolset.state;
        const words = [toolset.kind === "mcp" ? "tool server" : "built in", format.many(toolset.leases, "session uses it", "sessions use it")];
        if (toolset.restarts) words.push(format.many(toolset.restarts, "restart"));
        setText(about, words.join(" · "));
        error.hidden = !toolset.error;
        setText(error, toolset.error ?? "");
        const mark = JSON.stringify([toolset.tools, toolset.prompts, toolset.resources]);
        if (mark === shown) return;
        shown = mark;
        arrange(offers, ["tools", "prompts", "resources"].map((kind) => offer(kind.slice(0, -1), toolset[kind], toolset[`${kind}_more`])).filter(Boolean));
      },
    };
    return card;
  }
}

function offer(kind, things, more = 0) {
  if (!things?.length) return null;
  const rows = things.flatMap((thing) => [h("dt", {}, h("code", { text: thing.name })), h("dd", { text: thing.description ?? "" })]);
  return h("details", {}, h("summary", { text: format.many(things.length + more, kind) }), h("dl", { class: "offers" }, rows), more ? h("p", { class: "muted", text: `${more} more are not listed.` }) : null);
}
