// The columns of the table of trials and of the table of combinations.

import { COMPONENTS, badge, duration, h, number, progress, title } from "./dom.js";

// Components first, in the pipeline's order.
function order(name) {
  const index = COMPONENTS.indexOf(name.replace("components.", ""));
  return index < 0 ? COMPONENTS.length : index;
}

function metricColumns(metrics, first) {
  const ordered = [first, ...metrics.filter((name) => name !== first)].filter(Boolean);
  return ordered.slice(0, 6).map((name) => ({
    key: `metric:${name}`,
    title: name.replaceAll("_", " "),
    number: true,
    value: (row) => row.metrics[name] ?? null,
    text: (row) => number(row.metrics[name]),
  }));
}

// `pick(id, on)`, `isPicked(id)` and `colorOf(id)` are the selection; `more(id)` opens a trial.
export function trialColumns({ study, metric, pick, isPicked, colorOf, more }) {
  const parts = COMPONENTS.filter((part) => study.trials.some((trial) => part in trial.components));
  const others = study.parameters.map(({ name }) => name).filter((name) => !parts.includes(name.replace("components.", "")));
  const check = (row) => {
    const box = h("input", { type: "checkbox", "aria-label": `Select trial ${row.id}`, onchange: (event) => pick(row.id, event.target.checked) });
    box.checked = isPicked(row.id);
    box.style.accentColor = colorOf(row.id) ?? "";
    return box;
  };
  return [
    { key: "pick", title: "", sign: (row) => String(colorOf(row.id)), node: check },
    { key: "id", title: "Trial", value: (row) => row.id, node: (row) => h("button", { type: "button", class: "plain", onclick: () => more(row.id) }, row.id) },
    { key: "status", title: "Status", value: (row) => row.status, sign: (row) => row.status + (row.error ?? ""), node: (row) => h("span", { title: row.error ?? "" }, badge(row.status)) },
    ...metricColumns(study.metrics, metric),
    ...parts.map((part) => ({ key: part, title: title(part), value: (row) => row.components[part] ?? null, text: (row) => number(row.components[part]) })),
    ...others.map((name) => ({
      key: `param:${name}`,
      title: title(name),
      number: study.parameters.find((one) => one.name === name).kind === "number",
      value: (row) => row.params[name] ?? null,
      text: (row) => number(row.params[name]),
    })),
    { key: "seed", title: "Seed", number: true, value: (row) => row.seed, text: (row) => number(row.seed) },
    {
      key: "steps",
      title: "Steps",
      number: true,
      number: true,
      value: (row) => row.live?.step ?? row.steps,
      sign: (row) => `${row.live?.step}/${row.live?.total}/${row.steps}`,
      node: (row) => (row.live?.total ? progress(row.live.step, row.live.total) : h("span", {}, number(row.steps))),
    },
    { key: "seconds", title: "Time", number: true, value: (row) => row.seconds, text: (row) => duration(row.seconds) },
  ];
}

export function combinationColumns(study) {
  const names = [...new Set(study.combinations.flatMap((one) => Object.keys(one.params)))].sort((a, b) => order(a) - order(b) || a.localeCompare(b));
  const metrics = study.metrics.filter((name) => study.combinations.some((one) => one.metrics[name]));
  const mean = (row, name) => row.metrics[name]?.mean ?? null;
  // A combination in which the space does not ask about a component has the template's.
  const tried = (row, name) => row.params[name] ?? row.components[name.replace("components.", "")] ?? null;
  const interval = (row, name) => {
    const { low, high, n } = row.metrics[name] ?? {};
    if (mean(row, name) === null) return h("span", {}, "–");
    const span = low === null || low === undefined ? "" : ` ${number(low, 3)} to ${number(high, 3)}`;
    return h("span", {}, number(mean(row, name)), h("span", { class: "span" }, `${span} n=${number(n)}`));
  };
  return [
    { key: "rank", title: "", number: true, text: (row) => String(row.rank) },
    ...names.map((name) => ({ key: name, title: title(name), value: (row) => tried(row, name), text: (row) => number(tried(row, name)) })),
    ...metrics.slice(0, 5).map((name) => ({
      key: `metric:${name}`,
      title: name.replaceAll("_", " "),
      number: true,
      value: (row) => mean(row, name),
      sign: (row) => JSON.stringify(row.metrics[name] ?? null),
      node: (row) => interval(row, name),
    })),
  ];
}
