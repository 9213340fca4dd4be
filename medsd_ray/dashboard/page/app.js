// Which page is shown, and its clock.

import { h, link, setText } from "./dom.js";
import { forget, Missing } from "./api.js";
import { Home } from "./home.js";
import { Run } from "./run.js";
import { Study } from "./study.js";

const EVERY_MS = 2500;
const pages = { study: Study, run: Run };
const [main, crumbs, live, trouble] = ["main", "crumbs", "live", "trouble"].map((id) => document.getElementById(id));
let page = null;
let timer = 0;
let heard = 0;

function open() {
  clearTimeout(timer);
  page?.close();
  forget();
  const [, kind, at] = location.hash.match(/^#\/(study|run)\/(.*)$/) ?? [];
  main.replaceChildren();
  heard = 0;
  page = new (pages[kind] ?? Home)(main, at === undefined ? "" : safely(at));
  window.scrollTo(0, 0);
  tick(page);
}

function safely(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

async function tick(mine) {
  clearTimeout(timer);
  let soon = false;
  try {
    soon = await mine.poll();
    if (mine !== page) return;
    heard = Date.now();
    trouble.hidden = true;
  } catch (error) {
    if (mine !== page) return;
    setText(trouble, error instanceof Missing ? `${error.message}.` : error.message);
    trouble.hidden = false;
    if (!(error instanceof Missing) && !(error instanceof Error && /server|token|S3|folder/.test(error.message))) console.error(error);
  }
  crumbs.replaceChildren(...mine.crumbs().map(({ kind, at, text }) => h("span", {}, kind ? link(kind, at, text) : text)));
  show();
  timer = setTimeout(() => tick(mine), document.hidden ? 4 * EVERY_MS : soon ? 50 : EVERY_MS);
}

function show() {
  const late = Date.now() - heard > 3 * EVERY_MS;
  live.className = late ? "live late" : "live";
  setText(live, heard === 0 ? "connecting…" : late ? `no news for ${Math.round((Date.now() - heard) / 1000)} s` : "live");
}

setInterval(show, 1000);
window.addEventListener("hashchange", open);
document.addEventListener("visibilitychange", () => document.hidden || tick(page));
open();
