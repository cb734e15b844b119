"""rotkv: rotated, quantized KV caches, their operations on arrays, and models measured under them.

    import numpy as np, rotkv
    rotkv.hadamard(np.eye(64, dtype=np.float32), block=64)     # the matrix itself
    rotkv.Model("model.gguf").perplexity(text, cache="k=q4_0,v=q4_0")

help(rotkv.attention) and its like say shapes and units; docs/25-bindings.md has examples that run."""
from ._rotkv import (Backend, Cache, Error, Model, Rope, Rotation, __version__, attention, backends,
                     cases, decode, dequantize, encode, formats, hadamard, kld, kld_of_logits,
                     kv_shift, kv_store, mistakes, nll, nll_of_logits, policy, quantize, rope,
                     run_case)
from .programs import calibrate, fuse, outliers, search, sweep

__all__ = ["Backend", "Cache", "Error", "Model", "Rope", "Rotation", "__version__", "attention",
           "backends", "calibrate", "cases", "decode", "dequantize", "encode", "formats", "fuse",
           "hadamard", "kld", "kld_of_logits", "kv_shift", "kv_store", "mistakes", "nll",
           "nll_of_logits", "outliers", "policy", "quantize", "rope", "run_case", "search",
           "sweep"]
