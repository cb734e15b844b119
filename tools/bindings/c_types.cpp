// rotkv.h: types, formats of caches, rotations in words.
#include "ref/cache_type.h"
#include "ref/quant.h"
#include "ref/rotation_words.h"
#include "tools/bindings/open_model.h"
#include "tools/loaded_model.h"

using namespace rotkv;
using namespace rotkv::bindings;

// All names, made once and kept: what is given out stays where it is.
static const std::vector<std::string>& names_of_cache_types() {
    static const std::vector<std::string> names = [] {
        std::vector<std::string> all;
        for (const DType type : cache_types()) all.push_back(type_info(type).name);
        const std::vector<std::string> formats = names_of_formats();
        all.insert(all.end(), formats.begin(), formats.end());
        return all;
    }();
    return names;
}

static CacheType cache_type_of(const char* name) {
    return tools::parse_cache_type("cache type", text_at(name, "cache_type"));
}

// Bytes of a row. Throws Error(unsupported) where there is none.
static int64_t bytes_of(const CacheType& type, int64_t d) {
    require_number("d", d, 1, int64_t(1) << 30);
    const std::string refusal = type.refusal(d);
    if (!refusal.empty()) throw Error(ErrorCode::unsupported, type.name() + ": " + refusal);
    return row_bytes(type, d);
}

rotkv_status rotkv_type_number(const char* name, int32_t* type) {
    return at_border([&] {
        needed(type, "type");
        *type = int32_t(parse_type(text_at(name, "name")));
    });
}

size_t rotkv_cache_type_count(void) { return names_of_cache_types().size(); }

const char* rotkv_cache_type_name(size_t index) {
    const std::vector<std::string>& names = names_of_cache_types();
    return index < names.size() ? names[index].c_str() : nullptr;
}

rotkv_status rotkv_row_bytes(const char* cache_type, int64_t d, int64_t* bytes) {
    return at_border([&] { needed(bytes, "bytes") = bytes_of(cache_type_of(cache_type), d); });
}

rotkv_status rotkv_bits_per_value(const char* cache_type, int64_t d, double* bits) {
    return at_border([&] {
        needed(bits, "bits") = 8.0 * double(bytes_of(cache_type_of(cache_type), d)) / double(d);
    });
}

namespace {

// Rows in a format or a type, one after the other.
struct Coding {
    CacheType type;
    rotkv_rows rows;
    int64_t bytes;  // of a row
    std::span<const int32_t> positions;

    Coding(const char* cache_type, const rotkv_rows* given, const void* codes,
           std::size_t codes_bytes, const float* x)
        : type(cache_type_of(cache_type)),
          rows(known_part(given, "rows")),
          bytes(bytes_of(type, rows.d)) {
        require_number("rows.rows", rows.rows, 0, (int64_t(1) << 40) / rows.d);
        if (rows.rows % type.group() != 0) {
            refuse("rows.rows",
                   "a multiple of " + std::to_string(type.group()) + " tokens, which " +
                       type.name() + " keeps together",
                   std::to_string(rows.rows));
        }
        require_number("rows.side", rows.side, 0, 1);
        require_number("rows.layer", rows.layer, 0, 1 << 30);
        require_number("rows.kv_head", rows.kv_head, 0, 1 << 30);
        if (std::size_t(rows.rows * bytes) > codes_bytes) {
            refuse("codes", std::to_string(rows.rows * bytes) + " bytes",
                   std::to_string(codes_bytes));
        }
        if (rows.positions != nullptr) {
            positions = indices(rows.positions, rows.rows, "rows.positions", 0, INT32_MAX);
        }
        if (rows.rows == 0) return;
        require_pointer(codes, "codes");
        needed(x, "x");
    }

    RowContext context(int64_t row) const {
        return {.layer = rows.layer,
                .kv_head = rows.kv_head,
                .side = rows.side == 0 ? Side::k : Side::v,
                .position = positions.empty() ? 0 : positions[std::size_t(row)]};
    }
};

}  // namespace

rotkv_status rotkv_encode(const char* cache_type, const rotkv_rows* rows, const float* x,
                          void* codes, size_t codes_bytes) {
    return at_border([&] {
        const Coding coding(cache_type, rows, codes, codes_bytes, x);
        const int64_t group = coding.type.group();
        const std::size_t d = std::size_t(group * coding.rows.d);
        const std::size_t bytes = std::size_t(group * coding.bytes);
        for (int64_t r = 0; r < coding.rows.rows; r += group) {
            const std::span<const float> row(x + r * coding.rows.d, d);
            const std::span<std::byte> to(static_cast<std::byte*>(codes) + r * coding.bytes, bytes);
            if (coding.type.format() != nullptr) {
                std::ranges::fill(to, std::byte(0));
                coding.type.format()->encode(to, row, coding.context(r));
            } else {
                std::vector<std::byte> aligned(bytes);
                rotkv::ref::quantize_row(coding.type.cells(), aligned.data(), row.data(),
                                         coding.rows.d);
                std::ranges::copy(aligned, to.begin());
            }
        }
    });
}

rotkv_status rotkv_decode(const char* cache_type, const rotkv_rows* rows, const void* codes,
                          size_t codes_bytes, float* x) {
    return at_border([&] {
        const Coding coding(cache_type, rows, codes, codes_bytes, x);
        const int64_t group = coding.type.group();
        const std::size_t d = std::size_t(group * coding.rows.d);
        const std::size_t bytes = std::size_t(group * coding.bytes);
        for (int64_t r = 0; r < coding.rows.rows; r += group) {
            const std::span<float> row(x + r * coding.rows.d, d);
            const std::span<const std::byte> from(
                static_cast<const std::byte*>(codes) + r * coding.bytes, bytes);
            if (coding.type.format() != nullptr) {
                coding.type.format()->decode(row, from, coding.context(r));
            } else {
                const std::vector<std::byte> aligned(from.begin(), from.end());
                rotkv::ref::dequantize_row(coding.type.cells(), row.data(), aligned.data(),
                                           coding.rows.d);
            }
        }
    });
}

rotkv_status rotkv_rotation_of_words(const char* words, rotkv_rotation* rotation) {
    return at_border([&] {
        const std::string text = text_at(words, "words");
        const std::optional<Rotation> found = parse_rotation(text);
        needed(rotation, "rotation");
        if (!found) {
            throw Error(ErrorCode::usage,
                        "rotation: expected none, a block size or BLOCK:SEED, "
                        "found '" +
                            text + "'");
        }
        *rotation = rotation_of(*found);
    });
}

rotkv_status rotkv_words_of_rotation(const rotkv_rotation* rotation, char* text, size_t capacity,
                                     size_t* length) {
    return at_border([&] {
        give_text(rotation_name(rotation_of(needed(rotation, "rotation"))), text, capacity, length);
    });
}

rotkv_status rotkv_policy(const char* cache_words, int64_t d_k, int64_t d_v, rotkv_rotation* k,
                          rotkv_rotation* v, char* text, size_t capacity, size_t* length) {
    return at_border([&] {
        const tools::Variant cache = tools::parse_variant(
            "cache", text_at(cache_words, "cache_words"), {"", DType::f16, DType::f16, {}});
        require_no_placement(cache, cache_words);
        require_number("d_k", d_k, 1, 1 << 20);
        require_number("d_v", d_v, 1, 1 << 20);
        KvLayer layer{.kv_heads = 1, .d_k = d_k, .d_v = d_v};
        layer.type_k = cache.type_k;
        layer.type_v = cache.type_v;
        const KvShape shape{.streams = 1, .cells = 1, .layers = {layer}};
        const RotationSpec spec = decide_rotation(cache.rotation, shape);
        require_rows_of_kernels(shape, spec);
        needed(k, "k") = rotation_of(spec.at(0, Side::k));
        needed(v, "v") = rotation_of(spec.at(0, Side::v));
        if (text == nullptr && length == nullptr && capacity == 0) return;
        give_text(
            tools::describe_side(shape, spec, Side::k) + tools::describe_side(shape, spec, Side::v),
            text, capacity, length);
    });
}
