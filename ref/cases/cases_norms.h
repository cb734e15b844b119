#pragma once
// The table's rows of norms and of scale, written as those of ref/cases/cases.h.
// Docs: docs/10-testing-your-engine.md

namespace rotkv {

// clang-format off
inline constexpr const char* k_norm_cases[] = {
    // rms_norm
    "rms_norm/default",
    "rms_norm/rows=0",
    "rms_norm/rows=1/D=1",
    "rms_norm/rows=113/D=7",
    "rms_norm/D=576",
    "rms_norm/D=2048",
    "rms_norm/D=96/layout=@layout",
    "rms_norm/values=outlier",
    "rms_norm/values=zeros",
    "rms_norm/weight=off",
    "rms_norm/rows=113/D=7/weight=off",
    "rms_norm/D=96/weight=off/layout=@layout",
    // layer_norm: means that the squares would drown in
    "layer_norm/default",
    "layer_norm/rows=0",
    "layer_norm/rows=1/D=1",
    "layer_norm/rows=113/D=7",
    "layer_norm/D=2048/mean=0",
    "layer_norm/D=576/mean=1000",
    "layer_norm/D=5120/mean=-30",
    "layer_norm/D=96/layout=@layout",
    "layer_norm/values=outlier",
    "layer_norm/values=zeros",
    // scale
    "scale/default",
    "scale/T=0",
    "scale/T=113/H=1/D=7",
    "scale/T=5/H=1/D=2048",
    "scale/factor=1",
    "scale/T=33/H=5/D=97/factor=1",
    "scale/D=96/factor=1/layout=@layout",
    "scale/D=96/layout=@layout",
    "scale/factor=1/values=@values",
};
// clang-format on

}  // namespace rotkv
