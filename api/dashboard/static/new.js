// Check photos before they are sent: a problem that the service would refuse appears beside the photo.

import { call, element, root, takeFiles, words } from "./app.js";
import { clearError, clearErrors, showErrors } from "./field_errors.js";

const form = document.getElementById("new");
const list = document.getElementById("files");
const picker = document.getElementById("images");
const message = document.getElementById("message");
const limits = Object.fromEntries(["minImages", "maxImages", "maxBytes", "minSide", "maxPixels"].map((name) => [name, Number(form.dataset[name])]));
const nouns = document.getElementById("nouns"); // absent where the base knows every noun
const TYPES = ["image/jpeg", "image/png", "image/webp"];
let references = []; // { file, item, verdict, problem, print }
const key = crypto.randomUUID();
let tries = 0;

if (nouns) {
  const known = JSON.parse(nouns.dataset.nouns);
  accessibleAutocomplete({
    element: nouns, id: "class_noun", name: "class_noun", minLength: 0, showAllValues: true, confirmOnBlur: false, displayMenu: "inline", placeholder: "mug",
    source(typed, show) {
      const text = typed.trim().toLowerCase();
      show(known.filter((noun) => noun.includes(text)).sort((one, other) => other.startsWith(text) - one.startsWith(text)));
    },
    onConfirm: (noun) => { if (noun) clearError(form.class_noun); },
    tNoResults: () => `${nouns.dataset.base} knows no such noun`,
  });
}

function fingerprint(digest) {
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function saysGenerated(content) { // by IPTC's digital source type, in XMP or Content Credentials
  return /digitalsourcetype\/(composite[wW]ith)?[tT]rainedAlgorithmicMedia/.test(new TextDecoder("latin1").decode(content));
}

function isHeic(file) {
  return /^image\/hei[cf]$/.test(file.type) || /\.hei[cf]$/i.test(file.name); // browsers without HEIC give it no type
}

async function inspect(file, canvas) {
  const heic = isHeic(file);
  if (!TYPES.includes(file.type) && !(heic && "heic" in form.dataset)) return `is ${heic ? "HEIC" : file.type || "of no known type"}; use ${form.dataset.formats}`;
  if (file.size > limits.maxBytes) return `is larger than ${Math.round(limits.maxBytes / 1048576)} MB; scale it down`;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    if (heic) return {}; // most browsers cannot show it; the service decodes it
    return "cannot be read; save it again";
  }
  const { width, height } = bitmap;
  const side = Math.min(width, height);
  canvas.width = canvas.height = 256;
  canvas.getContext("2d").drawImage(bitmap, (width - side) / 2, (height - side) / 2, side, side, 0, 0, 256, 256);
  bitmap.close();
  if (side < limits.minSide) return `is ${width} × ${height}; at least ${limits.minSide} × ${limits.minSide} is needed`;
  if (width * height > limits.maxPixels) return `is ${width} × ${height}; scale it down to ${limits.maxPixels / 1e6} million pixels`;
  return { width, height };
}

async function add(files) {
  for (const file of files) {
    const canvas = element("canvas", { width: 256, height: 256 });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", file.name);
    const verdict = element("span", { className: "verdict", textContent: "checking …" });
    const remove = element("button", { type: "button", className: "small", textContent: "Remove" });
    remove.setAttribute("aria-label", `Remove ${file.name}`);
    const item = element("li", {}, canvas, element("span", { textContent: file.name }), verdict, remove);
    const reference = { file, item, verdict, problem: null };
    remove.onclick = () => { references = references.filter((other) => other !== reference); item.remove(); showProblems(); };
    references.push(reference);
    list.append(item);
    const [seen, content] = await Promise.all([inspect(file, canvas), file.arrayBuffer()]);
    reference.print = fingerprint(await crypto.subtle.digest("SHA-256", content));
    if (typeof seen === "string") reference.problem = seen;
    else reference.fine = (seen.width ? `${seen.width} × ${seen.height}` : "HEIC, checked after sending") + (saysGenerated(content) ? "; says that it is a generated image" : "");
    showProblems();
  }
}

function showProblems() {
  const seen = new Set();
  for (const reference of references) {
    if (!reference.print) continue;
    const problem = reference.problem ?? (seen.has(reference.print) ? "is a duplicate" : null);
    seen.add(reference.print);
    reference.wrong = problem !== null;
    reference.item.classList.toggle("wrong", reference.wrong);
    reference.verdict.textContent = problem ?? `✓ ${reference.fine}`;
  }
  document.getElementById("count").textContent = countWords();
  clearError(picker);
}

function countWords() {
  const wrong = references.filter((reference) => reference.wrong).length;
  if (references.length === 0) return "No photo yet.";
  if (wrong > 0) return `${wrong} of ${references.length} cannot be used; remove ${wrong === 1 ? "it" : "them"}.`;
  if (references.length < limits.minImages) return `${references.length} of at least ${limits.minImages} photos.`;
  if (references.length > limits.maxImages) return `${references.length} photos are more than ${limits.maxImages}; remove some.`;
  return references.length === 1 ? "1 photo, good." : `${references.length} photos, all good.`;
}

takeFiles(picker, document.getElementById("drop"), add);

function complain(sentence) {
  message.textContent = sentence;
  message.hidden = false;
  message.scrollIntoView({ block: "center" });
}

function missing() {
  const errors = [];
  if (references.some((reference) => reference.wrong) || references.length < limits.minImages || references.length > limits.maxImages) errors.push({ input: picker, sentence: references.length > 0 ? countWords() : `Add at least ${limits.minImages === 1 ? "1 photo" : `${limits.minImages} photos`}.` });
  if (!form.elements.name.value.trim()) errors.push({ input: form.elements.name, sentence: "Enter a name." });
  const noun = form.class_noun.value.trim().toLowerCase().replace(/\s+/g, " ");
  if (!noun) errors.push({ input: form.class_noun, sentence: "Enter a class noun." });
  else if (nouns && !JSON.parse(nouns.dataset.nouns).includes(noun)) errors.push({ input: form.class_noun, sentence: `${nouns.dataset.base} does not know “${noun}”. Choose a noun from the list.` });
  if (form.consent && !form.consent.checked) errors.push({ input: form.consent, sentence: "Confirm that you may use these photos." });
  return errors;
}

/** Return the input that a field of the service's answer means: `images[2]`, `overrides.iterations`, `name`. */
function inputOf(field) {
  return field.startsWith("images") ? picker : form.elements[field.replace("overrides.", "")];
}

function showRefusal(error) {
  const found = (error.problem?.errors ?? []).map(({ field, message: sentence }) => ({ field, sentence, input: inputOf(field) }));
  for (const { field, sentence } of found) {
    const reference = references[/^images\[(\d+)\]$/.exec(field)?.[1]];
    if (reference) reference.problem = sentence;
  }
  showProblems();
  if (found.length > 0 && found.every(({ input }) => input?.closest?.(".field"))) showErrors(form, found);
  else complain(words(error));
}

function showLengths() {
  const isOpad = form.elements.method.value === "opad";
  const chosen = form.querySelector(isOpad ? "[name=preset]:checked" : "[name=method]:checked");
  document.getElementById("presets").hidden = !isOpad;
  for (const input of [...form.querySelectorAll("[name=preset]"), form.collaborative_iterations, form.keep_teacher]) input.disabled = !isOpad;
  for (const name of ["iterations", "collaborative_iterations"]) form[name].placeholder = chosen.dataset[name] ?? (isOpad ? "from the preset" : "from the method");
}
form.addEventListener("change", (event) => { if (["method", "preset"].includes(event.target.name)) showLengths(); });
showLengths();

form.addEventListener("input", (event) => clearError(event.target));
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  message.hidden = true;
  clearErrors(form);
  const lacking = missing();
  if (lacking.length > 0) return showErrors(form, lacking);
  const body = new FormData();
  for (const reference of references) body.append("images", reference.file, reference.file.name);
  body.append("name", form.elements.name.value);
  body.append("class_noun", form.class_noun.value);
  body.append("method", form.elements.method.value);
  if (!form.collaborative_iterations.disabled) body.append("preset", form.preset.value);
  if (form.consent) body.append("consent", "true");
  if (form.seed.value) body.append("seed", form.seed.value);
  if (form.keep_teacher.checked && !form.keep_teacher.disabled) body.append("keep_teacher", "true");
  const overrides = {};
  for (const name of ["iterations", "collaborative_iterations"]) if (form[name].value && !form[name].disabled) overrides[name] = Number(form[name].value);
  if (Object.keys(overrides).length > 0) body.append("overrides", JSON.stringify(overrides));
  const button = document.getElementById("send");
  button.disabled = true;
  button.textContent = "Sending …";
  try {
    const accepted = await call(`${root}/v1/concepts`, { method: "POST", body, headers: { "Idempotency-Key": `${key}-${tries}` } });
    location.assign(`${root}/dashboard/jobs/${accepted.job.id}`);
  } catch (error) {
    if (error.problem) tries += 1; // a refused form is a new request after correction; one without an answer is the same request
    showRefusal(error);
    button.disabled = false;
    button.textContent = "Learn it";
  }
});
