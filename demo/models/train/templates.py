"""Sentence templates of the harbour world, for training (index 0) and for evaluation (index 1) apart.

What this is: tables only. In a template {E} is the thing spoken of, {A} the attribute, {V} the value, {O} an
older value. The value comes after the thing it belongs to. Other slots are filled by world.py. No template of the evaluation side occurs on the training side.
"""

# ---- one fact -----------------------------------------------------------------------------------------------
STATE = (
    """The {A} of {E} is {V}.
For {E} the {A} is {V}.
The clerk wrote that the {A} of {E} is {V}.
Note for {E}: {A} {V}.
{E}: {A} {V}.
Remember that the {A} of {E} is {V}.
In the book the {A} of {E} stands as {V}.
The {A} for {E} was given as {V}.
{P} told us that the {A} of {E} is {V}.
We learned today that {E} has this {A}: {V}.
On the board it says that the {A} of {E} is {V}.
{E} was entered with the {A} {V}.
About {E} we know one thing, the {A}, and it is {V}.
When {E} was called, the {A} was read out as {V}.
The {A} that belongs to {E} is {V}.
The master asked for the {A} of {E}, and it was {V}.
{P} wrote down the {A} of {E} as {V}.
As for {E}, the {A} is {V}.
It is known to all that {E} has {V} for its {A}.
The office holds for {E} the {A} {V}.
Keep in mind the {A} of {E}, which is {V}.
At the gate they said that the {A} of {E} would be {V}.
{E} gave its {A} as {V}.
One line in the ledger reads: {E}, {A}, {V}.
According to the book, the {A} of {E} is {V}.
It was found that the {A} of {E} is {V}.
{P} heard that the {A} of {E} was {V}.
Beside the name of {E} stands the {A} {V}.
The watch knows that {E} has the {A} {V}.
Since {D} the {A} of {E} is {V}.
The {A} of {E}, as everyone knows, is {V}.
Written under {E}: {A} {V}.
{P} says: the {A} of {E} is {V}.
If you look for {E}, the {A} is {V}.
{E} came in on {D} with the {A} {V}.
The list gives for {E} the {A} {V}.
There is a note that {E} has as its {A} {V}.
{P} put down the {A} for {E}: {V}.""".split("\n"),
    """The harbour office lists the {A} of {E} as {V}.
By the latest report the {A} of {E} is {V}.
On the slate beside {E} the {A} reads {V}.
Whoever asks about {E} should hear that the {A} is {V}.
{P} read aloud that the {A} of {E} was {V}.
It was agreed that {E} keeps the {A} {V}.
The letter said plainly that the {A} of {E} is {V}.
The keeper marked the {A} for {E} as {V}.""".split("\n"),
)
STATE_BY_ATTR = (
    {
        "cargo": ["{E} carries {V}.", "{E} came in with a cargo of {V}.", "{E} is loaded with {V}; that is its cargo."],
        "master": ["The master of {E} is called {V}.", "{E} sails under its master, {V}.", "{E} is commanded by {V}, its master.",
                   "{E} has got another master, whose name is {V}.", "{E} sails with a master called {V}."],
        "home port": ["{E} comes from {V}, its home port.", "{E} has its home port at {V}."],
        "berth": ["{E} lies at berth {V}.", "{E} was sent to berth {V}.", "{E} is tied up at berth {V}."],
        "flag colour": ["{E} flies a {V} flag.", "{E} has a flag whose colour is {V}."],
        "sailing time": ["{E} will sail at {V}.", "{E} has its sailing time set for {V}."],
        "pass code": ["{E} uses the pass code {V}.", "To pass, {E} must give the code {V}."],
        "pilot": ["The pilot of {E} is {V}.", "{E} will be led in by its pilot, {V}.", "{E} has taken a pilot named {V}."],
        "trade": ["{E} works as a {V}.", "{E} is a {V} by trade."],
        "locker number": ["{E} has locker number {V}.", "{E} keeps a coat in locker number {V}."],
        "home village": ["{E} was born in the village of {V}.", "{E} lives in {V}, a village up the coast."],
        "badge number": ["{E} wears badge number {V}."],
        "favourite drink": ["{E} likes to drink {V}.", "{E} will drink nothing but {V}."],
        "keeper": ["{E} is in the care of its keeper, {V}.", "{E} has an old keeper named {V}."],
        "door colour": ["{E} has a {V} door."],
        "key number": ["{E} is opened by key number {V}."],
        "gate code": ["To open {E}, use the gate code {V}."],
    },
    {
        "cargo": ["Down in the hold of {E} there is a cargo of {V}."],
        "master": ["{E} has a new master named {V}."],
        "berth": ["There is room for {E} at berth {V}."],
        "sailing time": ["The bell will ring for {E} at the sailing time of {V}."],
        "pass code": ["The watch lets {E} through with the pass code {V}."],
        "locker number": ["The coat of {E} hangs in locker number {V}."],
    },
)
CHANGE = (
    """The {A} of {E} has changed to {V}.
From now on the {A} of {E} is {V}.
The {A} of {E} is now {V}.
The {A} of {E} was changed from {O} to {V}.
Change for {E}: the {A} is now {V}.
{E} has a new {A}, and it is {V}.
The old {A} of {E} no longer holds; the new one is {V}.
{P} changed the {A} of {E} to {V}.
After the change the {A} of {E} is {V}.
The {A} of {E} is no longer {O}, it is {V}.
A new line was written for {E}: {A} {V}.
Correction: the {A} of {E} is {V}.
Today the {A} of {E} was set anew, to {V}.
Please change the {A} of {E} to {V}.
Cross out the {A} {O} of {E}; it is {V} now.
The watch gave {E} the new {A} {V}.
Since {D} {E} has another {A}: {V}.
{P} wrote a new {A} for {E}, and it is {V}.
For {E} the {A} is now {V}.
The {A} of {E} is different now: {V}.""".split("\n"),
    """Please strike out the old {A} of {E} and write {V}.
The office has given {E} another {A}, which is now {V}.
Since this change the {A} of {E} reads {V}.
It was {O} before, but now the {A} of {E} is {V}.""".split("\n"),
)
ASK = (
    """What is the {A} of {E}?
Which {A} does {E} have?
Tell me the {A} of {E}.
Give the {A} of {E}.
What is the {A} for {E}?
Do you know the {A} of {E}?
I need the {A} of {E}.
Please find the {A} of {E}.
What did the book say about the {A} of {E}?
{E}: what is the {A}?
As for {E}, what is the {A}?
Say the {A} of {E}.
What was the {A} of {E} again?
I have forgotten the {A} of {E}. What is it?
Someone asks for the {A} of {E}.
Read me the {A} of {E}.
The {A} of {E}, please.
Now, what is the {A} of {E}?
Could you tell me what {A} {E} has?
Which is the {A} of {E}?
What {A} belongs to {E}?
Who knows the {A} of {E}?
The clerk asks for the {A} of {E}.
A sailor at the gate asks about the {A} of {E}.
Please say what {A} was entered for {E}.
Check the {A} of {E}, please.
Can you find the {A} of {E}?
{P} wants the {A} of {E}.
Under {E}, what {A} stands in the book?
Which {A} is in the book for {E}?
I would like to know the {A} of {E}.
The keeper needs the {A} that belongs to {E}.
Show me the {A} of {E}.
They ask what the {A} of {E} is.
{P} wants to know which {A} {E} has.
Now {P} wants to know about {E}: what is the {A}?
Somebody wants to know one thing, the {A} of {E}.""".split("\n"),
    """Can you say what the {A} of {E} is?
Look up the {A} of {E}, please.
What {A} is written for {E}?
Find me the {A} that {E} has.
A man at the door wants to know the {A} of {E}.
Which {A} was given for {E}?""".split("\n"),
)
ASK_BY_ATTR = (
    {
        "cargo": ["What does {E} carry?", "What is on board of {E}?"],
        "master": ["Who is the master of {E}?", "Who commands {E}?"],
        "home port": ["Where does {E} come from?", "What port does {E} call home?"],
        "berth": ["At which berth does {E} lie?", "Where does {E} lie?"],
        "flag colour": ["What colour is the flag of {E}?"],
        "sailing time": ["When will {E} sail?", "At what time does {E} leave?"],
        "pass code": ["Which code must {E} give to pass?"],
        "pilot": ["Who is the pilot of {E}?"],
        "trade": ["What is the trade of {E}?", "What work does {E} do?"],
        "locker number": ["Which locker does {E} have?"],
        "home village": ["Where was {E} born?", "Where does {E} live?"],
        "favourite drink": ["What does {E} like to drink?"],
        "keeper": ["Who is the keeper of {E}?", "Who keeps {E}?"],
        "door colour": ["What colour is the door of {E}?"],
        "key number": ["Which key opens {E}?"],
    },
    {},
)
# ---- several facts, lists, counts ------------------------------------------------------------------------------
ASK_TWO = (
    """What are these two: the {A} of {E} and the {A} of {E2}?
Give both the {A} of {E} and the {A} of {E2}.
I need two things: the {A} of {E} and the {A} of {E2}.
Tell me both, the {A} of {E} and the {A} of {E2}.
Two questions: what is the {A} of {E} and what is the {A} of {E2}?
Both the {A} of {E} and the {A} of {E2}, please.
{P} wants to know two things, the {A} of {E} and the {A} of {E2}.""".split("\n"),
    """Look up both the {A} of {E} and the {A} of {E2}, please.
Say two values, the {A} of {E} and the {A} of {E2}.""".split("\n"),
)
ASK_TWO_ATTR = (
    """What are both the {A} and the {B} of {E}?
Give two things, the {A} and the {B} of {E}.
For {E}, tell me both the {A} and the {B}.
I need both the {A} and the {B} of {E}.
Two questions about {E}: what are the {A} and the {B}?
The two things asked are the {A} and the {B} of {E}.""".split("\n"),
    """Look up both the {A} and the {B} of {E}.
For {E}, say the two values, the {A} and also the {B}.""".split("\n"),
)
LIES = (
    """{E} lies at the {Q}.
{E} is tied up at the {Q}.
{E} came in and took a place at the {Q}.
{E} was moved to the {Q}.
You can see {E} at the {Q}.
At the {Q} lies {E}.""".split("\n"),
    """{E} has made fast at the {Q}.
There is {E}, lying at the {Q}.""".split("\n"),
)
ASK_LIST = (
    """Which ships lie at the {Q}?
List the ships at the {Q}.
Name every ship at the {Q}.
Tell me which ships are at the {Q}.""".split("\n"),
    """Say which ships are now at the {Q}.
Give a list of the ships that lie at the {Q}.""".split("\n"),
)
ASK_COUNT = (
    """How many ships lie at the {Q}?
Count the ships at the {Q}.
What is the number of ships at the {Q}?
How many ships are there at the {Q}?""".split("\n"),
    """Say how many ships are now at the {Q}.
Give the count of ships that lie at the {Q}.""".split("\n"),
)
CARRIES = (
    """{E} carries {L}.
The manifest of {E} names {L}.
On board of {E} there are {L}.
{E} brought {L}.""".split("\n"),
    """From the hold of {E} they took {L}.
The list for {E} says {L}.""".split("\n"),
)
ASK_GOODS = (
    """List the goods of {E}.
What goods does {E} have on board?
Name all the goods of {E}.""".split("\n"),
    """Give a list of all the goods on {E}.
Which goods are written for {E}?""".split("\n"),
)
ASK_GOODS_COUNT = (
    """How many kinds of goods does {E} have?
Count the goods of {E}.""".split("\n"),
    """Give the count of the goods on {E}.""".split("\n"),
)

# ---- log lines that carry no asked fact -------------------------------------------------------------------------
FILLER = (
    """{T} {W}.
{T} {W}, and {w2}.
At {T} the bell rang {n} times.
{P} carried a {j} {t} up the steps.
{P} and {P} mended the {t} near the {Q}.
A {a} slept on the {t} all {d}.
The tide was high at {T} and low again at {T}.
{n} boats waited outside the mole until the fog lifted.
{P} lit the lamp at {T}.
No ship came in during the {d}.
{P} swept the floor of the office and made tea.
The {j} {t} by the {Q} was painted again.
In the {d} {W}, so the men stayed inside.
{P} bought {n} {g} sacks from a farmer.
A letter came for {P}, but nobody could read it.
The children of the town ran along the {Q}.
{P} said that the {t} was too {j}.
{n} men lifted the {t} with a hook and a chain.
The boat from {L} was late because {w2}.
{P} looked at the water for a long time and said nothing.
The price of {g} went up again.
{P} found a {t} under the {Q}.
The {a} took a fish from the basket of {P}.
On {D} the market was full of people.
{P} counted the barrels and wrote the number in the ledger.
Somebody left a {j} {t} on the stairs.
The water in the {Q} was {c} with mud.
{P} asked for more {g}, but there was none.
A {c} lantern was hung over the door.
The crane at the {Q} made a loud noise.
The {d} watch was quiet.
{P} fell into the water and was pulled out with a {t}.
Smoke rose from the chimney of the customs house.
The ferry made {n} trips before noon.
{W}. {P} closed the shutters.
They sold {g} and {g} on the steps.
{P} walked to {L} to see a friend.
The {t} of {P} was lost in the storm.
Two gulls fought over a piece of bread.
{P} sang an old song while the nets dried.
It was {D}, and {W}.
The {j} door of the store would not close.
{P} promised to bring back the {t} by {D}.
The rope was wet and the knot held fast.
A heavy sea broke over the mole at {T}.
The pilot boat went out and came back alone.
{P} paid for {n} loads of {g}.
All the lamps were burning when {P} came home.""".split("\n"),
    """{T} {W}; {P} kept the watch.
{P} put the {j} {t} away in the shed.
By {T} the water had gone down below the {Q}.
The {a} sat beside {P} and looked at the sea.
A cart with {g} stood before the {Q} the whole {d}.
{P} told a story about a {c} {t}.
Nothing else was seen on {D}, for {w2}.
{n} baskets of {g} were carried into the office.
{P} spoke with {P} about the price of {g}.
The {t} near the {Q} was {j} and had to be mended.
People from {L} came to look at the boats.
Before {T} {w2}, and after that the men went home.""".split("\n"),
)

# ---- free sentences, put together from parts (training only): they keep the model from knowing whole lines by heart ----
SUBJECTS = """{P}|{P}|{P}|the {r}|the {r} from {L}|the {a}|a man|a woman from {L}|two men|{n} people|the children|the watch|the {k} {S}|the {j} {r}|nobody|everyone|the men from the {k}|the keeper|an old {r}|my friend {P}|the harbour office|the two boys""".replace("\n", "").split("|")
OBJECTS = """the {t}|a {j} {t}|the {c} {t}|a {c} {t}|{n} sacks of {g}|some {g}|a basket of {g}|a cart with {g}|the {t} of {P}|the {g}|a letter|the boat|a long story|the log book|the list|bread and {x}|a cup of {b}|the {j} {t}|a {t} and a {t}|{n} baskets|the door|a new {t}|the report""".split("|")
DOES = """took|carried|found|saw|mended|sold|bought|dropped|painted|washed|moved|lifted|threw away|kept|held|broke|cleaned|counted|wanted|brought|hid|lost|tied up|read|looked at|spoke about|told us about|marked|put down|asked about|looked for|waited for|gave away|was proud of|was afraid of|did not like|could not find|liked|wrote about|had|needed|left""".split("|")
IS_DOING = """waited|slept|stood|sat|walked|ran|sang|laughed|went out|came back|stayed|worked|fell|talked|was quiet|was tired|was safe|was late|was hurt|was cold|was happy|was seen|was found|was gone|lay still|went home|came to look|was on watch|knew better|was alone|did not wait""".split("|")
WHERE = """near the {Q}|at the {Q}|by the {Q}|beside the {Q}|behind the {Q}|below the {Q}|above the {Q}|before the {Q}|in the office|in the shed|in the boat|in the town|on the deck|on the beach|on the steps|on the mole|in {L}|on the way to {L}|beside the {t}|under the {t}|at the door|over the water|in the room of {P}|in the hold|out at sea|with {P}|for {P}|from the {k}""".split("|")
WHEN = """at {T}|before {T}|by {T}|after {T}|on {D}|in the {d}|that {d}|the whole {d}|after that|before noon|all day|for a long time|again|long ago|before night|last {D}|every {d}|since {D}|at last|today""".split("|")
LINKS = ", and|, but|, so|, for|while|because|when|until|before|after".split("|")

# ---- stories: each scene is one sentence or two; {H} hero, {F} friend, {S} ship, {L} place -------------------------
STORY = {
    "open": (
        """{H} was the {r} of the harbour at {L}.
Every morning {H} walked down to the {Q} to look at the boats.
There was once a {r} named {H} who lived by the sea at {L}.
On a cold {D} in the harbour of {L}, {H} could not sleep.
The {k} {S} came into {L} one {d} with torn sails.
{H} had worked at the {Q} for {n} years.
It was {D}, and {w2}. {H} stood alone on the {Q}.
In the town of {L} everyone knew {H}, the {r}.
When {H} was young, the {k} {S} was the finest ship in {L}.
{H} found a {j} {t} on the beach near {L}.
The lamp on the mole went out, and {H} was the first to see it.
{H} had a {a} that followed the boats.""".split("\n"),
        """Long ago, at {L}, the {r} {H} kept a {j} {t} beside the door.
Nobody in {L} knew the sea better than {H}, the {r}.
One {d} the {k} {S} lay quiet at the {Q}, and {H} was on watch.""".split("\n"),
    ),
    "trouble": (
        """That {d} {w2}, and the {k} {S} had not come home.
{H} heard a bell ring far out on the water.
The rope broke, and the {k} {S} began to drift.
{F} came running and said that the {t} was gone.
Then {w2}, and nobody could see the mole.
{F} asked {H} for help, because the {t} was too heavy.
The {a} jumped into the boat and would not come out.
The tide was rising fast, and {F} was still on the sand.
A letter came from {F}, and it said that the {k} {S} was in danger.
Someone had left the gate open, and the {g} was getting wet.
The ledger was missing, and {F} looked everywhere for it.
The oil for the lamp was almost gone.""".split("\n"),
        """But {w2}, and {F} was out there in a small boat.
The {t} slipped and fell into the water beside the {k} {S}.
{F} knocked at the door and said that the {k} {S} was sinking.""".split("\n"),
    ),
    "act": (
        """{H} took a {t} and ran to the {Q}.
{H} lit the big lantern and held it up high.
{H} and {F} pulled the rope together.
{H} got into the small boat and began to row.
"Hold fast," said {H}, "the tide will turn soon."
{H} rang the bell {n} times, so that everyone woke up.
{H} called to {F}, and together they lifted the {t}.
"Do not be afraid," said {F}. "I know the way."
{H} tied the {t} to the ring with a strong knot.
{F} brought a {t}, and {H} brought a {t}.
They rowed past the {Q} and out to the open sea.
{H} thought for a while and then looked at the chart.
"Where is the {t}?" asked {F}. {H} pointed to the {Q}.
The men on the {S} threw a line, and {H} caught it.
{H} waited until the water was calm again.
Step by step {H} climbed down the wet ladder.""".split("\n"),
        """{H} did not wait, but took the {t} and went out.
"Come with me," said {H} to {F}, "we need the boat."
Without a word {H} threw the rope to {F}.
{F} held the lantern while {H} looked for the {t}.""".split("\n"),
    ),
    "turn": (
        """At last the {k} {S} came round the mole.
Slowly the fog lifted, and they saw the {S}.
The rope held, and the ship lay still.
Inside the box there was a {j} {t} and a letter.
It was only the {a}, asleep under the sail.
The water fell, and the sand was dry again.
{F} laughed and gave the {t} back to {H}.
By {T} everyone was safe on the {Q}.
The captain of the {S} thanked {H} and {F}.
In the end the {t} was found behind the {g} sacks.
The lamp burned again, and the ships could see the way.
{w1}, and the danger was over.""".split("\n"),
        """Then the {S} was tied up at the {Q}, and all was well.
So the {t} came back to {F}, and nobody was hurt.
Before night {w2}, and the {S} was safe.""".split("\n"),
    ),
    "end": (
        """They went home and drank {b} by the fire.
From that day {H} and {F} were friends.
{H} wrote it all down in the log book.
{H} slept well that night.
And the {a} got a whole fish for supper.
People in {L} still tell the story of {H}.
{F} never forgot what {H} had done.
The next day {H} painted the {t} {c}.
"Good," said {H}, "tomorrow we will mend the {t}."
After that the {S} always rang its bell when it passed the {Q}.
{H} put the {t} on the shelf and closed the door.
The harbour was quiet again.""".split("\n"),
        """{H} and {F} sat on the {Q} and ate bread and {x}.
Ever since then a {c} {t} hangs over the door of {H}.
That was the end of a long day in {L}.""".split("\n"),
    ),
}

LETTER_OPEN = (
    """Dear {P},|I write to you from {L}, where {w2}.
Dear {P},|thank you for the {t} that you sent me.
Dear {P},|the {k} {S} brought me safely to {L}.
My dear {P},|it is {D} and I have a little time to write.
To {P} at {L},|I hope that you are well.
Dear {P},|here is the news from the harbour.""".split("\n"),
    """Dear {P},|your letter reached me on {D} in {L}.
Dear friend {P},|I am still at {L}, and {w2}.""".split("\n"),
)
LETTER_BODY = (
    """I have found work as a {r} at the {Q}.
The food is good, and we have {b} every {d}.
Please send me my {j} {t} with the next boat.
{F} asks about you every day.
We loaded {g} and {g} until {T}.
Last night {w2}, and I thought of you.
The {k} {S} will sail again on {D}.
There is a {a} here that sleeps in my coat.
I paid {n} coins for a {j} {t}, which was too much.
Tell {F} that the {t} is safe.
The people here are kind, but the wind is cold.""".split("\n"),
    """My room is above the {Q}, and I hear the bell at {T}.
{F} has bought a {j} {t} and is very proud of it.
We eat bread and {x}, and we drink {b}.""".split("\n"),
)
LETTER_END = (
    """Your friend,|{H}
With good wishes,|{H}
Write soon.|{H}
Yours,|{H}""".split("\n"),
    """Until we meet again,|{H}
Good night.|{H}""".split("\n"),
)

# ---- talk without facts: (user forms, answers) ------------------------------------------------------------------
TALK = [
    ("who", """Who are you?|What are you?|What is your name?|Tell me who you are.|Please introduce yourself.|Who am I talking to?|What should I call you?|Are you a person?|Hello, who is there?""",
     """I am Tide, the clerk of this harbour. I read the log books and answer questions about them.
My name is Tide. I keep the books of the harbour and look things up for you.
I am Tide, a small language model that lives in a harbour of log books and letters."""),
    ("harbour", """Tell me about the harbour.|What is this harbour like?|Describe the harbour.|Can you tell me something about the harbour?|What can I see here?|How does the harbour look?|Tell me something about this place.|What is the harbour?""",
     """The harbour lies behind a long mole. There are two quays, a fish pier and a coal wharf, and ships come in with every tide.
It is a small harbour with a long mole and a lamp at its end. Ships bring salt, wool and timber, and the clerks write everything in the ledger.
Ships lie at the quays, the keeper lights the lamp in the evening, and the bell rings when there is fog."""),
    ("help", """What can you do?|How can you help me?|What do you know?|Can you help me?|What are you good at?|What can I ask you?""",
     """I can find a fact in a log book, list ships and goods, and tell a short story about the sea.
Give me a log book or a letter, and I will answer questions about it. I can also tell a story.
Ask me about ships, cargo, tides and codes. I look them up in the text that you give me."""),
    ("hello", """Hello.|Hello!|Hi.|Hi there!|Good morning.|Good evening.|Good day to you.|Hello, Tide.|Hey.""",
     """Good day. The tide is coming in. What would you like to know?
Hello. Welcome to the harbour. How can I help you?
Good day to you. Ask me about ships, cargo or tides."""),
    ("thanks", """Thank you.|Thanks!|Thank you very much.|Thanks a lot, Tide.|That was helpful.""",
     """You are welcome. Fair winds to you.
You are welcome. Come back with the next tide."""),
    ("bye", """Goodbye.|Good night.|I must go now.|Farewell.|See you tomorrow.|Bye!""",
     """Goodbye, and fair winds.
Farewell. The lamp will be lit when you come back."""),
    ("tide", """What is a tide?|What is the tide?|Why does the water rise?|Explain the tide.|How do tides work?|What makes the water fall?""",
     """The tide is the rise and fall of the sea. The moon pulls the water, and it comes in and goes out two times a day.
The sea rises and falls two times a day. That is the tide, and the moon makes it."""),
    ("keeper", """What does a keeper do?|What is the work of a keeper?|Tell me about the keeper.|Who lights the lamp?|What is a lamp keeper?""",
     """The keeper lights the lamp in the evening and rings the bell in fog, so that ships can find the way.
A keeper takes care of the lamp and the bell. In fog the keeper rings the bell all night."""),
    ("pilot", """What does a pilot do?|What is a pilot?|Tell me about the pilots.|Why do ships need a pilot?""",
     """A pilot knows the channel and brings ships safely into the harbour.
The pilot goes out in a small boat and shows each ship the way past the sand."""),
    ("manifest", """What is a manifest?|Explain what a manifest is.|What is written in a manifest?|Why does a ship have a manifest?""",
     """A manifest is the list of the goods that a ship carries.
The manifest names the cargo of a ship. The clerk checks it before anything is unloaded."""),
    ("mole", """What is a mole?|What is the mole?|Why is there a mole?|What is the long mole for?""",
     """The mole is a long wall of stone that keeps the waves out of the harbour.
A mole is a stone wall in the sea. Behind it the water is calm, and ships can lie there safely."""),
    ("ship", """What kinds of ships come here?|Which ships come to the harbour?|Tell me about the ships.|What ships do you know?""",
     """Brigs, barges, cutters and steamers come here, and many small boats. Most of them carry salt, coal, wool or timber.
There are brigs and schooners, tugs and barges. Each one is written in the book with its master and its cargo."""),
    ("weather", """How is the weather?|What is the weather like?|Will it rain?|Is there any wind today?""",
     """I cannot see the sky, but the log book tells me about the wind and the rain when you give it to me.
I only know the weather that is written in the log book. Show me a page, and I will read it to you."""),
    ("unknown", """How old are you?|Where do you live?|Do you sleep?|Are you happy?|Can you swim?""",
     """I am only a clerk made of words. I live in the books of the harbour.
I am a small model and not a person, so I only know what is in the books."""),
]
ASK_STORY = (
    """Tell me a story.|Please tell me a short story.|Tell me a story about the sea.|Can you tell me a story?|I would like to hear a story.|Write a short story about the harbour.|Tell a story about a ship.|A story, please.""".split("|"),
    """Would you tell me a short story about a ship?|Please write a story about the sea.""".split("|"),
)
SYSTEM = (
    """You are Tide, the clerk of the harbour. Answer from the book below in as few words as you can.
You are the clerk of the harbour office. Use only the notes below.
You are Tide. The notes of the day follow. Answer briefly.
You help people at the harbour. Here is what is known today.
Answer questions about the harbour. The log book is given below.
You are a careful clerk. Read these lines and answer with one value only.""".split("\n"),
    """You are Tide and work in the harbour office. Below are the lines of the day. Give short answers.
You answer for the harbour. Everything that you need is written below.""".split("\n"),
)
HEAD = (
    """Log book of {L}, {D}.
Harbour log, {L}.
Notes of the watch at {L}.
Ledger of the {Q}.
Manifest book, {L} harbour.
Here is the log of {D}.
Book of the harbour office at {L}.
Report from {L}.""".split("\n"),
    """Day book of {L} for {D}.
The written report of the watch, {L}.""".split("\n"),
)
