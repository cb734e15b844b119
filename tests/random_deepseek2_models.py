"""Random models of latent attention: of a token's keys and values, all heads share one short row
[latent | turning]. Files have two forms: "absorbed" ones cache that row, whose latent part is the
value; "legacy" ones make keys and values of each head from it, and cache these.

A head's query and key are [still | turning] channels."""
from dataclasses import dataclass

import numpy as np

from random_model import BEFORE, RandomModel

LATENT, TURNING, HEADS = 128, 64, 4
SOFTMAX, SIGMOID = 1, 2  # expert_gating_func


@dataclass
class Shape:
    still: int = 128
    value: int = 128
    query_latent: int = 0  # 0: queries come from the width in one step
    legacy: bool = False


def start(name, shape, pre="deepseek-llm"):
    d, d_v, kv_heads = LATENT + TURNING, LATENT, 1
    if shape.legacy:
        d, d_v, kv_heads = shape.still + TURNING, shape.value, HEADS
    model = RandomModel("deepseek2", name, layers=3, heads=HEADS, kv_heads=kv_heads, d=d, d_v=d_v,
                        n_rot=TURNING, hidden=256, epsilon=1e-6, pre=pre)
    model.counts(**{"leading_dense_block_count": 1, "attention.q_lora_rank": shape.query_latent,
                    "attention.kv_lora_rank": LATENT})
    if not shape.legacy:
        model.counts(**{"attention.key_length_mla": shape.still + TURNING,
                        "attention.value_length_mla": shape.value})
    return model


def choice_keys(model, gating=SOFTMAX, norm=False, scale=1.0, shared=2):
    model.counts(expert_gating_func=gating, expert_shared_count=shared)
    model.flags(expert_weights_norm=norm)
    model.numbers(expert_weights_scale=scale)


def yarn_keys(model, factor, original, multiplier):
    model.yarn(factor, original)  # these files hold a tenth of the multiplier
    model.numbers(**{"rope.scaling.yarn_log_multiplier": 0.1 * multiplier})


def attention(model, layer, shape):
    prefix, q_rows = f"blk.{layer}.attn_", HEADS * (shape.still + TURNING)
    model.loud(prefix + "kv_a_norm.weight", LATENT)
    model.normal(prefix + "kv_a_mqa.weight", (LATENT + TURNING, model.width),
                 loud_rows=[LATENT + 3, LATENT + 4, LATENT + 20])
    if shape.query_latent:
        model.normal(prefix + "q_a.weight", (shape.query_latent, model.width))
        model.weight(prefix + "q_a_norm.weight", shape.query_latent)
        model.normal(prefix + "q_b.weight", (q_rows, shape.query_latent), gain=0.7)
    else:
        model.normal(prefix + "q.weight", (q_rows, model.width), gain=0.7)
    keys = model.random.standard_normal((HEADS, shape.still, LATENT)) * LATENT ** -0.5
    values = model.random.standard_normal((HEADS, shape.value, LATENT)) * LATENT ** -0.5
    if shape.legacy:
        model.put(prefix + "kv_b.weight", np.concatenate([keys, values], 1).reshape(-1, LATENT))
    else:
        model.put(prefix + "k_b.weight", keys.transpose(0, 2, 1))
        model.put(prefix + "v_b.weight", values)
    model.normal(prefix + "output.weight", (model.width, HEADS * shape.value))


def add_layers(model, shape, shared=2, choice_bias=False):
    model.ends()
    for layer in range(model.layers):
        model.norms(layer, *BEFORE)
        attention(model, layer, shape)
        if layer == 0:
            model.feed_forward(layer)
        else:
            model.experts(layer, choice_bias=choice_bias)
            model.shared_expert(layer, shared * model.expert_hidden)
    return model


def lite(name):
    model = start(name, Shape())
    model.expert_keys(8, 2, 64)
    choice_keys(model)
    yarn_keys(model, 4.0, 64, 0.707)
    return add_layers(model, Shape())


def v3(name):
    """Experts in groups of 4, of which a token takes from two."""
    shape = Shape(query_latent=96)
    model = start(name, shape, pre="deepseek-v3")
    model.expert_keys(16, 4, 64)
    choice_keys(model, SIGMOID, norm=True, scale=2.5)
    model.counts(expert_group_count=4, expert_group_used_count=2)
    yarn_keys(model, 4.0, 64, 1.0)
    return add_layers(model, shape, choice_bias=True)


def flash(name):
    """Heads whose values are wider than the latent row."""
    shape = Shape(still=192, value=256, query_latent=96)
    model = start(name, shape, pre="glm4")
    model.expert_keys(8, 2, 64)
    choice_keys(model, SIGMOID, norm=True, scale=1.8, shared=1)
    return add_layers(model, shape, shared=1, choice_bias=True)


def legacy(name, is_legacy=True):
    shape = Shape(legacy=is_legacy)
    model = start(name, shape)
    model.expert_keys(8, 2, 64)
    choice_keys(model)
    return add_layers(model, shape)


def absorbed(_name):
    """The legacy model's weights in the other form: equal probabilities."""
    return legacy("deepseek2-legacy", is_legacy=False)


MODELS = {"deepseek2-lite": lite, "deepseek2-v3": v3, "deepseek2-flash": flash,
          "deepseek2-legacy": legacy, "deepseek2-absorbed": absorbed}
