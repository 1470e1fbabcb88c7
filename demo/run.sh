#!/bin/sh
# The demo: the built-in model tells a story, its experts split between the CPU and a simulated
# GPU that has room for a part of them only.   demo/run.sh [PROGRAM]
exec "${1:-tandem}" run -p "Once upon a time" -n 220 --temp 0.7 --top-p 0.95 --repeat-penalty 1.05 \
  --seed 8 --device sim --vram 12
