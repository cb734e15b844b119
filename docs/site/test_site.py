#!/usr/bin/env python3
"""The built site in a real browser: pages open without a complaint, search finds, dark is dark, and a
narrow screen shows everything.

Usage: docs/site/test_site.py SITE [FOLDER_FOR_PICTURES]; status 77: no Chromium or no playwright."""
import functools
import http.server
import os
import shutil
import sys
import threading
import unittest

from poster import pages_of

SITE, PICTURES = os.path.abspath(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
PAGES = {"front": "", "chapter": "docs/05-attention/", "formula": "docs/02-hadamard/",
         "room": "ref/", "code": "ref/attention.cpp/", "wide-table": "docs/performance/",
         "cpp": "api/cpp/annotated/", "poster": "docs/poster/",
         "notebook": "notebooks/09-judging-an-engine.ipynb/"}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Browser(unittest.TestCase):
    """The site behind a server of its own, and a browser."""

    @classmethod
    def setUpClass(cls):
        cls.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Silent, directory=SITE))
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()
        cls.at = f"http://127.0.0.1:{cls.server.server_port}/"
        cls.playwright = sync_playwright().start()
        cls.browser = cls.playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        cls.playwright.stop()
        cls.server.shutdown()
        cls.server.server_close()

    def open(self, path, **settings):
        """A new page at `path`; what its console or network complains of comes into self.complaints."""
        page = self.browser.new_page(**settings)
        self.addCleanup(page.close)
        self.complaints = []
        page.on("console", lambda said: said.type in ("error", "warning")
                and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", lambda request: self.complaints.append(request.url))
        page.on("request", lambda request: request.url.startswith(self.at)
                or request.url.startswith("data:") or self.complaints.append(request.url))
        self.assertEqual(page.goto(self.at + path).status, 200, path)
        page.wait_for_load_state("load")
        return page


class Site(Browser):
    def test_pages_open_without_a_complaint_and_fetch_nothing_from_elsewhere(self):
        for name, path in PAGES.items():
            page = self.open(path, viewport={"width": 1280, "height": 900})
            self.assertEqual(self.complaints, [], path)
            if PICTURES:
                os.makedirs(PICTURES, exist_ok=True)
                page.screenshot(path=os.path.join(PICTURES, name + ".png"))

    def test_a_narrow_screen_shows_everything(self):
        for name, path in PAGES.items():
            page = self.open(path, viewport={"width": 390, "height": 844})
            width = page.evaluate("document.documentElement.scrollWidth")
            self.assertLessEqual(width, 390, f"{path}: the page is wider than the screen")
            if PICTURES:
                page.screenshot(path=os.path.join(PICTURES, name + "-390.png"))

    def test_search_finds_a_chapter(self):
        page = self.open("")
        page.keyboard.press("/")
        page.keyboard.type("butterflies")
        first = page.locator(".md-search-result__link").first
        first.wait_for(timeout=20000)
        found = page.locator(".md-search-result__link").evaluate_all("all => all.map(a => a.href)")
        self.assertTrue(any("/docs/02-hadamard/" in link for link in found), found)

    def test_dark_is_dark(self):
        page = self.open("", color_scheme="dark")
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        red, green, blue = [float(part) for part in color.strip("rgba()").split(",")[:3]]
        self.assertLess(max(red, green, blue), 100, color)

    def test_a_chapter_leads_to_its_code_with_line_numbers(self):
        page = self.open("docs/05-attention/")
        page.click("article summary")
        page.click("article a:text-is('ref/attention.cpp') >> nth=0")
        page.wait_for_url("**/ref/attention.cpp/")
        self.assertIn("softmax", page.inner_text("article"))
        self.assertGreater(page.locator(".linenos").count(), 0)

    def test_the_poster_is_one_sheet_and_linked(self):
        page = self.open("docs/poster/")
        page.locator("article a:text-is('As a sheet to be printed: PDF, A2')").wait_for()
        with open(os.path.join(SITE, "docs/poster/poster.pdf"), "rb") as file:
            pdf = file.read()
        self.assertEqual(pages_of(pdf), 1)
        self.assertLess(len(pdf), 1 << 20)

    def test_listings_name_their_file(self):
        page = self.open("docs/05-attention/")
        self.assertIn("ref/attention.cpp", page.locator(".highlight .filename").all_inner_texts())

    def test_formulas_are_set(self):
        page = self.open("docs/02-hadamard/")
        self.assertGreater(page.locator("math").count(), 0)
        self.assertEqual(page.locator("article").inner_text().count("\\frac"), 0)


if __name__ == "__main__":
    if sync_playwright is None or CHROMIUM is None:
        print("SKIPPED: the site in a browser, it takes chromium and the Python package playwright")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
