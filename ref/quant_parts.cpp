#include "ref/quant_parts.h"

#include "ref/error.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace rotkv {

namespace {

using ref::fifth_bit, ref::nibble;

template <class Block>
Block block_at(const std::byte* bytes) {
    Block block;
    std::memcpy(&block, bytes, sizeof block);
    return block;
}

// Codes of four bits, and fifth bits `qh` or null.
BlockParts parts_of(uint16_t scale, uint16_t minimum, const uint8_t* qs, const uint8_t* qh) {
    BlockParts parts{scale, minimum, {}};
    for (int64_t j = 0; j < k_block; ++j) {
        parts.code[j] = nibble(qs, j);
        if (qh != nullptr) parts.code[j] |= fifth_bit(qh, j) << 4;
    }
    return parts;
}

BlockParts parts_of(const BlockQ8_0& block) {
    BlockParts parts{block.d, 0, {}};
    std::copy_n(block.qs, k_block, parts.code);
    return parts;
}

}  // namespace

BlockParts block_parts(DType type, const std::byte* bytes) {
    switch (type) {
        case DType::q8_0:
            return parts_of(block_at<BlockQ8_0>(bytes));
        case DType::q5_1: {
            const BlockQ5_1 block = block_at<BlockQ5_1>(bytes);
            return parts_of(block.d, block.m, block.qs, block.qh);
        }
        case DType::q5_0: {
            const BlockQ5_0 block = block_at<BlockQ5_0>(bytes);
            return parts_of(block.d, 0, block.qs, block.qh);
        }
        case DType::q4_1: {
            const BlockQ4_1 block = block_at<BlockQ4_1>(bytes);
            return parts_of(block.d, block.m, block.qs, nullptr);
        }
        case DType::q4_0: {
            const BlockQ4_0 block = block_at<BlockQ4_0>(bytes);
            return parts_of(block.d, 0, block.qs, nullptr);
        }
        case DType::iq4_nl: {
            const BlockIq4Nl block = block_at<BlockIq4Nl>(bytes);
            return parts_of(block.d, 0, block.qs, nullptr);
        }
        case DType::f32:
        case DType::f16:
        case DType::bf16:
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
                std::string(type_info(type).name) + " has no codes of a cache");
}

}  // namespace rotkv
