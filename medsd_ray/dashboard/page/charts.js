// Plotly's charts. Text from storage is escaped: Plotly reads some HTML in labels.

import { number, title } from "./dom.js";

const PALETTE = ["#3b76c4", "#d9822b", "#3a9a5b", "#b8477c", "#7b62c9", "#2a9aa3", "#a8862b", "#6b7785"];
const SELECTED = ["#e0352b", "#1857b8", "#0d7d4d", "#9a2fb0", "#c46a00", "#00838f", "#5d4037", "#37474f"];
const webgl = Boolean(document.createElement("canvas").getContext("webgl"));

let loading = null;

// Plotly's five megabytes are fetched when a page first needs a chart, after its tables are there.
export function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.onload = resolve;
    script.onerror = () => {
      loading = null;
      reject(new Error("The server did not send plotly.min.js; the page tries again."));
    };
    script.src = "/page/plotly.min.js";
    document.head.append(script);
  });
  return loading;
}

export const escape = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
export const selectedColor = (index) => SELECTED[index % SELECTED.length];

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function axis(more = {}) {
  const colors = { gridcolor: css("--line"), linecolor: css("--line"), zerolinecolor: css("--line"), tickcolor: css("--line") };
  return { ...colors, automargin: true, ticks: "outside", ticklen: 4, exponentformat: "e", ...more, title: { text: escape(more.title ?? ""), standoff: 8 } };
}

function layout(more = {}) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: css("--font"), size: 12, color: css("--ink") },
    margin: { l: 56, r: 16, t: 12, b: 44 },
    hovermode: "closest",
    hoverlabel: { align: "left" },
    showlegend: false,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    uirevision: "kept",
    ...more,
  };
}

const CONFIG = { displayModeBar: false, responsive: true, displaylogo: false, showTips: false };

function draw(element, traces, more) {
  return Plotly.react(element, traces, layout(more), CONFIG);
}

export function clear(element) {
  if (element.data) Plotly.purge(element);
}

// One color for each value of a grouping, the commonest first.
export function colors(names) {
  const unique = [...new Set(names)].sort();
  return new Map(unique.map((name, index) => [name, PALETTE[index % PALETTE.length]]));
}

function trialHover(element, onClick) {
  if (element.medsdClick) return;
  element.medsdClick = true;
  element.on("plotly_click", (event) => {
    const id = event.points[0]?.customdata;
    if (typeof id === "string") onClick(id);
  });
}

// Curves of many trials in a few traces: a gap (null) parts one from the next.
function joined(curves, name, color, strong, more = {}) {
  const x = [], y = [], customdata = [];
  for (const [id, curve] of curves) {
    for (let i = 0; i < curve.steps.length; i++) {
      x.push(curve.steps[i]);
      y.push(curve.values[i]);
      customdata.push(id);
    }
    x.push(null);
    y.push(null);
    customdata.push(id);
  }
  return {
    type: webgl ? "scattergl" : "scatter",
    mode: curves.some(([, curve]) => curve.steps.length === 1) ? "lines+markers" : "lines",
    name: escape(name),
    x, y, customdata,
    line: { color, width: strong ? 2.5 : 1.1 },
    marker: { size: 4 },
    hovertemplate: "trial %{customdata}<br>step %{x}<br>%{y:.5g}<extra></extra>",
    ...more,
  };
}

// `groups`: Map of name -> [[id, curve]]; `selected`: [[id, curve]]
export function drawCurves(element, { groups, palette, selected, metric, log, onClick }) {
  const dim = selected.length ? 0.22 : 0.75;
  const traces = [...groups].map(([name, curves]) => joined(curves, name, palette.get(name), false, { opacity: dim, showlegend: true }));
  selected.forEach(([id, curve, color]) => traces.push(joined([[id, curve]], `trial ${id}`, color, true, { showlegend: true })));
  draw(element, traces, {
    xaxis: axis({ title: "step", exponentformat: "none" }),
    yaxis: axis({ title: title(metric), type: log ? "log" : "linear" }),
    showlegend: true,
  });
  trialHover(element, onClick);
}

// An axis for a parameter: numbers as they are (log10 where they span decades), words by their place.
function scale(parameter, rows) {
  const values = rows.map((row) => row.params[parameter.name] ?? null);
  if (parameter.kind === "number" && parameter.log) {
    const logs = values.map((value) => (value === null ? null : Math.log10(value)));
    const ticks = decades(logs.filter((value) => value !== null));
    return { values: logs, ticks, texts: ticks.map((tick) => (10 ** tick).toExponential(0)) };
  }
  if (parameter.kind === "number") return { values };
  const words = [...new Set(values.filter((value) => value !== null).map(String))].sort();
  const place = new Map(words.map((word, index) => [word, index]));
  return { values: values.map((value) => (value === null ? null : place.get(String(value)))), ticks: words.map((_, i) => i), texts: words };
}

function decades(logs) {
  if (!logs.length) return [];
  const low = Math.floor(Math.min(...logs)), high = Math.ceil(Math.max(...logs));
  return Array.from({ length: high - low + 1 }, (_, index) => low + index);
}

const short = (text, length = 22) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

export function drawParallel(element, { rows, parameters, metric, mode }) {
  const shown = rows.filter((row) => typeof row.metrics[metric] === "number");
  const narrow = element.clientWidth < 900;
  const dimensions = parameters.map((parameter) => {
    const { values, ticks, texts } = scale(parameter, shown);
    // Ticks are plain text here, unlike labels. A trial that a condition leaves without the parameter goes below the axis.
    const known = values.filter((value) => value !== null);
    const low = known.length ? Math.min(...known) : 0, high = known.length ? Math.max(...known) : 1;
    const gap = (high - low || 1) * 0.12, lacks = values.some((value) => value === null);
    const at = ticks?.filter((tick) => tick >= low - 1e-9 && tick <= high + 1e-9);
    const named = ticks?.length && at.length ? at : null;
    return {
      label: escape(short(title(parameter.name))),
      values: values.map((value) => value ?? low - gap),
      range: [lacks ? low - gap : low - (high === low ? 0.5 : 0), high === low ? high + 0.5 : high],
      ...(named && { tickvals: lacks ? [low - gap, ...named] : named, ticktext: [...(lacks ? ["–"] : []), ...named.map((tick) => short(texts[ticks.indexOf(tick)], narrow ? 12 : 22))] }),
    };
  });
  const values = shown.map((row) => row.metrics[metric]);
  dimensions.push({ label: escape(short(title(metric))), values });
  const trace = {
    type: "parcoords",
    dimensions,
    line: { color: values, colorscale: "Viridis", reversescale: mode === "min" },
    labelfont: { size: 12 },
    tickfont: { size: 11, color: css("--ink"), shadow: "none" },
    rangefont: { size: 10, color: css("--soft"), shadow: "none" },
    unselected: { line: { color: css("--line"), opacity: 0.25 } },
  };
  draw(element, shown.length ? [trace] : [], { margin: { l: narrow ? 84 : 130, r: 60, t: 54, b: 28 } });
}

// The same for a trial at each drawing.
function jitter(id) {
  let hash = 2166136261;
  for (const letter of id) hash = Math.imul(hash ^ letter.charCodeAt(0), 16777619);
  hash = Math.imul(hash ^ (hash >>> 15), 2246822519);
  return (((hash ^ (hash >>> 13)) >>> 0) / 4294967296 - 0.5) * 0.5;
}

export function drawSlice(element, { rows, parameter, metric, palette, group, selected, onClick }) {
  const shown = rows.filter((row) => typeof row.metrics[metric] === "number" && (row.params[parameter.name] ?? null) !== null);
  const { values, ticks, texts } = scale(parameter, shown);
  const word = parameter.kind === "category";
  const trace = {
    type: "scatter",
    mode: "markers",
    x: values.map((value, index) => (word ? value + jitter(shown[index].id) : value)),
    y: shown.map((row) => row.metrics[metric]),
    customdata: shown.map((row) => row.id),
    text: shown.map((row) => escape(row.params[parameter.name])),
    marker: {
      size: shown.map((row) => (selected.has(row.id) ? 12 : shown.length > 300 ? 5 : 7)),
      color: shown.map((row) => selected.get(row.id) ?? palette.get(group(row))),
      opacity: shown.length > 300 ? 0.55 : 0.85,
      line: { width: 0.5, color: css("--card") },
    },
    hovertemplate: "trial %{customdata}<br>%{text}<br>%{y:.5g}<extra></extra>",
  };
  const named = ticks ? { tickvals: ticks, ticktext: texts.map((text) => escape(short(text, 16))) } : {};
  draw(element, [trace], {
    margin: { l: 52, r: 10, t: 8, b: 44 },
    xaxis: axis({ title: title(parameter.name), ...named, ...(word && { range: [-0.6, texts.length - 0.4], showgrid: false }) }),
    yaxis: axis({ title: title(metric) }),
  });
  trialHover(element, onClick);
}

export function drawImportance(element, importance) {
  const sorted = Object.entries(importance).filter(([, value]) => value !== null).sort((a, b) => a[1] - b[1]);
  const trace = {
    type: "bar",
    orientation: "h",
    x: sorted.map(([, value]) => value),
    y: sorted.map(([name]) => escape(title(name))),
    text: sorted.map(([, value]) => number(value, 2)),
    textposition: "outside",
    cliponaxis: false,
    marker: { color: PALETTE[0] },
    hovertemplate: "%{y}: %{x:.3f}<extra></extra>",
  };
  draw(element, [trace], { margin: { l: 30, r: 44, t: 6, b: 34 }, xaxis: axis({ rangemode: "tozero" }), yaxis: axis({ ticks: "", showgrid: false }) });
}

export function drawRun(element, curves, heading, log) {
  const traces = Object.entries(curves).map(([name, curve], index) => ({
    type: "scatter",
    mode: curve.steps.length < 60 ? "lines+markers" : "lines",
    name: escape(title(name.replace("learning_rate/", "components."))),
    x: curve.steps,
    y: curve.values,
    line: { color: PALETTE[index % PALETTE.length], width: 1.8 },
    marker: { size: 5 },
    hovertemplate: "step %{x}<br>%{y:.5g}<extra>%{fullData.name}</extra>",
  }));
  draw(element, traces, {
    xaxis: axis({ title: "step", exponentformat: "none" }),
    yaxis: axis({ title: heading, type: log ? "log" : "linear" }),
    showlegend: traces.length > 1,
  });
}
