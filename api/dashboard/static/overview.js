// Charts of the last day's generate requests by hour.

import { call, root } from "./app.js";

const HEIGHT = 170;
const REFRESH_MS = 60_000;
const charts = new Map();

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const hour = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
const lastDay = () => [Date.now() / 1000 - 86400, Date.now() / 1000];

function make(target) {
  const axis = { stroke: () => color("--quiet"), grid: { stroke: () => color("--line"), width: 1 }, ticks: { show: false }, font: "12px Inter, system-ui, sans-serif" };
  return new uPlot({
    width: target.clientWidth, height: HEIGHT, legend: { show: false }, cursor: { y: false },
    scales: { x: { range: lastDay }, y: { range: (_, __, most) => [0, (most || 1) * 1.15] } },
    // a label such as "12:00 AM" is 60 pixels wide
    axes: [{ ...axis, size: 28, space: 84, incrs: [1, 2, 3, 4, 6, 8, 12].map((hours) => hours * 3600), values: (_, ticks) => ticks.map(hour) }, { ...axis, size: 52 }],
    series: [{}, { stroke: () => color("--c1"), fill: () => color("--accent-soft"), paths: uPlot.paths.bars({ size: [0.7, 30] }), points: { show: false } }],
  }, [[], []], target);
}

async function refresh() {
  const { hours } = (await call(`${root}/v1/overview`)).generate;
  document.getElementById("hours").hidden = hours.length === 0;
  if (hours.length === 0) return;
  for (const figure of document.querySelectorAll("[data-hours]")) {
    if (!charts.has(figure)) charts.set(figure, make(figure.querySelector(".plot")));
    charts.get(figure).setData([hours.map(({ at }) => Date.parse(at) / 1000), hours.map((one) => one[figure.dataset.hours])]);
  }
}

refresh();
setInterval(() => { if (!document.hidden) refresh(); }, REFRESH_MS);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.redraw()));
new ResizeObserver(() => charts.forEach((chart) => chart.setSize({ width: chart.root.parentElement.clientWidth, height: HEIGHT }))).observe(document.getElementById("main"));
