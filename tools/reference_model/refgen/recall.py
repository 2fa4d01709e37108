"""Part (a), recall: facts about a made-up world, told in many phrasings and asked in others.

Every fact is told in training again and again. Two things are held out: a third of the facts is never
asked there in the usual question forms ("combination"), and a few question forms are never used there for
any fact ("phrasing"). So a right answer is a fact that was read, not a question that was seen.
"""

from .world import PHRASES


def capital(sentence):
    return sentence[0].upper() + sentence[1:]


def tell(rng, entity, attribute, pronoun=False):
    template = rng.choice(PHRASES[entity.sort][attribute]["tell"])
    name = entity.name
    if pronoun and template.startswith("{n}"):
        name = entity.pronoun
    return capital(template.format(n=name, v=entity.facts[attribute]))


def ask(rng, entity, attribute, forms="ask"):
    """(context, answer): the answer starts with a space, the context ends without one."""
    lead, cloze = rng.choice(PHRASES[entity.sort][attribute][forms])
    context = capital(f"{lead} {cloze}".strip().format(n=entity.name))
    return context, " " + entity.facts[attribute]


def biography(world, rng):
    """One entity with most of its attributes."""
    entity = rng.choice(world.entities)
    attributes = rng.shuffle(list(entity.facts))
    if rng.chance(20):
        attributes.pop()
    out = [tell(rng, entity, a, pronoun=i > 0 and rng.chance(50)) for i, a in enumerate(attributes)]
    return " ".join(out) + "\n"


def loose_facts(world, rng):
    """Facts about different entities, so that none is learnt only from its neighbours."""
    out = [tell(rng, *rng.choice(world.facts)) for _ in range(rng.between(2, 5))]
    return " ".join(out) + "\n"


def questions(world, rng, split):
    out = []
    for _ in range(rng.between(1, 5)):
        context, answer = ask(rng, *rng.choice(world.asked[split]))
        out.append(f"{context}{answer}.")
    return "\n".join(out) + "\n"


def document(world, rng, split):
    draw = rng.below(100)
    if draw < 50:
        return biography(world, rng)
    if draw < 65:
        return loose_facts(world, rng)
    return questions(world, rng, split)


def item(world, rng, split):
    """A task item: alternates between the two kinds of hold-out."""
    phrasing = rng.chance(50)
    entity, attribute = rng.choice(world.asked["train"] if phrasing else world.asked[split])
    context, answer = ask(rng, entity, attribute, "ask_held" if phrasing else "ask")
    domain = world.domains[entity.sort, attribute]
    wrong = [v for v in rng.sample(domain, 4) if " " + v != answer][:3]
    return {"context": context, "right": answer, "wrong": [" " + v for v in wrong],
            "held_out": "phrasing" if phrasing else "combination", "kind": f"{entity.sort}.{attribute}"}
