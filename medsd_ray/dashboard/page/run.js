// One run: progress, curves, speed, checkpoints, samples, spec.

import { ago, duration, fill, h, number, progress, runBadge, section } from "./dom.js";
import { get } from "./api.js";
import { clear, drawRun, plotly } from "./charts.js";
import { copyButton, picture, tile, warnings } from "./parts.js";

const CHARTS = [
  { key: "losses", title: "Loss", names: (name) => name === "loss" || name === "validation_loss" },
  { key: "validated", title: "Validation", names: (name) => ["validation_accuracy", "validation_auroc", "validation_dice"].includes(name) },
  { key: "speed", title: "Images per second", names: (name) => name === "images_per_second" },
  { key: "rates", title: "Learning rate", names: (name) => name.startsWith("learning_rate/") },
  { key: "norm", title: "Gradient norm", names: (name) => name === "grad_norm", log: true },
];

export class Run {
  constructor(main, at) {
    this.at = at;
    this.head = h("div", { class: "head" });
    this.tiles = h("div", { class: "tiles" });
    this.warnings = h("div");
    this.charts = CHARTS.map((chart) => ({ ...chart, element: h("div", { class: "chart" }) }));
    this.cards = this.charts.map((chart) => section(chart.key, chart.title, null, chart.element));
    this.note = h("p", { class: "note" });
    this.checkpoints = h("div");
    this.samples = h("div", { class: "samples" });
    this.spec = h("pre", { class: "spec" });
    const copy = copyButton(() => this.spec.textContent);
    main.append(
      this.head,
      this.tiles,
      this.warnings,
      h("div", { class: "two" }, this.cards),
      this.note,
      section("checkpoints", "Checkpoints", null, this.checkpoints),
      section("samples", "Samples", "The run's own prompts, or reconstructions of a VAE, as training went on.", this.samples),
      section("spec", "Spec", "As a RUN.yaml to start again; its output is a new folder.", copy, this.spec),
    );
  }

  async poll() {
    const { changed, data } = await get("/api/run", { at: this.at }, "run");
    if (changed) [this.data, this.stale] = [data, true];
    const run = this.data;
    fill(this.head, h("h1", {}, run.name, " ", runBadge(run)), h("p", { class: "note" }, h("code", {}, run.at || "."), ` · updated ${ago(run.updated)}`));
    if (!this.stale) return false;
    fill(
      this.tiles,
      tile("Progress", progress(run.step, run.total), run.state === "running" && run.eta_seconds ? `${duration(run.eta_seconds)} left` : "steps"),
      tile("Throughput", number(run.images_per_second, 3), "images per second"),
      tile("Loss", number(run.loss), "training"),
      tile("Validation loss", number(run.validation_loss), ""),
      tile("Checkpoints", number(run.checkpoints.complete.length), run.checkpoints.complete.length ? `newest at step ${number(run.checkpoints.complete.at(-1))}` : "none yet"),
    );
    fill(this.warnings, warnings(run.warnings));
    this.#checkpoints(run.checkpoints);
    this.#samples(run);
    fill(this.spec, run.yaml ?? "No run.yaml here yet.");
    await plotly();
    this.#curves(run);
    this.stale = false;
    return false;
  }

  #curves(run) {
    let longest = 0;
    this.charts.forEach((chart, index) => {
      const curves = Object.fromEntries(Object.entries(run.curves).filter(([name]) => chart.names(name)));
      const some = Object.keys(curves).length > 0;
      this.cards[index].hidden = !some;
      if (some) drawRun(chart.element, curves, chart.title, chart.log);
      longest = Math.max(longest, ...Object.values(curves).map((curve) => curve.of));
    });
    fill(this.note, longest > 200 ? `Curves of ${number(longest)} points are drawn with the lowest and highest of each few neighbours, 200 points at most.` : "");
  }

  #checkpoints({ complete, incomplete, best, why }) {
    const chips = complete.map((step) => h("span", { class: "chip" }, `step ${number(step)}`, step === best && h("b", {}, why ? ` chosen: ${why}` : " best")));
    const half = incomplete.map((step) => h("span", { class: "chip soft" }, `step ${number(step)}, not complete`));
    fill(this.checkpoints, chips.length + half.length ? h("p", { class: "chips" }, chips, half) : h("p", { class: "soft" }, "None yet."));
  }

  #samples(run) {
    const rows = [...run.samples].reverse().map(({ step, images }) =>
      h("div", { class: "step" }, h("h3", {}, `Step ${number(step)}`), h("div", { class: "strip" }, images.map((image, index) => picture(run.at, image.name, image.stamp, run.prompts[index] ?? "")))),
    );
    fill(this.samples, rows.length ? rows : h("p", { class: "soft" }, "None yet."));
  }

  crumbs() {
    const study = this.at.match(/^(.*?)\/?(trials|vae)\/[^/]+$/);
    return [
      ...(study ? [{ kind: "study", at: study[1], text: study[1].split("/").pop() || "study" }] : []),
      { text: this.data?.name ?? this.at },
    ];
  }

  close() {
    this.charts.forEach((chart) => clear(chart.element));
  }
}
