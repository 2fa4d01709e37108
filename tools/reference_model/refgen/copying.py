"""Part (c), copy and retrieve: what was said far back in the context has to be said again.

A passage holds several keys, each with a value; filler sentences stretch it; at its end some of the keys
are asked. The wrong choices of an item are the other values of the same passage, so that neither frequency
nor novelty gives the answer away, only the binding of key and value. Lists are copied word by word.

Distances and lengths are counted in units that need no tokenizer: a word, a digit or a punctuation mark.
With the shipped tokenizer a unit is about 1.0 token; a passage with its questions fits a context of 512.
"""

import re

from . import names, stories
from .rng import split_of

_UNIT = re.compile(r"[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]")
MAX_UNITS = 478  # passage, without the questions at its end
DOCUMENT_UNITS = 492
DISTANCES = (32, 64, 128, 256, 440)

# Statements and question forms, of which any goes with any: the answer follows the question form. All name the key
# before the value; models of this size learn to look a value up in front of its key only after many times the text.
_HOLD = (("The {k} holds the {v}.", "In the {k} lies the {v}.", "Into the {k} they put the {v}."),
         ("The {k} holds the", "In the {k} lies the"))
_CODE = (("The number on the {k} is {v}.", "The {k} is marked {v}.", "On the {k} they wrote {v}."),
         ("The number on the {k} is", "The {k} is marked"))
_WORD = (("The pass word of {k} is {v}.", "At the gate {k} says {v}.", "To pass as {k}, say {v}."),
         ("The pass word of {k} is", "To pass as {k}, say"))


def units(text):
    return len(_UNIT.findall(text))


def _entries(world, rng, count):
    """`count` keys with distinct values of one kind, each with its statement and question form."""
    draw = rng.below(3)
    if draw == 2:
        keys = rng.sample(world.first_names, count)
        values, forms = rng.sample(names.OBJECTS, count), _WORD
    else:
        keys = [f"{c} {h}" for c, h in zip([rng.choice(names.COLOURS) for _ in range(count)],
                                           rng.sample(names.HOLDERS, count))]
        if draw == 0:
            values, forms = rng.sample(names.OBJECTS, count), _HOLD
        else:
            values, forms = [str(v) for v in rng.sample(range(100, 1000), count)], _CODE
    out = []
    for k, v in zip(keys, values):
        statement, cloze = (rng.choice(form) for form in forms)
        out.append((k, v, statement.format(k=k, v=v), cloze.format(k=k)))
    return out


def _fill(rng, budget):
    """Filler sentences of about `budget` units, never more."""
    out, left = [], budget
    while left > 4:
        sentence = stories.scenery(rng)
        cost = units(sentence)
        if cost > left:
            break
        out.append(sentence)
        left -= cost
    return out


def retrieve(world, rng, split, distance):
    """(passage, entries): the statement of entries[0] ends about `distance` units before the passage does.

    The asked statement has any rank among the statements, so that being first or last tells nothing.
    """
    most = 5 if distance > 320 or distance < 48 else 7
    while True:
        entries = _entries(world, rng, rng.between(4, most))
        if split_of("retrieve", entries[0][0], entries[0][1], entries[1][1]) == split:
            break
    others = rng.shuffle(entries[1:])
    rank = rng.below(len(entries))
    room = MAX_UNITS - distance - units(entries[0][2])
    before, after, used, left = [], [], 0, distance
    for e in others:
        cost = units(e[2])
        to_front = len(before) < rank
        if to_front and used + cost > room or not to_front and cost > left:
            to_front = not to_front
        if to_front:
            before.append(e[2])
            used += cost
        else:
            after.append(e[2])
            left -= cost
    after += _fill(rng, left)
    rng.shuffle(after)
    if rng.chance(50):
        before += _fill(rng, rng.below(max(1, min(60, room - used))))
    rng.shuffle(before)
    return " ".join(before + [entries[0][2]] + after), entries


_RANGES = ((8, 32),) * 5 + ((32, 64),) * 3 + ((64, 128),) * 2 + ((128, 256), (256, DISTANCES[-1]))


def _distance(rng):
    """Training sees every distance up to the largest one tested; short ones, which cost few tokens, more often."""
    return rng.between(*rng.choice(_RANGES))


def word_list(world, rng, split):
    while True:
        pool = names.OBJECTS + names.ANIMALS + names.ROOMS
        words = rng.sample(pool, rng.between(5, 12))
        if rng.chance(30):
            words = rng.sample(world.first_names, len(words))
        if split_of("list", *words[:3]) == split:
            return words


_LIST = (("Remember this list: {l}.", "The list once more:"), ("First comes the row {l}.", "Say the row again:"),
         ("They called out: {l}.", "They called out again:"))


def copy_list(world, rng, split, distance):
    words = word_list(world, rng, split)
    first, again = rng.choice(_LIST)
    listed = ", ".join(words)
    gap = _fill(rng, max(0, distance - units(listed)))
    return " ".join([first.format(l=listed)] + gap + [again]), words


def document(world, rng, split):
    if rng.chance(25):
        passage, words = copy_list(world, rng, split, _distance(rng))
        return f"{passage} {', '.join(words)}.\n"
    passage, entries = retrieve(world, rng, split, _distance(rng))
    asked = entries[:1] + rng.sample(entries[1:], rng.between(1, len(entries) - 1))
    lines, room = [], DOCUMENT_UNITS - units(passage)
    for line in (f"{e[3]} {e[1]}." for e in asked):  # the one at the drawn distance is the first to find room
        room -= units(line)
        if room >= 0:
            lines.append(line)
    return passage + "\n" + "\n".join(rng.shuffle(lines)) + "\n"


def item(world, rng, split, distance):
    if rng.chance(25):
        passage, words = copy_list(world, rng, split, distance)
        i = rng.between(2, len(words) - 2)
        context = f"{passage} {', '.join(words[:i])},"
        # One wrong word was said again already, the others are still to come.
        later = rng.sample(words[i + 1:], min(2, len(words) - i - 1))
        wrong = later + rng.sample(words[:i], 3 - len(later))
        kind, right = "list", words[i]
    else:
        passage, entries = retrieve(world, rng, split, distance)
        context = f"{passage}\n{entries[0][3]}"
        kind, right, wrong = "retrieve", entries[0][1], [e[1] for e in rng.sample(entries[1:], 3)]
    return {"context": context, "right": " " + right, "wrong": [" " + w for w in wrong], "kind": kind,
            "distance": distance}
