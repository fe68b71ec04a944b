// The form for new keys. A new secret is shown once, only in this page.

import { call, root, sendJson, toast, words } from "./app.js";

function reveal(answer) {
  document.getElementById("secret-text").textContent = answer.secret;
  const panel = document.getElementById("secret");
  panel.hidden = false;
  panel.scrollIntoView({ block: "nearest" });
}

document.addEventListener("opad:answered", (event) => { if ("makesSecret" in event.target.dataset) reveal(event.detail); });

document.getElementById("new-key").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const body = { name: form.elements.name.value, scopes: [...form.querySelectorAll("[name=scopes]:checked")].map((box) => box.value) };
  if (form.owner?.value) body.owner = form.owner.value;
  const limits = {};
  for (const name of ["images_per_minute", "max_concepts"]) if (form[name].value) limits[name] = Number(form[name].value);
  if (Object.keys(limits).length > 0) body.limits = limits;
  try {
    reveal(await sendJson(`${root}/v1/keys`, body));
    form.reset();
    htmx.trigger(document.body, "opad:changed");
  } catch (error) {
    toast(words(error), true);
  }
});

document.getElementById("check")?.addEventListener("click", async () => {
  const verdict = document.getElementById("verdict");
  try {
    const answer = await call(`${root}/v1/audit/verify`);
    verdict.textContent = answer.message;
    verdict.className = answer.intact ? "inset notice calm" : "inset notice";
    verdict.hidden = false;
  } catch (error) {
    toast(words(error), true);
  }
});
