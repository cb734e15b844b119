// Every backend against the reference, on every case of the table: one test an operation.
#include "ref/error.h"
#include "tests/catch.h"
#include "tools/backends.h"
#include "tools/parity/parity.h"

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

using namespace rotkv;
using namespace rotkv::tools;

namespace {

// Under ThreadSanitizer lanes of the emulation are threads of the system, a thousand times slower:
// a test of its own takes some small rows then.
bool has_threads_for_lanes(const Backend& backend) {
    return backend.description().find("emulated by threads") != std::string::npos;
}

// ctest shows the line of each operation; ./dev test adds them up.
void run_table(const std::string& op) {
    std::vector<Column> on = columns("", {}, std::getenv("ROTKV_FULL") == nullptr);
    std::erase_if(on, [](const Column& column) {
        return column.backend != nullptr && has_threads_for_lanes(*column.backend);
    });
    Tally tally(on);
    for (const std::string& name : case_names()) {
        const std::unique_ptr<Case> one = make_case(name);
        if (one->op() != op) continue;
        const std::vector<CaseResult> cells = run_case(*one, on);
        tally.add(op, cells);
        for (const CaseResult& cell : cells) {
            if (cell.outcome == Outcome::fail) FAIL_CHECK(cell.text);
        }
    }
    std::printf("CELLS %s: %s\n", op.c_str(), tally.line().c_str());
    std::vector<std::string> idle = tally.without_proof();
    for (const char* device : {"cuda", "metal", "metal-emul"}) {
        std::erase(idle, device);  // what it refuses is written down in a file of its own
    }
    CHECK(idle == std::vector<std::string>());
    CHECK(tally.count(Outcome::fail) == 0);
}

}  // namespace

TEST_CASE("parity: hadamard") { run_table("hadamard"); }
TEST_CASE("parity: quantize") { run_table("quantize"); }
TEST_CASE("parity: dequantize") { run_table("dequantize"); }
TEST_CASE("parity: rope") { run_table("rope"); }
TEST_CASE("parity: kv_store") { run_table("kv_store"); }
TEST_CASE("parity: kv_shift") { run_table("kv_shift"); }
TEST_CASE("parity: conv_step") { run_table("conv_step"); }
TEST_CASE("parity: delta_step") { run_table("delta_step"); }
TEST_CASE("parity: restore") { run_table("restore"); }
TEST_CASE("parity: attention") { run_table("attention"); }
TEST_CASE("parity: path") { run_table("path"); }
TEST_CASE("parity: turn") { run_table("turn"); }
TEST_CASE("parity: merge") { run_table("merge"); }
TEST_CASE("parity: rms_norm") { run_table("rms_norm"); }
TEST_CASE("parity: layer_norm") { run_table("layer_norm"); }
TEST_CASE("parity: scale") { run_table("scale"); }
TEST_CASE("parity: act_mul") { run_table("act_mul"); }
TEST_CASE("parity: add") { run_table("add"); }
TEST_CASE("parity: matmul") { run_table("matmul"); }
TEST_CASE("parity: route") { run_table("route"); }
TEST_CASE("parity: expert_matmul") { run_table("expert_matmul"); }
TEST_CASE("parity: expert_sum") { run_table("expert_sum"); }
TEST_CASE("parity: embed") { run_table("embed"); }
TEST_CASE("parity: nll") { run_table("nll"); }
TEST_CASE("parity: kld") { run_table("kld"); }
TEST_CASE("parity: logits") { run_table("logits"); }

TEST_CASE("parity: a quick run leaves out what takes an emulated device longest, and no more") {
    const std::vector<Column> on = columns("", {}, true);
    for (const Column& guarded : columns("", Guard::back, true)) {
        CHECK((guarded.most_flops < INFINITY || guarded.backend == nullptr));
    }
    int64_t all = 0, left_out = 0;
    for (const Column& column : on) {
        if (column.backend == nullptr) continue;
        INFO(column.name);
        CHECK((column.most_flops < INFINITY) == (column.name == "metal-emul"));
        if (column.name != "metal-emul") continue;
        for (const std::string& name : case_names()) {
            const std::unique_ptr<Case> one = make_case(name);
            if (!one->supports(*column.backend).yes) continue;
            ++all;
            left_out += one->work().flops > column.most_flops ? 1 : 0;
        }
        CHECK(left_out * 30 > all * 29 / 30);
        CHECK(left_out > 0);
        CHECK(left_out * 20 < all);
        const auto longest = make_case("nll/type=q8_0/T=37/V=9000/E=384");
        const std::vector<CaseResult> cells = run_case(*longest, columns(column.name, {}, true));
        CHECK(cells.at(0).outcome == Outcome::left_out);
    }
}

namespace {

std::string refused_by(const Backend& device) {
    std::string found;
    for (const std::string& name : case_names()) {
        const Support support = make_case(name)->supports(device);
        if (!support.yes) found += name + ": " + support.reason + "\n";
    }
    return found;
}

std::string golden(const std::string& name) {
    std::ifstream file(std::string(ROTKV_GOLDEN_DIR) + "/" + name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

// What a device refuses stands in a file: a backend that quietly supports less fails here.
TEST_CASE("cuda: a device of capability 9.0 refuses the cases that it refused before") {
    std::unique_ptr<Backend> device;
    try {
        device = make_backend("cuda", 0);
    } catch (const Error& error) {
        return test::skip(error.what());
    }
    if (device->description().find("compute capability 9.0") == std::string::npos) {
        return test::skip("the list is that of compute capability 9.0, here is " +
                          device->description());
    }
    INFO("write it again: rotkv-cases list --refused-by cuda > tests/golden/refused_cuda.txt");
    CHECK(refused_by(*device) == golden("refused_cuda.txt"));
}

TEST_CASE("metal: it refuses the cases that it refused before, here and where it is emulated") {
    std::unique_ptr<Backend> device;
    for (const BackendEntry& entry : backends()) {
        const std::string name = entry.name;
        if (entry.make == nullptr || name.substr(0, 5) != "metal") continue;
        try {
            device = entry.make(0);
        } catch (const Error& error) {
            if (entry.emulated) throw;  // it needs no device
            return test::skip(error.what());
        }
    }
    REQUIRE(device != nullptr);
    INFO(
        "write it again: rotkv-cases list --refused-by metal-emul > "
        "tests/golden/refused_metal.txt");
    CHECK(refused_by(*device) == golden("refused_metal.txt"));
}

TEST_CASE("metal: small rows, also where every lane is a thread") {
    const std::vector<Column> on = columns("");
    for (const char* name : {"hadamard/D=128/rot=128",
                             "quantize/type=q5_1/rows=1/D=32",
                             "dequantize/type=q4_K",
                             "rope/T=1/H=1",
                             "rms_norm/rows=2",
                             "layer_norm/rows=2",
                             "scale/default",
                             "act_mul/default",
                             "add/default",
                             "turn/T=2/H=2/D=96",
                             "turn/T=2/H=2/D=96/inverse=1",
                             "merge/T=2",
                             "kv_store/k=q4_0/v=q4_0/T=1/K=1/rot-k=64/rot-v=64",
                             "kv_shift/k=q8_0/C=4/K=1/rot-k=64",
                             "matmul/type=q8_0/T=2/in=64/out=8",
                             "logits/type=f16/T=2/V=9/E=32",
                             "embed/type=q4_0/T=2/V=3/E=64",
                             "attention/k=q8_0/v=q4_0/T=1/C=8/H=2/K=1/rot-k=64/rot-v=64",
                             "attention/k=q8_0/v=q4_0/T=1/C=513/H=1/K=1/fill=dense/sees=last/lse=1",
                             "attention/k=q8_0/v=f16/T=5/C=41/K=1/precision=f16/lse=1",
                             "attention/k=f16/v=f16/T=8/H=1/K=1/D=128/precision=f16/lse=1",
                             "attention/k=q4_0/v=q4_0/T=8/C=17/H=1/K=1/D=256/rot-k=256/rot-v=64/"
                             "precision=f16",
                             "attention/k=f32/v=f32/T=8/H=2/K=1/precision=f16/values=far-queries",
                             "conv_step/T=3/channels=5",
                             "delta_step/T=3/Hk=1/Hv=2/D=33",
                             "route/T=2/X=33/A=3",
                             "route/gating=softmax_chosen/T=1/X=6/groups=3/used=2",
                             "expert_matmul/type=q4_0/T=1/X=9/in=32/out=5",
                             "expert_matmul/type=q8_0/T=5/X=2/in=32/out=5/bias=1",
                             "expert_sum/T=1/E=40",
                             "nll/type=f16/T=2/V=9/E=32",
                             "kld/type=f16/T=2/V=9/E=32"}) {
        for (const CaseResult& cell : run_case(*make_case(name), on)) {
            INFO(cell.text);
            CHECK(cell.outcome != Outcome::fail);
        }
    }
}
