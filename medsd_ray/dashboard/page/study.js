// One study: which combination is best, and all its trials in a table and in charts that share one filter and one selection.

import { ago, badge, duration, fill, h, number, painted, progress, section, setText, title } from "./dom.js";
import { get } from "./api.js";
import { clear, colors, drawCurves, drawImportance, drawParallel, drawSlice, plotly, selectedColor } from "./charts.js";
import { Filter, searchable } from "./filter.js";
import { runColumns } from "./home.js";
import { tile, warnings } from "./parts.js";
import { Difference, Drawer, Images } from "./side.js";
import { Table } from "./table.js";
import { combinationColumns, trialColumns } from "./trials.js";

const MOST_SLICES = 8;
const SIDE_BY_SIDE = 6;
const PAUSE_MS = 120;
const group = (trial) => String(trial.components.unet ?? trial.components.text_encoder ?? trial.components.vae ?? "all");

export class Study {
  constructor(main, at) {
    this.at = at;
    this.curves = new Map();
    this.version = "";
    this.picked = [];
    this.head = h("div", { class: "head" });
    this.tiles = h("div", { class: "tiles" });
    this.warnings = h("div");
    this.filter = new Filter(() => this.#show());
    this.trials = new Table({ label: "Trials", empty: "No trial is like that.", rowClass: (row) => (this.picked.includes(row.id) ? "picked" : ""), onClick: (id) => this.#pick(id, !this.picked.includes(id)) });
    this.combinations = new Table({ label: "Combinations", empty: "None has ended yet." });
    this.stages = new Table({ label: "VAE stages", empty: "" });
    this.stages.setColumns(runColumns);
    this.chart = Object.fromEntries(["curves", "parallel", "importance"].map((name) => [name, h("div", { class: `chart ${name}` })]));
    this.slices = h("div", { class: "slices" });
    this.images = new Images(at);
    this.difference = new Difference(at);
    this.drawer = new Drawer(at);
    this.#build(main);
  }

  #build(main) {
    const choice = (id, words, values) => h("label", { class: "choice" }, h("span", {}, words), h("select", { id, onchange: () => this.#curveName() }, values.map(([value, text]) => h("option", { value }, text))));
    const which = choice("which-curve", "curve", [["validation_loss", "validation loss"], ["loss", "training loss"], ["validation_accuracy", "validation accuracy"], ["validation_auroc", "validation AUROC"], ["validation_dice", "validation Dice"]]);
    const scale = choice("curve-scale", "axis", [["linear", "linear"], ["log", "log"]]);
    [this.which, this.scale] = [which.querySelector("select"), scale.querySelector("select")];
    this.curveNote = h("p", { class: "note" });
    this.importanceNote = h("p", { class: "soft" });
    this.pickedNote = h("p", { class: "note" });
    this.stageCard = section("stages", "VAE stages", "Each is trained once and shared by the trials that use it.", this.stages.element);
    main.append(
      this.head,
      this.tiles,
      this.warnings,
      section("combinations", "Combinations", "Mean over seeds with its interval, best first.", this.combinations.element),
      this.filter.element,
      section("trials", "Trials", "Click a row to select it; its number shows its spec.", this.trials.element),
      h(
        "div",
        { class: "two" },
        section("learning", "Learning curves", null, h("div", { class: "choices" }, which, scale), this.chart.curves, this.curveNote),
        section("parallel", "Parallel coordinates", "A line is a trial, colored by the metric. Drag along an axis to keep a range.", this.chart.parallel),
      ),
      section("slices", "Each parameter against the metric", null, this.slices),
      section("samples", "Samples side by side", null, this.pickedNote, this.images.element),
      h(
        "div",
        { class: "two" },
        section("importance", "Importance", "Of each dimension for the metric.", this.chart.importance, this.importanceNote),
        section("difference", "Difference of two specs", null, this.difference.element),
      ),
      this.stageCard,
      this.drawer.element,
    );
  }

  async poll() {
    const { changed, data } = await get("/api/study", { at: this.at }, "study");
    if (changed) {
      this.data = data;
      for (const trial of data.trials) Object.assign(trial, { key: trial.id, words: searchable(trial) });
      this.picked = this.picked.filter((id) => data.trials.some((trial) => trial.id === id));
      this.filter.update(data);
    }
    this.#headline();
    if (changed) {
      this.#tables();
      this.stale = true;
      await painted();
    }
    await plotly();
    if (this.stale) await this.#charts();
    const { news, more } = await this.#fetchCurves();
    this.undrawn ||= news;
    if (this.undrawn && (!more || this.curves.size >= 2 * this.drawn)) this.#drawCurves(this.kept);
    await this.#side();
    return more;
  }

  // Curves that came since the last time; there are `more` where the server has not read all yet.
  async #fetchCurves() {
    const { changed, data } = await get("/api/curves", { at: this.at, name: this.which.value, since: this.version }, "curves");
    if (!changed) return { news: false, more: this.unread };
    if (data.whole) this.curves.clear();
    for (const [id, curve] of Object.entries(data.curves)) this.curves.set(id, curve);
    const news = data.version !== this.version;
    this.version = data.version;
    this.unread = data.ready < data.wanted;
    const longest = Math.max(0, ...[...this.curves.values()].map((curve) => curve.of));
    const short = longest > data.limit ? `Of ${number(longest)} points a curve at most ${data.limit} are drawn: the lowest and highest of each few neighbours.` : "";
    setText(this.curveNote, [this.unread ? `Read ${number(data.ready)} of ${number(data.wanted)} trials.` : "", short].join(" ").trim());
    return { news, more: this.unread };
  }

  #curveName() {
    if (this.curveShown !== this.which.value) {
      this.curveShown = this.which.value;
      this.version = "";
      this.curves.clear();
      this.#fetchCurves().then(() => this.#drawCurves(this.kept));
    } else this.#drawCurves(this.kept);
  }

  #headline() {
    const study = this.data;
    const count = (name) => study.counts[name] ?? 0;
    const ended = count("done") + count("stopped") + count("failed");
    fill(this.head, h("h1", {}, study.name, " ", badge(study.state)), h("p", { class: "note" }, h("code", {}, study.at || "."), ` · ${study.mode === "min" ? "lowest" : "highest"} ${(study.metric ?? "metric").replaceAll("_", " ")} wins · updated ${ago(study.modified)}`));
    fill(this.warnings, warnings(study.warnings));
    const running = study.trials.filter((trial) => trial.live);
    fill(
      this.tiles,
      tile("Best", number(study.best.value), study.best.trial ? `${(study.metric ?? "").replaceAll("_", " ")}, trial ${study.best.trial}` : "none yet"),
      tile("Trials ended", progress(ended, study.trials.length), `${count("done")} done, ${count("stopped")} stopped early, ${count("failed")} failed`),
      tile("Running", number(count("running")), running.length ? running.slice(0, 3).map((trial) => h("div", {}, `${trial.id} `, progress(trial.live.step, trial.live.total))) : "nothing at the moment"),
      tile("Time", duration(study.seconds), ""),
    );
  }

  #pick(id, on) {
    this.picked = this.picked.filter((one) => one !== id);
    if (on) this.picked.push(id);
    this.#show();
    this.#side().catch(() => {});
  }

  // All that depends on the filter or the selection: the tables now, the charts when the reader pauses.
  #show() {
    if (!this.data) return;
    this.#tables();
    clearTimeout(this.pause);
    this.pause = setTimeout(() => window.Plotly && this.#charts(), PAUSE_MS);
  }

  #metric() {
    return this.filter.metric.value || this.data.metric;
  }

  #tables() {
    const study = this.data;
    const metric = this.#metric();
    const chosen = this.#chosen();
    this.kept = this.filter.apply(study.trials);
    this.trials.setColumns(trialColumns({ study, metric, pick: (id, on) => this.#pick(id, on), isPicked: (id) => this.picked.includes(id), colorOf: (id) => chosen.get(id), more: (id) => this.#open(id) }));
    this.trials.update(this.kept);
    this.combinations.setColumns(combinationColumns(study));
    this.combinations.update(study.combinations.map((one, index) => ({ ...one, rank: index + 1, key: JSON.stringify(one.params) })));
    this.stages.update(study.stages.map((run) => ({ ...run, key: run.at })));
    this.stageCard.hidden = study.stages.length === 0;
    const open = this.#trial(this.drawer.id);
    if (open) this.drawer.update(open);
  }

  // One chart after another, so that the page answers in between; a newer call takes over from an older one.
  async #charts() {
    this.stale = false;
    const turn = (this.turn = {});
    const { study, metric } = { study: this.data, metric: this.#metric() };
    const mode = metric === study.metric ? study.mode : /loss|fid|kid|distance/.test(metric ?? "") ? "min" : "max";
    this.palette = colors(study.trials.map(group));
    const draws = [
      () => this.#drawCurves(this.kept),
      () => drawParallel(this.chart.parallel, { rows: this.kept, parameters: study.parameters, metric, mode }),
      ...this.#slices(metric),
      () => this.#drawImportance(),
    ];
    for (const draw of draws) {
      draw();
      await painted();
      if (this.turn !== turn) return;
    }
  }

  #trial(id) {
    return this.data.trials.find((trial) => trial.id === id);
  }

  #open(id) {
    this.drawer.open(this.#trial(id));
  }

  #chosen() {
    return new Map(this.picked.map((id, index) => [id, selectedColor(index)]));
  }

  #drawCurves(kept) {
    const chosen = this.#chosen();
    [this.drawn, this.undrawn] = [this.curves.size, false];
    const groups = new Map([...this.palette.keys()].map((name) => [name, []]));
    const selected = [];
    for (const trial of kept) {
      const curve = this.curves.get(trial.id);
      if (!curve) continue;
      if (chosen.has(trial.id)) selected.push([trial.id, curve, chosen.get(trial.id)]);
      else groups.get(group(trial)).push([trial.id, curve]);
    }
    for (const [name, curves] of groups) if (!curves.length) groups.delete(name);
    drawCurves(this.chart.curves, { groups, palette: this.palette, selected, metric: this.which.value, log: this.scale.value === "log", onClick: (id) => this.#open(id) });
  }

  #slices(metric) {
    const shown = this.data.parameters.slice(0, MOST_SLICES);
    while (this.slices.children.length > shown.length) {
      clear(this.slices.lastChild);
      this.slices.lastChild.remove();
    }
    while (this.slices.children.length < shown.length) this.slices.append(h("div", { class: "chart slice" }));
    const onClick = (id) => this.#open(id);
    return shown.map((parameter, index) => () =>
      drawSlice(this.slices.children[index], { rows: this.kept, parameter, metric, palette: this.palette, group, selected: this.#chosen(), onClick }),
    );
  }

  #drawImportance() {
    const { importance, importance_reason: reason } = this.data;
    this.chart.importance.hidden = !importance;
    this.importanceNote.hidden = Boolean(importance);
    setText(this.importanceNote, reason ?? "Not known before some trials have ended.");
    const sign = JSON.stringify(importance);
    if (importance && sign !== this.importanceDrawn) drawImportance(this.chart.importance, importance);
    this.importanceDrawn = sign;
  }

  // Images and differences of the selected trials; without a selection, images of the best.
  async #side() {
    const best = this.data.combinations.flatMap((one) => one.trials[0] ?? []);
    const fallback = best.length ? best : this.data.trials.filter((trial) => trial.status === "done").map((trial) => trial.id);
    const ids = (this.picked.length ? this.picked : fallback.slice(0, 4)).slice(0, SIDE_BY_SIDE);
    const words = (trial) => Object.entries(trial.components).map(([name, value]) => `${title(name)} ${value}`).join(", ");
    setText(this.pickedNote, this.picked.length ? "Of the selected trials, on the same prompts and seeds." : "Of the best combinations, a trial each, on the same prompts and seeds. Select trials in the table to see theirs.");
    const trials = ids.map((id) => this.#trial(id)).filter(Boolean);
    await this.images.update(trials.map((trial) => ({ id: trial.id, words: words(trial) })));
    await this.difference.update(this.picked);
  }

  crumbs() {
    return [{ text: this.data?.name ?? this.at }];
  }

  close() {
    this.turn = null;
    clearTimeout(this.pause);
    document.removeEventListener("keydown", this.drawer.keys);
    [...Object.values(this.chart), ...this.slices.children].forEach(clear);
  }
}
