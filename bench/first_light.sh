#!/bin/sh
# Perplexity of the demo model, speed on CPU and simulated GPU in interleaved rounds, and the peak
# of resident memory.   bench/first_light.sh PROGRAM [MODEL.gguf …] > bench/results/FILE
# Speeds of the simulated GPU are those of host code doing its work; only "modelled" speaks of a GPU.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
program=$1
shift

echo "# machine"
grep -m1 'model name' /proc/cpuinfo
echo "cores: $(nproc), memory: $(awk '/MemTotal/ {printf "%.1f GiB", $2 / 1048576}' /proc/meminfo), load: $(cut -d' ' -f1-3 /proc/loadavg)"
"$program" --version

echo "# perplexity of demo/heldout.txt, -c 256 (float64 reference: 40.191)"
for type in f32 f16; do
  printf 'KV cache %s: ' "$type"
  "$program" perplexity -f "$here/demo/heldout.txt" -c 256 -ctk "$type" -ctv "$type"
done

echo "# speed: built-in demo model, 5 rounds of one repetition, devices in turn"
for round in 1 2 3 4 5; do
  "$program" bench -p 256 -n 128 -r 1 --device cpu -o jsonl
  "$program" bench -p 256 -n 128 -r 1 --device sim --vram 12 -o jsonl
done

for model in "$@"; do
  echo "# $(basename "$model"): $(stat -c %s "$model") bytes; 3 rounds, devices in turn"
  for round in 1 2 3; do
    "$program" bench -m "$model" -p 64 -n 8 -r 1 --no-warmup --device cpu -o jsonl
    "$program" bench -m "$model" -p 64 -n 8 -r 1 --no-warmup --device sim --vram 1024 -o jsonl
  done
  echo "# $(basename "$model"): peak resident memory, -c 1024, a prompt of some 480 bytes and 8 more tokens"
  prompt=$(mktemp)
  yes 'the quick brown fox jumps over the lazy dog' | head -c 480 > "$prompt"
  for device in "cpu" "sim --vram 1024"; do
    printf '%s: ' "$device"
    # shellcheck disable=SC2086
    /usr/bin/time -f 'peak %M KiB' "$program" run -m "$model" -f "$prompt" -n 8 -c 1024 --temp 0 \
      --json --device $device 2>&1 | grep -E 'peak|"prompt_tokens"|n_kv|kv_cache' | tr -d '\n'
    echo
  done
  rm -f "$prompt"
done
