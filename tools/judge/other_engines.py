"""mlx-lm and vLLM by their public interfaces. Neither rotates its cache: what is judged is the rest
of the way. Docs: docs/29-judge.md"""
import importlib.metadata

import numpy as np

from .engine import Engine, Unsupported
from .rows import log_softmax


class MlxLm(Engine):
    """K and V in the model's own type ("f16"); keys are not turned again once they are stored."""

    def open(self, model, k, v, rotation, signs, context, folder):
        if (k, v) != ("f16", "f16"):
            raise Unsupported("mlx-lm: its 4 and 8 bits are other formats than GGUF's")
        import mlx.core
        import mlx_lm
        from mlx_lm.models import cache
        self.mx, self.caches = mlx.core, cache
        self.model, self.tokenizer = mlx_lm.load(model)
        return {"name": "mlx-lm", "version": importlib.metadata.version("mlx-lm")}

    def tokenize(self, text):
        return self.tokenizer.encode(text)

    def read(self, cache, tokens):
        logits = self.model(self.mx.array([tokens]), cache=cache)
        return log_softmax(np.array(logits[0].astype(self.mx.float32)))

    def predict(self, tokens, at, one_by_one=False):
        cache = self.caches.make_prompt_cache(self.model)
        if not one_by_one:
            return self.read(cache, tokens[:at[-1] + 1])[at]
        return np.concatenate([self.read(cache, [one]) for one in tokens[:at[-1] + 1]])[at]

    def save(self, tokens, file):
        cache = self.caches.make_prompt_cache(self.model)
        self.read(cache, tokens)
        self.caches.save_prompt_cache(file + ".safetensors", cache)

    def restore(self, file, tokens, next):
        cache = self.caches.load_prompt_cache(file + ".safetensors")
        return np.concatenate([self.read(cache, [token]) for token in next])


class Vllm(Engine):
    """One request gives ln p behind each token of a prompt, but the last, whose row is that of the
    word that is generated."""
    TYPES = {"f16": "auto", "fp8_e4m3": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2"}

    def open(self, model, k, v, rotation, signs, context, folder):
        if k != v or k not in self.TYPES:
            raise Unsupported(f"vLLM: expected one type of {', '.join(self.TYPES)}, found {k}, {v}")
        import vllm
        self.vllm = vllm
        self.engine = vllm.LLM(model=model, max_model_len=context, kv_cache_dtype=self.TYPES[k],
                               max_logprobs=-1, enable_prefix_caching=False, seed=0)
        return {"name": "vLLM", "version": vllm.__version__}

    def tokenize(self, text):
        return self.engine.get_tokenizer().encode(text)

    def predict(self, tokens, at, one_by_one=False):
        if one_by_one:
            raise Unsupported("vLLM cuts its batches itself")
        wanted = self.vllm.SamplingParams(max_tokens=1, temperature=0.0, logprobs=-1,
                                          prompt_logprobs=-1)
        prompt = {"prompt_token_ids": tokens[:at[-1] + 1]}
        found = self.engine.generate([prompt], wanted, use_tqdm=False)[0]
        rows = found.prompt_logprobs[1:] + found.outputs[0].logprobs[:1]
        return [{word: one.logprob for word, one in rows[i].items()} for i in at]
