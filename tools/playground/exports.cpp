// What the page calls: C functions that answer in JSON. Compiled to WebAssembly by wasm.sh, and for
// this machine too, where the tests call them.
#include "tools/playground/exports.h"

#include "ref/error.h"
#include "ref/format.h"
#include "ref/measure/outliers.h"
#include "ref/rotation_words.h"
#include "tools/playground/example_keys.h"
#include "tools/playground/stored_keys.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

using namespace rotkv;
using namespace rotkv::playground;
using nlohmann::json;

namespace {

constexpr int64_t k_most_channels = ROTKV_PLAYGROUND_CHANNELS, k_keys = 16;
constexpr int64_t k_first_position = 1024;  // a multiple of every group
constexpr uint64_t k_query_seed = 1000;

std::array<float, k_most_channels> row;
std::string answer_text;

// A function's answer, or {"error": why there is none}. NaN becomes null.
template <class Function>
const char* answer(Function function) {
    json found;
    try {
        found = function();
    } catch (const std::exception& error) {
        found = {{"error", error.what()}};
    }
    answer_text = found.dump(-1, ' ', false, json::error_handler_t::replace);
    return answer_text.c_str();
}

CacheType type_of(const char* name) {
    if (const std::optional<CacheType> type = find_cache_type(name)) return *type;
    throw Error(ErrorCode::usage, "type: unknown name '" + std::string(name) + "'");
}

std::span<const float> given_row(int32_t d) {
    if (d < 1 || d > k_most_channels) {
        throw Error(ErrorCode::bad_argument, "head: expected 1 to " +
                                                 std::to_string(k_most_channels) +
                                                 " channels, found " + std::to_string(d));
    }
    return std::span(row).first(size_t(d));
}

Cache cache_of(const char* type, const char* rotation, int32_t d) {
    const std::optional<Rotation> turned = parse_rotation(rotation);
    if (!turned) {
        throw Error(ErrorCode::usage, "rotation: expected none, BLOCK or BLOCK:SEED, found '" +
                                          std::string(rotation) + "'");
    }
    return {.type = type_of(type), .rotation = *turned, .d = d, .first_position = k_first_position};
}

// The row and others like it: as many as are shown, in whole groups.
std::vector<float> keys_for(const Cache& cache, uint64_t seed) {
    return keys_like(given_row(int32_t(cache.d)), std::max(k_keys, cache.type.group()), seed);
}

json type_json(const CacheType& type, int32_t d) {
    const std::string refusal = type.refusal(d);
    json found = {{"name", type.name()},
                  {"zoo", type.format() != nullptr},
                  {"group", type.group()},
                  {"refusal", refusal}};
    if (!refusal.empty()) return found;
    const Policy given = policy(type, d);
    found["bits"] = 8.0 * double(row_bytes(type, d)) / double(d);
    found["policy"] = rotation_name(given.rotation);
    found["reason"] = given.reason;
    return found;
}

json blocks_json(const CacheType& type, std::span<const std::byte> bytes) {
    json blocks = json::array();
    for (const StoredBlock& block : blocks_of(type, bytes)) {
        blocks.push_back({{"scale", block.scale},
                          {"minimum", block.minimum},
                          {"has_minimum", type_info(type.cells()).codes.minimum},
                          {"codes", block.codes}});
    }
    return blocks;
}

json figures_json(std::span<const float> x) {
    HeadStatistics statistics(std::ssize(x));
    statistics.add(x);
    const HeadFigures figures = statistics.figures();
    return {{"kurtosis", figures.kurtosis}, {"crest", figures.crest}, {"mu", figures.mu}};
}

json attended_json(const Attended& attended) {
    return {{"score", attended.score}, {"weight", attended.weight}};
}

json store_json(const Cache& cache, uint64_t seed) {
    const std::vector<float> keys = keys_for(cache, seed);
    const StoredKeys stored = store(cache, keys);
    const size_t d = size_t(cache.d), size = size_t(row_bytes(cache.type, cache.d));
    const auto first = [&](const std::vector<float>& rows) { return std::span(rows).first(d); };
    std::vector<int> bytes;
    for (const std::byte byte : std::span(stored.bytes).first(size)) bytes.push_back(int(byte));
    std::vector<float> error;
    for (size_t i = 0; i < d; ++i) error.push_back(stored.back[i] - keys[i]);

    const std::vector<float> q = example_query(cache.d, k_query_seed + seed);
    const auto shown = [&](const std::vector<float>& rows) {
        return std::span(rows).first(size_t(k_keys) * d);
    };
    const Attended exact = attend(q, shown(keys), {});
    const Attended cached = attend(q, shown(stored.cells), cache.rotation);
    const Change changed = change(exact, cached);
    return {{"rotation", rotation_name(cache.rotation)},
            {"rotated", first(stored.rotated)},
            {"cells", first(stored.cells)},
            {"back", first(stored.back)},
            {"error", error},
            {"relative_error", relative_error(first(stored.back), first(keys))},
            {"bytes", bytes},
            {"blocks", blocks_json(cache.type, std::span(stored.bytes).first(size))},
            {"figures", figures_json(first(stored.rotated))},
            {"exact", attended_json(exact)},
            {"cached", attended_json(cached)},
            {"largest_score_change", changed.largest_score},
            {"moved_probability", changed.probability}};
}

json shift_json(const Cache& cache, int32_t difference, RopePairs pairs, bool in_rotated_space,
                uint64_t seed) {
    json steps = json::array();
    for (const ShiftStep& step :
         shift(cache, keys_for(cache, seed), difference, pairs, in_rotated_space)) {
        steps.push_back({{"name", step.name},
                         {"what", step.what},
                         {"row", step.row},
                         {"exact", step.exact},
                         {"error", step.error}});
    }
    return {{"steps", steps}};
}

}  // namespace

float* rotkv_playground_row(void) { return row.data(); }

const char* rotkv_playground_types(int32_t d) {
    return answer([&] {
        json types = json::array();
        given_row(d);
        for (const DType type : cache_types()) types.push_back(type_json(type, d));
        for (const std::string& name : names_of_formats()) {
            types.push_back(type_json(type_of(name.c_str()), d));
        }
        return json{{"types", types}, {"examples", example_names()}};
    });
}

const char* rotkv_playground_example(const char* name, int32_t d, uint32_t seed) {
    return answer([&] {
        given_row(d);
        const std::vector<float> example = example_row(name, d, seed);
        std::copy(example.begin(), example.end(), row.begin());
        return json{{"row", given_row(d)}};
    });
}

const char* rotkv_playground_store(int32_t d, const char* type, const char* rotation,
                                   uint32_t seed) {
    return answer([&] { return store_json(cache_of(type, rotation, d), seed); });
}

const char* rotkv_playground_shift(int32_t d, const char* type, const char* rotation, uint32_t seed,
                                   int32_t difference, int32_t neox, int32_t in_rotated_space) {
    return answer([&] {
        const RopePairs pairs = neox != 0 ? RopePairs::neox : RopePairs::norm;
        return shift_json(cache_of(type, rotation, d), difference, pairs, in_rotated_space != 0,
                          seed);
    });
}
