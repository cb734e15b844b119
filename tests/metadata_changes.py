"""Changes of single keys of a GGUF file: other values, other types, lists, none, and keys that other
architectures have. What they are called, MODEL_KEY: CHANGE, is what fuzz_metadata.py's list of
departures matches.

    for label, keys in key_changes(file).items():
        file.keys.update(keys)  # but where a value is None the key goes"""
import math
import re
import struct

from gguf_file import (ARRAY, BOOL, F32, F64, I8, I16, I32, I64, STRING, U8, U16, U32, U64, packed)

FITS = {U8: (0, 2**8 - 1), I8: (-2**7, 2**7 - 1), U16: (0, 2**16 - 1), I16: (-2**15, 2**15 - 1),
        U32: (0, 2**32 - 1), I32: (-2**31, 2**31 - 1), U64: (0, 2**64 - 1),
        I64: (-2**63, 2**63 - 1)}
NAMES = {U8: "u8", I8: "i8", U16: "u16", I16: "i16", U32: "u32", I32: "i32", U64: "u64",
         I64: "i64", F32: "f32", F64: "f64", BOOL: "bool", STRING: "string"}
WORDS = {
    "general.architecture": ["qwen2", "gemma2", "phi3", "LLAMA", "mistral", ""],
    "tokenizer.ggml.model": ["llama", "gpt2", "gemma4", "bert", "t5", "none", "LLAMA", ""],
    "tokenizer.ggml.pre": ["default", "gpt-2", "llama3", "llama-bpe", "qwen2", "smollm", "tekken",
                           "deepseek-llm", "falcon", "glm4", "kimi-k2", "gemma4", "Llama-BPE",
                           "unknown", ""],
    "rope.scaling.type": ["none", "linear", "yarn", "longrope", "su", "dynamic", "YARN", ""],
}


def fits(kind, value):
    if kind in FITS:
        return value == int(value) and FITS[kind][0] <= value <= FITS[kind][1]
    return kind != BOOL or value in (0, 1)


def number_changes(kind, value):
    """Other values of the type, the value in other types and in lists. {label: (type, value)}"""
    whole = kind in FITS
    wanted = {"0": 0, "1": 1, "doubled": 2 * value, "halved": value // 2 if whole else value / 2,
              "plus 1": value + 1}
    if whole:
        wanted.update({"negative": -value, "-1": -1, "2^31": 2**31, "2^32-1": 2**32 - 1,
                       "largest": FITS[kind][1]})
    else:
        wanted.update({"negative": -value, "1e30": 1e30, "1e-30": 1e-30, "nan": math.nan,
                       "inf": math.inf})
    changes = {}
    for label, other in wanted.items():
        if fits(kind, other):
            changes[label] = (kind, other)
        elif fits(I32, other):
            changes[label + " as i32"] = (I32, other)
    for other in (U8, I16, U32, I32, U64, I64, F32, F64, BOOL):
        if other != kind and math.isfinite(value) and fits(other, value):
            changes["as " + NAMES[other]] = (other, value if other in (F32, F64) else int(value))
    changes["as string"] = (STRING, str(value))
    return changes


def list_changes(kind, value, layers):
    """A number as a list, one for each layer: equal, too few, too many, differing, yes and no."""
    changes = {}
    for label, other in (("of its type", kind), ("of i32", I32), ("of u32", U32), ("of f32", F32)):
        if fits(other, value):
            value_of = float(value) if other == F32 else int(value) if other != kind else value
            changes["list " + label] = (ARRAY, (other, layers * [value_of]))
    changes["list of 1"] = (ARRAY, (kind, [value]))
    changes["list, too short"] = (ARRAY, (kind, (layers - 1) * [value]))
    changes["list, too long"] = (ARRAY, (kind, (layers + 1) * [value]))
    changes["list, last is 1"] = (ARRAY, (kind, (layers - 1) * [value] + [type(value)(1)]))
    changes["list of bool"] = (ARRAY, (BOOL, [layer % 2 == 0 for layer in range(layers)]))
    return changes


def array_changes(kind, values):
    changes = {"empty": (ARRAY, (kind, [])), "one less": (ARRAY, (kind, values[:-1])),
               "one more": (ARRAY, (kind, values + values[:1])),
               "its first alone": (kind, values[0])}  # no list
    if kind != STRING:
        for other in (U8, U32, I32, I64, F32, F64):
            if other != kind and all(fits(other, v) for v in values):
                cast = float if other in (F32, F64) else int
                changes["list of " + NAMES[other]] = (ARRAY, (other, [cast(v) for v in values]))
        changes["all 0"] = (ARRAY, (kind, [type(values[0])(0)] * len(values)))
        changes["all 1"] = (ARRAY, (kind, [type(values[0])(1)] * len(values)))
        changes["first -1"] = (ARRAY, (kind, [type(values[0])(-1)] + values[1:]))
        changes["backwards"] = (ARRAY, (kind, values[::-1]))
    else:
        changes["backwards"] = (ARRAY, (kind, values[::-1]))
        changes["first twice"] = (ARRAY, (kind, values[:1] + values[:1] + values[2:]))
    return changes


# Keys that some architecture or vocabulary knows, with a value of the usual type that matters.
KNOWN = {
    "attention.causal": (BOOL, False), "attention.clamp_kqv": (F32, 4.0),
    "attention.key_length_swa": (U32, 64), "attention.value_length_swa": (U32, 64),
    "attention.layer_norm_epsilon": (F32, 0.1), "attention.max_alibi_bias": (F32, 8.0),
    "attention.output_scale": (F32, 0.5), "attention.scale": (F32, 0.3),
    "attention.shared_kv_layers": (U32, 1), "attention.sliding_window": (U32, 16),
    "attention.sliding_window_pattern": (U32, 2), "attention.temperature_length": (U32, 16),
    "attention.temperature_scale": (F32, 0.5), "attention.value_scale": (F32, 0.5),
    "attention.group_norm_epsilon": (F32, 0.1), "attention.q_lora_rank": (U32, 8),
    "attn_logit_softcapping": (F32, 1.0), "final_logit_softcapping": (F32, 2.0),
    "router_logit_softcapping": (F32, 2.0), "embedding_scale": (F32, 2.0),
    "residual_scale": (F32, 0.5), "logit_scale": (F32, 0.5), "expert_count": (U32, 4),
    "expert_used_count": (U32, 2), "leading_dense_block_count": (U32, 1),
    "interleave_moe_layer_step": (U32, 1), "nextn_predict_layers": (U32, 1),
    "rope.dimension_count": (U32, 32), "rope.dimension_count_swa": (U32, 32),
    "rope.dimension_sections": (ARRAY, (I32, [16, 8, 8, 0])), "rope.freq_base_swa": (F32, 500.0),
    "rope.global.freq_base": (F32, 500.0), "rope.local.freq_base": (F32, 500.0),
    "rope.freq_base": (F32, 500.0), "rope.scale_linear": (F32, 4.0),
    "rope.scaling.factor": (F32, 4.0), "rope.scaling.alpha": (F32, 4.0),
    "rope.scaling.attn_factor": (F32, 1.5), "rope.scaling.finetuned": (BOOL, True),
    "rope.scaling.original_context_length": (U32, 32), "rope.scaling.yarn_attn_factor": (F32, 2.0),
    "rope.scaling.yarn_beta_fast": (F32, 8.0), "rope.scaling.yarn_beta_slow": (F32, 4.0),
    "rope.scaling.yarn_ext_factor": (F32, 0.5), "rope.scaling.yarn_log_multiplier": (F32, 0.1),
    "swin_norm": (BOOL, True), "use_parallel_residual": (BOOL, True), "tensor_data_layout":
    (STRING, "Meta AI original pth"), "pooling_type": (U32, 1), "vocab_size": (U32, 100),
    "tokenizer.ggml.add_eos_token": (BOOL, True), "tokenizer.ggml.add_sep_token": (BOOL, True),
    "tokenizer.ggml.add_space_prefix": (BOOL, True), "tokenizer.ggml.padding_token_id": (U32, 5),
    "tokenizer.ggml.remove_extra_whitespaces": (BOOL, True),
    "tokenizer.ggml.escape_whitespaces": (BOOL, False),
    "tokenizer.ggml.treat_whitespace_as_suffix": (BOOL, True),
    "tokenizer.ggml.ignore_merges": (BOOL, True), "tokenizer.ggml.eot_token_id": (U32, 5),
    "tokenizer.ggml.eom_token_id": (U32, 5), "tokenizer.ggml.unknown_token_id": (U32, 5),
    "tokenizer.ggml.seperator_token_id": (U32, 5), "tokenizer.ggml.fim_pre_token_id": (U32, 5),
    "tokenizer.ggml.mask_token_id": (U32, 5), "tokenizer.ggml.add_bos_token": (BOOL, False),
    "tokenizer.ggml.scores": (ARRAY, (F32, [0.5])), "tokenizer.ggml.token_type_count": (U32, 2),
    "tokenizer.ggml.normalizer.lowercase": (BOOL, True),
    "tokenizer.ggml.suppress_tokens": (ARRAY, (I32, [40, 41])),
    "tokenizer.ggml.precompiled_charsmap": (ARRAY, (U8, [1, 2, 3])),
    "tokenizer.chat_template": (STRING, "{{ bos_token }}"), "general.file_type": (U32, 7),
    "general.quantization_version": (U32, 1),
    "general.base_model.count": (U32, 1), "general.type": (STRING, "adapter"),
}
# Keys that mean something together.
TOGETHER = {
    "%s of 4" % kind: {"rope.scaling.type": (STRING, kind), "rope.scaling.factor": (F32, 4.0),
                       "rope.scaling.original_context_length": (U32, 32)}
    for kind in ("linear", "yarn", "none", "longrope")}


def key_changes(file):
    """All changes of one key. {label: {key: (type, value) or None}}"""
    prefix = file.keys["general.architecture"][1] + "."
    layers = file.keys[prefix + "block_count"][1]
    full = lambda name: name if re.match("tokenizer|general", name) else prefix + name
    changes = {}

    def add(key, found, base=None, among=""):
        for label, value in found.items():
            try:
                packed(*value or (U8, 0))
            except (struct.error, OverflowError):
                continue  # no value of that type
            changes["%s%s: %s" % (among, key, label)] = {**(base or {}), key: value}

    def vary(key, kind, value, base=None, among=""):
        if kind == STRING:
            name = key.removeprefix(prefix)
            add(key, {"'%s'" % word: (STRING, word) for word in WORDS.get(name, ["", "x"])}, base, among)
            add(key, {"as u32": (U32, 1), "as list": (ARRAY, (STRING, [value]))}, base, among)
        elif kind == ARRAY:
            add(key, array_changes(*value), base, among)
        elif kind == BOOL:
            add(key, {"other": (BOOL, not value), "as u8": (U8, int(value)), "as u32":
                      (U32, int(not value)), "as list": (ARRAY, (BOOL, layers * [value]))}, base, among)
        else:
            add(key, number_changes(kind, value), base, among)
            if base or key in file.keys or "attention" in key:
                add(key, list_changes(kind, value, layers), base, among)

    for key, (kind, value) in file.keys.items():
        add(key, {"removed": None})
        vary(key, kind, value)
    for name, value in KNOWN.items():
        key = full(name)
        if key in file.keys and file.keys[key] != value:
            add(key, {"other value": value})
        if key not in file.keys:
            add(key, {"added": value})
            vary(key, *value)
    for label, keys in TOGETHER.items():
        base = {full(name): value for name, value in keys.items()}
        changes["rope.scaling: " + label] = base
        for name, value in KNOWN.items():
            if name.startswith("rope.") and name not in keys:
                changes["rope.scaling: %s and %s" % (label, name)] = {**base, full(name): value}
        if "yarn" in label or "linear" in label:
            for key in base:
                vary(key, *base[key], base, label + ", ")
    for other in ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"):
        if other + "." != prefix:
            renamed = {"general.architecture": (STRING, other)}
            for key, value in file.keys.items():
                if key.startswith(prefix):
                    renamed.update({key: None, other + "." + key[len(prefix):]: value})
            changes["general.architecture: renamed " + other] = renamed
    return changes
