// docs/ops.md, written from the table and from what backends say they support.
#include "tools/backends.h"
#include "tools/parity/case_files.h"
#include "tools/parity/parity.h"

#include <fmt/format.h>

#include <map>
#include <set>

namespace rotkv::tools {

namespace {

constexpr const char* k_head =
    R"(# Operations, agreement, support

Code: ref/cases/cases.h, ref/cases/case.h, ref/cases/agreement.h, tools/parity/support_page.cpp

Written by `rotkv-cases page`; the tests fail where it is stale. How to hold another engine to the same table is in
[chapter 10](10-testing-your-engine.md), what the operations are in [chapter 8](08-backends.md).

u = 2^-24. walk(n) = 4/3 sqrt(n) + 2 is how far n rounded additions may be off, in u of the sum of magnitudes
(`ref/cases/case_of.h` derives it). *Exact* is equal bytes, where a NaN that was computed equals any NaN. *Steps* allows a stored
code to be one off where its value lies within 1e-5 of the type's largest code of a tie, and a scale one f16. Below the normal
numbers of f32, 2^-126, no bound promises anything.

)";

// What a backend says to all cases of one operation.
struct Answers {
    int64_t yes = 0, no = 0;
    std::map<std::string, int64_t> reasons;
};

// "K: q4_0 needs rows of a multiple of 32 elements, found 80" without the type and the number.
std::string in_general(const std::string& reason) {
    return reason.find("needs rows of a multiple of") == std::string::npos
               ? reason
               : "block types need rows of whole blocks";
}

// f16 and bf16 are there or not by the device and by the library that multiplies.
bool of_any_build(const std::string& case_name) {
    return case_name.find("/precision=") == std::string::npos;
}

std::string in_a_cell(const std::string& formula) {
    std::string text;
    for (const char c : formula) text += c == '|' ? std::string("\\|") : std::string(1, c);
    return text;
}

}  // namespace

std::string support_page() {
    std::vector<std::unique_ptr<Backend>> built;  // those of every build and machine
    for (const char* name : {"ref", "fast"}) built.push_back(make_backend(name, 1));
    std::map<std::string, std::vector<Answers>> answers;
    std::map<std::string, int64_t> cases;
    std::map<std::string, std::set<std::string>> keys;
    for (const std::string& name : case_names()) {
        const std::unique_ptr<Case> one = make_case(name);
        std::vector<Answers>& row = answers[one->op()];
        row.resize(built.size());
        ++cases[one->op()];
        if (!of_any_build(name)) continue;
        for (size_t b = 0; b < built.size(); ++b) {
            const Support support = one->supports(*built[b]);
            (support.yes ? row[b].yes : row[b].no) += 1;
            if (!support.yes) ++row[b].reasons[in_general(support.reason)];
        }
    }
    std::string text = k_head;
    text +=
        "| operation | cases | rotkv's backends agree | another engine must agree "
        "|\n|---|---|---|---|\n";
    for (const CaseOp& op : case_ops()) {
        text += fmt::format("| {} | {} | {} | {} |\n", op.name, cases[op.name],
                            in_a_cell(op.agreement), in_a_cell(op.foreign));
    }
    text +=
        "\nCases that a backend runs, of all in f32; the rest it refuses with a reason. What is "
        "rounded to\nf16 or bf16 (`precision=`) depends on the machine and the libraries: "
        "`rotkv-cases run` tells.\n\n| operation |";
    for (const auto& backend : built) text += fmt::format(" {} |", backend->name());
    text += "\n|---|";
    for (size_t b = 0; b < built.size(); ++b) text += "---|";
    std::map<std::string, int64_t> reasons;
    for (const CaseOp& op : case_ops()) {
        text += fmt::format("\n| {} |", op.name);
        for (const Answers& one : answers[op.name]) {
            text += one.no == 0 ? fmt::format(" all {} |", one.yes)
                                : fmt::format(" {}, not {} |", one.yes, one.no);
            for (const auto& [reason, n] : one.reasons) reasons[reason] += n;
        }
    }
    text += "\n\n";
    for (const auto& [reason, n] : reasons) text += fmt::format("- {} cells: {}\n", n, reason);
    text +=
        "\nA device answers for itself, where there is one: `rotkv-cases run --backend cuda` "
        "counts "
        "what it runs,\nand `--json` gives the reason of each refusal. What was seen is in the "
        "room's README.\n";
    return text;
}

}  // namespace rotkv::tools
