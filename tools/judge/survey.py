"""Several models in one table: what each trial showed of each. Docs: docs/29-judge.md"""
from .ours import ASKED
from .report import cell, figure
from .verdict import NOT_ASKED, RIGHT, UNTOLD, WRONG


def markdown(reports):
    """A row for each model, a column for each trial, and what engine and judge they are of."""
    trials = list(dict.fromkeys(one.trial for report in reports for one in report.results))
    lines = [f"- {name} {version}".rstrip() for name, version in dict.fromkeys(
        (one.identity.get("name", "an engine"), one.identity.get("version", "")) for one in reports)]
    lines += [f"- {what}: {value}" for what, value in reports[0].versions.items() if what != "model"]
    lines += ["", "| model | " + " | ".join(trials) + " |", "|---" * (1 + len(trials)) + "|"]
    for report in reports:
        cells = [outcome([one for one in report.results if one.trial == trial]) for trial in trials]
        lines.append("| " + " | ".join(map(cell, [report.model.removesuffix(".gguf"), *cells])) + " |")
    kinds = [one.verdict for report in reports for one in report.results]
    counts = ", ".join(f"{kinds.count(kind)} {words}" for kind, words in (
        (RIGHT, "right"), (WRONG, "wrong"), (UNTOLD, "that cannot be told"), (NOT_ASKED, "not asked")))
    return "\n".join([*lines, "", f"{len(reports)} model{'s' * (len(reports) != 1)}: {counts}", ""])


def outcome(results):
    """One trial with each cache: what came of it, and of which caches where not of all."""
    groups = {}
    for one in results:
        groups.setdefault(kind(one), []).append(one)
    words = []
    for name, some in groups.items():
        klds = sorted(one.kld for one in some if one.kld is not None)
        if name.startswith(WRONG) and klds:
            ends = dict.fromkeys(map(figure, (klds[0], klds[-1])))
            name += f" (KLD {' .. '.join(ends)})"
        words.append(name if len(groups) == 1 else f"{caches(some)}: {name}")
    return "; ".join(words) or "-"


def kind(one):
    """right, WRONG: by what, how the engine ended, or why it was not asked."""
    if one.verdict == WRONG and one.kld is None:
        how, _, why = one.why.removeprefix("the engine died ").partition(": ")
        return how.strip("()") + ("" if why == "without a word" else f": {why}")
    if one.verdict == WRONG:  # what says why is not explained by what is nearest
        return WRONG if one.why or one.nearest == ASKED else f"{WRONG}: {one.nearest}"
    return f"{one.verdict}: {one.why}" if one.verdict == NOT_ASKED and one.why else one.verdict


def caches(results):
    """q8_0 q4_0 rotated, f16"""
    words = {}
    for one in results:
        how = {"on": " rotated", "off": " not rotated"}.get(one.rotation, "")
        words.setdefault(how, []).append(one.k if one.k == one.v else f"{one.k}:{one.v}")
    return ", ".join(" ".join(kinds) + how for how, kinds in words.items())
