// The WebSocket to the daemon: requests, pushes, and connecting again for as long as the page is open.

const FIRST_WAIT = 250; // ms before the second attempt; twice as long after each, up to:
const LONGEST_WAIT = 5_000;
const QUIET = 25_000; // ms without a message after which the daemon is asked whether it is there
const ANSWER = 8_000; // ms that it has for the answer
const HINTED = 2_000; // the same when the browser says that there is no network

/** The daemon refused a request. `code` is what programs look at. */
export class Refused extends Error {
  constructor(error) {
    const fields = error.data?.fields?.map((field) => `${field.path}: ${field.message}`);
    super(fields?.length ? fields.join("; ") : error.message);
    this.code = error.data?.code ?? String(error.code);
    this.data = error.data ?? {};
  }
}

/** The connection was lost before the reply came: what was asked may have been done. */
export class Lost extends Error {
  constructor() {
    super("the connection was lost");
    this.code = "lost";
  }
}

/**
 * One connection at a time. Events: `state` (see `state`), `open` (initialized; `hello` is new) and `push`
 * (detail: `{method, params}`). `state` is `connecting`, `open`, `waiting` (for the next attempt), or `refused` (the
 * daemon does not know this browser: the token has to be given again).
 */
export class Link extends EventTarget {
  constructor(address) {
    super();
    this.state = "connecting";
    this.hello = null;
    this.retryAt = 0;
    this._address = address;
    this._socket = null;
    this._next = 0;
    this._replies = new Map();
    this._failures = 0;
    this._timer = 0;
    this._quiet = 0;
    addEventListener("online", () => this.hurry());
    addEventListener("offline", () => this._probe(HINTED));
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.state === "open" ? this._probe() : this.hurry();
    });
  }

  connect() {
    clearTimeout(this._timer);
    this._become("connecting");
    const socket = new WebSocket(this._address, ["greenroom.v1"]);
    this._socket = socket;
    // A handshake that nobody answers would wait for minutes.
    this._timer = setTimeout(() => this._gone(socket), ANSWER);
    socket.addEventListener("open", () => this._greet(socket));
    socket.addEventListener("message", (message) => this._read(socket, message.data));
    socket.addEventListener("close", () => this._gone(socket));
  }

  /** Connect now if a wait for the next attempt is on. */
  hurry() {
    if (this.state === "waiting" || this.state === "refused") {
      this._failures = 0;
      this.connect();
    }
  }

  /** The result of a request. Rejects with Refused, or Lost when the connection ends before the reply. */
  request(method, params = {}) {
    const socket = this._socket;
    if (this.state !== "open" || socket?.readyState !== WebSocket.OPEN) return Promise.reject(new Lost());
    return this._ask(socket, method, params);
  }

  _ask(socket, method, params) {
    const id = ++this._next;
    return new Promise((resolve, reject) => {
      this._replies.set(id, { resolve, reject });
      socket.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
    });
  }

  async _greet(socket) {
    try {
      this.hello = await this._ask(socket, "initialize", { protocol: 1, client: { name: "greenroom page", version: "1" } });
    } catch {
      return; // closed meanwhile, which begins the next attempt
    }
    if (socket !== this._socket) return;
    clearTimeout(this._timer);
    this._failures = 0;
    this._become("open");
    this._listen();
    this.dispatchEvent(new Event("open"));
  }

  _read(socket, text) {
    if (socket !== this._socket) return;
    this._listen();
    const frame = JSON.parse(text);
    if (frame.method !== undefined) {
      this.dispatchEvent(new CustomEvent("push", { detail: frame }));
      return;
    }
    const waiting = this._replies.get(frame.id);
    this._replies.delete(frame.id);
    if (frame.error) waiting?.reject(new Refused(frame.error));
    else waiting?.resolve(frame.result);
  }

  async _gone(socket) {
    if (socket !== this._socket) return;
    this._socket = null;
    clearTimeout(this._timer);
    clearTimeout(this._quiet);
    socket.close();
    const replies = [...this._replies.values()];
    this._replies.clear();
    for (const { reject } of replies) reject(new Lost());
    // Jitter keeps the pages of one daemon from coming back in the same moment.
    const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this._failures) * (0.5 + Math.random() / 2);
    this._failures += 1;
    this.retryAt = Date.now() + wait;
    this._become("waiting");
    this._timer = setTimeout(() => this.connect(), wait);
    // A browser does not say why a handshake failed; a plain request does.
    if (this._failures > 1 && (await refusesUs()) && this.state === "waiting") {
      clearTimeout(this._timer);
      this._become("refused");
    }
  }

  _listen() {
    clearTimeout(this._quiet);
    this._quiet = setTimeout(() => this._probe(), QUIET);
  }

  /** Ask whether the daemon is there; without an answer in time the connection counts as lost. */
  _probe(time = ANSWER) {
    const socket = this._socket;
    if (this.state !== "open") return;
    clearTimeout(this._quiet);
    this._quiet = setTimeout(() => this._gone(socket), time);
    this._ask(socket, "ping", {}).catch(() => {});
  }

  _become(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}

async function refusesUs() {
  try {
    return (await fetch("/", { method: "HEAD", cache: "no-store" })).status === 401;
  } catch {
    return false;
  }
}

let keys = 0;

/** A key of which there is no second one; `crypto.randomUUID` is for secure contexts only. */
export function newKey() {
  const random = [...crypto.getRandomValues(new Uint32Array(4))].map((word) => word.toString(36)).join("");
  return `page-${random}-${++keys}`;
}
