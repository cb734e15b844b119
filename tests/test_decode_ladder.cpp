// Every version of decode attention as a column of the table: judged by the operation's own bounds.
#include "fast/backend.h"
#include "tests/catch.h"
#include "tools/ladder_backends.h"
#include "tools/parity/parity.h"

using namespace rotkv;
using namespace rotkv::tools;

namespace {

constexpr int k_threads = 3;  // so that parts of the cache are merged, on any machine

std::vector<Column> decode_versions() {
    std::vector<Column> versions;
    for (LadderVersion& version : fast_ladder_versions(k_threads)) {
        if (version.ladder != "decode") continue;
        versions.push_back({version.name, std::move(version.backend), ""});
    }
    return versions;
}

// One token of each stream asks, as in generation.
std::vector<std::string> decode_cases() {
    std::vector<std::string> names = case_names("attention/");
    std::erase_if(names, [](const std::string& name) {
        const bool decode =
            name.find("/T=1/") != std::string::npos || name.find("sees=last") != std::string::npos;
        return !decode || name.find("precision=") != std::string::npos;
    });
    return names;
}

}  // namespace

TEST_CASE("decode_ladder: every version is held to the table") {
    const std::vector<Column> versions = decode_versions();
    int64_t ok = 0;
    for (const std::string& name : decode_cases()) {
        const std::vector<CaseResult> cells = run_case(*make_case(name), versions);
        for (size_t i = 0; i < cells.size(); ++i) {
            INFO(versions[i].name << ": " << cells[i].text);
            CHECK(cells[i].outcome != Outcome::fail);
            ok += cells[i].outcome == Outcome::ok;
        }
    }
    CHECK(ok >= 100 * int64_t(versions.size()));
}

TEST_CASE("decode_ladder: the operation is its last version") {
    const std::vector<Column> versions = decode_versions();
    const std::unique_ptr<Backend> operation = make_fast_backend(k_threads);
    for (const std::string& name : case_names("attention/k=q8_0/v=q8_0/T=1/C=113/H=9/K=3")) {
        const std::unique_ptr<Case> one = make_case(name);
        // What the last version gives, to the bit.
        Expected expected = expected_results(*one, *versions.back().backend);
        for (std::vector<double>& bound : expected.bounds) std::fill(bound.begin(), bound.end(), 0);
        const CaseResult cell = run_on(*one, expected, *operation);
        INFO(cell.text);
        CHECK(cell.outcome == Outcome::ok);
    }
}
