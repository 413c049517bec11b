"""Free English for training: sentences put together from many parts, and stories with a plot (training side only).

What this is: word lists and sentence frames of everyday English, far wider than the harbour's log books, and a dozen
plots whose scenes follow one subject from beginning to end. Slots in braces are those of world.py; a slot in angle
brackets is a word list of this file.
What it does not do: it asks and answers nothing, and the evaluation side never draws from here.
"""

import re

BANKS = {
    "who": """{P}|{P}|{P}|{P}|the {r}|the old {r}|the {a}|a stranger|a woman|an old man|a young man|a girl|a boy|the girl|the boy|the children|the women|the men|my brother|my sister|his mother|her father|the captain|the mate|the crew|the sailors|a fisherman|the fishermen|the doctor|the mayor|the guard|a merchant|the widow|the innkeeper|the postman|a traveller|the youngest|the eldest|the stranger|somebody|nobody|everybody|one of them|both of them|all of us|we|they|he|she|I|the whole town|half the village|the neighbours|the twins|a crowd|the {r} and the {r}|{P} and {P}|the people of {L}|the {r} from {L}|the crew of the {S}|the captain of the {S}""",
    "thing": """{t}|{t}|{t}|window|table|chair|bed|roof|wall|fence|road|path|bridge|river|field|garden|tree|branch|stone|fire|candle|match|mirror|picture|book|page|pen|clock|coin|purse|ring|knife|spoon|plate|bowl|bottle|glass|cup|pot|pan|stove|blanket|pillow|shirt|shoe|boot|glove|scarf|belt|button|needle|thread|wheel|cart|saddle|tent|map|song|secret|plan|promise|question|answer|price|shadow|light|sound|smell|door|gate|lock|handle|step|stairs|cellar|attic|kitchen|cupboard|drawer|trunk|suitcase|parcel|stamp|envelope|drum|flute|fiddle|toy|doll|kite|ball|nest|egg|feather|shell|pebble|wave|current|cliff|cave|island|shore|mast|rudder|deck|cabin|hull|wreck|raft|pump|pipe|brush|saw|axe|spade|nail|board|tool|wire|cloth|sack|jar|loaf|soup|pie|cake|nut|bean|root|seed|leaf|flower""",
    "adj": """{j}|{j}|{c}|large|tiny|narrow|wide|deep|tall|short|round|flat|sharp|smooth|rough|soft|hard|thick|thin|heavy|light|empty|full|open|closed|warm|cold|hot|cool|dry|damp|fresh|stale|sweet|bitter|sour|salty|loud|silent|quick|slow|early|late|rich|poor|cheap|dear|strange|common|rare|famous|secret|hidden|lost|broken|whole|crooked|straight|shiny|dull|dusty|muddy|golden|wooden|iron|paper|pretty|ugly|brave|shy|proud|gentle|clever|lazy|hungry|thirsty|sleepy|angry|cheerful|gloomy|honest|careful|careless|useful|useless|last|first|second|third|next|other|best|worst|finest|oldest""",
    "mood": """tired|happy|sad|afraid|proud|angry|hungry|cold|glad|sorry|sure|ready|alone|lost|late|safe|quiet|busy|ill|well|lucky|curious|surprised|worried|ashamed|grateful|thirsty|awake|asleep|right|wrong|calm|nervous|patient|brave|careful|stiff|wet|hurt|pleased|bored|silent|gone|free|old|young|rich|poor""",
    "did": """took|carried|found|saw|mended|sold|bought|dropped|painted|washed|moved|lifted|kept|held|broke|cleaned|counted|wanted|brought|hid|lost|opened|closed|shut|locked|pulled|pushed|threw|caught|cut|burned|built|drew|filled|emptied|turned|touched|left|showed|gave back|put away|picked up|put down|looked at|listened to|asked about|talked about|thought about|dreamed of|laughed at|pointed at|ran after|searched for|cared for|paid for|waited for|knew|liked|loved|hated|feared|missed|remembered|forgot|needed|used|watched|followed|noticed|examined|measured|tried|tested|shared|borrowed|stole|returned|guarded|repaired|wrapped|tied|untied|folded|dug up|buried|planted|cooked|ate|smelled|shook|dragged|rolled|hung up|nailed down|marked|hammered|polished|swept|covered|uncovered|heard|sketched|described|named|chose|refused|accepted|offered|sent|received|stored|checked""",
    "went": """waited|slept|stood still|sat down|walked on|ran away|sang|laughed|went out|came back|stayed behind|worked|fell|talked|went home|shouted|whispered|cried|smiled|nodded|shook hands|looked up|looked around|turned around|stopped|listened|woke up|got up|hurried|rested|ate|drank|danced|climbed up|climbed down|jumped|swam|rowed away|sailed off|set out|turned back|arrived|left|knelt down|bent down|leaned back|disappeared|hesitated|thought for a moment|said nothing|began to work|went to bed|kept watch|held on|let go|gave up|tried again|caught cold|got lost|grew old|took a walk|had a rest|stayed at home|went to sleep|went ashore|came aboard|looked away|lay down|stood up|moved on|waved|bowed|argued|agreed|refused|wondered|returned|read|wrote|played|prayed|coughed|shivered|trembled|blinked|yawned|stumbled""",
    "where": """in the house|in the kitchen|in the garden|in the street|in the market|in the church|in the square|in the inn|in the forest|in the field|in the valley|in the hills|in the dark|in the rain|in the sun|in the corner|in the cellar|in the harbour|in the bay|in the cabin|in the water|in the shade|in the middle of the night|on the table|on the floor|on the roof|on the road|on the bridge|on the shore|on the rocks|on the island|on the hill|on the bench|on the other side|on the left|on the right|on board|on land|under the bed|under the tree|under the bridge|under the table|behind the house|behind the curtain|behind the wall|beside the fire|beside the stove|beside the river|between the rocks|between two houses|among the barrels|across the street|across the bay|over the hills|over the roofs|along the beach|along the river|through the window|through the fog|through the crowd|into the house|into the night|into the boat|onto the deck|out of the house|out of the water|from the tower|from the window|toward the light|toward the village|around the corner|around the island|near the {Q}|at the {Q}|by the {Q}|in {L}|near {L}|on the way to {L}|at the door|at the gate|at home|at sea|at the inn|at the market|at the table|up the stairs|down the path|far away|nearby|outside|inside|upstairs|everywhere""",
    "when": """at {T}|on {D}|that {d}|one {d}|in the {d}|at night|at noon|at dawn|at sunset|at midnight|before dawn|before supper|after supper|after breakfast|after a while|after the storm|after three days|a week later|the next day|the day before|last winter|last spring|last summer|last autumn|next week|in spring|in summer|in autumn|in winter|every evening|every Sunday|every year|all week|for an hour|for a while|for many years|for a moment|until sunset|until morning|until the end|since then|by then|just then|right away|at once|in time|too late|soon|later|again|twice|once|never|often|sometimes|always|today|tonight|yesterday|tomorrow|now and then|from time to time|one day|some day|long before|not long after|during the storm|during the meal|in those days|in the end|at first""",
    "how": """slowly|quickly|quietly|carefully|gently|suddenly|at last|with great care|without a sound|with both hands|with a smile|with a sigh|in silence|in a hurry|by mistake|by chance|on purpose|as usual|as well|together|alone|side by side|one by one|all the same|almost|hardly|already|with a laugh|in a low voice|in a loud voice|with all their strength|for fun|for nothing|for good|word by word|once more""",
    "say": """said|said|said|asked|answered|called|cried|shouted|whispered|replied|added|thought|repeated|explained|told them""",
    "said": """I know the place|we have to go now|you are right|there is no time|it is getting late|nobody will believe us|I have seen it before|do not worry|look over there|leave it to me|that is not mine|come here|stay where you are|give me your hand|wait a little|be careful|I am not afraid|we will find a way|it was my fault|I will be back before dark|this is the best day of my life|the water is rising|the wind is turning|keep the light burning|I promised to be there|you must be tired|there is soup on the stove|somebody is at the door|I cannot see anything|hold on to the rail|tell me the truth|what a strange {t}|we need another {t}|take this {t} with you|the {t} is too heavy for one man|there is only one way|the boat will not wait|I wrote it all down|let us begin|let me try|go to bed|thank you for everything|I had almost forgotten|it cannot be far|that will do|all is well|nothing is lost yet|we will see|never mind|you can count on me|listen to me|open the door|close the window|put the {t} down|help me with this {t}|bring me the {t}|it belongs to {P}|ask {P}, not me|{P} would know|{P} is waiting for us""",
    "ask": """who is there|where have you been|what is this|did you hear that|is it far|how much is it|may I come in|can you swim|do you know the way|have you seen my {t}|who left this {t} here|what happened|why are you laughing|when will you come back|are you hurt|what shall we do|whose {t} is this|is there any {b} left|how long will it take|do you remember me|was it you|what does it say|shall we go|would you like some {b}""",
    "sky": """the wind rose|the wind dropped|the rain grew heavier|the sun broke through|clouds came from the west|the stars came out|the moon was full|it began to snow|it rained all day|the air smelled of salt|the sea was like glass|the waves grew higher|the sky turned grey|the sky turned red|lightning flashed|the fog came in|the fog was thick|it was bitterly cold|it was a mild day|the days grew shorter|ice covered the ropes|a storm was coming|the storm was over|the night was dark|the morning was bright|the tide was coming in|the tide was going out|the water was high|the water was low|a strong wind blew from the east|there was no wind at all|it was hot|the heat was great|the leaves were falling|the birds were singing|dark clouds stood over the island|the weather was fine|the weather was bad|{W}|{w2}|{w2}""",
    "fact": """the house was empty|the door was open|the fire had gone out|the boat was full|the bread was still warm|the road was long|the bridge was down|the bell began to ring|the clock struck {n}|a dog barked|a light was burning|the ship was late|the net was torn|the rope was too short|nothing was left|the work was hard|the pay was good|the soup was hot|the letter was short|it was a good year for {g}|the price of {g} was high|the {t} was gone|the {t} was still there|there was no more {b}|the key did not fit|the room was dark|the table was set|the market was closed|the shop was closed|school was over|the holidays began|supper was ready|a child was born|there was a wedding in {L}|a cart stood before the house|everything went wrong|everything was quiet|the {a} was hungry|the {a} had run away|the captain was asleep""",
}
BANKS = {k: [x for x in v.replace("\n", "").split("|")] for k, v in BANKS.items()}

CLAUSES = """<who> <did> the <thing>|<who> <did> the <adj> <thing>|<who> <did> a <adj> <thing>|<who> <went>|<who> <went> <where>|<who> <went> <when>|<who> <how> <went>|<who> <did> the <thing> <where>|<who> <did> the <thing> <when>|<who> was <mood>|<who> was very <mood>|<who> looked <mood>|<who> felt <mood>|<who> seemed <mood>|there was a <thing> <where>|there was something <adj> <where>|the <thing> was <adj>|the <adj> <thing> stood <where>|the <thing> lay <where>|the <thing> of {P} was <adj>|<fact>|<sky>|<who> had a <adj> <thing>|<who> had never seen such a <thing>|<who> could not find the <thing>|<who> wanted to see the <thing>|<who> tried to open the <thing>|<who> began to <mood2> the <thing>|<who> went to look for the <thing>|<who> put the <thing> <where>|<who> did not know what to do|<who> gave the <thing> to {P}|<who> gave {P} a <adj> <thing>|<who> told {P} about the <thing>|<who> showed the <thing> to {P}|<who> came with a <thing>|<who> lived <where>|it was <adj> and <adj>|it was a <adj> <thing>|one could see the <thing> from here|<who> heard a <thing> fall|<who> said that <fact>|<who> knew that <sky>|<who> thought of the <thing>|<who> had to wait|<who> could hear the sea|<who> <did> the <thing> and the <thing>|the <thing> fell <where>|the <thing> broke|the <thing> began to burn|a <thing> hung <where>|a <adj> <thing> came down <where>|<who> cut the {x} with a knife|<who> drank some {b}|<who> sat <where> with a cup of {b}|<who> worked as a {r}|<who> used to be a {r}""".split("|")
BANKS["mood2"] = "mend|clean|paint|count|draw|empty|fill|open|close|move|push|carry|build|sell|pack".split("|")
JOINS = ", and |, and |, and |, but |, so |, for |, while |, because | because | when | until | as | before | after | although | since | if only |, yet |; |, then |, or so it seemed, for ".split("|")
FRONTS = "When |While |After |Before |As soon as |Because |Although |Since |If |Until ".split("|")
OPENERS = "Then |So |But |And |Now |Still, |Yet |At that, |Luckily |Of course |Perhaps |Meanwhile |Soon |Later |In the meantime |On the way home |For the rest of the day |To be honest, |As everyone knows, |It so happened that |It is said that |No wonder that |That was the day when |The truth is that |In short, |It was clear that |It seemed that |Each time ".split("|")
SLOT = re.compile(r"<(\w+)>")


def expand(r, text):
    """Fills the word lists of this file; the braces stay for world.py."""
    while True:
        new = SLOT.sub(lambda m: r.choice(BANKS[m.group(1)]), text, count=1)
        if new == text:
            return text
        text = new


def speech(r):
    words, mark = (r.choice(BANKS["said"]), r.choice([",", ",", ",", "!"])) if r.random() < 0.7 else (r.choice(BANKS["ask"]), "?")
    words = words[0].upper() + words[1:]
    verb = r.choice(BANKS["say"])
    x = r.random()
    if x < 0.55:
        return '"%s%s" %s %s.' % (words, mark, verb, "<who>")
    if x < 0.75:
        return '<who> %s: "%s%s"' % (verb, words, "." if mark == "," else mark)
    return '"%s%s" %s <who>, and %s.' % (words, mark, verb, r.choice(CLAUSES))


def text(r):
    """One free sentence with slots in braces."""
    return expand(r, frame(r))


def frame(r):
    """One free sentence whose word lists are not filled yet."""
    x = r.random()
    if x < 0.16:
        out = speech(r)
    elif x < 0.42:
        out = r.choice(CLAUSES) + "."
    elif x < 0.56:
        when = r.choice(["<when>", "<where>", "<how>"])
        out = when + (", " if r.random() < 0.5 else " ") + r.choice(CLAUSES) + "."
    elif x < 0.66:
        out = r.choice(FRONTS) + r.choice(CLAUSES) + ", " + r.choice(CLAUSES) + "."
    elif x < 0.76:
        out = r.choice(OPENERS) + r.choice(CLAUSES) + "."
    else:
        out = r.choice(CLAUSES) + r.choice(JOINS) + r.choice(CLAUSES)
        out += (r.choice(JOINS) + r.choice(CLAUSES) if r.random() < 0.15 else "") + "."
    return out


# ---- plots: each scene a list of forms; {H} hero, {F} friend, {S} ship, {L} place, {t} the thing, {r} trade, {a} animal, {Q} pier
PLOTS = [
    # a lost thing is found again
    [["{H}, a {r} of {L}, owned a {j} {t}.", "In {L} there lived a {r} called {H}, who had a {j} {t}.", "This is the story of {H} and a {j} {t}.", "{H} the {r} had only one treasure, a {j} {t}.", "A {r} named {H} once had a {t} that was worth more than gold."],
     ["One {d} the {t} was gone.", "When {H} woke up on {D}, the {t} was not in its place.", "But on {D} somebody took the {t} away.", "Then the {t} disappeared, and nobody knew how.", "One night {w2}, and in the morning the {t} was missing."],
     ["{H} looked under the bed, behind the stove and in the cellar.", "{H} searched the whole house and found nothing.", "{H} asked at every door along the {Q}.", "{H} turned the room upside down, but there was no {t}."],
     ["{F} had not seen it either.", "\"I have not seen your {t},\" said {F}, \"but I will help you.\"", "{F} came along to help with the search.", "So {H} went to {F}, who knows about such things."],
     ["They followed small marks in the sand.", "They looked in the boats, in the nets and in the barrels.", "Together they went down to the {Q}.", "They asked the {a} keeper, the baker and the crew of the {S}.", "They searched until it grew dark."],
     ["Then {F} heard something under the planks.", "At the {Q} a {a} was sitting on something.", "Suddenly {H} saw a {a} with something in its mouth.", "Near the old boats they found tracks of a {a}."],
     ["It was the {a}, and under it lay the {t}.", "There was the {t}, dirty but whole.", "The {a} had carried the {t} away to build a bed.", "The {t} lay there between two stones."],
     ["{H} was so glad that nobody was angry with the {a}.", "{H} laughed, took the {t} home and cleaned it.", "{H} thanked {F} and gave the {a} a piece of {x}.", "Since then {H} locks the {t} away at night."],
     ["That is how the {t} came back to {H}.", "And so everything was in its place again.", "The end.", "They talked about it for a long time.", "{H} never lost the {t} again."]],
    # a ship in a storm
    [["The {k} {S} was on her way to {L} with {g}.", "In the autumn the {k} {S} sailed for {L}.", "The {S} was a good {k}, and {H} was her captain.", "Captain {H} took the {k} {S} out of {L} on {D}."],
     ["On the second day {w2}.", "The weather was fine at first.", "At {T} the sky turned black.", "The glass was falling, and {H} did not like it.", "Soon a storm came up from the west."],
     ["The waves were higher than the deck.", "A sail tore from top to bottom.", "Water came into the hold, and the men had to pump.", "The mast bent like a reed.", "The {g} began to slide from side to side."],
     ["\"Take in the sails!\" shouted {H}.", "{H} stayed at the wheel all night.", "{F}, the mate, tied a rope around the mast.", "{F} counted the men, and all were there.", "{H} ordered the crew to throw the {t} overboard."],
     ["{F} went forward with a {t}, although it was dangerous.", "\"We must turn into the wind,\" said {F}.", "Two men held the wheel, and two held the lamp.", "They worked without rest and without food."],
     ["Toward morning the storm grew weaker.", "At dawn they saw the lamp of {L}.", "Then the wind dropped all at once.", "After {n} hours the worst was over.", "A pilot boat came out to meet them."],
     ["The {S} came into the harbour with a broken mast.", "They tied the {S} up at the {Q}.", "Slowly the {S} passed the mole and was safe.", "People stood at the {Q} and waved."],
     ["Not a single man was lost.", "Only the {t} was lost, and {H} bought a new one.", "The {g} was wet, but it could be dried.", "{H} shook hands with every man of the crew."],
     ["Then {H} slept for a night and a day.", "The carpenters began to mend the {S} the next day.", "In spring the {S} went to sea again.", "{F} became captain of another ship.", "That was the last storm of the year."]],
    # a stranger comes
    [["One {d} a stranger came to {L}.", "Nobody knew the man who stepped ashore at the {Q}.", "A stranger with a {j} {t} stood at the {Q}.", "The {S} brought only one passenger to {L}."],
     ["His name was {H}, and he said little.", "\"My name is {H},\" the stranger said.", "{H} was the name in his papers.", "He called himself {H}."],
     ["He asked for a room at the inn and paid with old coins.", "He carried a {t} under his arm and never put it down.", "He sat by the window and looked at the sea.", "The children followed him through the streets."],
     ["{F}, the {r}, was curious.", "{F} the {r} went to speak with him.", "Only {F} was not afraid of him.", "{F} brought him a bowl of soup and sat down."],
     ["\"What do you do with that {t}?\" asked {F}.", "\"Where do you come from?\" asked {F}.", "\"Are you looking for somebody?\" asked {F}.", "{F} asked him why he had come."],
     ["{H} told of a brother who had gone to sea.", "{H} said that the {t} had belonged to his father.", "\"My father was born here,\" said {H}.", "{H} was looking for the grave of an old sailor.", "\"I was a boy when I left {L},\" answered {H}."],
     ["Then {F} understood who he was.", "{F} knew that story well.", "{F} took him to an old woman at the end of the village.", "{F} led him to a small house behind the {Q}."],
     ["The old woman looked at the {t} and began to cry.", "There he found his family again.", "On the wall hung the same {t}.", "\"You are my son,\" said the old woman."],
     ["{H} did not go away again.", "{H} stayed in {L} and became a {r}.", "Now there are two such {t} in one house.", "And the stranger was a stranger no more."]],
    # somebody learns a trade
    [["{H} wanted to become a {r}.", "When {H} was {n} years old, work began with the {r} of {L}.", "{H} was too small to be a sailor and was sent to a {r}.", "Every {r} in {L} has to learn for {n} years, and so did {H}."],
     ["The teacher was {F}, a strict old {r}.", "{F} was known as the best {r} on the coast.", "Old {F} taught {H} everything.", "{F} did not talk much, but knew the work."],
     ["On the first day {H} only swept the floor.", "At first everything went wrong.", "The first piece of work was crooked.", "{H} broke a {t} on the very first {d}."],
     ["\"Again,\" said {F}, and {H} began again.", "\"Slowly,\" said {F}. \"First look, then work.\"", "{F} took the {t} and showed how it is done.", "{H} was ashamed, but did not give up."],
     ["{H} practised in the evening when the others were asleep.", "Week after week it went a little better.", "In winter the fingers were stiff with cold.", "{H} watched the hands of {F} and learned."],
     ["Then {F} fell ill, and an order came from the {S}.", "One {d} the captain of the {S} needed help at once.", "The {k} {S} had to sail on {D}, and the work was not done.", "On {D} {F} was away, and the {S} was waiting."],
     ["{H} worked all night by the light of a lamp.", "There was nobody else, so {H} did it alone.", "{H} picked up the {t} and thought of every word of {F}.", "{H} finished just before the tide turned."],
     ["The captain looked at it and nodded.", "\"Who made this?\" asked the captain. \"It is good work.\"", "It held, and the {S} sailed in time.", "{F} looked at it for a long time and smiled."],
     ["From then on {H} was a real {r}.", "\"Now I can rest,\" said {F}.", "{F} gave {H} the old {t} as a gift.", "Today {H} has a pupil too.", "That was the day {H} became a {r}."]],
    # an animal
    [["{H} had a {a}.", "A {a} lived behind the house of {H}.", "One winter {H} found a young {a} on the beach.", "Nobody liked the {a} that lived at the {Q}, except {H}."],
     ["It was {c} and always hungry.", "It followed {H} everywhere, even onto the boats.", "It slept on a {t} near the stove.", "It could not bear the sound of the bell.", "It had only one good eye."],
     ["{F} did not want it in the house.", "\"That {a} brings bad luck,\" said {F}.", "{F} said that the {a} had stolen some {x}.", "The neighbours complained about the noise."],
     ["So the {a} had to sleep outside.", "\"It is a good {a},\" said {H}, \"you will see.\"", "{H} was sad and built a small house for it.", "{H} hid it in the shed for {n} days."],
     ["One night {w2}, and the {a} began to make a terrible noise.", "Then came the night when the lamp went out.", "In the night a fire broke out at the {Q}.", "One {d} a child fell into the water near the {S}."],
     ["{H} woke up and ran outside.", "Everybody woke up and came running.", "The {a} pulled {H} by the coat.", "The {a} ran ahead, and {H} ran after it."],
     ["They came just in time.", "So the people could save the {S}.", "{H} jumped in and brought everyone back to land.", "With buckets and wet sacks they put out the fire."],
     ["\"I was wrong,\" said {F}.", "{F} brought the {a} a whole plate of {x}.", "Now the {a} may sleep by the stove in every house.", "The mayor hung a ribbon around the neck of the {a}."],
     ["The {a} only wanted to sleep.", "And {H} was very proud.", "To this day people in {L} are kind to every {a}.", "The {a} lived for many years."]],
    # two friends quarrel
    [["{H} and {F} had been friends since they were children.", "{H} and {F} shared a boat and a house.", "In {L} there were two friends, {H} and {F}.", "Nobody had ever seen {H} without {F}."],
     ["But one {d} they quarrelled about a {t}.", "Then both of them wanted the same {t}.", "It began with a {j} {t} that {H} had borrowed.", "They bought a {t} together, and that was a mistake."],
     ["\"It is mine,\" said {H}.", "\"You never give anything back,\" said {F}.", "{H} shouted, and {F} shouted too.", "{F} went away and slammed the door."],
     ["For {n} weeks they did not say a word.", "They drew a line of chalk through the room.", "{H} ate on the left side and {F} on the right.", "When they met at the {Q}, each looked the other way."],
     ["The {r} tried to make peace, but nobody listened.", "People shook their heads.", "Both were unhappy, but too proud to say so.", "Even the {a} did not know to whom it belonged."],
     ["Then {w2}, and the boat of {H} did not come back.", "One {d} {H} fell ill.", "In the winter {F} fell through the ice near the {Q}.", "Then the {t} fell into the sea, and both jumped after it."],
     ["{F} did not think for a moment and rowed out.", "{F} sat beside the bed for three nights.", "The other one came at once with a rope and a ladder.", "They pulled each other out of the cold water."],
     ["\"I am sorry,\" said {H}.", "\"Keep the {t},\" said {F}. \"I do not need it.\"", "They began to laugh and could not stop.", "\"What was it all about?\" asked {H}."],
     ["They wiped the line of chalk from the floor.", "Now the {t} hangs in the middle of the room.", "And they never quarrelled about a {t} again.", "They sold the {t} and bought {x} for everyone."]],
    # a letter in a bottle / message
    [["{H} found a bottle on the beach of {L}.", "On {D} the sea threw a {j} box onto the sand.", "While {H} was looking for shells, a bottle came with the tide.", "In an old {t} {H} found a piece of paper."],
     ["There was a letter in it.", "Inside was a paper with a few words.", "The paper was wet, but one could read it.", "Something was written on it in blue ink."],
     ["\"Help us, we are on the island,\" it said.", "It said: \"Dig under the tree.\"", "\"To whoever finds this,\" it began.", "It was signed with the name {S}."],
     ["{H} showed it to {F}, the {r}.", "{H} ran to {F} with it.", "Nobody believed it, except {F}.", "{F} knew the old charts and looked for the place."],
     ["They took a boat, some bread and a {t}.", "The next {d} they sailed out of the bay.", "They rowed for {n} hours.", "They left before sunrise."],
     ["On the island there was no one, only a hut.", "They saw smoke between the trees.", "They found the wreck of the {k} {S}.", "In the middle of the island stood a {j} {t}."],
     ["In the hut sat an old sailor.", "They dug until they struck wood.", "Three men came down to the beach and waved.", "There they found a chest."],
     ["\"I have waited for {n} years,\" said the old man.", "It was full of old letters, and not of gold.", "They took everybody on board and sailed back.", "{H} opened it with shaking hands."],
     ["In {L} they rang all the bells.", "{H} put the bottle on the window sill.", "Now {H} writes letters too and gives them to the sea.", "{F} wrote a book about it."]],
    # a contest
    [["Every summer there is a boat race in {L}.", "On {D} the great race was held at {L}.", "{H} had never won a race.", "All of {L} had come to the {Q} to see the race."],
     ["{H} had an old boat called the {S}.", "{F} had the fastest boat of all.", "{H} rowed in a small {j} boat.", "The winner gets a {c} flag and a barrel of {b}."],
     ["\"You cannot win with that,\" said {F}.", "People laughed when they saw the {S}.", "{H} painted the {S} {c} and was not worried.", "{F} was sure to win."],
     ["At {T} a bell gave the sign.", "The bell rang, and {n} boats set off.", "They all started at the same moment.", "The start was bad, and {H} was last."],
     ["{F} was soon far ahead.", "At the first buoy {H} passed two boats.", "Near the rocks {w2}.", "Halfway round the island the wind changed."],
     ["Then {F} lost an oar.", "Suddenly the boat of {F} struck a rock.", "Then a rope of {F} broke with a loud crack.", "At the last buoy {F} fell into the water."],
     ["{H} could have won now, but turned back.", "{H} stopped and threw {F} a rope.", "\"Take my hand!\" called {H}.", "{H} did not think of the race any more."],
     ["Somebody else won, but nobody looked.", "They came in last, in one boat.", "The people cheered louder than ever.", "Together they rowed the {S} to the finish."],
     ["{F} gave {H} half of a barrel of {b}.", "The next year they rowed together and won.", "The {c} flag hangs over the bed of {H}.", "\"That was the best race of all,\" said {F}."]],
    # a house is built / something is made
    [["{H} wanted to build a boat.", "{H} needed a new house, for the old one was falling down.", "\"I will build a tower,\" said {H}.", "The bridge of {L} was old, and {H} had to make a new one."],
     ["There was wood enough, but no {t}.", "It had to be ready before the winter.", "{H} drew a plan on a large sheet of paper.", "It would cost {n} sacks of {g}."],
     ["{F} lent {H} a {t}.", "{F} came to help on {D}.", "{F} and the {r} carried the beams.", "The neighbours brought nails and ropes."],
     ["First they laid the stones, then the beams.", "They worked from morning until night.", "{H} sawed, {F} hammered, and the children carried water.", "On the third day the {t} broke."],
     ["Then {w2}, and they had to stop.", "A wall fell down in the night.", "\"It is crooked,\" said {F}.", "One {d} all the nails were gone."],
     ["They began again from the beginning.", "{H} did not lose courage.", "\"We will do it better this time,\" said {H}.", "They waited until the weather was better."],
     ["Little by little it grew.", "After {n} weeks only the roof was missing.", "Every day a small piece was added.", "At the end they painted everything {c}."],
     ["On {D} it was finished.", "At last it was ready, and it was beautiful.", "It stood firm, even in the storm.", "Everyone came to see it."],
     ["They ate {x} and drank {b} until late at night.", "{H} named it after {F}.", "It still stands at {L} today.", "\"Next year we build another one,\" said {F}."]],
    # the keeper and the light
    [["{H} was the keeper of the light at {L}.", "On the cliff above {L} lived {H}, who kept the lamp.", "For {n} years {H} had lit the lamp at {L} every evening."],
     ["Only {F} came by, once a week, with bread and oil.", "From up there one could see every ship.", "It was a lonely life, but {H} liked it.", "{H} knew every ship by its sails."],
     ["One {d} the oil did not come.", "One evening the glass of the lamp was broken.", "On {D} {H} was too ill to climb the stairs.", "Then came a night with thick fog."],
     ["And the {S} was out there with {n} men.", "{H} knew that the {S} was on her way.", "Far out {H} saw the small light of the {S}.", "The {k} {S} was near the rocks already."],
     ["{H} took a {t} and ran down to the {Q}.", "{H} woke {F}, and they made a plan.", "{H} burned the old chairs on top of the tower.", "{H} rang the bell with both hands."],
     ["{F} brought wood, and {H} kept the fire high.", "The whole village carried lamps to the cliff.", "All night they stood there and called.", "Every hour {H} blew the horn three times."],
     ["On board of the {S} a sailor saw the light.", "The {S} turned away from the rocks.", "In the last moment the {S} changed her course.", "The captain understood the sign."],
     ["In the morning the {S} lay safe at the {Q}.", "All men of the {S} came up to thank {H}.", "The captain gave {H} a {j} {t}.", "Since that night there are two lamps at {L}."],
     ["{H} made tea and said nothing.", "And in the evening {H} lit the lamp as always.", "\"It is only my work,\" said {H}.", "Now {F} has learned to light the lamp too."]],
    # a market day
    [["On {D} {H} went to the market of {L}.", "It was market day in {L}.", "{H} had a basket full of {g} to sell."],
     ["There were sellers of fish, bread and cloth.", "{F} had a table with {x} and {g}.", "The square was full of people.", "A man played the fiddle."],
     ["\"Fresh {x}!\" cried {F}.", "{H} wanted to buy a {j} {t}.", "{H} looked for a present for {F}.", "Nobody wanted the {g} of {H}."],
     ["The {t} cost {n} coins, and {H} had only two.", "\"How much is that {t}?\" asked {H}.", "A {a} jumped onto the table and knocked everything over.", "Then somebody cried: \"Stop the thief!\""],
     ["{H} thought for a while.", "{H} helped to pick everything up.", "{F} laughed out loud.", "Everybody looked at {H}."],
     ["\"I give you my {g} for it,\" said {H}.", "\"You can pay me later,\" said {F}.", "{H} caught the {a} and held it fast.", "\"Take it, you helped me,\" said {F}."],
     ["So {H} got the {t} after all.", "They shook hands on it.", "And then the sun came out.", "In the evening all the {g} was sold."],
     ["{H} went home with an empty basket and a full heart.", "At home {H} put the {t} on the table.", "\"That was a good day,\" said {H}.", "They shared a piece of {x} on the way home."]],
    # a dream or a night on watch
    [["{H} had the watch on the {k} {S}.", "It was night, and {H} sat alone on the deck of the {S}.", "{H}, the {r} of the {S}, could not sleep."],
     ["The sea was quiet, and the stars were bright.", "Everybody else was asleep.", "At {T} {w2}.", "Only the ropes creaked in the wind."],
     ["Then {H} saw a {c} light on the water.", "Suddenly there was a voice.", "A strange ship came out of the fog.", "Something knocked three times against the hull."],
     ["\"Who is there?\" called {H}.", "{H} took a {t} and went to look.", "{H} did not dare to move.", "{H} leaned over the rail."],
     ["Nobody answered.", "The light came nearer and nearer.", "There was a man in a small boat.", "An old {a} looked up from the water."],
     ["\"It is only me,\" said {F}.", "\"I have brought your {t},\" said the voice.", "It was {F}, who had missed the ship in {L}.", "{F} had rowed all the way from {L}."],
     ["{H} let down the ladder.", "{H} laughed and helped {F} on board.", "\"You gave me a fright,\" said {H}.", "They sat down and shared some {b}."],
     ["In the morning nobody believed them.", "Then the watch was over, and {H} went to sleep.", "The sun rose, and the sea was blue again.", "{H} wrote in the log: all well."]],
]


def story(r, scenes=None):
    """A story as a list of forms with slots in braces; now and then a free sentence between two scenes."""
    plot = r.choice(PLOTS)
    free = r.choice([0.0, 0.0, 0.1, 0.3])
    parts = []
    for i, scene in enumerate(plot):
        if 0 < i < len(plot) - 1 and r.random() < 0.1:
            continue
        count = 2 if 0 < i < len(plot) - 1 and len(scene) > 3 and r.random() < 0.25 else 1
        parts += r.sample(scene, count)
        if i < len(plot) - 1 and r.random() < free:
            parts.append(text(r))
    return parts


# ---- beginnings in words that no plot knows: what follows them is a plot nevertheless, and it ends
HEROES = """{H}|{H}|{H}|{H}|{F}|{F}|{H} the {r}|{H}, the {r},|the {r} {H}|the {k} {S}|the {S}|{H} and {F}|the {r}|{H} of {L}|one of the men on the {S}""".split("|")
SPOTS = """in {L}|at {L}|near {L}|by the {k} {S}|beside the {S}|on the {k} {S}|in front of the {Q}|behind the {Q}|into the sea|into the mud|next to {H}|on the way to {L}|in the house of {F}""".split("|")
LEADS = """||||||Once upon a time |In the old days |For as long as anyone can remember, |It was said of {L} that |Years before the war |At {L} |On board of the {S} |One {d} |Of all the people in {L}, |Like everybody else, |As the sun went down, |To the surprise of {F}, |Without any warning |The harbour was quiet, and |The harbour was full of ships when |The tide was low and |The night was dark, and |The sea was grey when |""".split("|")
ODD_WORDS = [w for name in ("thing", "adj", "did", "mood") for w in BANKS[name] if w.isalpha()]


def _of_the_story(r, text):
    """The people, things and places of a frame become those of the story for the most part."""
    for slot, own, share in (("<who>", HEROES, 0.85), ("<thing>", ["{t}"], 0.6), ("<where>", SPOTS, 0.5)):
        text = re.sub(slot, lambda _: r.choice(own) if r.random() < share else slot, text)
    return text


def opening(r):
    """One sentence on the hero, put together freely; now and then with a few words that do not belong there."""
    out = expand(r, r.choice(LEADS) + _of_the_story(r, frame(r)))
    if r.random() < 0.2:
        out = " ".join(r.choice(ODD_WORDS) if w.isalpha() and w.islower() and r.random() < 0.15 else w for w in out.split(" "))
    return out


def openings(r):
    return [opening(r) for _ in range(r.choice([1, 2, 2, 2, 3]))]


def late_story(r):
    """A free beginning, then some plot from its middle to its end."""
    plot = r.choice(PLOTS)
    return openings(r) + [r.choice(scene) for scene in plot[r.randrange(1, len(plot) - 2) :]]
