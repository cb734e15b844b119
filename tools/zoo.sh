# ./dev zoo: the words of dev, which reads this file, are known here.
# Docs: docs/28-all-formats.md

zoo() {  # [FORMATS [TOKENS [WINDOWS]]]: every step goes on where it was stopped
    local programs=$root/build/release at=$root/build/zoo one stem block name python d
    local size=(-c "${2:-256}" --chunks "${3:-8}") signed=signed:1,signed:2,signed:3,signed:4,signed:5
    need python3=python3 python3-matplotlib python3-numpy
    fetch >&2
    build all
    mkdir -p "$at"
    cd "$at"
    python=$(python_with 'matplotlib, numpy')
    tail -c 300000 "$cache/wiki.test.raw" > tail.txt  # none of its windows is measured
    for one in smollm2,64,$smollm2 gemma,256,$gemma; do
        IFS=, read -r stem block name <<< "$one"
        [ -f $stem-v.npy ] || "$programs/rotkv-calibrate" -m "$cache/$name" -f tail.txt -o $stem
        "$programs/rotkv-sweep" -m "$cache/$name" -f "$cache/wiki.test.raw" "${size[@]}" -t 1 \
            --formats "${1:-all}" --rot off,$block,$signed,calibrated:$stem --out $stem.jsonl
    done
    "$python" "$programs/plot.py" formats smollm2.jsonl gemma.jsonl zoo.png
    "$python" "$root/tests/head_models.py" .
    for one in 80,16 96,32 192,64; do  # heads, and the largest block that fits them
        IFS=, read -r d block <<< "$one"
        "$programs/rotkv-sweep" -m head$d.gguf -f "$cache/wiki.test.raw" -c 128 --chunks 16 -t 1 \
            --formats q4_0,nvfp4,tqmse3:lsq,tqmse4:lsq --rot off,$block,kronecker,$signed \
            --out head$d.jsonl
    done
}
