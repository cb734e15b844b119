"""The site's sources: the repository's pages as they are, and every source file as a page of its own,
so that a link from a chapter to the code stays on the site.

A hook of mkdocs.yml. Before the site is built, build/site_source becomes a folder with the
repository's tree in it: a page NAME.md as NAME.md, a source file NAME.EXT as NAME.EXT.md (its text,
numbered), a notebook as NAME.ipynb.md with what its cells printed and drew, and a README.md with a
list of its files for a folder that has none. Links to sources and folders are turned to these pages;
a path in code font or after "Code:" becomes a link. Formulas become MathML, which browsers set
without a script."""
import base64
import glob
import json
import logging
import os
import posixpath
import re
import shutil
import subprocess
from html import unescape

from latex2mathml.converter import convert

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
LANGUAGES = {".h": "cpp", ".cpp": "cpp", ".c": "c", ".cu": "cuda", ".cuh": "cuda", ".metal": "cpp",
             ".msl": "cpp", ".py": "python", ".cmake": "cmake", ".txt": "text", ".json": "json",
             ".yml": "yaml", ".toml": "toml", ".patch": "diff", ".js": "javascript", ".css": "css",
             ".sh": "bash"}
PLAYGROUND = "tools/playground/"  # its page is one of the site's own: playground/index.html
PICTURES = (".png", ".svg")
FENCE = re.compile(r"^(```.*?^```|~~~.*?^~~~)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\])\(([^)\s#]*)(#[^)\s]*)?\)")  # what it says may be a picture, a link of its own
QUOTED = re.compile(r"^```(\w+) (\S+)$", re.MULTILINE)  # a listing, and the file that it is a part of
FORMULA = re.compile(r'<(div|span) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:div|span)>', re.DOTALL)
CODE_PATH = re.compile(r"(?<![\[`\w/])`([\w.-]+(?:/[\w.-]+)+/?)`(?!\])")
REFERENCE = """# Reference

Read off the headers and the module: every function with its formula, shapes and errors.

- [Python](python.md): the package `rotkv`, numpy in and out
- [C](c/functions.md): `rotkv.h`, for other programs
- [C++](cpp/annotated.md): ref/, the specification, with its structs of arguments
"""


def repository_files():
    """Paths from the root of all files that belong to the project, new ones among them."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted(name for name in listed.split("\n")
                  if name and os.path.isfile(os.path.join(ROOT, name)))


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def is_source(path):
    return (os.path.splitext(path)[1] in LANGUAGES or path in ("dev", "LICENSE")) \
        and not path.startswith(("tests/golden/", "tests/corpus_", "tests/mutants/", "docs/site/"))


class Tree:
    """What the site has: `pages` (Markdown), `sources`, `notebooks`, `pictures`, and the folders
    above them."""

    def __init__(self, files):
        self.pages = [path for path in files if path.endswith(".md")]
        self.sources = [path for path in files if is_source(path)]
        self.notebooks = [path for path in files if path.endswith(".ipynb")]
        self.pictures = [path for path in files if path.endswith(PICTURES)]
        self.folders = sorted({folder for path in self.pages + self.sources
                               for folder in folders_above(path)})

    def page_of(self, path):
        """The page that shows `path`, or None: what a link to it has to name."""
        if path == PLAYGROUND + "index.html":
            return "playground/index.html"
        if path in self.pages or path in self.pictures:
            return path
        if path in self.sources or path in self.notebooks:
            return path + ".md"
        return posixpath.join(path, "README.md") if path in self.folders else None


def folders_above(path):
    parts = path.split("/")[:-1]
    return ["/".join(parts[:n + 1]) for n in range(len(parts))]


def relink(text, page, tree):
    """`text` of `page` with every link to a source or folder turned to the page that shows it."""
    here = posixpath.dirname(page)

    def to_page(path):
        shown = tree.page_of(path)
        return shown and posixpath.relpath(shown, here or ".")

    def link(match):
        label, target, anchor = match.groups()
        if not target or "://" in target:
            return match.group()
        shown = to_page(posixpath.normpath(posixpath.join(here, target)))
        return f"{label}({shown}{anchor or ''})" if shown else match.group()

    def code_path(match):
        shown = to_page(match.group(1).rstrip("/"))
        return f"[`{match.group(1)}`]({shown})" if shown else match.group()

    def code_line(match):  # of some pages it is long: it opens where somebody asks
        paths = match.group(1).split(" \u00b7 ")
        links = " \u00b7 ".join(f"[{path}]({to_page(path)})" if to_page(path) else path
                               for path in paths)
        return (f'<details markdown="1"><summary>Code: {len(paths)} files</summary>\n\n{links}\n\n'
                "</details>")

    parts = FENCE.split(text)  # odd ones are code and stay as they are
    for n in range(0, len(parts), 2):
        part = LINK.sub(link, parts[n])
        part = re.sub(r"^Code: (\S+(?: \u00b7 \S+)*)$", code_line, part, flags=re.MULTILINE)
        parts[n] = CODE_PATH.sub(code_path, part)
    for n in range(1, len(parts), 2):
        parts[n] = QUOTED.sub(r'``` {.\1 title="\2"}', parts[n])
    return "".join(parts)


def source_page(path):
    """The file `path` as a page: its folder, its lines with numbers."""
    fence = "````" if "```" in read(path) else "```"
    language = LANGUAGES.get(os.path.splitext(path)[1], "bash" if path == "dev" else "text")
    folder = posixpath.dirname(path)
    above = f"In [{folder}/](README.md).\n\n" if folder else ""
    return (f"---\ntitle: {path}\nhide: [navigation, toc]\nsearch:\n  exclude: true\n---\n# {path}\n\n{above}"
            f"{fence} {{.{language} linenums=\"1\"}}\n{read(path).rstrip()}\n{fence}\n")


def notebook_page(path, tree):
    """The notebook `path` as a page, and {name: bytes} of its pictures beside it."""
    parts, pictures = ["---\nhide: [navigation]\n---"], {}
    for cell in json.loads(read(path))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(relink(text, path, tree))
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            if "text" in output:
                parts.append("```text\n" + "".join(output["text"]).rstrip("\n") + "\n```")
            else:
                name = f"{posixpath.basename(path)}.{len(pictures)}.png"
                pictures[name] = base64.b64decode("".join(output["data"]["image/png"]))
                parts.append(f"![]({name})")
    return "\n\n".join(parts) + "\n", pictures


def first_sentence(path):
    """What a source file says of itself: the first words of the comment or docstring on its top."""
    text = read(path)
    match = (re.match(r'(?:#!.*\n)?"""(.*?)(?:\n\n|""")', text, re.DOTALL)
             or re.match(r"(?:#!.*\n|#pragma once\n)*((?:(?://|#)(?!include|pragma).*\n)+)", text))
    words = re.sub(r"^(?://|#) ?", "", match.group(1), flags=re.MULTILINE) if match else ""
    words = " ".join(words.split())
    return re.split(r"(?<=[.:]) ", words)[0].replace("|", "\\|").replace("<", "&lt;")


def listing(folder, tree):
    """A table of what lies in `folder`."""
    depth = folder.count("/") + 1
    rows = [f"| [{path.split('/')[-1]}]({path.split('/')[-1]}.md) | {first_sentence(path)} |"
            for path in tree.sources if posixpath.dirname(path) == folder]
    rooms = [f"| [{inner.split('/')[-1]}/]({inner.split('/')[-1]}/README.md) | |"
             for inner in tree.folders
             if inner.startswith(folder + "/") and inner.count("/") == depth]
    return "\n".join(["| file | |", "|---|---|"] + rooms + rows) + "\n" if rooms or rows else ""


def write(target, path, text):
    path = os.path.join(target, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def assemble(target, tree):
    for page in tree.pages:
        text = relink(read(page), page, tree)
        if page.endswith("/README.md"):
            text += "\n## Files\n\n" + listing(posixpath.dirname(page), tree)
        write(target, page, text)
    for source in tree.sources:
        write(target, source + ".md", source_page(source))
    for notebook in tree.notebooks:
        text, pictures = notebook_page(notebook, tree)
        write(target, notebook + ".md", text)
        for name, picture in pictures.items():
            with open(os.path.join(target, posixpath.dirname(notebook), name), "wb") as file:
                file.write(picture)
    for folder in tree.folders:
        if f"{folder}/README.md" not in tree.pages:
            write(target, f"{folder}/README.md", f"# {folder}/\n\n{listing(folder, tree)}")
    write(target, "api/README.md", REFERENCE)
    write(target, "api/python.md", "# The Python package\n\n::: rotkv\n")
    copy_playground(os.path.join(target, "playground"))
    for picture in tree.pictures:
        os.makedirs(os.path.join(target, posixpath.dirname(picture)), exist_ok=True)
        shutil.copyfile(os.path.join(ROOT, picture), os.path.join(target, picture))


def copy_playground(target):
    """The page with its modules and, where tools/playground/wasm.sh has made it, its program."""
    os.makedirs(target)
    for path in (glob.glob(os.path.join(ROOT, PLAYGROUND, "*.*"))
                 + glob.glob(os.path.join(ROOT, "build/playground/rotkv.*"))):
        if path.endswith((".html", ".css", ".js", ".wasm")):
            shutil.copy(path, target)


def title(page):
    return re.search(r"^# (.*)$", read(page), re.MULTILINE).group(1)


def navigation(tree):
    """The side bar: chapters by their numbers, then pages to look things up in, then the rooms."""
    in_docs = [page for page in tree.pages if posixpath.dirname(page) == "docs"]
    chapters = [page for page in in_docs if re.match(r"docs/\d", page)]
    rooms = [page for page in tree.pages if page.count("/") == 1 and page.endswith("/README.md")]
    return [{"rotkv": "README.md"},
            {"Chapters": [{title(page): page} for page in chapters]},
            {"Playground": "playground/index.html"},
            {"Reference": ["api/README.md", "api/python.md"]},
            {"To look up": [{title(page): page} for page in in_docs if page not in chapters]},
            {"Rooms": [{title(page): page} for page in rooms]},
            {"Changes": "CHANGELOG.md"}]


def on_config(config):
    """mkdocs calls this once, with its settings, before it looks for pages."""
    # To autorefs a shape such as [T][E] in a docstring is a link that leads nowhere.
    logging.getLogger("mkdocs.plugins.mkdocs_autorefs").setLevel(logging.ERROR)
    tree = Tree(repository_files())
    shutil.rmtree(config["docs_dir"])
    assemble(config["docs_dir"], tree)
    config["nav"] = navigation(tree)
    return config


def on_page_markdown(markdown, **_):
    """mkdocs calls this with each page's text: mkdoxy names enums without a name and links to them."""
    return re.sub(r"\[([^\]]*)\]\([^)\s]*#enum-@\d+\)", r"\1", markdown)


def on_page_content(html, **_):
    """mkdocs calls this with each page's HTML: formulas stand in it as LaTeX."""
    def formula(match):
        if match.group(2) == "(":
            return convert(unescape(match.group(3)))
        return ('<div style="overflow-x: auto">'  # on a narrow screen it scrolls, not the page
                + convert(unescape(match.group(3)), display="block") + "</div>")

    return FORMULA.sub(formula, html)
