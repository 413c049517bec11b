"""The long evaluation set: documents of several lengths with many questions each, with names, numbers and templates that training
never saw.

What this is: a command that writes ../eval/tide-long.json with a fixed seed. The schema is described in ../eval/README.md. The
questions of a document share it as their prefix, so that an engine computes it once.
What it does not do: no model runs here; `npm run eval -- --long` does that.
"""

import argparse
import json
import random

import evalset
import templates as T
import tokenizer
from world import ATTRIBUTES, OPEN_KINDS, World, unmark

# Tokens of a document, and how many documents there are.
DOCUMENTS = {1024: 32, 2048: 32, 4096: 12, 8192: 6}
NEEDLES, PAIRS = 12, 4
QUESTION_TOKENS = 64  # of a document's tokens, left for the longest question and its answer


def document(tok, seed, tokens):
    """One document of at most `tokens` tokens with its questions."""
    w = World(random.Random(seed), True)
    head = unmark(w.fill(w.pick(T.HEAD)))
    room = tokens - QUESTION_TOKENS - len(tok.encode_plain(head + "\n"))
    text = "\n".join([head] + evalset._lines(w, tok, room, 0.5, None))
    open_facts = [(e, a) for e in w.entities for a in e.facts if ATTRIBUTES[e.kind][a] in OPEN_KINDS]
    wanted = len(open_facts) / NEEDLES  # from each stretch of the document one
    needles = [open_facts[int((i + w.rng.random()) * wanted)] for i in range(NEEDLES)]
    asked = [("needle", unmark(w.ask(e, a)), e.facts[a][-1]) for e, a in needles]
    asked += [("pair",) + evalset._two_question(w) for _ in range(PAIRS)]
    questions = [{"kind": kind, "question": question, "answer": answer} for kind, question, answer in asked]
    return {"text": text, "questions": questions}


def build(tok, seed="tide-long-1"):
    contexts = [
        {"tokens": n, "documents": [document(tok, "%s/%d/%d" % (seed, n, i), n) for i in range(count)]}
        for n, count in DOCUMENTS.items()
    ]
    return {"schema": 1, "seed": seed, "maxNewTokens": 24, "contexts": contexts}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizer", default="tokenizer.json")
    parser.add_argument("--out", default="../eval/tide-long.json")
    args = parser.parse_args()
    data = build(tokenizer.Tokenizer.load(args.tokenizer))
    with open(args.out, "w") as f:
        json.dump(data, f, indent=1)
        f.write("\n")
    print({c["tokens"]: len(c["documents"]) for c in data["contexts"]})
