// Pictures in SVG: bars, dashes, marks. Where things stand on the screen is all that is computed.
// Docs: docs/34-playground.md

const LEFT = 42, TOP = 8, BOTTOM = 20;

/** A number of this page: four digits; what is not a number says so. */
export function figure(x) {
  if (x === null || !Number.isFinite(x)) return "not a number";
  if (x === 0) return "0";
  return Math.abs(x) < 1e-4 || Math.abs(x) >= 1e6 ? x.toExponential(3) : x.toPrecision(4);
}

/** The largest magnitude of the lists, at least `least`: a scale for all of them. */
export function peak(least, ...lists) {
  let most = least;
  for (const list of lists) for (const x of list) if (Math.abs(x) > most) most = Math.abs(x);
  return most;
}

function frame(element, from, to, columns) {
  const width = element.clientWidth || 300, height = element.clientHeight || 200;
  const inner = { width: width - LEFT - 4, height: height - TOP - BOTTOM };
  return {
    width, height,
    x: (column) => LEFT + (inner.width * column) / columns,
    y: (value) => TOP + (inner.height * (to - value)) / (to - from),
    step: inner.width / columns,
    columnAt: (x) => Math.floor(((x - LEFT) / inner.width) * columns),
    valueAt: (y) => to - ((y - TOP) / inner.height) * (to - from),
  };
}

function rule(at, value, style = "") {
  const y = at.y(value).toFixed(1);
  return `<line x1="${LEFT}" x2="${at.width - 4}" y1="${y}" y2="${y}" stroke="var(--line)" ${style}/>`;
}

function scaleText(at, value) {
  const text = Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(2)));
  return `<text x="${LEFT - 5}" y="${(at.y(value) + 4).toFixed(1)}" text-anchor="end">${text}</text>`;
}

function columnTexts(at, columns, every) {
  let text = "";
  for (let i = 0; i < columns; i += every) {
    text += `<text x="${(at.x(i) + at.step / 2).toFixed(1)}" y="${at.height - 5}" text-anchor="middle">${i}</text>`;
  }
  return text;
}

function bar(at, i, value, colour, share = 0.78, shift = 0) {
  const from = at.y(0), to = at.y(value), width = Math.max(at.step * share, 0.8);
  const x = at.x(i) + (at.step - width) / 2 + shift * at.step;
  return `<rect x="${x.toFixed(2)}" y="${Math.min(from, to).toFixed(2)}" width="${width.toFixed(2)}" ` +
    `height="${Math.max(Math.abs(to - from), 0.5).toFixed(2)}" fill="${colour}"/>`;
}

function dash(at, i, value, colour, thick = 2) {
  const y = at.y(value).toFixed(2);
  return `<line x1="${(at.x(i) - 0.5).toFixed(2)}" x2="${(at.x(i + 1) + 0.5).toFixed(2)}" y1="${y}" y2="${y}" ` +
    `stroke="${colour}" stroke-width="${thick}"/>`;
}

function blockLines(at, channels, block) {
  let lines = "";
  for (let i = block; i < channels; i += block) {
    const x = at.x(i).toFixed(1);
    lines += `<line x1="${x}" x2="${x}" y1="${TOP}" y2="${at.height - BOTTOM}" stroke="var(--line)"/>`;
  }
  return lines;
}

function put(element, at, body) {
  element.innerHTML = `<svg viewBox="0 0 ${at.width} ${at.height}" aria-hidden="true">${body}</svg>`;
  return at;
}

/** One value a channel, and dashes over it. Gives the frame, for who drags. */
export function channels(element, { values, dashes = [], range, colour, selected = -1 }) {
  const at = frame(element, -range, range, values.length);
  let body = blockLines(at, values.length, 32);
  for (const value of [-range, 0, range]) body += rule(at, value) + scaleText(at, value);
  if (selected >= 0) {
    body += `<rect x="${at.x(selected).toFixed(1)}" y="${TOP}" width="${Math.max(at.step, 3).toFixed(1)}" ` +
      `height="${at.height - TOP - BOTTOM}" fill="var(--rotated)" opacity=".18"/>`;
  }
  values.forEach((value, i) => {
    if (value !== null) body += bar(at, i, value, colour);
  });
  dashes.forEach((value, i) => {
    if (value !== null) body += dash(at, i, value, "var(--exact)", values.length > 128 ? 1.2 : 2);
  });
  return put(element, at, body + columnTexts(at, values.length, values.length > 128 ? 32 : 16));
}

/** Two lists side by side in each channel: without rotation, and with it. */
export function pairs(element, plain, rotated, range) {
  const at = frame(element, -range, range, plain.length);
  let body = blockLines(at, plain.length, 32);
  for (const value of [-range, 0, range]) body += rule(at, value) + scaleText(at, value);
  plain.forEach((value, i) => {
    if (value !== null) body += bar(at, i, value, "var(--plain)", 0.42, -0.22);
  });
  rotated.forEach((value, i) => {
    if (value !== null) body += bar(at, i, value, "var(--rotated)", 0.42, 0.22);
  });
  return put(element, at, body + columnTexts(at, plain.length, plain.length > 128 ? 32 : 16));
}

/** Keys in a row: where each should be, and where it is without rotation and with it. */
export function marks(element, title, exact, plain, rotated, from, to) {
  const at = frame(element, from, to, exact.length);
  let body = `<text x="${LEFT + 4}" y="${TOP + 6}">${title}</text>`;
  for (const value of [from, (from + to) / 2, to]) body += rule(at, value) + scaleText(at, value);
  exact.forEach((value, i) => {
    const middle = at.x(i) + at.step / 2, size = Math.min(at.step / 5, 5);
    if (plain[i] !== null) {
      body += `<circle cx="${(middle - size * 1.2).toFixed(1)}" cy="${at.y(plain[i]).toFixed(1)}" r="${size}" fill="var(--plain)"/>`;
    }
    if (rotated[i] !== null) {
      body += `<rect x="${(middle + size * 0.2).toFixed(1)}" y="${(at.y(rotated[i]) - size).toFixed(1)}" ` +
        `width="${2 * size}" height="${2 * size}" fill="var(--rotated)"/>`;
    }
    if (value !== null) body += dash(at, i, value, "var(--exact)", 1.5);
  });
  return put(element, at, body + columnTexts(at, exact.length, exact.length > 8 ? 2 : 1));
}
