"""Generates the embedded sample: synthetic English data in the course's file format.

Every label follows from how its text was built: a review's class from the weight of its opinions, a
question pair's from what is asked about what, a scene pair's from how many parts agree. Some labels
are then disturbed on purpose, as annotators disturb them: a model that scores 1.0 here has seen the
answers. No review, question or scene stands in two splits, and no premise of MultiNLI's part; the
same seed writes the same bytes.

The words are ours; scores on this sample compare runs with each other and say nothing about real
data.

    python tools/make_sample.py FOLDER --zip multitask/data/sample.zip     # what the library ships
"""

import argparse
import csv
import json
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple, TypeVar

SST_SIZES = {"train": 2000, "dev": 400, "test-student": 200}
PARA_SIZES = {"train": 4000, "dev": 600, "test-student": 200}
STS_SIZES = {"train": 1800, "dev": 400, "test-student": 200}
NLI_SIZES = {"train": 1500, "dev_matched": 300}
# where a sentence falls; a pair needs both in one
LOTS = ("train",) * 12 + ("dev",) * 5 + ("test",) * 3


class Example(NamedTuple):
    """One row: one or two sentences, their label as it stands in the file, and MultiNLI's genre."""

    sentences: tuple[str, ...]
    label: str
    genre: str = ""


Draw = Callable[[Random], Example]

# -------------------------------------------------------------------------- sentiment: film reviews

SINGULAR = ("plot", "script", "dialogue", "acting", "cast", "ending", "opening", "music",
            "camera work", "pace", "humour", "love story", "villain", "hero", "editing", "film",
            "picture", "first half", "second half")
PLURAL = ("jokes", "songs", "costumes", "chases", "leads")
GENRES = ("drama", "comedy", "thriller", "western", "romance", "musical", "mystery", "war story",
          "ghost story", "cartoon", "documentary", "adventure")
STORIES = (
    "a lighthouse keeper and his daughter", "two brothers who rob a bank",
    "a widow who opens a bakery",
    "a boxer past his prime", "a village without a doctor", "a spy who cannot keep a secret",
    "three sisters and one inheritance", "a train stuck in the snow",
    "a judge with a guilty conscience",
    "a pianist who loses her hearing", "a stolen painting", "a small town and its only policeman",
    "a retired thief", "a family of circus riders", "a teacher sent to the islands",
    "a ship that never arrives",
)
MAKERS = ("Calder", "Venn", "Okoro", "Lindholm", "Marchetti", "Duval", "Petrosian", "Ashby",
          "Tanaka", "Rourke", "Solberg", "Quintero")

ADJECTIVES = {
    2: ("superb", "dazzling", "brilliant", "magnificent", "unforgettable", "breathtaking",
        "wonderful", "masterful", "flawless", "glorious"),
    1: ("charming", "pleasant", "engaging", "clever", "likable", "lively", "amusing", "graceful",
        "solid", "warm"),
    0: ("ordinary", "familiar", "average", "passable", "routine", "adequate", "conventional",
        "unremarkable"),
    -1: ("dull", "thin", "clumsy", "tired", "flat", "slow", "predictable", "forced", "muddled",
         "uneven"),
    -2: ("dreadful", "unbearable", "wretched", "insulting", "hideous", "atrocious", "worthless",
         "painful", "appalling", "miserable"),
}
AMPLIFIERS = ("utterly", "thoroughly", "remarkably", "incredibly", "so very")
SOFTENERS = ("fairly", "rather", "somewhat", "mostly")
REVERSALS = ("not exactly", "far from", "hardly", "nowhere near")
VERDICTS = {
    2: ("I would see it again tomorrow", "nobody should miss it",
        "it is easily the best film of the year", "I left the cinema walking on air",
        "it deserves every prize in sight", "I did not want it to end", "it took my breath away",
        "you will remember it for years"),
    1: ("it is worth the price of a ticket", "I left with a smile",
        "it makes for a good evening out", "the time passes quickly", "fans will be pleased",
        "I would recommend it to a friend", "there is plenty to enjoy", "it grows on you"),
    0: ("it runs for about two hours", "some will like it and some will not", "take it or leave it",
        "it opens across the country on Friday", "it is neither here nor there",
        "you have seen it before", "it ends much as it began", "it does what it says and no more"),
    -1: ("I looked at my watch twice", "it could lose half an hour", "I expected more",
         "it never quite wakes up", "you may want to wait until it is free",
         "the idea runs out early", "it left me cold", "it tries too hard"),
    -2: ("I want my money back", "I walked out before the end", "nobody involved should be proud",
         "it is an insult to the audience", "there is not one good minute in it",
         "I have rarely been so bored", "avoid it at all costs", "I wish I had stayed at home"),
}
# about the course's shares: no class is a safe bet
CLASS_WEIGHTS = {-2: 16, -1: 23, 0: 19, 1: 24, 2: 18}
SST_SLIP = 0.10  # share of reviews whose annotator was one class harsher or kinder

# ---------------------------------------------------------------------------- paraphrase: questions


class Subject(NamedTuple):
    """Questions about things: phrasings of one row ask the same, those of two rows do not.

    In a phrasing, `{}` is the thing and `[a|b]` offers words that leave the question the same.
    """

    # share of this subject's pairs that are duplicates: some are asked again more than others
    related: float
    things: tuple[str, ...]
    # so close that annotators disagree whether the question is the same
    kin: tuple[tuple[str, str], ...]
    asks: tuple[tuple[str, ...], ...]


QUESTIONS = (
    Subject(  # music
        0.88,
        ("guitar", "piano", "violin", "flute", "trumpet", "drum", "cello", "harp"),
        (("violin", "fiddle"), ("guitar", "bass guitar")),
        (("How [do|can] I learn to play the {}?",
          "What is the [best|easiest] way to learn to play the {}?",
          "How [do|can] I teach myself [the {}|to play the {}]?",
          "Which [lessons|music lessons] are best for the {}?"),
         ("How much does a [good|new] {} for concerts cost?",
          "What is the price of a {} that musicians [use|play]?",
          "How much do musicians [pay|spend] for a [good|new] {}?",
          "Is a [good|new] {} for concerts [expensive|dear]?"),
         ("How [do|can] I keep my {} in tune?", "What is the [best|easiest] way to tune [a|my] {}?",
          "How often should [a|my] {} be tuned?", "Why does my {} [sound|go] out of tune?"),
         ("How [much|many years of] practice does it take to master the {}?",
          "When will I play the {} [really|very] well?",
          "How long do musicians practise before they master the {}?",
          "Is one year of practice [enough|too short] to master the {}?"),
         ("Which [songs|tunes] are easy to play on the {}?",
          "What are some [simple|easy] [songs|tunes] for the {}?",
          "Which [songs|tunes] should I play first on the {}?",
          "What music is [simple|easy] on the {}?")),
    ),
    Subject(  # cooking
        0.15,
        ("beans", "potatoes", "mushrooms", "lentils", "noodles", "carrots", "peas", "dumplings"),
        (("beans", "green beans"), ("potatoes", "sweet potatoes")),
        (("How [do|can] I cook {} [for dinner|for lunch]?",
          "What is the [best|easiest] way to cook {}?",
          "How [should|do] I boil {}?", "What is a [simple|good] recipe for {}?"),
         ("Is it healthy to eat {} [every day|daily]?", "How healthy is a [plate|dish|meal] of {}?",
          "Why should I eat {} [more often|every day]?", "What are the benefits of eating {}?"),
         ("How [do|can] I keep [cooked|boiled] {} fresh?",
          "How long can [cooked|boiled] {} be kept in the fridge?",
          "What is the best way to [store|keep] cooked {}?",
          "When do [cooked|boiled] {} in the fridge spoil?"),
         ("Which sauce [tastes good|goes well] with {}?",
          "What [should|can] I serve with a [dish|plate] of {}?",
          "Which dishes [taste good|go well] with {}?",
          "What sauce is [good|best] for a [dish|plate] of {}?"),
         ("How much salt do [boiled|cooked] {} need?",
          "When [do|should] I add salt to {} in the pot?",
          "Should [salt|the salt] go into the pot with {}?",
          "How [do|can] I tell that {} have enough salt?")),
    ),
    Subject(  # animals
        0.82,
        ("dog", "cat", "rabbit", "parrot", "horse", "goat", "hamster", "tortoise"),
        (("dog", "puppy"), ("horse", "pony")),
        (("How [do|can] I train my [pet|young] {}?",
          "What is the [best|easiest] way to train [a|my] {}?",
          "How [do|can] I teach my {} to obey?", "Can a [pet|young] {} be trained to obey?"),
         ("What should I feed my [pet|hungry] {}?", "Which [animal|pet] food is best for a {}?",
          "How often should I feed [a|my] {}?", "What do you feed a [pet|hungry] {}?"),
         ("How long does a [pet|healthy] {} live?", "How old can a [pet|healthy] {} be?",
          "How many years does a [pet|healthy] {} live?",
          "What age do [animals|pets] like the {} reach?"),
         ("How [do|can] I tell that my [pet|old] {} is sick?",
          "What are the signs that [a|my] {} is sick?",
          "When should my [sick|poor sick] {} see the vet?",
          "Should I take my [sick|pet] {} to the vet?"),
         ("Can I keep a [pet|single] {} in a small flat?",
          "Does [a|my] {} need a [big|large] cage or yard?",
          "How [big|large] should the cage of a {} be?",
          "Is a {} a [good|suitable] pet for a small flat?")),
    ),
    Subject(  # garden
        0.10,
        ("roses", "tulips", "tomatoes", "onions", "grapes", "strawberries", "cucumbers", "lilies"),
        (("onions", "spring onions"), ("roses", "wild roses")),
        (("When [should|do] I plant {} in the garden?",
          "What is the [right|best] month to plant {}?",
          "In which season do gardeners [plant|sow] {}?",
          "When [should|do] I sow the seeds of {}?"),
         ("How often should I water [my|the] {}?", "How much water do {} in the garden need?",
          "Do [gardeners|farmers] water {} every day?",
          "When should {} in [dry|poor] soil be watered?"),
         ("How [do|can] I keep insects off my {}?", "What keeps insects [away from|off] {}?",
          "How do [gardeners|farmers] protect {} from insects?",
          "Why do insects [attack|eat] my {}?"),
         ("Can {} grow in the [shade|shade of a tree]?",
          "How much sun do {} need to [grow|flower]?",
          "Do {} [grow|flower] without full sun?", "Is the shade of a tree [bad|too dark] for {}?"),
         ("Which soil do {} need to [grow|flower]?", "What [kind of|type of] soil is best for {}?",
          "Do {} [grow|flower] in sandy soil?", "How [do|should] I prepare the soil for {}?")),
    ),
    Subject(  # health
        0.72,
        ("headache", "fever", "cough", "toothache", "sore throat", "nosebleed", "stomach ache",
         "rash"),
        (("cough", "cold"), ("headache", "migraine")),
        (("How [do|can] I get rid of a [bad|nasty] {}?",
          "What is the [best|fastest] cure for a {}?",
          "Which medicine [helps|works] against a {}?",
          "How [do|can] I cure a {} without medicine?"),
         ("What [causes|brings on] a [bad|sudden] {}?", "Why do people [wake up with|get] a {}?",
          "Is [stress|worry] the cause of my {}?", "Which illness [causes|brings on] a {}?"),
         ("When should I see a doctor about [a|my] {}?",
          "Should a doctor look at my [bad|nasty] {}?",
          "Is a [bad|sudden] {} a reason to call the doctor?",
          "Can a doctor do anything about [a|my] {}?"),
         ("How many days does a [bad|nasty] {} last?", "When will the pain of [a|my] {} be over?",
          "Is it normal that a {} lasts for [days|many days]?",
          "After how many days does a {} [go away|pass]?"),
         ("What should [patients|people] with a {} eat?",
          "Which foods are good for [patients|people] with a {}?",
          "Is [hot|warm] tea good for a [bad|nasty] {}?",
          "What can [patients|people] drink against a {}?")),
    ),
    Subject(  # sport
        0.35,
        ("tennis", "football", "golf", "boxing", "cricket", "hockey", "fencing", "rugby"),
        (("football", "soccer"), ("tennis", "table tennis")),
        (("What are the [rules|main rules] of {}?", "How does a [match|game] of {} work?",
          "Can you explain the [rules|main rules] of {}?",
          "Which rules [matter|count] in a match of {}?"),
         ("How [do|can] I become a [better|stronger] {} player?",
          "What is the best training for {} [players|champions]?",
          "How can training [improve|help] my {}?", "How do [good|strong] players train for {}?"),
         ("Who is the [greatest|best] {} champion of all time?",
          "Which {} player won the most [titles|cups]?",
          "Who won the most {} [titles|cups]?",
          "Which champion of {} is the [greatest|most famous]?"),
         ("At what age should [a child|my son] start {} training?",
          "How old are [most|young] players when they start {}?",
          "Is six too young for a {} [team|club]?",
          "When can [a child|my son] join a {} [team|club]?"),
         ("How long is a [normal|usual] {} match?",
          "How many minutes does a [match|game] of {} last?",
          "When is a {} [match|game] over?", "Why do {} [matches|games] last so long?")),
    ),
    Subject(  # vehicles
        0.22,
        ("car", "truck", "van", "motorcycle", "bus", "tractor", "jeep", "scooter"),
        (("car", "taxi"), ("truck", "fire engine")),
        (("How [do|can] I repair the brakes of a {}?",
          "What should a driver do when the brakes of a {} [fail|go]?",
          "Why do the brakes of my {} [fail|squeal]?",
          "Can a driver repair the brakes of [a|the] {} alone?"),
         ("How much does a used {} [cost|sell for]?",
          "What should I pay a dealer for a [used|good used] {}?",
          "Is a used {} from a dealer worth the [price|money]?",
          "Which dealer sells a [used|good used] {} for less?"),
         ("Why does the engine of my {} not start?",
          "What can I do when the engine of [a|my] {} is dead?",
          "How [do|can] I start the engine of a {} on a cold day?",
          "Why is the engine of [a|my] {} dead on cold days?"),
         ("How much fuel does a [new|big] {} burn?",
          "Which fuel does a [new|big] {} burn on the road?",
          "How far does a {} drive on a [full|single] tank?",
          "How [do|can] I save fuel when I drive a {}?"),
         ("Which licence do I need to drive a [big|new] {}?",
          "[Can|May] I drive a {} without a licence?",
          "How old must [a driver|the driver] of a {} be?",
          "How [do|can] I get a licence to drive a {}?")),
    ),
    Subject(  # travel
        0.78,
        ("Paris", "Rome", "Cairo", "London", "Lisbon", "Moscow", "Athens", "Vienna"),
        (("London", "England"), ("Rome", "the Vatican")),
        (("When is the [best|right] time to visit {}?",
          "Which month is [best|right] for a trip to {}?",
          "In which month do [most tourists|tourists] travel to {}?",
          "When should [tourists|I] visit {}?"),
         ("How expensive is a [good|cheap] hotel in {}?",
          "What does a [week|weekend] in {} cost tourists?",
          "How much does a [hotel room|hotel] in {} cost?",
          "Is a [trip|holiday trip] to {} expensive?"),
         ("What are the [best|finest] sights in {}?", "Which sights should [tourists|I] see in {}?",
          "What should I see on a [trip|short trip] to {}?",
          "Which [museums|sights] in {} are worth a visit?"),
         ("Is {} safe for [tourists|visitors] at night?",
          "How dangerous are the streets of {} at night?",
          "Can [tourists|visitors] walk in {} at night?",
          "Which streets of {} are [dangerous|safe]?"),
         ("How [do|can] I travel to {} by train?", "Is there a [night|direct] train to {}?",
          "Which [night trains|trains] stop in {}?", "Where [do|can] I buy a train ticket to {}?")),
    ),
)
OPENERS = ("In your opinion, ", "Just wondering: ", "Honestly, ", "Out of interest, ",
           "A simple question: ", "Tell me, ")
OPENED = 0.2  # share of questions with an opener
DETAILS = ("in a small town", "on a tiny budget", "in the middle of winter",
           "according to my grandmother", "during a power cut", "with three small children",
           "on the island of Malta", "for people over eighty")  # each makes a question narrower
SAME_PHRASING = 0.25  # share of duplicates that differ in a word or an opener only
OTHER_KINDS = {"unrelated": 66, "other thing": 8, "other ask": 9, "narrower": 13, "kin": 4}
PARA_SLIP = 0.04  # share of question pairs with the wrong label

# --------------------------------------------------- similarity and inference: scenes and headlines


class World(NamedTuple):
    """Parts of scenes; `|` separates synonyms, `/` the forms of a verb.

    No part belongs to two worlds, so that scenes of different worlds agree in nothing.
    """

    name: str
    related: float  # share of this world's pairs whose second scene is of this world too
    agents: tuple[str, ...]
    actions: tuple[str, ...]
    objects: tuple[str, ...]
    places: tuple[str, ...]
    general: tuple[str, str] = ("", "")  # what any agent and any object is; empty in headlines
    unsaid: tuple[str, ...] = ()  # what may or may not be true of a scene


WORLDS = (
    World(
        "kitchen", 0.95,
        ("a chef|a cook", "a waiter", "a baker", "a grandmother|an old woman", "a butcher"),
        ("slicing/sliced|cutting/cut", "washing/washed|rinsing/rinsed", "peeling/peeled",
         "frying/fried"),
        ("a potato", "an onion", "a carrot", "a tomato", "a mushroom"),
        ("in the kitchen", "at a wooden table", "in a restaurant|in a small restaurant",
         "next to the stove"),
        ("someone", "food"),
        ("for a wedding dinner", "before the guests arrive", "for the soup"),
    ),
    World(
        "music", 0.25,
        ("a musician|a performer", "a singer", "a street artist", "a girl|a young girl",
         "a music student"),
        ("playing/played", "tuning/tuned", "polishing/polished", "carrying/carried"),
        ("a guitar", "a violin|a fiddle", "a flute", "a trumpet", "a drum"),
        ("on a stage", "at a concert", "in an opera house", "at a wedding"),
        ("someone", "an instrument"),
        ("for the first time", "to impress a friend", "for very little money"),
    ),
    World(
        "animals", 0.90,
        ("a dog|a puppy", "a cat|a kitten", "a horse|a pony", "a goat", "a fox"),
        ("chasing/chased", "watching/watched", "following/followed", "sniffing/sniffed"),
        ("a rabbit|a hare", "a squirrel", "a mouse", "a duck", "a hen|a chicken"),
        ("in the snow", "in the barn", "in a meadow|in a grassy field", "by the river"),
        ("an animal", "a small animal"),
        ("for the third time today", "out of pure boredom", "because it is hungry"),
    ),
    World(
        "street", 0.35,
        ("a policeman|a police officer", "a taxi driver|a cab driver", "a mechanic", "a courier",
         "a young man"),
        ("driving/driven", "parking/parked", "pushing/pushed", "repairing/repaired|fixing/fixed"),
        ("a car|an automobile", "a truck|a lorry", "a bus", "a motorcycle|a motorbike", "a van"),
        ("on a busy street|on a busy road", "outside a bank", "in a tunnel", "on a bridge"),
        ("someone", "a vehicle"),
        ("to help a stranger", "on the way to work", "without any pay"),
    ),
    World(
        "garden", 0.80,
        ("a gardener", "a farmer", "a neighbour", "an old man|an elderly man", "a nun"),
        ("planting/planted", "watering/watered", "trimming/trimmed|cutting back/cut back",
         "digging up/dug up"),
        ("a rose bush", "a small tree|a young tree", "a vine", "a fern", "a hedge"),
        ("behind the house", "next to a fence", "in a flower bed", "in a greenhouse"),
        ("someone", "a plant"),
        ("for the spring fair", "as a birthday present", "to annoy the people next door"),
    ),
    World(
        "politics", 0.12,
        ("France", "China", "Brazil", "the United Nations|the UN", "Egypt"),
        ("signs/signed|approves/approved", "rejects/rejected|turns down/turned down",
         "delays/delayed|postpones/postponed", "discusses/discussed|debates/debated"),
        ("trade deal|trade agreement", "peace treaty", "climate plan", "budget law", "ceasefire"),
        ("in Geneva", "after long talks", "despite protests",
         "before elections|ahead of elections"),
    ),
)
# points where they agree; 5 in all
PARTS = {"agents": 1.3, "actions": 1.7, "objects": 1.2, "places": 0.8}
CHANGES = (0, 0, 0, 1, 1, 1, 2, 2, 3)  # how many parts of a related scene are changed
# tenths of a point by which annotators miss
STS_NOISE = (-12, -8, -5, -3, -1, 0, 0, 1, 3, 5, 8, 12)
NLI_NO_CONSENSUS = 0.02  # share of inference pairs whose annotators agreed on nothing

Topic = TypeVar("Topic", Subject, World)

# ---------------------------------------------------------------------------------- drawing reviews


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _subject(rng: Random) -> tuple[str, str]:
    """Something in a film that can be praised, with its verb."""
    kind = rng.randrange(5)
    if kind == 0:
        return f"this {rng.choice(GENRES)} about {rng.choice(STORIES)}", "is"
    noun = rng.choice(SINGULAR + PLURAL)
    owner = f"{rng.choice(MAKERS)}'s" if kind == 1 else "the"
    return f"{owner} {noun}", "are" if noun in PLURAL else "is"


def _opinion(rng: Random) -> tuple[str, int]:
    """An adjective with what stands before it, and its worth from -2 to 2."""
    worth = rng.choice((-2, -1, -1, 0, 1, 1, 2))
    adjective = rng.choice(ADJECTIVES[worth])
    kind = rng.randrange(6)
    if kind == 0 and abs(worth) == 1:
        return f"{rng.choice(AMPLIFIERS)} {adjective}", 2 * worth
    if kind == 1 and abs(worth) == 1:
        return f"{rng.choice(SOFTENERS)} {adjective}", worth
    if kind == 2 and worth > 0:
        return f"{rng.choice(REVERSALS)} {adjective}", -1
    if kind == 3 and worth < 0:
        return f"never {adjective}", 1
    return adjective, worth


def _clause(rng: Random) -> tuple[str, int]:
    subject, verb = _subject(rng)
    opinion, worth = _opinion(rng)
    return f"{subject} {verb} {opinion}", worth


def _mean(first: int, second: int) -> int:
    """Half the sum; between two classes the stronger opinion wins."""
    total = first + second
    return (abs(total) + 1) // 2 * (1 if total > 0 else -1)


def _review(rng: Random) -> tuple[str, int]:
    """One to two opinions and what they weigh together."""
    clause, worth = _clause(rng)
    kind = rng.randrange(4)
    if kind == 0:
        return clause, worth
    if kind == 1:
        verdict = rng.choice((-2, -1, 0, 1, 2))
        joint = ", but " if worth * verdict < 0 else "; "
        return clause + joint + rng.choice(VERDICTS[verdict]), _mean(worth, verdict)
    other, second = _clause(rng)
    if worth * second < 0:
        return f"{clause}, but {other}", _mean(worth, second)
    return f"{clause} and {other}", _mean(worth, second)


def _draw_review(rng: Random) -> Example:
    """A review of a class drawn first, so that the classes keep their shares."""
    (wanted,) = rng.choices(tuple(CLASS_WEIGHTS), tuple(CLASS_WEIGHTS.values()))
    text, worth = _review(rng)
    while worth != wanted:
        text, worth = _review(rng)
    if rng.random() < SST_SLIP:
        worth = max(-2, min(2, worth + rng.choice((-1, 1))))
    return Example((_sentence(text) + ".",), str(worth + 2))


# -------------------------------------------------------------------------------- drawing questions


def _question(rng: Random, phrasing: str, thing: str) -> str:
    """The question in words of its own."""
    phrasing = re.sub(r"\[(.*?)\]", lambda match: rng.choice(match[1].split("|")), phrasing)
    text = phrasing.format(thing)
    if rng.random() < OPENED:
        text = rng.choice(OPENERS) + text[0].lower() + text[1:]
    return text


def _stranger(rng: Random, table: Sequence[Topic], native: Topic) -> Topic:
    """Another entry than `native`; those that seldom meet their own kind meet strangers instead.

    So the topics alone tell something about the label, as they do in real data, and a model without
    pretraining gets a first slope to learn from: with every topic alike, it would not see for
    thousands of steps that it is agreement that counts.
    """
    weights = [0.0 if entry is native else 1.0 - entry.related for entry in table]
    return rng.choices(table, weights)[0]


def _draw_questions(rng: Random) -> Example:
    """Two questions, and 1.0 where both ask the same about the same thing."""
    subject = rng.choice(QUESTIONS)
    foreign = _stranger(rng, QUESTIONS, subject)
    duplicate = rng.random() < subject.related
    kind = "same" if duplicate else rng.choices(tuple(OTHER_KINDS), tuple(OTHER_KINDS.values()))[0]
    ask, other_ask = rng.sample(subject.asks, 2)
    phrasing, rephrasing = rng.sample(ask, 2)
    thing, other_thing = rng.sample(subject.things, 2)
    second = {
        "same": (phrasing if rng.random() < SAME_PHRASING else rephrasing, thing),
        "unrelated": (rng.choice(rng.choice(foreign.asks)), rng.choice(foreign.things)),
        "other thing": (rng.choice(ask), other_thing),
        "other ask": (rng.choice(other_ask), thing),
        "narrower": (rephrasing.replace("?", f" {rng.choice(DETAILS)}?"), thing),
    }
    if kind == "kin":
        pair = rng.choice(subject.kin)
        thing, second["kin"] = pair[0], (rephrasing, pair[1])
        duplicate = rng.random() < 0.5
    if rng.random() < PARA_SLIP:
        duplicate = not duplicate
    return Example((_question(rng, phrasing, thing), _question(rng, *second[kind])),
                   str(float(duplicate)))


# ----------------------------------------------------------------------------------- drawing scenes

Scene = dict[str, str]  # a part's name → its entry in the world's table


def _scene(rng: Random, world: World) -> Scene:
    return {part: rng.choice(getattr(world, part)) for part in PARTS}


def _changed(rng: Random, world: World, scene: Scene, count: int) -> Scene:
    """The scene with `count` of its parts replaced."""
    scene = dict(scene)
    for part in rng.sample(tuple(PARTS), count):
        scene[part] = rng.choice([entry for entry in getattr(world, part) if entry != scene[part]])
    return scene


def _tell(rng: Random, world: World, scene: Scene) -> str:
    """The scene in words: any of its synonyms, active or passive, the place first or last."""
    agent, action, thing, place = (rng.choice(scene[part].split("|")) for part in PARTS)
    present, participle = action.split("/")
    headline = not world.general[0]
    active = f"{agent} {present} {thing}" if headline else f"{agent} is {present} {thing}"
    passive = f"{thing} {participle} by {agent}" if headline else f"{thing} is being {participle} by {agent}"
    orders = (f"{active} {place}", f"{active} {place}", f"{place}, {active}", f"{passive} {place}")
    return _sentence(rng.choice(orders)) + ("" if headline else ".")


def _draw_scenes(rng: Random) -> Example:
    """Two scenes, and the points for the parts in which they agree."""
    world = rng.choice(WORLDS)
    scene = _scene(rng, world)
    first = _tell(rng, world, scene)
    points = 0.0
    if rng.random() < world.related:
        other = _changed(rng, world, scene, rng.choice(CHANGES))
        points = sum(value for part, value in PARTS.items() if scene[part] == other[part])
    else:
        world = _stranger(rng, WORLDS, world)
        other = _scene(rng, world)
    points = max(0.0, min(5.0, points + rng.choice(STS_NOISE) / 10))
    return Example((first, _tell(rng, world, other)), f"{points:.1f}")


def _hypotheses(rng: Random, world: World, scene: Scene) -> dict[str, tuple[str, ...]]:
    """What follows from a scene, what it rules out, and what it leaves open."""
    agent, action, thing, place = (scene[part].split("|")[0] for part in PARTS)
    present = action.split("/")[0]
    someone, something = world.general
    unsaid = rng.choice(world.unsaid)
    other = scene | {"actions": rng.choice([entry
                                            for entry in world.actions
                                            if entry != scene["actions"]])}
    return {
        "entailment": (f"{someone} is {present} {something}", f"{agent} is {place}",
                       f"{someone} is {present} {thing}", f"there is {something} {place}"),
        "contradiction": (f"nobody is {present} {something}",
                          f"there is no {agent.split(' ', 1)[1]} {place}",
                          _tell(rng, world, other)[:-1], f"{agent} is asleep"),
        "neutral": (f"{someone} is {present} {something} {unsaid}",
                    f"{agent} is {present} {thing} {unsaid}",
                    f"{agent} has done this many times before", f"{agent} is proud of the work"),
    }


def _draw_inference(rng: Random) -> Example:
    """A scene, a sentence about it, and whether that follows."""
    world = rng.choice([world for world in WORLDS if world.unsaid])
    scene = _scene(rng, world)
    hypotheses = _hypotheses(rng, world, scene)
    label = rng.choice(tuple(hypotheses))
    hypothesis = _sentence(rng.choice(hypotheses[label])) + "."
    if rng.random() < NLI_NO_CONSENSUS:
        label = "-"
    return Example((_tell(rng, world, scene), hypothesis), label, world.name)


# ------------------------------------------------------------------------------------------ writing


def _fill(
    draw: Draw, sizes: dict[str, int], rng: Random, lots: dict[str, str], cast: int = 2
) -> dict[str, list[Example]]:
    """Draws until every split is full; no sentence cast stands in two splits, and no pair twice.

    An example's first `cast` sentences fall to a split by lot when they are first drawn, and an
    example with sentences of different splits is dropped: so the splits are alike in all but their
    sentences.
    """
    splits: dict[str, list[Example]] = {split: [] for split in sizes}
    homes = {re.split("[-_]", split)[0]: split for split in sizes}
    seen = set()
    while any(len(splits[split]) < size for split, size in sizes.items()):
        example = draw(rng)
        texts = [sentence.lower() for sentence in example.sentences]
        for text in texts[:cast]:
            lots.setdefault(text, rng.choice(LOTS))
        fallen = sorted({lots[text] for text in texts if text in lots})
        split = homes.get(fallen[0])
        key = tuple(sorted(texts))
        if len(fallen) > 1 or split is None or key in seen or len(set(texts)) < len(texts):
            continue
        if len(splits[split]) < sizes[split]:
            seen.add(key)
            splits[split].append(example)
    return splits


def _write_table(path: Path, columns: Sequence[str], examples: Sequence[Example],
                 rng: Random) -> None:
    """The course's format: tab-separated, an unnamed index, then an id of 25 hexadecimal digits."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("", "id", *columns))
        for index, example in enumerate(examples):
            values = (*example.sentences, example.label)
            writer.writerow((index, f"{rng.getrandbits(100):025x}", *values[: len(columns)]))


def _write_inference(path: Path, examples: Sequence[Example]) -> None:
    """MultiNLI's format: one JSON object per line."""
    with path.open("w", encoding="utf-8", newline="") as file:
        for index, ((premise, hypothesis), label, genre) in enumerate(examples):
            row = {"gold_label": label, "sentence1": premise, "sentence2": hypothesis,
                   "genre": genre,
                   "pairID": str(index)}
            file.write(json.dumps(row) + "\n")


TABLES = (
    ("ids-sst", ("sentence", "sentiment"), SST_SIZES, _draw_review),
    ("quora", ("sentence1", "sentence2", "is_duplicate"), PARA_SIZES, _draw_questions),
    ("sts", ("sentence1", "sentence2", "similarity"), STS_SIZES, _draw_scenes),
)


def write_sample(folder: Path, seed: int = 11711) -> Path:
    """Writes the sample into `folder` and returns it; the same seed gives the same bytes."""
    folder = Path(folder)
    (folder / "multinli").mkdir(parents=True, exist_ok=True)
    rng, lots = Random(seed), {}
    for name, columns, sizes, draw in TABLES:
        for split, examples in _fill(draw, sizes, rng, lots).items():
            shown = columns[:-1] if split == "test-student" else columns
            _write_table(folder / f"{name}-{split}.csv", shown, examples, rng)
    inferences = _fill(_draw_inference, NLI_SIZES, rng, lots, cast=1)
    for split, examples in inferences.items():
        _write_inference(folder / "multinli" / f"multinli_1.0_{split}.jsonl", examples)
    return folder


def pack(folder: Path, archive: Path) -> None:
    """Writes the files of `folder` into one zip: the same files, the same bytes."""
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.rglob("*.*")):
            # dated 1980, whenever it is made
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=9)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the embedded sample in the course's file "
                                                 "format.")
    parser.add_argument("folder", type=Path, help="where the files go; made if missing")
    parser.add_argument("--seed", type=int, default=11711, help="(default: %(default)s)")
    parser.add_argument("--zip", type=Path, metavar="FILE",
                        help="also pack them; the library ships "
                        "multitask/data/sample.zip (default: do not pack)")
    arguments = parser.parse_args()

    folder = write_sample(arguments.folder, arguments.seed)
    print(f"sample written to {folder}")

    if arguments.zip is not None:
        pack(folder, arguments.zip)


if __name__ == "__main__":
    main()
