"""Random models whose every layer is attention and one feed-forward block."""
from gguf_file import STRING
from random_model import BEFORE, RandomModel, llama3_factors
from small_vocabularies import sentence_piece

AFTER = ("post_attention_norm", "post_ffw_norm")


def add_layers(model, *norms, fused=False, **attention):
    for layer in range(model.layers):
        model.norms(layer, *norms)
        model.attention(layer, **attention)
        model.feed_forward(layer, fused)
    return model


def smollm3(name):
    model = RandomModel("smollm3", name, layers=4, d=128, kv_heads=1, base=5e6, epsilon=1e-6)
    model.ends(tied=True)
    return add_layers(model, *BEFORE, q=1.0)


def ernie4_5(name):
    model = RandomModel("ernie4_5", name, d=128, base=500000.0, vocabulary=sentence_piece)
    model.ends(tied=True)
    return add_layers(model, *BEFORE, q=1.0)


def mistral3(name):
    model = RandomModel("mistral3", name, d=128, base=1e6, pre="tekken")
    model.yarn(4.0, 64)
    model.numbers(**{"rope.scaling.yarn_log_multiplier": 1.0, "rope.scaling.yarn_beta_fast": 32.0,
                     "rope.scaling.yarn_beta_slow": 1.0, "attention.temperature_scale": 0.1})
    model.ends()
    return add_layers(model, *BEFORE)


def olmo2(name, window=False):
    model = RandomModel("olmo2", name, layers=4 if window else 2, width=256, base=5e5, epsilon=1e-6,
                        pre="dbrx")
    if window:
        model.counts(**{"attention.sliding_window": 64})
        model.flags(**{"attention.sliding_window_pattern": [True, True, True, False]})
        model.yarn(8.0, 64)
    model.ends(embedding=0.8)
    return add_layers(model, *AFTER, qk_norm="all", q_norm=0.5)


def olmo3(name):
    return olmo2(name, window=True)


def exaone4(name):
    model = RandomModel("exaone4", name, width=256, base=1e6, pre="exaone4")
    model.ends(embedding=0.8)
    add_layers(model, *AFTER, qk_norm="heads", q_norm=0.5)
    model.put("rope_freqs.weight", llama3_factors(32))
    return model


def exaone4_64(name):
    """64 layers: windows in three of four, no RoPE in the fourth."""
    model = RandomModel("exaone4", name, layers=64, width=64, heads=1, kv_heads=1, hidden=64,
                        base=1e6, pre="exaone4")
    model.counts(**{"attention.sliding_window": 64})
    model.ends(embedding=3.0)
    add_layers(model, *AFTER, qk_norm="heads", q_norm=0.5)
    model.put("rope_freqs.weight", llama3_factors(32))
    return model


def hunyuan_dense(name):
    model = RandomModel("hunyuan-dense", name, d=128, base=11158840.0, pre="hunyuan-dense")
    model.ends(tied=True)
    return add_layers(model, *BEFORE, qk_norm="heads", q_norm=0.5)


def glm4(name):
    model = RandomModel("glm4", name, d=128, n_rot=64, pre="glm4")
    model.ends()
    return add_layers(model, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm",
                              fused=True, bias=True, q=0.7, k_bias=0.5)


def granite(name):
    model = RandomModel("granite", name, pre="refact")
    model.numbers(**{"embedding_scale": 12.0, "residual_scale": 0.22, "attention.scale": 0.15,
                     "logit_scale": 4.0})
    model.ends(embedding=0.03, output=8.0)
    return add_layers(model, *BEFORE)


def cohere2(name):
    model = RandomModel("cohere2", name, layers=4, width=256, base=50000.0, pre="command-r",
                        layer_norm=True)
    model.key("rope.scaling.type", STRING, "none")
    model.counts(**{"attention.sliding_window": 64})
    model.numbers(logit_scale=0.25)
    model.ends(tied=True, embedding=0.5)
    return add_layers(model, "attn_norm")


MODELS = {"smollm3": smollm3, "ernie4_5": ernie4_5, "mistral3": mistral3, "olmo2": olmo2,
          "olmo3": olmo3, "exaone4": exaone4, "exaone4-64": exaone4_64,
          "hunyuan-dense": hunyuan_dense, "glm4": glm4, "granite": granite, "cohere2": cohere2}
