"""Part (d), relations: two hops from what is asked to the answer.

`chain`  X's teacher is Y, Y's friend is Z: who is the friend of the teacher of X? All of it is in the context.
`owner`  X's teacher is Y, Y keeps a goat: which animal does the teacher of X keep?
`inside` the coin is in the red box, the red box is in the cellar: in which room is the coin?
`learnt` the first hop is in the context (a newcomer lives in some town), the second was learnt in training
         (the land or the river of that town).
Names repeat across splits, their combinations do not.
"""

from . import names
from .rng import split_of

_ROLES = "teacher friend neighbour guide captain cousin doctor landlord".split()


# A kind makes the sentences of a passage and its questions, the one that an item asks first:
# (key, both hops spelt out, question, answer, three wrong choices).


def _chain(world, rng):
    """Two first hops and two second hops for two different people, all four told in random order."""
    n = rng.sample(world.first_names, 7)
    r1, r2 = rng.sample(_ROLES, 2)
    facts = [(n[0], r1, n[1]), (n[1], r2, n[2]), (n[3], r1, n[4]), (n[4], r2, n[5]), (n[0], r2, n[6])]
    told = [rng.choice((f"The {r} of {a} is {b}.", f"{b} is the {r} of {a}.")) for a, r, b in facts]
    questions = []
    for a, b, c, wrong in ((n[0], n[1], n[2], [n[1], n[5], n[6]]), (n[3], n[4], n[5], [n[4], n[2], n[6]])):
        questions.append((("chain", a, b, c), f"The {r1} of {a} is {b}, and the {r2} of {b} is {c}.",
                          rng.choice((f"The {r2} of the {r1} of {a} is", f"Who is the {r2} of the {r1} of {a}? It is")),
                          c, wrong))
    return told, questions


def _owner(world, rng):
    n = rng.sample(world.first_names, 4)
    role = rng.choice(_ROLES)
    pets = rng.sample(names.ANIMALS, 4)
    told = [rng.choice((f"The {role} of {a} is {b}.", f"{b} is the {role} of {a}.")) for a, b in (n[:2], n[2:])]
    told += [rng.choice((f"{who} keeps a {pet}.", f"The pet of {who} is a {pet}.")) for who, pet in zip(n, pets)]
    questions = []
    for a in (0, 2):
        right = pets[a + 1]
        questions.append((("owner", n[a], n[a + 1], right), f"The {role} of {n[a]} is {n[a + 1]}, and {n[a + 1]} keeps a {right}.",
                          rng.choice((f"The {role} of {n[a]} keeps a", f"Which animal does the {role} of {n[a]} keep? A")),
                          right, [p for p in pets if p != right]))
    return told, questions


def _inside(world, rng):
    things, rooms = rng.sample(names.OBJECTS, 4), rng.sample(names.ROOMS, 4)
    holders = [f"{rng.choice(names.COLOURS)} {h}" for h in rng.sample(names.HOLDERS, 4)]
    told = [rng.choice((f"The {t} is in the {h}.", f"The {h} holds the {t}.")) for t, h in zip(things, holders)]
    told += [rng.choice((f"The {h} stands in the {r}.", f"In the {r} stands the {h}.")) for h, r in zip(holders, rooms)]
    questions = []
    for t, h, r in zip(things, holders, rooms):
        questions.append((("inside", t, h, r), f"The {t} is in the {h}, and the {h} stands in the {r}.",
                          rng.choice((f"To find the {t}, go to the", f"In which room is the {t}? In the")),
                          r, [x for x in rooms if x != r]))
    return told, questions


_LEARNT = {
    "land": (("The land where {x} lives is", "In which land does {x} live? In"), "{p} lies in {v}"),
    "river": (("{x} lives beside the river", "Which river does {x} see from home? The"), "{p} stands on the river {v}"),
}


def _learnt(world, rng):
    people = rng.sample(world.first_names, 3)
    homes = rng.sample(world.places, 3)
    told = [rng.choice((f"{x} lives in {p.name}.", f"The home of {x} is in {p.name}.")) for x, p in zip(people, homes)]
    attribute = rng.choice(("land", "river"))
    asked, why = _LEARNT[attribute]
    questions = []
    for x, home in zip(people, homes):
        right = home.facts[attribute]
        domain = [v for v in world.domains["place", attribute] if v != right]
        # The answers of the other two people come first among the wrong choices: both hops are needed.
        wrong = []
        for v in [h.facts[attribute] for h in homes] + rng.sample(domain, 5):
            if v != right and v not in wrong:
                wrong.append(v)
        questions.append((("learnt", attribute, x, home.name),
                          f"{x} lives in {home.name}, and " + why.format(p=home.name, v=right) + ".",
                          rng.choice(asked).format(x=x), right, wrong[:3]))
    return told, questions


_KINDS = (_chain, _owner, _inside, _learnt)


def _draw(world, rng, split, kind):
    """A passage whose first question belongs to the split, and all its questions that do."""
    while True:
        told, questions = kind(world, rng)
        if split_of(*questions[0][0]) == split:
            return rng.shuffle(told), [q for q in questions if split_of(*q[0]) == split]


def document(world, rng, split):
    """All questions of a passage; in 40 of 100 documents a sentence spells out the two hops before each."""
    told, questions = _draw(world, rng, split, rng.choice(_KINDS))
    reasons = rng.chance(40)
    lines = [" ".join(told)]
    for _, why, asked, right, _ in rng.shuffle(questions):
        lines += ([why] if reasons else []) + [f"{asked} {right}."]
    return "\n".join(lines) + "\n"


def item(world, rng, split):
    told, questions = _draw(world, rng, split, rng.choice(_KINDS))
    key, _, asked, right, wrong = questions[0]
    return {"context": " ".join(told) + "\n" + asked, "right": " " + right, "wrong": [" " + w for w in wrong],
            "kind": key[0]}
