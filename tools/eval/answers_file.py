"""The file of a run: JSON lines, the first of which says what is measured, then a line for each
group of answers that is finished. Whatever happens between two lines or within one, the next start
goes on behind the last whole line.

A group is answered from an empty cache, so its answers do not depend on where a run was stopped.

Docs: docs/31-tasks.md"""
import fcntl
import json
import os

from .problems import BadFile


def line_of(record):
    return json.dumps(record).encode() + b"\n"


class AnswersFile:
    """Opens or creates `path` (None: nothing is kept), locks it and drops a torn last line."""

    def __init__(self, path, header):
        self.path, self.file, self.groups, self.torn = path, None, {}, 0
        header = json.loads(json.dumps(header))
        if path is None:
            return
        try:
            self.file = open(path, "a+b")
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadFile(f"{path}: another run is at work on it") from error
        except OSError as error:
            raise BadFile(f"{path}: {error.strerror}") from error
        self.file.seek(0)
        whole, newline, torn = self.file.read().rpartition(b"\n")
        if whole:
            self.read(whole.decode(errors="replace").split("\n"), header)
        elif not line_of(header).startswith(torn):
            raise BadFile(f"{path}: expected the answers of rotkv-eval, found something else")
        self.torn = len(torn)
        self.file.truncate(len(whole + newline))
        if not whole:
            self.write(header)

    def read(self, lines, header):
        try:
            found, *groups = [json.loads(line) for line in lines]
            for key in {**found, **header}:
                if found.get(key) != header.get(key):
                    raise BadFile(f"{self.path}: {key}: the file has {found.get(key)!r}, this run "
                                  f"{header.get(key)!r}")
            self.groups = {tuple(group["group"]): group["answers"] for group in groups}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadFile(f"{self.path}: expected the answers of rotkv-eval, found something "
                          f"else") from error

    def write(self, line):
        self.file.write(line_of(line))
        self.file.flush()
        os.fsync(self.file.fileno())

    def add(self, group, answers):
        """`group`: a tuple of names and numbers that is like no other."""
        self.groups[group] = answers
        if self.file is not None:
            try:
                self.write({"group": group, "answers": answers})
            except OSError as error:
                raise BadFile(f"{self.path}: {error.strerror}") from error

    def close(self):
        if self.file is not None:
            self.file.close()
