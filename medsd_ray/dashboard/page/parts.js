// Small pieces that pages share.

import { h, setText } from "./dom.js";

export function tile(name, value, more) {
  return h("div", { class: "card tile" }, h("div", { class: "name" }, name), h("div", { class: "value" }, value), h("div", { class: "more" }, more));
}

const MOST_WARNINGS = 5;

export function warnings(texts) {
  const more = texts.length - MOST_WARNINGS;
  return [...texts.slice(0, MOST_WARNINGS), ...(more > 0 ? [`… and ${more} more`] : [])].map((text) => h("p", { class: "warning" }, text));
}

export function picture(at, name, stamp, words) {
  const source = `/image?${new URLSearchParams({ at, name, v: stamp })}`;
  return h("figure", {}, h("img", { src: source, alt: words || name }), words && h("figcaption", {}, words));
}

// Copies text, also where the page came over plain http and the browser has no clipboard for it.
export function copyButton(text, label = "Copy as RUN.yaml") {
  const button = h("button", { type: "button", class: "action", onclick: () => copy(button, text(), label) }, label);
  return button;
}

async function copy(button, text, label) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { value: text, class: "offscreen" });
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
  }
  setText(button, done ? "Copied" : "Select the text and copy it");
  setTimeout(() => setText(button, label), 1500);
}
