// The page: what stands where, which view is shown, and the state of the connection.

import { announce, announceIn } from "./announce.js";
import { Conversation } from "./conversation.js";
import { showKeys, tell } from "./dialogs.js";
import { arrange, button, h, icon, setText } from "./dom.js";
import * as format from "./format.js";
import { Holds } from "./holds.js";
import { listen } from "./keys.js";
import { Link } from "./link.js";
import { renderWith } from "./markdown.js";
import { fork, menuButton, sessionItems } from "./menu.js";
import { Outbox } from "./outbox.js";
import { Runs } from "./runs.js";
import { Sessions } from "./sessions.js";
import { Start } from "./start.js";
import { Toolsets } from "./toolsets.js";

const find = (id) => document.getElementById(id);
const NARROW = matchMedia("(max-width: 820px)");
const AGAIN = 3000; // ms until a view whose figures could not be read asks again

const link = new Link(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
const page = {
  link,
  outbox: new Outbox(link),
  currency: () => link.hello?.currency ?? "",
  go: (hash) => (location.hash = hash),
  titleOf: (id) => titles.get(id) ?? sessions.titleOf(id),
  onSession: (session) => {
    remember(session);
    sessions.put(session);
    present = session;
    showHead();
  },
  onChanged: (session) => {
    remember(session);
    sessions.put(session);
    if (present?.id === session.id) page.onSession(session);
  },
  onDeleted: (id) => {
    sessions.drop(id);
    if (route.id === id) page.go("#/new");
  },
  onFork: (id, message) => fork(page, id, message).catch((error) => tell("That did not work", error.message)),
  onDeleting: (id) => (deleting = id),
  onAsks: (count) => {
    if (asks === count) return;
    asks = count;
    showHead();
  },
  onGone: () => {
    const { id } = route;
    sessions.drop(id);
    if (id !== deleting) notice = "The session does not exist any more.";
    announce(notice);
    page.go("#/new");
  },
};

// Titles of sessions that were seen, for the list of runs.
const titles = new Map();

function remember(session) {
  titles.delete(session.id);
  titles.set(session.id, session.title || "Untitled");
  for (const id of titles.keys()) if (titles.size > 500) titles.delete(id);
}

announceIn(find("said"));
renderWith(link);
const sessions = new Sessions(page);
const conversation = new Conversation(page);
const start = new Start(page);
const views = { runs: new Runs(page), toolsets: new Toolsets(page), holds: new Holds(page) };
let route = { view: null, id: null };
let present = null; // the session that is shown
let timer = 0;
let deleting = null; // the session that is being deleted here
let asks = 0; // questions that wait in the session that is shown
let notice = ""; // what the next view begins with

// ------------------------------------------------------------ the frame
const title = h("h1", { tabindex: -1 });
const about = h("p", { class: "about" });
const used = h("p", { class: "used" });
const state = h("p", { class: "connection", role: "status" }, h("span", { class: "dot" }), h("span"));
const opener = button("Sessions and views", () => drawer(true), { kind: "quiet round only-narrow", glyph: "menu", shown: false, "aria-expanded": "false", "aria-controls": "side" });
const menu = menuButton("Menu of this session", () => (present ? sessionItems(page, present) : []));
const places = [
  ["runs", "Runs", "runs"],
  ["toolsets", "Toolsets", "tools"],
  ["holds", "What it holds", "holds"],
].map(([name, label, glyph]) => h("a", { href: `#/${name}`, data: { view: name } }, icon(glyph), h("span", { text: label })));

find("side").append(
  h(
    "div",
    { class: "side-head" },
    h("a", { class: "brand", href: "#/new", "aria-label": "greenroom: new session" }, h("img", { src: "icon.svg", alt: "", width: 26, height: 26 }), h("span", { text: "greenroom" })),
    button("Close", () => drawer(false), { kind: "quiet round only-narrow", glyph: "close", shown: false }),
  ),
  h("a", { class: "button new", href: "#/new" }, icon("plus"), h("span", { text: "New session" })),
  sessions.search,
  sessions.element,
  h("nav", { class: "places", "aria-label": "Views" }, places),
  h("div", { class: "side-foot" }, state, button("Keys", showKeys, { kind: "quiet round", glyph: "help", shown: false })),
);
find("head").append(opener, h("div", { class: "head-text" }, title, about), used, menu);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which view is shown
  find("main").focus();
});
find("shade").addEventListener("click", () => drawer(false));
NARROW.addEventListener("change", () => drawer(false));

function drawer(open) {
  const narrow = NARROW.matches;
  const was = find("side").classList.contains("open");
  find("side").classList.toggle("open", open);
  find("side").inert = narrow && !open;
  find("stage").inert = narrow && open;
  find("shade").hidden = !(narrow && open);
  opener.setAttribute("aria-expanded", String(open));
  if (open) find("side").querySelector("a, button")?.focus();
  else if (was && narrow) opener.focus();
}

// ------------------------------------------------------------ which view
function read(hash) {
  const [, view = "", id = null] = hash.match(/^#\/([a-z]+)(?:\/([A-Za-z0-9_.:-]{1,128}))?$/u) ?? [];
  if (view === "s" && id !== null) return { view: "session", id };
  return views[view] ? { view, id: null } : { view: "new", id: null };
}

function show() {
  const next = read(location.hash);
  const first = route.view === null;
  if (next.view === route.view && next.id === route.id) return;
  if (route.view === "session") conversation.close();
  route = next;
  present = null;
  asks = 0;
  showBanner(notice);
  notice = "";
  const view = route.view === "session" ? conversation : route.view === "new" ? start : views[route.view];
  arrange(find("main"), [view.element]);
  sessions.current = route.id;
  for (const place of places) {
    if (place.dataset.view === route.view) place.setAttribute("aria-current", "page");
    else place.removeAttribute("aria-current");
  }
  if (route.view === "session") conversation.open(route.id);
  else if (route.view === "new") start.open();
  else {
    view.opened?.();
    poll();
  }
  showHead();
  const wasOpen = find("side").classList.contains("open");
  drawer(false);
  // Where one writes, if that does not open a keyboard over half of the screen.
  if (view.composer && !NARROW.matches) view.composer.field.focus();
  else if (!first || wasOpen) title.focus();
}

function showHead() {
  const name = route.view === "session" ? (present ? present.title || "Untitled" : "…") : route.view === "new" ? start.title : views[route.view].title;
  setText(title, name);
  document.title = `${asks ? "● " : ""}${format.clean(name)} · greenroom`;
  setText(about, present ? [present.model, present.cwd].filter(Boolean).join(" · ") : "");
  setText(used, present ? format.usage(present.usage, page.currency()) : "");
  used.title = present ? format.usageWhole(present.usage, page.currency()) : "";
  menu.hidden = present === null;
}

/** Keep the figures of the view fresh while somebody can see them. */
async function poll() {
  clearTimeout(timer);
  const view = views[route.view];
  if (view === undefined || document.visibilityState !== "visible" || link.state !== "open") return;
  const asked = route;
  let wait = view.period;
  try {
    await view.refresh();
  } catch (error) {
    wait = AGAIN;
    if (error.code !== "lost") showBanner(`The figures cannot be read: ${error.message}`);
  }
  if (asked === route) {
    clearTimeout(timer);
    timer = setTimeout(poll, wait);
  }
}

// ------------------------------------------------------------ the connection
const STATES = { connecting: "Connecting…", open: "Connected", waiting: "Reconnecting…", refused: "Signed out" };
let lost = false;

function showConnection() {
  const words = link.state === "open" || navigator.onLine ? STATES[link.state] : "No network";
  state.dataset.state = link.state;
  setText(state.lastChild, words);
  showBanner();
  if (link.state === "open" && lost) announce("Connected again.");
  else if (link.state === "waiting" && !lost) announce("The connection is lost.");
  if (link.state === "open") lost = false;
  else if (link.state === "waiting") lost = true;
}

function showBanner(text = "") {
  const banner = find("banner");
  let shown = text;
  if (link.state === "refused") shown = "This browser is not signed in any more. Reload the page to enter the daemon's token; “greenroom page” on its machine prints an address with it.";
  else if (lost && link.state !== "open") shown = navigator.onLine ? "Reconnecting to the daemon… What you write is kept." : "No network. The page connects again by itself; what you write is kept.";
  banner.hidden = shown === "";
  setText(banner, shown);
}

link.addEventListener("state", showConnection);
addEventListener("online", showConnection);
addEventListener("offline", showConnection);
link.addEventListener("open", poll);
document.addEventListener("visibilitychange", poll);
addEventListener("hashchange", show);

listen({
  escape: () => (find("side").classList.contains("open") ? drawer(false) : route.view === "session" && conversation.stop()),
  search: () => {
    if (NARROW.matches) drawer(true);
    sessions.search.select();
    sessions.search.focus();
  },
  newest: () => route.view === "session" && conversation.jump(),
  start: () => (route.view === "new" ? start.composer.field.focus() : page.go("#/new")),
  answer: () => route.view === "session" && conversation.answer(),
  write: () => (route.view === "session" ? conversation : start).composer.field.focus(),
  neighbour: (step) => {
    const id = sessions.neighbour(step);
    if (id !== null) page.go(`#/s/${id}`);
  },
  view: (at) => (at === 0 ? page.go(route.id ? `#/s/${route.id}` : lastSession()) : (location.hash = `#/${["runs", "toolsets", "holds"][at - 1]}`)),
});

let visited = null;
addEventListener("hashchange", () => (visited = read(location.hash).id ?? visited));
const lastSession = () => (visited === null ? "#/new" : `#/s/${visited}`);

drawer(false);
show();
link.connect();
