"""Random models some of whose layers choose experts for each token."""
from random_model import BEFORE, RandomModel, llama3_factors
from small_vocabularies import sentence_piece


def gpt_oss(name, kind="f32"):
    model = RandomModel("gpt-oss", name, layers=4, base=150000.0, pre="gpt-4o")
    model.counts(**{"attention.sliding_window": 64})
    model.expert_keys(8, 2, 64)
    model.yarn(32.0, 256)
    model.ends()
    for layer in range(model.layers):
        model.norms(layer, "attn_norm", "post_attention_norm")
        model.attention(layer, bias=True, q=0.7, k_bias=0.5)
        model.normal(f"blk.{layer}.attn_output.bias", (model.width,), scale=0.2)
        model.normal(f"blk.{layer}.attn_sinks.weight", (model.heads,), scale=2.0)
        model.experts(layer, bias=True, kind=kind)
    return model


def gpt_oss_mxfp4(name):
    return gpt_oss(name, kind="mxfp4")


def qwen3moe(name):
    model = RandomModel("qwen3moe", name, d=128, base=1e6, epsilon=1e-6, pre="qwen2")
    model.expert_keys(8, 2, 64)
    model.ends()
    for layer in range(model.layers):
        model.norms(layer, *BEFORE)
        model.attention(layer, qk_norm="heads", q_norm=0.5)
        model.experts(layer)
    return model


def qwen2moe(name):
    model = RandomModel("qwen2moe", name, width=256, base=1e6, epsilon=1e-6, pre="qwen2")
    model.expert_keys(8, 2, 64, shared=96)
    model.ends()
    for layer in range(model.layers):
        model.norms(layer, *BEFORE)
        model.attention(layer, bias=True, q=1.0, k_bias=1.0)
        model.experts(layer)
        model.shared_expert(layer, 96, gated=True)
    return model


def granitemoe(name):
    model = RandomModel("granitemoe", name, hidden=64, pre="refact")
    model.expert_keys(8, 3, shared=96)
    model.numbers(**{"embedding_scale": 12.0, "residual_scale": 0.22, "attention.scale": 0.15,
                     "logit_scale": 4.0})
    model.ends(embedding=0.03, output=8.0)
    for layer in range(model.layers):
        model.norms(layer, *BEFORE)
        model.attention(layer)
        model.experts(layer)
        model.shared_expert(layer, 96)
    return model


def ernie4_5_moe(name):
    """Experts in every layer but the first: llama.cpp loads no other step than 1."""
    model = RandomModel("ernie4_5-moe", name, layers=3, base=5e5, vocabulary=sentence_piece)
    model.expert_keys(8, 3, 64, shared=96)
    model.counts(interleave_moe_layer_step=1, leading_dense_block_count=1)
    model.ends(tied=True)
    for layer in range(model.layers):
        model.norms(layer, *BEFORE)
        model.attention(layer, q=1.0)
        if layer == 0:
            model.feed_forward(layer)
        else:
            model.experts(layer, choice_bias=True)
            model.shared_expert(layer, 96)
    return model


def glm4moe(name):
    """Its last layer predicts a second token: no part of the forward pass, but of the file."""
    model = RandomModel("glm4moe", name, layers=4, d=128, n_rot=64, hidden=256, base=1e6,
                        pre="glm4")
    model.expert_keys(8, 3, 64)
    model.counts(expert_shared_count=1, leading_dense_block_count=1, nextn_predict_layers=1)
    model.numbers(expert_weights_scale=2.5)
    model.flags(expert_weights_norm=True)
    model.ends()
    for layer in range(model.layers):
        model.norms(layer, "attn_norm", "post_attention_norm")
        model.attention(layer, bias=True, qk_norm="heads", q_norm=0.5)
        if layer == 0:
            model.feed_forward(layer)
        else:
            model.experts(layer, choice_bias=True)
            model.shared_expert(layer, 64)
    last = model.layers - 1
    model.normal(f"blk.{last}.nextn.eh_proj.weight", (model.width, 2 * model.width))
    model.norms(last, "nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm")
    return model


def llama4(name):
    model = RandomModel("llama4", name, layers=4, base=5e5, pre="llama4")
    model.expert_keys(8, 1, 64)
    model.counts(interleave_moe_layer_step=2)
    model.ends()
    for layer in range(model.layers):
        model.norms(layer, *BEFORE)
        model.attention(layer)
        if layer % 2 == 0:
            model.feed_forward(layer)
        else:
            model.experts(layer)
            model.shared_expert(layer, 64)
    model.put("rope_freqs.weight", llama3_factors(32))
    return model


MODELS = {"gpt-oss": gpt_oss, "gpt-oss-mxfp4": gpt_oss_mxfp4, "qwen3moe": qwen3moe,
          "qwen2moe": qwen2moe, "granitemoe": granitemoe, "ernie4_5-moe": ernie4_5_moe,
          "glm4moe": glm4moe, "llama4": llama4}
