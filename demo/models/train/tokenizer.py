"""Byte-level BPE in the GPT-2 manner with the "qwen2" split rules: training, encoding, decoding.

What this is: the one tokenizer of the three models, small and exact (NFC, then the split, then merges by rank).
What it does not do: it renders no chat template and adds no BOS; special tokens are parsed only by `encode`.
"""

import argparse
import collections
import json
import re
import unicodedata

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_ASCII_SPLIT = re.compile(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    r"|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTRACTIONS = ["'re", "'ve", "'ll", "'s", "'t", "'m", "'d"]


def _bytes_to_unicode():
    """The printable stand-in of each byte (GPT-2's table)."""
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, extra = {}, 0
    for byte in range(256):
        if byte in keep:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(256 + extra)
            extra += 1
    return table


BYTE_TO_CHAR = _bytes_to_unicode()
CHAR_TO_BYTE = {c: b for b, c in BYTE_TO_CHAR.items()}


def _letter(c):
    return unicodedata.category(c)[0] == "L"


def _number(c):
    return unicodedata.category(c)[0] == "N"


def _take(text, start, test):
    end = start
    while end < len(text) and test(text[end]):
        end += 1
    return end


def _split_at(text, i):
    """End of the pre-token that starts at i: the alternatives of the regular expression, in order."""
    for con in _CONTRACTIONS:
        if text[i : i + len(con)].lower() == con:
            return i + len(con)
    c = text[i]
    first = i if _letter(c) else i + 1
    if _letter(c) or (c not in "\r\n" and not _number(c)):
        end = _take(text, first, _letter)
        if end > first:
            return end
    if _number(c):
        return i + 1
    first = i + 1 if c == " " else i
    end = _take(text, first, lambda ch: not (ch.isspace() or _letter(ch) or _number(ch)))
    if end > first:
        return _take(text, end, lambda ch: ch in "\r\n")
    end = _take(text, i, str.isspace)
    newline = max(text.rfind("\n", i, end), text.rfind("\r", i, end))
    if newline >= 0:
        return newline + 1
    if end < len(text) and end - i > 1:
        return end - 1
    return end


def split_words(text):
    """The qwen2 split. ASCII text goes through a regular expression, other text through the scanner."""
    if text.isascii():
        return _ASCII_SPLIT.findall(text)
    words, i = [], 0
    while i < len(text):
        end = _split_at(text, i)
        words.append(text[i:end])
        i = end
    return words


def train_bpe(texts, vocab_size):
    """Learns merges from texts. Returns (tokens, merges); specials come after the 256 bytes and the merges."""
    counts = collections.Counter()
    for text in texts:
        counts.update(split_words(text))
    words = [[BYTE_TO_CHAR[b] for b in word.encode()] for word in counts]
    freq = list(counts.values())
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for i, symbols in enumerate(words):
        for pair in zip(symbols, symbols[1:]):
            pairs[pair] += freq[i]
            where[pair].add(i)
    tokens = [BYTE_TO_CHAR[b] for b in range(256)]
    merges = []
    while len(tokens) < vocab_size - len(SPECIALS):
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        tokens.append(best[0] + best[1])
        for i in list(where[best]):
            _apply_merge(words, freq, pairs, where, i, best)
        del pairs[best]
    return tokens + SPECIALS, merges


def _apply_merge(words, freq, pairs, where, i, best):
    old = words[i]
    for pair in zip(old, old[1:]):
        pairs[pair] -= freq[i]
        where[pair].discard(i)
    new = _merge(old, best)
    for pair in zip(new, new[1:]):
        pairs[pair] += freq[i]
        where[pair].add(i)
    words[i] = new


def _merge(symbols, pair):
    out, j = [], 0
    while j < len(symbols):
        if j + 1 < len(symbols) and symbols[j] == pair[0] and symbols[j + 1] == pair[1]:
            out.append(pair[0] + pair[1])
            j += 2
        else:
            out.append(symbols[j])
            j += 1
    return out


class Tokenizer:
    def __init__(self, tokens, merges):
        self.tokens = tokens
        self.merges = [tuple(m) for m in merges]
        self.ids = {t: i for i, t in enumerate(tokens)}
        self.ranks = {m: r for r, m in enumerate(self.merges)}
        self.eos, self.im_start, self.im_end = (self.ids[s] for s in SPECIALS)
        self._cache = {}
        self._special_split = re.compile("(" + "|".join(re.escape(s) for s in SPECIALS) + ")")

    @staticmethod
    def load(path):
        with open(path) as f:
            data = json.load(f)
        return Tokenizer(data["tokens"], [m.split(" ") for m in data["merges"]])

    def save(self, path):
        with open(path, "w") as f:
            json.dump({"tokens": self.tokens, "merges": [" ".join(m) for m in self.merges]}, f, indent=0)

    def encode_word(self, word):
        """Token ids of one pre-token; remembered, since the same words come again and again."""
        ids = self._cache.get(word)
        if ids is None:
            symbols = [BYTE_TO_CHAR[b] for b in word.encode()]
            while len(symbols) > 1:
                pair = min(zip(symbols, symbols[1:]), key=lambda p: self.ranks.get(p, 1 << 30))
                if pair not in self.ranks:
                    break
                symbols = _merge(symbols, pair)
            ids = [self.ids[s] for s in symbols]
            if len(self._cache) < 200_000:
                self._cache[word] = ids
        return ids

    def encode_plain(self, text):
        """Ids of text without special tokens (their spellings are read as text)."""
        if not text.isascii():
            text = unicodedata.normalize("NFC", text)
        out = []
        for word in split_words(text):
            out.extend(self.encode_word(word))
        return out

    def encode(self, text):
        """Ids of text; the spellings of special tokens become those tokens."""
        out = []
        for part in self._special_split.split(text):
            if part in SPECIALS:
                out.append(self.ids[part])
            elif part:
                out.extend(self.encode_plain(part))
        return out

    def decode(self, ids):
        data = b""
        for i in ids:
            token = self.tokens[i]
            data += token.encode() if token in SPECIALS else bytes(CHAR_TO_BYTE[c] for c in token)
        return data.decode("utf-8", errors="replace")


def self_test():
    """The regular expression and the scanner must agree on ASCII; returns the number of cases."""
    import random

    rng = random.Random(5)
    for case in range(3000):
        text = "".join(rng.choice("ab Z9'sT.,!\n\r\t  lLre") for _ in range(rng.randrange(1, 24)))
        scanned, i = [], 0
        while i < len(text):
            end = _split_at(text, i)
            scanned.append(text[i:end])
            i = end
        assert scanned == _ASCII_SPLIT.findall(text), repr(text)
    return 3000


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocab", type=int, default=1280)
    parser.add_argument("--documents", type=int, default=6000)
    parser.add_argument("--out", default="tokenizer.json")
    args = parser.parse_args()
    import world

    print("split cases:", self_test())
    sample = world.plain_sample(args.documents, seed=11)
    tokens, merges = train_bpe(sample, args.vocab)
    Tokenizer(tokens, merges).save(args.out)
    text = "\n".join(sample[:400])
    print("characters per token:", len(text) / len(Tokenizer(tokens, merges).encode_plain(text)))
