// Shared by all pages: local times, actions through the public API, live regions, copy buttons, the menu.

export const root = document.documentElement.dataset.root;
const csrf = document.querySelector('meta[name="csrf-token"]').content;
const TICK_MS = 4000;

export async function call(path, options = {}) {
  const headers = { Accept: "application/json", "X-CSRF-Token": csrf, ...options.headers };
  const answer = await fetch(path, { ...options, headers, credentials: "same-origin" });
  if (answer.status === 401) location.assign(`${root}/dashboard/sign-in?next=${encodeURIComponent(location.pathname.slice(root.length) + location.search)}`);
  const body = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.detail), { problem: body });
  return body;
}

export function sendJson(path, value) {
  return call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) });
}

export function words(error) {
  return error instanceof TypeError ? "The service does not answer." : error.message;
}

export function toast(text, wrong = false) {
  const note = document.createElement("div");
  note.className = wrong ? "toast wrong" : "toast";
  note.textContent = text;
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), wrong ? 9000 : 4000);
}

// Hand on the files that are chosen in the picker or dropped on its label.
export function takeFiles(picker, drop, take) {
  picker.addEventListener("change", () => { take([...picker.files]); picker.value = ""; });
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); take([...event.dataTransfer.files]); });
}

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

function relativeTime(date) {
  const seconds = (Date.now() - date) / 1000;
  if (Math.abs(seconds) < 45) return "just now";
  if (seconds > 0 && seconds < 3600) return `${Math.max(1, Math.round(seconds / 60))} min ago`;
  return date.toDateString() === new Date().toDateString() ? clock.format(date) : day.format(date);
}

export function localize(root = document) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const date = new Date(time.dateTime);
    time.textContent = relativeTime(date);
    time.title = exact.format(date);
  }
}

function changed() {
  window.htmx?.trigger(document.body, "opad:changed");
}

function confirmed(sentence) {
  return new Promise((resolve) => {
    const dialog = element("dialog");
    dialog.setAttribute("aria-label", sentence);
    const no = element("button", { type: "button", textContent: "Keep" });
    const yes = element("button", { type: "button", className: "danger", textContent: "Yes" });
    dialog.append(element("p", { textContent: sentence }), element("div", { className: "tools" }, no, yes));
    const end = (answer) => { dialog.close(); dialog.remove(); resolve(answer); };
    no.onclick = () => end(false);
    yes.onclick = () => end(true);
    dialog.oncancel = () => end(false);
    document.body.append(dialog);
    dialog.showModal();
  });
}

async function act(button) {
  if (button.dataset.confirm && !(await confirmed(button.dataset.confirm))) return;
  const [method, path] = button.dataset.call.split(" ");
  button.disabled = true;
  try {
    const headers = button.dataset.body ? { "Content-Type": "application/json" } : {};
    const answer = await call(path, { method, headers, body: button.dataset.body });
    if (button.dataset.done) toast(button.dataset.done);
    button.dispatchEvent(new CustomEvent("opad:answered", { bubbles: true, detail: answer }));
    if (button.dataset.then) location.assign(button.dataset.then);
    changed();
  } catch (error) {
    toast(words(error), true);
  } finally {
    button.disabled = false;
  }
}

function chosenJobs() {
  return [...document.querySelectorAll("input[data-job]:checked")];
}

function showBulk() {
  const bulk = document.querySelector("[data-bulk]");
  if (!bulk) return;
  const chosen = chosenJobs();
  bulk.hidden = chosen.length === 0;
  bulk.querySelector("[data-count]").textContent = `${chosen.length} selected`;
}

async function actOnAll(button) {
  const verb = button.dataset.bulkCall;
  const fitting = verb === "cancel" ? ["queued", "running"] : ["failed", "cancelled"];
  const chosen = chosenJobs();
  const able = chosen.filter((box) => fitting.includes(box.dataset.state));
  if (able.length === 0) return toast(`None of these can be ${verb === "cancel" ? "cancelled" : "retried"}.`, true);
  if (!(await confirmed(`${verb === "cancel" ? "Cancel" : "Retry"} ${able.length} of ${chosen.length} selected jobs?`))) return;
  const ends = await Promise.allSettled(able.map((box) => call(`${root}/v1/jobs/${box.dataset.job}/${verb}`, { method: "POST" })));
  const refused = ends.filter((end) => end.status === "rejected");
  toast(`${ends.length - refused.length} of ${able.length} done`);
  for (const end of refused.slice(0, 3)) toast(words(end.reason), true);
  for (const box of chosen) box.checked = false;
  showBulk();
  changed();
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.call) await act(button);
  else if (button.dataset.bulkCall) await actOnAll(button);
  else if ("copy" in button.dataset) {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    toast("Copied");
  } else if ("menu" in button.dataset) {
    const open = document.getElementById("menu").classList.toggle("open");
    button.setAttribute("aria-expanded", open);
  }
});

document.addEventListener("change", (event) => {
  const box = event.target;
  if ("all" in box.dataset) for (const other of document.querySelectorAll("input[data-job]")) other.checked = box.checked;
  if ("all" in box.dataset || box.dataset.job) showBulk();
  if ("submits" in box.dataset) box.form.requestSubmit();
});

document.addEventListener("submit", (event) => {
  if (event.target.getAttribute("method") !== "get") return; // `.method` is "get" for a form without the attribute, too
  for (const field of event.target.elements) if (field.name && !field.value) field.disabled = true; // keeps the URL short
});
addEventListener("pageshow", () => {
  for (const field of document.querySelectorAll("form[method=get] :disabled")) field.disabled = false;
});

// Images of a small base are enlarged without blur.

export const SMALL = 128; // pixels a side
const ENLARGED = ".generated img, .tile img, .duel img, .ballot img";
function sharpen(image) {
  image.classList.toggle("crisp", image.naturalWidth > 0 && image.naturalWidth <= SMALL);
}
const sharpenAll = () => document.querySelectorAll(ENLARGED).forEach(sharpen);
document.addEventListener("load", (event) => { if (event.target.matches?.(ENLARGED)) sharpen(event.target); }, true);
document.addEventListener("htmx:afterSettle", sharpenAll);
sharpenAll();

setInterval(() => {
  const choosing = chosenJobs().length > 0 || document.querySelector("dialog[open]");
  if (!document.hidden && !choosing && document.querySelector("[data-live]")) window.htmx?.trigger(document.body, "opad:tick");
}, TICK_MS);
document.addEventListener("htmx:load", (event) => localize(event.detail.elt.parentElement ?? document));
document.addEventListener("htmx:afterSettle", () => localize());
localize();
