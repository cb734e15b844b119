"""Tasks under several caches: rotkv-eval, docs/31-tasks.md."""
