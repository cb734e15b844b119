#!/usr/bin/env python3
"""Which lines the tests run, folder by folder, and which they do not. Reads what gcovr read off the
counts of a build with gcc's --coverage (./dev coverage makes both).

Usage: tests/coverage.py GCOVR.JSON"""
import collections
import json
import sys

LEAST = {"ref": 95.0, "fast": 95.0, "tools": 95.0}  # per cent of lines, by room


def ranges(numbers):
    """[3, 4, 5, 9] as "3-5, 9"."""
    words, first = [], None
    for i, n in enumerate(numbers):
        first = n if first is None else first
        if i + 1 == len(numbers) or numbers[i + 1] != n + 1:
            words.append(str(n) if n == first else f"{first}-{n}")
            first = None
    return ", ".join(words)


def lines_of(report):
    """file: ([lines that were run], [lines that were not])"""
    found = {}
    for file in report["files"]:
        counts = collections.defaultdict(int)
        for line in file["lines"]:
            if not line.get("gcovr/noncode", False):
                counts[line["line_number"]] += line["count"]
        found[file["file"]] = ([n for n in sorted(counts) if counts[n] > 0],
                               [n for n in sorted(counts) if counts[n] == 0])
    return found


def main(path):
    with open(path, encoding="utf-8") as file:
        lines = lines_of(json.load(file))
    folders, rooms = collections.Counter(), collections.Counter()
    for name, (run, left) in lines.items():
        for where, counter in ((name.rsplit("/", 1)[0], folders), (name.split("/")[0], rooms)):
            counter[where, "all"] += len(run) + len(left)
            counter[where, "run"] += len(run)
    print("lines that no test runs:")
    for name, (_, left) in sorted(lines.items()):
        if left:
            print(f"  {name}: {ranges(left)}")
    print(f"\n{'folder':<16}{'lines':>8}{'run':>8}{'':>10}")
    for folder in sorted({where for where, _ in folders}):
        total, run = folders[folder, "all"], folders[folder, "run"]
        print(f"{folder:<16}{total:>8}{run:>8}{100 * run / total:>8.1f} %")
    status = 0
    for room, least in LEAST.items():
        share = 100 * rooms[room, "run"] / rooms[room, "all"]
        if share < least:
            status = 1
            print(f"{room}: {share:.1f} %, expected at least {least:.0f} %")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
