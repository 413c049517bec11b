"""The vocabulary of the harbour world: names, goods, places and things, and the train / evaluation split.

What this is: plain tables plus `Pool`, which draws names and numbers for one side of the split. A name or a
number belongs to the evaluation side when a checksum of its text says so; the training side never draws it.
What it does not do: it builds no sentences (see templates.py) and no documents (see world.py).
"""

import zlib

SHIP_HEADS = """Mar Cor Tal Hel Bran Wil Ost Fen Gar Lor Pel Ros Sel Tor Ver Wen Hal Dor Kes Mel Nor Ald Bel Cal Dun
Els Far Gil Har Jor Kel Lin Mor Nel Orl Pen Quil Ran Sar Tel Und Vol Wey Yar Zel Ban Dav Erl Fal Gren""".split()
SHIP_TAILS = """low ric den mar wen dis vale tide wick bor ley ton nis ka mere dra sel vin gull tam lan fer mond ry
star bel nor wyn gar deth lin co sa van dor el ith""".split()
FIRST_HEADS = """An Ber Cla Da Ed Fre Gre Hen Il Jo Ka Lu Mi No Os Pe Ro Si Tho Ul Vi Wal Em Ag Ma Be Ste Ha Ge
Le Ti Ju Ri Ne Wen Hil Dor Gis Lau Pau Sel Tam Bri Cor Fin Nor""".split()
FIRST_TAILS = """na tha ric da mon ra sa nis lia bert ka ron lo ta ne vin ri la mer dan dis ma rik win lin bel go sel
frid mar""".split()
PLACE_HEADS = """Ash Black Cold Drum East Fox Grey High Iron Kirk Long Mill North Old Pike Red Salt Stone Thorn West
White Wind Wolf Crab Reed Hol Sand Tarn Ware Elm Birch Oak Gold Green Hare Swan Deep Far Broad Clay Rock Otter
Raven Bell Ship King Fern Moss Hazel Linn Apple""".split()
PLACE_TAILS = "wick ford mouth ness haven port holm stead cliff pool gate sound more bay ham well field by".split()

SHIP_KINDS = "brig ketch schooner barge tug cutter sloop trawler lugger steamer lighter yawl".split()
GOODS = """salt rope tin wool coal timber oil wine grain barley sugar tea copper iron glass paper cotton leather honey
butter cheese apples herring cod tar lead slate bricks hay flour oats candles soap nails silk pepper rice wax cider
beans""".split()
COLOURS = "red blue green white black yellow grey brown orange purple silver gold".split()
PIERS = """north quay|south quay|long mole|east basin|west basin|old stair|coal wharf|fish pier|stone jetty|upper dock
lower dock|ferry landing|lamp steps|customs wharf""".replace("\n", "|").split("|")
TRADES = "cook pilot clerk sailmaker keeper carpenter baker smith cooper porter weigher boatman netmaker teacher".split()
DRINKS = "tea coffee cider milk ale broth cocoa water".split()
WEATHER = """the wind turned west|the wind fell away|rain came over the hill|fog lay on the water|the sky was clear
a cold wind blew from the north|the sea was calm|the sun came out|low cloud covered the hill|the rain stopped
a light breeze came from the south|frost lay on the ropes|the moon rose over the mole|the mist was thin
thunder was heard far away|the air was warm and still|snow fell on the decks|the swell grew
""".strip().replace("\n", "|").split("|")
THINGS = """rope|lamp|bell|anchor|bucket|ladder|barrel|net|oar|sail|ledger|lantern|hook|chain|crate|basket|flag|key
boathook|kettle|chart|compass|hammer|broom|coat|letter|box|whistle|plank|pulley""".replace("\n", "|").split("|")
ANIMALS = "gull|cat|dog|seal|heron|horse|goat|rat|crow|goose".split("|")
NUMBERS = "two three four five six seven eight nine ten twelve".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
ADJ = "old small heavy wet broken new long little dark good plain rusty clean painted worn strong".split()
PARTS = "morning|afternoon|evening|night".split("|")

COUNT_WORDS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight"]


def is_eval(text: str) -> bool:
    """Which side of the split a name or number is on. About one in six is for evaluation only."""
    return zlib.crc32(("tide:" + text).encode()) % 6 == 0


class Pool:
    """Draws names and numbers of one side of the split; never repeats a name within one document."""

    def __init__(self, rng, evaluation: bool):
        self.rng = rng
        self.evaluation = evaluation
        self.used = set()

    def _draw(self, make):
        for _ in range(400):
            text = make()
            if is_eval(text) == self.evaluation and text not in self.used:
                self.used.add(text)
                return text
        raise RuntimeError("name pool is empty: too many names in one document")

    def ship(self):
        r = self.rng
        return self._draw(lambda: r.choice(SHIP_HEADS) + r.choice(SHIP_TAILS))

    def first(self):
        r = self.rng
        return self._draw(lambda: r.choice(FIRST_HEADS) + r.choice(FIRST_TAILS))

    def person(self):
        """First name, or first name and a family name made like a place name."""
        first = self.first()
        return first if self.rng.random() < 0.7 else first + " " + self.place()

    def place(self):
        r = self.rng
        return self._draw(lambda: r.choice(PLACE_HEADS) + r.choice(PLACE_TAILS))

    def code(self):
        r = self.rng
        return self._draw(lambda: str(r.randrange(1000, 10000)))

    def number(self):
        r = self.rng
        return self._draw(lambda: str(r.randrange(100, 1000)))

    def time(self):
        r = self.rng
        return self._draw(lambda: "%02d:%02d" % (r.randrange(24), r.randrange(60)))
