// Strings and files that are too long for a message: read in pieces, on demand.

import { button, h } from "./dom.js";
import * as format from "./format.js";

const PIECE = 65_536;
const SAVED = 256 * 1024 * 1024; // bytes: more is not put together in a browser
const PICTURE = 16 * 1024 * 1024;
// What may be shown as a picture: formats of pixels only, none that can have a script or refer to something.
const PICTURES = new Set(["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp"]);

const encoder = new TextEncoder();

function decode(base64) {
  const binary = atob(base64);
  const data = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at += 1) data[at] = binary.charCodeAt(at);
  return data;
}

async function* pieces(link, handle) {
  let offset = 0;
  while (offset !== undefined) {
    const piece = await link.request("output.read", { handle, offset, limit: PIECE });
    yield piece.data_base64 === undefined ? encoder.encode(piece.text ?? "") : decode(piece.data_base64);
    offset = piece.next_offset;
  }
}

async function gather(link, handle, most) {
  const found = [];
  let size = 0;
  for await (const piece of pieces(link, handle)) {
    size += piece.length;
    if (size > most) throw new Error(`it is larger than ${format.bytes(most)}`);
    found.push(piece);
  }
  return found;
}

function save(parts, name) {
  // Never with the type that it claims: a document of this address would be the page itself.
  const address = URL.createObjectURL(new Blob(parts, { type: "application/octet-stream" }));
  h("a", { href: address, download: format.clean(name) }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/**
 * A line below a string that was cut: how long it is, a button that shows more, one that saves all. `onText(text,
 * first)` gets each further piece; reading begins at byte `offset`. Its `readAll()` is as if one pressed until
 * all is there, and tells whether it is.
 */
export function moreOf(link, { bytes, handle }, offset, onText, name = "output.txt") {
  let at = offset;
  let first = true;
  const note = h("span", { text: `${format.bytes(bytes)} in all` });
  const report = (error) => (note.textContent = `It cannot be read: ${error.message}`);
  const more = button("Show more", () => next(), { kind: "small" });
  const next = async () => {
    more.disabled = true;
    let read = true;
    try {
      const piece = await link.request("output.read", { handle, offset: at, limit: PIECE });
      onText(format.clean(piece.text ?? ""), first);
      first = false;
      at = piece.next_offset;
      more.hidden = at === undefined;
      note.textContent = at === undefined ? `all ${format.bytes(bytes)}` : `${format.bytes(at)} of ${format.bytes(bytes)}`;
    } catch (error) {
      report(error);
      read = false;
    }
    more.disabled = false;
    return read;
  };
  const whole = button("Save all", () => gather(link, handle, SAVED).then((parts) => save(parts, name), report), { kind: "small" });
  const element = h("p", { class: "more" }, more, whole, note);
  element.readAll = async () => {
    while (!more.hidden && !more.disabled && (await next()));
    return more.hidden;
  };
  return element;
}

/** A file part: a picture if it is one of pixels, else its name and a button that saves it. */
export function fileView(link, part) {
  const name = part.name ?? "file";
  const holder = h("figure", { class: "file" });
  const note = h("span", { class: "muted", text: `${part.mime} · ${format.bytes(part.size)}` });
  const read = (most) => (part.data_base64 === undefined ? gather(link, part.handle, most) : Promise.resolve([decode(part.data_base64)]));
  const known = part.data_base64 !== undefined || part.handle !== undefined;
  const saving = known && button(`Save ${name}`, () => read(SAVED).then((parts) => save(parts, name), (error) => (note.textContent = error.message)), { glyph: "file", kind: "small" });
  holder.append(h("figcaption", {}, saving || h("span", { text: name }), note));
  let address = null;
  if (known && PICTURES.has(part.mime) && part.size <= PICTURE) {
    read(PICTURE).then(
      (parts) => {
        if (address === "") return;
        address = URL.createObjectURL(new Blob(parts, { type: part.mime }));
        const picture = h("img", { src: address, alt: name, loading: "lazy" });
        picture.addEventListener("error", () => picture.remove());
        holder.prepend(picture);
      },
      () => {},
    );
  }
  return {
    element: holder,
    close() {
      if (address) URL.revokeObjectURL(address);
      address = "";
    },
  };
}
