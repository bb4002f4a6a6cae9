// The only place where HTML becomes nodes. It is the daemon's (`markdown.render`), which lets no HTML of a model
// pass; what comes is still held against the tags and attributes that it may have, and the rest becomes plain text.

const TAGS = new Set("p h1 h2 h3 h4 h5 h6 ul ol li blockquote pre code em strong del a table thead tbody tr th td hr br span".split(" "));
const ATTRIBUTES = { a: ["href"], li: ["value"] };
const CLASSES = /^[a-z0-9 _-]*$/iu;
const FROM_RIGHT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/u; // letters of languages that are written from the right
const SCHEMES = new Set(["http:", "https:", "mailto:"]);

const policy = globalThis.trustedTypes?.createPolicy("greenroom", { createHTML: (html) => html });

/** Nodes of a piece of the daemon's HTML, harmless whatever it has. */
export function fragment(html) {
  // Content of a template is of a document of its own: nothing in it loads or runs before it is looked at.
  const template = document.createElement("template");
  template.innerHTML = policy ? policy.createHTML(html) : html;
  for (const element of [...template.content.querySelectorAll("*")]) check(element);
  // Text is turned by the style sheet; what has marks or columns is by the language that it begins with.
  if (FROM_RIGHT.test(html)) for (const element of template.content.querySelectorAll("ul, ol, blockquote, table")) element.dir = "auto";
  return template.content;
}

function check(element) {
  const tag = element.localName;
  if (element.namespaceURI !== "http://www.w3.org/1999/xhtml" || !TAGS.has(tag)) {
    element.replaceWith(document.createTextNode(element.textContent));
    return;
  }
  for (const { name, value } of [...element.attributes]) {
    const fits = name === "class" ? CLASSES.test(value) : ATTRIBUTES[tag]?.includes(name);
    if (!fits) element.removeAttribute(name);
  }
  if (tag === "a") checkLink(element);
}

function checkLink(element) {
  let scheme = "";
  try {
    scheme = new URL(element.getAttribute("href")).protocol; // without a base: only whole addresses are links
  } catch {
    // no address: handled like one of a scheme that is not known
  }
  if (!SCHEMES.has(scheme)) {
    element.replaceWith(...element.childNodes);
    return;
  }
  element.rel = "noopener noreferrer nofollow";
  element.target = "_blank";
}
