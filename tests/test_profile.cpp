// How the time of a run divides among operations, on a backend that moves the clock.
#include "ref/forwarding_backend.h"
#include "ref/kernels.h"
#include "tests/cached_attention.h"
#include "tests/catch.h"
#include "tools/watch/profile.h"

#include <sstream>
#include <string>
#include <vector>

using namespace rotkv;
using namespace rotkv::test;

namespace {

// Each hadamard takes 20 ms, any other operation 4, by its clock.
class TimedBackend : public ForwardingBackend {
  public:
    using ForwardingBackend::ForwardingBackend;
    double now() const { return seconds_; }

  protected:
    void execute(const Call& call) override {
        seconds_ += std::holds_alternative<HadamardArgs>(call) ? 0.020 : 0.004;
        real().run(call);
    }

  private:
    double seconds_ = 0;
};

struct Line {
    std::string op, calls;
    double ms = 0, percent = 0;
};

// "  matmul          3 x      8.12 ms  74.3 %"; the last line has no calls.
std::vector<Line> lines_of(const std::string& table) {
    std::istringstream all(table);
    std::vector<Line> lines;
    for (std::string text; std::getline(all, text);) {
        std::istringstream words(text);
        Line line;
        std::string x, unit, percent;
        words >> line.op;
        if (line.op != "between") words >> line.calls >> x;
        words >> line.ms >> unit >> line.percent >> percent;
        CHECK((unit == "ms" && percent == "%"));
        lines.push_back(line);
    }
    return lines;
}

}  // namespace

TEST_CASE("profile: the longest comes first, and what lies between is the rest of all") {
    TimedBackend backend(make_ref_backend());
    const Buffer memory = upload(backend, std::vector<float>(64, 1.0f));
    const TensorView x = memory.view(DType::f32, {64});
    tools::Profile profile([&] { return backend.now(); });
    const Observer observer = profile.observer();
    for (int i = 0; i < 3; ++i) observer(0, AddArgs{.dst = x, .a = x, .b = x}, backend);
    observer(1, HadamardArgs{.dst = x, .src = x}, backend);
    observer(-1, ActMulArgs{.dst = x, .gate = x, .up = x}, backend);
    const std::vector<Line> lines = lines_of(profile.table(0.5));
    REQUIRE(lines.size() == 4);
    CHECK((lines[0].op == "hadamard" && lines[0].calls == "1"));
    CHECK(lines[0].ms == Approx(20));
    CHECK((lines[1].op == "add" && lines[1].calls == "3"));
    CHECK(lines[1].ms == Approx(12));
    CHECK((lines[2].op == "act_mul" && lines[2].calls == "1"));
    CHECK(lines[3].op == "between");
    double ms = 0, percent = 0;
    for (const Line& line : lines) {
        CHECK(line.percent == Approx(line.ms / 5).margin(0.06));  // of 500 ms, to one decimal
        ms += line.ms;
        percent += line.percent;
    }
    CHECK(ms == Approx(500).margin(0.03));
    CHECK(percent == Approx(100).margin(0.25));
    profile.clear();
    CHECK(lines_of(profile.table(1)).size() == 1);
}
