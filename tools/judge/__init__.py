"""rotkv-judge: an installed engine, held against rotkv end to end.

    python3 -m rotkv.judge -m model.gguf --engine xllamacpp

Docs: docs/29-judge.md"""
