// A live job: progress, loss curves, previews and log, through the public API.

import { call, element, localize, root } from "./app.js";

const page = document.getElementById("job");
const id = page.dataset.job;

const GROUPS = {
  alignment: (name) => ["id", "mse", "swd"].includes(name),
  adversarial: (name) => name.startsWith("adv_"),
  discriminator: (name) => name.startsWith("d_"),
  teacher: (name) => ["rec", "prior"].includes(name),
};
const NAMES = {
  rec: "reconstruction", prior: "class images", id: "identity", mse: "squared error", swd: "sliced Wasserstein", dino: "DINO", dinov2: "DINOv2", clip: "CLIP",
};
const HEIGHT = 190;
const SMOOTHING = 0.9; // per iteration, as in loss.png
const APART = 10; // largest over smallest running mean from which a chart has a logarithmic scale
const points = new Map(); // step -> losses; an attempt that resumes repeats some steps
const plots = new Map();

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function shownLoss(value) {
  return value === undefined || value === null ? "–" : value.toPrecision(3);
}

function runningMean(steps, values) {
  let mean = null;
  let at = 0;
  return values.map((value, i) => {
    if (value === null) return null;
    const kept = SMOOTHING ** (steps[i] - at); // not every iteration is reported
    mean = mean === null ? value : kept * mean + (1 - kept) * value;
    at = steps[i];
    return mean;
  });
}

function isLogarithmic(columns, means) {
  const newest = means.map((mean) => mean.findLast((value) => value !== null));
  return columns.flat().every((value) => value === null || value > 0) && Math.max(...newest) > APART * Math.min(...newest);
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
    const means = columns.map((column) => runningMean(steps, column));
    const logarithmic = isLogarithmic(columns, means);
    figure.querySelector(".keys").replaceChildren(
      ...own.map((name, i) => {
        const label = NAMES[name.replace(/^(adv|d)_/, "")] ?? name;
        return element("span", { title: name }, element("i", { className: `k${(i % 4) + 1}` }), `${label} ${shownLoss(columns[i].findLast((value) => value !== null))}`);
      }),
      logarithmic ? "logarithmic scale" : "",
    );
    plot(group, figure.querySelector(".plot"), own, [steps, ...columns, ...means], logarithmic);
  }
}

function plot(group, target, names, data, logarithmic) {
  const kind = `${names} ${logarithmic}`;
  const before = plots.get(group);
  if (before?.kind === kind) return before.chart.setData(data);
  before?.chart.destroy();
  const axis = {
    stroke: () => color("--quiet"),
    grid: { stroke: () => color("--line"), width: 1 },
    ticks: { show: false },
    font: "12px Inter, system-ui, sans-serif",
    labelFont: "12px Inter, system-ui, sans-serif",
  };
  const decades = (_, splits) => splits.map((value) => (Number.isInteger(Math.log10(value)) ? value : null));
  const grid = logarithmic ? { ...axis.grid, filter: decades } : axis.grid;
  const line = (i, look) => ({ stroke: () => color(`--c${(i % 4) + 1}`), spanGaps: true, ...look });
  const options = {
    width: target.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, points: { size: 5 } },
    scales: { x: { time: false }, y: { distr: logarithmic ? 3 : 1 } },
    axes: [{ ...axis, size: 28, label: "iteration", labelSize: 16 }, { ...axis, grid, size: 56 }],
    series: [
      {},
      ...names.map((_, i) => line(i, { width: 1, alpha: 0.3, points: { show: data[0].length < 3 } })),
      ...names.map((_, i) => line(i, { width: 2, points: { show: false } })),
    ],
  };
  plots.set(group, { kind, chart: new uPlot(options, data, target) });
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
  frames = (await call(`${root}/v1/jobs/${id}/history`)).previews;
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
  for (const { step, losses } of progress.iterations ?? [progress]) { // older trainers sent the newest one alone
    if (losses && Object.keys(losses).length > 0) points.set(step, losses);
  }
  drawSoon();
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
  source = new EventSource(`${root}/v1/jobs/${id}/events`);
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
