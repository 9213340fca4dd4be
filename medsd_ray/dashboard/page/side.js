// Trials side by side: images on the same prompts and seeds, what differs in their specs, and one trial in full.

import { badge, duration, fill, h, link, number, setText, title } from "./dom.js";
import { get, Missing } from "./api.js";
import { copyButton, picture } from "./parts.js";

const under = (at, id) => (at ? `${at}/trials/${id}` : `trials/${id}`);

export class Images {
  constructor(at) {
    this.at = at;
    this.element = h("div", { class: "scroll" });
    this.key = "";
  }

  // `trials`: [{id, status, words, color}] in the order of the columns
  async update(trials) {
    const ids = trials.map((trial) => trial.id);
    const key = JSON.stringify(trials);
    const { changed, data } = ids.length ? await get("/api/images", { at: this.at, trials: ids.join(",") }, "images") : { changed: true, data: { rows: [] } };
    if (!changed && key === this.key) return;
    if (changed) this.data = data;
    this.key = key;
    if (this.data.rows.length === 0) return fill(this.element, h("p", { class: "soft" }, "No images of these trials yet."));
    const head = h("tr", {}, h("th", {}, "Prompt and seed"), trials.map((trial) => h("th", {}, `Trial ${trial.id}`, h("span", { class: "span" }, trial.words))));
    const rows = this.data.rows.map((row) =>
      h(
        "tr",
        {},
        h("th", { scope: "row", class: "prompt" }, row.prompt ?? "no prompt is known", h("span", { class: "span" }, `seed ${number(row.seed)} · ${row.name.split("/").pop()}`)),
        trials.map((trial) => h("td", {}, row.stamps[trial.id] ? picture(under(this.at, trial.id), row.name, row.stamps[trial.id], "") : h("span", { class: "soft" }, "–"))),
      ),
    );
    fill(this.element, h("table", { class: "images" }, h("thead", {}, head), h("tbody", {}, rows)));
  }
}

export class Difference {
  constructor(at) {
    this.at = at;
    this.element = h("div", { class: "scroll" });
    this.pair = "";
  }

  async update(picked) {
    const [a, b] = picked;
    const pair = `${a}/${b}`;
    if (picked.length < 2) {
      this.pair = "";
      return fill(this.element, h("p", { class: "soft" }, "Select two trials in the table to see what differs in their specs."));
    }
    if (pair === this.pair) return;
    const { data } = await get("/api/diff", { at: this.at, a, b });
    this.pair = data.difference === null ? "" : pair;
    if (data.difference === null) return fill(this.element, h("p", { class: "soft" }, "One of the two has no spec: it has not begun, or trains nothing."));
    const cell = (text, kind) => h("td", { class: kind }, text === null ? h("span", { class: "soft" }, "absent") : text);
    const rows = data.difference.map((one) => h("tr", {}, h("th", { scope: "row" }, one.field), cell(one.a, "old"), cell(one.b, "new")));
    const more = picked.length > 2 && h("p", { class: "note" }, "Of the trials selected, the first two.");
    const table = h("table", { class: "difference" }, h("thead", {}, h("tr", {}, h("th", {}, "Field"), h("th", {}, `Trial ${a}`), h("th", {}, `Trial ${b}`))), h("tbody", {}, rows));
    fill(this.element, more, rows.length ? table : h("p", {}, "The two specs are the same."));
  }
}

// One trial at the page's side.
export class Drawer {
  constructor(at) {
    this.at = at;
    this.heading = h("h2");
    this.facts = h("dl", { class: "facts" });
    this.error = h("p", { class: "warning", hidden: true });
    this.spec = h("pre", { class: "spec" });
    this.copy = copyButton(() => this.spec.textContent);
    this.run = h("p");
    const close = h("button", { type: "button", class: "plain close", "aria-label": "Close", onclick: () => this.close() }, "×");
    this.element = h("aside", { class: "drawer", "aria-label": "One trial", hidden: true }, close, this.heading, this.run, this.error, this.facts, this.copy, this.spec);
    this.keys = (event) => event.key === "Escape" && this.close();
    document.addEventListener("keydown", this.keys);
  }

  close() {
    this.element.hidden = true;
    this.id = null;
  }

  async open(trial) {
    this.id = trial.id;
    this.element.hidden = false;
    this.update(trial);
    fill(this.spec, "…");
    try {
      const { data } = await get("/api/spec", { at: this.at, trial: trial.id });
      if (this.id !== trial.id) return;
      setText(this.spec, data.yaml);
      this.copy.hidden = false;
    } catch (error) {
      this.copy.hidden = true;
      const none = trial.trains ? "It has not begun, so it has no spec yet." : "Nothing is trained: U-Net and text encoder are frozen, and the model is judged as it is.";
      setText(this.spec, error instanceof Missing ? none : error.message);
    }
  }

  update(trial) {
    fill(this.heading, `Trial ${trial.id} `, badge(trial.status));
    fill(this.run, trial.trains && link("run", under(this.at, trial.id), "Its curves, checkpoints and samples"));
    this.error.hidden = !trial.error;
    setText(this.error, trial.error ?? "");
    const pairs = [...Object.entries(trial.metrics), ...Object.entries(trial.params), ["seed", trial.seed], ["steps", trial.steps]];
    fill(this.facts, [...pairs.map(([name, value]) => [title(name), number(value)]), ["time", duration(trial.seconds)]].flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  }
}
