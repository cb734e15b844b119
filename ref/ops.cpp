// What every backend shares: a call is checked, asked for, then run; and Buffer.
#include "ref/backend.h"
#include "ref/error.h"
#include "ref/format_rows.h"

#include <utility>

namespace rotkv {

int64_t AttentionArgs::first_visible(int64_t pos_q) const {
    if (window == 0) return 0;
    return chunked ? pos_q / window * window : pos_q - window + 1;
}

bool AttentionArgs::takes_part(int64_t pos_cell, int64_t pos_q) const {
    if (pos_cell < first_visible(pos_q)) return false;
    return bounds.hold(pos_cell, pos_q);  // from 0 on: no empty cell (-1), and not the future
}

namespace {

// A block type whose rows are no whole number of blocks is nobody's mistake and nobody's job.
Support whole(const char* what, const TensorView& tensor) {
    const TypeInfo& info = type_info(tensor.type);
    if (tensor.n[3] % info.block_elements == 0) return {};
    return {false, std::string(what) + ": " + info.name + " needs rows of a multiple of " +
                       std::to_string(info.block_elements) + " elements, found " +
                       std::to_string(tensor.n[3])};
}

Support both(const Support& a, const Support& b) { return a.yes ? b : a; }

// Which tensors of a call may be of a block type.
struct WholeBlocks {
    Support operator()(const QuantizeArgs& args) const { return whole("dst", args.dst); }
    Support operator()(const DequantizeArgs& args) const { return whole("src", args.src); }
    Support operator()(const KvStoreArgs& args) const {
        return both(whole("K", args.k_cache), whole("V", args.v_cache));
    }
    Support operator()(const AttentionArgs& args) const {
        return both(whole("K", args.k_cache), whole("V", args.v_cache));
    }
    Support operator()(const KvShiftArgs& args) const { return whole("K", args.k_cache); }
    Support operator()(const MatmulArgs& args) const { return whole("weight", args.weight); }
    Support operator()(const ExpertMatmulArgs& args) const { return whole("weight", args.weight); }
    Support operator()(const EmbedArgs& args) const { return whole("weight", args.weight); }
    Support operator()(const NllArgs& args) const { return whole("weight", args.weight); }
    Support operator()(const KldArgs& args) const { return whole("weight", args.weight); }
    Support operator()(const LogitsArgs& args) const { return whole("weight", args.weight); }
    // Plain numbers only, as check() found.
    Support operator()(const HadamardArgs&) const { return {}; }
    Support operator()(const RopeArgs&) const { return {}; }
    Support operator()(const RmsNormArgs&) const { return {}; }
    Support operator()(const LayerNormArgs&) const { return {}; }
    Support operator()(const ScaleArgs&) const { return {}; }
    Support operator()(const TurnArgs&) const { return {}; }
    Support operator()(const MergeArgs&) const { return {}; }
    Support operator()(const ConvStepArgs&) const { return {}; }
    Support operator()(const DeltaStepArgs&) const { return {}; }
    Support operator()(const ActMulArgs&) const { return {}; }
    Support operator()(const AddArgs&) const { return {}; }
    Support operator()(const RouteArgs&) const { return {}; }
    Support operator()(const ExpertSumArgs&) const { return {}; }
};

}  // namespace

Support Backend::supports(const Call& call) const {
    const Support blocks = std::visit(WholeBlocks{}, call);
    return blocks.yes ? answer(call) : blocks;
}

void Backend::require_supported(const Call& call) const {
    check(call);
    const Support support = supports(call);
    if (support.yes) return;
    throw Error(ErrorCode::unsupported, name() + ": " + name_of(call) + ": " + support.reason);
}

void Backend::run(const Call& call) {
    if (names_format(call)) {
        check(call);
        run(without_formats(call));
        return pass_through_formats(*this, call);
    }
    if (execute_again(call)) return;
    require_supported(call);
    execute(call);
}

void Backend::on_host(int64_t tasks, const std::function<void(int64_t)>& task) {
    for (int64_t i = 0; i < tasks; ++i) task(i);
}

Precision precision_of_products(const Call& call) {
    if (const auto* matmul = std::get_if<MatmulArgs>(&call)) return matmul->precision;
    if (const auto* matmul = std::get_if<ExpertMatmulArgs>(&call)) return matmul->precision;
    return Precision::f32;
}

Support unrounded_only(const Call& call) {
    const Precision products = precision_of_products(call);
    const auto* attention = std::get_if<AttentionArgs>(&call);
    const Precision precision = attention != nullptr ? attention->precision : products;
    if (precision == Precision::f32) return {};
    return {false, std::string(precision_name(precision)) +
                       (attention == nullptr ? " products" : " attention") + ": f32 only here"};
}

std::byte* import_copy(Backend& backend, std::span<const std::byte> bytes) {
    std::byte* const memory = backend.allocate(bytes.size());
    try {
        backend.upload(memory, bytes);
    } catch (...) {
        backend.free_memory(memory);
        throw;
    }
    return memory;
}

Buffer::Buffer(Backend& backend, std::size_t bytes)
    : backend_(&backend), data_(backend.allocate(bytes)), bytes_(bytes) {}

Buffer::~Buffer() {
    if (data_ != nullptr) backend_->free_memory(data_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : backend_(other.backend_),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
    std::swap(backend_, other.backend_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

TensorView Buffer::view(DType type, std::initializer_list<int64_t> extents) const {
    const TensorView result = rotkv::view(data_, type, extents);
    require(span_bytes(result) <= int64_t(bytes_), ErrorCode::bad_argument,
            "buffer: the view is larger than the memory");
    return result;
}

void Buffer::upload(std::span<const std::byte> src) const {
    require(src.size() <= bytes_, ErrorCode::bad_argument, "buffer: upload past the end");
    if (!src.empty()) backend_->upload(data_, src);
}

void Buffer::download(std::span<std::byte> dst) const {
    require(dst.size() <= bytes_, ErrorCode::bad_argument, "buffer: download past the end");
    if (!dst.empty()) backend_->download(dst, data_);
}

}  // namespace rotkv
