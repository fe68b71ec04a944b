// Keeps the job cards live and draws pictures, over the same public API that every client uses.

const csrf = document.querySelector('meta[name="csrf-token"]').content;
const jobs = document.getElementById("jobs");
const trouble = document.getElementById("trouble");
const ACTIVE = new Set(["queued", "running"]);

async function call(path, options = {}) {
  const headers = { Accept: "application/json", "X-CSRF-Token": csrf, ...options.headers };
  const answer = await fetch(path, { ...options, headers, credentials: "same-origin" });
  if (answer.status === 401) location.assign("/dashboard/sign-in");
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail);
  return body;
}

function field(card, name) {
  return card.querySelector(`[data-field="${name}"]`);
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

function detail(job) {
  if (job.state === "queued") return job.queue_position === 1 ? "next in the queue" : `${job.queue_position} in the queue`;
  if (job.cancel_requested && job.state === "running") return "stopping";
  if (job.total_steps) return `${job.stage ?? ""} ${job.step} / ${job.total_steps}`.trim();
  return job.stage ?? "";
}

function fill(card, job) {
  card.dataset.job = job.id;
  card.dataset.concept = job.concept_id;
  card.dataset.state = job.state;
  field(card, "name").textContent = job.concept_name;
  field(card, "state").textContent = job.state;
  field(card, "progress").value = job.progress;
  field(card, "percent").textContent = `${Math.floor(job.progress * 100)} %`;
  field(card, "detail").textContent = detail(job);
  field(card, "eta").textContent = job.state === "running" && job.eta_seconds !== null ? `${duration(job.eta_seconds)} left` : "";
  field(card, "losses").textContent = Object.entries(job.losses).map(([name, value]) => `${name} ${value.toPrecision(3)}`).join(" · ");
  field(card, "error").textContent = job.error?.detail ?? "";
  field(card, "error").hidden = !job.error;
  field(card, "created").dateTime = job.created_at;
  field(card, "created").textContent = new Date(job.created_at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  card.querySelector('[data-action="cancel"]').hidden = !ACTIVE.has(job.state) || job.cancel_requested;
  if (job.preview_url) {
    const figure = field(card, "preview");
    const address = `${job.preview_url}?step=${job.step}`;
    if (figure.dataset.address !== address) {
      figure.dataset.address = address;
      figure.hidden = false;
      figure.querySelector("img").src = address; // an unchanged preview is a 304
    }
  }
}

async function addReferences(card, conceptId) {
  const concept = await call(`/v1/concepts/${conceptId}`);
  field(card, "references").replaceChildren(...concept.references.map(({ url, position }) => picture(url, `reference ${position}`)));
}

function picture(source, description) {
  const image = document.createElement("img");
  image.src = source;
  image.alt = description;
  return image;
}

async function refresh() {
  const { items } = await call("/v1/jobs?limit=20");
  document.getElementById("no-jobs").hidden = items.length > 0;
  let finished = false;
  for (const job of items.toReversed()) {
    let card = jobs.querySelector(`[data-job="${job.id}"]`);
    if (!card) {
      card = document.getElementById("job-template").content.firstElementChild.cloneNode(true);
      jobs.prepend(card);
      await addReferences(card, job.concept_id);
    }
    finished ||= job.state === "succeeded" && card.dataset.state !== "succeeded";
    fill(card, job);
  }
  if (finished) await refreshConcepts();
  return items.some((job) => ACTIVE.has(job.state));
}

async function refreshConcepts() {
  const { items } = await call("/v1/concepts?limit=100");
  const ready = items.filter((concept) => concept.bundle);
  const select = document.getElementById("try-concept");
  const chosen = select.value;
  select.replaceChildren(...ready.map((concept) => new Option(concept.name, concept.id, false, concept.id === chosen)));
  document.getElementById("try").hidden = ready.length === 0;
}

let timer;
async function watch() {
  clearTimeout(timer);
  if (document.hidden) return; // visibilitychange wakes us
  let pause = 5000;
  try {
    pause = (await refresh()) ? 1000 : 5000;
    trouble.hidden = true;
  } catch (error) {
    trouble.textContent = error instanceof TypeError ? "The service does not answer; trying again." : error.message;
    trouble.hidden = false;
  }
  timer = setTimeout(watch, pause);
}

jobs.addEventListener("click", async (event) => {
  if (event.target.dataset.action !== "cancel") return;
  const card = event.target.closest(".job");
  try {
    fill(card, await call(`/v1/jobs/${card.dataset.job}/cancel`, { method: "POST" }));
  } catch (error) {
    field(card, "error").textContent = error.message;
    field(card, "error").hidden = false;
  }
});

async function draw(request) {
  const began = performance.now();
  const answer = await call("/v1/generate", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(request),
  });
  return { ...answer, milliseconds: performance.now() - began };
}

function sheet(title, answer) {
  const heading = document.createElement("h3");
  heading.textContent = `${title} · ${answer.images.length} pictures in ${Math.round(answer.milliseconds)} ms`;
  const grid = document.createElement("div");
  grid.className = "pictures";
  for (const { seed, media_type, data } of answer.images) {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = `seed ${seed}`;
    figure.append(picture(`data:${media_type};base64,${data}`, `seed ${seed}`), caption);
    grid.append(figure);
  }
  return [heading, grid];
}

document.getElementById("try-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const message = document.getElementById("try-message");
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const request = { concept_id: form.concept.value, prompt: form.prompt.value, count: 4 };
    if (form.seed.value) request.seed = Number(form.seed.value);
    const own = await draw(request);
    const parts = sheet("your concept", own);
    if (form.compare.checked) {
      parts.push(...sheet("untouched base", await draw({ ...request, seed: own.images[0].seed, untouched: true })));
    }
    document.getElementById("try-result").replaceChildren(...parts);
    message.textContent = own.warnings.join(". ");
    message.hidden = own.warnings.length === 0;
  } catch (error) {
    message.textContent = error.message;
    message.hidden = false;
  } finally {
    button.disabled = false;
  }
});

document.addEventListener("visibilitychange", watch);
watch();
