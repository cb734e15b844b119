#!/usr/bin/env bash
# The playground's C++ as WebAssembly, by emcc alone: build/playground/rotkv.js and rotkv.wasm.
# Usage: tools/playground/wasm.sh BUILD [--check]. BUILD: a folder that cmake has configured, where the list
# of formats is. --check: status 0 if what it would make is there and newer than its sources and this file.
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

watched="$(find ref tools/playground -name '*.h') tools/playground/wasm.sh"  # its flags make the objects too
if [ "${2:-}" = --check ]; then
    [ -e $to/rotkv.wasm ] && [ -z "$(find "${sources[@]}" $watched -newer $to/rotkv.wasm -print -quit)" ] && exit
    echo "$to/rotkv.wasm is not there or older than its sources: ./dev docs makes it" >&2
    exit 1
fi
object_of() { echo "$to/objects/${1//\//+}.o"; }
compile() {  # SOURCE: unless its object is newer than it and what is watched
    local object
    object=$(object_of "$1")
    [ -e "$object" ] && [ -z "$(find "$1" $watched -newer "$object" -print -quit)" ] ||
        emcc $flags -c "$1" -o "$object"
}
export -f compile object_of
export to flags watched
mkdir -p $to/objects
printf '%s\0' "${sources[@]}" |
    xargs -0 -n 1 -P "$(getconf _NPROCESSORS_ONLN)" bash -euc 'compile "$0"'
emcc $(for one in "${sources[@]}"; do object_of "$one"; done) $linked -o $to/linked.js
sed 's/linked\.wasm/rotkv.wasm/' $to/linked.js > $to/rotkv.js
rm $to/linked.js
mv $to/linked.wasm $to/rotkv.wasm  # the last: --check looks at it alone
