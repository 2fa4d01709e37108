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


def _chain(world, rng):
    """Two first hops and two second hops for two different people, all four told in random order."""
    n = rng.sample(world.first_names, 8)
    r1, r2 = rng.sample(_ROLES, 2)
    facts = [(n[0], r1, n[1]), (n[1], r2, n[2]), (n[3], r1, n[4]), (n[4], r2, n[5]), (n[0], r2, n[6])]
    told = rng.shuffle([rng.choice((f"The {r} of {a} is {b}.", f"{b} is the {r} of {a}.")) for a, r, b in facts])
    why = f"The {r1} of {n[0]} is {n[1]}, and the {r2} of {n[1]} is {n[2]}."
    asked = rng.choice((f"The {r2} of the {r1} of {n[0]} is", f"Who is the {r2} of the {r1} of {n[0]}? It is"))
    return ("chain", *n[:3]), told, why, asked, n[2], [n[1], n[5], n[6]]


def _owner(world, rng):
    n = rng.sample(world.first_names, 4)
    role = rng.choice(_ROLES)
    pets = rng.sample(names.ANIMALS, 4)
    told = [rng.choice((f"The {role} of {n[0]} is {n[1]}.", f"{n[1]} is the {role} of {n[0]}.")),
            rng.choice((f"The {role} of {n[2]} is {n[3]}.", f"{n[3]} is the {role} of {n[2]}."))]
    told += [rng.choice((f"{who} keeps a {pet}.", f"The pet of {who} is a {pet}.")) for who, pet in zip(n, pets)]
    why = f"The {role} of {n[0]} is {n[1]}, and {n[1]} keeps a {pets[1]}."
    asked = rng.choice((f"The {role} of {n[0]} keeps a", f"Which animal does the {role} of {n[0]} keep? A"))
    return ("owner", n[0], n[1], pets[1]), rng.shuffle(told), why, asked, pets[1], [pets[0], pets[2], pets[3]]


def _inside(world, rng):
    things, rooms = rng.sample(names.OBJECTS, 4), rng.sample(names.ROOMS, 4)
    holders = [f"{rng.choice(names.COLOURS)} {h}" for h in rng.sample(names.HOLDERS, 4)]
    told = [rng.choice((f"The {t} is in the {h}.", f"The {h} holds the {t}.")) for t, h in zip(things, holders)]
    told += [rng.choice((f"The {h} stands in the {r}.", f"In the {r} stands the {h}.")) for h, r in zip(holders, rooms)]
    why = f"The {things[0]} is in the {holders[0]}, and the {holders[0]} stands in the {rooms[0]}."
    asked = rng.choice((f"To find the {things[0]}, go to the", f"In which room is the {things[0]}? In the"))
    return ("inside", things[0], holders[0], rooms[0]), rng.shuffle(told), why, asked, rooms[0], rooms[1:]


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
    right = homes[0].facts[attribute]
    domain = [v for v in world.domains["place", attribute] if v != right]
    # The answers of the other two people come first among the wrong choices: both hops are needed.
    wrong = []
    for v in [h.facts[attribute] for h in homes[1:]] + rng.sample(domain, 5):
        if v != right and v not in wrong:
            wrong.append(v)
    reason = f"{people[0]} lives in {homes[0].name}, and " + why.format(p=homes[0].name, v=right) + "."
    return (("learnt", attribute, people[0], homes[0].name), rng.shuffle(told), reason,
            rng.choice(asked).format(x=people[0]), right, wrong[:3])


_KINDS = (_chain, _owner, _inside, _learnt)


def _draw(world, rng, split, kind):
    while True:
        made = kind(world, rng)
        if split_of(*made[0]) == split:
            return made


def document(world, rng, split):
    """In 40 of 100 documents a sentence spells out the two hops before the question."""
    _, told, why, asked, right, _ = _draw(world, rng, split, rng.choice(_KINDS))
    reason = why + "\n" if rng.chance(40) else ""
    return " ".join(told) + "\n" + reason + f"{asked} {right}.\n"


def item(world, rng, split):
    kind = rng.choice(_KINDS)
    key, told, _, asked, right, wrong = _draw(world, rng, split, kind)
    return {"context": " ".join(told) + "\n" + asked, "right": " " + right, "wrong": [" " + w for w in wrong],
            "kind": key[0]}
