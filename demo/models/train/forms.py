"""Sentences about one fact, a list or a question, put together from parts (training side only).

What this is: far more ways to say the same thing than the tables in templates.py hold, so that a model learns what a
sentence says and not the sentence. Slots are those of templates.py. The value comes after the thing it belongs to.
What it does not do: the evaluation side never draws from here.
"""

LEADS = """{P} noted that|as the {r} said,|it is written in the {c} book that|we were told by the {r} that|word came from {L} that|it is certain that|as far as we know,|{P} and {P} agree that|a note on the door says that|the {r} called out that|in this year|at this hour|for the record,|someone scratched into the wood that|the boy from {L} reports that|by order of the {r},|you will see that|it turned out that|let it be known that|to be exact,|the wall of the shed tells us that|it has been settled that|nobody here doubts that|from the {d} on|as of {D}|a sailor swore that|my notes show that|after a short talk it was clear that|the new sheet shows that|in plain words,|rumour has it that|this much is sure:|{P} shouted that|{P} found out that|it stands in chalk that|so far|once again,|there it is:""".split("|")
CORES = """the {A} of {E} is {V}|{E} has the {A} {V}|for {E} the {A} is {V}|{E} goes with the {A} {V}|the {A} belonging to {E} is {V}|the {A} of {E} reads {V}|the {A} chosen for {E} is {V}|{E} was given the {A} {V}|{E} received {V} as its {A}|{E} holds the {A} {V}|the {A} of {E} should be {V}|the {A} of {E} came to be {V}|{E} shows the {A} {V}|{E} bears the {A} {V}|the {A} of {E} was fixed as {V}|{E} is down with the {A} {V}|{E}, whose {A} is {V}, is well known|in the case of {E} the {A} is {V}|the {A} that goes with {E} is {V}|{E} counts {V} as its {A}|the {A} under the name {E} is {V}|{E} stands with the {A} {V}|{E} now has {V} for a {A}|the {A} of {E} remains {V}|the {A} of {E} happens to be {V}|we have {E} with the {A} {V}|the {A} set down for {E} is {V}|{E} is marked with the {A} {V}|{E} answers to the {A} {V}""".split("|")
TAILS = """|||||||, and nobody doubts it|, which is worth knowing|, so they say|, as before|, no more and no less|, and that is all|, according to {P}|, as {P} can tell you|, at least since {D}|, for now|; {w2}|, and {P} was there to hear it|, said the {r}""".split("|")
TERSE = """{E} / {A} / {V}|{A}, {E}: {V}|{E} - {A} - {V}|{E} ({A} {V})|{E} = {A} {V}|{A} of {E} = {V}|item: {E}, {A} {V}|{E}; {A}: {V}|re {E}: the {A}, {V}|{E} | {A} | {V}""".replace(" | ", "\0").split("|")
TERSE = [t.replace("\0", " | ") for t in TERSE]

CHANGE_LEADS = """since {D}|as of today|from this {d} on|by order of {P}|after some thought|at the wish of the {r}|because of a mistake|this {d}|once more|to everyone's surprise|by mistake it was wrong, so|later on|a little later|an hour ago|as we heard from {P}""".split("|")
CHANGE_CORES = """the {A} of {E} became {V}|{E} got another {A}, {V}|the {A} of {E} went from {O} to {V}|the {A} of {E} is {V} and not {O} any more|{E} gave up the {A} {O} and took {V}|{E} now goes with the {A} {V}|instead of {O} the {A} of {E} is {V}|the {A} of {E} had to be changed to {V}|{E} traded its {A} for {V}|{E} lost the {A} {O} and has {V} instead|the {A} {O} of {E} was replaced by {V}|the {A} of {E} should now be given as {V}|someone altered the {A} of {E}, and today it is {V}|the {A} of {E} was {O} until now, but it is {V}|the {A} of {E} moved on to {V}|the latest {A} of {E} is {V}|the correct {A} of {E} is {V}|{E} has a fresh {A}: {V}|we rubbed out the {A} {O} of {E} and put {V}|forget the old {A} of {E}; take {V}|do not use {O} for {E} again, the {A} is {V}|the {A} of {E} has turned into {V}|{P} replaced the {A} of {E} with {V}|the {A} of {E} was put right and is {V}""".split("|")

ASK_LEADS = """||||please |quickly, |one more thing: |and |well, |sir, |my friend, |then |now |tell us, |excuse me, |before you go, |so, |last question: |a question from {P}: |{P} asks: |hello, |for my list: """.split("|")
ASK_CORES = """what is the {A} of {E}|what {A} does {E} have|which {A} goes with {E}|what do we have as the {A} of {E}|what is the present {A} of {E}|{E} has which {A}|what would you say is the {A} of {E}|is there a {A} for {E}, and which|do you remember the {A} of {E}|what did they write as the {A} of {E}|what is known of the {A} of {E}|may I ask for the {A} of {E}|what is given for {E} as the {A}|can anyone tell me the {A} of {E}|how does the {A} of {E} read|what do the lines say about the {A} of {E}|what {A} was {E} given|do we know which {A} {E} has|would you read out the {A} of {E}|what stands there as the {A} of {E}|with which {A} is {E} marked|what is the name or number of the {A} of {E}""".split("|")
ASK_ORDERS = """{l} the {A} of {E}|{l} me the {A} of {E}|{l} the {A} that goes with {E}|{l} the {A} which belongs to {E}|{l} what you know about the {A} of {E}|{l} which {A} is in the notes for {E}|{l} out what the {A} of {E} is|{l} the right {A} for {E}""".split("|")
ORDER_VERBS = "tell|give|show|find|name|write|repeat|state|bring|report|say|call out|copy|quote|get|read".split("|")

TWO_LEADS = """give|tell me|find|name|say|state|write down|I want|I need|we need|show me|copy|report|read out|{P} needs|the {r} asks for|they want to know|what are|do you have|can you give|please get""".split("|")
TWO_CORES = """the {A} of {E} and the {A} of {E2}|both the {A} of {E} and the {A} of {E2}|two things, the {A} of {E} and the {A} of {E2}|first the {A} of {E}, then the {A} of {E2}|the {A} of {E} and also the {A} of {E2}|the {A} of {E} together with the {A} of {E2}|the {A} for both {E} and {E2}|the two values: {A} of {E}, {A} of {E2}|the {A} of {E}, and after it the {A} of {E2}|two answers, one for the {A} of {E} and one for the {A} of {E2}""".split("|")
TWO_ATTR_CORES = """the {A} and the {B} of {E}|both the {A} and the {B} of {E}|two things about {E}, the {A} and the {B}|first the {A} of {E}, then its {B}|the {A} of {E} and also the {B}|the {A} of {E} together with its {B}|for {E} the {A} and the {B}|the two values of {E}: {A}, {B}|the {A} that {E} has, and its {B} as well|two answers on {E}, its {A} and its {B}""".split("|")

LIE_VERBS = """lies|is tied up|is moored|rests|waits|took a place|dropped anchor|found room|has moved|came alongside|was brought in|is now|stays|was sent|has arrived|was seen|is berthed|stopped|is held|has a place|was towed in|stands|anchored|spends the night|can be found|settled|is unloading|is loading|turned in|is fastened""".split("|")
LIE_PREPS = "at|at|at|by|beside|along|near|close to|next to".split("|")
LIE_SHAPES = """{E} {v} {p} the {Q}|{p} the {Q} {E} {v}|{P} says that {E} {v} {p} the {Q}|{E} {v} {p} the {Q} since {T}|since {D} {E} {v} {p} the {Q}|look {p} the {Q}, and you see {E}|the {Q} has taken in {E}|there is room {p} the {Q} for {E}, and it is there now|{E}: {Q}|{Q}: {E}|we found {E} {p} the {Q}|{E} {v} {p} the {Q} with torn sails|{E}, with its crew, {v} {p} the {Q}|{p} the {Q} you will find {E}|the place of {E} is {p} the {Q}|as for {E}, it {v} {p} the {Q}""".split("|")
LIST_LEADS = """which ships|what ships|which of the ships|all ships that|every ship that|the ships which|tell me what ships|write down which ships|I want to know which ships|name the ships that|what are the names of the ships that|read me the ships which|can you list the ships that|who of them""".split("|")
LIST_VERBS = "lie|are|are tied up|have a place|wait|stay|can be found|are moored|rest|are right now|have come to lie".split("|")
COUNT_LEADS = """how many ships|how many of the ships|count how many ships|what number of ships|tell me how many ships|I need to know how many ships|give the number of ships that""".split("|")
CARRY_SHAPES = """{E} carries {L}|{E} brought {L}|{E} has {L} on board|{E} is loaded with {L}|in {E} there is {L}|{E} came with {L}|{E} takes {L} to sea|from {E} they unloaded {L}|{E} holds {L}|on board of {E} we counted {L}|the load of {E} is {L}|{E}: {L}|{E} is full of {L}|for {E} the paper has {L}|{E} will leave with {L}|the men put {L} into {E}""".split("|")
GOODS_ASK = """what does {E} carry|what is in {E}|which goods are on board of {E}|list the goods of {E}|name all that {E} carries|what was put into {E}|read me the load of {E}|what did {E} bring|write down the goods of {E}|tell me what {E} has on board|what goods does {E} hold""".split("|")
GOODS_COUNT = """how many goods does {E} carry|how many kinds of goods are on {E}|count the goods of {E}|how many goods are in {E}|what is the number of goods in {E}|tell me how many kinds of goods {E} holds""".split("|")


def ended(r, text, marks):
    return text + r.choice(marks)


def sentence(r, text):
    return text if text[-1] in "?!" else text + "."


def state(r):
    if r.random() < 0.12:
        return ended(r, r.choice(TERSE), [".", ".", "", ";"])
    lead = r.choice(LEADS) + " " if r.random() < 0.5 else ""
    return sentence(r, lead + r.choice(CORES) + r.choice(TAILS))


def change(r):
    lead = r.choice(CHANGE_LEADS) + " " if r.random() < 0.45 else ""
    return sentence(r, lead + r.choice(CHANGE_CORES) + r.choice(TAILS))


def ask(r):
    if r.random() < 0.4:
        text = r.choice(ASK_ORDERS).replace("{l}", r.choice(ORDER_VERBS))
        return r.choice(ASK_LEADS) + text + r.choice([".", ".", ", please.", "!", " at once.", " if you can."])
    return r.choice(ASK_LEADS) + r.choice(ASK_CORES) + r.choice(["?", "?", "?", ", please?", " now?", " today?", " in the end?"])


def ask_two(r, same_thing):
    text = r.choice(TWO_LEADS) + " " + r.choice(TWO_ATTR_CORES if same_thing else TWO_CORES)
    asks = text.startswith(("what", "do you", "can you"))
    return text + (r.choice(["?", "?", ", please?"]) if asks else r.choice([".", ".", ", please.", " now."]))


def lies(r):
    text = r.choice(LIE_SHAPES).replace("{v}", r.choice(LIE_VERBS)).replace("{p}", r.choice(LIE_PREPS))
    return sentence(r, (r.choice(LEADS) + " " if r.random() < 0.15 else "") + text)


def _question(r, text):
    asks = text.startswith(("which", "what", "how", "can", "who"))
    return r.choice(ASK_LEADS[:12]) + text + ("?" if asks else r.choice([".", ", please."]))


def ask_list(r):
    lead, verb = r.choice(LIST_LEADS), r.choice(LIST_VERBS)
    return _question(r, "%s %s %s the {Q}" % (lead, verb, r.choice(LIE_PREPS)))


def ask_count(r):
    return _question(r, "%s %s %s the {Q}" % (r.choice(COUNT_LEADS), r.choice(LIST_VERBS), r.choice(LIE_PREPS)))


def carries(r):
    return sentence(r, r.choice(CARRY_SHAPES))


def ask_goods(r):
    return _question(r, r.choice(GOODS_ASK))


def ask_goods_count(r):
    return _question(r, r.choice(GOODS_COUNT))
