"""Edits of random models' files, for random_models.write: most are another way to state the same
model, the others make a model of which there is one."""
import numpy as np

from gguf_file import U32, Tensor, floats


def value(file, name):
    architecture = file.keys["general.architecture"][1]
    return file.keys[f"{architecture}.{name}"][1]


def f32(tensor):
    """[...][in]; a tensor that was read ends in padding."""
    n = int(np.prod(tensor.extents))
    return np.frombuffer(tensor.data, "<f4", n).reshape(tensor.extents[::-1])


def with_values(tensor, values):
    return Tensor(tensor.extents, tensor.type, np.ascontiguousarray(values).tobytes())


def state_values(file):
    """Layers whose values are their keys before the norm get a matrix of values of their own."""
    for name, tensor in list(file.tensors.items()):
        if name.endswith(".attn_k.weight"):
            file.tensors.setdefault(name.replace("attn_k", "attn_v"), tensor)


def drop_second_token(file):
    """The layers that predict a second token leave."""
    architecture = file.keys["general.architecture"][1]
    last = value(file, "block_count") - value(file, "nextn_predict_layers")
    file.keys[f"{architecture}.block_count"] = (U32, last)
    del file.keys[f"{architecture}.nextn_predict_layers"]
    for name in [n for n in file.tensors if n.startswith("blk.") and int(n.split(".")[1]) >= last]:
        del file.tensors[name]


def is_of_experts(name):
    """Tensors whose slowest extent counts experts."""
    return "_exps." in name or name.endswith((".exp_probs_b.bias", ".ffn_gate_inp.weight",
                                              ".ffn_gate_inp.bias"))


def reverse_experts(file):
    """The same experts in another order; groups of experts stay together."""
    for name, tensor in file.tensors.items():
        if is_of_experts(name):
            file.tensors[name] = with_values(tensor, f32(tensor)[::-1])


def equal_experts(file):
    """Every expert is the first: where weights sum to 1 the choice does not matter."""
    for name, tensor in file.tensors.items():
        if "_exps." in name:
            values = f32(tensor)
            file.tensors[name] = with_values(tensor, np.broadcast_to(values[:1], values.shape))


def make_dense(file):
    """qwen3moe of equal experts as a qwen3: the first expert is the feed-forward block."""
    hidden = value(file, "expert_feed_forward_length")
    file.keys = {name.replace("qwen3moe.", "qwen3."): entry for name, entry in file.keys.items()
                 if ".expert_" not in name}
    file.keys["general.architecture"] = (file.keys["general.architecture"][0], "qwen3")
    file.keys["qwen3.feed_forward_length"] = (U32, hidden)
    for name in [n for n in file.tensors if is_of_experts(n)]:
        tensor = file.tensors.pop(name)
        if "_exps." in name:
            file.tensors[name.replace("_exps", "")] = Tensor(tensor.extents[:-1], tensor.type,
                                                             f32(tensor)[0].tobytes())


def silence_inputs(file):
    """Embeddings of layers are read, and multiplied by 0."""
    for name, tensor in file.tensors.items():
        if name.startswith("blk.") and name.endswith(".proj.weight"):
            file.tensors[name] = with_values(tensor, 0 * f32(tensor))


def drop_inputs(file):
    file.keys["gemma4.embedding_length_per_layer_input"] = (U32, 0)
    ends = (".proj.weight", ".inp_gate.weight", ".post_norm.weight")
    for name in [n for n in file.tensors if n.startswith("per_layer_") or n.endswith(ends)]:
        del file.tensors[name]
