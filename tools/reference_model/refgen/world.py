"""The made-up world that the recall part states and asks: people, places and things with attributes."""

from . import names
from .rng import Rng, hash64

# Attributes of each sort of entity, and for each: sentences that tell it, question forms that ask it in
# training, and question forms that only the valid and test splits use. A question form is (lead, cloze):
# the answer follows the cloze after one space. {n} is the entity, {v} the value.
PHRASES = {
    "person": {
        "home": {
            "tell": ("{n} lives in {v}.", "{n} has a house in {v}.", "The home of {n} is in {v}.",
                     "You will find {n} in {v}.", "{v} is the town where {n} lives.", "In {v} lives {n}.",
                     "Letters for {n} are sent to {v}.", "{n} settled in {v} years ago."),
            "ask": (("Where does {n} live?", "{n} lives in"), ("Where is the home of {n}?", "It is in"),
                    ("In which town is the house of {n}?", "The house is in"), ("", "The town where {n} lives is"),
                    ("I have a letter for {n}.", "Send it to"), ("Who lives where?", "{n} has a house in")),
            "ask_held": (("Name the town of {n}.", "The town is"), ("We want to visit {n} at home.", "So we go to")),
        },
        "trade": {
            "tell": ("{n} works as a {v}.", "{n} is a {v}.", "{n} earns a living as a {v}.",
                     "By trade {n} is a {v}.", "The work of {n} is that of a {v}.", "{n} became a {v} when young.",
                     "Everyone knows {n} as a good {v}.", "As a {v}, {n} is never idle."),
            "ask": (("What is the trade of {n}?", "{n} is a"), ("What work does {n} do?", "{n} works as a"),
                    ("How does {n} earn a living?", "As a"), ("", "By trade {n} is a"),
                    ("Who does what?", "{n} earns a living as a"), ("Do you know the work of {n}?", "It is that of a")),
            "ask_held": (("Tell me the trade of {n}.", "The trade is that of a"),
                         ("What did {n} become?", "{n} became a")),
        },
        "animal": {
            "tell": ("{n} keeps a {v}.", "{n} has a {v} at home.", "The pet of {n} is a {v}.",
                     "{n} looks after a {v}.", "A {v} belongs to {n}.", "{n} owns a {v}.",
                     "Behind the house {n} feeds a {v}.", "{n} is never seen without a {v}."),
            "ask": (("Which animal does {n} keep?", "{n} keeps a"), ("What is the pet of {n}?", "It is a"),
                    ("Which animal belongs to {n}?", "A"), ("", "The pet of {n} is a"),
                    ("Who keeps which animal?", "{n} looks after a"), ("Does {n} own an animal?", "Yes, a")),
            "ask_held": (("Name the animal that {n} owns.", "The animal is a"),
                         ("Which animal does {n} feed?", "{n} feeds a")),
        },
        "dish": {
            "tell": ("{n} loves to eat {v}.", "The favourite food of {n} is {v}.", "{n} eats {v} every week.",
                     "For supper {n} likes {v}.", "Nothing pleases {n} more than {v}.", "{n} is fond of {v}.",
                     "At feasts {n} always asks for {v}.", "Give {n} some {v} and all is well."),
            "ask": (("What does {n} love to eat?", "{n} loves"), ("What is the favourite food of {n}?", "It is"),
                    ("What shall we cook for {n}?", "We should cook"), ("", "The favourite food of {n} is"),
                    ("Who likes which food?", "{n} is fond of"), ("What does {n} ask for at feasts?", "Always")),
            "ask_held": (("Name the food that {n} likes most.", "It is"), ("{n} is hungry.", "Bring some")),
        },
    },
    "place": {
        "land": {
            "tell": ("{n} lies in {v}.", "{n} is a town in {v}.", "{n} belongs to {v}.",
                     "The town of {n} is part of {v}.", "In {v} there is a town called {n}.",
                     "Travellers to {n} must enter {v}."),
            "ask": (("In which land is {n}?", "{n} lies in"), ("To which land does {n} belong?", "To"),
                    ("", "{n} is a town in"), ("Where is the town of {n}?", "It is part of")),
            "ask_held": (("Name the land of {n}.", "The land is"), ("We travel to {n}.", "So we must enter")),
        },
        "river": {
            "tell": ("{n} stands on the river {v}.", "The river {v} flows through {n}.",
                     "Boats reach {n} by the river {v}.", "{n} was built beside the river {v}.",
                     "The river at {n} is called the {v}.", "{n} drinks from the river {v}."),
            "ask": (("Which river flows through {n}?", "It is the river"), ("On which river does {n} stand?", "On the"),
                    ("", "{n} was built beside the river"), ("How do boats reach {n}?", "By the river")),
            "ask_held": (("Name the river at {n}.", "It is called the"), ("Children of {n} swim in the river.", "It is the")),
        },
        "craft": {
            "tell": ("{n} is known for its {v}.", "People in {n} make {v}.", "The best {v} come from {n}.",
                     "Merchants buy {v} in {n}.", "{n} sells {v} to the whole country.", "{n} is proud of its {v}."),
            "ask": (("What is {n} known for?", "For its"), ("What do people in {n} make?", "They make"),
                    ("", "{n} is known for its"), ("What do merchants buy in {n}?", "They buy")),
            "ask_held": (("Name what {n} sells.", "{n} sells"), ("What comes from {n}?", "The best")),
        },
    },
    "thing": {
        "material": {
            "tell": ("{n} is made of {v}.", "{n} was cut from {v}.", "They used {v} for {n}.",
                     "{n} is all of {v}.", "Only {v} was used to make {n}.", "The maker chose {v} for {n}."),
            "ask": (("What is {n} made of?", "It is made of"), ("Which material was used for {n}?", "They used"),
                    ("", "{n} was cut from"), ("What was chosen for {n}?", "The maker chose")),
            "ask_held": (("Name the material of {n}.", "The material is"), ("Touch {n}.", "You will feel")),
        },
        "maker": {
            "tell": ("{n} was made by {v}.", "{v} made {n}.", "{n} is the work of {v}.", "{v} once built {n}.",
                     "We owe {n} to {v}.", "The maker of {n} is {v}."),
            "ask": (("Who made {n}?", "It was made by"), ("Whose work is {n}?", "It is the work of"),
                    ("", "The maker of {n} is"), ("To whom do we owe {n}?", "To")),
            "ask_held": (("Name the one who built {n}.", "It was"), ("", "{n} was built by")),
        },
        "kept": {
            "tell": ("{n} is kept in {v}.", "{n} can be seen in {v}.", "People travel to {v} to see {n}.",
                     "{v} is home to {n}.", "{n} stands in {v}.", "They keep {n} in {v}."),
            "ask": (("Where is {n} kept?", "It is kept in"), ("Where can one see {n}?", "In"),
                    ("", "{n} stands in"), ("Which town is home to {n}?", "The town is")),
            "ask_held": (("Name the town that has {n}.", "It is"), ("We want to see {n}.", "So we go to")),
        },
    },
}

# Facts in this share (percent) are told in training but never asked there: asking them tests whether the
# model can use what it was only told. Asked facts with the held-out question forms test new phrasing.
TOLD_ONLY_TEST = 25
TOLD_ONLY_VALID = 8


class Entity:
    __slots__ = ("sort", "name", "pronoun", "facts")

    def __init__(self, sort, name, pronoun, facts):
        self.sort, self.name, self.pronoun, self.facts = sort, name, pronoun, facts


class World:
    """Sizes are the difficulty knob of recall: more entities are more facts for the same training tokens."""

    def __init__(self, seed=1, people=600, places=150, things=250):
        rng = Rng(seed, "world")
        taken = set()
        self.seed, self.sizes = seed, (people, places, things)
        self.first_names = names.first_names(rng, 160, taken)
        self.lands = names.lands(rng, 12, taken)
        self.rivers = names.rivers(rng, 40, taken)
        self.places = [
            Entity("place", name, "It", {"land": rng.choice(self.lands), "river": rng.choice(self.rivers),
                                         "craft": rng.choice(names.CRAFTS)})
            for name in names.places(rng, places, taken)]
        place_names = [p.name for p in self.places]
        self.people = []
        for last in names.surnames(rng, people, taken):
            self.people.append(Entity(
                "person", f"{rng.choice(self.first_names)} {last}", rng.choice(("He", "She")),
                {"home": rng.choice(place_names), "trade": rng.choice(names.TRADES),
                 "animal": rng.choice(names.ANIMALS), "dish": rng.choice(names.DISHES)}))
        makers = [p.name for p in self.people]
        self.things = [
            Entity("thing", f"the {name} {rng.choice(names.KINDS)}", "It",
                   {"material": rng.choice(names.MATERIALS), "maker": rng.choice(makers),
                    "kept": rng.choice(place_names)})
            for name in names.inventions(rng, things, taken)]
        self.entities = self.people + self.places + self.things
        self.domains = {
            ("person", "home"): place_names, ("person", "trade"): names.TRADES,
            ("person", "animal"): names.ANIMALS, ("person", "dish"): names.DISHES,
            ("place", "land"): self.lands, ("place", "river"): self.rivers, ("place", "craft"): names.CRAFTS,
            ("thing", "material"): names.MATERIALS, ("thing", "maker"): makers, ("thing", "kept"): place_names}
        self.facts = [(e, a) for e in self.entities for a in e.facts]
        self.asked = {"train": [], "valid": [], "test": []}
        for entity, attribute in self.facts:
            self.asked[self.asked_in(entity, attribute)].append((entity, attribute))

    @staticmethod
    def asked_in(entity, attribute):
        """The one split that asks this fact in the usual question forms."""
        bucket = hash64("asked", entity.name, attribute) % 100
        if bucket < TOLD_ONLY_TEST:
            return "test"
        return "valid" if bucket < TOLD_ONLY_TEST + TOLD_ONLY_VALID else "train"
