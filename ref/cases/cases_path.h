#pragma once
// The rows of the whole path in the table of cases; ref/cases/cases.h says how to read them.
// Docs: docs/10-testing-your-engine.md

namespace rotkv {

// clang-format off
inline constexpr const char* k_path_cases[] = {
    // path: types, rotations of one side, of both and of none
    "path/k=@kv/v=@same",
    "path/k=@kv/v=@same/rot-k=64/rot-v=64",
    "path/k=@some/v=@same/rot-k=64",
    "path/k=@some/v=@same/rot-v=64",
    "path/k=q8_0/v=q4_0/rot-k=64/rot-v=64",
    "path/k=@some/v=@same/T=1/H=9/K=3/rot-k=64/rot-v=64",
    "path/k=@some/v=@same/T=9/C=80/H=8/rot-k=64/rot-v=64",
    // path: K's block is the head, V's is not; signs that go on through the row
    "path/k=@some/v=@same/D=128/rot-k=128/rot-v=64",
    "path/k=@some/v=@same/D=128/rot-k=128:3/rot-v=64:3",
    "path/k=@some/v=@same/D=128/rot-k=128:3/rot-v=64:7",
    "path/k=@some/v=@same/D=256/rot-k=256/rot-v=64/window=16",
    "path/k=@some/v=@same/D=192/Dv=128/rot-k=64/rot-v=64",
    // path: windows, softcaps, sinks, latent attention
    "path/k=@some/v=@same/T=9/rot-k=64/rot-v=64/window=7",
    "path/k=@some/v=@same/rot-k=64/rot-v=64/window=16/chunked=1",
    "path/k=@some/v=@same/rot-k=64/rot-v=64/softcap=2",
    "path/k=@some/v=@same/rot-k=64/rot-v=64/sinks=4/loud=0.3",
    "path/k=@some/v=@same/H=8/K=1/D=192/v-in-k=1/Dv=128/rot-k=64:5/rot-v=64:5",
    "path/k=@some/v=@same/H=8/K=1/D=192/v-in-k=1/v-first=64/Dv=128/rot-k=64:5/rot-v=64:5",
    // path: the tokens behind the first four are removed, all later ones move up
    "path/k=@kv/v=@same/rot-k=64/rot-v=64/shift=8/keep=4",
    "path/k=@some/v=@same/shift=8/keep=4",
    "path/k=@some/v=@same/D=128/rot-k=128:3/rot-v=64:3/shift=16/keep=2/pairs=neox",
    "path/k=@some/v=@same/D=96/rot-k=32/rot-v=32/window=30/shift=8/keep=4/n_rot=32/pairs=neox",
    // path: engines that round q, K, V and p on their way; ours do what they do without
    "path/k=@kv/v=@same/rot-k=64/rot-v=64/precision=f16",
    "path/k=@kv/v=@same/rot-k=64/rot-v=64/precision=q8",
    "path/k=@some/v=@same/H=9/K=3/D=128/rot-k=128/rot-v=64/shift=8/keep=4/precision=q8",
};
// clang-format on

}  // namespace rotkv
