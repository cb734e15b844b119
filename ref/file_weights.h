#pragma once
// The tensors of a file on their way to a backend: handed out by name in an expected shape, and
// counted, so that none is left over.
// Docs: docs/18-models.md

#include "ref/architecture.h"
#include "ref/model.h"

#include <cstdint>
#include <deque>
#include <initializer_list>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace rotkv {

struct GgufTensor;  // ref/files/gguf.h

/// "blk.LAYER."
std::string prefix_of(int64_t layer);

/// Hands out a file's tensors as views in a backend's memory.
/// Throws: Error(bad_file) for a tensor that is missing or has other extents, by name, expected and
///         found; Error(unsupported) for a type that cannot be what is asked for.
class FileWeights {
  public:
    /// All must outlive this.
    FileWeights(const GgufFile& file, Imports& imported, std::deque<std::vector<float>>& widened)
        : file_(file), imported_(imported), widened_(widened) {}

    /// Whether the file has it; asking does not count as use.
    bool has(const std::string& name) const;
    void require(const std::string& name) const;
    /// The `out` of a matrix [out][in].
    int64_t rows(const std::string& name) const;

    /// Whether it has the first of two tensors; throws where it has neither.
    bool has_one_of(const std::string& prefix, const char* first, const char* second) const;

    /// Matrices [out][in], or [count][out][in], of any weight type.
    TensorView matrix(const std::string& name, int64_t out, int64_t in);
    TensorView matrices(const std::string& name, int64_t count, int64_t out, int64_t in);

    /// Numbers [n], or [rows][n], which the operations need in f32: every f16 and bf16 is one
    /// exactly, and finite. `norm`: of a layer, by the name in its architecture's row; "" is none.
    TensorView vector(const std::string& name, int64_t n) { return plain(name, 1, n); }
    TensorView optional_vector(const std::string& name, int64_t n);
    TensorView norm(const std::string& prefix, const char* name, int64_t n);
    TensorView plain(const std::string& name, int64_t rows, int64_t n);
    TensorView optional_plain(const std::string& name, int64_t rows, int64_t n);

    /// One number, or what stands in for it.
    float number(const std::string& name, float fallback);

    /// Counts as used what something else reads, or nobody: one tensor, or all of a layer.
    void use(const std::string& name) { used_.insert(name); }
    void use_layer(int64_t index);

    /// A tensor without a place in the forward pass means that the file holds another model than
    /// the one that would run. Throws: Error(unsupported) naming the first one.
    void refuse_unused(const char* architecture) const;

  private:
    void check_extents(const GgufTensor& tensor, std::initializer_list<int64_t> expected) const;
    void require_no_infinity(const GgufTensor& tensor, std::span<const float> values) const;
    TensorView import(const GgufTensor& tensor, const std::byte* data, std::size_t bytes);

    const GgufFile& file_;
    Imports& imported_;
    std::deque<std::vector<float>>& widened_;
    std::set<std::string> used_;
};

/// The weights of layer `index`, in the shapes that ModelLayer's fields state.
/// Throws: as FileWeights, also for biases that Architecture::biased asks for.
ModelLayer load_layer(FileWeights& weights, const ModelConfig& config, int64_t index);

}  // namespace rotkv
