// Reads out of bounds: found where memory is guarded on their side, named, and no other run ends.
#include "ref/guarded_memory.h"
#include "ref/kernels.h"
#include "tests/catch.h"
#include "tools/parity/guarded_backend.h"
#include "tools/parity/guarded_run.h"

#include <memory>
#include <string>
#include <vector>

using namespace rotkv;
using namespace rotkv::tools;

namespace {

// The reference, whose hadamard of one row reads one element too many: before the row, or behind.
class Reader final : public ForwardingBackend {
  public:
    explicit Reader(bool before) : ForwardingBackend(make_ref_backend()), before_(before) {}
    std::string name() const override { return "reader"; }

  protected:
    void execute(const Call& call) override {
        real().run(call);
        const auto* args = std::get_if<HadamardArgs>(&call);
        if (args == nullptr || args->src.n[2] != 1) return;
        const volatile float* const row = args->src.row<const float>(0);
        static_cast<void>(row[before_ ? -1 : args->src.n[3]]);
    }

  private:
    bool before_;
};

ApartRun run_of(bool before, Guard guard) {
    const std::vector<std::string> names = {"hadamard/rot=64", "hadamard/rows=1/rot=64",
                                            "hadamard/D=128"};
    const auto make = [&] {
        std::vector<Column> columns;
        columns.push_back({"reader",
                           std::make_unique<GuardedBackend>(std::make_unique<Reader>(before),
                                                            make_host_guarded_memory(guard)),
                           ""});
        return columns;
    };
    return run_apart(names, make, guard == Guard::back ? Alignment::end : Alignment::begin);
}

}  // namespace

TEST_CASE("guarded: a read behind the last element is a fault with --guard back, and named") {
    const ApartRun run = run_of(false, Guard::back);
    INFO(run.death);
    CHECK(run.death.find("hadamard/rows=1/rot=64 on reader: ") == 0);
    CHECK(run.rows.size() == 1);
    CHECK(run_of(false, Guard::front).death.empty());
}

TEST_CASE("guarded: a read before the first element is a fault with --guard front, and named") {
    const ApartRun run = run_of(true, Guard::front);
    INFO(run.death);
    CHECK(run.death.find("hadamard/rows=1/rot=64 on reader: ") == 0);
    CHECK(run.rows.size() == 1);
    const ApartRun other = run_of(true, Guard::back);
    CHECK(other.death.empty());
    REQUIRE(other.rows.size() == 3);
    CHECK(other.columns.at(0).name == "reader");
    CHECK(other.rows[2].cells.at(0).outcome == Outcome::ok);
}

TEST_CASE("guarded: what lies in guarded memory is read, written and given back") {
    for (const Guard guard : {Guard::front, Guard::back}) {
        const std::unique_ptr<GuardedMemory> memory = make_host_guarded_memory(guard);
        for (const size_t bytes : {size_t(0), size_t(1), size_t(4096), size_t(70000)}) {
            std::byte* const one = memory->allocate(bytes);
            std::byte* const two = memory->allocate(bytes);
            REQUIRE(one != nullptr);
            CHECK(one != two);
            std::fill_n(one, bytes, std::byte(7));
            CHECK(memory->release(one));
            CHECK(!memory->release(one));
        }
        std::byte other{};
        CHECK(!memory->release(&other));
    }
}
