"""What an answer shows: rows of ln p held against ours, those of the other rotation, and those of
every known mistake. Docs: docs/29-judge.md"""
import dataclasses

from .ours import ASKED, NOT_QUANTIZED, cache_words
from .rows import kld

RIGHT, WRONG, UNTOLD, NOT_ASKED = "right", "WRONG", "cannot tell", "not asked"
FLOOR_LIMIT = 0.02  # nats: beyond it f16 predictions are another model's
SMALL = 5e-5        # nats: a difference that no known mistake explains is none below that
NAMED = 3           # an explanation leaves less than this part of the KLD


@dataclasses.dataclass
class Config:
    """A cache: types, whether it is rotated (None: as the engine likes), the seed of signs."""
    k: str
    v: str
    rotation: bool | None
    signs: int | None

    def quantized(self):
        return self.k not in NOT_QUANTIZED or self.v not in NOT_QUANTIZED

    def words(self, rotation):
        return cache_words(self.k, self.v, rotation, self.signs)

    def says(self):
        if not self.quantized():
            return "-"
        return {True: "on", False: "off", None: "as it likes"}[self.rotation]


@dataclasses.dataclass
class Result:
    """One trial. KLDs are means over its predictions, in nats, of the engine from ours."""
    trial: str
    k: str = ""
    v: str = ""
    rotation: str = ""
    verdict: str = NOT_ASKED
    kld: float | None = None      # from ours as asked
    cost: float | None = None     # of the cache: ours as asked from ours in f32
    limit: float | None = None    # up to which an engine is right; it is wrong beyond Scale.apart
    nearest: str = ""             # what explains the rows best
    nearest_kld: float | None = None
    why: str = ""
    smallest: dict | None = None  # the smallest input that shows it


@dataclasses.dataclass
class Scale:
    """By what the KLDs of one cache are measured, all in nats."""
    floor: float = 0.0     # the engine's f16 predictions from ours; 0: not known yet
    cost: float = 0.0      # of the cache, in ours
    of_queries: float = 0  # the same of keys in q8_0: engines round q so where K is quantized

    def limit(self):
        """An engine that rounds as we do stays below a quarter of the cost: seven eighths of the
        errors are shared. Beside it stand its own arithmetic, which is not the same at every place,
        and what it does to q."""
        return self.allowed(1 / 4)

    def apart(self):
        """As far are two of which each rounds the same cache as it likes: no error is shared. In many
        layers codes that lay on a tie for one of them come to that."""
        return self.allowed(2)

    def allowed(self, costs):
        if not self.floor:
            return FLOOR_LIMIT
        return max(SMALL, 10 * self.floor + 4 * self.of_queries + costs * self.cost)


def judged(result, rows, hypotheses, scale):
    """Puts a verdict on an engine's rows: hypotheses are {name: ours}, ASKED among them. Those that
    do not differ from it by more than the engine's arithmetic are no explanation."""
    asked = hypotheses[ASKED]
    found = {name: kld(ours, rows) for name, ours in hypotheses.items()
             if name == ASKED or kld(asked, ours) > 4 * scale.floor + 1e-7}
    result.kld, result.cost, result.limit = found[ASKED], scale.cost, scale.limit()
    result.nearest = min(found, key=found.get)
    result.nearest_kld = found[result.nearest]
    if result.nearest != ASKED and NAMED * result.nearest_kld < result.kld:
        result.verdict = WRONG
    elif not result.kld <= scale.apart():
        result.verdict, result.why = WRONG, f"beyond {scale.apart():.2g}, by none of the known mistakes"
        if result.nearest != ASKED:
            result.why += f"; nearest to {result.nearest}"
    elif result.kld > result.limit:
        result.verdict = UNTOLD
        result.why = (f"beyond {result.limit:.2g}, by none of the known mistakes; an engine that rounds "
                      f"otherwise may be {scale.apart():.2g} away")
    elif result.nearest != ASKED:
        result.verdict = UNTOLD
        result.why = f"as near to {result.nearest}: its difference is below the engine's own rounding"
    else:
        result.verdict = RIGHT
    return result
