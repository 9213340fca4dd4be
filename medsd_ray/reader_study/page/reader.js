"use strict";
// One reader's session. All text from outside goes through textContent; the server keeps each answer before the next image shows.
const by = (id) => document.getElementById(id);
const QUESTIONS = ["realism", "abnormal", "judged"];
const KEYS = { a: ["abnormal", true], n: ["abnormal", false], r: ["judged", "real"], g: ["judged", "generated"] };
for (const n of [1, 2, 3, 4, 5]) KEYS[n] = ["realism", n];

let session = null; // {reader, width, height, images: [{image, rating}]}
let at = 0; // the place of the image that is shown; images.length at the end
let rating = {}; // of that image, as far as it is given
let shownAt = 0;
let saving = false;
let drag = null;

async function send(method, path, body) {
  const response = await fetch(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(response.status === 422 ? "this name cannot be used" : `the server answered ${response.status}`);
  return response.status === 204 ? null : response.json();
}

async function start(name) {
  by("entry-problem").textContent = "";
  try {
    session = await send("POST", "api/session", { reader: name });
  } catch (error) {
    by("entry-problem").textContent = `Not started: ${error.message}.`;
    return;
  }
  localStorage.setItem("reader", session.reader);
  by("frame").style.aspectRatio = `${session.width} / ${session.height}`; // a place to click on, image loaded or not
  const open = session.images.findIndex((one) => one.rating === null);
  show(open < 0 ? session.images.length : open);
}

function show(place) {
  at = place;
  const ended = at >= session.images.length;
  by("entry").hidden = true;
  by("rating").hidden = ended;
  by("end").hidden = !ended;
  if (ended) return;
  const { image, rating: kept } = session.images[at];
  rating = kept ? { ...kept } : { region: null, seconds: 0 };
  shownAt = performance.now();
  by("image").classList.add("loading"); // else a browser shows the last image until this one is there
  by("image").src = `images/${image}.png`;
  if (at + 1 < session.images.length) new Image().src = `images/${session.images[at + 1].image}.png`;
  by("reader").textContent = session.reader;
  by("place").textContent = `${at + 1} of ${session.images.length}`;
  by("progress").value = session.images.filter((one) => one.rating !== null).length / session.images.length;
  by("problem").textContent = "";
  for (const question of QUESTIONS) by(question).classList.remove("asked");
  draw();
}

by("image").addEventListener("load", () => {
  by("image").classList.remove("loading");
  shownAt = performance.now();
});

function draw() {
  for (const question of QUESTIONS)
    for (const button of by(question).querySelectorAll("button"))
      button.setAttribute("aria-pressed", String(JSON.parse(asJson(button.dataset.value)) === rating[question]));
  by("back").disabled = at === 0;
  const mark = by("mark");
  mark.hidden = !rating.region;
  if (!rating.region) return;
  const [x0, y0, x1, y1] = rating.region;
  mark.classList.toggle("point", x0 === x1 && y0 === y1);
  Object.assign(mark.style, { left: `${100 * x0}%`, top: `${100 * y0}%`, width: `${100 * (x1 - x0)}%`, height: `${100 * (y1 - y0)}%` });
}

const asJson = (value) => (/^(\d|true|false)$/.test(value) ? value : JSON.stringify(value));

function answer(question, value) {
  rating[question] = value;
  if (question === "abnormal" && !value) rating.region = null;
  by(question).classList.remove("asked");
  draw();
}

async function next() {
  const open = QUESTIONS.filter((question) => rating[question] === undefined);
  for (const question of open) by(question).classList.add("asked");
  if (open.length) {
    by("problem").textContent = "Answer all three questions first.";
    return;
  }
  if (saving) return;
  saving = true;
  try {
    const one = session.images[at];
    const given = { ...rating, seconds: rating.seconds + (performance.now() - shownAt) / 1000 };
    await send("PUT", "api/answer", { reader: session.reader, image: one.image, rating: given });
    one.rating = given;
    show(at + 1);
  } catch (error) {
    by("problem").textContent = `Not saved: ${error.message}. Press Enter to try again.`;
  } finally {
    saving = false;
  }
}

function back() {
  if (session && at > 0 && !saving) show(at - 1);
}

// --- where the abnormality is

function point(event) {
  const box = by("frame").getBoundingClientRect();
  const inside = (value) => Math.min(1, Math.max(0, value));
  return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
}

function region([ax, ay], [bx, by_]) {
  const box = by("frame").getBoundingClientRect();
  if (Math.hypot((ax - bx) * box.width, (ay - by_) * box.height) < 6) return [ax, ay, ax, ay]; // a click
  return [Math.min(ax, bx), Math.min(ay, by_), Math.max(ax, bx), Math.max(ay, by_)];
}

by("frame").addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  by("frame").setPointerCapture(event.pointerId);
  drag = point(event);
});
for (const kind of ["pointermove", "pointerup"])
  by("frame").addEventListener(kind, (event) => {
    if (drag === null) return;
    rating.region = region(drag, point(event));
    if (kind === "pointerup") drag = null;
    answer("abnormal", true);
  });
by("frame").addEventListener("pointercancel", () => (drag = null));

// --- keys and buttons

document.addEventListener("keydown", (event) => {
  if (!session || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (key === "backspace") back();
  else if (at >= session.images.length) return;
  else if (key === "enter" && !event.repeat) next();
  else if (key === "escape") (rating.region = null), draw();
  else if (key in KEYS) answer(...KEYS[key]);
  else return;
  event.preventDefault(); // Enter on a focused button is `next` too
});
for (const question of QUESTIONS)
  for (const button of by(question).querySelectorAll("button"))
    button.addEventListener("click", () => answer(question, JSON.parse(asJson(button.dataset.value))));
by("next").addEventListener("click", next);
by("back").addEventListener("click", back);
by("again").addEventListener("click", back);
by("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  start(by("name").value);
});
by("name").value = localStorage.getItem("reader") ?? "";
by("name").focus();
