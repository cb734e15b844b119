// ref/ behind its C interface (exports.h): arguments in, JSON out. No number is made here.
// Docs: docs/34-playground.md

const NUMBER = "number", TEXT = "string";

export class Specification {
  /** A module as rotkvModule() of rotkv.js gives it. */
  constructor(module) {
    this.module = module;
  }

  call(name, types, values) {
    const answer = JSON.parse(this.module.ccall("rotkv_playground_" + name, TEXT, types, values));
    if (typeof answer.error === "string") throw new Error(answer.error);
    return answer;
  }

  /** Every type for heads of d channels, and the names of the examples. */
  types(d) {
    return this.call("types", [NUMBER], [d]);
  }

  /** An example's row. */
  example(name, d, seed) {
    return this.call("example", [TEXT, NUMBER, NUMBER], [name, d, seed]).row;
  }

  put(row) {
    const at = this.module.ccall("rotkv_playground_row", NUMBER, [], []) / 4;
    this.module.HEAPF32.set(row, at);
  }

  /** The row stored: every stage, its bytes, its scores. rotation: "none", "64", "64:7". */
  store(row, type, rotation, seed) {
    this.put(row);
    return this.call("store", [NUMBER, TEXT, TEXT, NUMBER], [row.length, type, rotation, seed]);
  }

  /** The steps of a shift. */
  shift(row, type, rotation, seed, difference, neox, inRotatedSpace) {
    this.put(row);
    return this.call("shift", [NUMBER, TEXT, TEXT, NUMBER, NUMBER, NUMBER, NUMBER],
      [row.length, type, rotation, seed, difference, neox, inRotatedSpace]).steps;
  }
}
