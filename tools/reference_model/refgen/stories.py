"""Part (e), short stories: the same characters, with the same names, traits and belongings, from start to end."""

from . import names
from .rng import split_of

_SUBJECTS = ("the wind", "the rain", "a cart", "the old gate", "the morning fog", "the market", "a flock of birds",
             "the road", "the church organ", "a small stream", "the tall grass", "the mill wheel", "a quiet boy",
             "the night watch", "the last boat", "an old woman", "the low wall", "the smoke of the chimneys")
_ACTIONS = ("moved slowly", "came and went", "lay still", "turned to the west", "waited", "could be heard far away",
            "grew darker", "stayed the same", "went past", "seemed to rest", "looked smaller than before",
            "was seen by nobody", "changed little", "took its time")
_WHERE = ("near the river", "behind the houses", "on the hill", "under the trees", "along the field", "by the harbour",
          "at the edge of the village", "between the mills", "below the castle", "across the meadow", "over the roofs",
          "beside the well")
_WHEN = ("at dawn", "all day", "in the evening", "after lunch", "that week", "as in every year", "until it was dark",
         "for an hour", "before the feast", "in early spring", "late in autumn", "while people slept")


def scenery(rng):
    """A sentence without names, numbers, or any word that the copy part uses as a key or a value."""
    draw = rng.below(4)
    subject, action = rng.choice(_SUBJECTS), rng.choice(_ACTIONS)
    if draw == 0:
        text = f"{subject} {action} {rng.choice(_WHERE)}."
    elif draw == 1:
        text = f"{rng.choice(_WHEN)}, {subject} {action}."
    elif draw == 2:
        text = f"{rng.choice(_WHERE)} {subject} {action} {rng.choice(_WHEN)}."
    else:
        other = rng.choice(_SUBJECTS)
        text = f"{subject} {action}, and {other} {rng.choice(_ACTIONS)} {rng.choice(_WHERE)}."
    return text[0].upper() + text[1:]


_TRAITS = {
    "brave": ("was not afraid of anything", "took a deep breath and went on"),
    "shy": ("spoke only in a whisper", "blushed and looked at the floor"),
    "clever": ("thought for a moment and had a plan", "found an answer that nobody else had seen"),
    "lazy": ("would rather have slept", "sat down after every hill"),
    "cheerful": ("sang the whole way", "laughed even when it rained"),
    "careful": ("looked twice before every step", "counted everything again"),
    "stubborn": ("refused to turn back", "tried the same thing once more"),
    "kind": ("shared the bread with a beggar", "carried a child across the stream"),
    "curious": ("asked a question about everything", "looked behind every door"),
    "proud": ("would not ask for help", "walked with a raised head"),
}
_TROUBLE = (("the bridge had fallen into the water", "They built a raft out of old boards."),
            ("the path was blocked by a fallen tree", "They climbed over it with a rope."),
            ("a storm came up and it was dark at noon", "They hid in a cave until the sky was clear."),
            ("a guard would not let them through", "They told the guard a long story until the guard fell asleep."),
            ("the map was wrong", "They asked a shepherd, who pointed to the north."),
            ("there was nothing left to eat", "They found berries and a bird's nest full of eggs."),
            ("thieves had taken the bag", "They followed the footprints to a hut and took it back at night."),
            ("the river was too deep", "They waited for a ferry and paid with a song."))
_LESSON = ("From that day on they were friends.", "Nobody in the village ever forgot it.",
           "They told the story every winter.", "It was late, but nobody was tired.",
           "The next morning everything was as before, only better.")
_REASON = ("It had been lost for a year.", "Without it the feast could not begin.", "It had belonged to the family for ages.",
           "Someone had promised a reward for it.", "It was worth nothing, but it was dear to all.")


def _plan(world, rng, split):
    while True:
        hero, friend = rng.sample(world.first_names, 2)
        traits = rng.sample(sorted(_TRAITS), 2)
        place = rng.choice(world.places).name
        thing = f"{rng.choice(names.COLOURS)} {rng.choice(names.OBJECTS)}"
        if split_of("story", hero, friend, traits[0], thing) == split:
            return hero, friend, traits, place, thing


def document(world, rng, split):
    hero, friend, (trait, other), place, thing = _plan(world, rng, split)
    he, him, his = rng.choice((("he", "him", "his"), ("she", "her", "her")))
    animal, trade = rng.choice(names.ANIMALS), rng.choice(names.TRADES)
    trouble, way_out = rng.choice(_TROUBLE)
    s = [rng.choice((f"Once there was a {trait} {trade} named {hero} who lived in {place}.",
                     f"In {place} there lived a {trade} called {hero}, who was very {trait}.",
                     f"{hero} was a {trait} {trade} from {place}."))]
    s.append(rng.choice((f"{hero} had a {animal} and never went anywhere without it.",
                         f"With {hero} lived a {animal} that followed {him} everywhere.",
                         f"The {animal} of {hero} slept by the fire.")))
    if rng.chance(50):
        s.append(scenery(rng))
    s.append(rng.choice((f"One day {hero} heard that the {thing} was gone.",
                         f"One morning {hero} set out to look for the {thing}.",
                         f"In spring the people of {place} asked {hero} to bring back the {thing}.")))
    s.append(rng.choice(_REASON))
    s.append(rng.choice((f"{hero} went to see {friend}, who was {other}.",
                         f"On the road {he} met {friend}, a {other} stranger.",
                         f"{his.capitalize()} friend {friend}, who was {other}, came along.")))
    s.append(rng.choice((f'"I need your help," said {hero}. "Then let us go," said {friend}.',
                         f'"Where are you going?" asked {friend}. "To find the {thing}," said {hero}.',
                         f'{friend} asked: "May the {animal} come too?" "Of course," said {hero}.')))
    body = [f"{hero} {rng.choice(_TRAITS[trait])}.", f"{friend} {rng.choice(_TRAITS[other])}."]
    s += rng.shuffle(body)
    s.append(f"Then {trouble}.")
    s.append(way_out)
    if rng.chance(50):
        s.append(scenery(rng))
    s.append(rng.choice((f"At last the {animal} began to dig, and there was the {thing}.",
                         f"At last {friend} saw the {thing} under a stone.",
                         f"In the end {hero} found the {thing} where nobody had looked.")))
    s.append(rng.choice((f"{hero} and {friend} carried the {thing} back to {place}.",
                         f"When they came home to {place}, {hero} held up the {thing}.",
                         f"{friend} gave the {thing} to {hero}, and together they went home to {place}.")))
    s.append(rng.choice((f"{hero} was still a {trade}, and still {trait}.", rng.choice(_LESSON))))
    cut = rng.between(4, 8) if rng.chance(60) else 0  # some stories in two paragraphs
    if cut:
        return " ".join(s[:cut]) + "\n\n" + " ".join(s[cut:]) + "\n"
    return " ".join(s) + "\n"
