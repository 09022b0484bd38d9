"""The served page under load: errors, order, latency, memory.

    python benchmarks/serving.py RUN --requests 1000 --connections 8

Starts `python -m multitask.serve RUN` and asks it over loopback. Each answer is compared with what
the same question gets when it is asked alone.
"""

import argparse
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

TEXTS = ["A film worth seeing twice.", "No.", "The ending is dull, but the actors are wonderful.",
         "It goes on and on, " * 8]


def resident(pid: int) -> float:
    """MB of memory that a process holds (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=8)
    arguments = parser.parse_args()

    command = [sys.executable, "-m", "multitask.serve", arguments.run, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        address = server.stdout.readline().split()[0]
        sessions = [requests.Session() for _ in range(arguments.connections)]

        def ask(number: int) -> tuple[int, str, float]:
            session = sessions[number % len(sessions)]
            started = time.perf_counter()
            answer = session.post(f"{address}/api/predict", timeout=60,
                                  json={"inputs": [[TEXTS[number % len(TEXTS)]]]})
            return answer.status_code, answer.text, time.perf_counter() - started

        def connection(first: int) -> list[tuple[int, int, str, float]]:
            return [(number, *ask(number))
                    for number in range(first, arguments.requests, len(sessions))]

        alone = [ask(number)[1] for number in range(len(TEXTS))]
        before = resident(server.pid)
        started = time.perf_counter()
        with ThreadPoolExecutor(len(sessions)) as threads:
            found = [each for some in threads.map(connection, range(len(sessions)))
                     for each in some]
        seconds = time.perf_counter() - started
        after = resident(server.pid)
        server.send_signal(signal.SIGINT)

    times = sorted(taken for *_, taken in found)
    print(json.dumps({
        "requests": len(found), "connections": len(sessions),
        "errors": sum(status != 200 for _, status, _, _ in found),
        "other answers": sum(text != alone[number % len(TEXTS)] for number, _, text, _ in found),
        "per second": round(len(found) / seconds, 1),
        "median ms": round(1000 * statistics.median(times), 1),
        "p99 ms": round(1000 * times[int(len(times) * .99)], 1),
        "MB before": round(before), "MB after": round(after)}, indent=1))


if __name__ == "__main__":
    main()
