#!/usr/bin/env python3
"""The playground in a real browser: a bar moved by keys and by a finger, type and rotation changed, the
figures on the page held to those of the Python package, to the last digit that is shown.

Usage: docs/site/test_playground.py SITE PROGRAMS [FOLDER_FOR_PICTURES]; status 77: no Chromium, no
playwright, no numpy, or a site without emcc's program."""
import os
import sys
import unittest

SITE, PROGRAMS = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
sys.argv[1:] = [SITE] + sys.argv[3:]  # as test_site.py reads them
ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
sys.path[:0] = [os.path.join(ROOT, "tests"), os.path.join(PROGRAMS, "python")]

import test_site  # noqa: E402
from test_site import CHROMIUM, PICTURES, sync_playwright  # noqa: E402


def shown(x):
    """A figure as the page writes it."""
    if x == 0:
        return "0"
    if abs(x) >= 1e-4 and abs(x) < 1e6:
        return f"{x:#.4g}"
    digits, power = f"{x:.3e}".split("e")
    return f"{digits}e{int(power):+d}"


class Playground(test_site.Browser):
    def play(self, **settings):
        page = self.open("playground/", **{"viewport": {"width": 1280, "height": 900}, **settings})
        page.wait_for_selector("#main:not([hidden])")
        return page

    def drawn(self, page, act):
        """What `act` makes the page draw is there: what changes something marks the page until then."""
        act()
        page.wait_for_function("!('drawing' in document.body.dataset)")

    def compare(self, page, row, type, rotation):
        for which, words in ("plain", "none"), ("rotated", rotation):
            wanted = figures.stored(row, type, words, 1)
            for id, name in (("error", "relative_error"), ("score", "largest_score_change"),
                             ("moved", "moved_probability")):
                self.assertEqual(page.inner_text(f"#{id}-{which}"), shown(wanted[name]), f"{id} {which}")
        self.assertEqual(self.complaints, [])

    def picture(self, page, name):
        if PICTURES:
            os.makedirs(PICTURES, exist_ok=True)
            page.screenshot(path=os.path.join(PICTURES, f"playground-{name}.png"), full_page=True)

    def test_keys_type_and_rotation(self):
        page = self.play()
        row = figures.loud_row(64, 1)
        self.compare(page, row, "q4_0", "64")
        self.picture(page, "wide")
        page.focus("#key")
        page.keyboard.press("Home")
        for _ in range(9):
            self.drawn(page, lambda: page.keyboard.press("ArrowRight"))
        self.assertIn("channel 9: 12.00", page.get_attribute("#key", "aria-valuetext"))
        self.drawn(page, lambda: page.keyboard.press("PageUp"))
        self.drawn(page, lambda: page.keyboard.press("ArrowDown"))
        self.assertIn("channel 9: 15.75", page.get_attribute("#key", "aria-valuetext"))
        row[9] = 15.75
        self.compare(page, row, "q4_0", "64")
        self.drawn(page, lambda: page.select_option("#type", "q5_1"))
        self.compare(page, row, "q5_1", "64")
        self.drawn(page, lambda: page.select_option("#rotation", "16"))
        self.drawn(page, lambda: page.check("#signs"))
        self.compare(page, row, "q5_1", "16:7")
        self.drawn(page, lambda: page.select_option("#type", "mxfp4"))
        self.compare(page, row, "mxfp4", "16:7")

    def test_a_finger_and_the_fields(self):
        page = self.play(has_touch=True, viewport={"width": 390, "height": 844})
        page.locator("#key").scroll_into_view_if_needed()
        box = page.locator("#key").bounding_box()
        self.drawn(page, lambda: page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + 30))
        channel, value = int(page.input_value("#channel")), float(page.input_value("#value"))
        self.assertTrue(25 < channel < 35 and value > 4, (channel, value))
        row = figures.loud_row(64, 1)
        row[channel] = value
        self.compare(page, row, "q4_0", "64")
        self.drawn(page, lambda: page.fill("#value", "-3.5"))
        row[channel] = -3.5
        self.compare(page, row, "q4_0", "64")

    def test_codes_and_bytes(self):
        page = self.play()
        wanted = figures.stored(figures.loud_row(64, 1), "q4_0", "64", 1)
        low = [byte & 15 for byte in wanted["bytes"][2:18]]
        high = [byte >> 4 for byte in wanted["bytes"][2:18]]
        codes = page.locator("#blocks-rotated .codes").first.locator("span").all_inner_texts()
        self.assertEqual([int(code) for code in codes], low + high)
        self.drawn(page, lambda: page.select_option("#type", "tqmse3"))
        count = page.locator("#blocks-rotated .codes span").count()
        self.assertEqual(count, figures.stored(figures.loud_row(64, 1), "tqmse3", "64", 1)["bytes"].size)

    def test_a_shift_step_by_step(self):
        page = self.play()
        row = figures.loud_row(64, 1)
        end = figures.shifted(row, "q4_0", "64", 1, -100, "norm")
        exact = figures.shifted(row, "f32", "64", 1, -100, "norm")
        errors = page.locator("#steps b").all_inner_texts()
        self.assertEqual(len(errors), 5)
        self.assertAlmostEqual(float(errors[-1]) / figures.relative_error(end, exact), 1, delta=1e-3)
        for _ in range(4):
            self.drawn(page, lambda: page.click("#after"))
        self.assertIn("quantized again", page.inner_text("#steps li[aria-current]"))
        self.drawn(page, lambda: page.check("#mistake"))
        wrong = page.locator("#steps b").all_inner_texts()
        self.assertGreater(float(wrong[-1]), 10 * float(errors[-1]))

    def test_what_cannot_be_kept_is_said(self):
        page = self.play()
        self.drawn(page, lambda: page.select_option("#size", "80"))
        self.assertIn("multiple of 32", page.inner_text("#problem"))
        self.assertFalse(page.is_visible("#main"))  # no figure of another size stays
        self.drawn(page, lambda: page.select_option("#type", "fp8_e4m3"))
        self.assertFalse(page.is_visible("#problem"))
        self.compare(page, figures.loud_row(80, 1), "fp8_e4m3", "none")

    def test_narrow_and_dark(self):
        for name, settings in (("390", {"viewport": {"width": 390, "height": 844}}),
                               ("dark", {"color_scheme": "dark"}),
                               ("390-dark", {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"})):
            page = self.play(**settings)
            self.drawn(page, lambda: page.select_option("#example", "real-like"))
            width = settings.get("viewport", {"width": 1280})["width"]
            self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), width)
            light = max(int(part) for part in page.evaluate(
                "getComputedStyle(document.body).backgroundColor").strip("rgb()").split(","))
            self.assertEqual(light < 100, "dark" in name, light)
            self.picture(page, name)

    def test_everything_to_operate_has_a_name(self):
        page = self.play()
        nameless = page.evaluate("""[...document.querySelectorAll("input, select, button, [role=slider]")]
            .filter((one) => !(one.labels?.length || one.getAttribute("aria-label") || one.textContent.trim()))
            .map((one) => one.id)""")
        self.assertEqual(nameless, [])
        page.click("header a >> nth=0")
        self.assertIn("34-playground", page.url)


if __name__ == "__main__":
    reason = ("no Chromium or no playwright" if sync_playwright is None or CHROMIUM is None else
              "no emcc when the site was made" if not os.path.exists(os.path.join(SITE, "playground", "rotkv.wasm"))
              else "")
    try:
        import playground_figures as figures
    except ImportError as error:
        reason = reason or str(error)
    if reason:
        print(f"SKIPPED: the playground in a browser: {reason}")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
