#pragma once
// The hyper-parameters of a file, which stand under "ARCHITECTURE.name", with their ranges checked.
// Docs: docs/18-models.md

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rotkv {

class GgufFile;      // ref/files/gguf.h
struct ModelConfig;  // ref/architecture.h

/// Reads hyper-parameters by name. Without the key, forms with a `fallback` return it; the others
/// throw Error(bad_file), as all do for a value of another type or out of range, by key, expected
/// and found. `file` must outlive this.
class Keys {
  public:
    explicit Keys(const GgufFile& file);

    std::string key(const std::string& name) const { return prefix_ + name; }
    bool has(const std::string& name) const;

    /// An extent, from 1 or from 0 on.
    int64_t count(const std::string& name) const;
    int64_t count(const std::string& name, int64_t fallback) const;
    int64_t count_or_0(const std::string& name) const;
    int64_t count_or_0(const std::string& name, int64_t fallback) const;

    /// One extent a layer: a number for all of them, or a list.
    std::vector<int64_t> per_layer(const std::string& name, int64_t layers) const;
    std::vector<int64_t> per_layer(const std::string& name,
                                   const std::vector<int64_t>& fallback) const;

    /// Which layers are of the usual kind (have a window): a list of yes and no (1 and 0), or the
    /// period n of those that are not, the n-th, 2n-th, ...; with a period of 0 every layer is.
    std::vector<bool> pattern(const std::string& name, int64_t period, int64_t layers) const;

    /// Finite numbers; from 0 on; above 0.
    float number(const std::string& name, float fallback) const;
    float number_from_0(const std::string& name, float fallback) const;
    float positive(const std::string& name) const;
    float positive(const std::string& name, float fallback) const;

    std::string_view word(const std::string& name, std::string_view fallback) const;

    /// Throws: Error(bad_file) that "FILE: KEY: expected ..., found ...".
    [[noreturn]] void refuse(const std::string& name, const std::string& expected,
                             const std::string& found) const;

    /// Throws: Error(unsupported) likewise, for what is right and not computed here.
    [[noreturn]] void unsupported(const std::string& name, const std::string& expected,
                                  const std::string& found) const;

    /// Where the file does not have the key, a notice of what stands in for it.
    void assume(const std::string& name, const std::string& value, ModelConfig& config) const;

  private:
    bool is_list(const std::string& name) const;
    void check_length(const std::string& name, size_t found, int64_t layers) const;
    int64_t in_range(const std::string& name, int64_t value, int64_t least) const;

    const GgufFile& file_;
    std::string prefix_;
};

/// The keys of the file that would change what a model computes, had its architecture such a
/// thing, each with its value: "attn_logit_softcapping (f32 50), ...". Keys whose value leaves
/// everything as it is are not listed: files written by llama.cpp have all of them. Empty: none.
std::string keys_not_applied(const GgufFile& file, const ModelConfig& config);

}  // namespace rotkv
