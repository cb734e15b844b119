// Steps across a block's range, as KIVI takes them along a token, with few bits.
//   kivi:BITS   scale = (max - min) / (2^b - 1), code = round((x - min) / scale), both f16, for 32
//               values, or 64 or 128: "kivi:2-128". value = scale code + min. This is what KIVI
//               does with values.
//   kivi_keys:BITS
//               the same for 32 tokens of one channel, or 64 or 128: what KIVI does with keys, a
//               few channels of which are loud in every token.
//   q2row       2 bits like ggml's q2_K, whose 256 values would not fit a head: 16 values have a
//               scale and a minimum of 4 bits each, in units of two f16 of the whole head,
//               value = d sc code - dmin mn, mn >= 0. Scales as plain as they can be: from the
//               range, without q2_K's search.
// Layout: kivi: f16 scale, f16 min, codes. kivi_keys: that of each channel, one after the other; a
// token's share is 1 / G of a group, padded to a byte. q2row: f16 d, f16 dmin, a byte sc + 16 mn
// for each 16 values, then the codes. Source: KIVI (arXiv 2402.02750); ggml's q2_K.
#include "ref/half.h"
#include "ref/quant.h"
#include "ref/zoo/zoo.h"

#include <algorithm>
#include <cmath>

namespace rotkv::zoo {

namespace {

// f16(value), read back.
float in_f16(float value) { return f16_to_f32(f32_to_f16(value)); }

// (x + minimum) / scale to the nearest of the codes.
uint32_t code_of(float x, float minimum, float scale, int bits) {
    const float last = float((1 << bits) - 1);
    if (scale == 0) return 0;
    return uint32_t(std::clamp(std::round((x - minimum) / scale), 0.0f, last));
}

class Kivi final : public BlockFormat {
  public:
    Kivi(const std::string& name, int bits, int64_t group)
        : BlockFormat(name, group), bits_(bits) {}

  protected:
    int64_t block_bytes(int64_t n) const override { return 4 + packed_bytes(n, bits_); }

    void encode_block(std::byte* bytes, std::span<const float> x,
                      const RowContext&) const override {
        const auto [least, greatest] = std::ranges::minmax(x);
        const float steps = float((1 << bits_) - 1);
        const uint16_t minimum = f32_to_f16(least);
        const uint16_t scale = f32_to_f16((greatest - least) / steps);
        const bool good = all_finite(x) && ref::finite_f16(minimum) && ref::finite_f16(scale);
        put_number(bytes, good ? scale : k_nan_scale);
        if (!good) return;
        put_number(bytes + 2, minimum);
        for (size_t i = 0; i < x.size(); ++i) {
            put_code(bytes + 4, int64_t(i), bits_,
                     code_of(x[i], f16_to_f32(minimum), f16_to_f32(scale), bits_));
        }
    }

    void decode_block(std::span<float> y, const std::byte* bytes,
                      const RowContext&) const override {
        const float scale = f16_to_f32(number_at<uint16_t>(bytes));
        const float minimum = f16_to_f32(number_at<uint16_t>(bytes + 2));
        for (size_t i = 0; i < y.size(); ++i) {
            y[i] = scale * float(code_at(bytes + 4, int64_t(i), bits_)) + minimum;
        }
    }

  private:
    int bits_;
};

// Channels in place of rows: [G][D] as [D][G], a block for each channel.
class KiviKeys final : public Format {
  public:
    KiviKeys(const std::string& name, int bits, int64_t tokens)
        : Format(name), channel_(name, bits, tokens), tokens_(tokens) {}

    std::string refusal(int64_t) const override { return {}; }
    int64_t group() const override { return tokens_; }
    int64_t row_bytes(int64_t d) const override {
        return (channel_.row_bytes(d * tokens_) + tokens_ - 1) / tokens_;
    }
    std::string unrotated_because() const override { return "has a range for each channel"; }

    void encode(std::span<std::byte> codes, std::span<const float> rows,
                const RowContext& context) const override {
        const int64_t d = std::ssize(rows) / tokens_;
        std::vector<float> channels(rows.size());
        for (size_t i = 0; i < rows.size(); ++i) channels[in_channels(i, d)] = rows[i];
        channel_.encode(codes, channels, context);
    }

    void decode(std::span<float> rows, std::span<const std::byte> codes,
                const RowContext& context) const override {
        const int64_t d = std::ssize(rows) / tokens_;
        std::vector<float> channels(rows.size());
        channel_.decode(channels, codes, context);
        for (size_t i = 0; i < rows.size(); ++i) rows[i] = channels[in_channels(i, d)];
    }

  private:
    // Where value i of [G][D] is in [D][G].
    size_t in_channels(size_t i, int64_t d) const {
        return i % size_t(d) * size_t(tokens_) + i / size_t(d);
    }

    Kivi channel_;
    int64_t tokens_;
};

class Q2Row final : public BlockFormat {
  public:
    explicit Q2Row(const std::string& name) : BlockFormat(name, 0) {}

    std::string refusal(int64_t d) const override {
        if (d % k_part == 0) return {};
        return "needs a head size that is a multiple of 16, found " + std::to_string(d);
    }

  protected:
    static constexpr int64_t k_part = 16;
    static constexpr int k_bits = 2, k_steps = 3, k_units = 15;

    int64_t block_bytes(int64_t n) const override {
        return 4 + n / k_part + packed_bytes(n, k_bits);
    }

    void encode_block(std::byte* bytes, std::span<const float> x,
                      const RowContext&) const override {
        float widest = 0, lowest = 0;  // the largest scale, and the largest -min
        for_each_part(x, [&](int64_t, float scale, float below) {
            widest = std::max(widest, scale);
            lowest = std::max(lowest, below);
        });
        const float d = in_f16(widest / k_units), dmin = in_f16(lowest / k_units);
        const bool good = all_finite(x) && std::isfinite(d) && std::isfinite(dmin);
        put_number(bytes, good ? f32_to_f16(d) : k_nan_scale);
        if (!good) return;
        put_number(bytes + 2, f32_to_f16(dmin));
        std::byte* const codes = bytes + 4 + std::ssize(x) / k_part;
        for_each_part(x, [&](int64_t part, float scale, float below) {
            const uint32_t sc = code_of(scale, 0, d, 4), mn = code_of(below, 0, dmin, 4);
            bytes[4 + part] = std::byte(sc | mn << 4);
            for (int64_t i = part * k_part; i < (part + 1) * k_part; ++i) {
                const float minimum = -dmin * float(mn);
                put_code(codes, i, k_bits, code_of(x[size_t(i)], minimum, d * float(sc), k_bits));
            }
        });
    }

    void decode_block(std::span<float> y, const std::byte* bytes,
                      const RowContext&) const override {
        const float d = f16_to_f32(number_at<uint16_t>(bytes));
        const float dmin = f16_to_f32(number_at<uint16_t>(bytes + 2));
        const std::byte* const codes = bytes + 4 + std::ssize(y) / k_part;
        for (int64_t i = 0; i < std::ssize(y); ++i) {
            const uint32_t scales = std::to_integer<uint32_t>(bytes[4 + i / k_part]);
            y[size_t(i)] = d * float(scales & 15) * float(code_at(codes, i, k_bits)) -
                           dmin * float(scales >> 4);
        }
    }

  private:
    // The scale and -min of each 16 values; a minimum above 0 counts as 0.
    template <class Visit>
    static void for_each_part(std::span<const float> x, const Visit& visit) {
        for (int64_t part = 0; part < std::ssize(x) / k_part; ++part) {
            const auto values = x.subspan(size_t(part * k_part), size_t(k_part));
            const float least = std::min(0.0f, std::ranges::min(values));
            visit(part, (std::ranges::max(values) - least) / k_steps, -least);
        }
    }
};

// kivi or kivi_keys, which take the same words.
template <class Made>
std::shared_ptr<const Format> make_kivi(const std::string& asked, const std::string& parameter) {
    Parameters words(parameter);
    const int64_t bits = words.number(2, 8, 0), values = words.number(32, 128, 32);
    const bool known = values == 32 || values == 64 || values == 128;
    if (bits == 0 || !known || !words.empty()) return nullptr;
    return std::make_shared<Made>(asked, int(bits), values);
}

}  // namespace

std::vector<FormatFamily> format_range() {
    const auto q2 = [](const std::string& asked, const std::string& parameter) {
        return parameter.empty() ? std::make_shared<Q2Row>(asked) : nullptr;
    };
    return {{.name = "kivi",
             .parameter = "BITS, 2 to 8, and 32 (default), 64 or 128 values that share a range, "
                          "with a dash",
             .what = "even steps from a minimum, f16 scale and minimum along a token",
             .members = {"kivi:2", "kivi:2-64", "kivi:4"},
             .make = make_kivi<Kivi>},
            {.name = "kivi_keys",
             .parameter = "BITS, 2 to 8, and 32 (default), 64 or 128 tokens that share a range, "
                          "with a dash",
             .what = "keys: the same along a channel, over groups of tokens",
             .members = {"kivi_keys:2", "kivi_keys:2-128", "kivi_keys:4"},
             .make = make_kivi<KiviKeys>},
            {.name = "q2row",
             .parameter = "",
             .what = "2 bits like q2_K: 4-bit scales and minimums of 16 values",
             .members = {"q2row"},
             .make = q2}};
}

}  // namespace rotkv::zoo
