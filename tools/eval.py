#!/usr/bin/env python3
"""rotkv-eval, beside the programs: the package that was built lies next to it.

Docs: docs/31-tasks.md"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "python"))

try:
    from rotkv.eval.program import main
except ImportError as missing:
    sys.exit(f"rotkv-eval: error: {missing}; it needs the package rotkv (docs/25-bindings.md), "
             "numpy and scipy")

if __name__ == "__main__":
    sys.exit(main())
