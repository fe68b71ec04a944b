// Versions side by side with the same seeds, and the receipt of an erasure.

import { element, root, sendJson, toast, words } from "./app.js";
import { tiles, warnings } from "./viewer.js";

const page = document.getElementById("concept");
const id = page.dataset.concept;
const IMAGE_COUNT = 4;

async function answerOf(version, body) {
  try {
    return await sendJson(`${root}/v1/generate`, { ...body, version });
  } catch (error) {
    if (error.problem?.code !== "base_changed") throw error;
    return null;
  }
}

function row(title, answer) {
  const heading = element("h3", { textContent: title });
  if (answer === null) return [heading, element("p", { className: "quiet", textContent: "trained on another base" })];
  return [heading, ...warnings(answer), tiles(answer, page.dataset.name)];
}

page.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.id !== "compare") return;
  event.preventDefault();
  const target = document.getElementById("compared");
  const body = { concept_id: id, prompt: form.prompt.value, seed: Number(form.seed.value || 7), count: IMAGE_COUNT };
  const versions = target.dataset.versions.split(",").map(Number);
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const rows = row("untouched student", await sendJson(`${root}/v1/generate`, { ...body, untouched: true }));
    for (const version of versions) rows.push(...row(`v${version}`, await answerOf(version, body)));
    target.replaceChildren(...rows);
  } catch (error) {
    toast(words(error), true);
  } finally {
    button.disabled = false;
  }
});

function fact(name, value) {
  return [element("dt", { textContent: name }), element("dd", { textContent: value })];
}

function showReceipt(receipt) {
  const list = element("dl", { className: "pairs" });
  list.append(
    ...fact("concept", `${receipt.name} (${receipt.concept_id})`), ...fact("at", new Date(receipt.erased_at).toLocaleString()),
    ...fact("photos", receipt.references.length), ...fact("versions", receipt.bundles.length), ...fact("exports", receipt.exports.length),
    ...fact("stored images", receipt.images.length), ...fact("jobs", receipt.jobs.length), ...fact("files deleted", receipt.objects),
    ...fact("shared, kept for another concept", receipt.shared.length), ...fact("engines not reached", receipt.engines_unreachable),
  );
  const save = element("a", { textContent: "Save the receipt", download: `erasure-${receipt.concept_id}.json`, href: `data:application/json,${encodeURIComponent(JSON.stringify(receipt, null, 2))}` });
  document.getElementById("receipt-body").append(list, element("p", {}, save));
  page.remove(); // it is live, and the concept is gone
  const panel = document.getElementById("receipt");
  panel.hidden = false;
  panel.focus();
}

page.addEventListener("opad:answered", ({ target, detail }) => {
  if (target.id === "erase-button") showReceipt(detail);
  if (target.id === "again") location.assign(`${root}/dashboard/jobs/${detail.job.id}`);
});

// The list of versions is live. A change of a state changes the rest of the page too.

const states = () => document.getElementById("versions-live")?.dataset.states;
let shownStates = states();
document.addEventListener("htmx:afterSettle", () => {
  if (states() === shownStates) return;
  shownStates = states();
  htmx.trigger(document.body, "opad:ended");
});
