// turbo2, turbo3, turbo4: a block of 128, turned inside, as codes of its direction and a norm.
//   y = S2 H S1 x / |x|, codes the nearest levels c of a table, norm = |x| / |c|
//   value = S1 H S2 c norm
// S1, S2 are the first and the next 128 signs of numpy's generator with seed 42. S2 changes nothing
// but signs of codes; it is there because the bytes have it.
// Layout: f16 norm; turbo2: 32 bytes of 2-bit codes; turbo3: 32 bytes of the codes' low two bits,
// 16 of their third; turbo4: an f16 that is 0, 64 bytes of 4-bit codes. The lowest bits come first.
// Levels and borders follow from no rule: they are the fork's, in six digits. Those of turbo4 are
// not the best ones, which go to 0.2377: twice the error of tqmse4. Borders of turbo3 and turbo4
// are midpoints but for the last digit.
// Source: TheTom/llama-cpp-turboquant at 69d8e4b, ggml-turbo-quant.c: what its CPU code writes, in
// f32, every product and sum rounded. It reads rows as S2 H S1 x and turns queries and outputs
// instead, which is the same but for rounding.
#include "ref/hadamard.h"
#include "ref/half.h"
#include "ref/zoo/generator_signs.h"
#include "ref/zoo/zoo.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace rotkv::zoo {

namespace {

constexpr int64_t k_turbo_block = 128;
using Row = std::array<float, size_t(k_turbo_block)>;

// Above 0; below it lie the same with a minus.
struct Table {
    std::vector<float> levels;   // [K / 2]
    std::vector<float> borders;  // [K / 2 - 1]

    uint32_t code(float x) const {
        const uint32_t half = uint32_t(levels.size());
        uint32_t code = 0;
        for (size_t i = borders.size(); i-- > 0;) code += !(x < -borders[i]);
        code += !(x < 0);
        for (const float border : borders) code += !(x < border);
        return std::min(code, 2 * half - 1);
    }
    float level(uint32_t code) const {
        const uint32_t half = uint32_t(levels.size());
        return code < half ? -levels[half - 1 - code] : levels[code - half];
    }
};

const Table& table_of(int bits) {
    static const Table two{{0.039994f, 0.133462f}, {0.086728f}};
    static const Table three{{0.021460f, 0.065717f, 0.117832f, 0.190685f},
                             {0.043589f, 0.091775f, 0.154259f}};
    static const Table four{
        {0.006938f, 0.020989f, 0.035597f, 0.051262f, 0.068756f, 0.089527f, 0.117195f, 0.173926f},
        {0.013963f, 0.028293f, 0.043430f, 0.060009f, 0.079142f, 0.103361f, 0.145560f}};
    return bits == 2 ? two : bits == 3 ? three : four;
}

// y = T H S x in f32, the scale with the last signs.
Row turned(const Row& x, const std::vector<float>& first, const std::vector<float>& last) {
    Row y{};
    for (size_t i = 0; i < y.size(); ++i) y[i] = x[i] * first[i];
    ref::hadamard_block(y.data(), y.data(), k_turbo_block, 1);
    for (size_t i = 0; i < y.size(); ++i) y[i] *= rotation_scale(k_turbo_block) * last[i];
    return y;
}

class Turbo final : public BlockFormat {
  public:
    Turbo(const std::string& name, int bits)
        : BlockFormat(name, k_turbo_block), bits_(bits), table_(table_of(bits)) {}

    std::string unrotated_because() const override { return "rotates rows itself"; }

  protected:
    int64_t block_bytes(int64_t n) const override { return begin() + packed_bytes(n, bits_); }

    void encode_block(std::byte* bytes, std::span<const float> x,
                      const RowContext&) const override {
        float square = 0;
        for (const float value : x) square += value * value;
        const float norm = std::sqrt(square), inverse = norm > 1e-10f ? 1 / norm : 0;
        Row unit{};
        for (size_t i = 0; i < unit.size(); ++i) unit[i] = x[i] * inverse;
        const Row y = turned(unit, s1_, s2_);
        float kept = 0;
        for (size_t i = 0; i < y.size(); ++i) {
            const uint32_t code = table_.code(y[i]);
            put(bytes + begin(), int64_t(i), code);
            kept += table_.level(code) * table_.level(code);
        }
        put_number(bytes, f32_to_f16(norm / std::sqrt(kept)));
    }

    void decode_block(std::span<float> x, const std::byte* bytes,
                      const RowContext&) const override {
        const float norm = f16_to_f32(number_at<uint16_t>(bytes));
        Row y{};
        for (size_t i = 0; i < y.size(); ++i) {
            y[i] = table_.level(code(bytes + begin(), int64_t(i))) * norm;
        }
        const Row back = turned(y, s2_, s1_);
        std::copy(back.begin(), back.end(), x.begin());
    }

  private:
    int64_t begin() const { return bits_ == 4 ? 4 : 2; }

    // Of three bits, two lie together and the third behind all of these.
    void put(std::byte* codes, int64_t i, uint32_t code) const {
        if (bits_ != 3) return put_code(codes, i, bits_, code);
        put_code(codes, i, 2, code & 3);
        put_code(codes + k_turbo_block / 4, i, 1, code >> 2);
    }
    uint32_t code(const std::byte* codes, int64_t i) const {
        if (bits_ != 3) return code_at(codes, i, bits_);
        return code_at(codes, i, 2) | code_at(codes + k_turbo_block / 4, i, 1) << 2;
    }

    int bits_;
    const Table& table_;
    const std::vector<float> s1_ = numpy_signs(42, 0, k_turbo_block);
    const std::vector<float> s2_ = numpy_signs(42, k_turbo_block, k_turbo_block);
};

FormatFamily family_of(int bits) {
    const std::string name = "turbo" + std::to_string(bits);
    return {.name = name,
            .parameter = "",
            .what = std::to_string(bits) +
                    "-bit codes of 128 turned values, and a norm, as a fork of llama.cpp has them",
            .members = {name},
            .make = [bits](const std::string& asked, const std::string& parameter) {
                return parameter.empty() ? std::make_shared<Turbo>(asked, bits) : nullptr;
            }};
}

}  // namespace

std::vector<FormatFamily> format_turbo() { return {family_of(2), family_of(3), family_of(4)}; }

}  // namespace rotkv::zoo
