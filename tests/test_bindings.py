#!/usr/bin/env python3
"""librotkv as other programs meet it: its symbols, its words for bad arguments, calls from several
threads, an example in C, and a program outside that finds what is installed.

Usage: tests/test_bindings.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import ctypes as c
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from c_calls import HEADER, MAY_BE_NULL, ROOT, D, Calls, bad_values  # noqa: E402

FOLDER = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build/release")
SUFFIX = "dylib" if sys.platform == "darwin" else "so"
LIBRARY = os.path.join(FOLDER, "librotkv." + SUFFIX)


def page_block(language, number=0):
    """A block of docs/25-bindings.md."""
    with open(os.path.join(ROOT, "docs/25-bindings.md"), encoding="utf-8") as file:
        blocks = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", file.read(), re.M | re.S)
    return [text for of, text in blocks if of == language][number]


def headers():
    """Those that programs include."""
    return sorted(name for name in os.listdir(os.path.join(ROOT, "tools/bindings"))
                  if re.fullmatch(r"rotkv\w*\.h", name))


def instrumented():
    """Sanitizers want to be the first that a process loads, which Python is not."""
    with open(os.path.join(FOLDER, "CMakeCache.txt"), encoding="utf-8") as file:
        return "-fsanitize" in re.search(r"CMAKE_CXX_FLAGS:\w+=(.*)", file.read())[1]


@unittest.skipIf(instrumented(), "a sanitizer's library")
class Bindings(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.library = HEADER.load(LIBRARY)
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.addClassCleanup(os.chdir, os.getcwd())
        os.chdir(cls.folder.name)  # a bad name may be a good path

    def calls(self):
        calls = Calls(self.library, self.folder.name)
        calls.open()
        return calls

    def test_what_is_exported_is_what_the_header_declares(self):
        if shutil.which("nm") is None or sys.platform == "darwin":
            self.skipTest("no nm that lists dynamic symbols")
        done = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], capture_output=True,
                              text=True, check=True)
        exported = {line.split()[-1] for line in done.stdout.splitlines()}
        self.assertEqual(exported, set(HEADER.functions))

    def test_the_reference_is_read_off_every_header(self):
        with open(os.path.join(ROOT, "docs/site/mkdocs.yml"), encoding="utf-8") as file:
            read = re.search(r"\bc: \{src-dirs: ([^,]*),", file.read())[1].split()
        self.assertEqual(sorted(map(os.path.basename, read)), headers())

    def test_every_function_has_a_good_call_here(self):
        calls = self.calls()
        table = calls.table()
        with_status = {name for name, (result, _) in HEADER.functions.items()
                       if result == "rotkv_status"}
        self.assertEqual(set(table), with_status)
        for name, arguments in table.items():
            with self.subTest(name):
                status = getattr(self.library, name)(*Calls.passed(arguments))
                self.assertEqual((status, self.library.rotkv_last_error()), (0, b""))

    def test_bad_arguments_are_refused_in_words(self):
        """One argument or field after the other is null, negative, huge or unknown. Whatever comes
        of it, the process lives and a status that is not 0 has words."""
        calls = self.calls()
        table, refused = calls.table(), 0
        for name, arguments in table.items():
            getattr(self.library, name)(*Calls.passed(arguments))
        for name, arguments in table.items():
            for i, parameter in enumerate(HEADER.functions[name][1]):
                for label, bad in bad_values(parameter, arguments[i]):
                    changed = Calls.passed(arguments[:i] + [bad] + arguments[i + 1:])
                    with self.subTest(f"{name}: {parameter.name} {label}"):
                        print(f"{name}: {parameter.name} {label}", file=self.log, flush=True)
                        status = getattr(self.library, name)(*changed)
                        words = self.library.rotkv_last_error()
                        self.assertEqual(status == 0, words == b"")
                        self.assertNotEqual(status, HEADER.constants["ROTKV_INTERNAL"], words)
                        self.assertNotIn(b"\n", words)
                        needless = bad is None and parameter.name not in MAY_BE_NULL
                        self.assertFalse(needless and status == 0, "null was taken")
                        refused += status != 0
        self.assertGreater(refused, 500)
        calls.must("rotkv_hadamard", *table["rotkv_hadamard"])  # and all is as before
        calls.must("rotkv_logprobs", *table["rotkv_logprobs"])

    @property
    def log(self):
        """The call that a crash was in is the last line of this file."""
        if not hasattr(self, "log_file"):
            self.log_file = open(os.path.join(FOLDER, "bad_arguments.log"), "w", encoding="utf-8")
            self.addCleanup(self.log_file.close)
        return self.log_file

    def test_the_words_are_those_of_the_programs(self):
        rotation = HEADER.structs["rotkv_rotation"]()
        at = c.addressof(rotation)
        self.assertEqual(self.library.rotkv_policy(b"k=q3_9", D, D, at, at, None, 0, None),
                         HEADER.constants["ROTKV_USAGE"])
        words = self.library.rotkv_last_error().decode()
        done = subprocess.run([os.path.join(FOLDER, "rotkv-kld"), "-m", "x", "-f", "x",
                               "--variant", "k=q3_9"], capture_output=True, text=True)
        self.assertIn(words.partition("'k=q3_9'")[2], done.stderr)

    def test_threads(self):
        """Different handles at once, and one handle for all: what one call gives, all give."""
        calls = self.calls()
        ids = calls.ints([1, 2, 3, 4, 5])
        alone = np.zeros(4)
        calls.must("rotkv_logprobs", calls.model, b"k=q4_0", ids, 5, alone.ctypes.data, None)
        found, handles = [], [c.c_void_p() for _ in range(4)]
        for handle in handles:
            backend = c.c_void_p()
            calls.must("rotkv_backend_open", b"ref", 1, c.addressof(backend))
            calls.must("rotkv_model_open", backend, calls.path, c.addressof(handle))
            self.library.rotkv_backend_close(backend)

        def work(handle, words):
            for _ in range(5):
                result = np.zeros(4)
                status = self.library.rotkv_logprobs(handle, words, ids, 5, result.ctypes.data, None)
                error = self.library.rotkv_last_error()
                good = words == b"k=q4_0"
                found.append((status == 0) == good and (error == b"") == good and
                             (not good or np.array_equal(result, alone)))

        threads = [threading.Thread(target=work, args=(handle, words)) for words in
                   (b"k=q4_0", b"k=nothing") for handle in [*handles, calls.model, calls.model]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(found, [True] * 60)
        for handle in handles:
            self.library.rotkv_model_close(handle)

    def test_a_callback_ends_the_work_and_may_not_call_again(self):
        calls = self.calls()
        table, seen = calls.table(), []

        def progress(_user, done, every):
            seen.append((done, every, self.library.rotkv_model_notices(calls.model, *calls.words()),
                         self.library.rotkv_cache_clear(calls.model_cache)))
            return 1

        callback = c.CFUNCTYPE(c.c_int32, c.c_void_p, c.c_int64, c.c_int64)(progress)
        arguments = list(table["rotkv_generate"])
        arguments[7] = c.cast(callback, c.c_void_p)
        self.assertEqual(self.library.rotkv_generate(*Calls.passed(arguments)),
                         HEADER.constants["ROTKV_CANCELLED"])
        self.assertEqual(seen, [(1, 3, 0, HEADER.constants["ROTKV_BAD_ARGUMENT"])])

    def test_example(self):
        done = subprocess.run([os.path.join(FOLDER, "rotkv-example")], capture_output=True,
                              text=True, check=True)
        errors = [float(x) for x in re.findall(r"relative error (\S+)", done.stdout)]
        self.assertEqual(len(errors), 3)
        self.assertLess(errors[0] * 5, errors[2])   # q8_0 is finer than q4_0
        self.assertLess(errors[2] * 1.5, errors[1])  # and rotation helps
        self.assertIn("q3_9", done.stdout)
        self.assertEqual(done.stdout, page_block(""))

    def test_a_program_outside_finds_what_is_installed(self):
        with tempfile.TemporaryDirectory() as folder:
            to = os.path.join(folder, "installed")
            subprocess.run(["cmake", "--install", FOLDER, "--component", "rotkv", "--prefix", to],
                           check=True, capture_output=True)
            shutil.copy(os.path.join(ROOT, "tools/bindings/example.c"), folder)
            with open(os.path.join(folder, "CMakeLists.txt"), "w", encoding="utf-8") as file:
                file.write(page_block("cmake"))
            for command in (["cmake", "-B", "build", f"-DCMAKE_PREFIX_PATH={to}"],
                            ["cmake", "--build", "build"]):
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            outside = subprocess.run([os.path.join(folder, "build/outside")], capture_output=True,
                                     text=True, check=True)
            inside = subprocess.run([os.path.join(FOLDER, "rotkv-example")], capture_output=True,
                                    text=True, check=True)
            self.assertEqual(outside.stdout, inside.stdout)
            self.check_headers(to)
            self.check_pkg_config(folder, to)

    def check_headers(self, to):
        """<rotkv.h> alone has every function, and whoever wants less may include a part alone."""
        include = next(at for at, _, names in os.walk(to) if "rotkv.h" in names)
        there = sorted(os.listdir(include))
        self.assertEqual(there, headers())
        every = "".join(f"(void)&{name};" for name in HEADER.functions)
        sources = [f"#include <{name}>\nint main(void) {{ return ROTKV_OK; }}\n" for name in there]
        sources += [f"#include <rotkv.h>\nint main(void) {{ {every} return 0; }}\n"]
        for source in sources:
            for language in (["cc", "-xc", "-std=c11"], ["c++", "-xc++", "-std=c++11"]):
                done = subprocess.run([*language, "-pedantic", "-Wall", "-Werror", "-fsyntax-only",
                                       f"-I{include}", "-"], input=source, text=True,
                                      capture_output=True)
                self.assertEqual(done.returncode, 0, source + done.stderr)

    def check_pkg_config(self, folder, to):
        if shutil.which("pkg-config") is None:
            print("\nSKIPPED the pkg-config file: no pkg-config", flush=True)
            return
        found = [os.path.join(at, "pkgconfig") for at, folders, _ in os.walk(to)
                 if "pkgconfig" in folders]
        flags = subprocess.run(["pkg-config", "--cflags", "--libs", "rotkv"], capture_output=True,
                               text=True, check=True,
                               env={**os.environ, "PKG_CONFIG_PATH": found[0]}).stdout.split()
        subprocess.run(["cc", "-std=c11", "-pedantic", "-Werror", "example.c", *flags, "-lm", "-o",
                        "by_flags"], cwd=folder, check=True)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:])
