"""The verdict in Markdown, to be pasted into an issue, and in JSON. Docs: docs/29-judge.md"""
import dataclasses
import json
import platform

from .ours import ASKED
from .verdict import NOT_ASKED, RIGHT, UNTOLD, WRONG

# What has to change, by mistake.
FIXES = {
    "k-not-rotated": "rotate a key by K's blocks before it is stored, as q is before it is scored",
    "q-not-rotated": "rotate q by K's blocks before it is scored: q H (k H)^T = q k^T only with both",
    "v-not-back": "rotate attention's output back by V's blocks, once the values are summed",
    "v-back-by-k": "rotate the output back in the blocks that V was stored in (64), not in K's",
    "not-normalized": "multiply by 1 / sqrt(N), so that H is orthogonal and its own inverse",
    "row-sign": "the last row of H ends with the sign (-1)^(number of ones of N - 1), as Sylvester's",
    "strided-blocks": "a block is N neighbouring channels",
    "signs-restarted": "count the signs through the whole row, not from 0 in each block",
    "signs-dropped": "multiply by the signs before H, and after H on the way back",
    "shift-rotated": "shift: rotate the key back, turn it by RoPE, rotate it again; they do not commute",
    "shift-dropped": "shift: turn the keys that move by RoPE of the difference",
    "shift-backwards": "shift: the difference is new position minus old, a negative angle",
    "scale-twice": "multiply scores by the scale once, not q and the scores",
    "heads-modulo": "query head h reads KV head h / (H / K), not h mod K",
    "window-longer": "a window of n holds the token itself and n - 1 before it",
    "window-shorter": "a window of n holds the token itself and n - 1 before it",
    "self-unseen": "a token is stored first and sees its own cell",
    "sinks-dropped": "exp(sink) belongs into the sum that probabilities are divided by",
    "softcap-dropped": "scores become c tanh(score / c) before the softmax",
    "the other rotation": "this cache is not rotated as it was asked to be: look at the switch",
    "nothing was restored": "predictions after the restore must be those of the cache that was saved",
}


SHOWN = 48  # tokens of an input; more are in the JSON


def figure(x):
    return "" if x is None else f"{x:.1e}" if 0 < abs(x) < 0.001 else f"{x:.4f}"


def cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


@dataclasses.dataclass
class Report:
    """What one model showed of an engine."""
    identity: dict  # {"name", "version"} of the engine, as it says
    versions: dict  # of the judge, the machine, the model
    model: str      # its file's name
    results: list
    blind: set      # the mistakes that it cannot show

    def markdown(self, mistakes):
        """Versions, table, what is wrong, what it would take to be right."""
        name, version = self.identity.get("name", "an engine"), self.identity.get("version", "")
        lines = [f"## {name} {version} on {self.model}", ""]
        lines += [f"- {what}: {value}" for what, value in self.versions.items()]
        lines += ["", "| trial | K | V | rotation | KLD from ours | cost of the cache | right up to "
                  "| nearest | KLD from that | verdict |",
                  "|---|---|---|---|---|---|---|---|---|---|"]
        for one in self.results:
            cells = [one.trial, one.k, one.v, one.rotation, figure(one.kld), figure(one.cost),
                     figure(one.limit), one.nearest, figure(one.nearest_kld), one.verdict]
            lines.append("| " + " | ".join(cell(c) for c in cells) + " |")
        lines += [""] + wrong(self.results, mistakes)
        lines += notes(self.results)
        if self.blind:
            lines.append("- This model cannot show: " + ", ".join(sorted(self.blind)) + ".")
        return "\n".join(lines + ["", verdict(self.results), ""])

    def as_json(self):
        return {"engine": self.identity, "versions": self.versions, "model": self.model,
                "asked": ASKED, "results": [dataclasses.asdict(one) for one in self.results],
                "cannot_show": sorted(self.blind), "status": self.status()}

    def status(self):
        return status(self.results)


def notes(results):
    """A line for each thing said of a trial that is not wrong, with the caches of which it is said."""
    caches = {}
    for one in results:
        if one.why and one.verdict != WRONG:
            caches.setdefault((one.trial, one.verdict, one.why), {})[cache_of(one)] = None
    return [f"- {trial}{';'.join(of)}, {kind}: {why}" for (trial, kind, why), of in
            sorted(caches.items(), key=lambda said: said[0])]


def cache_of(one):
    return f" with K {one.k}, V {one.v}, rotation {one.rotation}" if one.k else ""


def wrong(results, mistakes):
    """A paragraph for each trial that fails."""
    lines = []
    for one in results:
        if one.verdict != WRONG:
            continue
        lines.append(f"**{one.trial}{cache_of(one)}**: {one.why or reason(one, mistakes)}.")
        if one.nearest in FIXES and not one.why.startswith("beyond"):
            lines.append(f"To be right: {FIXES[one.nearest]}.")
        elif one.limit is not None:
            lines.append(f"To be right: a KLD of at most {figure(one.limit)} on these tokens.")
        elif one.trial != "tokens":
            lines.append("To be right: rows of ln p, or a refusal in words.")
        if one.smallest:
            lines.append(smallest(one.smallest))
        lines.append("")
    return lines


def reason(one, mistakes):
    words = mistakes.get(one.nearest, one.nearest)
    return (f"likely: {words} [{one.nearest}], which leaves a KLD of {figure(one.nearest_kld)} of "
            f"{figure(one.kld)}")


def smallest(found):
    """The input, as the judge's own lines ask it."""
    if "text" in found and "expected" in found and "word" not in found:
        return (f"Smallest input: {found['text'][:60]!r} is {found['expected'][:16]}, found "
                f"{found['found'][:16]}.")
    if len(found["tokens"]) > SHOWN:
        found = {**found, "tokens": found["tokens"][:8] + ["..."] + found["tokens"][-8:]}
        return f"Smallest input, in whole with --json: `{json.dumps(found)}`"
    if "word" not in found:
        return "Smallest input: `" + json.dumps({"do": "shift" if "keep" in found else "predict",
                                                 **found}) + "`"
    asked = {"do": "predict", "tokens": found["tokens"], "at": [len(found["tokens"]) - 1]}
    return (f"Smallest input: {found['text'][-40:]!r}, `{json.dumps(asked)}`: ln p of word "
            f"{found['word']} is {found['expected']:.3f}, found {found['found']:.3f} "
            f"(KLD {figure(found['kld'])}).")


def verdict(results):
    count = {kind: sum(one.verdict == kind for one in results)
             for kind in (RIGHT, WRONG, UNTOLD, NOT_ASKED)}
    word = "wrong" if count[WRONG] else "right" if count[RIGHT] else "nothing was judged"
    return (f"**{word}**: {count[RIGHT]} right, {count[WRONG]} wrong, {count[UNTOLD]} that cannot be "
            f"told, {count[NOT_ASKED]} not asked")


def status(results):
    """0: something is right and nothing wrong, else 1."""
    kinds = {one.verdict for one in results}
    return 0 if RIGHT in kinds and WRONG not in kinds else 1


def machine():
    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
