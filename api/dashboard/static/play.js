// Generate images over seeds and prompts, with timing and optionally the untouched student. The URL stores the form.

import { element, root, sendJson, toast, words } from "./app.js";
import { clearError, clearErrors, showErrors } from "./field_errors.js";
import { tiles, warnings } from "./viewer.js";

const form = document.getElementById("play");
const results = document.getElementById("results");
const message = document.getElementById("message");
const STEPS = ["queue", "bundle", "text", "unet_decode", "encode"];

function fillVersions() {
  const versions = (form.concept.selectedOptions[0]?.dataset.versions ?? "").split(",").filter(Boolean).reverse();
  form.version.replaceChildren(new Option("newest", ""), ...versions.map((version) => new Option(`v${version}`, version)));
}

function readAddress() {
  const query = new URLSearchParams(location.search);
  if (query.get("concept")) form.concept.value = query.get("concept");
  if (!form.concept.value) form.concept.selectedIndex = 0;
  fillVersions();
  for (const name of ["version", "seed", "count", "decoder"]) if (query.get(name) && form[name]) form[name].value = query.get(name);
  if (form.seed.value) form.seed.dataset.own = "1"; // a link to an image's settings includes its seed
  if (query.getAll("prompt").length > 0) form.prompt.value = query.getAll("prompt").join("\n");
  for (const name of ["compare", "lock"]) form[name].checked = query.get(name) === "1";
}

function keepAddress(prompts) {
  const query = new URLSearchParams({ concept: form.concept.value, count: form.count.value });
  for (const prompt of prompts) query.append("prompt", prompt);
  for (const name of ["version", "seed", "decoder"]) if (form[name]?.value) query.set(name, form[name].value);
  for (const name of ["compare", "lock"]) if (form[name].checked) query.set(name, "1");
  history.replaceState(null, "", `?${query}`);
}

const decoder = () => (form.decoder ? { decoder: form.decoder.value } : {}); // the base may have only one

function request(prompt, seed) {
  const body = { concept_id: form.concept.value, prompt, count: Number(form.count.value), seed, ...decoder() };
  if (form.version.value) body.version = Number(form.version.value);
  if (form.store.checked) body.store = true;
  return body;
}

async function timed(body) {
  const began = performance.now();
  const answer = await sendJson(`${root}/v1/generate`, body);
  return { ...answer, milliseconds: performance.now() - began };
}

function details(answer) {
  const parts = STEPS.map((name) => `${name.replace("_", " + ")} ${Math.round(answer.timing[`${name}_ms`] ?? 0)}`);
  const split = element("div", { className: "split" }, element("b", { textContent: `${Math.round(answer.milliseconds)} ms` }), ...parts.map((part) => element("span", { textContent: part })),
    element("span", { textContent: `keys and values: ${answer.cache.kv}` }), element("span", { textContent: `bundle: ${answer.cache.bundle}` }));
  return element("details", {}, element("summary", { textContent: "Details" }), split);
}

function sheet(prompt, own, untouched) {
  const name = form.concept.selectedOptions[0].textContent;
  const panel = element("section", { className: "panel" }, element("h2", { textContent: prompt }));
  if (untouched) panel.append(element("h3", { textContent: `v${own.version}` }));
  panel.append(...warnings(own), tiles(own, name), details(own));
  if (untouched) panel.append(element("h3", { textContent: "untouched student" }), ...warnings(untouched, { but: own.warnings }), tiles(untouched, name), details(untouched));
  return panel;
}

const promptsOf = () => form.prompt.value.split("\n").map((line) => line.trim()).filter(Boolean);

function complain(error) {
  const errors = (error.problem?.errors ?? []).map(({ field, message: sentence }) => ({ input: form.elements[field], sentence }));
  if (errors.length > 0 && errors.every(({ input }) => input?.closest(".field"))) return showErrors(form, errors);
  message.textContent = words(error);
  message.hidden = false;
  message.scrollIntoView({ block: "center" });
}

async function drawAll(event) {
  event.preventDefault();
  const button = form.querySelector("button.primary");
  const prompts = promptsOf();
  button.disabled = true;
  button.textContent = "Generating …";
  message.hidden = true;
  clearErrors(form);
  const keepsSeed = form.seed.value !== "" && (form.lock.checked || form.seed.dataset.own);
  if (!keepsSeed) form.seed.value = Math.floor(Math.random() * 2 ** 32);
  const seed = Number(form.seed.value);
  try {
    const sheets = [];
    for (const prompt of prompts) {
      const own = await timed(request(prompt, seed));
      const untouched = form.compare.checked
        ? await timed({ concept_id: form.concept.value, prompt, seed, count: Number(form.count.value), untouched: true, ...decoder() }) : null;
      sheets.push(sheet(prompt, own, untouched));
    }
    results.prepend(...sheets);
    keepAddress(prompts);
  } catch (error) {
    complain(error);
  } finally {
    button.disabled = false;
    button.textContent = "Generate";
    delete form.seed.dataset.own;
  }
}

function asCurl() {
  const seed = form.seed.value ? Number(form.seed.value) : undefined;
  const body = JSON.stringify(request(promptsOf()[0] ?? "", seed)).replaceAll("'", "'\\''");
  const direct = /^(localhost|127\..*|\[::1\])$/.test(location.hostname) ? " --noproxy '*'" : "";  // no proxy sees the key
  return `curl${direct} -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \\\n  ${location.origin}${root}/v1/generate -d '${body}'`;
}

if (form) {
  form.addEventListener("submit", drawAll);
  form.addEventListener("input", (event) => clearError(event.target));
  form.concept.addEventListener("change", fillVersions);
  form.seed.addEventListener("input", () => { form.seed.dataset.own = "1"; });
  document.getElementById("curl").addEventListener("click", async () => {
    await navigator.clipboard.writeText(asCurl());
    toast("Copied. Set $KEY to your key.");
  });
  readAddress();
}
