"""Files: they appear under their names when they are whole, and are told apart by their bytes.

Docs: docs/31-tasks.md"""
import contextlib
import hashlib
import os


@contextlib.contextmanager
def whole(path):
    """A name to write under, which becomes `path` unless something is raised; a link stands for
    what it leads to. A device or a pipe is written as it is."""
    if os.path.exists(path) and not os.path.isfile(path):
        yield path
        return
    path = os.path.realpath(path)
    partial = f"{path}.{os.getpid()}.partial"
    try:
        yield partial
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def fingerprint(path):
    """Size and SHA-256 of a file."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 24):
            found.update(part)
    return [os.path.getsize(path), found.hexdigest()]
