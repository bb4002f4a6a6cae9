// Figures as people read them. Nothing here touches the document.

const BYTES = ["B", "KB", "MB", "GB", "TB"];

export function bytes(count) {
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < BYTES.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${BYTES[unit]}`;
}

export function count(number) {
  if (number < 1000) return String(number);
  if (number < 1e6) return `${(number / 1e3).toFixed(number < 1e4 ? 1 : 0)}k`;
  return `${(number / 1e6).toFixed(1)}M`;
}

export function many(number, one, more = `${one}s`) {
  return `${number} ${number === 1 ? one : more}`;
}

export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** A long time in one word. */
export function roughly(ms) {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} d`;
}

/** How long ago, in words; a date when it is longer than a week. */
export function ago(at, now = Date.now()) {
  const seconds = Math.max(0, (now - at) / 1000);
  if (seconds < 45) return "now";
  if (seconds < 3600) return `${Math.max(1, Math.round(seconds / 60))} min`;
  if (seconds < 86400) return `${Math.round(seconds / 3600)} h`;
  if (seconds < 7 * 86400) return `${Math.round(seconds / 86400)} d`;
  return new Date(at).toLocaleDateString(undefined, { year: "numeric", month: "short", day: "numeric" });
}

export function moment(at) {
  return new Date(at).toLocaleString();
}

export function clock(at) {
  return new Date(at).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

export function cost(amount, currency) {
  const digits = amount === 0 || amount >= 1 ? 2 : amount >= 0.01 ? 3 : 6;
  return `${amount.toFixed(digits)} ${currency}`;
}

/** Tokens and cost of a usage in a few words; empty if nothing was used. */
export function usage(used, currency) {
  if (!used || (!used.input_tokens && !used.output_tokens)) return "";
  const words = [`${count(used.input_tokens)} in`, `${count(used.output_tokens)} out`];
  if (used.cost !== undefined) words.push(cost(used.cost, currency));
  return words.join(" · ");
}

/** The same with each figure, for a tooltip. */
export function usageWhole(used, currency) {
  if (!used) return "";
  const lines = [
    `${used.input_tokens.toLocaleString()} tokens in`,
    `of them ${used.cache_read_tokens.toLocaleString()} read from a cache, ${used.cache_write_tokens.toLocaleString()} written to it`,
    `${used.output_tokens.toLocaleString()} tokens out`,
    `of them ${used.reasoning_tokens.toLocaleString()} of reasoning`,
  ];
  if (used.cost !== undefined) lines.push(`${used.cost} ${currency}`);
  return lines.join("\n");
}

// What turns the order of the text behind it, or is no character at all.
const UNSEEN = /[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/gu;

/** The text without anything that makes it look like another one. As long as it was: each such sign becomes a visible one. */
export function clean(text) {
  return text.replace(UNSEEN, (sign) => (sign < " " ? String.fromCharCode(0x2400 + sign.charCodeAt(0)) : "\ufffd"));
}

/** The beginning of a text as one line of at most `room` characters. */
export function line(text, room) {
  const head = text.slice(0, room * 4).replace(/\s+/gu, " ").trim();
  const shown = [...head];
  return shown.length > room || text.length > room * 4 ? `${shown.slice(0, room - 1).join("")}…` : head;
}

const encoder = new TextEncoder();

/** Bytes of UTF-8, as the daemon counts them. */
export function utf8Length(text) {
  return encoder.encode(text).length;
}
