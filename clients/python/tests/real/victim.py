"""A service that is killed: runs billed features in threads and says which runs have given their result.

    python victim.py URL KEY OUTBOX USER FEATURE NAME [RUNS]

Each run's name goes to the server as its `model`. A line on standard output is a run whose caller had its
result.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

from tokentill import Outbox, TokenProcess, TokenProcessError, with_token_process

THREADS = 4


def main(url: str, key: str, path: str, user: str, feature: str, name: str, runs: str = "1000000") -> None:
    # Handed over, so that `close` of the client at the end of main leaves the threads what they need.
    client = TokenProcess(url, key, outbox=Outbox(path), timeout_seconds=1, total_timeout_seconds=1)

    @with_token_process(feature_endpoint_id=feature, user_id=user, client=client)
    def answer(run: str) -> dict[str, Any]:
        return {"input_token": 1, "output_token": 4, "model": run}

    def work(thread: int) -> None:
        for n in range(int(runs)):
            run = f"{name}-{thread}-{n}"
            while True:
                try:
                    answer(run)
                    break
                except TokenProcessError:
                    # The start failed, so nothing ran: the same run again.
                    time.sleep(0.02)
                    continue
            os.write(1, f"{run}\n".encode())

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
