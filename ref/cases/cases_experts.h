#pragma once
// The table's rows of a mixture of experts, written as those of ref/cases/cases.h.
// Docs: docs/10-testing-your-engine.md

namespace rotkv {

// clang-format off
inline constexpr const char* k_expert_cases[] = {
    // route: every gating; what it can be told; groups, of one expert too
    "route/gating=@gating",
    "route/default",
    "route/gating=@gating/T=37/X=33/A=5/bias=1/normalise=1/scale=2.5/scaled=1",
    "route/T=37/X=33/A=5/bias=1/normalise=1",
    "route/T=0",
    "route/T=1/X=1/A=1",
    "route/gating=@gating/X=7/A=7/normalise=1",
    "route/gating=sigmoid/A=1",
    "route/T=113/X=128/A=8/normalise=1",
    "route/gating=softmax_chosen/T=37/X=32/A=4",
    "route/gating=sigmoid/T=37/X=256/A=8/groups=8/used=4/bias=1/normalise=1/scale=2.5",
    "route/T=37/X=160/A=6/groups=8/used=3/scale=16",
    "route/gating=sqrt_softplus/X=384/A=6/bias=1/normalise=1/scale=1.5",
    "route/gating=softmax_chosen/X=24/A=6/groups=6/used=2",
    "route/gating=sigmoid/X=7/A=3/groups=7/used=3",
    "route/T=37/X=512/A=10/normalise=1/scale=0/layout=padded",
    "route/gating=sigmoid/X=1000/A=22/bias=1/layout=padded",
    // route: ties; sizes; logits that are no numbers
    "route/X=16/A=5/values=ties",
    "route/gating=sigmoid/T=37/X=64/A=8/bias=1/values=ties",
    "route/gating=softmax_chosen/T=37/X=64/A=6/groups=16/used=3/values=ties",
    "route/gating=@gating/X=40/A=6/values=zeros",
    "route/X=40/A=6/groups=5/used=2/values=zeros",
    "route/gating=@gating/X=40/A=6/bias=1/normalise=1/values=tiny",
    "route/gating=softmax_chosen/X=40/A=6/values=huge",
    "route/gating=@gating/X=40/A=6/bias=1/normalise=1/values=huge",
    "route/gating=softmax_chosen/X=40/A=6/values=outlier",
    "route/X=40/A=6/values=nan",
    "route/gating=@gating/X=40/A=6/values=nan",
    "route/gating=@gating/X=40/A=6/groups=5/used=2/bias=1/normalise=1/values=nan",
    "route/gating=@gating/X=40/A=6/values=inf",
    "route/gating=sigmoid/X=40/A=6/groups=5/used=2/bias=1/values=inf",
    // expert_matmul: every weight type; one token; few of an expert, and many
    "expert_matmul/type=@weight",
    "expert_matmul/type=@weight/T=1/in=512/out=129/shared=1",
    "expert_matmul/type=@weight/T=40/X=3/in=512/shared=1/bias=1",
    "expert_matmul/type=@some/T=113/X=16/A=4/in=96/out=300/shared=1",
    "expert_matmul/type=@some/T=113/X=16/A=4/in=96/out=300",
    "expert_matmul/type=@some/T=26/X=2/A=1/in=8192/out=70",
    "expert_matmul/type=@some/T=37/A=1/ids=one",
    "expert_matmul/type=@some/T=5/A=8/bias=1",
    "expert_matmul/type=@some/T=1/X=1/A=1",
    "expert_matmul/type=@some/T=0",
    "expert_matmul/type=f32/T=2/in=515/out=1",
    "expert_matmul/type=@half/T=3/in=515/shared=1/bias=1",
    "expert_matmul/type=@weight/T=3/layout=padded",
    "expert_matmul/type=@some/T=37/X=3/shared=1/bias=1/layout=padded",
    "expert_matmul/type=@block/in=80",
    // expert_matmul: loud and quiet values side by side; values that f32 barely holds; no numbers
    "expert_matmul/type=@weight/T=1/values=outliers-zero-weight",
    "expert_matmul/type=@weight/T=40/X=3/shared=1/values=outliers-zero-weight",
    "expert_matmul/type=@some/values=@values",
    // expert_matmul: matrices of heads
    "expert_matmul/type=@some/T=1/X=16/A=16/in=128/out=512/ids=heads",
    "expert_matmul/type=@some/T=37/X=5/A=5/in=128/out=64/ids=heads",
    "expert_matmul/type=@some/T=37/X=5/A=5/in=128/out=64/ids=heads/layout=padded",
    // expert_matmul: with rounded factors
    "expert_matmul/type=@some/T=70/X=3/out=129/shared=1/precision=@half",
    "expert_matmul/type=@some/T=3/out=129/bias=1/precision=@half",
    "expert_matmul/type=q8_0/T=37/X=5/A=5/in=128/ids=heads/precision=@half/layout=padded",
    // expert_sum
    "expert_sum/default",
    "expert_sum/T=0",
    "expert_sum/T=1/A=1/E=1",
    "expert_sum/T=37/A=8/E=2881",
    "expert_sum/T=1/A=22/E=7168",
    "expert_sum/A=5/E=97/layout=padded",
    "expert_sum/A=3/values=@values",
};
// clang-format on

}  // namespace rotkv
