// A cache shift, step by step: the specification's steps as a list and a picture.
// Docs: docs/34-playground.md
import { channels, figure, peak } from "./charts.js";

const at = (id) => document.getElementById(id);

export class ShiftSteps {
  constructor(specification, refresh) {
    this.specification = specification;
    for (const id of ["difference", "pairs", "mistake", "step"]) at(id).addEventListener("input", refresh);
    const go = (by) => () => { at("step").value = String(Number(at("step").value) + by); refresh(); };
    at("before").addEventListener("click", go(-1));
    at("after").addEventListener("click", go(1));
    at("shift-controls").addEventListener("submit", (event) => event.preventDefault());
    this.refresh = refresh;
  }

  /** Shifts `row`, stored in the type under the rotation, and shows the step that is chosen. */
  show(row, type, rotation, seed) {
    const wrong = at("mistake").checked, difference = Math.trunc(Number(at("difference").value)) || 0;
    let steps;
    try {
      steps = this.specification.shift(row, type, rotation, seed, difference, Number(at("pairs").value), Number(wrong));
    } catch (error) {
      at("steps").replaceChildren(Object.assign(document.createElement("li"), { textContent: error.message }));
      at("shifted").replaceChildren();
      return;
    }
    at("step").max = String(steps.length - 1);
    const chosen = Math.min(Number(at("step").value), steps.length - 1);
    at("steps").replaceChildren(...steps.map((step, i) => this.item(step, i, i === chosen)));
    at("steps").parentElement.classList.toggle("wrong", wrong);
    at("step").setAttribute("aria-valuetext", `${steps[chosen].name}, relative error ${figure(steps[chosen].error)}`);
    channels(at("shifted"), {
      values: steps[chosen].row, dashes: steps[chosen].exact,
      range: Math.ceil(1.02 * peak(4, ...steps.flatMap((step) => [step.row, step.exact]))),
      colour: wrong ? "var(--plain)" : "var(--rotated)",
    });
  }

  item(step, i, chosen) {
    const made = document.createElement("li"), error = document.createElement("b"), what = document.createElement("span");
    error.textContent = figure(step.error);
    error.dataset.value = String(step.error);
    what.textContent = step.what;
    what.className = "quiet";
    made.append(`${i + 1} ${step.name}`, error, what);
    if (chosen) made.setAttribute("aria-current", "step");
    made.addEventListener("click", () => { at("step").value = String(i); this.refresh(); });
    return made;
  }
}
