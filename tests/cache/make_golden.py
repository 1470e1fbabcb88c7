"""Makes golden_trace.csv and golden_counts.csv for golden_test.cc: python3 make_golden.py

An independent replay of the documented semantics by brute force, with lists that are searched:
- an event is one layer's activated experts, heaviest first, classified against the state before it;
- all of them count as used at that event, the heavier the more recent;
- absent ones then come in, heaviest first, while the cache holds all of the event's residents;
- LRU evicts the key used longest ago, LFU the key with the fewest uses since the start (absent
  times included), among equals the one used longest ago; the event's own experts never leave.
"""
import csv
import pathlib
import random

LAYERS, EXPERTS, TOP_K, STEPS = 3, 8, 3, 40
SIZES = (1, 2, 3, 4, 6, 9, 12, 18, 24)


def make_trace():
    rng = random.Random(20240611)
    favourites = [rng.sample(range(EXPERTS), EXPERTS) for _ in range(LAYERS)]
    trace = []
    for _ in range(STEPS):
        for layer in range(LAYERS):
            pool, event = list(favourites[layer]), []
            # One to four experts; a Zipf-like taste, so that frequency and recency disagree.
            for _ in range(rng.choice((1, TOP_K, TOP_K, TOP_K + 1))):
                weights = [1 / (1 + favourites[layer].index(e)) for e in pool]
                pick = rng.choices(pool, weights)[0]
                pool.remove(pick)
                event.append(pick)
            trace.append((layer, event))
    return trace


def replay(trace, policy, size):
    resident = []
    past = []  # every use since the start, oldest first
    hits = misses = inserts = evictions = 0
    for layer, experts in trace:
        event = [(layer, e) for e in experts]
        absent = [k for k in event if k not in resident]
        hits += len(event) - len(absent)
        misses += len(absent)
        past += reversed(event)  # the heaviest last: most recent
        room = size - (len(event) - len(absent))
        for key in absent[:room]:
            if len(resident) == size:
                last_use = {k: len(past) - 1 - past[::-1].index(k) for k in resident}
                leavers = [k for k in resident if k not in event]
                if policy == "lru":
                    victim = min(leavers, key=lambda k: last_use[k])
                else:
                    victim = min(leavers, key=lambda k: (past.count(k), last_use[k]))
                resident.remove(victim)
                evictions += 1
            resident.append(key)
            inserts += 1
    return hits, misses, inserts, evictions


def main():
    here = pathlib.Path(__file__).parent
    trace = make_trace()
    with open(here / "golden_trace.csv", "w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        for layer, experts in trace:
            writer.writerow([layer, *experts])
    with open(here / "golden_counts.csv", "w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["policy", "slots", "hits", "misses", "inserts", "evictions"])
        for policy in ("lru", "lfu"):
            for size in SIZES:
                writer.writerow([policy, size, *replay(trace, policy, size)])


if __name__ == "__main__":
    main()
