#!/usr/bin/env bash
# The playground's C++ as WebAssembly, by emcc alone: build/playground/rotkv.js and rotkv.wasm.
# Usage: tools/playground/wasm.sh BUILD (a folder that cmake has configured, where the list of formats is)
# Docs: docs/34-playground.md
set -euo pipefail
configured=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
to=build/playground
export NODE_PATH=${NODE_PATH:-/usr/share/nodejs}  # of Debian's emcc, where another node comes first

sources=(tools/playground/*.cpp ref/zoo/*.cpp ref/quant*.cpp ref/rotation*.cpp
         ref/{attention,cache_type,hadamard,ops,rope,rope_table,types}.cpp
         ref/measure/{metrics,outliers}.cpp "$configured/families_of_files.cpp")
json=$(sed -n 's,^nlohmann_json_DIR:PATH=\(.*\)/share/cmake/nlohmann_json$,\1/include,p' "$configured/CMakeCache.txt")
# As everywhere: a product and a sum are rounded each. json's headers stand behind emcc's own.
flags="-std=c++20 -O2 -ffp-contract=off -fno-vectorize -fno-slp-vectorize -fexceptions -I.
       -include tools/playground/older_libcxx.h
       -idirafter ${json:-$configured/_deps/nlohmann_json-src/include}"
linked="-O2 -fexceptions -s MODULARIZE=1 -s EXPORT_NAME=rotkvModule -s ALLOW_MEMORY_GROWTH=1
        -s ENVIRONMENT=web,node -s EXPORTED_RUNTIME_METHODS=ccall,HEAPF32 -s FILESYSTEM=0"

mkdir -p $to/objects
if [ -e $to/rotkv.wasm ] && [ -z "$(find "${sources[@]}" ref tools/playground "$0" -type f \
        \( -name '*.h' -o -name '*.cpp' -o -name '*.sh' \) -newer $to/rotkv.wasm -print -quit)" ]; then
    exit 0  # nothing that it is made of has changed
fi
rm -f $to/objects/* $to/rotkv.*
compile='object=$(echo "$0" | tr / .); emcc '$flags' -c "$0" -o '$to'/objects/${object#.}.o'
printf '%s\0' "${sources[@]}" |
    xargs -0 -n 1 -P "$(getconf _NPROCESSORS_ONLN)" bash -c "${compile//$'\n'/ }"
emcc $to/objects/*.o $linked -o $to/linked.js
mv $to/linked.wasm $to/rotkv.wasm
sed 's/linked\.wasm/rotkv.wasm/' $to/linked.js > $to/rotkv.js
rm $to/linked.js
