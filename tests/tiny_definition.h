#pragma once
// The forward pass of small models, written down in f64 from the definitions: token by token, no
// cache, no batch. What it has in common with the code under test is the names of tensors.
// Docs: docs/18-models.md

#include "tests/tiny_model.h"

#include <cstdint>
#include <string>
#include <vector>

namespace rotkv::test {

using Numbers = std::vector<double>;

/// y = W x (+ b), of as many rows as W has.
Numbers product(const std::vector<float>& w, const Numbers& x, const std::vector<float>* bias);

/// Rows of d.
std::vector<Numbers> split(const Numbers& x, int64_t d);

double sigmoid(double x);
double silu(double x);
double gelu(double x);

/// The forward pass of one model, token after token.
class Definition {
  public:
    /// The first token has the position `first`.
    Definition(const TinyModel& model, int64_t first);

    /// What the output matrix multiplies.
    Numbers next(int32_t token);

  private:
    // One position of one layer, as later positions see it.
    struct Remembered {
        std::vector<Numbers> k, v;  // [kv head][d]
    };
    // What a delta layer keeps.
    struct State {
        std::vector<Numbers> inputs;    // of the convolution, all so far
        std::vector<Numbers> matrices;  // [head][value channel][key channel]
    };

    const std::vector<float>& weight(int64_t l, const std::string& tensor) const {
        return m_.weights.at(blk(l, tensor));
    }
    const std::vector<float>* optional(const std::string& tensor) const {
        return m_.has(tensor) ? &m_.weights.at(tensor) : nullptr;
    }
    // The product of a layer, with its bias if there is one.
    Numbers times(int64_t l, const std::string& name, const Numbers& x) const {
        return product(weight(l, name + ".weight"), x, optional(blk(l, name + ".bias")));
    }
    Numbers normed(Numbers x, const std::vector<float>& weight) const;
    Numbers unit(const Numbers& x) const;  // divided by its root mean square
    void add_block(Numbers& x, Numbers y, const std::string& post_norm, int64_t l) const;

    // tiny_definition.cpp
    bool turns(int64_t l) const;
    void turn(Numbers& x, int64_t l, int64_t first) const;
    void place(std::vector<Numbers>& heads, int64_t l, const std::string& norm_weight) const;
    double warmth(int64_t l) const;
    Numbers grouped(int64_t l, const Numbers& h);
    std::vector<Numbers> attend(int64_t l, const std::vector<Numbers>& q, double scale) const;
    Numbers mix(const Numbers& q, const std::vector<Remembered>& past, size_t from, size_t kv,
                double scale, const float* sink) const;
    int64_t source(int64_t l) const;

    // tiny_definition_kinds.cpp
    Numbers latent(int64_t l, const Numbers& h);
    Numbers delta(int64_t l, const Numbers& h);

    // tiny_definition_feed_forward.cpp
    Numbers feed_forward(int64_t l, const Numbers& h, const Numbers& stream) const;
    Numbers dense(int64_t l, const Numbers& h, const std::string& suffix) const;
    Numbers activated(const Numbers& gate, const Numbers& up) const;
    Numbers expert(int64_t l, int64_t e, const Numbers& x) const;
    Numbers experts(int64_t l, const Numbers& h, const Numbers& router_input) const;
    Numbers shared_expert(int64_t l, const Numbers& h) const;
    std::vector<int64_t> choose(int64_t l, const Numbers& scores) const;
    std::vector<Numbers> per_layer_inputs(int32_t token, const Numbers& x) const;
    Numbers per_layer_part(int64_t l, const Numbers& stream, const Numbers& input) const;

    const TinyModel& m_;
    std::vector<std::vector<Remembered>> memory_;  // [layer][position]
    std::vector<State> states_;                    // [layer]
    int64_t first_, position_;
};

}  // namespace rotkv::test
