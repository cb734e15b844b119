#!/usr/bin/env python3
"""Several processes print and write what one does, and end together when one fails. Needs mpirun
and programs that were built with MPI.

Usage: tests/test_mpi.py FOLDER_WITH_THE_PROGRAMS [unittest arguments]"""
import os
import re
import shutil
import subprocess
import sys
import time
import unittest

from test_tools import Tools, write_model

LAUNCH = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
          "OMPI_MCA_btl_vader_single_copy_mechanism": "none",  # what containers forbid
          "ASAN_OPTIONS": "detect_leaks=0"}  # what MPI itself leaves behind; ours: test_tools.py
WINDOWS = ("-c", "32", "-b", "64", "--chunks", "9", "-t", "1")  # five groups, the last half full


class SeveralProcesses(Tools):
    sums = 60  # long enough for a test over windows

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.runs = 0
        cls.to_files = cls.path("to_files.sh")  # a launcher may mix or lose what it passes on
        with open(cls.to_files, "w") as file:
            file.write('out=$1; shift; exec "$@" > "$out.$OMPI_COMM_WORLD_RANK"\n')
        cls.second_fails = cls.path("only_rank_1_fails.sh")
        with open(cls.second_fails, "w") as file:
            file.write('[ "$OMPI_COMM_WORLD_RANK" = 1 ] && exec "$@" --nonsense || exec "$@"\n')
        cls.of_its_own = cls.path("each_rank_in_its_folder.sh")
        with open(cls.of_its_own, "w") as file:
            file.write('cd "$1/$OMPI_COMM_WORLD_RANK" && shift && exec "$@"\n')

    @staticmethod
    def contents(path):
        with open(path) as file:
            return file.read()

    def launch(self, n, *command, code=0):
        """Runs it on n processes; `stdout` of the result is the first one's."""
        type(self).runs += 1
        out = self.path(f"out-{self.runs}")
        result = subprocess.run(["mpirun", "--oversubscribe", "-n", str(n), "sh", self.to_files,
                                 out, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, timeout=120,
                                env={**os.environ, **LAUNCH})
        self.assertEqual(result.returncode, code, result.stderr)
        if code == 0:
            printed = [self.contents(f"{out}.{rank}") for rank in range(n)]
            self.assertEqual(printed[1:], [""] * (n - 1))
            result.stdout = printed[0]
        return result

    def run_on(self, n, name, *arguments, **more):
        return self.launch(n, os.path.join(self.folder, "rotkv-" + name), "-m", self.model, "-f",
                           self.text, *WINDOWS, *arguments, **more)

    def same_for_all(self, make, counts=(1, 2, 3, 7)):
        first, *others = [make(n) for n in counts]
        for n, other in zip(counts[1:], others):
            self.assertEqual(first, other, f"{n} processes")
        return first

    def test_perplexity(self):
        text = self.same_for_all(lambda n: self.run_on(n, "perplexity", "-ctk", "q4_0").stdout)
        self.assertEqual(text, self.good("perplexity", "-m", self.model, "-f", self.text, *WINDOWS,
                                         "-ctk", "q4_0").stdout)
        self.assertEqual(text.count("Final estimate"), 1)

    def test_kld_with_everything(self):
        def make(n):
            table = self.path(f"kld-{n}.csv")
            result = self.run_on(n, "kld", "--variant", "k=q4_0,v=q4_0", "--variant", "k=q8_0",
                                 "--jitter", "2", "--by-layer", "--csv", table)
            with open(table) as file:
                return result.stdout, file.read()
        self.assertIn("Paired differences", self.same_for_all(make)[0])

    def test_kld_stops_after_the_same_window(self):
        def make(n):
            return self.run_on(n, "kld", "--variant", "k=q4_0,v=q4_0,rot=off", "--variant",
                               "k=q8_0", "--stop", "99").stdout
        self.assertRegex(self.same_for_all(make, (1, 2, 3)), r"[Ss]topped")

    def test_sweep(self):
        def make(n):
            out = self.path(f"sweep-{n}.jsonl")
            result = self.run_on(n, "sweep", "-ctk", "f16,q8_0", "-ctv", "f16,q4_0", "--out", out)
            with open(out) as file:
                return result.stdout, re.sub(r'"seconds":[\d.e-]+', "", file.read())
        self.assertEqual(self.same_for_all(make)[1].count("\n"), 1 + 8)

    def test_one_failure_ends_all(self):
        start = time.monotonic()
        result = self.launch(2, "sh", self.second_fails, os.path.join(self.folder, "rotkv-kld"),
                             "-m", self.model, "-f", self.text, *WINDOWS, "--variant", "k=q8_0",
                             code=2)
        self.assertLess(time.monotonic() - start, 60)
        self.assertIn("rotkv-kld: error: rank 1: ", result.stderr)

    def test_files_of_one_name_that_differ(self):
        """As on two machines: what each process computes would be of another model or text."""
        def run(folder, code, name, *arguments):
            program = os.path.join(self.folder, "rotkv-" + name)
            return self.launch(2, "sh", self.of_its_own, self.path(folder), program, "-m", "m.gguf",
                               "-f", "text", *WINDOWS, *arguments, code=code)
        for folder, seed, text in (("same", 1, ""), ("model", 2, ""), ("words", 1, "Other ")):
            for rank in (0, 1):
                os.makedirs(self.path(f"{folder}/{rank}"))
                write_model(self.path(f"{folder}/{rank}/m.gguf"), seed=seed if rank else 1)
                with open(self.path(f"{folder}/{rank}/text"), "w") as file:
                    file.write((text if rank else "") + self.contents(self.text))
        run("same", 0, "perplexity")
        for folder in ("model", "words"):
            for name, more in (("perplexity", ()), ("kld", ("--variant", "k=q8_0")),
                               ("sweep", ("-ctk", "f16", "-ctv", "q8_0", "--out", "out"))):
                self.assertIn(f"rotkv-{name}: error: rank 1: m.gguf: expected the first process's",
                              run(folder, 1, name, *more).stderr)

    def test_what_everybody_gets_wrong_is_said_once(self):
        result = self.run_on(3, "perplexity", "-ctk", "q9_0", code=2)
        self.assertEqual(result.stderr.count("rotkv-perplexity: error:"), 1, result.stderr)
        self.assertIn("error: rank 0: ", result.stderr)

    def test_what_is_for_one_process_says_so(self):
        program = os.path.join(self.folder, "rotkv-gguf")
        self.assertIn("this program runs as one", self.launch(2, program, self.model, code=2).stderr)
        base = self.path("base.kld")
        result = self.run_on(2, "perplexity", "--kl-divergence-base", base, code=2)
        self.assertIn("one process reads and writes base files", result.stderr)
        self.assertFalse(os.path.exists(base))


def skip_reason(folder):
    """None where the tests can run."""
    if shutil.which("mpirun") is None:
        return "mpirun is not installed (Debian: openmpi-bin)"
    result = subprocess.run(["mpirun", "--oversubscribe", "-n", "2",
                             os.path.join(folder, "rotkv-perplexity"), "--version"],
                            env={**os.environ, **LAUNCH}, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
    return "the programs are built without MPI" if "without MPI" in result.stderr else None


if __name__ == "__main__":
    Tools.folder = os.path.abspath(sys.argv.pop(1))
    reason = skip_reason(Tools.folder)
    if reason:
        print(f"SKIPPED test_mpi.py: {reason}")
        sys.exit(77)
    unittest.main()
