// What lies in the cache, as a list of blocks with their codes, or as bytes.
// Docs: docs/34-playground.md
import { figure, peak } from "./charts.js";

function element(tag, text = "", name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = name;
  return made;
}

// A cell's colour says sign and size of the value that is read, within its block.
function cell(text, value, most, title) {
  const made = element("span", text, value === 0 ? "zero" : "");
  made.style.setProperty("--of", value < 0 ? "var(--plain)" : "var(--rotated)");
  made.style.setProperty("--share", most > 0 ? (0.75 * Math.abs(value)) / most : 0);
  made.title = title;
  return made;
}

function blockOf(block, cells, first) {
  const made = element("div", "", "block"), codes = element("div", "", "codes");
  const most = peak(0, cells), zeros = cells.filter((value) => value === 0).length;
  const minimum = block.has_minimum ? `, minimum ${figure(block.minimum)}` : "";
  const none = zeros ? `, ${zeros} of 32 read as 0` : "";
  made.append(element("p", `channels ${first} to ${first + 31}: scale ${figure(block.scale)}${minimum}${none}`, "quiet"), codes);
  block.codes.forEach((code, j) => {
    codes.append(cell(code, cells[j], most, `channel ${first + j}: code ${code} is read as ${figure(cells[j])}`));
  });
  return made;
}

function bytesOf(stored) {
  const made = element("div", "", "block"), codes = element("div", "", "codes");
  made.append(element("p", `${stored.bytes.length} bytes for ${stored.cells.length} channels`, "quiet"), codes);
  stored.bytes.forEach((byte, j) => codes.append(cell(byte.toString(16).padStart(2, "0"), byte, 512, `byte ${j}`)));
  return made;
}

/** Fills `target` with what `stored`, an answer of the specification, says is kept. */
export function showBlocks(target, stored) {
  target.replaceChildren(...(stored.blocks.length
    ? stored.blocks.map((block, b) => blockOf(block, stored.cells.slice(32 * b, 32 * b + 32), 32 * b))
    : [bytesOf(stored)]));
}
