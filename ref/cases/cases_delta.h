#pragma once
// The table's rows of layers that keep a state, written as those of ref/cases/cases.h.
// Docs: docs/10-testing-your-engine.md

namespace rotkv {

// clang-format off
inline constexpr const char* k_delta_cases[] = {
    // conv_step, delta_step: one token, streams in turn and without tokens, odd sizes
    "conv_step/default",
    "conv_step/T=@tokens",
    "conv_step/T=29/S=5/channels=33/n=@taps",
    "conv_step/T=300/S=3/channels=515",
    "conv_step/T=9/channels=97/layout=@layout",
    "conv_step/T=19/values=@values",
    "delta_step/heads=interleaved",
    "delta_step/T=@tokens",
    "delta_step/T=29/S=5/Hk=3/Hv=6/D=@odd",
    "delta_step/T=9/Hk=1/Hv=3/D=80/layout=@layout",
    "delta_step/T=150/S=3/Hv=6/D=128/heads=interleaved",
    "delta_step/T=40/S=1/D=@odd/spread=40",
    "delta_step/T=19/D=64/values=@values",
};
// clang-format on

}  // namespace rotkv
