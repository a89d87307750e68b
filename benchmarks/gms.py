"""`python -m benchmarks.gms`: answers DataHub's REST sink at once, until its standard input ends."""

from __future__ import annotations

import sys

from tests.support.gms import GmsStandIn

if __name__ == "__main__":
    with GmsStandIn(validate=False) as gms:
        print(gms.url, flush=True)
        sys.stdin.read()
