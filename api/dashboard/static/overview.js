// Charts of the last day's generate requests by hour.

import { call } from "/static/app.js";

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const charts = [];

function draw(figure, hours) {
  const target = figure.querySelector(".plot");
  const axis = { stroke: () => color("--quiet"), grid: { stroke: () => color("--line"), width: 1 }, ticks: { show: false }, font: "12px Inter, system-ui, sans-serif" };
  const x = hours.map((hour) => Date.parse(hour.at) / 1000);
  const y = hours.map((hour) => hour[figure.dataset.hours]);
  const now = Date.now() / 1000;
  figure.hidden = false;
  charts.push(new uPlot({
    width: target.clientWidth, height: 170, legend: { show: false }, cursor: { y: false },
    scales: { x: { range: [now - 86400, now] }, y: { range: (_, __, most) => [0, (most || 1) * 1.15] } },
    axes: [{ ...axis, size: 28, values: (_, ticks) => ticks.map((tick) => new Date(tick * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })) }, { ...axis, size: 52 }],
    series: [{}, { stroke: () => color("--c1"), fill: () => color("--accent-soft"), paths: uPlot.paths.bars({ size: [0.7, 30] }), points: { show: false } }],
  }, [x, y], target));
}

const { generate } = await call("/v1/overview");
if (generate.hours.length > 0) for (const figure of document.querySelectorAll("[data-hours]")) draw(figure, generate.hours);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.redraw()));
new ResizeObserver(() => charts.forEach((chart) => chart.setSize({ width: chart.root.parentElement.clientWidth, height: 170 }))).observe(document.getElementById("main"));
