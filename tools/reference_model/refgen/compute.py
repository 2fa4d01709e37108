"""Part (b), compute: sums, differences, comparisons, short chains of steps, and steps through the calendar.

Operands are keyed (see `split_of`): a pair of operands that the test asks never occurs in training.
"""

from .rng import split_of

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (("January", 31), ("February", 28), ("March", 31), ("April", 30), ("May", 31), ("June", 30), ("July", 31),
          ("August", 31), ("September", 30), ("October", 31), ("November", 30), ("December", 31))

_ADD = ("{a} + {b} =", "What is {a} plus {b}? It is", "Add {b} to {a} and you get", "The sum of {a} and {b} is")
_SUB = ("{a} - {b} =", "What is {a} minus {b}? It is", "Take {b} from {a} and you get", "{a} less {b} leaves")
_LARGEST = ("The largest of {list} is", "Which is the largest of {list}? It is", "Among {list} the highest number is")
_SMALLEST = ("The smallest of {list} is", "Which is the smallest of {list}? It is", "Among {list} the lowest number is")
_WEEKDAY = ("{n} days after {day} comes", "Today is {day}. In {n} days it will be", "Count {n} days on from {day} and it is")
_DATE = ("{n} days after {d} {m} comes", "Today is {d} {m}. In {n} days it will be", "Count {n} days on from {d} {m} and it is")
_MORE = ("finds {n} more", "gets {n} more", "buys {n} more", "is given {n} more")
_LESS = ("loses {n}", "gives away {n}", "sells {n}", "drops {n}")
_GOODS = "nuts apples coins stones shells eggs nails cards beads pears".split()


def _near(rng, value, low=0):
    """Three wrong results that look right: off by one, by ten, or with digits exchanged."""
    pool = [value + d for d in (-1, 1, -10, 10, -2, 2, 9, -9, 11)]
    swapped = int(str(value)[::-1])
    pool.append(swapped)
    pool = sorted({p for p in pool if p >= low and p != value})
    return rng.sample(pool, 3)


def _sum(world, rng, top):
    a, b = rng.between(1, top), rng.between(1, top)
    if rng.chance(60):
        key, text, value = ("add", min(a, b), max(a, b)), rng.choice(_ADD), a + b
    else:
        a, b = max(a, b), min(a, b)
        key, text, value = ("sub", a, b), rng.choice(_SUB), a - b
    return "sum", key, text.format(a=a, b=b), str(value), [str(v) for v in _near(rng, value)]


def _compare(world, rng, top):
    digits = rng.between(2, 3)
    low, high = 10 ** (digits - 1), 10 ** digits - 1
    if rng.chance(50):  # close together: the decision is in the last digits
        start = rng.between(low, high - 30)
        numbers = rng.sample(range(start, start + 30), 4)
    else:
        numbers = rng.sample(range(low, high + 1), 4)
    largest = rng.chance(50)
    right = max(numbers) if largest else min(numbers)
    listed = f"{numbers[0]}, {numbers[1]}, {numbers[2]} and {numbers[3]}"
    text = rng.choice(_LARGEST if largest else _SMALLEST).format(list=listed)
    return "compare", ("compare", *sorted(numbers)), text, str(right), [str(n) for n in numbers if n != right]


def _chain(world, rng, top):
    """Two or three steps in words; intermediate values stay between 0 and 40."""
    value = rng.between(2, 20)
    goods, name = rng.choice(_GOODS), rng.choice(world.first_names)
    parts, key = [f"{name} has {value} {goods}."], [value]
    for _ in range(rng.between(2, 3)):
        if value >= 3 and (value > 30 or rng.chance(50)):
            n = rng.between(1, min(9, value - 1))
            phrase, value, sign = rng.choice(_LESS), value - n, -n
        else:
            n = rng.between(1, 9)
            phrase, value, sign = rng.choice(_MORE), value + n, n
        parts.append(f"{name} {phrase.format(n=n)}.")
        key.append(sign)
    parts.append(f"Now {name} has")
    pool = [v for v in range(max(0, value - 4), value + 5) if v != value]
    return "chain", ("chain", *key), " ".join(parts), str(value), [str(v) for v in rng.sample(pool, 3)]


def _date(world, rng, top):
    if rng.chance(40):
        day, n = rng.below(7), rng.between(2, 30)
        right = DAYS[(day + n) % 7]
        text = rng.choice(_WEEKDAY).format(n=n, day=DAYS[day])
        return "date", ("weekday", day, n), text, right, rng.sample([d for d in DAYS if d != right], 3)
    month, n = rng.below(12), rng.between(2, 20)
    day = rng.between(1, MONTHS[month][1])

    def after(steps):
        d, m = day + steps, month
        while d > MONTHS[m][1]:
            d, m = d - MONTHS[m][1], (m + 1) % 12
        return f"{d} {MONTHS[m][0]}"

    text = rng.choice(_DATE).format(n=n, d=day, m=MONTHS[month][0])
    offsets = [n + d for d in (-2, -1, 1, 2, 3, 10) if n + d > 0]
    wrong = sorted({after(o) for o in offsets} - {after(n)})
    return "date", ("date", day, month, n), text, after(n), rng.sample(wrong, 3)


_KINDS = (_sum, _sum, _compare, _chain, _date)


def problem(world, rng, split, kind=None, top=99):
    """`top` is the difficulty knob: the largest operand of sums and differences."""
    while True:
        name, key, text, right, wrong = (kind or rng.choice(_KINDS))(world, rng, top)
        if split_of(*key) == split:
            return name, text, " " + right, [" " + w for w in wrong]


def document(world, rng, split):
    kind = rng.choice(_KINDS) if rng.chance(50) else None  # one kind throughout, or mixed
    lines = []
    for _ in range(rng.between(2, 6)):
        _, text, right, _ = problem(world, rng, split, kind)
        lines.append(f"{text}{right}.")
    return "\n".join(lines) + "\n"


def item(world, rng, split):
    kind = rng.choice((_sum, _compare, _chain, _date))
    name, text, right, wrong = problem(world, rng, split, kind)
    return {"context": text, "right": right, "wrong": wrong, "kind": name}
