#include "metal/operations.h"

#include <type_traits>

namespace rotkv::metal {

namespace {

template <class Args>
concept Written = requires(Commands& commands, const Args& args) {
    can(args);
    run(commands, args);
};

}  // namespace

Support answer(const Call& call) {
    return std::visit(
        [](const auto& args) -> Support {
            using Args = std::decay_t<decltype(args)>;
            if constexpr (Written<Args>) return can(args);
            return {false, "not written here"};
        },
        call);
}

void execute(Commands& commands, const Call& call) {
    std::visit(
        [&](const auto& args) {
            if constexpr (Written<std::decay_t<decltype(args)>>) run(commands, args);
        },
        call);
}

metal_args::Rows rows_of(const TensorView& tensor) {
    return {{tensor.stride[0], tensor.stride[1], tensor.stride[2]}};
}

metal_args::Turn turn_of(const Rotation& rotation) {
    if (!rotation.on()) return {};
    return {rotation.seed, rotation_scale(rotation.block), uint32_t(rotation.block),
            uint32_t(rotation.first), rotation.kind == Rotation::Kind::signs ? 1u : 0u};
}

Support block_up_to(const Rotation& rotation, uint32_t registers) {
    if (registers_of(rotation) <= registers) return {};
    return {false, "rotation by blocks of at most " + std::to_string(registers * k_lanes) +
                       " channels, found " + std::to_string(rotation.block)};
}

bool is_cache_type_here(DType type) {
    // clang-format off
    switch (type) {
        case DType::f32: case DType::f16: case DType::bf16: case DType::q8_0: case DType::q5_1:
        case DType::q5_0: case DType::q4_1: case DType::q4_0: case DType::iq4_nl: return true;
        case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k:
        case DType::iq4_xs: case DType::mxfp4: case DType::i32: case DType::f64: return false;
    }
    // clang-format on
    return false;
}

std::string name_of(DType type) { return type_info(type).name; }

}  // namespace rotkv::metal
