// Layers in words: lists of them, and those without rows of their own.
#include "tests/catch.h"
#include "tools/layer_words.h"

using namespace rotkv;
using namespace rotkv::tools;

using List = std::vector<int64_t>;

TEST_CASE("layer words: neighbours are a range, long lists have dots") {
    CHECK(words_of_layers(List{3}) == "layer 3");
    CHECK(words_of_layers(List{0, 1}) == "layers 0 1");
    CHECK(words_of_layers(List{0, 1, 2, 5, 7, 8, 10, 11, 12}) == "layers 0-2 5 7 8 10-12");
    List odd;
    for (int64_t l = 1; l < 24; l += 2) odd.push_back(l);
    CHECK(words_of_layers(odd) == "layers 1 3 5 7 9 11 13 15 17 19 21 23");
    odd.push_back(25);
    CHECK(words_of_layers(odd) == "layers 1 3 5 7 ... 25");
    CHECK(list_of_layers(odd) == "1+3+5+7+9+11+13+15+17+19+21+23+25");
    CHECK(list_of_layers(List{0, 1, 2, 5, 7, 8}) == "0-2+5+7+8");
}

TEST_CASE("layer words: states, and rows that other layers read") {
    const KvLayer rows{.kv_heads = 1, .d_k = 64, .d_v = 64, .type_k = DType::q8_0};
    const KvLayer state{.recurrent = {.heads = 2, .d = 8, .channels = 48, .taps = 4}};
    KvLayer reader = rows;
    reader.source = 3;
    const KvShape shape{.layers = {state, state, state, rows, reader, reader, state}};
    CHECK(layers_with_rows(shape) == List{3});
    CHECK(layers_without_rows(shape) ==
          std::vector<std::string>{"layers 0-2 6 keep a state, no keys and values",
                                   "layers 4 5 read the keys and values of layer 3"});
    const int64_t bytes = 4 * (2 * 8 * 8 + 3 * 48) * int64_t(sizeof(float));
    CHECK(words_of_bytes(shape) == "196 bytes per token in 1 of 7 layers, and a state of " +
                                       std::to_string(bytes) + " bytes per stream");
    CHECK(layers_without_rows({.layers = {rows, state}}) ==
          std::vector<std::string>{"layer 1 keeps a state, no keys and values"});
    CHECK(words_of_bytes({.layers = {rows, rows}}) == "392 bytes per token in 2 layers");
}
