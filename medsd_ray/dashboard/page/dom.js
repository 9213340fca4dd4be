// Elements and words. Text from storage goes into the page here alone, as text nodes, never as HTML.

// In the pipeline's order, as medsd_ray/spec/components.py has them.
export const COMPONENTS = ["vae", "text_encoder", "unet"];

export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Replaces an element's children only where they would look different, so that focus and scroll stay.
export function fill(element, ...children) {
  const fresh = [...h("div", {}, ...children).childNodes];
  const old = [...element.childNodes];
  if (fresh.length !== old.length || fresh.some((node, index) => !node.isEqualNode(old[index]))) element.replaceChildren(...fresh);
}

// Once what is there has been painted; soon, where the window is hidden and nothing is.
export function painted() {
  return new Promise((resolve) => {
    requestAnimationFrame(() => setTimeout(resolve));
    setTimeout(resolve, 200);
  });
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function number(value, digits = 4) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return Math.abs(value) < 1e15 ? value.toLocaleString("en").replaceAll(",", " ") : value.toExponential(2);
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return value.toExponential(2);
  return String(Number(value.toPrecision(digits)));
}

export function duration(seconds) {
  if (typeof seconds !== "number") return "–";
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60 ? `${s % 60} s` : ""}`.trim();
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

export function ago(time) {
  const then = typeof time === "number" ? time * 1000 : Date.parse(time ?? "");
  if (Number.isNaN(then)) return "–";
  const seconds = Math.max(0, (Date.now() - then) / 1000);
  if (seconds < 10) return "just now";
  if (seconds < 60) return `${Math.round(seconds)} s ago`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.round(seconds / 3600)} h ago`;
  return new Date(then).toISOString().slice(0, 10);
}

const words = { vae: "VAE", text_encoder: "text encoder", unet: "U-Net" };

// `components.unet.learning_rate` -> `U-Net learning rate`
export function title(name) {
  return name
    .split(".")
    .filter((part, index, all) => !(all.length > 1 && (part === "components" || part === "training")))
    .map((part) => words[part] ?? part.replaceAll("_", " "))
    .join(" ");
}

export function badge(state) {
  return h("span", { class: `badge ${/^[a-z]+$/.test(state) ? state : ""}` }, state);
}

const SILENT_S = 300;

// A run that says it runs but has written nothing for minutes was killed, or its storage is away.
export function runBadge(run) {
  return badge(runState(run));
}

export function runState(run) {
  const silent = run.state === "running" && (Date.now() - Date.parse(run.updated ?? "")) / 1000 > SILENT_S;
  return silent ? "silent" : run.state;
}

export function progress(step, total) {
  if (!total) return h("span", { class: "soft" }, "–");
  return h("span", { class: "progress" }, h("progress", { max: total, value: step ?? 0 }), h("span", {}, `${number(step ?? 0)}/${number(total)}`));
}

export function link(kind, at, text) {
  return h("a", { href: `#/${kind}/${encodeURIComponent(at)}` }, text);
}

export function section(name, heading, note, ...children) {
  return h("section", { class: "card", id: name }, h("h2", {}, heading), note && h("p", { class: "note" }, note), ...children);
}
