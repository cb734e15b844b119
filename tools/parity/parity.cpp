#include "tools/parity/parity.h"

#include "ref/error.h"
#include "ref/kernels.h"
#include "tools/backends.h"
#include "tools/parity/guarded_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>

namespace rotkv::tools {

constexpr std::byte k_sentinel{0xA5};
constexpr int64_t k_apart = 64;       // bytes, at least, before and behind each tensor
constexpr int64_t k_alignment = 256;  // of a device's memory; a host's may have less

// One tensor: sentinels, rows with gaps, sentinels.
class Placement::Block {
  public:
    Block(Backend& backend, const CaseTensor& tensor, Layout layout, Alignment alignment)
        : tensor_(&tensor), row_(tensor.bytes_of_row()) {
        const int64_t unit = type_info(tensor.type).block_bytes;
        const bool skewed = layout == Layout::skewed;
        const bool gaps = (layout == Layout::padded || skewed) && !tensor.rigid;
        step_ = row_ + (gaps ? 3 * unit : 0);
        before_ = (k_apart / unit + 1) * unit;  // a multiple of the unit, rarely of 16
        if (alignment == Alignment::memory || skewed) before_ = k_alignment * unit;
        int64_t behind = before_;
        if (alignment == Alignment::begin) before_ = 0;
        if (alignment == Alignment::end) behind = tensor.rows() > 0 ? row_ - step_ : 0;
        std::vector<std::byte> image(size_t(before_ + tensor.rows() * step_ + behind), k_sentinel);
        for (int64_t r = 0; r < tensor.rows() && !tensor.bytes.empty(); ++r) {
            std::memcpy(image.data() + before_ + r * step_, tensor.bytes.data() + r * row_,
                        size_t(row_));
        }
        memory_ = Buffer(backend, image.size());
        memory_.upload(image);
    }

    TensorView view() const {
        TensorView v;
        v.data = memory_.data() + before_;
        v.type = tensor_->type;
        std::fill(v.n, v.n + 4, int64_t(1));
        std::copy_backward(tensor_->extents.begin(), tensor_->extents.end(), v.n + 4);
        v.stride[3] = type_info(v.type).block_bytes;
        v.stride[2] = step_;
        v.stride[1] = v.stride[2] * v.n[2];
        v.stride[0] = v.stride[1] * v.n[1];
        return v;
    }

    // Packed rows; `damage` is set if a byte outside of them was written.
    std::vector<std::byte> download(std::string& damage) const {
        std::vector<std::byte> now(memory_.bytes()), rows;
        memory_.download(now);
        rows.reserve(size_t(tensor_->rows() * row_));
        for (int64_t r = 0; r < tensor_->rows(); ++r) {
            const std::byte* row = now.data() + before_ + r * step_;
            rows.insert(rows.end(), row, row + row_);
        }
        const int64_t end = before_ + tensor_->rows() * step_, size = int64_t(now.size());
        look_for_damage(now, 0, before_, damage);
        for (int64_t row = before_; row < end; row += step_) {
            look_for_damage(now, row + row_, std::min(row + step_, size), damage);
        }
        look_for_damage(now, end, size, damage);
        return rows;
    }

  private:
    void look_for_damage(const std::vector<std::byte>& now, int64_t first, int64_t end,
                         std::string& damage) const {
        for (int64_t i = first; i < end && damage.empty(); ++i) {
            if (now[size_t(i)] == k_sentinel) continue;
            damage = fmt::format("{}: byte {} from its beginning was written, outside every row",
                                 tensor_->name, i - before_);
        }
    }

    const CaseTensor* tensor_;
    int64_t row_, step_ = 0, before_ = 0;
    Buffer memory_;
};

Placement::Placement(Backend& backend, const std::vector<CaseTensor>& tensors, Layout layout,
                     Alignment alignment)
    : tensors_(tensors), layout_(layout) {
    for (const CaseTensor& tensor : tensors) {
        blocks_.emplace_back(backend, tensor, layout, alignment);
        views_.push_back(blocks_.back().view());
    }
    if (layout == Layout::in_place) views_[0] = views_[1];
}

Placement::~Placement() = default;

std::vector<std::vector<std::byte>> Placement::results(std::string& damage) {
    const bool in_place = layout_ == Layout::in_place;  // tensor 0 lies where tensor 1 does
    std::vector<std::vector<std::byte>> all;
    for (size_t i = 0; i < tensors_.size(); ++i) {
        std::vector<std::byte> rows = blocks_[in_place && i == 0 ? 1 : i].download(damage);
        const bool overwritten = tensors_[i].output || (in_place && i == 1);
        if (!overwritten && rows != tensors_[i].bytes && damage.empty()) {
            damage = std::string(tensors_[i].name) + ": an input was changed";
        }
        all.push_back(tensors_[i].output ? std::move(rows) : std::vector<std::byte>());
    }
    return all;
}

std::vector<double> bound_of(const Case& one, const Expected& expected, size_t tensor,
                             bool foreign) {
    const CaseTensor& what = expected.tensors[tensor];
    std::vector<double> bound = expected.bounds[tensor];
    if (bound.empty()) {
        std::vector<float> values;
        if (what.type == DType::f32) values = floats_of(expected.results[tensor]);
        bound = one.bound(what.name, expected.tensors, values);
    }
    if (!foreign) return bound;
    const std::vector<double> more = one.foreign_allowance(what.name, expected.tensors);
    for (size_t i = 0; i < more.size(); ++i) bound[i] += more[i];
    return bound;
}

Expected expected_results(const Case& one, Backend& against) {
    Expected expected;
    expected.tensors = one.tensors();
    one.fill(expected.tensors);
    Placement placement(against, expected.tensors, Layout::packed);
    one.run_reference(against, placement.views());
    std::string ignored;  // the reference is a column of the table too
    expected.results = placement.results(ignored);
    expected.bounds.resize(expected.tensors.size());
    for (size_t i = 0; i < expected.tensors.size(); ++i) {
        if (one.agreement() == Agreement::exact || !expected.tensors[i].output) continue;
        expected.bounds[i] = bound_of(one, expected, i, false);
    }
    return expected;
}

Expected expected_results(const Case& one) { return expected_results(one, *make_ref_backend()); }

static Verdict compare(const Case& one, const Expected& expected, size_t tensor,
                       std::span<const std::byte> found, bool foreign) {
    const CaseTensor& what = expected.tensors[tensor];
    const std::vector<std::byte>& right = expected.results[tensor];
    if (found.size() != right.size()) {
        throw Error(ErrorCode::bad_argument, std::string(what.name) + ": expected " +
                                                 std::to_string(right.size()) + " bytes, found " +
                                                 std::to_string(found.size()));
    }
    const Agreement agreement = foreign ? one.foreign_agreement() : one.agreement();
    if (agreement == Agreement::exact) return compare_exact(what.type, right, found);

    const std::vector<double> bound = bound_of(one, expected, tensor, foreign);
    if (agreement == Agreement::steps) {
        const std::vector<float> error(bound.begin(), bound.end());
        return compare_steps(what.type, what.extents.back(), right, found,
                             one.unrounded(what.name, expected.tensors), error);
    }
    const NotFinite not_finite = one.not_finite(what.name);
    if (agreement == Agreement::nmse) return compare_nmse(right, found, bound.at(0), not_finite);
    if (bound.empty()) return compare_exact(what.type, right, found);
    return compare_rounding(what.type, right, found, bound, not_finite);
}

Verdict judge(const Case& one, const Expected& expected, size_t tensor,
              std::span<const std::byte> found, bool foreign) {
    Verdict verdict = compare(one, expected, tensor, found, foreign);
    if (!verdict.ok) {
        verdict.likeness = likeness(expected.tensors[tensor].type, expected.results[tensor], found);
    }
    return verdict;
}

static CaseResult failed(const Case& one, const Backend& backend, Alignment alignment,
                         const std::string& text) {
    const char* const guard = alignment == Alignment::end     ? " --guard back"
                              : alignment == Alignment::begin ? " --guard front"
                                                              : "";
    return {Outcome::fail,
            one.name() + " on " + backend.name() + ": " + text +
                "\n  again: rotkv-cases run --backend " + backend.name() + guard + " --case '" +
                one.name() + "'",
            0};
}

CaseResult run_on(const Case& one, const Expected& expected, Backend& backend,
                  Alignment alignment) {
    std::vector<std::vector<std::byte>> first, second;
    std::string damage;
    const bool guarded = alignment == Alignment::begin || alignment == Alignment::end;
    const auto run_once = [&] {
        Placement placement(backend, expected.tensors, one.layout(), alignment);
        one.run(backend, placement.views());
        return placement.results(damage);
    };
    try {
        first = run_once();
        second = guarded ? first : run_once();  // other bits are found where memory is plain
    } catch (const Error& error) {
        return failed(one, backend, alignment, error.what());
    }
    if (!damage.empty()) return failed(one, backend, alignment, damage);
    CaseResult cell;
    for (size_t i = 0; i < expected.tensors.size(); ++i) {
        const char* name = expected.tensors[i].name;
        if (!expected.tensors[i].output) continue;
        if (first[i] != second[i]) {
            return failed(one, backend, alignment,
                          std::string(name) + ": a second run gave other bits");
        }
        const Verdict verdict = judge(one, expected, i, first[i], false);
        if (!verdict.ok) {
            return failed(one, backend, alignment,
                          std::string(name) + ": " + verdict.report(expected.tensors[i].extents));
        }
        cell.worst = std::max(cell.worst, verdict.worst);
    }
    return cell;
}

std::vector<Column> columns(const std::string& backend, std::optional<Guard> guard, bool quick) {
    constexpr double k_most_quick = 3e7;             // flops: some tenths of a second emulated
    if (!backend.empty()) make_backend(backend, 1);  // an unknown name is the user's mistake
    std::vector<Column> all;
    const auto add = [&](const BackendEntry& entry, const std::string& name, int threads) {
        Column column{name, nullptr, ""};
        if (quick && (entry.emulated || guard)) column.most_flops = k_most_quick;
        try {
            column.backend = entry.make(threads);
            if (guard) {
                const auto memory = entry.guarded_memory != nullptr ? entry.guarded_memory
                                                                    : make_host_guarded_memory;
                column.backend =
                    std::make_unique<GuardedBackend>(std::move(column.backend), memory(*guard));
            }
        } catch (const Error& error) {
            column.missing = error.what();
        }
        all.push_back(std::move(column));
    };
    for (const BackendEntry& entry : backends()) {
        if (entry.make == nullptr || (!backend.empty() && backend != entry.name)) continue;
        const std::string name = entry.name;
        if (!entry.threaded) {
            add(entry, name, 0);
            continue;
        }
        add(entry, name + ", 1 thread", 1);
        add(entry, name + ", 3 threads", 3);
    }
    return all;
}

std::vector<CaseResult> run_case(const Case& one, const std::vector<Column>& columns,
                                 Alignment alignment,
                                 const std::function<void(const Column&)>& begun) {
    std::optional<Expected> expected;
    std::vector<CaseResult> cells;
    for (const Column& column : columns) {
        if (column.backend == nullptr) {
            cells.push_back({Outcome::no_device, column.missing, 0});
            continue;
        }
        const Support support = one.supports(*column.backend);
        if (!support.yes) {
            cells.push_back({Outcome::unsupported, support.reason, 0});
            continue;
        }
        if (one.work().flops > column.most_flops) {
            cells.push_back({Outcome::left_out, "more work than a quick run takes", 0});
            continue;
        }
        if (!expected) expected = expected_results(one);
        if (begun) begun(column);
        cells.push_back(run_on(one, *expected, *column.backend, alignment));
    }
    return cells;
}

const char* outcome_name(Outcome outcome) {
    constexpr const char* names[k_outcomes] = {"ok", "FAIL", "unsupported", "no device",
                                               "left out"};
    return names[int(outcome)];
}

Tally::Tally(const std::vector<Column>& columns) {
    for (const Column& column : columns) columns_.push_back(column.name);
}

void Tally::add(const std::string& op, const std::vector<CaseResult>& cells) {
    if (rows_.empty() || rows_.back().op != op) {
        rows_.push_back({op, 0,
                         std::vector<std::vector<int64_t>>(columns_.size(),
                                                           std::vector<int64_t>(k_outcomes, 0)),
                         0});
    }
    Row& row = rows_.back();
    ++row.cases;
    for (size_t c = 0; c < cells.size(); ++c) {
        ++row.outcomes[c][size_t(cells[c].outcome)];
        row.worst = std::max(row.worst, cells[c].worst);
    }
}

int64_t Tally::count(Outcome outcome) const {
    int64_t sum = 0;
    for (const Row& row : rows_) {
        for (const std::vector<int64_t>& column : row.outcomes) sum += column[size_t(outcome)];
    }
    return sum;
}

std::vector<std::string> Tally::without_proof() const {
    std::vector<std::string> idle;
    bool others = false;
    for (size_t c = 0; c < columns_.size(); ++c) {
        if (columns_[c] == "ref") continue;
        int64_t ok = 0, no_device = 0;
        for (const Row& row : rows_) {
            ok += row.outcomes[c][size_t(Outcome::ok)];
            no_device += row.outcomes[c][size_t(Outcome::no_device)];
        }
        others = others || ok > 0;
        if (ok == 0 && no_device == 0) idle.push_back(columns_[c]);
    }
    if (!others) idle.push_back("any backend but ref");
    return idle;
}

std::string Tally::table() const {
    std::string text = fmt::format("{:<11} {:>5}", "", "cases");
    for (const std::string& column : columns_) text += fmt::format("  {:>23}", column);
    text += "  bound used\n";
    for (const Row& row : rows_) {
        text += fmt::format("{:<11} {:>5}", row.op, row.cases);
        for (const std::vector<int64_t>& outcomes : row.outcomes) {
            std::string words;
            for (int o = 0; o < k_outcomes; ++o) {
                if (outcomes[size_t(o)] == 0) continue;
                words += fmt::format("{}{} {}", words.empty() ? "" : ", ", outcomes[size_t(o)],
                                     outcome_name(Outcome(o)));
            }
            text += fmt::format("  {:>23}", words);
        }
        text += row.worst > 0 ? fmt::format("  {:8.3f}\n", row.worst) : "\n";
    }
    return text;
}

std::string Tally::line() const {
    int64_t cells = 0;
    std::string words;
    for (int o = 0; o < k_outcomes; ++o) {
        const int64_t n = count(Outcome(o));
        cells += n;
        words += fmt::format(", {} {}", n, outcome_name(Outcome(o)));
    }
    return fmt::format("{} cells: {}", cells, words.substr(2));
}

}  // namespace rotkv::tools
