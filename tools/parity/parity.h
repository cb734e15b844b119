#pragma once
// One cell of the parity table: a case on a backend, in memory that notices what should not happen.
// Docs: docs/10-testing-your-engine.md

#include "ref/cases/case.h"
#include "ref/guarded_memory.h"

#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rotkv::tools {

enum class Outcome {
    ok,
    fail,
    unsupported,  ///< the backend says so, with a reason
    no_device,    ///< built, but what it runs on is not here
    left_out      ///< more work than the column takes
};
inline constexpr int k_outcomes = 5;
const char* outcome_name(Outcome outcome);

struct CaseResult {
    Outcome outcome = Outcome::ok;
    std::string text;  ///< the reason, or what is wrong and the command that shows it again
    double worst = 0;  ///< the largest |error| / bound of a rounding or nmse case
};

/// Where tensors lie.
enum class Alignment {
    element,  ///< begin on a multiple of their element's bytes and rarely of more, so that a
              ///< backend that counts on more is found out
    memory,   ///< begin as allocated memory does, as in a model
    begin,    ///< and at its beginning
    end       ///< their last row ends where the memory does
};

/// The tensors of a case in a backend's memory, and the views that its run() takes.
/// Each tensor lies between sentinels, with gaps behind its rows where the layout says so; where it
/// is flush with the memory's beginning or end there is no sentinel.
class Placement {
  public:
    Placement(Backend& backend, const std::vector<CaseTensor>& tensors, Layout layout,
              Alignment alignment = Alignment::element);
    ~Placement();

    Views views() const { return Views(tensors_, views_); }

    /// Each output as packed rows, in the order of the tensors; empty for pure inputs. Waits.
    /// `damage` says what was written that should not have been: a sentinel, a gap, an input.
    std::vector<std::vector<std::byte>> results(std::string& damage);

  private:
    class Block;
    const std::vector<CaseTensor>& tensors_;
    Layout layout_;
    std::vector<Block> blocks_;
    std::vector<TensorView> views_;
};

/// A case with the contents of its inputs, the reference's results beside them, and how far from
/// those the results of our backends may be.
struct Expected {
    std::vector<CaseTensor> tensors;              ///< inputs filled
    std::vector<std::vector<std::byte>> results;  ///< [tensor], packed; empty for pure inputs
    std::vector<std::vector<double>> bounds;      ///< [tensor], where results need not be exact
};

/// Fills the inputs and runs the reference, or whom the caller trusts as much. Throws what those
/// throw.
Expected expected_results(const Case& one);
Expected expected_results(const Case& one, Backend& against);

/// Case::bound of one tensor, from `expected` where it is there already; `foreign`: with what
/// another engine is allowed beyond it.
std::vector<double> bound_of(const Case& one, const Expected& expected, size_t tensor,
                             bool foreign);

/// How the result of one tensor agrees with the reference's, by the case's own rule, or, `foreign`,
/// by the rule for other engines.
Verdict judge(const Case& one, const Expected& expected, size_t tensor,
              std::span<const std::byte> found, bool foreign);

/// Runs the case on the backend.
/// Memory is laid out with sentinels before and behind every tensor and in every gap. ok means: the
/// results agree, the sentinels and the inputs are as they were, and a second run gives the same
/// bits (at the border of guarded memory there is no second one). The backend supports the case.
CaseResult run_on(const Case& one, const Expected& expected, Backend& backend,
                  Alignment alignment = Alignment::element);

/// A backend with a number of threads: what a row of the table runs on.
struct Column {
    std::string name;                  ///< "fast, 1 thread"
    std::unique_ptr<Backend> backend;  ///< null: no device
    std::string missing;               ///< why, if so
    double most_flops = INFINITY;      ///< of a case that it takes
};

/// ref, then every other backend that is built, those of the host with one thread and with many.
/// A `backend` that is not empty selects; with a guard their memory is guarded; `quick`: where a
/// CPU plays the device, and with a guard everywhere, the cases that take longest are left out, one
/// in thirty.
/// Throws Error(usage) for an unknown one.
std::vector<Column> columns(const std::string& backend, std::optional<Guard> guard = {},
                            bool quick = false);

/// The case on every column; `begun` hears of each that runs it. The reference's results are
/// computed once, if anybody needs them.
std::vector<CaseResult> run_case(const Case& one, const std::vector<Column>& columns,
                                 Alignment alignment = Alignment::element,
                                 const std::function<void(const Column&)>& begun = {});

/// How many cells ended how, per operation and column.
class Tally {
  public:
    explicit Tally(const std::vector<Column>& columns);
    void add(const std::string& op, const std::vector<CaseResult>& cells);
    int64_t count(Outcome outcome) const;

    /// The columns that were judged and passed nothing, and, in words, one for all where none
    /// passed but the reference's own: judged against itself it proves nothing.
    std::vector<std::string> without_proof() const;

    /// One line per operation and column: cases, outcomes, how much of the bounds was used.
    std::string table() const;
    /// "4211 cells: 4100 ok, 0 FAIL, 111 unsupported, 0 no device, 0 left out"
    std::string line() const;

  private:
    struct Row {
        std::string op;
        int64_t cases = 0;
        std::vector<std::vector<int64_t>> outcomes;  ///< [column][outcome]
        double worst = 0;
    };
    std::vector<std::string> columns_;
    std::vector<Row> rows_;
};

}  // namespace rotkv::tools
