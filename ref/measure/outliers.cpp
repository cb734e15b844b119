#include "ref/measure/outliers.h"

#include "ref/error.h"
#include "ref/quant.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rotkv {

namespace {

constexpr double k_unknown = std::numeric_limits<double>::quiet_NaN();

double sum_of_squares(std::span<const float> x) {
    double sum = 0;
    for (const float value : x) sum += double(value) * double(value);
    return sum;
}

double peak_of(std::span<const float> x) {
    double peak = 0;
    for (const float value : x) peak = std::max(peak, std::fabs(double(value)));
    return peak;
}

// Calls work(block) for each 32 values, the last of them possibly fewer.
template <class Work>
void for_each_block(std::span<const float> x, const Work& work) {
    constexpr std::size_t n = static_cast<std::size_t>(k_block);
    for (std::size_t i = 0; i < x.size(); i += n) work(x.subspan(i, std::min(n, x.size() - i)));
}

}  // namespace

double crest_factor(std::span<const float> x) {
    const double square = sum_of_squares(x);
    return square > 0 ? peak_of(x) / std::sqrt(square / double(x.size())) : k_unknown;
}

double participation(std::span<const float> x) {
    const double square = sum_of_squares(x);
    if (square == 0) return k_unknown;
    double fourth = 0;
    for (const float value : x) fourth += std::pow(double(value), 4);
    return fourth / square / square;
}

double offset_share(std::span<const float> x) {
    const double square = sum_of_squares(x);
    if (square == 0) return k_unknown;
    double offsets = 0;
    for_each_block(x, [&](std::span<const float> block) {
        double sum = 0;
        for (const float value : block) sum += double(value);
        offsets += sum * sum / double(block.size());
    });
    return std::sqrt(offsets / square);
}

void HeadStatistics::add(std::span<const float> x) {
    require(x.size() == square_.size(), ErrorCode::bad_argument, "outliers: a row of another head");
    ++rows_;
    for (std::size_t j = 0; j < x.size(); ++j) {
        const double v = double(x[j]), v2 = v * v;
        s1_ += v;
        s2_ += v2;
        s3_ += v2 * v;
        s4_ += v2 * v2;
        square_[j] += v2;
    }
    if (sum_of_squares(x) == 0) return;
    ++rows_not_zero_;
    mu_ += crest_factor(x);
    p4_ += participation(x);
    offset_ += offset_share(x);
    for_each_block(x, [&](std::span<const float> block) {
        if (sum_of_squares(block) == 0) return;
        crest_ += crest_factor(block);
        ++blocks_not_zero_;
    });
}

double HeadStatistics::mean_square(int64_t channel) const {
    return square_[std::size_t(channel)] / double(rows_);
}

HeadFigures HeadStatistics::figures() const {
    HeadFigures f;
    f.rows = rows_;
    const double n = double(rows_) * double(square_.size());
    const double mean = s1_ / n, a2 = s2_ / n, a3 = s3_ / n, a4 = s4_ / n;
    const double m2 = a2 - mean * mean;
    const double m4 = a4 - 4 * mean * a3 + 6 * mean * mean * a2 - 3 * std::pow(mean, 4);
    f.kurtosis = m2 > 0 ? unsigned_nan(m4 / (m2 * m2) - 3) : k_unknown;
    f.crest = unsigned_nan(crest_ / double(blocks_not_zero_));
    f.mu = unsigned_nan(mu_ / double(rows_not_zero_));
    f.p4 = unsigned_nan(p4_ / double(rows_not_zero_));
    f.offset = unsigned_nan(offset_ / double(rows_not_zero_));
    std::vector<double> rms;
    for (const double square : square_) rms.push_back(std::sqrt(square / double(rows_)));
    const auto quieter = [](double a, double b) {
        return !std::isnan(a) && (std::isnan(b) || a < b);
    };
    const auto loudest = std::max_element(rms.begin(), rms.end(), quieter);
    f.loudest = loudest - rms.begin();
    f.channel_ratio = unsigned_nan(*loudest / quantile(rms, 0.5));
    f.norm = unsigned_nan(std::sqrt(s2_ / double(rows_)));
    return f;
}

namespace {

// Rounding to a float of `bits` stored bits: ulp^2 / 12, where the smallest exponent is `lowest`.
double rounding_error(double x, int bits, int lowest) {
    if (x == 0) return 0;
    const double ulp = std::ldexp(1.0, std::max(std::ilogb(x), lowest) - bits);
    return ulp * ulp / 12;
}

// Codes to both sides of zero. Where one side is cut it has one step less than the peak's, and its
// end, if it lies beyond the last level, is stored as that.
double absmax_error(std::span<const float> x, const CodeInfo& codes) {
    const ref::BlockRange range = ref::block_range(x.data());
    const double steps = codes.steps;
    const double peak = std::fabs(double(range.peak)), step = peak / steps;
    const double each = step * step / 12,
                 opposite = range.peak > 0 ? -double(range.min) : range.max;
    double error = each * double(k_block - 1);
    if (codes.cut && opposite > (steps - 0.5) * step) {
        error += std::pow(opposite - (steps - 1) * step, 2) - each;
    }
    // Zero is a level: nobody is off by more than what it is.
    return std::min(error, sum_of_squares(x) - peak * peak);
}

double min_max_error(std::span<const float> x, const CodeInfo& codes) {
    const ref::BlockRange range = ref::block_range(x.data());
    const double step = (double(range.max) - double(range.min)) / codes.steps;
    return step * step / 12 * double(k_block - 2) +
           double(k_block) * rounding_error(range.min, 10, -14);
}

double uneven_error(std::span<const float> x, const CodeInfo& codes) {
    const int8_t *levels = codes.levels, *end = levels + codes.last + 1;
    const double unit = double(ref::block_range(x.data()).peak) / levels[0];
    if (unit == 0) return 0;
    double error = 0;
    for (const float value : x) {
        const double at = double(value) / unit;
        const int8_t* above = std::upper_bound(levels, end, at);
        if (at <= levels[0]) continue;  // the peak
        const double gap =
            above == end ? (at - above[-1]) * std::sqrt(12.0) : double(above[0] - above[-1]);
        error += gap * gap / 12 * unit * unit;
    }
    return error;
}

}  // namespace

double predicted_square_error(DType type, std::span<const float> x) {
    require(!is_block_type(type) || int64_t(x.size()) == k_block, ErrorCode::bad_argument,
            "outliers: expected a block of 32");
    const CodeInfo& codes = type_info(type).codes;
    double error = 0;
    switch (type) {
        case DType::f32:
            return 0;
        case DType::f16:
            for (const float value : x) error += rounding_error(value, 10, -14);
            return error;
        case DType::bf16:
            for (const float value : x) error += rounding_error(value, 7, -126);
            return error;
        case DType::q8_0:
        case DType::q5_0:
        case DType::q4_0:
            return absmax_error(x, codes);
        case DType::q5_1:
        case DType::q4_1:
            return min_max_error(x, codes);
        case DType::iq4_nl:
            return uneven_error(x, codes);
        case DType::q2_k:
        case DType::q3_k:
        case DType::q4_k:
        case DType::q5_k:
        case DType::q6_k:
        case DType::iq4_xs:
        case DType::mxfp4:
        case DType::i32:
        case DType::f64:
            break;
    }
    throw Error(ErrorCode::unsupported,
                std::string("outliers: no cache uses ") + type_info(type).name);
}

TypeErrors::TypeErrors(const CacheType& type, int64_t d, const RowContext& of)
    : type_(type),
      of_(of),
      back_(static_cast<std::size_t>(d)),
      error_(back_.size()),
      predicted_(static_cast<std::size_t>((d + k_block - 1) / k_block)),
      sum_(back_.size()),
      sum2_(back_.size()) {
    require(d % type_info(type.cells()).block_elements == 0, ErrorCode::bad_argument,
            "outliers: expected whole blocks");
    ref::check_quantize_row(type.cells(), d);
    const std::string refusal = type.refusal(d);
    if (!refusal.empty()) throw Error(ErrorCode::unsupported, type.name() + ": " + refusal);
    if (type.group() > 1) {
        throw Error(ErrorCode::unsupported, type.name() + ": keeps " +
                                                std::to_string(type.group()) +
                                                " tokens together, no row by itself");
    }
    packed_.resize(std::size_t(row_bytes(type, d)));
}

// To bytes and back.
void TypeErrors::store(std::span<const float> x) {
    const int64_t d = int64_t(x.size());
    if (const Format* format = type_.format(); format != nullptr) {
        format->encode(packed_, x, of_);
        format->decode(back_, packed_, of_);
        return;
    }
    ref::quantize_row(type_.cells(), packed_.data(), x.data(), d);
    ref::dequantize_row(type_.cells(), back_.data(), packed_.data(), d);
}

void TypeErrors::add(std::span<const float> x) {
    require(x.size() == back_.size(), ErrorCode::bad_argument, "outliers: a row of another head");
    store(x);
    for (std::size_t j = 0; j < x.size(); ++j) {
        const double e = double(back_[j]) - double(x[j]);
        error_[j] = float(e);
        sum_[j] += e;
        sum2_[j] += e * e;
    }
    last_predicted_.clear();
    for_each_block(x, [&](std::span<const float> block) {
        last_predicted_.push_back(
            type_.format() != nullptr ? k_unknown : predicted_square_error(type_.cells(), block));
    });
    for (std::size_t b = 0; b < predicted_.size(); ++b) predicted_[b] += last_predicted_[b];
    square_ += sum_of_squares(x);
    ++rows_;
}

ErrorPair TypeErrors::relative() const {
    ErrorPair sum;
    for (const double error : predicted_) sum.predicted += error;
    for (const double error : sum2_) sum.measured += error;
    return {unsigned_nan(sum.predicted / square_), unsigned_nan(sum.measured / square_)};
}

ErrorPair TypeErrors::score_noise(std::span<const double> q_square) const {
    require(q_square.size() == back_.size(), ErrorCode::bad_argument,
            "outliers: queries of another head");
    ErrorPair noise;
    const double n = double(rows_);
    for (std::size_t j = 0; j < back_.size(); ++j) {
        const std::size_t b = j / std::size_t(k_block);
        const double in_block =
            double(std::min(std::size_t(k_block), back_.size() - b * std::size_t(k_block)));
        noise.predicted += q_square[j] * predicted_[b] / in_block / n;
        noise.measured += q_square[j] * (sum2_[j] / n - (sum_[j] / n) * (sum_[j] / n));
    }
    return {unsigned_nan(noise.predicted), unsigned_nan(noise.measured)};
}

// ln(a / b)
static double log_ratio(double a, double b) { return a == b ? 0 : unsigned_nan(std::log(a / b)); }

Mean log_gain(std::span<const double> plain, std::span<const double> rotated) {
    require(plain.size() == rotated.size(), ErrorCode::bad_argument, "outliers: other heads");
    double a = 0, b = 0;
    for (const double error : plain) a += error;
    for (const double error : rotated) b += error;
    const double n = double(plain.size());
    if (plain.size() < 2) return {log_ratio(a, b), k_unknown};
    std::vector<double> without;
    for (std::size_t i = 0; i < plain.size(); ++i) {
        without.push_back(log_ratio(a - plain[i], b - rotated[i]));
    }
    // Each of these leaves out one head, so that they differ n - 1 times less than heads do.
    return {log_ratio(a, b), (n - 1) * mean_of(without).error};
}

std::size_t decisive_head(std::span<const double> plain, std::span<const double> rotated) {
    double a = 0, b = 0, largest = -1;
    for (const double error : plain) a += error;
    for (const double error : rotated) b += error;
    std::size_t decisive = 0;
    for (std::size_t i = 0; i < plain.size(); ++i) {
        const double moved = std::fabs(log_ratio(a - plain[i], b - rotated[i]) - log_ratio(a, b));
        if (moved > largest) largest = moved, decisive = i;
    }
    return decisive;
}

std::optional<Advice> advise_without_gain(double plain, double rotated) {
    if (is_number(plain) && is_number(rotated)) return std::nullopt;
    if (is_number(rotated)) return Advice::only_rotated;
    return is_number(plain) ? Advice::only_plain : Advice::neither;
}

Advice advise(const Mean& measured, const Mean& predicted) {
    const double law = std::fabs(measured.value - predicted.value);
    const double margin = std::isnan(measured.error) ? law : std::max(2 * measured.error, law);
    if (measured.value > margin) return Advice::rotate;
    if (measured.value < -margin) return Advice::hurts;
    return Advice::indifferent;
}

}  // namespace rotkv
