#!/usr/bin/env python3
"""docs/poster.md of the built site as one sheet: SITE/docs/poster/poster.pdf, A2, printed by Chromium, with
a link to it on the page. What does not fit on the sheet is an error.

Usage: docs/site/poster.py SITE [PICTURE.png]; status 77: no Chromium or no playwright.
Docs: docs/CONTRIBUTING.md"""
import os
import pathlib
import re
import shutil
import sys

STYLE = pathlib.Path(__file__).with_name("poster.css")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PIXELS = {"width": 2245, "height": 1587}  # of A2, 96 to an inch
OUTSIDE = """() => [...document.querySelectorAll('article *')].filter(part => {
    const box = part.getBoundingClientRect(), sheet = document.querySelector('article').getBoundingClientRect();
    return box.width > 0 && (box.right > sheet.right || box.bottom > sheet.bottom);
}).map(part => part.textContent.trim().slice(0, 60))"""
LINK = '<p><a href="poster.pdf">As a sheet to be printed: PDF, A2</a></p>'


def pages_of(pdf):
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf))


def print_sheet(site, picture):
    """The PDF's bytes. Raises ValueError where something is cut off."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=PIXELS, color_scheme="light")
        page.emulate_media(media="print")
        page.goto((site / "docs/poster/index.html").as_uri())
        page.add_style_tag(path=STYLE)
        outside = page.evaluate(OUTSIDE)
        if picture:
            page.screenshot(path=picture)
        pdf = page.pdf(prefer_css_page_size=True, print_background=True)
        browser.close()
    if outside:
        raise ValueError(f"docs/poster.md: expected all of it on one sheet, outside is {outside[0]!r}")
    if pages_of(pdf) != 1:
        raise ValueError(f"docs/poster.md: expected one sheet, found {pages_of(pdf)}")
    return pdf


def main(site, picture=None):
    site = pathlib.Path(site).resolve()
    page = site / "docs/poster/index.html"
    text = page.read_text(encoding="utf-8")
    pdf = print_sheet(site, picture)
    page.with_name("poster.pdf").write_bytes(pdf)
    if LINK not in text:
        page.write_text(text.replace("</h1>", "</h1>" + LINK, 1), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        CHROMIUM = None
    if CHROMIUM is None:
        print("SKIPPED: the poster as a sheet, it takes chromium and the Python package playwright")
        sys.exit(77)
    try:
        main(*sys.argv[1:])
    except ValueError as error:
        sys.exit(f"poster.py: error: {error}")
