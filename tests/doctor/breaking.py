"""A process that tries what its arguments name, and breaks at `early`, `die`, `hang` and `fail`."""

import json
import os
import signal
import sys
import time


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


for name in sys.argv[1:]:
    if name == "early":
        sys.exit("ImportError: no such library")
    print("a library says something")
    say(trying=name)
    if name == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hang":
        time.sleep(60)
    say(tried=name, fault="ValueError: wrong" if name == "fail" else None)
