"""Random models three of whose four layers keep a state in place of a cache (gated DeltaNet); the
fourth is attention with a gate on its output, and turns a quarter of its channels."""
import numpy as np

from random_model import RandomModel

CHANNELS, KEY_HEADS, VALUE_HEADS, KERNEL = 64, 2, 4, 4  # of a delta layer; channels of each head
INTERVAL, SHARED = 4, 96


def start(architecture, name, pre):
    model = RandomModel(architecture, name, layers=4, heads=2, kv_heads=1, d=256, n_rot=64,
                        base=1e7, epsilon=1e-6, pre=pre)
    model.counts(**{"ssm.conv_kernel": KERNEL, "ssm.state_size": CHANNELS,
                    "ssm.group_count": KEY_HEADS, "ssm.time_step_rank": VALUE_HEADS,
                    "ssm.inner_size": CHANNELS * VALUE_HEADS, "full_attention_interval": INTERVAL})
    return model


def delta(model, layer, one_matrix):
    """one_matrix: beta and alpha are rows of one, as in qwen3next."""
    prefix, width = f"blk.{layer}.", model.width
    mixed, values = CHANNELS * (2 * KEY_HEADS + VALUE_HEADS), CHANNELS * VALUE_HEADS
    model.normal(prefix + "attn_qkv.weight", (mixed, width))
    model.normal(prefix + "attn_gate.weight", (values, width))
    model.normal(prefix + "ssm_conv1d.weight", (mixed, KERNEL), scale=0.6)
    model.normal(prefix + "ssm_dt.bias", (VALUE_HEADS,), scale=1.0)
    model.put(prefix + "ssm_a", -np.exp(model.random.uniform(-2.0, 1.0, VALUE_HEADS)))
    if one_matrix:
        model.normal(prefix + "ssm_ba.weight", (2 * VALUE_HEADS, width))
    else:
        model.normal(prefix + "ssm_beta.weight", (VALUE_HEADS, width))
        model.normal(prefix + "ssm_alpha.weight", (VALUE_HEADS, width))
    model.weight(prefix + "ssm_norm.weight", CHANNELS)
    model.normal(prefix + "ssm_out.weight", (width, values))


def add_layers(model, experts, one_matrix=False):
    model.ends()
    for layer in range(model.layers):
        model.norms(layer, "attn_norm", "post_attention_norm")
        if layer % INTERVAL == INTERVAL - 1:
            model.attention(layer, qk_norm="heads", gate=True)
        else:
            delta(model, layer, one_matrix)
        if experts:
            model.experts(layer)
            model.shared_expert(layer, SHARED, gated=True)
        else:
            model.feed_forward(layer)
    return model


def qwen3next(name):
    model = start("qwen3next", name, "qwen2")
    model.expert_keys(8, 2, 64, shared=SHARED)
    return add_layers(model, experts=True, one_matrix=True)


def qwen35(name):
    model = start("qwen35", name, "qwen35")
    model.counts(**{"rope.dimension_sections": [11, 11, 10, 0]})
    return add_layers(model, experts=False)


def qwen35moe(name):
    model = start("qwen35moe", name, "qwen35")
    model.counts(**{"rope.dimension_sections": [11, 11, 10, 0]})
    model.expert_keys(8, 2, 64, shared=SHARED)
    return add_layers(model, experts=True)


MODELS = {"qwen3next": qwen3next, "qwen35": qwen35, "qwen35moe": qwen35moe}
