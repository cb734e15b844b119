#include "tools/watch/first_not_finite.h"

#include "ref/format.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>
#include <variant>
#include <vector>

namespace rotkv::tools {

namespace {

template <class E>
bool all_finite(std::span<const E> x) {
    return std::all_of(x.begin(), x.end(), [](E value) { return std::isfinite(value); });
}

// The rows alone: what lies between them belongs to others.
template <class E>
bool rows_are_finite(Backend& backend, const TensorView& there) {
    std::vector<std::byte> host = contents<std::byte>(backend, there);
    TensorView rows = there;
    rows.data = host.data();
    for (int64_t i0 = 0; i0 < rows.n[0]; ++i0) {
        for (int64_t i1 = 0; i1 < rows.n[1]; ++i1) {
            for (int64_t i2 = 0; i2 < rows.n[2]; ++i2) {
                const E* row = rows.row<const E>(i0, i1, i2);
                if (!all_finite(std::span(row, std::size_t(rows.n[3])))) return false;
            }
        }
    }
    return true;
}

// The cells of one side that a batch was stored in, read back.
bool stored_is_finite(Backend& backend, const TensorView& cache, const KvStoreArgs& args) {
    const std::size_t per_cell = std::size_t(cache.n[2] * cache.n[3]);
    const Buffer memory(backend, std::size_t(cache.rows() * cache.n[3]) * sizeof(float));
    const TensorView back =
        memory.view(DType::f32, {cache.n[0], cache.n[1], cache.n[2], cache.n[3]});
    backend.run(DequantizeArgs{.dst = back, .src = cache});
    const std::vector<float> values = contents<float>(backend, back);
    const std::vector<int32_t> stream = contents<int32_t>(backend, args.stream);
    const std::vector<int32_t> cell = contents<int32_t>(backend, args.cell);
    for (std::size_t t = 0; t < cell.size(); ++t) {
        if (cell[t] < 0) continue;
        const std::size_t at = std::size_t(stream[t] * cache.n[1] + cell[t]) * per_cell;
        if (!all_finite(std::span(values).subspan(at, per_cell))) return false;
    }
    return true;
}

// What is wrong with what a call wrote, or nothing.
template <class Args>
std::string trouble_of(const Args& args, Backend& backend) {
    const std::string not_finite = "the result is not finite";
    if constexpr (std::is_same_v<Args, KvStoreArgs>) {
        const auto lost = [&](const char* side, const TensorView& cache, const FormatRows& rows) {
            if (cache.empty() || stored_is_finite(backend, cache, args)) return std::string();
            return std::string(side) + " does not fit " +
                   (rows.format != nullptr ? rows.format->name() : type_info(cache.type).name);
        };
        const std::string k = lost("K", args.k_cache, args.k_format);
        return k.empty() ? lost("V", args.v_cache, args.v_format) : k;
    } else if constexpr (std::is_same_v<Args, NllArgs>) {
        return rows_are_finite<double>(backend, args.nll) ? "" : not_finite;
    } else if constexpr (requires { args.dst; }) {
        if (args.dst.type != DType::f32) return "";
        return rows_are_finite<float>(backend, args.dst) ? "" : not_finite;
    } else {
        return "";  // kv_shift and kld: no part of a run over a text
    }
}

}  // namespace

Observer FirstNotFinite::observer() {
    return [this](int64_t layer, const Call& call, Backend& backend) {
        backend.run(call);
        if (!words_.empty()) return;
        const std::string trouble =
            std::visit([&](const auto& args) { return trouble_of(args, backend); }, call);
        if (trouble.empty()) return;
        if (layer >= 0) words_ = "layer " + std::to_string(layer) + ", ";
        words_ += std::string(name_of(call)) + ": " + trouble;
    };
}

}  // namespace rotkv::tools
