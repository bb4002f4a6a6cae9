// One session as it is seen: messages, what the run does now, questions, waiting messages, and where one writes.

import { announce } from "./announce.js";
import { ApprovalView } from "./approval.js";
import { Composer } from "./composer.js";
import { arrange, button, h, setText } from "./dom.js";
import * as format from "./format.js";
import { MessageView } from "./message.js";
import { Pages } from "./pages.js";
import { Todos } from "./todos.js";
import { isTerminal, Transcript } from "./transcript.js";
import { Waiting } from "./waiting.js";

const NEAR = 80; // pixels from the end that count as being there
const TOLD = 20_000; // ms that somebody else's decision is told
const AHEAD = 600; // pixels before an end at which the next page is asked for

export class Conversation {
  /** `page` has `link`, `outbox`, `currency()`, `onSession(session)`, `onAsks(count)`, `onFork(session, message)`, `onGone()`. */
  constructor(page) {
    this._page = page;
    this._link = page.link;
    this._session = null;
    this._id = null;
    this._views = new Map();
    this._asks = new Map(); // by call
    this._watch = null;
    this._generation = 0;
    this._frame = 0;
    this._following = true;
    this._heard = null; // the run whose end will be told
    this._list = h("div", { class: "messages" });
    this._empty = h("p", { class: "empty muted", hidden: true, text: "Nothing has been said yet." });
    this._top = h("p", { class: "paging muted", hidden: true, text: "Earlier messages…" });
    this._now = h("p", { class: "now", hidden: true });
    this._told = h("p", { class: "told", hidden: true }); // who decided what was asked here
    this._todos = new Todos();
    this._loose = h("div", { class: "slot" }); // questions whose call is not shown
    this._waiting = new Waiting(page, { onRestore: (text) => this.composer.restore(text) });
    this._column = h("div", { class: "column" }, this._top, this._empty, this._list, this._loose, this._todos.element, this._told, this._now, this._waiting.element);
    this._scroller = h("div", { class: "scroller", role: "log", "aria-live": "off", "aria-label": "Conversation", tabindex: 0 }, this._column);
    this._jump = button("Newest", () => this.jump(), { kind: "jump", glyph: "down", hidden: true });
    this.composer = new Composer({ onSend: (message) => this._send(message), onStop: () => this.stop(), limits: () => this._link.hello?.limits ?? {} });
    this.element = h("div", { class: "conversation" }, this._scroller, h("div", { class: "dock" }, this._jump, this.composer.element));
    this._scroller.addEventListener("scroll", () => this._scrolled(), { passive: true });
    new ResizeObserver(() => this._follow()).observe(this._column);
    new ResizeObserver(() => this._follow()).observe(this._scroller);
    this._near = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) this._views.get(entry.target.dataset.id)?.want();
    }, { root: this._scroller, rootMargin: `${AHEAD}px 0px` });
    this._link.addEventListener("open", () => this._id !== null && this._attach());
    this._link.addEventListener("push", ({ detail }) => detail.params.watch_id === this._watch && this._take(detail));
    this._link.addEventListener("state", () => this._changed());
    page.outbox.addEventListener("change", () => this._changed());
  }

  // ------------------------------------------------------------ a session
  open(id) {
    this.close();
    this._id = id;
    this._following = true;
    this.composer.open(id);
    this._reset();
    this._attach();
  }

  close() {
    this._leave();
    this._id = this._session = null;
    this._clear();
  }

  _reset() {
    this._transcript = new Transcript();
    this._pages = new Pages(this._link, this._id, this._transcript);
    this._heard = null;
  }

  _clear() {
    for (const view of this._views.values()) view.close();
    this._views.clear();
    this._todos.show([]);
    this._tell("");
    for (const ask of this._asks.values()) ask.element.remove();
    this._asks.clear();
    this._near.disconnect();
  }

  _leave() {
    this._generation += 1;
    if (this._watch !== null) this._unwatch(this._watch);
    this._watch = null;
  }

  _unwatch(id) {
    this._link.request("watch.close", { watch_id: id }).catch(() => {}); // it has ended, or the connection has
  }

  /** Watch the session from what is known of it, and read the newest page. Called for each new connection. */
  async _attach() {
    const generation = (this._generation += 1);
    this._watch = null;
    const id = this._id;
    const cursors = this._transcript.attached ? this._transcript.cursors : {};
    const after = Object.keys(cursors).length ? { after: cursors } : {};
    try {
      const [{ session }, watch] = await Promise.all([
        this._link.request("session.get", { session_id: id }),
        this._link.request("session.watch", { session_id: id, ...after }).then((reply) => {
          if (generation !== this._generation) {
            this._unwatch(reply.watch_id); // another session is shown by now
            return null;
          }
          this._watch = reply.watch_id; // set before the first push is read
          this._transcript.takeRuns(reply.runs);
          return reply;
        }),
      ]);
      if (generation !== this._generation || watch === null) return;
      this._take({ method: "session.changed", params: { session } });
      if (this._transcript.attached) await this._pages.newest();
    } catch (error) {
      if (error.code === "lost" || generation !== this._generation) return;
      if (error.code === "unknown_session") this._page.onGone();
      else this._say(`It cannot be shown: ${error.message}`);
    }
    if (generation === this._generation) this._changed();
  }

  /** Show the newest messages and what happens, whatever was looked at. */
  jump() {
    this._following = true;
    if (!this._transcript.attached) this._anew();
    this._follow();
  }

  async _anew() {
    this._leave();
    this._reset();
    await this._attach();
  }

  _take({ method, params }) {
    const transcript = this._transcript;
    if (method === "run.events") transcript.takeEvents(params.run_id, params.events);
    else if (method === "run.gap") transcript.takeGap(params.run_id);
    else if (method === "run.snapshot") transcript.takeSnapshot(params);
    else if (method === "session.changed") {
      this._session = params.session;
      this._page.onSession(params.session);
      this._todos.show(params.session.todos ?? []);
      this._waiting.refresh(params.session);
    } else if (method === "watch.closed") {
      this._watch = null;
      if (params.reason === "deleted") this._page.onGone();
    }
    if (transcript.needsPage && transcript.attached && this._pages.loaded) this._readAgain(transcript, this._pages);
    this._changed();
  }

  /** Read the newest page, as often as it is needed meanwhile. */
  async _readAgain(transcript, pages) {
    if (transcript.isRead) return;
    transcript.isRead = true;
    try {
      while (transcript.needsPage && transcript === this._transcript) {
        await pages.idle();
        await pages.newest();
        this._changed();
      }
    } catch {
      // lost: the next connection reads it
    }
    transcript.isRead = false;
  }

  // ------------------------------------------------------------ what a person does
  async stop() {
    const run = this._transcript?.active;
    if (!run) return;
    this.composer.stopping = true;
    try {
      await this._link.request("run.stop", { run_id: run.id, reason: "stopped on the page" });
    } catch (error) {
      if (error.code !== "lost") this._say(`It cannot be stopped: ${error.message}`);
    }
    this.composer.stopping = false;
  }

  /** Put the focus on the first question, if there is one. */
  answer() {
    const [ask] = this._asks.values();
    ask?.focus();
  }

  get isBusy() {
    return Boolean(this._transcript?.active);
  }

  _send(message) {
    this._page.outbox.send({ ...message, session: this._id });
    this.jump();
  }

  _say(text) {
    setText(this._now, text);
    this._now.hidden = false;
    announce(text);
  }

  // ------------------------------------------------------------ what is shown
  _changed() {
    if (this._frame || this._id === null) return;
    this._frame = requestAnimationFrame(() => {
      this._frame = 0;
      if (this._id !== null) this._show();
    });
  }

  _show() {
    if (this._pages.loaded) this._showMessages();
    this._showRun();
    this._showAsks();
    this._waiting.show(this._id);
    this._pages.trim(this._following);
    this._follow();
    // What is here does not fill the place: nobody can scroll to ask for more.
    const { scrollHeight, clientHeight } = this._scroller;
    if (this._pages.hasOlder && this._link.state === "open" && scrollHeight < clientHeight + AHEAD) this._turn(() => this._pages.older());
  }

  _showMessages() {
    const { messages } = this._transcript;
    const seen = new Set();
    const elements = messages.map((message) => {
      seen.add(message.id);
      let view = this._views.get(message.id);
      if (view === undefined) {
        view = new MessageView(this._link, message, { currency: this._page.currency(), onFork: (id) => this._page.onFork(this._id, id) });
        this._views.set(message.id, view);
        this._near.observe(view.element);
      } else view.update(message);
      return view.element;
    });
    for (const [id, view] of this._views) {
      if (seen.has(id)) continue;
      this._near.unobserve(view.element);
      view.close();
      this._views.delete(id);
    }
    arrange(this._list, elements);
    this._empty.hidden = messages.length > 0 || this.isBusy || this._waiting.any;
    this._top.hidden = !this._pages.hasOlder;
  }

  _showRun() {
    const run = this._transcript.active;
    this.composer.busy = run !== null;
    let text = "";
    const known = this._link.state === "open"; // else the banner says what there is to say
    if (!known) text = "";
    else if (run?.retry) text = `${run.retry.reason} Attempt ${run.retry.attempt} of ${run.retry.max_attempts} begins after ${format.duration(run.retry.delay_ms)}.`;
    else if (run?.compacting) text = "A summary of the conversation is being written…";
    else if (run?.status === "waiting_approval") text = "Waits for your answer";
    else if (run?.status === "stopping") text = "Stopping…";
    else if (run) text = this._transcript.messages.at(-1)?.live ? "Working…" : "Waiting for the model…";
    this._now.hidden = text === "";
    this._now.classList.toggle("working", run !== null && run.status !== "waiting_approval");
    setText(this._now, text);
    if (run) this._heard = run;
    else if (this._heard !== null && isTerminal(this._heard.status)) this._tellEnd(this._heard);
  }

  /** Tell it for a while: it is not part of the conversation. */
  _tell(text) {
    clearTimeout(this._telling);
    setText(this._told, text);
    this._told.hidden = text === "";
    if (text === "") return;
    announce(text);
    this._telling = setTimeout(() => this._tell(""), TOLD);
  }

  _tellEnd(run) {
    this._heard = null;
    const last = this._transcript.messages.findLast((message) => message.info.run_id === run.id && message.info.role === "assistant");
    if (run.status === "completed") announce(`Answer: ${this._views.get(last?.id)?.text ?? ""}`);
    else announce(`The run is ${run.status}. ${run.error?.message ?? ""}`);
  }

  _showAsks() {
    const asked = new Map(this._transcript.approvals.map((approval) => [approval.call_id, approval]));
    for (const [id, view] of this._asks) {
      if (asked.has(id)) continue;
      const focused = view.element.contains(document.activeElement);
      const decision = this._transcript.decisions.get(id);
      const outcome = decision ? view.outcome(decision) : "";
      if (outcome) this._tell(outcome);
      view.element.remove();
      this._asks.delete(id);
      if (focused) this.composer.field.focus();
    }
    this._page.onAsks(asked.size);
    for (const [id, approval] of asked) {
      let view = this._asks.get(id);
      if (view === undefined) {
        view = new ApprovalView(this._link, approval);
        this._asks.set(id, view);
        this._tell("");
        announce(`${view.sentence}. Alt+A goes there.`);
      }
      const slot = this._slot(approval.parent_call_id ?? id);
      if (view.element.parentNode !== slot) slot.append(view.element);
    }
  }

  _slot(callId) {
    for (const message of this._transcript.messages.slice(-4).reverse()) {
      const slot = this._views.get(message.id)?.slot(callId);
      if (slot) return slot;
    }
    return this._loose;
  }

  // ------------------------------------------------------------ scrolling
  get _toEnd() {
    return this._scroller.scrollHeight - this._scroller.scrollTop - this._scroller.clientHeight;
  }

  /** Stay at the end, if that is where one looks. */
  _follow() {
    if (this._following && this._transcript?.attached) this._scroller.scrollTop = this._scroller.scrollHeight;
    this._jump.hidden = this._following || this._toEnd < NEAR;
  }

  _scrolled() {
    if (this._id === null) return;
    this._following = this._transcript.attached && this._toEnd < NEAR;
    this._jump.hidden = this._following;
    if (this._scroller.scrollTop < AHEAD && this._pages.hasOlder) this._turn(() => this._pages.older());
    else if (!this._transcript.attached && this._toEnd < AHEAD) this._turn(() => this._down());
  }

  async _down() {
    if (await this._pages.newer()) return;
    await this._anew();
  }

  /** Change what is here without moving what is seen. */
  async _turn(work) {
    if (this._paging) return;
    this._paging = true;
    const generation = this._generation;
    try {
      await work();
    } catch {
      return; // lost: the next scroll asks again
    } finally {
      this._paging = false;
    }
    if (generation !== this._generation && this._id === null) return;
    const middle = this._scroller.getBoundingClientRect().top;
    const anchor = [...this._list.children].find((element) => element.getBoundingClientRect().bottom > middle);
    const before = anchor?.getBoundingClientRect().top;
    // The browser's own anchoring would move it a second time.
    this._scroller.classList.add("unanchored");
    this._show();
    if (anchor?.isConnected) this._scroller.scrollTop += anchor.getBoundingClientRect().top - before;
    this._following = this._transcript.attached && this._toEnd < NEAR;
    requestAnimationFrame(() => this._scroller.classList.remove("unanchored"));
  }
}
