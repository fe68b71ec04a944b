// The form for new webhooks. The secret is shown once.

import { root, sendJson, toast, words } from "./app.js";

document.getElementById("new-hook").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const events = [...form.querySelectorAll("[name=events]:checked")].map((box) => box.value);
  try {
    const made = await sendJson(`${root}/v1/webhooks`, { url: form.url.value, events });
    document.getElementById("secret-text").textContent = made.secret;
    document.getElementById("secret").hidden = false;
    form.reset();
    htmx.trigger(document.body, "opad:changed");
  } catch (error) {
    toast(words(error), true);
  }
});
