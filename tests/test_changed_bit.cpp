// One bit of one norm's weight: it reaches the predictions of every architecture, wherever its
// norms are.
#include "tests/catch.h"
#include "tests/tiny_run.h"
#include "tools/watch/changed_bit.h"

namespace rotkv::test {
namespace {

TEST_CASE("changed bit: it reaches what every architecture predicts, and little changes") {
    const std::vector<int32_t> tokens = some_tokens(19);
    for (const Architecture& architecture : architectures()) {
        INFO(architecture.name);
        Opened opened(TinyModel::make(architecture.name));
        Model model(opened.gguf, *opened.ref, {.context = 64});
        tools::ChangedBit changed(model);
        Model moved(model, {.context = 64, .observer = changed.observer()});
        const auto answer = [&](Model& of) {
            KvCache cache = opened.cache(of);
            return run(of, cache, tokens, 0);
        };
        const std::vector<float> exact = answer(model);
        changed.choose(3);
        const std::vector<float> third = answer(moved);
        changed.choose(model.config().width - 1);
        const std::vector<float> last = answer(moved);
        CHECK(third != exact);
        CHECK(last != exact);
        CHECK(third != last);
        CHECK(distance(third, exact) < 1e-5);
        CHECK(distance(last, exact) < 1e-5);
        CHECK(answer(model) == exact);
    }
}

}  // namespace
}  // namespace rotkv::test
