"""Writes the Markdown table of results.json (PyTorch scores of the shipped weights) to results.md."""

import json
import os

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "..")


def cell(group):
    if group is None:
        return "-"
    if "perplexity" in group:
        return "%.2f" % group["perplexity"]
    if "repeated" in group:
        return "%.1f%% repeated, %d end" % (100 * group["repeated"], group["ended"])
    return "%.1f%%" % (100 * group["accuracy"])


def main():
    with open(os.path.join(FOLDER, "results.json")) as f:
        results = json.load(f)
    with open(os.path.join(FOLDER, "eval/tide-eval.json")) as f:
        groups = json.load(f)["groups"]
    names = [n for n in ("tide-dense", "tide-hybrid", "tide-moe") if n in results]
    lines = ["| group | items | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for group in groups:
        cells = [cell(results[n]["groups"].get(group["name"])) for n in names]
        lines.append("| %s | %d | %s |" % (group["name"], len(group["items"]), " | ".join(cells)))
    lines.append("| training tokens | | " + " | ".join("%.1f M" % (results[n]["tokens"] / 1e6) for n in names) + " |")
    with open(os.path.join(FOLDER, "results.md"), "w") as f:
        f.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
