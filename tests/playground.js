// Runs calls of the playground's C interface in WebAssembly: lines of JSON in, lines of JSON out.
// A line is [function, argument types, arguments, row or null].
// Usage: node tests/playground.js FOLDER_WITH_ROTKV_JS
const fs = require("fs"), path = require("path");

const folder = path.resolve(process.argv[2]);
const rotkvModule = require(path.join(folder, "rotkv.js"));

rotkvModule({ wasmBinary: fs.readFileSync(path.join(folder, "rotkv.wasm")) }).then((module) => {
  for (const line of fs.readFileSync(0, "utf8").split("\n").filter(Boolean)) {
    const [name, types, values, row] = JSON.parse(line);
    if (row) module.HEAPF32.set(row, module.ccall("rotkv_playground_row", "number", [], []) / 4);
    console.log(module.ccall("rotkv_playground_" + name, "string", types, values));
  }
});
