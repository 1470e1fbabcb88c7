#!/usr/bin/env python3
"""Tandem beside a llama-bench of llama.cpp or one of its forks, in turn, round by round.

bench/beside_peer.py --tandem build/tandem --peer LLAMA_BENCH --peer-args "-fa 1 -fmoe 1 -rtr 1" \
    --rounds 5 -t 2 -p 512,64 -n 64 --out raw.csv MODEL.gguf …

Every round runs the peer, Tandem, and --probe (a command that says in its last number what the
machine gives at that moment, memory bandwidth for instance) if there is one. Raw figures go to
--out, medians and the median of the rounds' ratios to standard output.
"""
import argparse
import csv
import json
import os
import re
import shlex
import statistics
import subprocess
import sys


def run(command):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or [""])[-1]
        sys.exit(f"{command[0]}: exit code {result.returncode}: {last}")
    return result.stdout


def peer_speeds(options, model):
    out = run([options.peer, "-m", model, "-t", options.t, "-p", options.p, "-n", options.n,
               "-r", "1", *shlex.split(options.peer_args)])
    rows = re.findall(r"\|\s*((?:pp|tg)\d+)\s*\|\s*([\d.]+)", out)
    return {test: float(speed) for test, speed in rows}


def tandem_speeds(options, model):
    out = run([options.tandem, "bench", "-m", model, "-t", options.t, "-p", options.p,
               "-n", options.n, "-r", "1", "-o", "json", *shlex.split(options.tandem_args)])
    speeds = {}
    for row in json.loads(out):
        test = f"pp{row['n_prompt']}" if row["n_prompt"] > 0 else f"tg{row['n_gen']}"
        speeds[test] = row["avg_ts"]
    return speeds


def probe(options):
    if not options.probe:
        return ""
    return re.findall(r"[\d.]+", run(shlex.split(options.probe)))[-1]


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--tandem", default="build/tandem")
    parser.add_argument("--tandem-args", default="")
    parser.add_argument("--peer", required=True)
    parser.add_argument("--peer-args", default="")
    parser.add_argument("--probe", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-t", default="2")
    parser.add_argument("-p", default="512,64")
    parser.add_argument("-n", default="64")
    parser.add_argument("--out", required=True)
    return parser.parse_args()


def main():
    options = parse()
    rows = []
    with open(options.out, "a", newline="") as file:
        raw = csv.writer(file)
        if file.tell() == 0:
            raw.writerow(["model", "round", "test", "peer_tps", "tandem_tps", "probe_before",
                          "probe_between", "probe_after"])
        for model in options.models:
            name = os.path.basename(model)
            for turn in range(options.rounds):
                before = probe(options)
                peer = peer_speeds(options, model)
                between = probe(options)
                tandem = tandem_speeds(options, model)
                after = probe(options)
                for test in sorted(set(peer) & set(tandem)):
                    raw.writerow([name, turn, test, peer[test], round(tandem[test], 2), before,
                                  between, after])
                    rows.append((name, test, peer[test], tandem[test]))
                file.flush()
    for key in sorted({row[:2] for row in rows}):
        peer = [row[2] for row in rows if row[:2] == key]
        tandem = [row[3] for row in rows if row[:2] == key]
        ratios = [t / p for p, t in zip(peer, tandem)]
        print(f"{key[0]:<22} {key[1]:<6} peer {statistics.median(peer):7.2f}  "
              f"tandem {statistics.median(tandem):7.2f}  ratio {statistics.median(ratios):.2f} "
              f"({min(ratios):.2f} to {max(ratios):.2f}), {len(ratios)} rounds")


if __name__ == "__main__":
    main()
