# ./dev fuzz and ./dev fuzz-metadata: the words of dev, which reads this file, are known here.
# Docs: docs/CONTRIBUTING.md

fuzz() {  # SECONDS: starts from the corpus; what it learns and finds stays in build/fuzz
    local at=build/fuzz name status=0
    need_clang
    configure fuzz OFF; cmake --build $at >&2
    for name in gguf tokenizer quant base_file cache_file llama_state; do
        mkdir -p $at/corpus/$name
        $at/fuzz_$name -max_total_time="$1" -timeout=10 -malloc_limit_mb=16 -print_final_stats=1 \
            -artifact_prefix=$at/$name- $at/corpus/$name tests/corpus_$name 2> $at/$name.log ||
            { status=1; echo "$name: a finding, see $at/$name.log"; continue; }
        sed -n "s/.*executed_units: */$name, no finding, executions: /p" $at/$name.log
    done; return $status
}

fuzz_metadata() {  # [SECONDS] MODEL...; without models, the small ones that tests compare with
    local seconds=300
    [[ ! "${1:-}" =~ ^[0-9]+$ ]] || { seconds=$1; shift; }
    [ $# -gt 0 ] || set -- ${ROTKV_DATA:+"$ROTKV_DATA"/golden/*.gguf}
    [ -e "${1:-}" ] || { say 'fuzz-metadata: skipped, no models: name some, or set ROTKV_DATA'; return; }
    build rotkv-perplexity
    need python3=python3
    python3 tests/fuzz_metadata.py --programs build/release --seconds "$seconds" "$@"
}
