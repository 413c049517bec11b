"""Checks that training knows no sentence of the evaluation: of no evaluation template does a run of more than MOST of its
words stand in a training form. (Both sides say "the {A} of {E} is {V}" somewhere.) Prints what is too alike, and then exits
with 1. Needs no PyTorch."""

import re
import sys

sys.dont_write_bytecode = True

import foreign
import forms
import prose
import templates
import world

MOST, LEAST = 0.85, 5  # share of its words; shorter ones are greetings and names


def texts(value):
    """All strings in a table of tables."""
    if isinstance(value, str):
        yield from value.split("|")
    elif isinstance(value, dict):
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from texts(part)


def is_sides(value):
    return isinstance(value, tuple) and len(value) == 2


def tables():
    """(training strings, evaluation strings) of all modules."""
    training, evaluation = [], []
    for value in vars(templates).values():
        pairs = [value] if is_sides(value) else [v for v in value.values() if is_sides(v)] if isinstance(value, dict) else []
        for pair in pairs:
            training += texts(pair[0])
            evaluation += texts(pair[1])
        if not pairs and isinstance(value, (list, dict)):
            training += texts(value)
    for module in (forms, prose, foreign):
        for name, value in vars(module).items():
            if name.isupper():
                (evaluation if name.startswith("EVAL_") else training).extend(texts(value))
    return training + world.STORY_WISHES, [text for text in evaluation if len(words(text)) >= LEAST]


def words(text):
    return re.findall(r"\{\w+\}|<\w+>|[a-z0-9']+", text.lower())


def run_of(text, size):
    """All runs of `size` words in a text."""
    found = words(text)
    return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)}


def shared():
    """(evaluation template, run of its words) where a training form has too long a run of it."""
    training, evaluation = tables()
    known, out = {}, []
    for text in evaluation:
        size = int(MOST * len(words(text))) + 1
        if size not in known:
            known[size] = set().union(*(run_of(t, size) for t in training))
        out += [(text, " ".join(run)) for run in sorted(run_of(text, size) & known[size])]
    return out


if __name__ == "__main__":
    found = shared()
    for text, run in found:
        print("%s: %s" % (run, text))
    training, evaluation = tables()
    print("%d training forms, %d of the evaluation, %d too alike" % (len(training), len(evaluation), len(found)))
    sys.exit(1 if found else 0)
