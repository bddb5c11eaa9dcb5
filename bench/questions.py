"""What is asked: texts that no peer has seen before in the run, and the same for every peer.

A prompt that a server has seen costs it nothing, which would hide the time to the first token.
Nothing is random, so two runs ask the same.
"""

from __future__ import annotations

from itertools import product

WORDS = """
sailor widow smith painter doctor farmer soldier singer baker hunter judge monk
old proud quiet hungry clever tired lonely brave stubborn gentle careless poor
harbour desert valley forest market castle island mill garden tower bridge cave
"""
WHO, HOW, WHERE = (line.split() for line in WORDS.strip().splitlines())
HEROES = tuple(product(HOW, WHO, WHERE))
STRIDE = 611  # shares no factor with the heroes' number, so all of them come before one comes again

STORY = (
    "Tell the story of a {how} {who} from a {where}: how it begins in a hard winter, who helps, "
    "what goes wrong on the way, and what everybody remembers of it many years later."
)
TOPICS = (
    "how people there earned their bread",
    "what the houses looked like inside",
    "who made the laws and who broke them",
    "how the children were taught",
    "what was eaten on feast days",
    "how news came from far away",
    "what the old people were afraid of",
    "how it all came to an end",
)
# With the topic about sixty words.
TURN = (
    "Thinking of the {how} {who} and of that {where}, please tell me now {topic}. Be as exact as "
    "you can, name the people and the places, say what it cost and how long it took, mention what "
    "a visitor would have seen, heard and smelled there on an ordinary morning, and end with one "
    "thing that hardly anybody knows today."
)


def story(number: int) -> str:
    """The question `number`, about forty words, begun differently from its neighbours."""
    how, who, where = _hero(number)
    return STORY.format(how=how, who=who, where=where)


def chat_turns(number: int) -> list[str]:
    """The user's side of the chat `number`: eight questions of about sixty words."""
    how, who, where = _hero(number)
    return [TURN.format(how=how, who=who, where=where, topic=topic) for topic in TOPICS]


def _hero(number: int) -> tuple[str, str, str]:
    return HEROES[number * STRIDE % len(HEROES)]
