"""The evaluation set: prompts and expected answers, with names, numbers and templates that training never saw.

What this is: builders of single items (also used for the quick look during training), and a command that writes the
whole set as JSON with a fixed seed. The schema is described in ../eval/README.md.
What it does not do: no model runs here; see evaluate.py.
"""

import argparse
import json
import random

import foreign
import templates as T
import words as W
import world
from world import OPEN_KINDS, ATTRIBUTES, World, join, unmark

DISTANCES = [64, 128, 256, 512, 1024, 1536, 2048]
FAR = [4096, 8192]


def _lines(w, tok, tokens, facts, known, exact=True):
    """About `tokens` tokens of log lines, as a list; with probability `facts` a line states a fact (kept in known)."""
    r, out, total, tries = w.rng, [], 0, 0
    while total < tokens - 4 and tries < 60:
        snapshot = len(w.entities)
        if r.random() < facts:
            e = r.choice(w.entities) if w.entities and r.random() < 0.35 else w.entity()
            if len(e.facts) >= 4:
                e = w.entity()
            line = w.state(e, w.new_fact(e))
        else:
            line = w.filler()
        line = unmark(line)
        size = len(tok.encode_plain(line + "\n"))
        if exact and total + size > tokens + 6 and tries < 59:
            del w.entities[snapshot:]
            tries += 1
            continue
        out.append(line)
        total += size
        tries = 0
    return out


def needle(tok, seed, distance, ev=True, open_only=True):
    """A log in which one fact stands `distance` tokens (within a few) before the question. Returns (prompt, answer)."""
    rng = random.Random(seed)
    w = World(rng, ev)
    while True:
        e = w.entity()
        attr = rng.choice([a for a, k in ATTRIBUTES[e.kind].items() if k in OPEN_KINDS or not open_only])
        w.entities.remove(e)
        if attr:
            break
    w.new_fact(e, attr)
    facts = rng.choice([0.3, 0.5, 0.7])
    before = _lines(w, tok, 30, facts, None, exact=False)
    hay = _lines(w, tok, distance, facts, None)
    fact = unmark(w.state(e, attr))
    question = unmark(w.ask(e, attr))
    text = "\n".join([unmark(w.fill(w.pick(T.HEAD)))] + before + [fact] + hay)
    return text + "\nQuestion: " + question + "\nAnswer:", e.facts[attr][-1]


def changed(tok, seed, tokens, ev=True):
    """One fact stated, changed once or twice, among other lines; the newest counts."""
    rng = random.Random(seed)
    w = World(rng, ev)
    e = w.entity()
    attr = rng.choice([a for a, k in ATTRIBUTES[e.kind].items() if k in OPEN_KINDS])
    w.entities.remove(e)
    w.new_fact(e, attr)
    times = rng.choice([1, 1, 2])
    gap = tokens // (times + 1)
    parts = [unmark(w.state(e, attr))] + _lines(w, tok, gap, 0.6, None)
    for _ in range(times):
        w.change(e, attr)
        parts += [unmark(w.state_change(e, attr))] + _lines(w, tok, gap, 0.6, None)
    return "\n".join(parts) + "\nQuestion: " + unmark(w.ask(e, attr)) + "\nAnswer:", e.facts[attr][-1]


def _two_question(w):
    for _ in range(200):
        e = w.rng.choice(w.entities)
        a = w.rng.choice(list(e.facts))
        question, answer = world.ask_two(w, e, a)
        if " and " in answer:
            return unmark(question), answer
    raise RuntimeError("no pair of facts in this world")


def multi(tok, seed, tokens, ev=True):
    """Two facts in one question."""
    w = World(random.Random(seed), ev)
    lines = _lines(w, tok, tokens, 0.8, None)
    question, answer = _two_question(w)
    return "\n".join(lines) + "\nQuestion: " + question + "\nAnswer:", answer


def listing(tok, seed, kind, ev=True):
    """Lists or counts of ships at a pier, or of goods of a ship. kind: "list" or "count"."""
    rng = random.Random(seed)
    w = World(rng, ev)
    lines, questions = world.list_world(w, rng.randrange(4, 11), rng.randrange(1, 4))
    wanted = [(q, a) for q, a in questions if a.isdigit() == (kind == "count")]
    question, answer = rng.choice(wanted)
    return "\n".join(unmark(x) for x in lines) + "\nQuestion: " + unmark(question) + "\nAnswer:", answer


def chat_system(tok, seed, tokens, ev=True):
    """One long system prompt and a few conversations over it; each gives one question. Returns (system, questions)."""
    w = World(random.Random(seed), ev)
    lines = [unmark(w.pick(T.SYSTEM))] + _lines(w, tok, tokens, 0.6, None)
    known = [(e, a) for e in w.entities for a in e.facts]
    picked = w.rng.sample(known, min(6, len(known)))
    return "\n".join(lines), [(unmark(w.ask(e, a)), e.facts[a][-1]) for e, a in picked]


def chat_prompt(messages):
    return "".join("<|im_start|>%s\n%s<|im_end|>\n" % m for m in messages) + "<|im_start|>assistant\n"


def chat_items(tok, seed, tokens, ev=True):
    """Prompts of one shared system prompt: the first question alone, later ones after earlier turns."""
    system, questions = chat_system(tok, seed, tokens, ev)
    items, messages = [], [("system", system)]
    for i, (question, answer) in enumerate(questions):
        turn = ("user", question)
        items.append((chat_prompt(messages + [turn] if i % 2 else [("system", system), turn]), world.chat_answer(answer)))
        messages += [turn, ("assistant", world.chat_answer(answer))]
    return items


def perplexity_text(tok, seed, known_templates=False):
    """Text without answers to score: a story, a letter and log lines; about 250 tokens. Names and numbers are always
    of the evaluation side; with known_templates the sentences are those of training."""
    rng = random.Random(seed)

    def fresh():
        w = World(rng, True)
        w.side = 0 if known_templates else 1
        return w

    parts = [unmark(world.story_text(fresh()))]
    doc = world.Doc(tok)
    world.letter_doc(fresh(), doc, 200)
    parts.append(tok.decode(doc.ids).rstrip("\n"))
    log = fresh()
    parts.append("\n".join([unmark(log.fill(log.pick(T.HEAD)))] + _lines(log, tok, 90, 0.3, None)))
    rng.shuffle(parts)
    return "\n".join(parts) + "\n"


def foreign_item(tok, seed, tokens, ev=True):
    """A page on other things than the harbour's, and one question that is answered by copying from it."""
    rng = random.Random(seed)
    lines, questions = foreign.page(rng, ev, tokens, lambda text: text, lambda text: len(tok.encode_plain(text + "\n")))
    question, answer = rng.choice(questions)
    return "\n".join(lines) + "\nQuestion: " + question + "\nAnswer:", answer


def story_start(seed):
    """The first two scenes of a story, to be continued."""
    w = World(random.Random(seed), True)
    slots = world.story_slots(w)
    return " ".join(unmark(world.sentence_capitals(w.fill(w.pick(T.STORY[scene]), **slots))) for scene in ("open", "trouble"))


def qa_item(prompt, answer, **more):
    return {"prompt": prompt, "answer": answer, **more}


def build(tok, seed="tide-eval-1", per_group=64):
    """The whole set; see ../eval/README.md for the schema."""
    groups = []

    def add(name, kind, items, **more):
        groups.append({"name": name, "kind": kind, **more, "items": items})

    add("perplexity", "perplexity", [{"text": perplexity_text(tok, "%s/p%d" % (seed, i))} for i in range(32)])
    known = [{"text": perplexity_text(tok, "%s/q%d" % (seed, i), True)} for i in range(16)]
    add("perplexity-known-templates", "perplexity", known)
    for distance in DISTANCES + FAR:
        n = per_group if distance <= 1024 else 50 if distance <= 2048 else 20 if distance == 4096 else 10
        items = [qa_item(*needle(tok, "%s/n%d/%d" % (seed, distance, i), distance)) for i in range(n)]
        add("needle-%d" % distance, "answer", items, distance=distance)
    sizes = [150, 300, 500, 800]
    add("multi-fact", "answer", [qa_item(*multi(tok, "%s/m%d" % (seed, i), sizes[i % 4])) for i in range(per_group)])
    add("changed-fact", "answer", [qa_item(*changed(tok, "%s/c%d" % (seed, i), sizes[i % 4])) for i in range(per_group)])
    add("list", "answer", [qa_item(*listing(tok, "%s/l%d" % (seed, i), "list")) for i in range(per_group)])
    add("count", "answer", [qa_item(*listing(tok, "%s/k%d" % (seed, i), "count")) for i in range(per_group)])
    chats = []
    for i in range(12):
        for prompt, answer in chat_items(tok, "%s/s%d" % (seed, i), [300, 600, 1000][i % 3]):
            chats.append(qa_item(prompt, answer, system=i))
    add("chat-format", "answer", chats)
    pages = [60, 120, 240, 400]
    add("foreign", "answer", [qa_item(*foreign_item(tok, "%s/f%d" % (seed, i), pages[i % 4])) for i in range(per_group)])
    starts = [{"prompt": story_start("%s/t%d" % (seed, i))} for i in range(50)]
    add("loops", "loops", starts, tokens=200, gram=8)
    return {"schema": 1, "seed": seed, "maxNewTokens": 32, "groups": groups}


if __name__ == "__main__":
    import tokenizer

    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizer", default="tokenizer.json")
    parser.add_argument("--out", default="../eval/tide-eval.json")
    args = parser.parse_args()
    data = build(tokenizer.Tokenizer.load(args.tokenizer))
    with open(args.out, "w") as f:
        json.dump(data, f, indent=1)
        f.write("\n")
    print({g["name"]: len(g["items"]) for g in data["groups"]})
