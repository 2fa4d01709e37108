"""Made-up names from syllables, and the plain vocabularies that the parts share."""

_ONSETS = ("b br c d dr f g gr h j k l m n p pr r s st t tr v w z th sh "
           "ch bl cl fl").split()
_VOWELS = "a e i o u a e i o ai ea".split()
_CODAS = ("", "", "", "l", "n", "r", "s", "m", "nd", "rk", "th", "v", "lt", "sk")
_LAST_ENDS = ("by", "dal", "er", "ett", "in", "ley", "mar", "nock", "on", "row", "sen", "ton", "wick", "well")
_PLACE_ENDS = ("bridge", "bury", "fell", "ford", "ham", "haven", "holm", "mere", "mouth", "stead", "ville", "wold")
_FIRST_ENDS = ("a", "an", "o", "e", "in", "is", "el", "ra", "us", "y")
_LAND_ENDS = ("ia", "ora", "and", "eth", "una")
_RIVER_ENDS = ("a", "en", "ow", "ill", "ash")

_RUDE = ("ass", "tit", "fuk", "cun", "shit", "nig", "rape", "cum", "fag", "dick", "cok", "slut", "wank", "nazi")


def _syllable(rng):
    return rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)


def _make(rng, ends, count, syllables, taken):
    out = []
    while len(out) < count:
        stem = "".join(_syllable(rng) for _ in range(syllables))
        end = rng.choice(ends)
        if stem[-1] in "aeiou" and end[0] in "aeiou":
            stem = stem[:-1].rstrip("aeiou")
        name = (stem + end).capitalize()
        if not 4 <= len(name) <= 11 or name in taken or any(r in name.lower() for r in _RUDE):
            continue
        taken.add(name)
        out.append(name)
    return out


def first_names(rng, count, taken):
    return _make(rng, _FIRST_ENDS, count, 1, taken)


def surnames(rng, count, taken):
    return _make(rng, _LAST_ENDS, count, 1, taken)


def places(rng, count, taken):
    return _make(rng, _PLACE_ENDS, count, 1, taken)


def lands(rng, count, taken):
    return _make(rng, _LAND_ENDS, count, 1, taken)


def rivers(rng, count, taken):
    return _make(rng, _RIVER_ENDS, count, 1, taken)


def inventions(rng, count, taken):
    """Proper names of things: 'Trelvand' in 'the Trelvand lamp'."""
    return _make(rng, ("ane", "ix", "or", "um", "yle", "ade"), count, 1, taken)


# Words after "a" all begin with a consonant sound, so that the article never gives an answer away.
TRADES = ("baker potter weaver miller sailor carpenter teacher doctor painter singer farmer hunter tailor cook "
          "gardener blacksmith clockmaker beekeeper shepherd bricklayer librarian lamplighter fisher judge messenger "
          "roofer barber printer tanner saddler merchant postman surveyor brewer cooper ferryman cobbler guard "
          "musician nurse").split()
ANIMALS = ("goat cat dog parrot hen goose pony donkey rabbit tortoise hedgehog raven pigeon ferret sheep cow pig duck "
           "turkey hamster lizard toad snail magpie falcon mule squirrel badger fox mouse").split()
DISHES = ("pancakes dumplings porridge lentils noodles cheese plums cherries walnuts mushrooms carrots trout pickles "
          "honey bread rice figs pears potatoes radishes custard sausages cabbage waffles raisins turnips chestnuts "
          "berries omelettes beans").split()
CRAFTS = ("wool glass salt paper rope silk tiles bells kites boats candles drums cider carpets lanterns baskets "
          "clocks knives maps pots ribbons saddles soap tea").split()
MATERIALS = ("copper oak glass silver clay marble leather iron ivory amber bronze pine slate tin cork brass bone "
             "willow wax granite").split()
KINDS = ("lamp clock bell mirror chair table flute drum kettle mask wheel ladder boat statue crown compass lock "
         "basket wagon bridge").split()
COLOURS = "red blue green yellow white black brown grey purple pink golden silver".split()
HOLDERS = "box jar drawer chest bag crate basket tin barrel cupboard case pot".split()
OBJECTS = ("coin key ring stone feather button candle spoon letter map shell bell ribbon book cup needle whistle "
           "brush marble hammer acorn pencil thimble lantern glove hat comb rope bottle flag").split()
ROOMS = ("cellar attic kitchen stable garden hall library barn tower workshop bakery chapel office pantry "
         "bedroom shed").split()
