"""A small random number generator whose output is part of the data format.

Python's `random` may change what it draws between versions; the recorded hashes of the generated text
must not. SplitMix64 (Steele, Lea and Flood, 2014) is a handful of 64-bit operations and never drifts.
"""

import hashlib

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def hash64(*key):
    """64-bit hash of a tuple of strings and integers, the same on every machine and Python."""
    text = "\x1f".join(str(k) for k in key).encode("utf-8")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


class Rng:
    """SplitMix64 stream; `Rng(seed, "label", 3)` gives independent streams for distinct labels."""

    __slots__ = ("_state",)

    def __init__(self, *key):
        self._state = hash64(*key)

    def next64(self):
        self._state = z = (self._state + _GAMMA) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, n):
        """Uniform integer in [0, n); the bias of the multiply-shift is under n / 2**64."""
        return (self.next64() * n) >> 64

    def between(self, low, high):
        """Uniform integer in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def chance(self, percent):
        return self.below(100) < percent

    def choice(self, items):
        return items[(self.next64() * len(items)) >> 64]

    def shuffle(self, items):
        """Fisher-Yates, in place; returns the list for convenience."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items

    def sample(self, items, k):
        """k distinct items in random order."""
        n = len(items)
        if k > n:
            raise ValueError(f"cannot draw {k} distinct items out of {n}")
        if k * 4 > n:
            return self.shuffle(list(items))[:k]
        seen, out = set(), []
        while len(out) < k:
            i = self.below(n)
            if i not in seen:
                seen.add(i)
                out.append(items[i])
        return out


def split_of(*key):
    """Which split a keyed combination belongs to: 90 % train, 4 % valid, 6 % test.

    Every part derives a key from what makes one of its documents unique (the operands of a sum, the
    names of a chain, ...) and draws again until the key falls into the split being written. So nothing
    that the test asks was computed, chained or listed in training.
    """
    bucket = hash64("split", *key) % 100
    return "test" if bucket < 6 else "valid" if bucket < 10 else "train"
