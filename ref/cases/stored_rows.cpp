#include "ref/cases/stored_rows.h"

#include "ref/cases/agreement.h"
#include "ref/cases/case_of.h"
#include "ref/hadamard.h"
#include "ref/kernels.h"
#include "ref/quant.h"

#include <cmath>

namespace rotkv {

std::vector<float> StoredRows::values() const {
    std::vector<float> all(unrounded.size());
    for (int64_t r = 0; r < rows(); ++r) {
        ref::dequantize_row(type, all.data() + r * d, bytes.data() + r * row_bytes(type, d), d);
    }
    return all;
}

std::vector<float> StoredRows::reach() const {
    return reach_of_steps(type, d, bytes, unrounded, error);
}

StoredRows stored_rows(std::span<const float> rows, int64_t d, DType type,
                       const Rotation& rotation) {
    StoredRows all{type, d, {}, {rows.begin(), rows.end()}, {}};
    all.bytes.resize(size_t(all.rows() * row_bytes(type, d)));
    for (int64_t r = 0; r < all.rows(); ++r) {
        const std::vector<double> error =
            hadamard_bound(rows.subspan(size_t(r * d), size_t(d)), rotation);
        all.error.insert(all.error.end(), error.begin(), error.end());
        float* const row = all.unrounded.data() + r * d;
        ref::hadamard_row(row, row, d, rotation, false);
        ref::quantize_row(type, all.bytes.data() + r * row_bytes(type, d), row, d);
    }
    return all;
}

StoredRows moved_rows(const StoredRows& keys, const Rotation& rotation, const ShiftOfKeys& shift) {
    StoredRows after = keys;
    const std::vector<float> reach = keys.reach(), before = keys.values();
    const int64_t d = keys.d, bytes = row_bytes(keys.type, d);
    const double stages = rotation.on() ? std::log2(double(rotation.block)) + 2 : 0;
    for (int64_t r = 0; r < keys.rows(); ++r) {
        const int32_t turn = shift.row[size_t(r / shift.heads)];
        if (turn < 0) continue;
        double off = 0, length = 0;
        for (int64_t i = r * d; i < (r + 1) * d; ++i) {
            off += double(reach[size_t(i)]) * double(reach[size_t(i)]);
            length += double(before[size_t(i)]) * double(before[size_t(i)]);
        }
        float* const key = after.unrounded.data() + r * d;
        ref::hadamard_row(key, before.data() + r * d, d, rotation, true);
        ref::rope_row(key, key, d, shift.table.data() + turn * shift.n_rot, shift.n_rot,
                      shift.pairs);
        ref::hadamard_row(key, key, d, rotation, false);
        ref::quantize_row(keys.type, after.bytes.data() + r * bytes, key, d);
        std::fill_n(after.error.data() + r * d, d,
                    float(std::sqrt(off) + (2 * stages + 3) * k_unit * std::sqrt(length)));
    }
    return after;
}

std::vector<float> channels_of(std::span<const float> rows, int64_t d, int64_t first, int64_t n) {
    std::vector<float> part;
    for (size_t at = size_t(first); at < rows.size(); at += size_t(d)) {
        part.insert(part.end(), rows.begin() + int64_t(at), rows.begin() + int64_t(at) + n);
    }
    return part;
}

}  // namespace rotkv
