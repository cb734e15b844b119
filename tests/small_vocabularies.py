"""Vocabularies of some 300 words, as keys tokenizer.ggml.* of a GGUF file without that prefix: one
of each model of tokenizer. Each knows every byte, and merges or pieces that English text uses."""
from gguf_file import ARRAY, BOOL, F32, I32, STRING, U32

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # types of words
SPACE = "\u2581"  # what a space is in vocabularies that are not of bytes


def byte_letters():
    """The letter that byte-level vocabularies write for each byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters, others = {b: chr(b) for b in plain}, [b for b in range(256) if b not in plain]
    letters.update({b: chr(256 + i) for i, b in enumerate(others)})
    return letters


def spaced(space, words):
    return [word.replace("_", space) for word in words]


def joined(merges):
    return [merge.replace(" ", "") for merge in merges]


def byte_words():
    return [f"<0x{b:02X}>" for b in range(256)]


def byte_level(pre):
    letters = byte_letters()
    merges = spaced(letters[ord(" ")], ["t h", "th e", "i n", "a n", "e r", "_ t", "_ a", "o n",
                                        "r e", "_t he", "an d", "_ and"])
    words = [letters[b] for b in range(256)] + joined(merges)
    types = [NORMAL] * len(words) + [CONTROL] * 2
    words += ["<s>", "</s>"]
    return {"model": (STRING, "gpt2"), "pre": (STRING, pre),
            "tokens": (ARRAY, (STRING, words)), "token_type": (ARRAY, (I32, types)),
            "merges": (ARRAY, (STRING, merges)), "bos_token_id": (U32, len(words) - 2),
            "eos_token_id": (U32, len(words) - 1), "add_bos_token": (BOOL, True)}


def sentence_piece(_pre):
    pieces = spaced(SPACE, ["_", *"etaoinsrhldcumfpgwyb,.vk", "_t", "_a", "he", "in", "re", "on",
                            "_the", "er", "an", "nd", "_and", "_o", "_of", "ed", "ing"])
    words = ["<unk>", "<s>", "</s>", *byte_words(), *pieces]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(pieces)
    scores = [0.0] * 259 + [-float(i) for i in range(len(pieces))]
    return {"model": (STRING, "llama"), "pre": (STRING, "default"),
            "tokens": (ARRAY, (STRING, words)), "scores": (ARRAY, (F32, scores)),
            "token_type": (ARRAY, (I32, types)), "bos_token_id": (U32, 1), "eos_token_id": (U32, 2),
            "unknown_token_id": (U32, 0), "add_bos_token": (BOOL, True),
            "add_space_prefix": (BOOL, False)}


def gemma4(_pre):
    """Merges of UTF-8 letters, and words for runs of newlines; its scores are not used."""
    merges = spaced(SPACE, ["_ t", "_ a", "h e", "i n", "r e", "o n", "_t he", "e r", "a n", "n d",
                            "_a nd", "_ o", "_o f", "e d", "in g"])
    letters = [SPACE, *"abcdefghijklmnopqrstuvwxyz,.TAI\u00e9", "\n", "\n\n", "\n\n\n"]
    normal = letters + joined(merges)
    words = ["<pad>", "<eos>", "<bos>", "<unk>", *byte_words(), *normal]
    types = [CONTROL] * 3 + [UNKNOWN] + [BYTE] * 256 + [NORMAL] * len(normal)
    scores = [-float(i) for i in range(len(words))]
    return {"model": (STRING, "gemma4"), "tokens": (ARRAY, (STRING, words)),
            "scores": (ARRAY, (F32, scores)), "token_type": (ARRAY, (I32, types)),
            "merges": (ARRAY, (STRING, merges)), "bos_token_id": (U32, 2), "eos_token_id": (U32, 1),
            "unknown_token_id": (U32, 3), "padding_token_id": (U32, 0),
            "add_bos_token": (BOOL, True), "add_space_prefix": (BOOL, False)}
