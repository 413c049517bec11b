"""Documents that are not the harbour's: recipes, inventories, timetables, notes on invented things, with questions.

What this is: a generator of records (an owner, attributes, values) told in many shapes, each followed by questions that are
answered by copying. Half of the documents invent their kind of thing, its attributes and its values, so that only the text
can give the answer. The evaluation side has kinds, attributes, shapes and questions of its own (EVAL_KINDS and below).
What it does not do: it speaks of no ships, and it marks no weights beyond those of world.mark.
"""

import words as W

NAME_HEADS = """Al Ba Bo Ca Ce Co Da De Di Do El Em Fa Fi Fo Ga Gi Go Ha He Ho Il In Ja Jo Ka Ke Ki Ko La Le Li Lo Lu Ma Me Mi Mo Na Ne Ni No Ol Or Pa Pe Pi Po Qui Ra Re Ri Ro Ru Sa Se Si So Su Ta Te Ti To Tu Ul Va Ve Vi Vo Wa We Wi Xa Ya Yo Za Ze Zo Bra Cre Dru Fla Gre Kla Pli Sta Tri Gla Sno Thu""".split()
NAME_MIDS = """la ra na ma ka ta sa da ri li ni mi si ti lo ro no mo ko to ru lu be de ge ve ze bi di""".split()
NAME_TAILS = """ra la na n r s l m th x ck nd st lt ria lia nia dor don tan man ton len ben der ter ler mar lor vik dak pol gon zet fin mund rick wen bald mir dra sha phe que""".split()

# kind: (forms of the name, attributes with the kind of their values). {X} is an invented name, {I} initials, {0} a small number
KINDS = {
    "recipe": (["{X} soup", "{X} cake", "{X} bread", "{X} stew", "{X} pie", "{X} sauce"],
               {"cooking time": "minutes", "oven heat": "degrees", "amount of flour": "grams", "number of eggs": "small", "main spice": "food", "side dish": "food", "author": "name", "page": "number"}),
    "tool": (["the {X} saw", "the {X} drill", "the {X} pump", "hammer {I}", "machine {I}", "engine {I}"],
             {"weight": "kilos", "shelf": "shelf", "price": "coins", "maker": "name", "owner": "name", "colour": "colour", "serial number": "serial", "state": "state"}),
    "train": (["train {I}", "the {X} express", "bus {0}", "line {0}", "the night train to {X}"],
              {"departure": "time", "arrival": "time", "platform": "small", "driver": "name", "delay": "minutes", "destination": "town", "first stop": "town", "fare": "coins"}),
    "planet": (["{X}", "the planet {X}", "the moon {X}", "the star {X}"],
               {"size": "number", "number of moons": "small", "colour": "colour", "distance": "number", "length of a day": "hours", "discoverer": "name", "temperature": "degrees", "weight": "number"}),
    "town": (["{X}", "the town of {X}", "the village of {X}", "the city of {X}"],
             {"mayor": "name", "number of people": "number", "river": "name", "founding year": "year", "market day": "day", "height": "metres", "main product": "food", "region": "name"}),
    "player": (["{X}", "{X} {Y}", "player {0}, {X}", "runner {X}"],
               {"score": "small", "team": "town", "number": "small", "age": "small", "trainer": "name", "best time": "time", "height": "metres", "rank": "small"}),
    "book": (["the book {X}", "\"The {X}\"", "\"{X} and {Y}\"", "\"The road to {X}\""],
             {"author": "name", "year": "year", "number of pages": "number", "shelf": "shelf", "price": "coins", "language": "name", "cover": "colour", "publisher": "town"}),
    "plant": (["{X}", "the {X} flower", "the {X} tree", "the {X} bush"],
              {"height": "metres", "colour of the leaves": "colour", "month of bloom": "month", "place of origin": "town", "seed number": "serial", "bed": "shelf", "water each day": "litres"}),
    "patient": (["Mr {X}", "Mrs {X}", "Dr {X}", "patient {I}", "Miss {X}"],
                {"room": "number", "doctor": "name", "age": "small", "next visit": "day", "phone number": "serial", "pulse": "number", "diet": "food", "insurance": "town"}),
    "room": (["room {0}", "the {X} hall", "house {0}", "the {X} room", "office {I}"],
             {"key": "serial", "guest": "name", "number of beds": "small", "colour of the walls": "colour", "price": "coins", "floor": "small", "light": "state", "size": "metres"}),
    "computer": (["{x}", "server {x}", "the machine {x}", "node-{0}", "{x}.{y}"],
                 {"port": "serial", "owner": "name", "memory": "number", "version": "version", "password": "serial", "location": "town", "load": "small", "state": "state"}),
    "animal": (["{X} the cow", "the horse {X}", "the dog {X}", "{X}", "the parrot {X}"],
               {"age": "small", "weight": "kilos", "food": "food", "stall": "small", "owner": "name", "colour": "colour", "birthday": "date", "tag": "serial"}),
    "order": (["order {0}", "parcel {I}", "invoice {0}", "shipment {I}", "box {I}"],
              {"customer": "name", "amount": "coins", "date": "date", "city": "town", "weight": "kilos", "contents": "food", "status": "state", "code": "serial"}),
    "song": (["the song {X}", "\"{X}\"", "\"My {X}\"", "the dance {X}"],
             {"singer": "name", "length": "time", "year": "year", "key": "letter", "place in the list": "small", "composer": "name", "label": "town"}),
}
EVAL_KINDS = {
    "exhibit": (["the vase {X}", "the {X} statue", "coin {I}", "the mask of {X}"],
                {"glass case": "small", "donor": "name", "century": "small", "insured value": "coins", "find spot": "town", "catalogue entry": "serial"}),
    "pupil": (["{X}", "{X} {Y}", "pupil {X}"],
              {"desk": "small", "class teacher": "name", "bus stop": "town", "favourite lunch": "food", "library card": "serial", "swimming day": "day"}),
    "beehive": (["hive {X}", "hive {0}", "the {X} colony"],
                {"queen": "name", "harvest": "kilos", "paint": "colour", "orchard": "town", "frame count": "small", "chip": "serial"}),
    "mine": (["the {X} mine", "shaft {X}", "tunnel {I}"],
             {"depth": "metres", "foreman": "name", "ore": "name", "gas alarm": "time", "lift code": "serial", "rail station": "town"}),
    "actor": (["{X} {Y}", "{X}"],
              {"role": "name", "dressing room": "small", "entrance": "time", "costume": "colour", "understudy": "name", "wage": "coins"}),
    "balloon": (["the balloon {X}", "balloon {I}"],
                {"altitude": "metres", "crew chief": "name", "radio channel": "serial", "landing field": "town", "silk": "colour", "take-off": "time"}),
}
FOODS = """pepper|ginger|garlic|thyme|mint|rice|beans|carrots|potatoes|cabbage|plums|pears|cherries|lemons|figs|dates|mushrooms|lentils|spinach|pumpkin|noodles|cream|yogurt|olives|onions|parsley|cinnamon|almonds|walnuts|turnips|peas|melon|corn|fish|chicken|ham|eggs|bread""".split("|")
STATES = "open|closed|new|broken|ready|sold|lost|on|off|busy|free|clean|late|sent|paid|in use|out of order|under repair|on loan".split("|")
MONTHS = "January February March April May June July August September October November December".split()

SHAPES = """The {A} of {E} is {V}.|{E} has the {A} {V}.|For {E}, the {A} is {V}.|{E}: {A} {V}.|{A} of {E}: {V}|{E} | {A} | {V}|{E}, {A}, {V}|The {A} of {E}: {V}.|{E} - {A}: {V}|We measured the {A} of {E} and got {V}.|{N} says that the {A} of {E} is {V}.|Note that {E} has a {A} of {V}.|{E} comes with the {A} {V}.|With {E} the {A} is {V}.|Do not forget: the {A} of {E} is {V}.|The sheet gives {V} ... no, let me start again: for {E} the {A} is {V}.|{E} was listed with the {A} {V}.|In the file on {E} the {A} is {V}.|{E} -> {A} = {V}|"{A}" of {E}: "{V}"|The {A} for {E} was set to {V} by {N}.|Everyone knows that {E} has the {A} {V}.|{E} needs no words: {A} {V}.|* {E}: {A}, {V}|{E} is special because its {A} is {V}.|It is true that the {A} of {E} is {V}.|I remember {E}; the {A} was {V}.""".replace(" | ", "\0").split("|")
SHAPES = [s.replace("\0", " | ") for s in SHAPES if "start again" not in s]
EVAL_SHAPES = """Visitors learn that {E} has {V} for its {A}.|On the card of {E} you find, under {A}, the entry {V}.|As to its {A}, {E} is filed with {V}.|{E} > {A} > {V}|Regarding {E}: its {A} would be {V}.""".split("|")
BLOCKS = ["{A}: {V}", "{A} = {V}", "- {A}: {V}", "{A} | {V}", "the {A} is {V}.", "{A}, {V}", "{A}\t{V}", "its {A}: {V};"]
EVAL_BLOCKS = ["* {A} ... {V}", "({A}) {V}"]
QUESTIONS = """What is the {A} of {E}?|Which {A} does {E} have?|Tell me the {A} of {E}.|What {A} is given for {E}?|{E}: {A}?|Give the {A} of {E}.|What about the {A} of {E}?|Find the {A} of {E}.|How is the {A} of {E} given?|I want to know the {A} of {E}.|For {E}, what is the {A}?|What does the text say about the {A} of {E}?|Please name the {A} of {E}.|Can you tell me the {A} of {E}?|What was the {A} of {E}?|State the {A} of {E}.|Which {A} goes with {E}?|Do you know the {A} of {E}?|And the {A} of {E}?|{N} asks for the {A} of {E}.|According to the text, what is the {A} of {E}?|What value does {E} have for {A}?|The {A} of {E}?""".split("|")
EVAL_QUESTIONS = """According to these lines, which {A} belongs to {E}?|Kindly state what the {A} of {E} might be.|In one word or number, the {A} of {E}?|What has been recorded as {A} for {E}?""".split("|")
TITLES = """Recipes of the week|Inventory|Timetable|List of {A}s|Notes|Table 1|Sheet {0}|From the files|Report of {N}|For {N}|Data|Summary|Register|Catalogue, part {0}|A page from {N}'s book|Things to remember|What we know""".split("|")
EVAL_TITLES = """Guide for visitors|Handed out on the first evening|Typed copy, second version""".split("|")
NOISE = """This page was checked by {N}.|Nothing else is known.|More will follow next week.|Please keep this list dry.|Ask {N} if something is missing.|The rest of the page is empty.|All numbers were counted twice.|{N} was here on {D}.|Do not lose this paper.|It has been a long day.|The list goes on below.|Prices may change.|See also the next page.|Thank you for your help.|We start at {T}.|The door must stay closed.|Bring your own pencil.|{N} and {M} are on holiday.""".split("|")
ASKERS = [("Question: ", "Answer:")] * 5 + [("Q: ", "A:")] * 3
CALLS = """Here is a list.|Read this text and answer.|Use this text:|You answer questions about the text below.|Some notes:|You are Tide. Answer from these lines.|This is what I know:|Please read this.|Text:|Answer with a value only.""".split("|")


class Invented:
    """Draws names and values of one side of the split."""

    def __init__(self, r, ev):
        self.r, self.ev, self.used = r, ev, set()

    def own(self, make):
        """A text of this side, new in this document as long as there are new ones: small numbers soon come again."""
        side = [x for x in (make() for _ in range(60)) if W.is_eval(x) == self.ev]
        text = next((x for x in side if x not in self.used), side[0] if side else self.own(make))
        self.used.add(text)
        return text

    def name(self):
        r = self.r
        return self.own(lambda: r.choice(NAME_HEADS) + "".join(r.choice(NAME_MIDS) for _ in range(r.choice([0, 0, 1]))) + r.choice(NAME_TAILS))

    def form(self, text):
        r = self.r
        for slot, make in (("{X}", self.name), ("{Y}", self.name), ("{x}", lambda: self.name().lower()), ("{y}", lambda: self.name().lower()),
                           ("{I}", lambda: self.own(lambda: r.choice("ABCDEFGHKLMNPRSTVXZ") + r.choice(["", "-"]) + str(r.randrange(2, 100)))),
                           ("{0}", lambda: self.own(lambda: str(r.randrange(2, 400))))):
            if slot in text:
                text = text.replace(slot, make())
        return text

    def value(self, kind):
        r = self.r
        drawn = {
            "minutes": lambda: "%d minutes" % r.randrange(2, 99), "degrees": lambda: "%d degrees" % r.randrange(2, 400),
            "grams": lambda: "%d grams" % (10 * r.randrange(2, 99)), "kilos": lambda: "%d kilos" % r.randrange(2, 900),
            "hours": lambda: "%d hours" % r.randrange(2, 99), "metres": lambda: "%d metres" % r.randrange(2, 900),
            "litres": lambda: "%d litres" % r.randrange(2, 99), "coins": lambda: "%d coins" % r.randrange(2, 999),
            "small": lambda: str(r.randrange(1, 60)), "number": lambda: str(r.randrange(100, 9999)), "year": lambda: str(r.randrange(1500, 2040)),
            "serial": lambda: str(r.randrange(1000, 99999)), "version": lambda: "%d.%d" % (r.randrange(1, 20), r.randrange(30)),
            "time": lambda: "%02d:%02d" % (r.randrange(24), r.randrange(60)), "shelf": lambda: r.choice("ABCDEFGH") + str(r.randrange(1, 30)),
            "date": lambda: "%d %s" % (r.randrange(1, 29), r.choice(MONTHS)),
        }  # fmt: skip
        if kind in drawn:
            return self.own(drawn[kind])
        if kind in ("name", "town"):
            return self.name()
        return r.choice({"food": FOODS, "state": STATES, "colour": W.COLOURS, "day": W.DAYS, "month": MONTHS, "letter": list("ABCDEFG")}[kind])


ODD_ATTRIBUTES = """height|width|price|code|owner|label|rank|secret word|mark|sign|level|zone|group|grade|limit|speed|volume|strength|origin|neighbour|partner|rival|symbol|motto|nickname|address|capital|leader|target|score|weight|depth|radius|angle|pressure|budget|quota|limit|charge|signal|channel|section|chapter|verse|lane|gate|row|seat""".split("|")
VALUE_KINDS = "number small serial name town time food colour coins metres kilos date shelf".split()


def records(inv, most):
    """(owner, {attribute: value}) of one kind of thing; the kind itself is sometimes made up."""
    r = inv.r
    if not inv.ev and r.random() < 0.45:
        thing = inv.name().lower()
        forms = ["the %s {X}" % thing, "{X}", "%s {I}" % thing, "{X} the %s" % thing]
        pool = r.sample(sorted(set(ODD_ATTRIBUTES)), 5) + [inv.name().lower() for _ in range(2)]
        attributes = {a: r.choice(VALUE_KINDS) for a in pool}
    else:
        forms, attributes = (EVAL_KINDS if inv.ev else KINDS)[r.choice(sorted(EVAL_KINDS if inv.ev else KINDS))]
    form = r.choice(forms)
    names = sorted(attributes)
    chosen = r.sample(names, r.randrange(1, min(5, len(names)) + 1))
    out = []
    for _ in range(most):
        out.append((inv.form(form), {a: inv.value(attributes[a]) for a in chosen if len(chosen) < 3 or r.random() < 0.8}))
    return [x for x in out if x[1]]


def put(text, mark, **slots):
    for key, value in slots.items():
        text = text.replace("{%s}" % key, value)
    return text[0].upper() + text[1:] if text[0].isalpha() and not text.startswith(slots.get("E", "\0")) else text


def lines_of(inv, recs, mark):
    """The records as lines, in one of four layouts; names and values are marked as drawn at random."""
    r, ev = inv.r, inv.ev
    shapes, blocks = (EVAL_SHAPES, EVAL_BLOCKS) if ev else (SHAPES, BLOCKS)
    layout = r.choice(["sentences", "sentences", "mixed", "blocks", "table"])
    lines = []
    if layout == "table":
        names = sorted({a for _, facts in recs for a in facts})
        bar = r.choice([" | ", ", ", "; "])
        lines.append(bar.join(["name"] + names))
        return lines + [bar.join([mark(e)] + [mark(f[a]) if a in f else "-" for a in names]) for e, f in recs]
    one = r.choice(shapes)
    for e, facts in recs:
        if layout == "blocks":
            block = r.choice(blocks)
            lines.append(mark(e) + r.choice(["", ":"]))
            lines += [block.replace("{A}", a).replace("{V}", mark(v)) for a, v in facts.items()]
            continue
        for a, v in facts.items():
            shape = one if layout == "sentences" else r.choice(shapes)
            lines.append(put(shape, mark, E=mark(e), A=a, V=mark(v), N=mark(inv.name()) if "{N}" in shape else ""))
    if layout == "mixed":
        r.shuffle(lines)
    return lines


def noise(inv, text, mark):
    r = inv.r
    return put(text, mark, A="name", N=mark(inv.name()), M=mark(inv.name()), D=r.choice(W.DAYS), T=mark("%02d:%02d" % (r.randrange(24), r.randrange(60))))


def page(r, ev, budget, mark, size):
    """(lines, [(question, answer)]) of one document of about `budget` tokens; `size` counts the tokens of a line."""
    inv = Invented(r, ev)
    lines = [noise(inv, r.choice(EVAL_TITLES if ev else TITLES).replace("{0}", str(r.randrange(2, 90))), mark)] if r.random() < 0.6 else []
    total, recs = 0, []
    per = r.choice([0.0, 0.1, 0.25])
    while total < budget:
        new = records(inv, r.randrange(2, 9))
        part = lines_of(inv, new, mark)
        if not ev:
            part = [x for line in part for x in ([line, noise(inv, r.choice(NOISE), mark)] if r.random() < per and " | " not in line else [line])]
        used = sum(size(x) for x in part)
        if recs and total + used > budget * 1.3:
            break
        lines += part
        recs += new
        total += used
    facts = [(e, a, v) for e, f in recs for a, v in f.items()]
    r.shuffle(facts)
    asks = EVAL_QUESTIONS if ev else QUESTIONS
    return lines, [(put(r.choice(asks), mark, E=e, A=a, N=inv.name()), v) for e, a, v in facts]
