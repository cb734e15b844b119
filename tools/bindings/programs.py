"""rotkv's programs that look at a model over a text, as functions: the same C++, the same words for
what is wrong, and the document of --json as a dict.

A list of types or rotations is a str ("q8_0,q4_0") or a sequence of str. None, of any argument,
stands for the program's own default, which --help of the program shows. `text` is a str, or bytes.
progress: as in Model.perplexity(): a callable(done, all), whose exception ends the work, or True
for a bar of tqdm's. A figure that is not a number is None, and a RuntimeWarning says which."""
from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ._rotkv import Model, run_program

Words = str | Sequence[str] | None
Progress = Callable[[int, int], Any] | bool | None


# Arguments whose flags have another name.
FLAGS = {"k": "cache-type-k", "v": "cache-type-v", "ctx": "ctx-size", "batch": "batch-size"}


def _flags(**named: Any) -> list[str]:
    """ctx=512 as "--ctx-size=512": None and False are left out, True stands alone."""
    flags = []
    for name, value in named.items():
        flag = "--" + FLAGS.get(name, name.replace("_", "-"))
        if value is None:
            continue
        if isinstance(value, (bool, np.bool_)):
            flags += [flag] if value else []
            continue
        if isinstance(value, (bytes, os.PathLike)):
            value = os.fsdecode(value)
        elif not isinstance(value, (str, int, float, np.integer, np.floating)):
            value = _listed(name, value)
        flags.append(f"{flag}={value}")
    return flags


def _listed(name: str, value: Any) -> str:
    """A sequence of words or numbers as the flags take it."""
    try:
        items = [None] if isinstance(value, (dict, set)) else list(value)
    except TypeError:
        items = [None]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (str, int, float, np.integer, np.floating)):
            found = type(value if item is None else item).__name__
            raise TypeError(f"{name}: expected a str, a number or a sequence of them, found {found}")
    return ",".join(map(str, items))


def _run(model: Model, program: str, text: str | bytes, progress: Progress,
         **named: Any) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    if not isinstance(text, (str, bytes)):
        raise TypeError(f"text: expected a str or bytes, found {type(text).__name__}")
    data = text.encode() if isinstance(text, str) else text
    document, matrices = run_program(model, program, _flags(**named), data, progress)
    found = json.loads(document)
    for line in found.get("not_numbers", ()):
        warnings.warn(line, RuntimeWarning, stacklevel=3)
    return found, matrices


def outliers(model: Model, text: str | bytes, *, k: str | None = None, v: str | None = None,
             ctx: int | None = None, chunks: int | None = None,
             progress: Progress = None) -> dict[str, Any]:
    """Outliers of q, k and v of every head, the error of every type, and advice per side.

    k, v: judge the side in this type alone (None: in all); ctx: tokens of a window (None: 512),
    chunks: windows at most (None: 4; -1: all).
    Result: {layers, heads: [{layer, head, side, none | sylvester | signs: {kurtosis, crest, mu,
    p4, ..., errors: {type: {predicted, measured, output_predicted, output_measured}}}}],
    verdicts: [{side, type, rotation, gain, advice, ...}], not_numbers, ...}; errors are relative
    squares. Source: docs/11-outliers.md"""
    return _run(model, "outliers", text, progress, ctx=ctx, chunks=chunks, k=k, v=v)[0]


def sweep(model: Model, text: str | bytes, *, k: Words = None, v: Words = None,
          formats: Words = None, rot: Words = None, base: str | None = None,
          place: str | None = None, out: str | os.PathLike[str] | None = None,
          so_far: bool = False, base_memory: int | None = None, ctx: int | None = None,
          batch: int | None = None, chunks: int | None = None,
          progress: Progress = None) -> dict[str, Any]:
    """Every K type with every V type under every rotation: perplexity, and KL divergence in nats
    from the base cache.

    k, v: types; formats: what both sides have at once, in place of k and v ("all": every one);
    rot: rotations of both sides (None: off, auto); base: the cache they are compared with;
    place: words such as "first=4,ends=q8_0:2"; out: the file to begin or to go on in (None: none);
    so_far: compute nothing, what the file has; base_memory: MiB for the base's hidden states;
    ctx, batch, chunks: how the text is cut (None: 512 tokens, 2048 at once, all).
    Result: {cells: [{k, v, rot, bytes_per_token, kld, ppl, ...}], front, rotation, not_numbers,
    ...}. Source: docs/12-sweeps.md"""
    return _run(model, "sweep", text, progress, k=k, v=v, formats=formats, rot=rot, base=base,
                place=place, out=out, so_far=so_far, base_memory=base_memory, ctx=ctx, batch=batch,
                chunks=chunks)[0]


def search(model: Model, text: str | bytes, *, bits: float | Sequence[float] | str | None = None,
           bytes: int | Sequence[int] | str | None = None, types: Words = None, rot: Words = None,
           ctx: int | None = None, chunks: int | None = None, held_out: int | None = None,
           layer_chunks: int | None = None, groups: int | None = None,
           progress: Progress = None) -> dict[str, Any]:
    """The best cache for each budget: bits per value (None: 5), or bytes per token.

    types: what K and V may be kept in; rot: rotations of either side; ctx: tokens of a window
    (None: 256); chunks: windows in all (None: 8), of which the last held_out (None: 6) judge
    finalists and the first layer_chunks (None: 1) layers; groups: of layers, at most (None: 16).
    Result: {budgets: [{choice, ...}], finalists: [{cache, bytes_per_token, kld, ...}], sides,
    layers, not_numbers, ...}; choice: a number of finalists, or None; KLD in nats.
    Source: docs/26-search.md"""
    return _run(model, "search", text, progress, bits=bits, bytes=bytes, types=types, rot=rot,
                ctx=ctx, chunks=chunks, held_out=held_out, layer_chunks=layer_chunks,
                groups=groups)[0]


def calibrate(model: Model, text: str | bytes, *, kind: str | None = None, k: str | None = None,
              v: str | None = None, ctx: int | None = None, chunks: int | None = None,
              held_out: int | None = None, rows: int | None = None,
              progress: Progress = None) -> dict[str, Any]:
    """Rotations of K and V made from a text, and what they come to on its windows held out.

    kind: "oscar" (None) or "pca"; k, v: types that errors are told in (None: q4_0); ctx: tokens of
    a window (None: 256); chunks: windows in all (None: 8), of which the last held_out (None: 2)
    teach nothing; rows: of a head that errors are measured on, in each part (None: 256).
    Result: {k, v: {matrices: [layers][KV heads][D][D] f32, y = M x; type, heads, rotations:
    [{rotation, expected, held_out, heads_worse}]}, not_numbers, ...}. numpy.save() makes of
    matrices the file that "rot-k=file:NAME" reads. Source: docs/23-matrix-rotations.md"""
    found, matrices = _run(model, "calibrate", text, progress, kind=kind, k=k, v=v, ctx=ctx,
                           chunks=chunks, held_out=held_out, rows=rows)
    for side, layers in matrices.items():
        found[side]["matrices"] = np.stack(layers)
    return found


def fuse(model: Model, output: str | os.PathLike[str], *, rot_v: str | None = None,
         verify: str | bytes | None = None, tokens: int | None = None,
         progress: Progress = None) -> dict[str, Any]:
    """Writes the model's file anew with V's rotation in its weights, where no model may be yet.

    rot_v: "BLOCK" or "BLOCK:SEED" (None: 64); verify: a text, of whose first `tokens` (None: 128)
    the predictions of both files are compared: rotkv.Error where they are not the same.
    Result: {model, output, key, rotation, tensors, bytes_before, bytes_after, verified: {tokens,
    words, max_delta_log_p in nats, kld, one_bit_delta_log_p, same}}.
    Source: docs/21-rotation-in-the-weights.md"""
    return _run(model, "fuse", "" if verify is None else verify, progress, output=output,
                rot_v=rot_v, verify=verify is not None, tokens=tokens)[0]
