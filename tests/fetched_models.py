"""Where ./dev fetch keeps models and text, for tests that skip aloud where they are not."""
import os

MODELS = os.path.abspath(os.environ.get("ROTKV_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "rotkv"))
