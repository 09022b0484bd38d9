"""Half an hour of the main job: memory, speed and open files, watched from outside.

    python benchmarks/soak.py --out FOLDER [--minutes 30] [--json FILE] -- --data data --model
    bert-base-uncased

What follows -- are train_multitask.py's own flags. The run is told to stop (SIGTERM) when the time
is over, so it ends as an interrupted one, which can be resumed. Every 5 seconds its memory, open
files and threads are read from /proc (Linux only). Slopes are of the straight line through all that
was read after the first 5 minutes, with the 95 % interval of Student's t; a step's seconds are
medians of quarters of the run, its first 20 steps left out, evaluation and checkpoints apart.
Checkpoints are timed around the call that writes them.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy import stats

from multitask.system.runlog import read_events

EVERY, SETTLING = 5.0, 300.0  # seconds: between two looks; until memory has its size
STEPS_TO_SETTLE = 20
SAVES = "MINBERT_SOAK_SAVES"


def child(flags: list[str]) -> int:
    """The main job with a clock around its checkpoints."""
    import train_multitask
    from multitask.runs.stages import Stage

    save = Stage._save

    def timed(self: Stage) -> None:
        started = time.monotonic()
        save(self)
        with open(os.environ[SAVES], "a", encoding="ascii") as file:
            file.write(f"{time.monotonic() - started}\n")

    Stage._save = timed
    return train_multitask.main(flags)


def look(process: int) -> dict[str, int]:
    """kB in memory, open files, threads."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {"kilobytes": int(fields["VmRSS"].split()[0]), "threads": int(fields["Threads"]),
            "files": len(os.listdir(f"/proc/{process}/fd"))}


def watch(flags: list[str], folder: Path, minutes: float) -> tuple[list[dict], float]:
    """What was seen, and for how many seconds."""
    command = [sys.executable, __file__, "--child", "--", *flags, "--out", str(folder)]
    environment = os.environ | {SAVES: str(folder) + ".saves"}
    seen, started = [], time.monotonic()
    with open(str(folder) + ".txt", "w", encoding="utf-8") as output:
        job = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.DEVNULL)
        while job.poll() is None:
            seconds = time.monotonic() - started
            if seconds > 60 * minutes:
                job.send_signal(signal.SIGTERM)
                job.wait()
                break
            seen.append({"seconds": seconds, **look(job.pid)})
            time.sleep(EVERY)
    return seen, time.monotonic() - started


def slope(times: list[float], values: list[float]) -> tuple[float, float]:
    """Of the line through the points, per hour, and half its 95 % interval."""
    fit = stats.linregress(np.array(times) / 3600, values)
    return fit.slope, fit.stderr * stats.t.ppf(0.975, len(values) - 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="of the run")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps all that was seen")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*")
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments.flags)
    if arguments.out is None:
        parser.error("--out FOLDER is missing")
    seen, seconds = watch(arguments.flags, arguments.out, arguments.minutes)
    settled = [each for each in seen if each["seconds"] > min(SETTLING, seconds / 6)]
    times = [each["seconds"] for each in settled]
    print(f"{seconds / 60:.1f} minutes, {len(seen)} looks")
    for name, unit, size in (("kilobytes", "MB of memory", 1e3), ("files", "open files", 1),
                             ("threads", "threads", 1)):
        values = [each[name] / size for each in settled]
        by_hour, interval = slope(times, values)
        print(f"{unit}: {values[0]:,.0f} at first, {values[-1]:,.0f} at last, {min(values):,.0f} "
              f"to {max(values):,.0f}; slope {by_hour:+.1f} ± {interval:.1f} per hour")
    steps = list(read_events(arguments.out, "step"))
    of_steps = [step["seconds"] for step in steps[STEPS_TO_SETTLE:]]
    quarters = [statistics.median(part) for part in np.array_split(of_steps, 4)]
    saves = [float(line)
             for line in Path(str(arguments.out) + ".saves").read_text(encoding="ascii").split()]
    trained = sum(step["seconds"] for step in steps)
    print(f"{len(steps):,} steps; median seconds by quarter: "
          f"{', '.join(f'{value:.3f}' for value in quarters)}")
    print(f"{len(saves)} checkpoints, {sum(saves):.1f} s in {trained:,.0f} s of steps: "
          f"{sum(saves) / trained:.2%}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"flags": arguments.flags, "seen": seen,
                                              "step_seconds": of_steps,
                                              "checkpoint_seconds": saves}) + "\n",
                                              encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
