// Errors of a form, each beside its field. The first one scrolls into view and gets the focus.

import { element } from "./app.js";

export function clearError(input) {
  if (!input.hasAttribute("aria-invalid")) return;
  const note = document.getElementById(noteId(input));
  input.removeAttribute("aria-invalid");
  input.setAttribute("aria-describedby", (input.getAttribute("aria-describedby") ?? "").replace(note.id, "").trim());
  note.remove();
}

export function clearErrors(form) {
  form.querySelectorAll("[aria-invalid]").forEach(clearError);
}

const noteId = (input) => `${input.id || input.name}-error`;

/** Show `errors` ({ input, sentence }); an input is in an element of the class `field`. */
export function showErrors(form, errors) {
  clearErrors(form);
  const inputs = new Set(errors.map(({ input }) => input));
  for (const input of inputs) {
    const sentences = errors.filter((error) => error.input === input).map(({ sentence }) => sentence);
    const note = element("p", { className: "field-error", id: noteId(input), textContent: sentences.join(". ") });
    input.closest(".field").append(note);
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", `${input.getAttribute("aria-describedby") ?? ""} ${note.id}`.trim());
  }
  form.querySelector("[aria-invalid]").focus({ preventScroll: true });
  form.querySelector(".field-error").scrollIntoView({ block: "center" });
}
