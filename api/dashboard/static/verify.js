// Send an image to POST /v1/verify and show what its marks say.

import { call, element, root, toast, words } from "./app.js";

const picker = document.getElementById("image");
const drop = document.getElementById("drop");
const result = document.getElementById("result");
const shown = document.getElementById("shown");
shown.onerror = () => { shown.hidden = true; }; // most browsers cannot show HEIC
const summary = document.getElementById("summary");
const COLORS = { valid: "yellow", altered: "red", invalid: "red", none: "yellow" };

async function verify(file) {
  const form = new FormData();
  form.append("image", file);
  try {
    show(file, await call(`${root}/v1/verify`, { method: "POST", body: form }));
  } catch (error) {
    result.hidden = true;
    toast(words(error), true);
  }
}

function show(file, found) {
  const reader = new FileReader(); // the content security policy allows data:, not blob:
  reader.onload = () => { shown.src = reader.result; };
  reader.readAsDataURL(file);
  shown.hidden = false;
  summary.textContent = found.summary;
  summary.dataset.color = found.ours ? "green" : COLORS[found.credentials];
  const rows = { file: file.name, "Content Credentials": found.credentials, signer: found.signer, ...found.origin };
  document.getElementById("found").replaceChildren(...Object.entries(rows).filter(([, value]) => value !== null).flatMap(([name, value]) => [
    element("dt", { textContent: name }), element("dd", { className: "wrap", textContent: value }),
  ]));
  result.hidden = false;
}

picker.addEventListener("change", () => { if (picker.files.length) verify(picker.files[0]); picker.value = ""; });
for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => { event.preventDefault(); if (event.dataTransfer.files.length) verify(event.dataTransfer.files[0]); });
