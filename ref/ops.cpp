// What every backend shares: a call is checked, asked for, then run; and Buffer.
#include "ref/ops.h"

#include "ref/error.h"

#include <utility>

namespace rotkv {

const char* precision_name(Precision precision) {
    return precision == Precision::f32 ? "f32" : precision == Precision::f16 ? "f16" : "bf16";
}

namespace {

// A block type whose rows are no whole number of blocks is nobody's mistake and nobody's job.
Support whole_blocks(const char* what, const TensorView& tensor) {
    const TypeInfo& info = type_info(tensor.type);
    if (tensor.n[3] % info.block_elements == 0) return {};
    return {false, std::string(what) + ": " + info.name + " needs rows of a multiple of " +
                       std::to_string(info.block_elements) + " elements, found " +
                       std::to_string(tensor.n[3])};
}

Support both(const Support& a, const Support& b) { return a.yes ? b : a; }

}  // namespace

Support Backend::supports(const HadamardArgs&) const { return {}; }
Support Backend::supports(const QuantizeArgs& args) const { return whole_blocks("dst", args.dst); }
Support Backend::supports(const DequantizeArgs& args) const {
    return whole_blocks("src", args.src);
}
Support Backend::supports(const RopeArgs&) const { return {}; }
Support Backend::supports(const RmsNormArgs&) const { return {}; }
Support Backend::supports(const MatmulArgs& args) const {
    if (args.precision != Precision::f32) {
        return {false, std::string(precision_name(args.precision)) + " products: f32 only here"};
    }
    return whole_blocks("weight", args.weight);
}
Support Backend::supports(const KvStoreArgs& args) const {
    return both(whole_blocks("K", args.k_cache), whole_blocks("V", args.v_cache));
}
Support Backend::supports(const AttentionArgs& args) const {
    if (args.precision != Precision::f32) {
        return {false, std::string(precision_name(args.precision)) + " attention: f32 only here"};
    }
    return both(whole_blocks("K", args.k_cache), whole_blocks("V", args.v_cache));
}
Support Backend::supports(const KvShiftArgs& args) const { return whole_blocks("K", args.k_cache); }
Support Backend::supports(const ActMulArgs&) const { return {}; }
Support Backend::supports(const AddArgs&) const { return {}; }
Support Backend::supports(const EmbedArgs& args) const {
    return whole_blocks("weight", args.weight);
}
Support Backend::supports(const NllArgs& args) const { return whole_blocks("weight", args.weight); }
Support Backend::supports(const KldArgs& args) const { return whole_blocks("weight", args.weight); }
Support Backend::supports(const LogitsArgs& args) const {
    return whole_blocks("weight", args.weight);
}

// check -> supports: the only way to run().
template <class Args>
static void admit(const Backend& backend, const char* op, const Args& args) {
    check(args);
    const Support support = backend.supports(args);
    if (support.yes) return;
    throw Error(ErrorCode::unsupported, backend.name() + ": " + op + ": " + support.reason);
}

void Backend::hadamard(const HadamardArgs& args) {
    admit(*this, "hadamard", args);
    run(args);
}
void Backend::quantize(const QuantizeArgs& args) {
    admit(*this, "quantize", args);
    run(args);
}
void Backend::dequantize(const DequantizeArgs& args) {
    admit(*this, "dequantize", args);
    run(args);
}
void Backend::rope(const RopeArgs& args) {
    admit(*this, "rope", args);
    run(args);
}
void Backend::rms_norm(const RmsNormArgs& args) {
    admit(*this, "rms_norm", args);
    run(args);
}
void Backend::matmul(const MatmulArgs& args) {
    admit(*this, "matmul", args);
    run(args);
}
void Backend::kv_store(const KvStoreArgs& args) {
    admit(*this, "kv_store", args);
    run(args);
}
void Backend::attention(const AttentionArgs& args) {
    admit(*this, "attention", args);
    run(args);
}
void Backend::kv_shift(const KvShiftArgs& args) {
    admit(*this, "kv_shift", args);
    run(args);
}
void Backend::act_mul(const ActMulArgs& args) {
    admit(*this, "act_mul", args);
    run(args);
}
void Backend::add(const AddArgs& args) {
    admit(*this, "add", args);
    run(args);
}
void Backend::embed(const EmbedArgs& args) {
    admit(*this, "embed", args);
    run(args);
}
void Backend::nll(const NllArgs& args) {
    admit(*this, "nll", args);
    run(args);
}
void Backend::kld(const KldArgs& args) {
    admit(*this, "kld", args);
    run(args);
}
void Backend::logits(const LogitsArgs& args) {
    admit(*this, "logits", args);
    run(args);
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
