#!/usr/bin/env python3
"""What stands between rotkv-judge and an engine of one's own. Docs: docs/29-judge.md"""
import json
import sys
import my_engine

for line in sys.stdin:
    ask = json.loads(line)
    if ask["do"] == "open":
        engine = my_engine.Engine(ask["model"], ask["k"], ask["v"], ask["rotation"], ask["signs"])
        found = {"name": my_engine.NAME, "version": my_engine.VERSION}
    elif ask["do"] == "predict" and not ask["one_by_one"]:
        rows = engine.logprobs(ask["tokens"])  # [tokens][words]: ln p behind each token
        found = {"logprobs": [list(rows[i]) for i in ask["at"]]}
    elif ask["do"] == "shift":
        rows = engine.shifted(ask["tokens"], ask["keep"], ask["drop"], ask["next"])
        found = {"logprobs": [list(row) for row in rows]}
    else:
        found = {"unsupported": "my engine is not asked this"}
    print(json.dumps(found), flush=True)
