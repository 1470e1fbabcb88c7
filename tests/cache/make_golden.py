"""Makes the golden_*.csv for golden_test.cc: python3 make_golden.py

An independent replay of the documented semantics by brute force, in 50 decimal digits:
- an event is one layer's activated experts, heaviest first, classified against the state before it;
- all of them count as used at that event, the heavier the more recent;
- absent ones then come in, heaviest first, while the cache holds all of the event's residents;
- the key with the smallest worth leaves, among equals that of the earlier layer, then that of the
  smaller expert; the event's own experts never leave.
Worths are sums over the whole history of uses, whether the key was resident or not.

golden_trace.csv: layer, experts. golden_gates.csv: for each event the gate's best experts, twice
as many as are used, each with its score in 1/1024. golden_counts.csv: the counts, by case.
"""
import csv
import decimal
import pathlib
import random
from decimal import Decimal

LAYERS, EXPERTS, TOP_K, STEPS = 3, 8, 3, 40
SIZES = (1, 2, 3, 4, 6, 9, 12, 18, 24)
COSTS = (Decimal(1), Decimal("2.5"), Decimal("0.5"))
NEVER = Decimal("Infinity")
decimal.getcontext().prec = 50


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


def make_gates(trace):
    """The used experts first, then as many runners-up; distinct falling scores of at most 1."""
    rng = random.Random(504)
    gates = []
    for _, event in trace:
        rest = [e for e in range(EXPERTS) if e not in event]
        ranked = event + rng.sample(rest, len(event))
        gates.append(list(zip(ranked, sorted(rng.sample(range(1, 1024), len(ranked)))[::-1])))
    return gates


class History:
    """All that a policy may look at after event `now`."""

    def __init__(self, trace, gates, now):
        self.trace, self.gates, self.now = trace, gates, now

    def visits(self, layer):
        """Events of the layer with their age: 0 is the newest."""
        newest_first = [t for t in range(self.now, -1, -1) if self.trace[t][0] == layer]
        return list(enumerate(newest_first))

    def ages(self, key):
        return [age for age, t in self.visits(key[0]) if key[1] in self.trace[t][1]]

    def last(self, key):
        """(event, place from the lightest) of the last use; before everything if there is none."""
        for t in range(self.now, -1, -1):
            layer, event = self.trace[t]
            if layer == key[0] and key[1] in event:
                return t, -event.index(key[1])
        return -1, 0

    def next_use(self, key):
        for t in range(self.now + 1, len(self.trace)):
            layer, event = self.trace[t]
            if layer == key[0] and key[1] in event:
                return Decimal(t - self.now)
        return NEVER


def lru(h, key):
    return h.last(key)


def lfu(half_life):
    def worth(h, key):
        return (count(h, key, half_life), h.last(key))
    return worth


def count(h, key, half_life):
    fade = Decimal(2) ** (Decimal(-1) / half_life) if half_life else Decimal(1)
    return rounded(sum((fade ** age for age in h.ages(key)), Decimal(0)))


def rounded(x):
    """What is equal in exact arithmetic is equal."""
    return x if x.is_infinite() else round(x, 40)


def lfru(half_life):
    def worth(h, key):
        age = min(h.ages(key), default=0)  # with no use at all the count is 0
        return rounded(count(h, key, half_life) / (age + 1))
    return worth


def layer_lru(h, key):
    layer = key[0]
    missed = min(h.ages(key), default=len(h.visits(layer)))
    turn = (layer - h.trace[h.now][0]) % LAYERS or LAYERS
    return -missed, -turn, h.last(key)[1]


def mrs(alpha, kept):
    def worth(h, key):
        total = Decimal(0)
        for age, t in h.visits(key[0]):
            best = h.gates[t][:kept * len(h.trace[t][1])]
            total += sum(alpha * (1 - alpha) ** age * Decimal(s) / 1024 for e, s in best
                         if e == key[1])
        return rounded(total)
    return worth


def rate(fast, slow, mix):
    fast, slow, mix = Decimal(fast), Decimal(slow), Decimal(mix)

    def worth(h, key):
        return rounded(sum((mix * fast * (1 - fast) ** age + (1 - mix) * slow * (1 - slow) ** age
                            for age in h.ages(key)), Decimal(0)))
    return worth


def cost_aware(inner):
    return lambda h, key: rounded(inner(h, key) * COSTS[key[0]])


def belady(h, key):
    return -h.next_use(key)


def windowed(tokens, inner):
    def worth(h, key):
        known = h.next_use(key) <= tokens * LAYERS
        return (1, -h.next_use(key)) if known else (0, inner(h, key))
    return worth


# By name: the worth, and whether each layer has slots of its own.
CASES = {
    "lru": (lru, False),
    "lfu": (lfu(0), False),
    "lfu-8": (lfu(8), False),
    "lfru": (lfru(0), False),
    "lfru-8": (lfru(8), False),
    "layer-lru": (layer_lru, False),
    "mrs": (mrs(Decimal("0.5"), 2), False),
    "mrs-1": (mrs(Decimal("0.3"), 1), False),
    "ewma": (rate(0.25, 0.01, 0.25), False),
    "cost-aware": (cost_aware(rate(0.25, 0.01, 0.25)), False),
    "belady": (belady, False),
    "windowed-belady": (windowed(2, rate(0.25, 0.01, 0.25)), False),
    "lru per layer": (lru, True),
    "ewma per layer": (rate(0.25, 0.01, 0.25), True),
    "belady per layer": (belady, True),
}


def numbers(worth):
    flat = []
    for part in worth if isinstance(worth, tuple) else (worth,):
        flat += numbers(part) if isinstance(part, tuple) else [Decimal(part)]
    return flat


def check_clear(worths):
    """Worths are equal, or differ by far more than the rounding of a double."""
    ordered = sorted(numbers(w) for w in worths)
    for a, b in zip(ordered, ordered[1:]):
        for x, y in zip(a, b):
            if x != y:
                assert x.is_infinite() or y.is_infinite() or y - x > Decimal("1e-11"), (x, y)
                break


def replay(trace, worths, size, per_layer):
    quota = [size // LAYERS + (layer < size % LAYERS) for layer in range(LAYERS)]
    resident = []
    hits = misses = inserts = evictions = 0
    for (layer, experts), worth in zip(trace, worths):
        event = [(layer, e) for e in experts]
        absent = [k for k in event if k not in resident]
        hits += len(event) - len(absent)
        misses += len(absent)
        limit = quota[layer] if per_layer else size
        for key in absent[:max(0, limit - (len(event) - len(absent)))]:
            rivals = [k for k in resident if not per_layer or k[0] == layer]
            if len(rivals) == limit:
                victim = min((worth[k], k) for k in rivals if k not in event)[1]
                resident.remove(victim)
                evictions += 1
            resident.append(key)
            inserts += 1
    return hits, misses, inserts, evictions


def main():
    here = pathlib.Path(__file__).parent
    trace = make_trace()
    gates = make_gates(trace)
    keys = [(layer, e) for layer in range(LAYERS) for e in range(EXPERTS)]

    def table(name):
        return csv.writer(open(here / name, "w", newline=""), lineterminator="\n")

    table("golden_trace.csv").writerows([layer, *experts] for layer, experts in trace)
    table("golden_gates.csv").writerows([n for pair in gate for n in pair] for gate in gates)
    counts = table("golden_counts.csv")
    counts.writerow(["case", "slots", "hits", "misses", "inserts", "evictions"])
    for case, (worth, per_layer) in CASES.items():
        worths = []
        for now in range(len(trace)):
            history = History(trace, gates, now)
            worths.append({key: worth(history, key) for key in keys})
            check_clear(worths[-1].values())
        for size in SIZES:
            counts.writerow([case, size, *replay(trace, worths, size, per_layer)])


if __name__ == "__main__":
    main()
