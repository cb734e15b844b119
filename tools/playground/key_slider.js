// The key as something to drag: by mouse and finger, by keys, by two number fields. ARIA's slider:
// one element, whose value is that of the channel that is chosen.
// Docs: docs/34-playground.md

const LOUDEST = 24;
const KEYS = { ArrowUp: 0.25, ArrowDown: -0.25, PageUp: 4, PageDown: -4 };

/** A value that can be set: within the scale, two decimals. */
export function settable(value) {
  return Math.round(Math.max(-LOUDEST, Math.min(LOUDEST, value)) * 100) / 100;
}

export class KeySlider {
  /** change(channel, value) is called for what is set, chosen(channel) for what is only looked at. */
  constructor(element, fields, change, chosen) {
    Object.assign(this, { element, fields, change, chosen, channel: 0, row: [], at: null, held: false });
    element.addEventListener("keydown", (event) => this.key(event));
    element.addEventListener("pointerdown", (event) => this.press(event));
    element.addEventListener("pointermove", (event) => this.held && this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) {
      element.addEventListener(end, () => { this.held = false; this.chosen(this.channel); });
    }
    fields.channel.addEventListener("input", () => this.choose(Number(fields.channel.value)));
    fields.value.addEventListener("input", () => {
      if (fields.value.value !== "") this.change(this.channel, settable(Number(fields.value.value)));
    });
  }

  /** What is shown now; `at`: the frame that the chart was drawn in. */
  show(row, at) {
    this.row = row;
    this.at = at;
    this.channel = Math.min(this.channel, row.length - 1);
    const value = row[this.channel];
    this.element.setAttribute("aria-valuenow", String(value));
    this.element.setAttribute("aria-valuetext", `channel ${this.channel}: ${value.toFixed(2)}`);
    this.fields.channel.max = String(row.length - 1);
    const active = document.activeElement;
    if (active !== this.fields.channel) this.fields.channel.value = String(this.channel);
    if (active !== this.fields.value) this.fields.value.value = String(settable(value));
  }

  choose(channel) {
    this.channel = Math.max(0, Math.min(this.row.length - 1, Math.trunc(channel) || 0));
    this.chosen(this.channel);
  }

  key(event) {
    const value = this.row[this.channel];
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "ArrowLeft") this.choose(this.channel - 1);
    else if (event.key === "ArrowRight") this.choose(this.channel + 1);
    else if (event.key === "Home") this.choose(0);
    else if (event.key === "End") this.choose(this.row.length - 1);
    else if (event.key in KEYS) {
      this.change(this.channel, settable(value + KEYS[event.key] * (event.shiftKey ? 4 : 1)));
    } else if (event.key === "0") this.change(this.channel, 0);
    else return;
    event.preventDefault();
  }

  press(event) {
    const box = this.element.getBoundingClientRect();
    this.channel = Math.max(0, Math.min(this.row.length - 1, this.at.columnAt(event.clientX - box.left)));
    this.held = true;
    this.element.setPointerCapture(event.pointerId);
    this.element.focus({ preventScroll: true });
    this.drag(event);
  }

  drag(event) {
    const box = this.element.getBoundingClientRect();
    this.change(this.channel, settable(this.at.valueAt(event.clientY - box.top)));
    event.preventDefault();
  }
}
