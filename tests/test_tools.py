#!/usr/bin/env python3
"""The command lines of the programs, as a user meets them: exit codes, one-line errors, output.

Usage: tests/test_tools.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]
The models are made here; nothing is fetched."""
import array
import glob
import importlib.util
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import unittest

U32, F32, STRING, ARRAY = 4, 6, 8, 9  # types of metadata values
ENDLESS = 120  # seconds after which a program counts as hanging


def gguf_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_value(value):
    if isinstance(value, str):
        return struct.pack("<I", STRING) + gguf_string(value)
    if isinstance(value, float):
        return struct.pack("<If", F32, value)
    if isinstance(value, list) and isinstance(value[0], int):
        return struct.pack(f"<IIQ{len(value)}I", ARRAY, U32, len(value), *value)
    if isinstance(value, list):
        strings = [gguf_string(text) for text in value]
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(strings)
    return struct.pack("<II", U32, value)


def byte_tokens():
    """The 256 tokens of byte-level BPE: printable bytes stand for themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (chr(0x100 + i) for i in range(256))
    return [chr(byte) if byte in plain else next(others) for byte in range(256)]


def write_model(path, head=64, words=256, seed=1, extra=None, kv_heads=(1, 1), silent=()):
    """A llama of two layers with random weights: 2 query heads, 1 KV head, byte tokens. What
    silent layers attend to is multiplied by 0."""
    rng = random.Random(seed)
    width, hidden = 2 * head, 96
    metadata = {
        "general.architecture": "llama", "general.name": "made by a test",
        "llama.block_count": 2, "llama.context_length": 256, "llama.embedding_length": width,
        "llama.feed_forward_length": hidden, "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": list(kv_heads) if len(set(kv_heads)) > 1 else kv_heads[0],
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": byte_tokens() + [f"<{i}>" for i in range(256, words)],
        "tokenizer.ggml.token_type": [1] * words, "tokenizer.ggml.eos_token_id": 11,
        "tokenizer.ggml.merges": ["a b"], **(extra or {})}
    extents = {"token_embd.weight": (words, width), "output_norm.weight": (width,)}
    for layer in range(2):
        block = {"attn_norm": (width,), "ffn_norm": (width,), "attn_q": (width, width),
                 "attn_k": (kv_heads[layer] * head, width),
                 "attn_v": (kv_heads[layer] * head, width), "attn_output": (width, width),
                 "ffn_gate": (hidden, width), "ffn_up": (hidden, width), "ffn_down": (width, hidden)}
        extents.update({f"blk.{layer}.{name}.weight": e for name, e in block.items()})
    infos, data = [], []
    offset = 0
    for name, e in extents.items():
        count = e[0] * (e[1] if len(e) > 1 else 1)
        infos.append(gguf_string(name) + struct.pack("<I", len(e)) +
                     struct.pack(f"<{len(e)}Q", *reversed(e)) + struct.pack("<IQ", 0, offset))
        center = 1.0 if len(e) == 1 else 0.0
        spread = 0.0 if name in [f"blk.{s}.attn_output.weight" for s in silent] else 0.2
        data.append(array.array("f", (rng.gauss(center, spread) for _ in range(count))).tobytes())
        offset += len(data[-1])
        assert offset % 32 == 0
    head_bytes = struct.pack("<4sIQQ", b"GGUF", 3, len(infos), len(metadata))
    head_bytes += b"".join(gguf_string(k) + gguf_value(v) for k, v in metadata.items())
    head_bytes += b"".join(infos)
    with open(path, "wb") as file:
        file.write(head_bytes + bytes(-len(head_bytes) % 32) + b"".join(data))


class Tools(unittest.TestCase):
    folder = None  # of the programs, from the command line
    sums = 12  # that the text states: "3 times 3 is 9. "

    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory(prefix="rotkv-tools-")
        cls.model = cls.path("model.gguf")
        cls.text = cls.path("text.txt")
        write_model(cls.model)
        with open(cls.text, "w") as file:
            file.write("".join(f"{i} times {i} is {i * i}. " for i in range(cls.sums)) + "\n")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    @classmethod
    def path(cls, name):
        return os.path.join(cls.temporary.name, name)

    def run_tool(self, name, *arguments, env=None, stdout=subprocess.PIPE):
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("ROTKV_", "LLAMA_"))}
        # The pictures are drawn by the Python that runs the tests, which is known to have numpy.
        keep["PATH"] = os.path.dirname(sys.executable) + os.pathsep + keep["PATH"]
        return subprocess.run([os.path.join(self.folder, "rotkv-" + name), *arguments],
                              stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=ENDLESS,
                              env={**keep, **(env or {})})

    def good(self, name, *arguments, **more):
        result = self.run_tool(name, *arguments, **more)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def bad(self, code, name, *arguments, says="", **more):
        """Fails with `code` and one line of error, the last thing that is said."""
        result = self.run_tool(name, *arguments, **more)
        self.assertEqual(result.returncode, code, result.stderr)
        lines = result.stderr.splitlines()
        self.assertEqual(sum("error:" in line for line in lines), 1, result.stderr)
        self.assertTrue(lines[-1].startswith(f"rotkv-{name}: error: "), result.stderr)
        self.assertIn(says, lines[-1])
        return result

    def perplexity(self, *arguments, **more):
        return self.good("perplexity", "-m", self.model, "-f", self.text, "-c", "32", *arguments,
                         **more)

    def json_of(self, *arguments, **more):
        return json.loads(self.perplexity(*arguments, "--json", "-", **more).stdout)


class NumpyTools(Tools):
    """Tests whose models numpy makes: all are skipped without it."""

    @classmethod
    def setUpClass(cls):
        if importlib.util.find_spec("numpy") is None:
            raise unittest.SkipTest("no numpy")
        super().setUpClass()


class EveryTool(Tools):
    def test_version_help_and_backends(self):
        for name in ("bench", "perplexity", "gguf", "demo"):
            self.assertRegex(self.good(name, "--version").stdout, rf"^rotkv-{name} \S+ \(.+\)\n$")
            shown = self.good(name, "--help").stdout
            self.assertIn("Examples:\n  rotkv-" + name, shown)
            rooms = self.good(name, "--list-backends").stdout.splitlines()
            names = [line.split()[0] for line in rooms if not line.startswith(" ")]
            self.assertEqual(names, ["ref", "fast", "cuda", "metal", "metal-emul"])

    def test_wrong_usage_is_2(self):
        files = ("-m", self.model, "-f", self.text)
        m = (*files, "-c", "32")
        for arguments, says in [
                ((), "--model"), (("-m", self.model), "-f FILE"), ((*m, "--nonsense"), "nonsense"),
                ((*m, "-xyz"), "-xyz"), ((*files, "-c", "many"), "many"),
                ((*files, "-c", "2"), "2"), ((*files, "-c", "4096"), "4096"),
                ((*m, "-t", "0"), "0"), ((*m, "-b", "0"), "0"),
                ((*m, "-ctk", "q9_0"), "q9_0"), ((*m, "-ctv", "q6_K"), "q6_K"), ((*m, "-ctk"), ""),
                ((*m, "--rot-k", "48"), "48"), ((*m, "--rot-v", "sideways"), "sideways"),
                ((*m, "--rot-signs", "-3"), ""), ((*m, "--backend", "abacus"), "abacus"),
                ((*m, "--kl-divergence"), "--kl-divergence-base"),
                ((*m, "-ngl"), "-ngl"), (("-hf", "somebody/model"), "-m")]:
            result = self.bad(2, "perplexity", *arguments, says=says)
            self.assertEqual(result.stdout, "")
        self.bad(2, "perplexity", *m, says="ROTKV", env={"LLAMA_ATTN_ROT_K_OVERRIDE": "ROTKV"})
        self.bad(2, "perplexity", *m, says="abacus", env={"ROTKV_BACKEND": "abacus"})
        self.bad(2, "gguf")
        self.bad(2, "gguf", "--diff", self.model)

    def test_files_that_are_not_what_they_should_be(self):
        broken = self.path("broken.gguf")
        with open(self.model, "rb") as whole, open(broken, "wb") as part:
            part.write(whole.read()[:5000])
        for name in (self.path("missing.gguf"), self.temporary.name, self.text, broken):
            self.bad(1, "perplexity", "-m", name, "-f", self.text, says=name)
            self.bad(1, "gguf", name, says=name)
        self.bad(1, "perplexity", "-m", self.model, "-f", self.path("missing.txt"),
                 says="missing.txt")
        self.bad(1, "perplexity", "-m", self.model, "-f", self.temporary.name)

    def test_layers_of_unequal_heads(self):
        uneven = self.path("uneven.gguf")
        write_model(uneven, kv_heads=(1, 2))
        arguments = ("-m", uneven, "-f", self.text, "-c", "32")
        self.good("perplexity", *arguments)
        found = json.loads(self.good("kld", *arguments, "--variant", "k=q4_0,v=q4_0", "--explain",
                                     "--json", "-").stdout)["explain"][0]
        self.assertEqual([[head["kv_head"] for head in layer["heads"]]
                          for layer in found["layers"]], [[0, 0], [0, 1]])
        found = json.loads(self.good("outliers", *arguments, "--json", "-").stdout)
        heads = [(head["layer"], head["head"]) for head in found["heads"] if head["side"] == "k"]
        self.assertEqual(heads, [(0, 0), (1, 0), (1, 1)])

    def test_a_head_of_80_has_no_blocks_of_32(self):
        odd = self.path("head80.gguf")
        write_model(odd, head=80)
        arguments = ("-m", odd, "-f", self.text, "-c", "32")
        self.good("perplexity", *arguments)
        self.bad(1, "perplexity", *arguments, "-ctk", "q8_0", says="80")
        self.bad(2, "perplexity", *arguments, "--rot-k", "on", says="80")
        self.assertIn("impossible", self.good("gguf", odd, "-ctk", "q8_0").stdout)

    def test_flags_of_llama_cpp_without_a_meaning_here(self):
        plain = self.perplexity().stdout
        noted = self.perplexity("-ngl", "99", "-fa", "on", "-ub", "512", "--no-mmap", "-s", "1",
                                "--flash-attn=auto", "-fa")
        self.assertEqual(noted.stdout, plain)
        notes = [line for line in noted.stderr.splitlines() if "note:" in line]
        self.assertEqual(len(notes), 1)
        for name in ("-ngl", "-fa", "-ub", "--no-mmap", "-s"):
            self.assertIn(name, notes[0])
        self.assertEqual(self.perplexity("-fa", "--chunks", "-1").stdout, plain)

    def test_output_that_cannot_be_written(self):
        if not os.path.exists("/dev/full"):
            print("SKIPPED test_output_that_cannot_be_written: no /dev/full here")
            return
        m = ("-m", self.model, "-f", self.text, "-c", "32")
        self.bad(1, "perplexity", *m, "--json", "/dev/full", says="/dev/full")
        self.bad(1, "perplexity", *m, "--json", self.path("no/folder.json"), says="folder.json")
        self.bad(1, "perplexity", *m, "--kl-divergence-base", "/dev/full", says="/dev/full")
        with open("/dev/full", "w") as full:
            self.bad(1, "perplexity", *m, stdout=full)
            self.bad(1, "gguf", self.model, stdout=full)
            self.bad(1, "gguf", "--help", stdout=full)
        self.assertFalse(glob.glob("/dev/full*partial"))


class Perplexity(Tools):
    def test_output(self):
        result = self.perplexity("--chunks", "3")
        self.assertRegex(result.stdout, r"^\[1\]\d+\.\d{4},\[2\]\d+\.\d{4},\[3\]\d+\.\d{4},\n"
                                        r"Final estimate: PPL = \d+\.\d{4} \+/- \d+\.\d{5}\n$")
        self.assertIn("K f16: rotation off (policy: f16 is not quantized)", result.stderr)
        quiet = self.perplexity("--chunks", "3", "--quiet")
        self.assertEqual((quiet.stdout, quiet.stderr), (result.stdout, ""))

    def test_json(self):
        found = self.json_of("--chunks", "2", "-ctk", "q8_0", "-ctv", "q4_0", "--rot-signs", "7")
        self.assertEqual((found["n_ctx"], found["chunks"], found["tokens"]), (32, 2, 64))
        self.assertEqual(found["scored"], 2 * 15)
        self.assertEqual(found["cache"], {"k": "q8_0", "v": "q4_0",
                                          "bytes_per_token": 2 * (2 * 34 + 2 * 18),
                                          "bits_per_value": 6.5,
                                          "state_bytes_per_stream": 0})
        self.assertEqual(found["rotation"]["k"]["kind"], "signs")
        self.assertEqual((found["rotation"]["v"]["block"], found["rotation"]["v"]["seed"]), (64, 7))
        self.assertGreater(found["ppl"], 1)
        self.assertNotIn("kld", found)

    def test_rounded_products_print_their_floor_or_are_unsupported(self):
        arguments = ["-b", "32", "--chunks", "2", "--gemm", "bf16"]
        result = self.run_tool("perplexity", "-m", self.model, "-f", self.text, "-c", "32",
                               *arguments)
        if result.returncode == 0:
            floor = re.search(r"floor of products bf16, attention f32: mean KLD (\S+)", result.stdout)
            self.assertGreater(abs(float(floor[1])), 1e-9)  # 0: nothing was rounded
            found = self.json_of(*arguments)["precision"]
            self.assertEqual((found["products"], found["floor"]["windows"]), ("bf16", 1))
        else:
            self.assertEqual(result.returncode, 1)
            self.assertRegex(result.stderr, r"error: fast: matmul: bf16 products: they need "
                                            r"oneDNN 3, this is built with 2\.\d+\n$")
        self.assertNotIn("floor", self.perplexity("--chunks", "1").stdout)
        self.bad(2, "perplexity", "-m", self.model, "-f", self.text, "--gemm", "q8_0",
                 says="--gemm: expected one of f32, f16, bf16, found 'q8_0'")

    def test_batches_and_threads_change_nothing(self):
        values = {self.json_of("-b", b, "-t", t, "--backend", "ref")["ppl"]
                  for b, t in [("32", "1"), ("64", "2"), ("5", "1"), ("2048", "1")]}
        self.assertEqual(len(values), 1)

    def test_rotation_flags_beat_the_environment(self):
        def reasons(*arguments, **env):
            found = self.json_of("-ctk", "q8_0", "-ctv", "f16", *arguments, env=env)["rotation"]
            return [(found[s]["kind"] != "none", found[s]["reason"]) for s in "kv"]
        self.assertEqual([on for on, _ in reasons()], [True, False])
        off = reasons(LLAMA_ATTN_ROT_DISABLE="1")
        self.assertEqual(off, [(False, "LLAMA_ATTN_ROT_DISABLE")] * 2)
        both = reasons(LLAMA_ATTN_ROT_DISABLE="1", LLAMA_ATTN_ROT_V_OVERRIDE="1")
        self.assertEqual([on for on, _ in both], [False, True])
        flag = reasons("--rot-k", "32", "--rot-v", "off", LLAMA_ATTN_ROT_DISABLE="1",
                       LLAMA_ATTN_ROT_V_OVERRIDE="1")
        self.assertEqual(flag, [(True, "--rot-k"), (False, "--rot-v")])
        auto = reasons("--rot-k", "auto", LLAMA_ATTN_ROT_DISABLE="1")
        self.assertTrue(auto[0][0])

    def test_base_files(self):
        base, again = self.path("base.kld"), self.path("again.kld")
        plain = self.perplexity("-ctk", "f32", "-ctv", "f32").stdout
        written = self.perplexity("-ctk", "f32", "-ctv", "f32", "--kl-divergence-base", base)
        # Likelihoods from logits that were rounded to f32 on their way into the file.
        a, b = (float(re.search(r"PPL = (\S+)", out)[1]) for out in (plain, written.stdout))
        self.assertLess(abs(a / b - 1), 1e-6)
        self.perplexity("-ctk", "f32", "-ctv", "f32", "-t", "1", "-b", "32", "--backend", "ref",
                        "--kl-divergence-base", again)
        self.perplexity("-ctk", "f32", "-ctv", "f32", "-t", "2", "--backend", "ref",
                        "--kl-divergence-base", base)
        with open(base, "rb") as a, open(again, "rb") as b:
            self.assertEqual(a.read(), b.read())
        self.assertFalse(glob.glob(base + ".*partial"))

        compare = ("-m", self.model, "--kl-divergence", "--kl-divergence-base", base)
        same = self.good("perplexity", *compare, "-ctk", "f32", "-ctv", "f32").stdout
        for line in ("====== Perplexity statistics ======", "====== KL divergence statistics ======",
                     "====== Token probability statistics ======", "Cor(ln(PPL(Q)), ln(PPL(base)))",
                     "99.9%   KLD:", "Median  KLD:", " 1.0%   KLD:", "Same top p: 100.000"):
            self.assertIn(line, same)
        self.assertLess(abs(float(re.search(r"Mean    KLD: +(\S+)", same)[1])), 1e-4)
        coarse = self.good("perplexity", *compare, "-ctk", "q4_0", "-ctv", "q4_0", "-c", "32",
                           "--chunks", "2", "--json", self.path("coarse.json"))
        self.assertEqual(len(re.findall(r"^ +\d+ +\d", coarse.stdout, re.M)), 2)
        with open(self.path("coarse.json")) as file:
            found = json.load(file)
        self.assertEqual(found["chunks"], 2)
        self.assertGreater(found["kld"]["mean"], 1e-4)
        self.assertLess(found["kld"]["median"], found["kld"]["p99"])

        self.bad(2, "perplexity", *compare, "-c", "64", says="32")
        other = self.path("words.gguf")
        write_model(other, words=257)
        self.bad(1, "perplexity", "-m", other, *compare[2:], says="257")
        self.bad(1, "perplexity", "-m", self.model, "--kl-divergence", "--kl-divergence-base",
                 self.model, says="_logits_")

    def test_a_base_file_through_a_pipe(self):
        base = self.path("piped.kld")
        with open(base, "wb") as file:
            self.perplexity("--kl-divergence-base", "-", stdout=file)
        self.good("perplexity", "-m", self.model, "--kl-divergence", "--kl-divergence-base", base)


class Demo(Tools):
    def test_table(self):
        result = self.good("demo", "-m", self.model, "--file", self.text, "--chunks", "2", "-c",
                           "32", "--json", self.path("demo.json"))
        for name in ("f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"):
            self.assertRegex(result.stdout, rf"(?m)^  {name} +\d+ \| +\d+\.\d+")
        self.assertIn("How to read it", result.stdout)
        with open(self.path("demo.json")) as file:
            rows = {row["type"]: row for row in json.load(file)["rows"]}
        self.assertNotIn("rotated", rows["f16"])
        shown = dict(re.findall(r"(?m)^  (\S+) .* (?:x|x (\?)) +\|", result.stdout))
        self.assertEqual({name: bool(mark) for name, mark in shown.items()},
                         {name: row["p"] >= 0.05 for name, row in rows.items() if "p" in row})
        self.assertIn("with a ?, it may be luck: 2 windows cannot tell the two apart (p >= 0.05)\n",
                      result.stdout)
        self.assertNotEqual(rows["q4_0"]["rotated"]["kld"], rows["q4_0"]["plain"]["kld"])
        self.assertLess(rows["q8_0"]["plain"]["kld"], rows["q4_0"]["plain"]["kld"])
        self.bad(2, "demo", "-m", self.model, "--file", self.text, says="4 windows of 512")


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    unittest.main()
