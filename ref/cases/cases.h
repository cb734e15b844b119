#pragma once
// THE TABLE: every case on which a backend, or another engine, is held to the reference. A row is
// an operation and its fields (ref/cases/case.h says what a name means, ref/cases/case_*.cpp what
// each field of an operation does); "@list" makes one case per word of the list, "@same" repeats
// the field before. What is not written is the default: 7 rows, heads of 64, packed, about normal.
// Those of attention, norms, states and experts come last, from files of their own:
// cases_attention.h, cases_norms.h, cases_delta.h, cases_experts.h.
// Docs: docs/10-testing-your-engine.md

#include "ref/types.h"

#include <span>
#include <vector>

namespace rotkv {

struct CaseList {
    const char* name;
    std::vector<const char*> words;
};

inline std::vector<const char*> type_names(std::span<const DType> types) {
    std::vector<const char*> names;
    for (const DType type : types) names.push_back(type_info(type).name);
    return names;
}

// clang-format off
inline const CaseList k_case_lists[] = {
    {"@kv", type_names(cache_types())},
    {"@block", type_names(quantized_types())},
    {"@some", {"f16", "q8_0", "q4_0"}},
    {"@rough", {"q8_0", "q4_0"}},
    {"@half", {"f16", "bf16"}},
    {"@plain", {"f32", "f16", "bf16"}},
    {"@capped", {"softcap=2", "sinks=1"}},
    {"@long", {"f16", "q8_0", "q4_1"}},
    {"@weight", type_names(weight_types())},
    {"@N", {"1", "2", "4", "8", "16", "32", "64", "128", "256", "512", "1024"}},
    {"@layout", {"padded", "in_place"}},
    {"@values", {"outlier", "tiny", "huge", "zeros", "inf", "nan"}},
    {"@loud", {"outliers", "outliers-zero-weight"}},
    {"@few", {"T=1", "T=2", "T=3", "T=8", "T=12", "T=33"}},
    {"@tokens", {"0", "1", "2", "37"}},
    {"@taps", {"1", "2", "3", "8", "9"}},
    {"@odd", {"1", "7", "33", "100", "256", "260"}},
    {"@gating", {"sigmoid", "softmax_chosen", "sqrt_softplus"}},
    {"@three", {"f32", "f16", "q8_0"}},
    {"@spoilt", {"nan", "inf"}},
    {"@cells", {"nan", "inf", "huge", "tiny"}},
    {"@bands", {"H=10/K=5", "H=14/K=7", "H=20/K=10", "H=22/K=11"}},
    {"@batch", {"T=2", "T=9", "T=12", "T=20", "T=33", "T=64", "T=130"}},
    {"@streams", {"T=9/S=3", "T=40/S=3", "T=27/S=9", "T=64/S=32", "T=130/S=32"}},
    {"@heads", {"96", "112", "128", "192", "256", "512", "576"}},
};

inline constexpr const char* k_cases[] = {
    // hadamard: every size as one block; many blocks of a small one; 64-blocks of heads that are no power of two
    "hadamard/rot=64",
    "hadamard/D=1024/rot=@N",
    "hadamard/D=1024/rot=@N/inverse=1",
    "hadamard/D=1024/rot=1024:5",
    "hadamard/D=1024/rot=1024:5/inverse=1",
    "hadamard/D=1/rot=1",
    "hadamard/D=2/rot=2",
    "hadamard/D=16/rot=16",
    "hadamard/D=128/rot=128",
    "hadamard/D=192/rot=64",
    "hadamard/D=192/rot=64:7",
    "hadamard/D=192/rot=64:7/inverse=1",
    "hadamard/D=320/rot=64",
    "hadamard/D=576/rot=64",
    "hadamard/D=576/rot=64:0/inverse=1",
    "hadamard/D=80/rot=16",
    "hadamard/D=96/rot=32",
    "hadamard/D=112/rot=16:1",
    "hadamard/D=128",
    // hadamard: numbers of rows, layouts, values
    "hadamard/rows=0/rot=64",
    "hadamard/rows=1/rot=64",
    "hadamard/rows=113/rot=64",
    "hadamard/rows=113/D=128/rot=128:3",
    "hadamard/rows=1000/D=256/rot=256",
    "hadamard/D=192/rot=64/layout=@layout",
    "hadamard/D=256/rot=256/layout=@layout",
    "hadamard/rows=113/D=96/rot=32:9/inverse=1/layout=@layout",
    "hadamard/rot=64/values=channels",
    "hadamard/rot=64/values=@values",
    "hadamard/D=512/rot=512:2/values=@values",
    "hadamard/rot=64/inverse=1/values=@values",
    // hadamard: halves
    "hadamard/rot=64/type=@half",
    "hadamard/D=1024/rot=@N/type=@half",
    "hadamard/D=1024/rot=@N/inverse=1/type=@half",
    "hadamard/D=1024/rot=1024:5/type=@half",
    "hadamard/D=1024/rot=1024:5/inverse=1/type=@half",
    "hadamard/D=1/rot=1/type=@half",
    "hadamard/D=2/rot=2/type=@half",
    "hadamard/D=16/rot=16/type=@half",
    "hadamard/D=128/rot=128/type=@half",
    "hadamard/D=192/rot=64:7/type=@half",
    "hadamard/D=192/rot=64:7/inverse=1/type=@half",
    "hadamard/D=576/rot=64/inverse=1/type=@half",
    "hadamard/D=80/rot=16/type=@half",
    "hadamard/D=84/rot=4:1/type=@half",
    "hadamard/D=128/type=@half",
    "hadamard/rows=0/rot=64/type=@half",
    "hadamard/rows=113/D=128/rot=128:3/type=@half",
    "hadamard/rows=1000/D=256/rot=256/type=@half",
    "hadamard/D=192/rot=64/type=@half/layout=@layout",
    "hadamard/D=512/rot=512/type=@half/layout=@layout",
    "hadamard/rows=113/D=100/rot=4:9/inverse=1/type=@half/layout=@layout",
    "hadamard/rot=64/type=@half/values=channels",
    "hadamard/rot=64/type=@half/values=@values",
    "hadamard/D=512/rot=512:2/inverse=1/type=@half/values=@values",

    // quantize: every cache type on every kind of row
    "quantize/type=@kv",
    "quantize/type=@kv/D=96",
    "quantize/type=@kv/rows=0",
    "quantize/type=@kv/rows=1/D=32",
    "quantize/type=@kv/rows=113/D=576",
    "quantize/type=@kv/rows=113/D=192/layout=padded",
    "quantize/type=@kv/rows=24/D=256/values=channels",
    "quantize/type=@kv/rows=24/D=256/values=@values",
    "quantize/type=@kv/rows=113/D=256/values=ties",
    "quantize/type=@kv/D=80",

    // dequantize: any bits are a value, scales of NaN and infinity too
    "dequantize/type=@weight",
    "dequantize/type=@weight/rows=113/D=512",
    "dequantize/type=@weight/layout=padded",
    "dequantize/type=@kv/rows=0/D=64",
    "dequantize/type=@kv/rows=1/D=32",
    "dequantize/type=@kv/D=96/values=normal",
    "dequantize/type=@weight/D=80/values=normal",

    // rope: whole heads and parts of them
    "rope/default",
    "rope/pairs=neox",
    "rope/T=0",
    "rope/T=1/H=1",
    "rope/T=113/H=9",
    "rope/D=80/n_rot=32",
    "rope/D=80/n_rot=80/pairs=neox",
    "rope/D=96/n_rot=6/pairs=neox",
    "rope/D=112/n_rot=112",
    "rope/D=256/n_rot=256/pairs=neox",
    "rope/D=576",
    "rope/layout=@layout",
    "rope/D=128/pairs=neox/layout=@layout",

    // kv_store: all types; every pair of them; sides rotated apart, in other blocks, with signs; tokens that are skipped
    "kv_store/k=@kv/v=@same",
    "kv_store/k=@kv/v=@kv/rot-k=64/rot-v=64",
    "kv_store/k=@kv/v=@same/rot-k=64",
    "kv_store/k=@kv/v=@same/rot-v=64",
    "kv_store/k=@kv/v=@same/rot-k=64:3/rot-v=32:3",
    "kv_store/k=@some/v=@same/T=0/rot-k=64/rot-v=64",
    "kv_store/k=@some/v=@same/T=1/K=1/rot-k=64/rot-v=64",
    "kv_store/k=@kv/v=@same/T=113/C=128/K=3/rot-k=64/rot-v=64",
    "kv_store/k=@some/v=@same/T=113/S=3/C=40/K=3/D=192/rot-k=64/rot-v=64",
    "kv_store/k=@some/v=@same/D=128/rot-k=128/rot-v=64",
    "kv_store/k=@kv/v=@same/D=256/rot-k=256/rot-v=64",
    "kv_store/k=@some/v=@same/D=192/Dv=128/rot-k=64/rot-v=64",
    "kv_store/k=@kv/v=@same/D=80/rot-k=16/rot-v=16",
    "kv_store/k=@kv/v=@same/D=112/rot-v=16",
    "kv_store/k=@kv/v=@same/D=96/rot-k=32/rot-v=32",
    "kv_store/k=@some/v=@same/D=320/rot-k=64/rot-v=64",
    "kv_store/k=@some/v=@same/D=512/rot-k=512/rot-v=64",
    "kv_store/k=@some/v=@same/D=576/rot-k=64/v-in-k=1",
    "kv_store/k=@kv/v=@same/T=40/S=2/C=32/rot-k=64/rot-v=64/layout=padded",
    "kv_store/k=@kv/v=@same/rot-k=64/rot-v=64/values=@values",
    "kv_store/k=@kv/v=@same/T=70/C=70/K=8/D=128/rot-k=128/rot-v=64/fill=dense",

    // kv_shift: through the rotation and back
    "kv_shift/k=@kv",
    "kv_shift/k=@kv/rot-k=64",
    "kv_shift/k=@kv/rot-k=64:11/pairs=neox",
    "kv_shift/k=@some/S=3/C=33/K=3/rot-k=32",
    "kv_shift/k=@some/D=128/rot-k=128/n_rot=128/pairs=neox",
    "kv_shift/k=@some/D=256/rot-k=256/n_rot=48",
    "kv_shift/k=@some/D=80/n_rot=32",
    "kv_shift/k=@some/C=70/K=8/D=128/rot-k=128/fill=dense/n_rot=128",
    "kv_shift/k=@kv/C=33/rot-k=64/layout=padded",


    // restore: stored, saved to a file, loaded into another cache
    "restore/k=@kv/v=@same/rot-k=64/rot-v=64",
    "restore/k=f16/v=q4_0/T=40/S=3/C=20/D=128/Dv=64/rot-k=128:2/rot-v=64:2",

    // act_mul: small and large arguments of exp
    "act_mul/default",
    "act_mul/act=gelu_tanh",
    "act_mul/rows=0",
    "act_mul/rows=113/D=1",
    "act_mul/D=1536/spread=20",
    "act_mul/act=gelu_tanh/D=1536/spread=5",
    "act_mul/D=97/layout=@layout",
    "act_mul/act=gelu_tanh/D=97/layout=@layout",
    "act_mul/act=sigmoid/D=97/layout=@layout",
    "act_mul/act=swiglu_oai/D=97/layout=@layout",
    "act_mul/act=sigmoid/rows=1/D=1536/spread=20",
    "act_mul/act=swiglu_oai/rows=1/D=1536/spread=5",
    "act_mul/act=swiglu_oai/rows=1/D=1536/spread=20",
    "act_mul/values=@values",
    "act_mul/act=gelu_tanh/values=@values",
    "act_mul/act=sigmoid/values=@values",
    "act_mul/act=swiglu_oai/values=@values",
    // add
    "add/default",
    "add/rows=0",
    "add/rows=113/D=7",
    "add/D=576/bias=1",
    "add/D=96/layout=@layout",
    "add/D=96/bias=1/layout=@layout",

    // matmul: every weight type, for one token, few, and many
    "matmul/type=@weight",
    "matmul/type=@weight/T=1",
    "matmul/type=@weight/T=2/in=768/out=192",
    "matmul/type=@weight/T=33/in=512/out=129",
    "matmul/type=@some/T=20/in=160/out=8100",
    "matmul/type=@weight/T=1/in=1536/out=576",
    "matmul/type=@kv/T=5/in=96/out=1",
    "matmul/type=@kv/T=0",
    "matmul/type=@plain/T=20/in=0",
    "matmul/type=@some/T=113/in=576/out=300",
    "matmul/type=@weight/T=5/layout=padded",
    "matmul/type=@weight/T=1/layout=padded",
    "matmul/type=@weight/T=3/in=768",
    "matmul/type=@weight/T=4/in=768",
    "matmul/type=@weight/T=12/in=768",
    "matmul/type=f32/T=1/in=515",
    "matmul/type=@half/T=3/in=515",
    "matmul/type=@block/in=80",
    // matmul: loud and quiet values side by side; values that f32 barely holds; no numbers
    "matmul/type=@weight/@few/values=@loud",
    "matmul/type=@weight/T=8/values=@values",
    "matmul/type=@some/T=33/values=@values",
    "matmul/type=@weight/T=3/in=1792/out=9/values=outliers-zero-weight",
    // matmul: sums long enough for what cuda multiplies on tensor cores; of one sign, which drift
    // where additions cut off; of weights that have no terms
    "matmul/type=@three/T=70/in=576/out=129/values=@values",
    "matmul/type=@three/T=70/in=576/out=129/values=@loud",
    "matmul/type=@three/T=70/in=1536/out=129/values=positive",
    "matmul/type=f32/T=113/in=576/out=300/values=positive",
    "matmul/type=@plain/T=70/in=576/out=129/values=wild-weight",
    "matmul/type=f32/T=130/in=324/out=25",
    "matmul/type=f32/T=300/in=580/out=577/layout=padded",
    "matmul/type=f16/T=300/in=580/out=577/layout=padded",
    // matmul: with rounded factors
    "matmul/type=@weight/T=33/in=512/out=129/precision=@half",
    "matmul/type=@some/T=113/in=576/out=300/precision=@half",
    "matmul/type=@some/T=1/in=576/out=300/precision=@half",
    "matmul/type=@some/T=20/precision=@half/layout=padded",
    // embed
    "embed/type=@weight",
    "embed/type=@weight/T=1/V=3/E=512",
    "embed/type=@weight/layout=padded",
    "embed/type=f32/T=0",
    // nll, kld, logits: few words and more than one panel of them, which are 8192 on a device
    "nll/type=@some",
    "nll/type=f32/T=1",
    "nll/type=f32/T=37/V=3001",
    "nll/type=q8_0/T=70/V=5000/E=256/softcap=30",
    "nll/type=q6_K/V=1000/E=256",
    "nll/type=f16/V=2/E=32",
    "nll/type=f16/T=9/V=20000/E=32",
    "kld/type=@some",
    "kld/type=f32/T=37/V=3001",
    "kld/type=q8_0/T=5/V=1000/E=256/softcap=30",
    "kld/type=f16/T=9/V=20000/E=32",
    "logits/type=@some",
    "logits/type=f32/T=64/V=1001",
    "logits/type=q4_0/T=1/V=3001",
    "logits/type=q6_K/T=3/E=256/softcap=30",
    // ... and with long sums
    "nll/type=@some/T=37/V=9000/E=384",
    "kld/type=f16/T=33/V=1000/E=576",
    "logits/type=q8_0/T=33/E=576",
};
// clang-format on

}  // namespace rotkv
