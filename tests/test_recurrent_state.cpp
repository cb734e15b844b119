// What layers without cells keep of a stream: its memory, which tokens it holds, and what it
// cannot do.
#include "ref/recurrent_state.h"
#include "tests/laws.h"
#include "tests/random.h"
#include "tests/refused_call.h"

using namespace rotkv;
using namespace rotkv::test;

namespace {

using Ints = std::vector<int32_t>;

// Three streams; layer 1 has no state, layer 2 keeps no inputs.
RecurrentShape small_shape() {
    return {.streams = 3,
            .layers = {{.heads = 2, .d = 3, .channels = 5, .taps = 4},
                       {},
                       {.heads = 1, .d = 4, .channels = 7, .taps = 1}}};
}

// Numbers everywhere, other ones in each stream.
void fill_streams(RecurrentState& state) {
    for (int64_t stream = 0; stream < 3; ++stream) {
        const std::vector<float> x =
            normal_vector(state.shape().bytes_per_stream() / 4, uint64_t(stream) + 1);
        state.set_contents(stream, std::as_bytes(std::span(x)), state.held()[size_t(stream)]);
    }
}

std::string unsupported(const std::function<void()>& call) {
    return refusal(call, ErrorCode::unsupported);
}

}  // namespace

TEST_CASE("recurrent state: sizes and places of every layer") {
    const RecurrentShape shape = small_shape();
    CHECK(shape.layers[0].bytes_per_stream() == 4 * (3 * 5 + 2 * 3 * 3));
    CHECK(shape.bytes_per_stream() == 4 * (3 * 5 + 2 * 3 * 3 + 4 * 4));
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        RecurrentState state(*backend, shape);
        fill_streams(state);
        CHECK(describe(state.inputs(0)) == "f32 [1][3][3][5]");
        CHECK(describe(state.matrices(0)) == "f32 [3][2][3][3]");
        CHECK(state.inputs(1).empty());
        CHECK(state.matrices(1).empty());
        CHECK(state.inputs(2).empty());
        // layer 0's inputs of stream 2, and layer 2's matrix of stream 1, as they were put there
        const std::vector<float> a = download_f32(*backend, state.inputs(0)),
                                 m = download_f32(*backend, state.matrices(2));
        const std::vector<float> of_2 = normal_vector(49, 3), of_1 = normal_vector(49, 2);
        CHECK(std::equal(a.begin() + 30, a.end(), of_2.begin()));
        CHECK(std::equal(m.begin() + 16, m.begin() + 32, of_1.begin() + 33));
    }
    const std::unique_ptr<Backend> ref = make_ref_backend();
    for (RecurrentLayer wrong : {RecurrentLayer{.heads = 1, .d = 4, .channels = 7, .taps = 0},
                                 RecurrentLayer{.heads = 0, .d = 4, .channels = 7, .taps = 4},
                                 RecurrentLayer{.heads = 1, .d = 0, .channels = 7, .taps = 4}}) {
        CHECK_THROWS_AS(RecurrentState(*ref, {.streams = 1, .layers = {wrong}}), Error);
    }
}

TEST_CASE("recurrent state: tokens come one after the other") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    RecurrentState state(*ref, small_shape());
    state.place(Ints{0, 2, 0, 2, 0}, Ints{0, 0, 1, 1, 2});
    state.place(Ints{2, 0}, Ints{2, 3});
    CHECK(state.held()[0] == Held{0, 4});
    CHECK(state.held()[1] == Held{0, 0});
    CHECK(state.held()[2] == Held{0, 3});
    CHECK(unsupported([&] {
              state.place(Ints{2, 0}, Ints{3, 5});
          }) ==
          "recurrent state: stream 0: expected position 4, found 5: it takes tokens one after the "
          "other, and none back");
    CHECK(unsupported([&] { state.place(Ints{0}, Ints{3}); }).find("expected position 4") !=
          std::string::npos);
    CHECK(unsupported([&] {
              state.place(Ints{1}, Ints{1});
          }).find("stream 1: expected position 0") != std::string::npos);
    CHECK(refusal([&] { state.place(Ints{3}, Ints{0}); }, ErrorCode::bad_argument) ==
          "recurrent state: expected one of 3 streams, found 3");
    CHECK(unsupported([&] {
              state.require_next(Ints{2, 0}, Ints{3, 5});
          }).find("stream 0: expected position 4") != std::string::npos);
    CHECK_NOTHROW(state.require_next(Ints{2, 0}, Ints{3, 4}));
    CHECK(state.held()[2] == Held{0, 3});  // of a batch that was refused, nothing
}

TEST_CASE("recurrent state: a copy is the other stream, and the rest stays") {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        INFO(backend->name());
        RecurrentState state(*backend, small_shape());
        state.place(Ints{0, 0, 1}, Ints{0, 1, 0});
        fill_streams(state);
        const std::vector<std::byte> of_0 = state.contents(0), of_2 = state.contents(2);
        state.copy(0, 1);
        state.copy(2, 2);
        CHECK(state.contents(1) == of_0);
        CHECK(state.contents(0) == of_0);
        CHECK(state.contents(2) == of_2);
        CHECK(state.held()[1] == Held{0, 2});
        state.clear(0);
        CHECK(state.contents(0) == std::vector<std::byte>(of_0.size()));
        CHECK(state.contents(1) == of_0);
        CHECK(state.held()[0] == Held{0, 0});
        state.set_contents(2, of_0, {5, 9});
        CHECK(state.contents(2) == of_0);
        CHECK(state.held()[2] == Held{5, 9});
    }
}

TEST_CASE("recurrent state: all of a stream is removed or shifted, or nothing") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    RecurrentState state(*ref, small_shape());
    state.place(Ints{1, 1, 1, 1, 1}, Ints{0, 1, 2, 3, 4});
    fill_streams(state);
    const std::vector<std::byte> before = state.contents(1);
    state.remove(1, 5, 100);
    state.remove(1, 3, 3);
    state.shift(1, 5, 100, -3);
    CHECK(unsupported([&] { state.remove(1, 3, 100); }) ==
          "recurrent state: stream 1 holds positions 0 to 4 in one, 3 to 4 alone cannot be "
          "removed");
    CHECK(unsupported([&] { state.remove(1, 1, 3); }).find("1 to 2 alone") != std::string::npos);
    CHECK(unsupported([&] { state.shift(1, 2, 9, -1); }).find("2 to 4 alone cannot be shifted") !=
          std::string::npos);
    CHECK(state.held()[1] == Held{0, 5});
    CHECK(refusal([&] { state.shift(1, 0, 5, -1); }, ErrorCode::bad_argument) ==
          "recurrent state: shift by -1 moves position 0 to -1");
    state.shift(1, 0, 5, 7);
    CHECK(state.held()[1] == Held{7, 12});
    state.place(Ints{1}, Ints{12});
    CHECK(state.contents(1) == before);
    state.remove(1, 7, 13);
    CHECK(state.held()[1] == Held{0, 0});
    CHECK(state.contents(1) == std::vector<std::byte>(before.size()));
}
