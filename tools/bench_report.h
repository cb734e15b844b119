#pragma once
// The results of rotkv-bench: one row a test, as a Markdown table, CSV or JSON.
// Docs: docs/performance.md

#include "ref/model.h"
#include "ref/rotation.h"
#include "tools/bench_cost.h"
#include "tools/bench_machine.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace rotkv::tools {

/// One test under one cache, and how long each repetition of it took.
struct BenchRow {
    CacheType type_k = DType::f16, type_v = DType::f16;
    double bits_per_value = 0;  ///< that is kept, all metadata included
    std::string rot;            ///< as asked: auto, off, on or a block
    RotationSpec spec;
    std::string rotated;                ///< rotated_sides()
    int64_t prompt = 0, generated = 0;  ///< tokens; one of them is 0
    int64_t depth = 0;                  ///< tokens in the cache before the test
    PassCost work;                      ///< of one repetition
    std::vector<double> seconds;

    int64_t tokens() const { return prompt + generated; }
    std::string test() const;  ///< "pp512 @ d2048"

    // What the repetitions say; rates come from the median time.
    double median_seconds() const;
    double tokens_per_second() const { return double(tokens()) / median_seconds(); }
    double slowest() const;  ///< tokens per second
    double fastest() const;
};

struct BenchRun {
    std::string model;  ///< the path
    std::vector<std::string> notices;
    int64_t file_bytes = 0;
    std::string backend, device;
    ModelPrecision precision;
    int threads = 0;
    int64_t batch = 0;
    Ceilings best;
    int64_t buffer_bytes = 0;    ///< of the memory ceilings
    int64_t resident_bytes = 0;  ///< at most, models and caches, before the ceilings' buffers
    std::vector<BenchRow> rows;
};

/// "K 64, V 64": the sides that are rotated, with their blocks; each way of which a model has
/// several.
std::string rotated_sides(const RotationSpec& spec, const KvShape& shape);

/// The table, and the ceilings in a line below it.
std::string markdown(const BenchRun& run);

/// One line a row under a line of names; the ceilings are repeated in every row.
std::string csv(const BenchRun& run);

/// Everything, with the single times.
nlohmann::ordered_json json_of(const BenchRun& run);

}  // namespace rotkv::tools
