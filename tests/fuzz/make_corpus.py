#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets, tests/corpus_<target>/: small inputs that get far.

Usage: tests/fuzz/make_corpus.py"""
import os
import random
import struct

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
INT32, FLOAT32, BOOL, STRING, ARRAY, UINT32 = 5, 6, 7, 8, 9, 4  # GGUF's value types
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "B",
           10: "Q", 11: "q", 12: "d"}


def write(target, name, data):
    folder = os.path.join(TESTS, f"corpus_{target}")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(data)


def gguf_string(text):
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def gguf_scalar(kind, value):
    return gguf_string(value) if kind == STRING else struct.pack("<" + NUMBERS[kind], value)


def gguf_value(kind, value):
    if isinstance(value, list):
        elements = b"".join(gguf_scalar(kind, element) for element in value)
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + elements
    return struct.pack("<I", kind) + gguf_scalar(kind, value)


def gguf(entries, tensors=(), alignment=32, version=3):
    """entries: (key, type, value or list); tensors: (name, extents, type, data)."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries))
    for key, kind, value in entries:
        head += gguf_string(key) + gguf_value(kind, value)
    data = b""
    for name, extents, kind, content in tensors:
        head += gguf_string(name) + struct.pack("<I", len(extents))
        head += struct.pack(f"<{len(extents)}Q", *extents) + struct.pack("<IQ", kind, len(data))
        data += content + bytes(-len(content) % alignment)
    return head + bytes(-len(head) % alignment) + data if tensors else head


def architecture(name, **numbers):
    counts = {"block_count": 2, "embedding_length": 32, "attention.head_count": 2,
              "attention.head_count_kv": 1, "feed_forward_length": 32, "context_length": 128,
              "attention.layer_norm_rms_epsilon": 1e-5, **numbers}
    return [("general.architecture", STRING, name)] + [
        (f"{name}.{key.replace('__', '.')}", UINT32 if isinstance(value, int) else FLOAT32, value)
        for key, value in counts.items()]


def vocabulary(model, tokens, types, **lists):
    entries = [("tokenizer.ggml.model", STRING, model), ("tokenizer.ggml.tokens", STRING, tokens),
               ("tokenizer.ggml.token_type", INT32, types)]
    return entries + [(f"tokenizer.ggml.{key}", STRING if key == "merges" else FLOAT32, value)
                      for key, value in lists.items()]


def gguf_seeds():
    embedding = ("token_embd.weight", [32, 4], 0, bytes(range(128)) * 4)
    write("gguf", "empty-v3", gguf([]))
    write("gguf", "empty-v2", gguf([], version=2))
    write("gguf", "every-value", gguf(
        [(f"scalar.{kind}", kind, 1) for kind in NUMBERS] + [("text", STRING, "value")] +
        [(f"array.{kind}", kind, [0, 1, 1]) for kind in NUMBERS] +
        [("texts", STRING, ["a", "", "bc"])]))
    write("gguf", "every-type", gguf(
        [("general.alignment", UINT32, 64)],
        [(f"weight.{kind}", [elements, 2], kind, bytes(2 * size)) for kind, elements, size in
         [(0, 1, 4), (1, 1, 2), (2, 32, 18), (3, 32, 20), (6, 32, 22), (7, 32, 24), (8, 32, 34),
          (10, 256, 84), (11, 256, 110), (12, 256, 144), (13, 256, 176), (14, 256, 210),
          (20, 32, 18), (23, 256, 136), (30, 1, 2), (39, 32, 17)]], alignment=64))
    write("gguf", "odd-tensors", gguf(
        [("tokenizer.ggml.merges", INT32, [])],
        [("nothing", [32, 0], 8, b""), ("unknown", [256], 21, bytes(110)),
         ("nobody's", [3, 1], 105, bytes(5)), ("one", [], 0, bytes(4)), ("no.rows", [0], 42, b"")]))
    write("gguf", "part", gguf(
        [("split.count", 2, 3), ("split.no", 2, 1)], [("weight", [8], 1, bytes(16))]))
    write("gguf", "llama", gguf(
        architecture("llama", rope__dimension_count=16, rope__freq_base=5e5), [
            embedding, ("rope_freqs.weight", [8], 0, struct.pack("<8f", *range(1, 9)))]))
    write("gguf", "phi3", gguf(
        architecture("phi3", attention__sliding_window=8) +
        [("phi3.rope.scaling.type", STRING, "yarn"), ("phi3.rope.scaling.factor", FLOAT32, 4.0)],
        [embedding, ("rope_factors_long.weight", [8], 0, struct.pack("<8f", *range(1, 9)))]))
    write("gguf", "gemma3", gguf(architecture("gemma3", attention__key_length=24), [embedding]))
    letters = list("helo") + ["he", "ll", "hell", "hello"]
    write("gguf", "vocabulary-bpe", gguf(vocabulary(
        "gpt2", letters + ["<|end|>"], [1] * 8 + [3], merges=["h e", "l l", "he ll", "hell o"]) +
        [("tokenizer.ggml.pre", STRING, "llama-bpe"), ("tokenizer.ggml.eos_token_id", UINT32, 8),
         ("tokenizer.ggml.add_bos_token", BOOL, 0)]))
    write("gguf", "vocabulary-spm", gguf(vocabulary(
        "llama", ["<unk>", "<s>", "</s>", "<0x0A>"] + letters, [2, 3, 3, 6] + [1] * 8,
        scores=[-float(i) for i in range(12)]) + [("tokenizer.ggml.bos_token_id", UINT32, 1)]))


def tokenizer_seeds():
    for name, text in {
            "words": "hello  hello, it's 1234 o'clock\n\n  I'LL say HelloWorld\t\r\n",
            "special": "a<tool>hello<|end|> <tool><tool> </s><0x0A>",
            "scripts": "\u00e9\u00e8 \u4f60\u597d\u3002 \u043f\u0440\u0438\u0432\u0435\u0442 "
                       "\u0e01\u0e33 \u0661\u0662 e\u0301 \U0001f600\u2581\u2581 \u00a0\u3000",
            "latin": "".join(chr(code) for code in range(0x80, 0x100)),
            "edges": "\0\x7f\u0080\u07ff\u0800\ud7ff\ue000\ufffd\uffff\U00010000\U0010ffff",
    }.items():
        write("tokenizer", name, text.encode())
    write("tokenizer", "broken",
          b"ok\xc0\xafx\xed\xa0\x80\xf4\x90\x80\x80\xff\xe2\x82 \x80hello\xf0\x9f")
    write("tokenizer", "ids", struct.pack("<8h", 0, 1, 97, 128, 250, 260, -1, 32767))


def quant_seeds():
    noise = random.Random(1)
    head = struct.pack("<BQ", 6, 7)
    normal = [noise.gauss(0, 1) for _ in range(512)]
    rows = {
        "normal": normal,
        "ties": [-8.0] + [j * 0.5 for j in range(-15, 16)] + [127.0] + [j + 0.5 for j in range(31)],
        "tiny": [x * 1e-40 for x in normal[:64]],
        "huge": [x * 1e37 for x in normal[:64]],
        "zeros": [0.0, -0.0] * 32,
        "not-finite": normal[:40] + [float("inf"), float("-inf"), float("nan")] + normal[:53],
    }
    for name, row in rows.items():
        write("quant", name, head + struct.pack(f"<{len(row)}f", *row))
    for block in (0, 1, 5, 8):
        write("quant", f"bits-{1 << block}", struct.pack("<BQ", block, 1) + noise.randbytes(1024))


def base_file_seeds():
    for name, (n_ctx, n_vocab, n_chunk) in {"odd": (8, 5, 2), "even": (3, 4, 1),
                                            "long": (16, 33, 3)}.items():
        data = b"_logits_" + struct.pack("<3i", n_ctx, n_vocab, n_chunk)
        data += struct.pack(f"<{n_ctx * n_chunk}i", *[i % n_vocab for i in range(n_ctx * n_chunk)])
        row = struct.pack("<2f", 16 / 65535, -17.0)
        row += struct.pack(f"<{n_vocab}H", *[i * 1999 for i in range(n_vocab)])
        row += b"\0\0" * (n_vocab % 2)
        write("base_file", name, data + row * ((n_ctx - 1 - n_ctx // 2) * n_chunk))
    write("base_file", "header", b"_logits_" + struct.pack("<3i", 512, 32000, 100))


def sealed_cache(version, body):
    file = b"rotkv-kv" + struct.pack("<IQ", version, 20 + len(body) + 8) + body
    checksum = 0xcbf29ce484222325  # FNV-1a
    for byte in file:
        checksum = (checksum ^ byte) * 0x100000001b3 % 2**64
    return file + struct.pack("<Q", checksum)


def cells_of(positions, token_bytes):
    """positions: one list a stream; token_bytes: one number a layer."""
    text = b"".join(struct.pack(f"<Q{len(stream)}i", len(stream), *stream) for stream in positions)
    tokens = sum(position >= 0 for stream in positions for position in stream)
    return text + b"".join(bytes(i % 251 for i in range(tokens * size)) for size in token_bytes)


def saved_cache_1(spec, types, cells, extents, positions, token_bytes):
    """A file of version 1. extents: layers, streams, kv_heads, d_k, d_v, v_in_k, v_first."""
    head = struct.pack("<Q", 0x0123456789abcdef)
    head += b"".join(gguf_string(name) for name in (*types, spec))
    head += struct.pack("<8Q", cells, *extents)
    tokens = sum(position >= 0 for stream in positions for position in stream)
    rows = bytes(i % 251 for i in range(extents[0] * tokens * token_bytes))
    return sealed_cache(1, head + cells_of(positions, []) + rows)


def saved_cache(cells, layers, positions, token_bytes):
    """layers: (kv_heads, d_k, d_v, v_in_k, v_first, source), types and rotations of K and V.
    The caches that these belong to are those of fuzz_cache_file.cpp."""
    head = struct.pack("<4Q", 0x0123456789abcdef, cells, len(positions), len(layers))
    for extents, words in layers:
        head += struct.pack("<6Q", *extents) + b"".join(gguf_string(word) for word in words)
    return sealed_cache(2, head + cells_of(positions, token_bytes))


def cache_file_seeds():
    plain = "k=none v=none", ("f32", "f32")
    two_streams = 1, 2, 1, 2, 2, 0, 0
    write("cache_file", "plain", saved_cache_1(*plain, 4, two_streams, [[7, -1, 8], [9]], 16))
    write("cache_file", "empty", saved_cache_1(*plain, 4, two_streams, [[], []], 16))
    write("cache_file", "full", saved_cache_1(
        *plain, 9, two_streams, [[0, 1, 2, 3], [-1, -1, -1, 2**31 - 1]], 16))
    write("cache_file", "too-long", saved_cache_1(
        *plain, 9, two_streams, [[0], [0, 1, 2, 3, 4]], 16))  # for a cache of four cells
    write("cache_file", "rotated", saved_cache_1(
        "k=sylvester/32 v=signs/16/7", ("q8_0", "q4_0"), 4, (2, 1, 2, 32, 32, 0, 0), [[0, 1, -1, 2]],
        2 * (34 + 18)))
    write("cache_file", "shared", saved_cache_1(
        "k=signs/4/3 v=signs/4/3/4", ("f16", "f16"), 4, (1, 2, 1, 8, 4, 1, 4), [[3], [-1, 4]], 16))
    f32 = ("f32", "f32", "none", "none")
    rotated = ("q8_0", "q4_0", "32", "16:7")
    write("cache_file", "2-plain", saved_cache(
        4, [((1, 2, 2, 0, 0, 0), f32)], [[7, -1, 8], [9]], [16]))
    write("cache_file", "2-rotated", saved_cache(
        4, [((2, 32, 32, 0, 0, layer), rotated) for layer in (0, 1)], [[0, 1, -1, 2]],
        [2 * (34 + 18)] * 2))
    write("cache_file", "2-shared", saved_cache(
        4, [((1, 8, 4, 1, 4, 0), ("f16", "f16", "4:3", "4:3:4"))], [[3], [-1, 4]], [16]))
    write("cache_file", "2-unlike", saved_cache(
        4, [((2, 32, 32, 0, 0, 0), rotated), ((1, 2, 2, 0, 0, 1), f32),
            ((2, 32, 32, 0, 0, 0), rotated), ((0, 0, 0, 0, 0, 3), ("f16", "f16", "none", "none"))],
        [[5, -1, 6]], [2 * (34 + 18), 16]))
    write("cache_file", "2-zoo", saved_cache(  # 2 + 12 bytes, and two blocks of 62 bits
        4, [((1, 32, 32, 0, 0, 0), ("exl3:3", "polar", "32", "16:7"))], [[0, -1, 2], [1]],
        [14 + 16]))


def llama_state(version, caches, tokens=(5, 7, 9), session=False):
    """caches: lists of streams, each what stands behind its number of cells."""
    head = struct.pack("<4sI", b"nsgg" if session else b"qsgg", version)
    head += struct.pack(f"<I{len(tokens)}i", len(tokens), *tokens)
    if session:
        head += struct.pack("<I5s", 5, b"llama")
    return head + b"".join(struct.pack("<I", len(streams)) + b"".join(streams)
                           for streams in caches)


def llama_stream(positions, sides, transposed=0, rotation=b""):
    """sides: (type, bytes of a cell) of each layer, for K and again for V."""
    text = struct.pack("<I", len(positions))
    text += b"".join(struct.pack("<iIi", position, 1, 0) for position in positions)
    text += struct.pack("<II", transposed, len(sides)) + rotation
    for side in "kv":
        for kind, size in sides:
            head = (struct.pack("<iQ", kind, size) if side == "k" or not transposed else
                    struct.pack("<iII", kind, 2, size // 2))
            text += head + bytes(i % 251 for i in range(len(positions) * size))
    return text


def llama_state_seeds():
    f16, q8_0 = (1, 8), (8, 34)
    write("llama_state", "sequence-3", llama_state(3, [[llama_stream([0, 1, 2], [f16, q8_0])]]))
    write("llama_state", "sequence-4", llama_state(4, [[llama_stream(
        [0, 1], [q8_0, q8_0], rotation=struct.pack("<II", 64, 32))]]))
    write("llama_state", "server", llama_state(3, [[llama_stream([4, 5], [f16])]],
                                               tokens=(-1, 1, 2, 8, 9, 0)))
    write("llama_state", "transposed", llama_state(3, [[llama_stream([0, 2], [f16], 1)]]))
    write("llama_state", "session", llama_state(
        10, [[struct.pack("<I", 0), llama_stream([0], [f16])], [llama_stream([0], [q8_0])]],
        session=True))


if __name__ == "__main__":
    gguf_seeds()
    tokenizer_seeds()
    quant_seeds()
    base_file_seeds()
    cache_file_seeds()
    llama_state_seeds()
