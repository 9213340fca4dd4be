// All studies and runs below the root.

import { ago, badge, duration, fill, h, link, number, progress, runBadge, runState, section } from "./dom.js";
import { get } from "./api.js";
import { Table } from "./table.js";

const studies = [
  { key: "name", title: "Study", value: (r) => r.name, node: (r) => link("study", r.at, r.name) },
  { key: "state", title: "State", value: (r) => r.state, node: (r) => badge(r.state) },
  { key: "trials", title: "Trials", number: true, value: (r) => r.trials, text: (r) => `${number((r.counts.done ?? 0) + (r.counts.stopped ?? 0))}/${number(r.trials)}`, hint: "ended well / all" },
  { key: "failed", title: "Failed", number: true, value: (r) => r.counts.failed ?? 0, text: (r) => number(r.counts.failed ?? 0) },
  { key: "best", title: "Best", number: true, value: (r) => r.best.value, text: (r) => number(r.best.value) },
  { key: "metric", title: "Metric", value: (r) => r.metric, text: (r) => (r.metric ?? "–").replaceAll("_", " ") },
  { key: "seconds", title: "Time", number: true, value: (r) => r.seconds, text: (r) => duration(r.seconds) },
  { key: "modified", title: "Last update", value: (r) => r.modified, text: (r) => ago(r.modified) },
  { key: "at", title: "Where", value: (r) => r.at, text: (r) => r.at || "." },
];

export const runColumns = [
  { key: "name", title: "Run", value: (r) => r.name, node: (r) => link("run", r.at, r.name) },
  { key: "state", title: "State", value: runState, node: runBadge },
  { key: "progress", title: "Progress", value: (r) => (r.total ? r.step / r.total : null), sign: (r) => `${r.step}/${r.total}`, node: (r) => progress(r.step, r.total) },
  { key: "speed", title: "Images/s", number: true, value: (r) => r.images_per_second, text: (r) => number(r.images_per_second, 3) },
  { key: "loss", title: "Loss", number: true, value: (r) => r.loss, text: (r) => number(r.loss) },
  { key: "validation", title: "Validation", number: true, value: (r) => r.validation_loss, text: (r) => number(r.validation_loss) },
  { key: "checkpoints", title: "Checkpoints", number: true, value: (r) => r.checkpoints.complete.length, text: (r) => number(r.checkpoints.complete.length), hint: "complete ones" },
  { key: "updated", title: "Last update", value: (r) => r.updated, text: (r) => ago(r.updated) },
  { key: "at", title: "Where", value: (r) => r.at, text: (r) => r.at || "." },
];

export class Home {
  constructor(main) {
    this.studies = new Table({ label: "Studies", empty: "No studies here yet." });
    this.runs = new Table({ label: "Runs", empty: "No runs of their own here yet." });
    this.studies.setColumns(studies);
    this.runs.setColumns(runColumns);
    this.root = h("p", { class: "note" });
    main.append(
      h("h1", {}, "Studies and runs"),
      this.root,
      section("studies", "Studies", null, this.studies.element),
      section("runs", "Runs", "Those that belong to no study.", this.runs.element),
    );
  }

  async poll() {
    const { changed, data } = await get("/api/overview", {}, "overview");
    if (changed) {
      this.data = data;
      fill(this.root, "Below ", h("code", {}, data.root));
      const own = data.studies.length === 1 && data.studies[0].at === "" && location.hash === "";
      if (own) location.replace("#/study/");
    }
    const keyed = (rows) => rows.map((row) => ({ ...row, key: row.at }));
    this.studies.update(keyed(this.data.studies));
    this.runs.update(keyed(this.data.runs));
    return false;
  }

  crumbs() {
    return [];
  }

  close() {}
}
