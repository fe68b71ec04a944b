// The vote on a group of a user study: a click, or the number of an image.

import { sendJson, toast, words } from "./app.js";

let isSending = false;

async function vote(button) {
  const ballot = document.getElementById("ballot");
  const seen = [...ballot.querySelectorAll("img")].every((image) => image.complete && image.naturalWidth > 0);
  if (isSending) return;
  if (!seen) return toast("Not all images have arrived yet.", true);
  isSending = true;
  button.classList.add("chosen");
  try {
    await sendJson(ballot.dataset.votes, { image_id: button.dataset.image, voter: ballot.dataset.voter });
  } catch (error) {
    if (error.problem?.code !== "already_voted") { // then another window was faster: go on
      isSending = false;
      button.classList.remove("chosen");
      return toast(words(error), true);
    }
  }
  htmx.trigger(document.body, "opad:changed");
}

document.addEventListener("htmx:afterSettle", () => { isSending = false; });
document.addEventListener("click", (event) => {
  const button = event.target.closest("#ballot [data-image]");
  if (button) vote(button);
});
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !/^[1-9]$/.test(event.key)) return;
  const button = document.querySelector(`#ballot [data-number="${event.key}"]`);
  if (button) vote(button);
});
