"""llama.cpp in Python packages: xllamacpp, whose server is asked as llama-server is, and
llama-cpp-python, whose context is. Docs: docs/29-judge.md"""
import ctypes
import importlib.metadata
import os

import numpy as np

from .engine import Engine, Failed, Refused
from .http_engine import Http
from .rows import log_softmax


class XLlamaCpp(Http):
    def __init__(self):
        super().__init__("")

    def open(self, model, k, v, rotation, signs, context, folder):
        import xllamacpp
        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel = model, context, 1
        params.n_gpu_layers, params.verbosity, params.port = 0, 0, 0
        params.warmup = params.fit_params = False
        params.special = params.swa_full = params.ctx_shift = True
        params.cache_type_k = getattr(xllamacpp.ggml_type, "GGML_TYPE_" + k.upper())
        params.cache_type_v = getattr(xllamacpp.ggml_type, "GGML_TYPE_" + v.upper())
        flash = xllamacpp.llama_flash_attn_type
        params.flash_attn_type = (flash.LLAMA_FLASH_ATTN_TYPE_DISABLED if v == "f32" else
                                  flash.LLAMA_FLASH_ATTN_TYPE_ENABLED)
        # Its threads spin where they wait for each other: on a busy machine each core more is slower.
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = (os.cpu_count() + 1) // 2
        params.slot_save_path, params.endpoint_slots = folder + os.sep, True
        self.server = xllamacpp.Server(params)
        self.address = self.server.listening_address
        super().open(k=k, v=v, rotation=rotation, context=context)
        return {"name": "llama.cpp (xllamacpp)",
                "version": importlib.metadata.version("xllamacpp")}


class LlamaCppPython(Engine):
    """llama_cpp.Llama with logits of every token, and the functions of llama.h that it wraps."""

    def open(self, model, k, v, rotation, signs, context, folder):
        import llama_cpp
        self.lib = llama_cpp
        types = [getattr(llama_cpp, "GGML_TYPE_" + kind.upper()) for kind in (k, v)]
        self.llama = llama_cpp.Llama(
            model_path=model, n_ctx=context, n_gpu_layers=0, logits_all=True, type_k=types[0],
            type_v=types[1], flash_attn=v != "f32", swa_full=True, verbose=False)
        return {"name": "llama.cpp (llama-cpp-python)", "version": llama_cpp.__version__}

    def tokenize(self, text):
        return self.llama.tokenize(text.encode(), add_bos=True, special=False)

    def read(self, tokens):
        """Rows of ln p behind these tokens, read in one batch."""
        first = self.llama.n_tokens
        self.llama.eval(tokens)
        return log_softmax(self.llama.scores[first:first + len(tokens)])

    def predict(self, tokens, at, one_by_one=False):
        self.llama.reset()
        if not one_by_one:
            return self.read(tokens[:at[-1] + 1])[at]
        return np.concatenate([self.read([token]) for token in tokens[:at[-1] + 1]])[at]

    def shift(self, tokens, keep, drop, next):
        self.predict(tokens, [len(tokens) - 1])
        memory = self.lib.llama_get_memory(self.llama.ctx)
        self.lib.llama_memory_seq_rm(memory, 0, keep, keep + drop)
        self.lib.llama_memory_seq_add(memory, 0, keep + drop, len(tokens), -drop)
        self.llama.n_tokens = len(tokens) - drop
        return np.concatenate([self.read([token]) for token in next])

    def save(self, tokens, file):
        self.predict(tokens, [len(tokens) - 1])
        kept = (self.lib.llama_token * len(tokens))(*tokens)
        if not self.lib.llama_state_seq_save_file(self.llama.ctx, file.encode(), 0, kept, len(tokens)):
            raise Failed("llama_state_seq_save_file gives 0")

    def restore(self, file, tokens, next):
        self.llama.reset()
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.llama.ctx), True)
        found, count = (self.lib.llama_token * len(tokens))(), ctypes.c_size_t()
        if not self.lib.llama_state_seq_load_file(self.llama.ctx, file.encode(), 0, found, len(tokens),
                                                  ctypes.byref(count)):
            raise Refused("llama_state_seq_load_file gives 0")
        if list(found[:count.value]) != tokens:
            raise Failed("the file holds other tokens")
        self.llama.n_tokens = len(tokens)
        return np.concatenate([self.read([token]) for token in next])
