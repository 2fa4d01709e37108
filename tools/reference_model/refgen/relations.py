"""Part (d), relations: two hops from what is asked to the answer.

`chain`  X's teacher is Y, Y's friend is Z: who is the friend of the teacher of X? All of it is in the context.
`owner`  X's teacher is Y, Y keeps a goat: which animal does the teacher of X keep?
`inside` the coin is in the red box, the red box stands in the cellar: in which room is the coin?
`learnt` the first hop is in the context (a newcomer lives in some town), the second was learnt in training
         (the land or the river of that town).
Every fact is told from what a question starts with to what it asks for; models of this size learn to follow
facts backwards only after many times the text. Names repeat across splits, their combinations do not.
"""

from . import names
from .rng import split_of

_ROLES = "teacher friend neighbour guide captain cousin doctor landlord".split()


# A kind makes the sentences of a passage and its questions, the one that an item asks first.


class Question:
    """`lead` + `hops` spell out both hops: "The doctor of A is" + " {b}, and {b} keeps a {c}". `spare` is another
    answer than c, for kinds whose passages may have none."""

    def __init__(self, key, lead, hops, asked, b, c, spare=None):
        self.key, self.lead, self.hops, self.asked, self.b, self.c, self.spare = key, lead, hops, asked, b, c, spare

    def spelt(self, b=None, c=None):
        return self.hops.format(b=b or self.b, c=c or self.c)


def _role(rng, a, role, b):
    return rng.choice((f"The {role} of {a} is {b}.", f"{a} has the {role} {b}."))


def _chain(world, rng):
    """Three first hops and three second hops, and somebody whom a first person knows as a second role."""
    n = rng.sample(world.first_names, 10)
    first, second, third, other = n[:3], n[3:6], n[6:9], n[9]
    r1, r2 = rng.sample(_ROLES, 2)
    told = [_role(rng, a, r1, b) for a, b in zip(first, second)]
    told += [_role(rng, b, r2, c) for b, c in zip(second, third)]
    told.append(_role(rng, first[0], r2, other))
    questions = []
    for a, b, c in zip(first, second, third):
        asked = rng.choice((f"The {r2} of the {r1} of {a} is", f"Who is the {r2} of the {r1} of {a}? It is"))
        questions.append(Question(("chain", a, b, c), f"The {r1} of {a} is", f" {{b}}, and the {r2} of {{b}} is {{c}}", asked, b, c))
    return told, questions


def _owner(world, rng):
    n = rng.sample(world.first_names, 6)
    role = rng.choice(_ROLES)
    pets = rng.sample(names.ANIMALS, 6)
    told = [_role(rng, a, role, b) for a, b in zip(n[:3], n[3:])]
    told += [rng.choice((f"{who} keeps a {pet}.", f"The pet of {who} is a {pet}.")) for who, pet in zip(n, pets)]
    questions = []
    for a, b, pet in zip(n[:3], n[3:], pets[3:]):
        asked = rng.choice((f"The {role} of {a} keeps a", f"Which animal does the {role} of {a} keep? A"))
        questions.append(Question(("owner", a, b, pet), f"The {role} of {a} is", " {b}, and {b} keeps a {c}", asked, b, pet))
    return told, questions


def _inside(world, rng):
    things, rooms = rng.sample(names.OBJECTS, 4), rng.sample(names.ROOMS, 4)
    holders = [f"{rng.choice(names.COLOURS)} {h}" for h in rng.sample(names.HOLDERS, 4)]
    told = [rng.choice((f"The {t} is in the {h}.", f"The {t} lies in the {h}.")) for t, h in zip(things, holders)]
    told += [rng.choice((f"The {h} stands in the {r}.", f"The {h} is in the {r}.")) for h, r in zip(holders, rooms)]
    questions = []
    for t, h, r in zip(things, holders, rooms):
        asked = rng.choice((f"To find the {t}, go to the", f"In which room is the {t}? In the"))
        questions.append(Question(("inside", t, h, r), f"The {t} is in the", " {b}, and the {b} stands in the {c}", asked, h, r))
    return told, questions


_LEARNT = {
    "land": (("The land where {x} lives is", "In which land does {x} live? In"), " {b}, and {b} lies in {c}"),
    "river": (("{x} lives beside the river", "Which river does {x} see from home? The"), " {b}, and {b} stands on the river {c}"),
}


def _learnt(world, rng):
    people = rng.sample(world.first_names, 3)
    homes = rng.sample(world.places, 3)
    told = [rng.choice((f"{x} lives in {p.name}.", f"The home of {x} is in {p.name}.")) for x, p in zip(people, homes)]
    attribute = rng.choice(("land", "river"))
    asked, hops = _LEARNT[attribute]
    questions = []
    for x, home in zip(people, homes):
        right = home.facts[attribute]
        spare = rng.sample([v for v in world.domains["place", attribute] if v != right], 5)[0]
        questions.append(Question(("learnt", attribute, x, home.name), f"{x} lives in", hops, rng.choice(asked).format(x=x),
                                  home.name, right, spare))
    return told, questions


_KINDS = (_chain, _owner, _inside, _learnt)


def _draw(world, rng, split, kind):
    """A passage whose first question belongs to the split, and all its questions."""
    while True:
        told, questions = kind(world, rng)
        if split_of(*questions[0].key) == split:
            return rng.shuffle(told), questions


def document(world, rng, split):
    """All questions of a passage that belong to the split; in half of the documents a sentence spells out the two
    hops before each."""
    told, questions = _draw(world, rng, split, rng.choice(_KINDS))
    reasons = rng.chance(50)
    lines = [" ".join(told)]
    for q in rng.shuffle([q for q in questions if split_of(*q.key) == split]):
        lines += ([f"{q.lead}{q.spelt()}."] if reasons else []) + [f"{q.asked} {q.c}."]
    return "\n".join(lines) + "\n"


def item(world, rng, split):
    """Both hops are to be spelt out. Either hop may be right or wrong in a choice, and the wrong ones belong together:
    who knows one hop alone is right half of the time."""
    told, questions = _draw(world, rng, split, rng.choice(_KINDS))
    q, o = questions[0], rng.choice(questions[1:])
    wrong = o.c if o.c != q.c else q.spare
    return {"context": " ".join(told) + "\n" + q.lead, "right": q.spelt(),
            "wrong": [q.spelt(c=wrong), q.spelt(b=o.b), q.spelt(b=o.b, c=wrong)], "kind": q.key[0]}
