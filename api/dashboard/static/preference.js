// A blind pair: two versions with the same seed in random order, and the vote.

import { root, sendJson, toast, words } from "./app.js";

const form = document.getElementById("sides");
const duel = document.getElementById("duel");
let pair = null; // { sides: [version, version] as shown, prompt, seed }
let turn = 0;

async function generated(version, prompt, seed) {
  const body = { concept_id: form.dataset.concept, prompt, seed };
  const { images } = await sendJson(`${root}/v1/generate`, version ? { ...body, version } : { ...body, untouched: true });
  return `data:${images[0].media_type};base64,${images[0].data}`;
}

async function show() {
  const prompts = form.prompt.value.split("\n").map((line) => line.trim()).filter(Boolean);
  const sides = [Number(form.one.value), Number(form.other.value)];
  if (sides[0] === sides[1]) return toast("Choose two different sides.", true);
  if (Math.random() < 0.5) sides.reverse();
  pair = null;
  const prompt = prompts[turn % prompts.length];
  const seed = Math.floor(Math.random() * 2 ** 32);
  turn += 1;
  try {
    const images = await Promise.all(sides.map((version) => generated(version, prompt, seed)));
    [document.getElementById("left").src, document.getElementById("right").src] = images;
    document.getElementById("duel-prompt").textContent = prompt;
    duel.hidden = false;
    pair = { sides, prompt, seed };
  } catch (error) {
    toast(words(error), true);
  }
}

async function vote(side) {
  if (!pair) return;
  const { sides, prompt, seed } = pair;
  const [preferred, other] = side === "1" ? [sides[1], sides[0]] : sides;
  pair = null;
  try {
    await sendJson(`${root}/v1/concepts/${form.dataset.concept}/preferences`, { preferred, other, tie: side === "tie", prompt, seed });
    htmx.trigger(document.body, "opad:changed");
    await show();
  } catch (error) {
    toast(words(error), true);
  }
}

form?.addEventListener("submit", (event) => { event.preventDefault(); show(); });
duel?.addEventListener("click", (event) => {
  const button = event.target.closest("[data-side]");
  if (button) vote(button.dataset.side);
});
