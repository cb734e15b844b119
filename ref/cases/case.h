#pragma once
// One row of the table of cases (ref/cases/cases.h): what it is called, which tensors it takes and
// gives, how it is run on a backend, and how far from the reference a result may be.
//
// A case is its name: "hadamard/rows=7/D=192/rot=64/layout=padded" is an operation and fields in a
// fixed order; a field that is not there has its default ("rope/default": none is there). One case
// has one name.
// Docs: docs/10-testing-your-engine.md

#include "ref/backend.h"
#include "ref/cases/agreement.h"
#include "ref/cases/mistake.h"

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rotkv {

/// Reads the fields of a name in the order in which an operation asks for them.
/// Every reader throws Error(bad_argument) for a value it cannot use, for one that spells out the
/// default, and for another spelling of a value (08, 2.0), so that no two names mean the same case.
class Fields {
  public:
    explicit Fields(std::string_view name);

    const std::string& op() const { return op_; }

    int64_t number(const char* key, int64_t standard, int64_t least);
    /// Key "n_rot", 64: channels of a head of d that turn, an even number.
    int64_t n_rot(int64_t d);
    bool flag(const char* key);  ///< 1, or not there
    double real(const char* key, double standard);
    std::string word(const char* key, const std::string& standard,
                     std::initializer_list<const char*> allowed);
    DType type(const char* key);                                      ///< always there
    Precision precision(std::initializer_list<const char*> allowed);  ///< of key "precision"
    /// "64": sylvester in blocks of 64, which divide the head size d; "64:7": with the signs of
    /// seed 7; not there: none.
    Rotation rotation(const char* key, int64_t d);

    /// For what only an operation knows of a value that it read.
    [[noreturn]] void refuse(const char* key, const std::string& expected,
                             const std::string& found) const;

    /// Throws Error(bad_argument) for a field that nobody asked for, or one out of order.
    void finish() const;

    /// The fields of the name as they stand.
    const std::vector<std::pair<std::string, std::string>>& given() const { return given_; }

    /// Every field asked for, with its value, defaults included.
    const std::vector<std::pair<std::string, std::string>>& read() const { return read_; }

  private:
    bool take(const char* key, std::string& value);

    std::string name_, op_;
    std::vector<std::pair<std::string, std::string>> given_, read_;
    size_t next_ = 0;  ///< of given_
};

/// How the tensors of a case lie in memory.
enum class Layout {
    packed,   ///< without gaps
    padded,   ///< a gap behind every row, so that strides are no products of extents
    skewed,   ///< padded, and the first row begins on as many bytes as memory does, alone
    in_place  ///< the result overwrites the first source
};

/// A tensor of a case: its place in the operation's struct, and what it holds before the call.
struct CaseTensor {
    const char* name;  ///< the member of the struct of arguments: "dst", "k_cache"
    DType type;
    std::vector<int64_t> extents;
    bool input, output;              ///< both: the operation changes part of it
    bool rigid = false;              ///< must lie without gaps: indices, RoPE's table
    std::vector<std::byte> bytes{};  ///< packed; of outputs that are no inputs: empty

    int64_t rows() const;  ///< product of all extents but the last
    int64_t size() const;  ///< product of all extents
    int64_t bytes_of_row() const;
    /// The contents as f32 of any type that a cache or a weight uses.
    std::vector<float> values() const;
    std::vector<int32_t> indices() const;     ///< the contents of an i32 tensor
    void set(std::span<const float> values);  ///< rounded or quantized to the type
    void set(std::span<const int32_t> values);
};

/// The f32 numbers that packed bytes are.
std::vector<float> floats_of(std::span<const std::byte> bytes);

/// The tensors of a call by name; a tensor that the case does not have is an empty view.
class Views {
  public:
    Views(std::span<const CaseTensor> tensors, std::span<const TensorView> views)
        : tensors_(tensors), views_(views) {}
    TensorView operator[](std::string_view name) const;

  private:
    std::span<const CaseTensor> tensors_;
    std::span<const TensorView> views_;
};

class Case {
  public:
    virtual ~Case() = default;

    const std::string& name() const { return name_; }
    const std::string& op() const { return op_; }
    const std::vector<std::pair<std::string, std::string>>& fields() const { return fields_; }
    Layout layout() const { return layout_; }

    /// How our backends' results agree with the reference, and those of other engines, which order
    /// their sums as they like.
    virtual Agreement agreement() const = 0;
    virtual Agreement foreign_agreement() const { return agreement(); }

    /// False for what is no operation on tensors, but a property of this program.
    virtual bool for_other_engines() const { return layout_ == Layout::packed; }

    /// The tensors, results first, with nothing in them; then what the inputs hold.
    virtual std::vector<CaseTensor> tensors() const = 0;
    virtual void fill(std::vector<CaseTensor>& tensors) const = 0;

    /// Numbers that the call takes beside its tensors and that no field gives: "scale", "epsilon".
    virtual std::vector<std::pair<std::string, double>> constants() const { return {}; }

    /// What one call must move and compute: every input read once, every result written once.
    struct Work {
        double bytes = 0, flops = 0;
    };
    virtual Work work() const;

    virtual Support supports(const Backend& backend) const = 0;
    virtual void run(Backend& backend, const Views& views) const = 0;

    /// The call whose result is the measure: this one on the reference, in f32 precision.
    virtual Support reference_supports(const Backend& ref) const { return supports(ref); }
    virtual void run_reference(Backend& ref, const Views& views) const { run(ref, views); }

    /// rounding: the largest |error| of each element of output `name`; empty for an exact one.
    /// nmse: one number. `filled` are the inputs, `expected` the reference's results.
    virtual std::vector<double> bound(const std::string& /*name*/,
                                      std::span<const CaseTensor> /*filled*/,
                                      std::span<const float> /*expected*/) const {
        return {};
    }

    /// rounding, nmse: which numbers of output `name` agree that are not finite.
    virtual NotFinite not_finite(const std::string& /*name*/) const { return NotFinite::same_kind; }

    /// rounding: how much further off another engine's may be; empty: no further.
    virtual std::vector<double> foreign_allowance(const std::string& /*name*/,
                                                  std::span<const CaseTensor> /*filled*/) const {
        return {};
    }

    /// steps: the values behind output `name` before they were quantized, and how far off another
    /// engine's may be by rounding.
    virtual std::vector<float> unrounded(const std::string& /*name*/,
                                         std::span<const CaseTensor> /*filled*/) const {
        return {};
    }

    /// The numbers of output `name` from an engine with this mistake; empty where nobody can make
    /// it, or nobody has said what it would give.
    virtual std::vector<float> with_mistake(const std::string& /*name*/,
                                            std::span<const CaseTensor> /*filled*/,
                                            Mistake /*mistake*/) const {
        return {};
    }

  protected:
    void read_layout(Fields& fields, bool in_place);
    uint64_t seed() const;  ///< from the name: every case has its own numbers

    friend std::unique_ptr<Case> make_case(std::string_view name);

  private:
    std::string name_, op_;
    std::vector<std::pair<std::string, std::string>> fields_;
    Layout layout_ = Layout::packed;
};

/// The case called `name`, in the table or not.
/// Throws: Error(bad_argument) that says which field is wrong, or that the tensors are too large.
std::unique_ptr<Case> make_case(std::string_view name);

/// The names of all cases of the table, in its order, every list written out.
std::vector<std::string> case_names();

/// Those whose name contains `pattern` as it stands; a name in full selects that case alone.
std::vector<std::string> case_names(std::string_view pattern);

/// An operation of the table, for the page that lists them.
struct CaseOp {
    const char* name;
    const char* agreement;  ///< in words, with the bound's formula
    const char* foreign;    ///< what another engine owes
    std::unique_ptr<Case> (*make)(Fields& fields);
};
std::span<const CaseOp> case_ops();

}  // namespace rotkv
