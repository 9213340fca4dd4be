// The bar that says which trials are shown, in all charts and in the table alike.

import { COMPONENTS, h, setText, title } from "./dom.js";

const STATUSES = ["running", "done", "stopped", "failed", "pending"];

export class Filter {
  constructor(onChange) {
    this.onChange = onChange;
    this.statuses = new Set();
    this.text = h("input", { type: "search", id: "filter", placeholder: "Filter: lora, 1e-4, 0007…", "aria-label": "Filter trials by text", oninput: () => onChange() });
    this.chips = STATUSES.map((status) =>
      h("button", { type: "button", class: "chip", "aria-pressed": "false", "data-status": status, onclick: (event) => this.#toggle(event.currentTarget, status) }, status),
    );
    this.parts = new Map(COMPONENTS.map((part) => [part, this.#select(part, title(part))]));
    this.metric = this.#select("metric", "metric");
    this.count = h("span", { class: "soft", id: "count" });
    this.reset = h("button", { type: "button", class: "plain", onclick: () => this.#clear() }, "Clear");
    const named = (select, words) => h("label", {}, h("span", {}, words), select);
    this.element = h(
      "div",
      { class: "filter", role: "search" },
      this.text,
      h("div", { class: "chips" }, this.chips),
      [...this.parts].map(([part, select]) => named(select, title(part))),
      named(this.metric, "metric"),
      this.count,
      this.reset,
    );
  }

  #select(name, words) {
    return h("select", { id: `by-${name}`, "aria-label": words, onchange: () => this.onChange() });
  }

  #toggle(button, status) {
    const on = !this.statuses.has(status);
    if (on) this.statuses.add(status);
    else this.statuses.delete(status);
    button.setAttribute("aria-pressed", String(on));
    this.onChange();
  }

  #clear() {
    this.text.value = "";
    this.statuses.clear();
    this.chips.forEach((chip) => chip.setAttribute("aria-pressed", "false"));
    this.parts.forEach((select) => (select.value = ""));
    this.onChange();
  }

  // New choices as trials come; what was chosen stays chosen.
  update(study) {
    for (const [part, select] of this.parts) {
      const known = [...new Set(study.trials.map((trial) => trial.components[part]).filter((value) => value !== undefined && value !== null))].map(String).sort();
      options(select, ["", ...known], (value) => value || "any");
      select.parentElement.hidden = known.length < 2;
    }
    options(this.metric, study.metrics, (value) => value.replaceAll("_", " "));
    for (const chip of this.chips) {
      const status = chip.dataset.status;
      setText(chip, `${status} ${study.trials.filter((trial) => trial.status === status).length}`);
    }
  }

  apply(trials) {
    const words = this.text.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const kept = trials.filter(
      (trial) =>
        (this.statuses.size === 0 || this.statuses.has(trial.status)) &&
        [...this.parts].every(([part, select]) => !select.value || String(trial.components[part]) === select.value) &&
        words.every((word) => trial.words.includes(word)),
    );
    setText(this.count, kept.length === trials.length ? `${trials.length} trials` : `${kept.length} of ${trials.length} trials`);
    this.reset.hidden = kept.length === trials.length;
    return kept;
  }
}

function options(select, values, words) {
  if ([...select.options].map((option) => option.value).join("\n") === values.join("\n") && select.options.length === values.length) return;
  const chosen = select.value;
  select.replaceChildren(...values.map((value) => h("option", { value }, words(value))));
  if (values.includes(chosen)) select.value = chosen;
}

// All that a text filter looks at.
export function searchable(trial) {
  const parts = Object.entries({ ...trial.params, ...trial.components }).map(([name, value]) => `${name}=${value}`);
  return [trial.id, trial.status, trial.error ?? "", `seed=${trial.seed}`, ...parts].join(" ").toLowerCase();
}
