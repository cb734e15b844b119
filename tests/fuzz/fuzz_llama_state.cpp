// Any bytes as a cache that llama.cpp saved: read, or refused with an Error; what was read has a
// row for every cell.
#include "ref/error.h"
#include "ref/files/llama_state.h"

#include <stdexcept>

using namespace rotkv;

namespace {

void check(const std::vector<LlamaRows>& sides, size_t cells) {
    for (const LlamaRows& side : sides) {
        if (side.rows.size() == cells * size_t(side.row_bytes)) continue;
        throw std::logic_error("a side with rows of other cells");
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    try {
        const LlamaState state =
            parse_llama_state(std::as_bytes(std::span(data, size)), "state.bin");
        for (const std::vector<LlamaStream>& cache : state.caches) {
            for (const LlamaStream& stream : cache) {
                check(stream.k, stream.position.size());
                check(stream.v, stream.position.size());
            }
        }
    } catch (const Error&) {
    }
    return 0;
}
