"""Numbers that are the same on every machine: SplitMix64, as ref/random.h has it.

Docs: docs/31-tasks.md"""
import hashlib

MASK = (1 << 64) - 1


class Draws:
    """The outputs of SplitMix64 from a seed, in a row. Source: Steele, Lea, Flood 2014."""

    def __init__(self, seed):
        self.seed, self.next = seed & MASK, 0

    def bits(self):
        self.next += 1
        z = (self.seed + self.next * 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def uniform(self):
        """In [0, 1), a multiple of 2^-53."""
        return (self.bits() >> 11) * 2.0 ** -53

    def below(self, n):
        return self.bits() % n

    def one_of(self, things):
        return things[self.below(len(things))]

    def some_of(self, things, count):
        """`count` different ones, in an order that is drawn as well."""
        left = list(things)
        return [left.pop(self.below(len(left))) for _ in range(count)]


def seed_of(*names):
    """64 bits that depend on every name and on their order."""
    text = "\0".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
