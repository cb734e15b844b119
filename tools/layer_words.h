#pragma once
// Layers of a model in words: lists of them, and those that keep no keys and values of their own.
// Docs: docs/19-what-layers-keep.md

#include "ref/kv_cache.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace rotkv::tools {

/// "layer 3", "layers 0-2 5": ascending numbers, three and more neighbours as a range, and dots in
/// the middle of a long list.
std::string words_of_layers(std::span<const int64_t> layers);

/// "0-2+5" of the same, nothing left out: as LAYERS in the words of a cache (cache_words.h).
std::string list_of_layers(std::span<const int64_t> layers);

/// "K" or "V".
const char* letter(Side side);

/// Those with keys and values of their own.
std::vector<int64_t> layers_with_rows(const KvShape& shape);

/// A line on each kind of the others: "layers 0-2 keep a state, no keys and values",
/// "layer 4 reads the keys and values of layer 2".
std::vector<std::string> layers_without_rows(const KvShape& shape);

/// Of a token when all cells are taken: what f16_bytes_per_stream() is, shared out among them.
double mean_bytes_per_token(const KvShape& shape);

/// Values that one token leaves in all layers, and the bits that each of them takes on the average,
/// all metadata included; NaN where there are none.
int64_t values_per_token(const KvShape& shape);
double bits_per_value(const KvShape& shape);

/// " (3.25 bits per value)" where some layer keeps rows in a format of the zoo or some tokens have
/// rows in f16, else nothing: bits of types with kernels are known.
std::string words_of_bits(const KvShape& shape);

/// "272 bytes per token in 2 of 8 layers, and a state of 65536 bytes per stream".
std::string words_of_bytes(const KvShape& shape);

}  // namespace rotkv::tools
