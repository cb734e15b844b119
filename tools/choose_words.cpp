#include "tools/choose_words.h"

#include "ref/error.h"
#include "tools/sampling.h"

#ifdef ROTKV_HAS_CUDA
#include "cuda/backend.h"
#endif

#include <vector>

namespace rotkv::tools {

void choose_words(Backend& backend, const TensorView& logits, double temperature,
                  std::span<const double> u, std::span<int32_t> chosen) {
    require(std::ssize(chosen) == logits.n[2] && std::ssize(chosen) <= k_max_logit_rows,
            ErrorCode::bad_argument, "choose_words: expected a place for each of at most 64 rows");
    require(u.size() == chosen.size() || (u.empty() && temperature == 0), ErrorCode::bad_argument,
            "choose_words: expected a number of [0, 1) for each row");
#ifdef ROTKV_HAS_CUDA
    if (auto* const cuda = dynamic_cast<CudaBackend*>(&backend)) {
        return cuda->choose_words(logits, temperature, u, chosen);
    }
#endif
    const std::size_t words = std::size_t(logits.n[3]);
    std::span<const float> all(logits.row<const float>(0), chosen.size() * words);
    std::vector<float> copy;
    if (backend.in_host_memory()) {
        backend.synchronize();
    } else {
        copy = contents<float>(backend, logits);
        all = copy;
    }
    backend.on_host(std::ssize(chosen), [&](int64_t i) {
        const std::size_t at = std::size_t(i);
        chosen[at] = choose_word(all.subspan(at * words, words), temperature, u.empty() ? 0 : u[at])
                         .value_or(-1);
    });
}

}  // namespace rotkv::tools
