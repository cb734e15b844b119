#!/usr/bin/env python3
"""A cache that llama.cpp computed and saved, for rotkv-cache: saved_by_llama.py MODEL TEXT TYPE OUT

llama.cpp comes from the Python package xllamacpp, whose server saves what a slot holds. TYPE is that of K
and V. LLAMA_ATTN_ROT_DISABLE=1 in the environment leaves them as they are."""
import json
import os
import shutil
import sys
import tempfile
import urllib.request

try:
    import xllamacpp
except ImportError:
    sys.exit("SKIPPED: there is no Python package xllamacpp")

CONTEXT = 512


def server_for(model, kind, folder):
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = model, CONTEXT, 1
    params.n_gpu_layers, params.verbosity = 0, 0
    params.warmup = params.fit_params = False
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type,
                                                        "GGML_TYPE_" + kind.upper())
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.slot_save_path, params.endpoint_slots, params.port = folder + os.sep, True, 0
    return xllamacpp.Server(params)


def main(model, text, kind, out):
    with open(text, encoding="utf-8") as file:
        prompt = file.read()[:1200]
    with tempfile.TemporaryDirectory() as folder:
        server = server_for(model, kind, folder)
        server.handle_completions({"prompt": prompt, "n_predict": 1, "temperature": 0.0,
                                   "cache_prompt": True, "id_slot": 0})
        request = urllib.request.Request(
            server.listening_address + "/slots/0?action=save", method="POST",
            data=json.dumps({"filename": "saved.bin"}).encode(),
            headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            said = json.load(answer)
        if not said["n_saved"]:
            sys.exit(f"nothing was saved: the text has more than {CONTEXT} tokens")
        print(json.dumps(said), flush=True)
        shutil.copy(os.path.join(folder, "saved.bin"), out)
    os._exit(0)  # the server's threads would not end


if __name__ == "__main__":
    main(*sys.argv[1:])
