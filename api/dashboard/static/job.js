// A live job: progress, loss curves, previews and log, through the public API.

import { call, element, localize } from "/static/app.js";

const page = document.getElementById("job");
const id = page.dataset.job;

const GROUPS = {
  alignment: (name) => ["id", "mse", "swd"].includes(name),
  adversarial: (name) => name.startsWith("adv_"),
  discriminator: (name) => name.startsWith("d_"),
  teacher: (name) => name === "rec",
};
const HEIGHT = 170;
const points = new Map(); // step -> losses; an attempt that resumes repeats some steps
const plots = new Map();

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function shownLoss(value) {
  return value === undefined || value === null ? "–" : value.toPrecision(3);
}

function drawCharts() {
  const steps = [...points.keys()].sort((a, b) => a - b);
  const names = [...new Set(steps.flatMap((step) => Object.keys(points.get(step))))];
  document.getElementById("no-losses").hidden = names.length > 0;
  for (const [group, belongs] of Object.entries(GROUPS)) {
    const own = names.filter(belongs);
    const figure = page.querySelector(`[data-chart="${group}"]`);
    figure.hidden = own.length === 0;
    if (own.length === 0) continue;
    const columns = own.map((name) => steps.map((step) => points.get(step)[name] ?? null));
    const newest = points.get(steps.at(-1));
    figure.querySelector(".keys").replaceChildren(
      ...own.map((name, i) => element("span", {}, element("i", { className: `k${(i % 4) + 1}` }), `${name} ${shownLoss(newest[name])}`)),
    );
    plot(group, figure.querySelector(".plot"), own, [steps, ...columns]);
  }
}

function plot(group, target, names, data) {
  const before = plots.get(group);
  if (before && before.names.join() === names.join()) return before.chart.setData(data);
  before?.chart.destroy();
  const axis = {
    stroke: () => color("--quiet"),
    grid: { stroke: () => color("--line"), width: 1 },
    ticks: { show: false },
    font: "12px Inter, system-ui, sans-serif",
  };
  const options = {
    width: target.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, points: { size: 5 } },
    scales: { x: { time: false } },
    axes: [{ ...axis, size: 28 }, { ...axis, size: 52 }],
    series: [{}, ...names.map((name, i) => ({ label: name, stroke: () => color(`--c${(i % 4) + 1}`), width: 1.75, spanGaps: true, points: { show: data[0].length < 3 } }))],
  };
  plots.set(group, { names, chart: new uPlot(options, data, target) });
}

let waiting = false;
function drawSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; drawCharts(); });
}
new ResizeObserver(() => {
  for (const { chart } of plots.values()) chart.setSize({ width: chart.root.parentElement.clientWidth, height: HEIGHT });
}).observe(page);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const { chart } of plots.values()) chart.redraw(); });

// The film strip of previews

const film = document.getElementById("film");
const scrub = document.getElementById("film-step");
const play = document.getElementById("film-play");
let frames = [];
let timer = null;

function showFrame(index) {
  const frame = frames[index];
  if (!frame) return;
  film.src = frame.url;
  film.hidden = false;
  film.alt = `images of the concept at step ${frame.step}`;
  scrub.value = index;
  document.getElementById("film-at").textContent = `step ${frame.step}`;
}

async function loadFilm() {
  frames = (await call(`/v1/jobs/${id}/history`)).previews;
  const atEnd = scrub.value === scrub.max; // as the server rendered it, or moved by the user
  document.getElementById("no-film").hidden = frames.length > 0;
  document.getElementById("scrubber").hidden = frames.length < 2;
  scrub.max = Math.max(0, frames.length - 1);
  if (timer === null) showFrame(atEnd ? frames.length - 1 : Number(scrub.value));
}

function stopPlaying() {
  clearInterval(timer);
  timer = null;
  play.textContent = "Play";
  play.setAttribute("aria-pressed", "false");
}

play.addEventListener("click", () => {
  if (timer !== null) return stopPlaying();
  play.textContent = "Pause";
  play.setAttribute("aria-pressed", "true");
  let at = Number(scrub.value) >= frames.length - 1 ? 0 : Number(scrub.value);
  showFrame(at);
  timer = setInterval(() => {
    at += 1;
    showFrame(at);
    if (at >= frames.length - 1) stopPlaying();
  }, 450);
});
scrub.addEventListener("input", () => { stopPlaying(); showFrame(Number(scrub.value)); });
loadFilm();

// Events. The server renders what they change, except losses, previews and the log.

function onProgress(progress) {
  refreshSoon();
  if (progress.losses && Object.keys(progress.losses).length > 0) {
    points.set(progress.step, progress.losses);
    drawSoon();
  }
}

let refreshTimer;
function refreshSoon() { // a replay has many of these events
  clearTimeout(refreshTimer);
  refreshTimer = setTimeout(() => htmx.trigger(document.body, "opad:progress"), 150);
}

let seenStates;
let knownStates;
function onState() {
  seenStates += 1;
  if (seenStates > knownStates) htmx.trigger(document.body, "opad:changed"); // the server rendered the page before this change
}

// The log. The stream repeats all kept lines from the first, so they replace those that the server rendered.

const LOG_LINES = 200;
const logList = document.getElementById("log-lines");
const logLines = [];
let logTimer;

function showLog() {
  const atEnd = logList.scrollHeight - logList.scrollTop - logList.clientHeight < 30;
  logList.replaceChildren(...logLines.slice(-LOG_LINES).map(({ at, level, text }) => {
    const line = element("li", {}, element("time", { dateTime: at }), " ", element("b", { textContent: level }), " ", element("span", { textContent: text }));
    line.dataset.level = level;
    return line;
  }));
  logList.hidden = false;
  document.getElementById("no-log").hidden = true;
  localize(logList);
  if (atEnd) logList.scrollTop = logList.scrollHeight;
}

let source;
function watch() {
  seenStates = 0;
  knownStates = page.querySelectorAll(".timeline li").length;
  logLines.length = 0;
  source = new EventSource(`/v1/jobs/${id}/events`);
  source.addEventListener("progress", (event) => onProgress(JSON.parse(event.data)));
  source.addEventListener("state", onState);
  source.addEventListener("preview", loadFilmSoon);
  source.addEventListener("log", (event) => {
    logLines.push(JSON.parse(event.data));
    clearTimeout(logTimer);
    logTimer = setTimeout(showLog, 100);
  });
}
let filmTimer;
function loadFilmSoon() { // a replay has many of these events
  clearTimeout(filmTimer);
  filmTimer = setTimeout(loadFilm, 150);
}
watch();
document.body.addEventListener("opad:changed", () => { if (source.readyState === EventSource.CLOSED) watch(); }); // a retry
addEventListener("pagehide", () => source.close());
addEventListener("pageshow", (event) => { if (event.persisted) watch(); });
