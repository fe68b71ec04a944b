// Generated images: tiles that open in a dialog with the settings, download, keep and erase. An image has the shape of
// GET /v1/images/{id}; one that is not stored has no id, but the file (`data`, `media_type`) and a receipt.

import { element, root, sendJson, SMALL, words } from "./app.js";

const shown = new WeakMap(); // images of the tiles that scripts have made

export function tile(image) {
  const { prompt, seed } = image.settings;
  const button = element("button", { type: "button", className: "tile" }, element("img", { src: source(image), alt: `${prompt}, seed ${seed}` }));
  shown.set(button, image);
  return element("figure", {}, button, element("figcaption", { textContent: `seed ${seed}` }));
}

export function tiles(answer, concept) {
  const images = answer.images.map((image) => tile({
    ...image, concept_id: answer.concept_id, concept_name: concept, version: answer.version,
    settings: { prompt: answer.prompt, seed: image.seed, decoder: answer.decoder, format: image.media_type.replace("image/", "") },
  }));
  return element("div", { className: "tiles" }, ...images);
}

export function warnings(answer, { but = [] } = {}) {
  return answer.warnings.filter((sentence) => !but.includes(sentence)).map((textContent) => element("p", { className: "notice calm warning", textContent }));
}

const source = (image) => (image.data ? `data:${image.media_type};base64,${image.data}` : `${root}/v1/images/${image.id}/file`);
const imageOf = (button) => shown.get(button) ?? JSON.parse(button.dataset.image);

function fileName(image) {
  const name = image.concept_name.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "image";
  return `${name}-${image.settings.seed}.${image.settings.format}`;
}

function settingsAddress(image) {
  const { prompt, seed, decoder } = image.settings;
  const query = new URLSearchParams({ concept: image.concept_id, prompt, seed, decoder, count: 1 });
  query.set(...(image.version ? ["version", image.version] : ["compare", 1]));
  return `${root}/dashboard/playground?${query}`;
}

const fact = (name, value) => [element("dt", { textContent: name }), element("dd", { textContent: value })];
const action = (textContent, className, onclick) => element("button", { type: "button", textContent, className, onclick });

class Viewer {
  constructor() {
    this.img = element("img");
    this.title = element("h2", { id: "viewer-title" });
    this.facts = element("dl", { className: "pairs" });
    this.download = element("a", { className: "primary", textContent: "Download" });
    this.keep = action("Keep this one", "", () => this.keepImage());
    this.again = element("a", { className: "button", textContent: "Use its settings" });
    this.erase = action("Erase", "danger");
    this.erase.dataset.confirm = "Erase this image?";
    this.erase.dataset.done = "Erased";
    this.erase.addEventListener("opad:answered", () => this.erased());
    this.status = element("p", { role: "status" }); // a toast would lie behind the dialog
    this.back = action("Previous", "small", () => this.step(-1));
    this.next = action("Next", "small", () => this.step(1));
    const side = element("div", {}, this.title, this.facts, element("div", { className: "tools" }, this.download, this.keep, this.again, this.erase), this.status);
    this.dialog = element("dialog", { className: "viewer" }, element("div", { className: "stage" }, this.img), side,
      element("div", { className: "tools" }, this.back, this.next, action("Close", "small", () => this.dialog.close())));
    this.dialog.setAttribute("aria-labelledby", this.title.id);
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.step(-1);
      if (event.key === "ArrowRight") this.step(1);
    });
    this.dialog.addEventListener("close", () => this.button.focus());
    this.img.addEventListener("load", () => this.fit());
    addEventListener("resize", () => this.fit());
    document.body.append(this.dialog);
  }

  open(button) {
    this.show(button);
    this.dialog.showModal();
    this.fit();
  }

  show(button) {
    const image = imageOf(button);
    Object.assign(this, { button, image });
    const { prompt, seed, format, decoder } = image.settings;
    this.img.src = source(image);
    this.img.alt = `${prompt}, seed ${seed}`;
    this.title.textContent = `${image.concept_name}, seed ${seed}`;
    this.facts.replaceChildren(
      ...fact("Prompt", prompt), ...fact("Seed", seed), ...fact("Version", image.version ? `v${image.version}` : "untouched student"), ...fact("Format", format), ...fact("Decoder", decoder),
      ...(image.created_at ? fact("Kept", new Date(image.created_at).toLocaleString()) : []),
    );
    this.download.href = source(image);
    this.download.download = fileName(image);
    this.again.href = settingsAddress(image);
    this.status.textContent = "";
    this.showKept();
  }

  showKept() {
    const { id, receipt } = this.image;
    this.keep.hidden = Boolean(id) || !receipt;
    this.erase.hidden = !id;
    this.erase.dataset.call = `DELETE /v1/images/${id}`;
    const buttons = this.neighbors();
    this.back.disabled = buttons.at(0) === this.button;
    this.next.disabled = buttons.at(-1) === this.button;
    if (this.image.data) this.button.nextElementSibling.textContent = `seed ${this.image.settings.seed}${id ? " · kept" : ""}`;
  }

  neighbors() {
    return [...document.querySelectorAll(".tile")];
  }

  step(by) {
    const buttons = this.neighbors();
    const button = buttons[buttons.indexOf(this.button) + by];
    if (button) this.show(button);
  }

  fit() {
    const pixels = this.img.naturalWidth;
    if (!this.dialog.open || !pixels) return;
    const room = Math.min(this.img.parentElement.clientWidth, innerHeight * 0.74);
    const device = pixels / devicePixelRatio; // so that each pixel of a small image covers whole pixels of the screen
    this.img.width = this.img.height = pixels <= SMALL ? device * Math.floor(room / device) : room;
    this.img.classList.toggle("crisp", pixels <= SMALL);
  }

  async keepImage() {
    const { image } = this;
    this.keep.disabled = true;
    try {
      const kept = await sendJson(`${root}/v1/images`, { receipt: image.receipt, data: image.data });
      Object.assign(image, { id: kept.id, created_at: kept.created_at });
      if (this.image !== image) return; // the person went on to the next one
      this.showKept();
      this.status.replaceChildren("Kept in the ", element("a", { href: `${root}/dashboard/gallery`, textContent: "gallery" }), ".");
      this.erase.focus();
    } catch (error) {
      this.status.textContent = words(error);
    } finally {
      this.keep.disabled = false;
    }
  }

  erased() {
    this.image.id = null;
    if (this.image.data) return this.showKept();
    this.dialog.close();
    this.button.closest("figure").remove();
  }
}

let viewer;
document.addEventListener("click", (event) => {
  const button = event.target.closest(".tile");
  if (!button) return;
  viewer ??= new Viewer();
  viewer.open(button);
});
