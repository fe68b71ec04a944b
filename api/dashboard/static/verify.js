// Send an image to POST /v1/verify and show what its marks say.

import { call, element, root, takeFiles, toast, words } from "./app.js";

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

takeFiles(document.getElementById("image"), document.getElementById("drop"), ([file]) => { if (file) verify(file); });
