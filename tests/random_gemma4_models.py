"""Random models of gemma4: two kinds of layers, one with a window, whose heads and RoPE differ; in
full layers three quarters of the pairs stand still."""
from dataclasses import dataclass

from random_model import RandomModel
from small_vocabularies import gemma4, sentence_piece

INPUTS = 32  # channels of a layer's own embedding, where there is one


@dataclass
class Shape:
    pattern: tuple  # of each layer: whether it has the window
    full: int       # channels of a head of full layers
    window: int     # and of window layers
    window_kv_heads: int = 2
    keys_are_values: bool = True  # of full layers, before norm and RoPE
    borrowing: int = 0  # so many last layers read other layers' caches
    wide: bool = False  # and have twice the hidden channels
    inputs: int = 0

    def has_own_keys(self, layer):
        return layer < len(self.pattern) - self.borrowing


def start(name, shape, vocabulary=sentence_piece):
    layers = len(shape.pattern)
    kv_heads = [shape.window_kv_heads if window else 1 for window in shape.pattern]
    hidden = 192
    if shape.wide:
        hidden = [192 if shape.has_own_keys(layer) else 384 for layer in range(layers)]
    model = RandomModel("gemma4", name, layers=layers, heads=2, kv_heads=kv_heads, d=shape.full,
                        hidden=hidden, base=1e6, epsilon=1e-6, vocabulary=vocabulary)
    model.counts(**{"attention.key_length_swa": shape.window,
                    "attention.value_length_swa": shape.window,
                    "rope.dimension_count_swa": shape.window, "attention.sliding_window": 64,
                    "attention.shared_kv_layers": shape.borrowing,
                    "embedding_length_per_layer_input": shape.inputs})
    model.flags(**{"attention.sliding_window_pattern": [bool(window) for window in shape.pattern]})
    model.numbers(**{"rope.freq_base_swa": 10000.0, "final_logit_softcapping": 5.0})
    return model


def ends(model, shape):
    model.ends(tied=True, embedding=0.15)
    turning, standing = shape.full // 8, shape.full // 2 - shape.full // 8
    model.put("rope_freqs.weight", [1.0] * turning + [1e30] * standing)
    if shape.inputs:
        rows = shape.inputs * model.layers
        model.normal("per_layer_token_embd.weight", (model.words, rows), scale=0.3)
        model.normal("per_layer_model_proj.weight", (rows, model.width))
        model.weight("per_layer_proj_norm.weight", shape.inputs)


def attention(model, layer, shape, standing_is_loud):
    window = shape.pattern[layer]
    d = shape.window if window else shape.full
    model.attention(layer, qk_norm="heads", d=d, own_keys=shape.has_own_keys(layer),
                    own_values=bool(window) or not shape.keys_are_values,
                    q_norm=0.6 * d ** -0.5,  # the scores are not scaled
                    also_loud=(d // 6, d // 6 + d // 2) if standing_is_loud else ())


def experts(model, layer):
    """Beside the feed-forward block, between norms of their own."""
    model.norms(layer, "post_ffw_norm_1", "post_ffw_norm_2", "pre_ffw_norm_2")
    model.weight(f"blk.{layer}.ffn_gate_inp.scale", model.width)
    model.experts(layer, fused=True)
    model.weight(f"blk.{layer}.ffn_down_exps.scale", model.n_experts)


def own_embedding(model, layer, shape):
    model.normal(f"blk.{layer}.inp_gate.weight", (shape.inputs, model.width))
    model.normal(f"blk.{layer}.proj.weight", (model.width, shape.inputs))
    model.norms(layer, "post_norm")


def add_layers(model, shape, has_experts=False):
    ends(model, shape)
    for layer in range(model.layers):
        model.norms(layer, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        attention(model, layer, shape, standing_is_loud=not has_experts)
        model.feed_forward(layer)
        model.put(f"blk.{layer}.layer_output_scale.weight", [0.7 + 0.1 * layer])
        if has_experts:
            experts(model, layer)
        if shape.inputs:
            own_embedding(model, layer, shape)
    return model


def gemma4_256_512(name):
    shape = Shape((1, 1, 1, 0, 1, 0), full=512, window=256)
    return add_layers(start(name, shape), shape)


def gemma4_e(name):
    shape = Shape((1, 1, 1, 0, 1, 0), full=128, window=64, window_kv_heads=1, keys_are_values=False,
                  borrowing=2, wide=True, inputs=INPUTS)
    return add_layers(start(name, shape, gemma4), shape)


def gemma4_moe(name):
    shape = Shape((1, 1, 0), full=128, window=64)
    model = start(name, shape)
    model.expert_keys(8, 2, 64)
    return add_layers(model, shape, has_experts=True)


MODELS = {"gemma4-256-512": gemma4_256_512, "gemma4-e": gemma4_e, "gemma4-moe": gemma4_moe}
