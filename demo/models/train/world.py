"""The generated harbour world: log books, manifests, letters, stories and talk, with questions and answers.

What this is: a seeded generator of documents as token ids with a loss weight per token, for one side of the split
(training or evaluation: other names, other numbers, other sentence templates).
What it does not do: it trains nothing and scores nothing; the evaluation set is put together in evalset.py.
"""

import random
import re

import foreign
import forms
import prose
import templates as T
import words as W

# Marks inside a text: what is drawn at random here (nobody can predict it), and what is an answer.
DRAWN, ANSWER, PLAIN = "\x01", "\x03", "\x02"
_MARKS = re.compile("[\x01\x02\x03]")
_AN = re.compile(r"\b([Aa]) (\x01?[aeiouAEIOU])")
W_DRAWN, W_TEXT, W_STORY = 0.08, 0.3, 1.0
W_FIRST, W_ANSWER, W_END = 8.0, 1.5, 4.0  # the token with which a value begins is the one that must be found; the rest follows it

ATTRIBUTES = {
    "ship": {
        "pass code": "code",
        "berth": "number",
        "cargo": "good",
        "master": "first",
        "home port": "place",
        "flag colour": "colour",
        "sailing time": "time",
        "pilot": "first",
        "seal number": "code",
        "weight in tons": "number",
    },
    "person": {
        "trade": "trade",
        "locker number": "number",
        "badge number": "code",
        "home village": "place",
        "favourite drink": "drink",
        "house number": "number",
    },
    "store": {
        "keeper": "first",
        "door colour": "colour",
        "key number": "number",
        "gate code": "code",
        "closing time": "time",
    },
}
OPEN_KINDS = {"code", "number", "first", "place", "time"}
CLOSED = {"good": W.GOODS, "colour": W.COLOURS, "trade": W.TRADES, "drink": W.DRINKS}
STORE_FORMS = ["the {N} store", "the {N} lighthouse", "the {N} shed", "the {N} boathouse"]


def mark(text, kind=DRAWN):
    return kind + text + PLAIN


def unmark(text):
    return _MARKS.sub("", text)


def capital(text):
    """Capitalises the first letter, which may stand after a mark."""
    for i, c in enumerate(text):
        if c.isalpha():
            return text[:i] + c.upper() + text[i + 1 :]
        if c not in "\x01\x02\x03":
            return text
    return text


class Entity:
    """A ship, person or store with its facts: attribute -> list of values, the newest last."""

    def __init__(self, kind, name, form):
        self.kind, self.name, self.form = kind, name, form
        self.facts = {}
        self.asked = {}


class World:
    """Everything that one document speaks of. `ev` picks the side of the split."""

    def __init__(self, rng, ev):
        self.rng, self.ev, self.side = rng, ev, 1 if ev else 0
        self.pool = W.Pool(rng, ev)
        self.entities = []
        self.cast = {"first": [], "place": []}
        self.last = None

    def pick(self, table):
        """A template of this side."""
        return self.rng.choice(table[self.side])

    def free(self, share):
        """Whether to say something in a form put together from parts: for training only."""
        return not self.ev and self.rng.random() < share

    # -- things and facts --
    def entity(self, kind=None):
        r = self.rng
        kind = kind or r.choices(["ship", "person", "store"], [6, 2, 2])[0]
        if kind == "ship":
            e = Entity(kind, self.pool.ship(), r.choice(W.SHIP_KINDS))
        elif kind == "person":
            e = Entity(kind, self.pool.person(), "")
        else:
            e = Entity(kind, self.pool.place(), r.choice(STORE_FORMS))
        self.entities.append(e)
        return e

    def say(self, e, kind=DRAWN):
        """A noun phrase for an entity."""
        name = mark(e.name, kind) if kind else e.name
        if e.kind == "ship":
            return "the " + e.form + " " + name if self.rng.random() < 0.5 else "the " + name
        if e.kind == "store":
            return e.form.replace("{N}", name)
        return name

    def value(self, kind):
        if kind in CLOSED:
            return self.rng.choice(CLOSED[kind])
        return getattr(self.pool, kind)()

    def new_fact(self, e, attr=None):
        free = [a for a in ATTRIBUTES[e.kind] if a not in e.facts]
        attr = attr or self.rng.choice(free)
        e.facts[attr] = [self.value(ATTRIBUTES[e.kind][attr])]
        return attr

    def change(self, e, attr):
        old = e.facts[attr][-1]
        new = old
        while new == old:
            new = self.value(ATTRIBUTES[e.kind][attr])
        e.facts[attr].append(new)

    # -- sentences --
    def fill(self, template, **slots):
        """Fills a template; slots not given are drawn."""
        out = re.sub(r"\{(\w+)\}", lambda m: slots.get(m.group(1)) or self.draw(m.group(1)), template)
        return capital(_AN.sub(r"\1n \2", out))

    def extra(self, kind, most):
        """A name of somebody or some place that no question asks about; such names come again in one document."""
        cast = self.cast[kind]
        others = [name for name in cast if name != self.last]
        again = len(cast) >= most or (others and self.rng.random() < 0.4)
        if not again:
            cast.append(getattr(self.pool, kind)())
        self.last = self.rng.choice(others) if again else cast[-1]
        return self.last if again else mark(self.last)

    def draw(self, slot):
        r = self.rng
        simple = {"t": W.THINGS, "a": W.ANIMALS, "j": W.ADJ, "g": W.GOODS, "c": W.COLOURS, "D": W.DAYS, "d": W.PARTS,
                  "n": W.NUMBERS, "Q": W.PIERS, "r": W.TRADES, "k": W.SHIP_KINDS, "b": W.DRINKS, "w2": W.WEATHER}  # fmt: skip
        if slot in simple:
            return r.choice(simple[slot])
        if slot in ("W", "w1"):
            return capital(r.choice(W.WEATHER))
        if slot == "x":
            return r.choice(["cheese", "honey", "apples", "butter", "herring", "cod"])
        if slot in ("P", "H", "F"):
            return self.extra("first", 12)
        if slot == "S":
            return mark(self.pool.ship())
        if slot == "L":
            return self.extra("place", 5)
        if slot == "T":
            return mark("%02d:%02d" % (r.randrange(24), r.randrange(60)))
        raise KeyError("no such slot: " + slot)

    def state(self, e, attr):
        if self.free(0.5):
            return self.fill(forms.state(self.rng), E=self.say(e), A=attr, V=mark(e.facts[attr][-1]))
        special = T.STATE_BY_ATTR[self.side].get(attr)
        table = special if special and self.rng.random() < 0.35 else T.STATE[self.side]
        return self.fill(self.rng.choice(table), E=self.say(e), A=attr, V=mark(e.facts[attr][-1]))

    def restate(self, e, attr):
        """The same fact said again, its value weighted as an answer (templates that put the value first are left out)."""
        template = self.pick(T.STATE)
        while template.find("{V}") < max(template.find("{E}"), template.find("{A}")):
            template = self.pick(T.STATE)
        return self.fill(template, E=self.say(e, None), A=attr, V=mark(e.facts[attr][-1], ANSWER))

    def state_change(self, e, attr):
        old, new = e.facts[attr][-2:]
        template = forms.change(self.rng) if self.free(0.5) else self.pick(T.CHANGE)
        return self.fill(template, E=self.say(e, None), A=attr, V=mark(new), O=old)

    def ask(self, e, attr):
        if self.free(0.5):
            return self.fill(forms.ask(self.rng), E=self.say(e, None), A=attr)
        special = T.ASK_BY_ATTR[self.side].get(attr)
        table = special if special and self.rng.random() < 0.3 else T.ASK[self.side]
        return self.fill(self.rng.choice(table), E=self.say(e, None), A=attr)

    def clause(self):
        """One free clause, without capital and full stop."""
        r = self.rng
        does = r.choice(T.DOES) + " " + r.choice(T.OBJECTS) if r.random() < 0.6 else r.choice(T.IS_DOING)
        parts = [r.choice(T.SUBJECTS), does]
        if r.random() < 0.6:
            parts.append(r.choice(T.WHERE))
        if r.random() < 0.4:
            when = r.choice(T.WHEN)
            parts = parts + [when] if r.random() < 0.5 else [when] + parts
        return " ".join(parts)

    def free_sentence(self):
        r = self.rng
        text = self.clause()
        if r.random() < 0.4:
            link = r.choice(T.LINKS)
            text += link if link[0] == "," else " " + link
            text += " " + (r.choice(W.WEATHER) if r.random() < 0.3 else self.clause())
        if r.random() < 0.15:
            text = "{P} " + r.choice(["said", "wrote", "thought", "heard"]) + " that " + text
        return self.fill(text + ".")

    def prose(self):
        """A sentence of everyday English."""
        return sentence_capitals(self.fill(prose.text(self.rng)))

    def filler(self):
        if self.free(0.4):
            return self.prose()
        if self.free(0.4):
            return self.free_sentence()
        text = self.fill(self.pick(T.FILLER))
        text = re.sub(r"([.!?] )([a-z])", lambda m: m.group(1) + m.group(2).upper(), text)
        return re.sub(r"^(\x01\d\d:\d\d\x02 )([A-Z])", lambda m: m.group(1) + m.group(2).upper(), text)


def sentence_capitals(text):
    return re.sub(r"([.!?] )([a-z])", lambda m: m.group(1) + m.group(2).upper(), text)


def join(items):
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


class Doc:
    """Token ids with loss weights, built line by line."""

    def __init__(self, tok):
        self.tok, self.ids, self.weights = tok, [], []

    def special(self, i, weight=0.2):
        self.ids.append(i)
        self.weights.append(weight)

    def add(self, text, base=W_TEXT):
        """Adds a marked text. It must start where a pre-token starts (after a newline, a special, or with a space)."""
        plain, weight, w, first = [], [], base, False
        for c in text:
            if c == DRAWN:
                w = W_DRAWN
            elif c == ANSWER:
                w, first = W_ANSWER, True
            elif c == PLAIN:
                w = base
            else:
                plain.append(c)
                if w == W_ANSWER and c in "\n.":
                    weight.append(W_END)
                    continue
                weight.append(W_FIRST if w == W_ANSWER and first and c != " " else w)
                first = w == W_ANSWER and (c == " " if first else "".join(plain[-2:]) in ("d ", ", "))
        at = 0
        tokens = self.tok.tokens
        for i in self.tok.encode_plain("".join(plain)):
            span = weight[at : at + len(tokens[i])]
            at += len(tokens[i])
            self.ids.append(i)
            self.weights.append(W_FIRST if W_FIRST in span else span[-1])

    def strip_newline(self):
        """Takes the line end off again, as at the end of a chat message."""
        text = self.tok.decode(self.ids[-1:])
        if text.endswith("\n"):
            self.ids.pop()
            weight = self.weights.pop()
            rest = self.tok.encode_plain(text[:-1])
            self.ids += rest
            self.weights += [weight] * len(rest)

    def __len__(self):
        return len(self.ids)


# ---- questions over a world --------------------------------------------------------------------------------------
def unasked(w):
    """Facts whose newest value has not been asked for yet."""
    return [(e, a) for e in w.entities for a in e.facts if e.asked.get(a) != e.facts[a][-1]]


def ask_fact(w):
    """(question, answer) for one fact, not asked before where possible; changed facts come more often."""
    r = w.rng
    known = unasked(w) or [(e, a) for e in w.entities for a in e.facts]
    changed = [(e, a) for e, a in known if len(e.facts[a]) > 1]
    e, a = r.choice(changed) if changed and r.random() < 0.4 else r.choice(known)
    e.asked[a] = e.facts[a][-1]
    if r.random() < (0.1 if w.ev else 0.25):
        return ask_two(w, e, a)
    return w.ask(e, a), e.facts[a][-1]


def ask_two(w, e, a):
    r = w.rng
    other = [b for b in e.facts if b != a]
    if other and r.random() < 0.5:
        b = r.choice(other)
        template = forms.ask_two(r, True) if w.free(0.6) else w.pick(T.ASK_TWO_ATTR)
        q = w.fill(template, E=w.say(e, None), A=a, B=b)
        return q, e.facts[a][-1] + " and " + e.facts[b][-1]
    peers = [f for f in w.entities if f is not e and a in f.facts and f.kind == e.kind]
    if not peers:
        return w.ask(e, a), e.facts[a][-1]
    f = r.choice(peers)
    q = w.fill(forms.ask_two(r, False) if w.free(0.6) else w.pick(T.ASK_TWO), E=w.say(e, None), E2=w.say(f, None), A=a)
    return q, e.facts[a][-1] + " and " + f.facts[a][-1]


QA_FORMS = [("Question: ", "Answer:")] * 5 + [("Q: ", "A:")] * 2


def add_qa(doc, form, question, answer):
    doc.add(form[0] + question + "\n")
    doc.add(form[1] + mark(" " + answer + "\n", ANSWER))


def add_turn(doc, role, text, base=W_TEXT):
    doc.special(doc.tok.im_start)
    doc.add(role + "\n" + text, base)
    doc.special(doc.tok.im_end, 1.0)
    doc.add("\n")


def add_chat_qa(doc, question, answer):
    doc.special(doc.tok.im_start)
    doc.add("user\n" + question)
    doc.special(doc.tok.im_end, 0.3)
    doc.add("\n")
    add_answer_turn(doc, answer)


def chat_answer(answer):
    """The sentence in which the chat gives a value; the value so has its usual form, after a space."""
    return ("They are " if " and " in answer else "It is ") + answer + "."


def add_answer_turn(doc, answer):
    doc.special(doc.tok.im_start)
    doc.add("assistant\n")
    lead, value = chat_answer(answer).split(" ", 2)[:2], " " + answer + "."
    doc.add(" ".join(lead), 1.0)
    doc.add(mark(value, ANSWER))
    doc.special(doc.tok.im_end, W_ANSWER)
    doc.add("\n")


# ---- kinds of documents ----------------------------------------------------------------------------------------
def fact_line(w, density, change_rate):
    """One line of a log book: a new fact, a change, or filler."""
    r = w.rng
    if r.random() > density:
        return w.filler()
    if w.entities and r.random() < change_rate:
        e = r.choice([x for x in w.entities if x.facts])
        a = r.choice(list(e.facts))
        w.change(e, a)
        return w.state_change(e, a)
    if w.entities and r.random() < 0.45:
        e = r.choice(w.entities)
        if len(e.facts) < 4:
            return w.state(e, w.new_fact(e))
    e = w.entity()
    return w.state(e, w.new_fact(e))


def facts_doc(w, doc, budget, chat):
    """A log book with questions between and after its lines. Ends near `budget` tokens."""
    r = w.rng
    density = r.choice([0.4, 0.6, 0.8, 1.0, 1.0])
    change_rate = r.choice([0.0, 0.1, 0.25, 0.4])
    tail = r.choice([0.4, 0.5, 0.6])
    inter = 0.0 if chat else r.choice([0.0, 0.15, 0.4])
    sep = r.choice(["\n", "\n", "\n", " "])
    if chat:
        open_chat(w, doc)
    elif r.random() < 0.6:
        doc.add(w.fill(w.pick(T.HEAD)) + "\n")
    start, facts, first = len(doc), 0, True
    form = r.choice(QA_FORMS)
    while len(doc) - start < (budget - 12) * (1 - tail) or facts == 0:
        line = fact_line(w, density if facts else 1.0, change_rate)
        facts += 1
        if sep == " " and not chat:
            doc.add(("" if first else " ") + line)
            first = False
            continue
        doc.add(line + "\n")
        while r.random() < inter and len(doc) < budget - 40:
            add_qa(doc, form, *ask_fact(w))
    if chat:
        close_facts(w, doc, chat)
    elif sep == " ":
        doc.add("\n")
    while len(doc) < budget - 28 and (unasked(w) or r.random() < 0.3):
        if chat:
            add_chat_qa(doc, *ask_fact(w))
        else:
            add_qa(doc, form, *ask_fact(w))
        if chat and r.random() < 0.06:
            e = r.choice(w.entities)
            a = r.choice(list(e.facts))
            w.change(e, a)
            add_turn(doc, "user", w.state_change(e, a))
            add_turn(doc, "assistant", r.choice(["Noted.", "I have written it down.", "Good, that is noted."]), 1.0)


def echo_doc(w, doc, budget):
    """Facts, then the same facts again, word for word or in other words: the plainest lesson in looking back."""
    r = w.rng
    exact = r.random() < 0.5
    facts = []
    end = len(doc) + (budget - len(doc)) * 0.5 - 10
    while not facts or len(doc) < end:
        e = w.entity()
        a = w.new_fact(e)
        form = [r.choice(T.STATE[w.side])]
        while form[0].find("{V}") < max(form[0].find("{E}"), form[0].find("{A}")):
            form = [r.choice(T.STATE[w.side])]
        facts.append((e, a, form[0]))
        doc.add(w.fill(form[0], E=w.say(e), A=a, V=mark(e.facts[a][-1])) + "\n")
    doc.add(r.choice(["Once more:", "Read it again:", "The same in other words:"]) + "\n")
    if r.random() < 0.5:
        r.shuffle(facts)
    for e, a, form in facts:
        again = w.fill(form, E=w.say(e, None), A=a, V=mark(e.facts[a][-1], ANSWER)) if exact else w.restate(e, a)
        doc.add(again + "\n")


DRILL = ["{E}: {A} {V}", "{A} of {E}: {V}", "the {A} of {E} is {V}", "{E}, {A}, {V}", "{E} has the {A} {V}"]


def drill_doc(w, doc, budget):
    """The densest lesson: few attributes, several things, each value once as a fact and once as an answer."""
    r = w.rng
    kind = r.choice(["ship", "ship", "person", "store"])
    attrs = r.sample([a for a, k in ATTRIBUTES[kind].items() if k in OPEN_KINDS], r.choice([1, 2, 2, 3]))
    facts, natural = [], r.random() < 0.5
    end = len(doc) + (budget - len(doc)) * (0.6 if natural else 0.5) - 8
    while not facts or len(doc) < end:
        e = w.entity(kind)
        e.form = W.SHIP_KINDS[0] if kind == "ship" else e.form
        for a in attrs:
            w.new_fact(e, a)
            facts.append((e, a))
            terse = w.fill(r.choice(DRILL), E=w.say(e), A=a, V=mark(e.facts[a][-1])) + "."
            doc.add((w.state(e, a) if natural else terse) + "\n")
    doc.add("Once more:\n")
    r.shuffle(facts)
    for e, a in facts:
        doc.add(w.fill(r.choice(DRILL), E=w.say(e, None), A=a, V=mark(e.facts[a][-1], ANSWER)) + ".\n")


def open_chat(w, doc):
    """Starts the turn that holds the lines: the system prompt, or the first user turn."""
    doc.chat_role = "system" if w.rng.random() < 0.6 else "user"
    doc.special(doc.tok.im_start)
    doc.add(doc.chat_role + "\n")
    if doc.chat_role == "system":
        doc.add(w.pick(T.SYSTEM) + "\n")


def close_facts(w, doc, chat):
    """Ends that turn; a user turn ends with the first question."""
    if doc.chat_role == "system":
        doc.strip_newline()
        doc.special(doc.tok.im_end, 0.2)
        doc.add("\n")
        return
    question, answer = ask_fact(w)
    doc.add(question)
    doc.special(doc.tok.im_end, 0.2)
    doc.add("\n")
    add_answer_turn(doc, answer)


def list_world(w, ships, piers):
    """Lines that say where ships lie and what they carry, in mixed order; returns (lines, questions)."""
    r = w.rng
    quays = r.sample(W.PIERS, piers)
    at, goods, lines = {q: [] for q in quays}, [], []
    for _ in range(ships):
        e = w.entity("ship")
        if r.random() < 0.65:
            q = r.choice(quays)
            at[q].append(e.name)
            lines.append(w.fill(forms.lies(r) if w.free(0.6) else w.pick(T.LIES), E=w.say(e), Q=q))
        else:
            items = r.sample(W.GOODS, r.randrange(2, 5))
            goods.append((e, items))
            lines.append(w.fill(forms.carries(r) if w.free(0.5) else w.pick(T.CARRIES), E=w.say(e), L=join(items)))
    questions = []
    for q in quays:
        if at[q]:
            questions.append((w.fill(forms.ask_list(r) if w.free(0.6) else w.pick(T.ASK_LIST), Q=q), join(at[q])))
            questions.append((w.fill(forms.ask_count(r) if w.free(0.6) else w.pick(T.ASK_COUNT), Q=q), str(len(at[q]))))
    for e, items in goods:
        questions.append((w.fill(forms.ask_goods(r) if w.free(0.6) else w.pick(T.ASK_GOODS), E=w.say(e, None)), join(items)))
        questions.append((w.fill(forms.ask_goods_count(r) if w.free(0.6) else w.pick(T.ASK_GOODS_COUNT), E=w.say(e, None)), str(len(items))))
    return lines, questions


def list_doc(w, doc, budget, chat):
    r = w.rng
    ships = r.randrange(3, max(4, min(14, budget // 22)))
    lines, questions = list_world(w, ships, r.randrange(1, 5))
    r.shuffle(questions)
    fill = r.choice([0.0, 0.2])
    if chat:
        open_chat(w, doc)
        doc.chat_role = "system"
    for line in lines:
        doc.add(line + "\n")
        if r.random() < fill:
            doc.add(w.filler() + "\n")
    if chat:
        doc.strip_newline()
        doc.special(doc.tok.im_end, 0.2)
        doc.add("\n")
    form = r.choice(QA_FORMS)
    for question, answer in questions:
        if len(doc) > budget - 30:
            break
        if chat:
            add_chat_qa(doc, question, answer)
        else:
            add_qa(doc, form, question, answer)


def story_slots(w):
    """Hero, friend, ship and place of one story; each keeps its name throughout."""
    r = w.rng
    slots = {"H": w.pool.first(), "F": w.pool.first(), "S": w.pool.ship(), "L": w.pool.place(),
             "k": r.choice(W.SHIP_KINDS), "t": r.choice(W.THINGS), "a": r.choice(W.ANIMALS), "Q": r.choice(W.PIERS),
             "r": r.choice(W.TRADES)}  # fmt: skip
    return slots


def plot_text(w, slots, story):
    """A story with a plot, on one hero, one friend and one thing to its end (training side only)."""
    r = w.rng
    slots = {**slots, "g": r.choice(W.GOODS), "c": r.choice(W.COLOURS), "j": r.choice(W.ADJ), "b": r.choice(W.DRINKS),
             "x": w.draw("x")}  # fmt: skip
    text = " ".join(sentence_capitals(w.fill(p, **slots)) for p in story(r))
    return marked_names(text, slots)


def marked_names(text, slots):
    """The first mention of a name is the drawn one."""
    for key in ("H", "F", "S", "L"):
        text = text.replace(slots[key], mark(slots[key]), 1)
    return text


def story_text(w, slots=None):
    r = w.rng
    slots = slots or story_slots(w)
    if w.free(0.7):
        return plot_text(w, slots, prose.late_story if w.free(0.5) else prose.story)
    odd = w.free(0.5)
    plan = ([] if odd else ["open", "trouble"]) + ["act"] * r.randrange(2, 5)
    if r.random() < 0.3:
        plan += ["trouble"] + ["act"] * r.randrange(2, 4)
    plan += ["turn", "end"]
    parts, used = [w.fill(text, **slots) for text in prose.openings(r)] if odd else [], set()
    for scene in plan:
        template = w.pick(T.STORY[scene])
        if template in used:
            continue
        used.add(template)
        parts.append(w.fill(template, **slots))
        if scene in ("trouble", "act") and not w.ev and r.random() < 0.25:
            parts.append(w.prose() if w.free(0.5) else w.free_sentence())
    return marked_names(" ".join(map(sentence_capitals, parts)), slots)


def story_doc(w, doc, budget):
    doc.add(story_text(w) + "\n", W_STORY)


def letter_doc(w, doc, budget):
    r = w.rng
    slots = {"H": w.pool.first(), "F": w.pool.first()}
    head, first = w.pick(T.LETTER_OPEN).split("|")
    doc.add(w.fill(head) + "\n", W_STORY)
    body = [first] + [w.pick(T.LETTER_BODY) for _ in range(r.randrange(2, 6))]
    body = list(dict.fromkeys(body))
    if w.free(0.7):
        body[1:1] = [prose.text(r) for _ in range(r.randrange(1, 6))]
    doc.add(" ".join(sentence_capitals(w.fill(s, **slots)) for s in body) + "\n", W_STORY)
    doc.add(w.fill(w.pick(T.LETTER_END), **slots).replace("|", "\n") + "\n", W_STORY)


STORY_WISHES = """Tell me a story about a {t}.|Please tell a story about a {a}.|Tell me about {H} and {F}.|A story about a {r}, please.
Can you tell me a story about the {k} {S}?|Write a story about {H}.|Tell me a story about {L}.|I want a story about {H} the {r}.
What happened to {H} in {L}?|Make up a story about a {r} and a {t}.|Tell me how {H} met {F}.""".replace("\n", "|").split("|")


def talk_doc(w, doc, budget):
    """Small talk, stories on request; with or without a system prompt."""
    r = w.rng
    if r.random() < 0.4:
        add_turn(doc, "system", w.pick(T.SYSTEM))
    for _ in range(r.randrange(1, 5)):
        if r.random() < 0.4:
            slots = story_slots(w)
            add_turn(doc, "user", w.fill(r.choice(STORY_WISHES), **slots) if w.free(0.5) else w.pick(T.ASK_STORY))
            add_turn(doc, "assistant", story_text(w, slots), W_STORY)
            continue
        _, asks, answers = r.choices(T.TALK, [3, 3, 2] + [1] * (len(T.TALK) - 3))[0]
        add_turn(doc, "user", r.choice(asks.split("|")))
        add_turn(doc, "assistant", r.choice(answers.split("\n")), 1.0)


def log_doc(w, doc, budget):
    doc.add(w.fill(w.pick(T.HEAD)) + "\n")
    for _ in range(w.rng.randrange(4, 16)):
        doc.add(w.filler() + "\n")


def prose_doc(w, doc, budget):
    """A page of everyday sentences."""
    end = len(doc) + min(budget, w.rng.randrange(60, 300)) - 25
    sep = w.rng.choice([" ", " ", "\n"])
    first = True
    while len(doc) < end:
        doc.add(("" if first or sep == "\n" else sep) + w.prose() + ("\n" if sep == "\n" else ""), W_STORY)
        first = False
    if sep == " ":
        doc.add("\n")


def foreign_doc(w, doc, budget, chat):
    """A page about other things than the harbour's, and questions on it."""
    r = w.rng
    size = lambda text: len(doc.tok.encode_plain(unmark(text) + "\n"))
    end = len(doc) + budget
    lines, questions = foreign.page(r, w.ev, max(20, (budget - 30) * r.choice([0.3, 0.5, 0.6])), mark, size)
    if chat:
        doc.special(doc.tok.im_start)
        doc.add("system\n" + (r.choice(foreign.CALLS) + "\n" if r.random() < 0.7 else ""))
    for line in lines:
        doc.add(line + "\n")
    if chat:
        doc.strip_newline()
        doc.special(doc.tok.im_end, 0.2)
        doc.add("\n")
    form = r.choice(foreign.ASKERS)
    for question, answer in questions:
        if len(doc) > end - 24:
            break
        add_chat_qa(doc, question, answer) if chat else add_qa(doc, form, question, answer)


MIX = {"facts": 22, "echo": 2, "drill": 4, "copy": 0, "facts_chat": 10, "list": 12, "list_chat": 4, "foreign": 8, "foreign_chat": 3,
       "story": 26, "prose": 4, "letter": 4, "talk": 9, "log": 3}


def copy_doc(doc, rng, budget):
    """Random tokens in short runs that come again and again: no language, only the habit of looking back for what
    followed last time. A few hundred steps of this at the start save thousands later."""
    size = len(doc.tok.tokens) - 3
    runs = [[rng.randrange(size) for _ in range(rng.randrange(3, 14))] for _ in range(rng.randrange(3, 9))]
    seen = [False] * len(runs)
    end = len(doc) + budget
    while len(doc) < end:
        i = rng.randrange(len(runs))
        doc.ids += runs[i]
        doc.weights += [0.02] + [1.0 if seen[i] else 0.02] * (len(runs[i]) - 1)
        seen[i] = True


def add_document(doc, rng, kind, budget, ev=False):
    if kind == "copy":
        return copy_doc(doc, rng, budget)
    w = World(rng, ev)
    if kind in ("echo", "drill"):
        (echo_doc if kind == "echo" else drill_doc)(w, doc, len(doc) + budget)
    elif kind.startswith("facts"):
        facts_doc(w, doc, len(doc) + budget, kind == "facts_chat")
    elif kind.startswith("foreign"):
        foreign_doc(w, doc, budget, kind == "foreign_chat")
    elif kind.startswith("list"):
        list_doc(w, doc, len(doc) + budget, kind == "list_chat")
    else:
        {"story": story_doc, "letter": letter_doc, "talk": talk_doc, "log": log_doc, "prose": prose_doc}[kind](w, doc, budget)
    doc.special(doc.tok.eos, 1.0 if kind == "story" else 0.3)


def training_row(tok, seed, length, mix=None, facts_budget=None):
    """One row of length + 1 ids and weights, from packed documents. The same seed gives the same row."""
    rng = random.Random(seed)
    mix = {**MIX, **(mix or {})}
    doc = Doc(tok)
    kinds, shares = list(mix), list(mix.values())
    while len(doc) <= length:
        left = length + 1 - len(doc)
        if left < 90:
            add_document(doc, rng, rng.choice(["letter", "log", "talk"]), left)
            continue
        kind = rng.choices(kinds, shares)[0]
        if kind == "copy":
            add_document(doc, rng, kind, left)
            continue
        cap = facts_budget(rng) if facts_budget else left
        add_document(doc, rng, kind, min(left, cap) if kind[0] in "fed" else min(left, 400))
    return doc.ids[: length + 1], doc.weights[: length + 1]


class _TextOnly:
    """Stands in for the tokenizer while the tokenizer is being trained: one token per character."""

    im_start = im_end = eos = 0
    tokens = [chr(i) for i in range(128)]

    def encode_plain(self, text):
        return [ord(c) for c in text]

    def decode(self, ids):
        return "".join(chr(i) for i in ids)


def plain_sample(documents, seed, budget=1200):
    """Texts without marks or specials, from which the vocabulary is learned (training side only)."""
    rng = random.Random(seed)
    out = []
    for _ in range(documents):
        doc = Doc(_TextOnly())
        add_document(doc, rng, rng.choices(list(MIX), list(MIX.values()))[0], budget)
        out.append("".join(chr(i) for i in doc.ids if i))
    return out


if __name__ == "__main__":
    import sys

    import tokenizer

    tok = tokenizer.Tokenizer.load(sys.argv[1] if len(sys.argv) > 1 else "tokenizer.json")
    for s in range(3):
        ids, weights = training_row(tok, "show%d" % s, 700)
        print(tok.decode(ids), "\n" + "=" * 80)
