// What is known of one session: messages in order, its runs, and what waits for a person. No DOM, no network.
//
// Two sources are merged. Pages from the store are the truth about messages that are complete; events build the one
// that is being written. A message is `live` from its `turn.started` or snapshot until its turn is finished or a page
// has it complete; events about parts of any other message only move the cursor, so a replay never doubles a text.

import { utf8Length } from "./format.js";

const DECISIONS = 32;
const PREVIEW = 8_000; // characters of live tool output that are kept a call
const TERMINAL = new Set(["completed", "failed", "cancelled", "interrupted"]);

// A version is never used twice, so that a view sees a message anew even if the transcript was read again.
let versions = 0;
const touch = (message) => (message.version = ++versions);

export const isTerminal = (status) => TERMINAL.has(status);

export class Transcript {
  constructor() {
    this.messages = [];
    this.runs = new Map(); // by id: {id, status, seq, retry, compacting, approvals, error, reason}
    this.lastRun = null; // the one that was heard of last
    this.attached = true; // false: the newest messages are not here, and events do not add any
    this.needsPage = false; // the newest page has to be read again
    this.isRead = false; // it is being read again
    this._byId = new Map();
    this._parts = new Map(); // part id → [message, part], of live messages
    this._calls = new Map(); // call id → part, of live messages
    this.decisions = new Map(); // call id → {decision, by}, of the latest questions that were resolved
  }

  message(id) {
    return this._byId.get(id);
  }

  /** The run that is at work, if there is one. */
  get active() {
    for (const run of this.runs.values()) if (!isTerminal(run.status) && run.status !== "queued") return run;
    return null;
  }

  get approvals() {
    return [...this.runs.values()].flatMap((run) => [...run.approvals.values()]);
  }

  /** Cursors for `session.watch`: of the last run, so that what began and ended meanwhile is told too. */
  get cursors() {
    return this.lastRun === null ? {} : { [this.lastRun.id]: this.lastRun.seq };
  }

  // ------------------------------------------------------------ pages of the store
  /** Take a page in: the newest, or one that goes right before what is here. */
  takePage(messages, { older = false } = {}) {
    const here = new Set(messages.map((message) => message.info.id));
    const fresh = messages.map((stored) => this._take(stored));
    if (older) {
      this.messages = [...fresh, ...this.messages.filter((message) => !here.has(message.id))];
      return;
    }
    const first = this.messages.findIndex((message) => message.id === fresh[0]?.id);
    const last = this.messages.findLastIndex((message) => here.has(message.id));
    const before = this.messages.slice(0, Math.max(first, 0));
    // What the page does not know yet came after it; with nothing in common only what is being written did.
    const after = this.messages.slice(last + 1).filter((message) => last >= 0 || message.live || message.fromEvents);
    this._keep([...before, ...fresh, ...after]);
  }

  /** Take in a page that goes right behind what is here. */
  appendPage(messages) {
    const here = new Set(messages.map((message) => message.info.id));
    this.messages = [...this.messages.filter((message) => !here.has(message.id)), ...messages.map((stored) => this._take(stored))];
  }

  /** Forget all messages but `kept`. */
  _keep(kept) {
    this.messages = kept;
    const ids = new Set(kept.map((message) => message.id));
    for (const id of [...this._byId.keys()]) if (!ids.has(id)) this._byId.delete(id);
    for (const [id, [message]] of [...this._parts]) if (!ids.has(message.id)) this._parts.delete(id);
  }

  /** Forget messages at the end, beyond `count`: events add none from now on. */
  detach(count) {
    this.attached = false;
    this._keep(this.messages.slice(0, count));
  }

  /** Forget the messages before the one with this id. */
  forgetBefore(id) {
    const at = this.messages.findIndex((message) => message.id === id);
    if (at > 0) this._keep(this.messages.slice(at));
  }

  _take(stored) {
    const known = this._byId.get(stored.info.id);
    const complete = stored.info.role === "user" || stored.info.finish !== undefined || stored.info.finished_at !== undefined;
    if (known?.live && !complete) return known;
    const message = known ?? this._make(stored.info);
    if (known?.live) this._settle(known);
    message.info = { ...stored.info, end: known?.info.end };
    message.parts = stored.parts;
    message.partsMore = stored.parts_more ?? 0;
    message.damaged = false;
    message.complete = complete;
    touch(message);
    return message;
  }

  _make(info) {
    const message = { id: info.id, info, parts: [], partsMore: 0, live: false, complete: false, fromEvents: false, version: 0 };
    this._byId.set(info.id, message);
    return message;
  }

  _add(info) {
    let message = this._byId.get(info.id);
    if (message === undefined) {
      message = this._make(info);
      message.fromEvents = true;
      this.messages.push(message);
    }
    return message;
  }

  _settle(message) {
    message.live = false;
    touch(message);
    for (const part of message.parts) {
      part.open = false;
      this._parts.delete(part.id);
      this._calls.delete(part.call_id);
    }
  }

  // ------------------------------------------------------------ pushes of the watch
  /** The runs that a watch begins with. */
  takeRuns(runs) {
    for (const { run_id: id, status } of runs) this._run(id).status = status;
    // A run that the daemon does not name any more has ended while nobody looked.
    const named = new Set(runs.map((run) => run.run_id));
    for (const run of this.runs.values()) {
      if (named.has(run.id) || isTerminal(run.status)) continue;
      run.status = "interrupted";
      run.approvals.clear();
      this.needsPage = true;
    }
  }

  takeEvents(runId, events) {
    const run = this._run(runId);
    for (const event of events) {
      if (event.seq <= run.seq) continue;
      run.seq = event.seq;
      HANDLERS[event.type]?.call(this, event, run);
    }
  }

  takeGap(runId) {
    this._run(runId).approvals = new Map();
    this.needsPage = true;
  }

  takeSnapshot(push) {
    const run = this._run(push.run_id);
    run.status = push.status;
    for (const asked of push.pending_approvals) run.approvals.set(asked.call_id, { ...asked, run_id: run.id });
    if (run.snapshot !== push.message_id) {
      run.snapshot = push.message_id;
      if (push.message_id && this.attached && !this._byId.get(push.message_id)?.complete) this._begin(push.message_id, run, Date.now());
    }
    const message = this._byId.get(push.message_id);
    if (message?.live && push.part) {
      let part = this._parts.get(push.part.id)?.[1];
      if (part === undefined) {
        for (const before of message.parts) before.open = false;
        part = this._open(message, { ...push.part, open: true });
      }
      if (push.text) part.text = (push.offset === 0 ? "" : (part.text ?? "")) + push.text;
      touch(message);
    }
    if (!push.more) {
      run.seq = Math.max(run.seq, push.seq);
      run.snapshot = null;
      if (isTerminal(run.status)) this._end(run);
    }
  }

  _run(id) {
    let run = this.runs.get(id);
    if (run === undefined) {
      run = { id, status: "running", seq: 0, retry: null, compacting: false, approvals: new Map(), snapshot: null };
      // Only the latest are of use; what is at work is always among them.
      for (const old of this.runs.values()) if (this.runs.size >= 16 && isTerminal(old.status)) this.runs.delete(old.id);
      this.runs.set(id, run);
    }
    this.lastRun = run;
    return run;
  }

  _begin(messageId, run, at) {
    const message = this._add({ id: messageId, role: "assistant", created_at: at, run_id: run.id, model: run.model });
    for (const part of message.parts) {
      this._parts.delete(part.id);
      this._calls.delete(part.call_id);
    }
    message.parts = [];
    message.live = true;
    touch(message);
    return message;
  }

  _open(message, part) {
    message.parts.push(part);
    this._parts.set(part.id, [message, part]);
    if (part.call_id) this._calls.set(part.call_id, part);
    return part;
  }

  _end(run) {
    run.retry = null;
    run.compacting = false;
    run.approvals.clear();
    for (const message of this.messages) if (message.live && message.info.run_id === run.id) this._settle(message);
  }
}

function shown(message) {
  return this.attached ? this._add(message.info) : null;
}

function userMessage(event) {
  const message = shown.call(this, event.message);
  if (message && !message.complete) {
    message.parts = event.message.parts;
    message.complete = true;
    touch(message);
  }
}

// One for each type of event; others are passed over, as the protocol asks.
const HANDLERS = {
  "run.started"(event, run) {
    Object.assign(run, { status: "running", model: event.model });
    userMessage.call(this, event);
  },
  "message.steered": userMessage,
  "run.status"(event, run) {
    run.status = event.status;
  },
  "turn.started"(event, run) {
    run.retry = null;
    if (this.attached && !this._byId.get(event.message_id)?.complete) this._begin(event.message_id, run, event.at);
  },
  "part.started"(event, run) {
    run.retry = null;
    if (!this.attached) return;
    let message = this._byId.get(event.message_id);
    if (message === undefined) message = this._begin(event.message_id, run, event.at); // a summary's is no turn
    if (message.live) this._open(message, { id: event.part_id, kind: event.kind, open: true, started: event.at });
  },
  "part.delta"(event) {
    const [message, part] = this._parts.get(event.part_id) ?? [];
    if (!part) return;
    part.text = (part.text ?? "") + event.text;
    touch(message);
  },
  "part.finished"(event) {
    const [message, part] = this._parts.get(event.part_id) ?? [];
    if (!part) return;
    part.open = false;
    if (event.part) Object.assign(part, event.part);
    // Should a piece ever be missing, the store has all of it.
    else if (utf8Length(part.text ?? "") !== event.bytes) this.needsPage = message.damaged = true;
    if (event.kind === "compaction") this._settle(message);
    touch(message);
  },
  "tool.updated"(event) {
    const [message, part] = this._parts.get(event.part_id) ?? [];
    if (!part) return;
    const { seq, at, type, part_id, ...fields } = event;
    if (fields.state === "running" && part.state !== "running") part.started_at ??= at;
    if (fields.state === "completed" || fields.state === "error") part.finished_at ??= at;
    Object.assign(part, fields);
    this._calls.set(event.call_id, part);
    touch(message);
  },
  "tool.output"(event) {
    const part = this._calls.get(event.call_id);
    if (!part) return;
    part.preview = ((part.preview ?? "") + event.text).slice(-PREVIEW);
    const message = this._parts.get(part.id)?.[0];
    if (message) touch(message);
  },
  "approval.requested"(event, run) {
    run.approvals.set(event.call_id, { ...event, run_id: run.id });
  },
  "approval.resolved"(event, run) {
    run.approvals.delete(event.call_id);
    this.decisions.set(event.call_id, event);
    for (const id of this.decisions.keys()) if (this.decisions.size > DECISIONS) this.decisions.delete(id);
    const part = this._calls.get(event.call_id);
    if (part) part.decision = event.decision;
  },
  "turn.finished"(event, run) {
    for (const message of this.messages) {
      if (!message.live || message.info.run_id !== run.id) continue;
      Object.assign(message.info, { finish: event.finish, usage: event.usage, finished_at: event.at });
      message.complete = !message.damaged;
      // No event brings the part that keeps an attempt.
      this.needsPage ||= !message.complete || run.retried === true;
      this._settle(message);
    }
    run.retried = false;
  },
  "retry.scheduled"(event, run) {
    run.retry = event;
    run.retried = true;
  },
  "compaction.started"(event, run) {
    run.compacting = true;
  },
  "compaction.finished"(event, run) {
    run.compacting = false;
  },
  "run.finished"(event, run) {
    Object.assign(run, { status: event.status, error: event.error, reason: event.reason });
    this._end(run);
    if (event.status === "completed" || !this.attached) return;
    const last = this.messages.findLast((message) => message.info.run_id === run.id);
    if (!last) return;
    last.info.end = { status: event.status, error: event.error, reason: event.reason };
    touch(last);
  },
};
