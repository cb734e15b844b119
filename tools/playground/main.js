// The page: what is chosen goes to the specification, its answers become pictures and figures.
// Docs: docs/34-playground.md
import { channels, figure, marks, pairs, peak } from "./charts.js";
import { KeySlider } from "./key_slider.js";
import { ShiftSteps } from "./shift_steps.js";
import { Specification } from "./specification.js";
import { showBlocks } from "./stored_blocks.js";

const SIZES = [64, 80, 96, 128, 192, 256];
const at = (id) => document.getElementById(id);

const state = { row: [], types: [], seed: 1, range: 6 };
let specification, slider, steps;
let asked = false;

function options(select, list, chosen) {
  select.replaceChildren(...list.map(([value, text, off]) => {
    const option = new Option(text, value, false, value === chosen);
    option.disabled = Boolean(off);
    return option;
  }));
}

const size = () => Number(at("size").value);
const type = () => state.types.find((one) => one.name === at("type").value);

// Blocks that divide the head, and the policy's, which says why.
function offerRotations() {
  const chosen = at("rotation").value || "policy", given = type(), list = [];
  const words = given.policy === "none" ? "off" : "blocks of " + given.policy;
  list.push(["policy", given.refusal ? "as the policy says" : `${words}, by ${given.reason}`]);
  list.push(["none", "off"]);
  for (let block = 2; size() % block === 0; block *= 2) list.push([String(block), `blocks of ${block}`]);
  options(at("rotation"), list, list.some(([value]) => value === chosen) ? chosen : "policy");
}

function offerTypes() {
  const chosen = at("type").value || "q4_0";
  state.types = specification.types(size()).types;
  const group = (label, zoo) => {
    const made = document.createElement("optgroup");
    made.label = label;
    for (const one of state.types.filter((each) => each.zoo === zoo)) {
      const text = one.refusal ? `${one.name} (not at ${size()})` : `${one.name}, ${one.bits} bits per value`;
      made.append(new Option(text, one.name, false, one.name === chosen));
    }
    return made;
  };
  at("type").replaceChildren(group("with kernels", false), group("the zoo: without", true));
  offerRotations();
}

// "none", "64", "64:7": the words that every tool takes.
function rotationWords() {
  const chosen = at("rotation").value, words = chosen === "policy" ? type().policy || "none" : chosen;
  return words !== "none" && at("signs").checked ? `${words}:${at("sign-seed").value || 0}` : words;
}

function takeExample() {
  state.row = specification.example(at("example").value, size(), state.seed);
  state.range = 0;
  refresh();
}

function showHeadline(plain, rotated) {
  const show = (id, value) => {
    at(id).textContent = figure(value);
    at(id).dataset.value = String(value);
  };
  for (const [which, stored] of [["plain", plain], ["rotated", rotated]]) {
    show(`error-${which}`, stored.relative_error);
    show(`score-${which}`, stored.largest_score_change);
    show(`moved-${which}`, stored.moved_probability);
    show(`crest-${which}`, stored.figures.crest);
  }
}

function showScores(plain, rotated) {
  const all = [plain.exact.score, plain.cached.score, rotated.cached.score].flat().filter((x) => x !== null);
  const least = Math.min(...all), most = Math.max(...all), margin = (most - least || 1) / 10;
  marks(at("scores"), "score", plain.exact.score, plain.cached.score, rotated.cached.score, least - margin, most + margin);
  const top = peak(0, plain.exact.weight, plain.cached.weight, rotated.cached.weight);
  marks(at("weights"), "softmax", plain.exact.weight, plain.cached.weight, rotated.cached.weight, 0, top * 1.1 || 1);
}

function drawKey(range) {
  const frame = channels(at("key"), { values: state.row, range, colour: "var(--given)", selected: slider.channel });
  slider.show(state.row, frame);
}

function draw() {
  const given = type(), words = rotationWords();
  if (given.refusal) throw new Error(`${given.name} cannot keep heads of ${size()}: ${given.refusal}.`);
  const plain = specification.store(state.row, given.name, "none", state.seed);
  const rotated = specification.store(state.row, given.name, words, state.seed);
  if (!slider.held || !state.range) state.range = Math.ceil(1.02 * peak(4, state.row, rotated.rotated));
  drawKey(state.range);
  channels(at("rotated"), { values: rotated.rotated, dashes: rotated.cells, range: state.range, colour: "var(--rotated)" });
  pairs(at("errors"), plain.error, rotated.error, 1.1 * peak(1e-6, plain.error, rotated.error));
  showHeadline(plain, rotated);
  const called = words === "none" ? "rotation off" : `rotation ${words}`;
  at("rotation-words").textContent = called;
  at("blocks-title").textContent = called;
  at("bits").textContent = `${given.name}, ${given.bits} bits per value`;
  showBlocks(at("blocks-plain"), plain);
  showBlocks(at("blocks-rotated"), rotated);
  showScores(plain, rotated);
  at("said").textContent = given.group > 1
    ? `${given.name} keeps ${given.group} tokens together: yours is the first of them.`
    : given.refusal;
  steps.show(state.row, given.name, words, state.seed);
}

function drawOrSay() {
  asked = false;
  try {
    draw();
    at("problem").hidden = true;
    at("main").classList.remove("stale");
  } catch (error) {
    at("problem").textContent = error.message;
    at("problem").hidden = false;
  }
  at("main").hidden = !at("problem").hidden;
  delete document.body.dataset.drawing;
}

// At most once a frame, however fast a finger is.
function refresh() {
  if (!asked) requestAnimationFrame(drawOrSay);
  asked = true;
  document.body.dataset.drawing = "soon";
}

function theme() {
  const root = document.documentElement;
  const dark = () => root.dataset.theme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const label = () => { at("theme").textContent = dark() ? "Light" : "Dark"; };
  at("theme").addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; label(); });
  label();
}

function listen() {
  at("size").addEventListener("change", () => { offerTypes(); takeExample(); });
  at("type").addEventListener("change", () => { offerRotations(); refresh(); });
  for (const id of ["rotation", "signs", "sign-seed"]) at(id).addEventListener("input", refresh);
  at("example").addEventListener("change", takeExample);
  at("another").addEventListener("click", () => { state.seed += 1; takeExample(); });
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  new ResizeObserver(refresh).observe(document.body);
}

async function start() {
  theme();
  if (typeof globalThis.rotkvModule !== "function") {
    throw new Error("This copy of the site was built without emcc. ./dev docs compiles the playground where Debian's package emscripten is.");
  }
  specification = new Specification(await globalThis.rotkvModule());
  slider = new KeySlider(at("key"), { channel: at("channel"), value: at("value") },
    (channel, value) => { state.row[channel] = value; slider.channel = channel; refresh(); },
    () => refresh());
  steps = new ShiftSteps(specification, refresh);
  options(at("size"), SIZES.map((d) => [String(d), String(d)]), "64");
  options(at("example"), specification.types(64).examples.map((name) => [name, name]), "one loud channel");
  offerTypes();
  listen();
  takeExample();
}

start().catch((error) => {
  at("problem").textContent = error.message;
  at("problem").hidden = false;
});
