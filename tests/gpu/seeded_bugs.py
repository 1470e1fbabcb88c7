#!/usr/bin/env python3
"""Plants one bug at a time in the GPU kernels, or in what feeds a GPU, and sees that its detector
finds it.

  tests/gpu/seeded_bugs.py --build build --asan build-asan --tsan build-tsan [--only NAME]

A bug is a piece of source that is replaced; the files that contain it are compiled again, with the
flags of that build, and linked in front of the library. Detectors: `fault`, what the emulation
says of something that CUDA leaves undefined; `float64`, a test whose result is wrong; `asan`;
`tsan`; `logits`, a model's beside those that it must have; `hazard`, the simulated GPU's check that
accesses are ordered. Exit code 0 when each bug is found by its own, and the tests pass without any.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


# A comparison that does not hold; an exception is another detector's.
COMPARED = r"FAILED:\s+(CHECK|REQUIRE)\w*\([\s\S]{0,600}?\)\s+with expansion"


class Bug:
    """In kernels/gpu, tested by test_gpu."""
    folder, program, tests_folder = "kernels/gpu", "test_gpu", "gpu"

    def __init__(self, name, detector, file, old, new, units, tests, says=""):
        self.name, self.detector, self.file = name, detector, file
        self.old, self.new, self.units, self.tests, self.says = old, new, units, tests, says


class EngineBug(Bug):
    """In one file of runtime/engine, tested by test_engine."""
    folder, program, tests_folder = "runtime/engine", "test_engine", "engine"

    def __init__(self, name, detector, file, old, new, tests, says=""):
        super().__init__(name, detector, file, old, new, [file], tests, says)


class DeviceBug(Bug):
    """In runtime/device/cuda_device.cc, tested by test_engine_large. What is read too early is NaN."""
    folder, program, tests_folder = "runtime/device", "test_engine_large", "engine"

    def __init__(self, name, old, new):
        super().__init__(name, "logits", "cuda_device.cc", old, new, ["cuda_device.cc"],
                         "the demo model's golden tokens do not depend on when CUDA*",
                         COMPARED + "|FAILED:[\\s\\S]{0,600}? values\\s+that\\s+are\\s+not\\s+finite")


MODEL = "the demo model's golden tokens do not depend*"

BUGS = [
    Bug("no barrier before partial sums are read", "tsan", "packed_product.h",
        "  __syncthreads();\n  for (int i", "  for (int i", ["packed_product.cu"], "up to three products*"),
    Bug("no barrier before partial sums are written again", "tsan", "packed_product.h",
        "  __syncthreads();\n}", "}", ["expert_ffn.cu"], "a layer's experts*"),
    Bug("a barrier for one warp only", "fault", "packed_product.h",
        "  __syncthreads();\n  for (int i", "  if (warp == 0) __syncthreads();\n  for (int i",
        ["packed_product.cu"], "up to three products*", "threads; the others have ended|deadlock|divergent"),
    Bug("a warp writes behind its shared array", "asan", "packed_product.h",
        "parts[warp].of", "parts[warp + 1].of", ["packed_product.cu"], "up to three products*"),
    Bug("a block of weights too many", "asan", "packed_product.h",
        "b < n_blocks;", "b <= n_blocks;", ["packed_product.cu"], "a GPU product with packed*"),
    Bug("a partial sum that nobody wrote", "float64", "packed_product.h",
        "    for (int p = 0; p < kProductWarps; ++p) sum",
        "    for (int p = 0; p < kProductWarps + 1; ++p) sum", ["packed_product.cu"], "up to three products*"),
    Bug("fragment rows in the wrong order", "float64", "packed_formats.h",
        "    a.r[1] = load_u32(at + 32);\n    a.r[2] = load_u32(at + 4 * kLineBytes);",
        "    a.r[2] = load_u32(at + 32);\n    a.r[1] = load_u32(at + 4 * kLineBytes);", ["packed_product.cu"],
        "a GPU product with packed*"),
    Bug("a scale of the wrong sub-block", "float64", "packed_formats.h",
        "byte_of(head[0].scales[s / 4], s % 4)", "byte_of(head[0].scales[s / 4], (s + 1) % 4)",
        ["packed_product.cu"], "a GPU product with packed*"),
    Bug("a load between dwords", "fault", "packed_formats.h",
        "const uint8_t* at = x.own(tile) + col + 4 * t;",
        "const uint8_t* at = x.own(tile) + col + 4 * t + 2;", ["packed_product.cu"],
        "a GPU product with packed*", "misaligned"),
    Bug("a shuffle without all lanes", "fault", "residual_row.h",
        "    sum = warp_sum(sum);", "    if (thread % kWarpSize != 5) sum = warp_sum(sum);",
        ["residual_norm.cu"], "RMSNorm*", "wait for lanes"),
    Bug("all warps write one value", "tsan", "residual_row.h",
        "if (thread % kWarpSize == 0) squares[warp] = sum;",
        "if (thread % kWarpSize == 0) squares[warp & 0] = sum;", ["residual_norm.cu"], "RMSNorm*"),
    Bug("a token too many", "asan", "residual_row.h",
        "u < call.uses.begin[token + 1]; ++u", "u <= call.uses.begin[token + 1]; ++u", ["residual_norm.cu"],
        "the uses of experts*"),
    Bug("a use of the last tile is not left out", "asan", "expert_ffn.cu",
        "    if (use >= n_uses || row >= down.rows) continue;", "    if (row >= down.rows) continue;",
        ["expert_ffn.cu"], "a layer's experts*"),
    Bug("a chunk of tokens is read before its copies are waited for", "float64", "tile_product.h",
        "    wait_copies<0>();\n", "", ["product_tiles.cu"], "a GPU product with packed*"),
    Bug("no barrier before a chunk of tokens is read, and another overwritten", "tsan",
        "tile_product.h", "    __syncthreads();  // chunk c", "    // chunk c", ["product_tiles.cu"],
        "a GPU product with packed*"),
    Bug("a chunk of tokens goes where the one before is read", "tsan", "tile_product.h",
        "shared->rows[(c + 1) % 2]", "shared->rows[c % 2]", ["product_tiles.cu"], "a GPU product with packed*"),
    Bug("sums of another chunk", "float64", "tile_product.h", "chunk * 16 + (k - 1) * 4",
        "chunk * 12 + (k - 1) * 4", ["product_tiles.cu"], "a GPU product with packed*"),
    Bug("a lane keeps the expert that was taken", "float64", "top_experts.cu",
        "if (id == scores->lane + kWarpSize * i) scores->of[i]",
        "if (id == scores->lane + kWarpSize * i && i > 0) scores->of[i]", ["top_experts.cu"],
        "a GPU ranks experts*"),
    Bug("attention sees the token behind", "float64", "attention.cu",
        "seen[i] = position <= last[i % 2];", "seen[i] = position <= last[i % 2] + 1;",
        ["attention.cu"], "attention on a GPU*"),
    Bug("attention reads values that nobody stored", "float64", "attention_tile.h",
        "return 2 * line + 1 < n ? pair : pair & 0xFFFFU;", "return pair;", ["attention.cu"],
        "attention on a GPU*"),
    Bug("attention reads scales that nobody stored", "float64", "attention_tile.h",
        "        if (position >= n) return 0.0F;\n", "", ["attention.cu"], "attention on a GPU*"),
    Bug("no barrier before weights of keys are read", "tsan", "attention.cu",
        "    __syncthreads();\n#pragma unroll\n    for (int i = 0; i < 2; ++i) {\n      sum[i] *= decay[i];",
        "#pragma unroll\n    for (int i = 0; i < 2; ++i) {\n      sum[i] *= decay[i];",
        ["attention.cu"], "attention on a GPU*"),
    Bug("a span's sums lie in the next one's", "float64", "attention.cu",
        "+ queries.spans * heads * v_head_dim + span * heads;",
        "+ queries.spans * heads * v_head_dim + span;", ["attention.cu"], "a GPU joins*"),
    Bug("a key is stored a position too far", "asan", "prepare_heads.cu",
        "const int position = first_pos + static_cast<int>(token);",
        "const int position = first_pos + static_cast<int>(token) + 64;",
        ["prepare_heads.cu"], "attention on a GPU*"),
    Bug("no barrier before a row that was packed here is read", "tsan", "packed_product.cu",
        "  __syncthreads();\n  int group", "  int group", ["packed_product.cu"],
        "up to three products*"),
    Bug("a head is turned before it is normalised", "tsan", "prepare_heads.cu",
        "    out[i] = limited(value, norm.limit);\n  }\n  __syncthreads();",
        "    out[i] = limited(value, norm.limit);\n  }", ["prepare_heads.cu"], "heads are limited*"),
    EngineBug("an expert's kernels do not wait for its copy", "hazard", "hybrid_executor.cc",
              "  device_.wait(Stream::kCompute, landed);", "  static_cast<void>(landed);", MODEL),
    EngineBug("a slot is overwritten while kernels may read it", "hazard", "expert_slots.cc",
              "  device_.wait(Stream::kCopy, state.last_use);", "", MODEL),
    EngineBug("a buffer is filled again before it is read", "logits", "hybrid_executor.cc",
              "      if (holder < at) launch_until(plan, holder + 1);\n", "",
              "more experts than slots*"),
    EngineBug("staging is filled again while it is copied", "hazard", "expert_slots.cc",
              "  device_.host_wait(packed_until_);", "", MODEL),
    EngineBug("the router reads logits that may not be there", "hazard", "dense_layers.cc",
              "  device_.host_wait(gate_);", "", MODEL),
    EngineBug("the CPU's experts are copied before they are there", "hazard", "hybrid_executor.cc",
              "  device_.wait(Stream::kCompute, cpu_done_);", "", MODEL),
    EngineBug("a graph keeps the position at which it was captured", "logits", "gpu_kernel_ops.cc",
              "scope.read_as<int>(step_, 1)}", "nullptr}", "a token alone*"),
    EngineBug("a graph is run whatever the residual has yet to get", "logits", "gpu_kernel_ops.cc",
              "{ return one.pending == pending; }", "{ return &one == known.data(); }",
              "the demo model continues*"),
    EngineBug("the last use of a slot is forgotten", "hazard", "hybrid_executor.cc",
              "  for (const PlannedExpert* expert : some) slots_.used(expert->slot, done);",
              "  static_cast<void>(done);", MODEL),
    EngineBug("a kernel writes what its launch declares as read", "fault", "gpu_kernel_ops.cc",
              "                           all(q_ready_, c.q_width(), true)};",
              "                           all(q_ready_, c.q_width(), false)};", MODEL,
              "which its launch did not declare"),
    EngineBug("a launch declares one token less than its kernel reads", "asan", "gpu_kernel_ops.cc",
              "{p.y, n * p.w.rows * kFloat, true};\n    bytes", "{p.y, n * p.w.rows * kFloat - 8, true};\n    bytes",
              MODEL, "which its launch did not declare|AddressSanitizer"),
    EngineBug("a kernel reads four floats behind what its launch declares", "asan",
              "gpu_kernel_ops.cc",
              """Touch{from, to.n * to.cols * kFloat, false},
                           Touch{to.at, to.bytes(), true}};
  device_.launch(Stream::kCompute,
                 {"pack_x", touches, to.n * to.cols * kFloat + to.bytes(), 0,
                  [&kernels = kernels_, from, to](const KernelScope& scope) {
                    kernels.pack_x(
                        scope.stream(), to.kind, scope.read_as<float>(from, to.n * to.cols),""",
              """Touch{from, to.n * to.cols * kFloat - 16, false},
                           Touch{to.at, to.bytes(), true}};
  device_.launch(Stream::kCompute,
                 {"pack_x", touches, to.n * to.cols * kFloat + to.bytes(), 0,
                  [&kernels = kernels_, from, to](const KernelScope& scope) {
                    kernels.pack_x(
                        scope.stream(), to.kind, scope.read_as<float>(from, to.n * to.cols - 4),""",
              "many tokens are guessed*", "AddressSanitizer"),
    DeviceBug("a stream does not wait for another's event",
              '  check(cuda_.stream_wait(lane(stream).stream, event_behind(point)), "a wait");\n', ""),
    DeviceBug("a wait is remembered as one for all streams",
              "lane(stream).waited[of];", "lane(stream).waited[0];"),
    DeviceBug("a stream waits for the event before", "  return behind->event;",
              "  return (behind + 1 == of.marks.rend() ? behind : behind + 1)->event;"),
    DeviceBug("an event that is used again keeps its old place",
              '  check(cuda_.record(event, lane->stream), "recording an event");',
              '  if (lane->n < 2) check(cuda_.record(event, lane->stream), "recording an event");'),
    DeviceBug("a stream does not wait for the host's experts",
              '    check(hand_over_->enqueue_wait(lane(stream).stream, point.n), "a wait for the host");\n',
              ""),
]


def run(command, **more):
    return subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          **more)


def compile_command(build, unit):
    """The command that compiles a unit for the CPU and the tests, from CMake's database."""
    for entry in json.loads((build / "compile_commands.json").read_text()):
        others = ("tandem_gpu_cuda", "tandem_gpu_counted")
        if entry["file"].endswith(unit) and not any(o in entry["command"] for o in others):
            return shlex.split(entry["command"]), entry["directory"]
    sys.exit(f"{build}: no command compiles {unit}; expected a configured build with tests")


def plant(bug, build, work):
    """A test program with the bug in it."""
    path = ROOT / bug.folder / bug.file
    text = path.read_text()
    if text.count(bug.old) != 1:
        sys.exit(f"{bug.name}: expected its place once in {bug.file}, found it {text.count(bug.old)} times")
    shutil.rmtree(work, ignore_errors=True)  # another list's bug may have been here
    place = work / bug.folder / bug.file
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text.replace(bug.old, bug.new))
    objects = []
    for unit in bug.units:
        command, directory = compile_command(build, f"{bug.folder}/{unit}")
        source = place if unit == bug.file else ROOT / bug.folder / unit
        command = [c for c in command if c != "ccache"]
        command[command.index("-o") + 1] = str(work / (unit + ".o"))
        command[-1] = str(source)
        command.insert(1, f"-I{work}")
        done = run(command, cwd=directory)
        if done.returncode != 0:
            sys.exit(f"{bug.name}: does not compile\n{done.stdout}")
        objects.append(str(work / (unit + ".o")))
    tests = build / "tests" / bug.tests_folder
    link = shlex.split((tests / f"CMakeFiles/{bug.program}.dir/link.txt").read_text())
    link = [c for c in link if c != "ccache"]
    program = work / bug.program
    link[link.index("-o") + 1] = str(program)
    link[1:1] = objects
    done = run(link, cwd=tests)
    if done.returncode != 0:
        sys.exit(f"{bug.name}: does not link\n{done.stdout}")
    return program


FOUND = {
    "float64": COMPARED,
    "logits": COMPARED,
    "asan": r"ERROR: AddressSanitizer|outside of an (allocation|array)",
    "tsan": r"WARNING: ThreadSanitizer: data race",
    "hazard": r"may\s+still\s+(read|write)\s+it",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("build", "asan", "tsan"):
        parser.add_argument("--" + name, type=pathlib.Path, required=True)
    parser.add_argument("--only", default="", help="part of a bug's name")
    options = parser.parse_args()
    builds = {"fault": options.build, "float64": options.build, "hazard": options.build,
              "logits": options.build,              "asan": options.asan, "tsan": options.tsan}
    builds = {name: path.resolve() for name, path in builds.items()}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for build, sound in pool.map(lambda b: (b, run([b / "test_gpu"])), set(builds.values())):
            if sound.returncode != 0:
                sys.exit(f"{build}: the tests fail without a bug\n{sound.stdout[-2000:]}")
    missed = 0

    def look_for(numbered):
        i, bug = numbered
        build = builds[bug.detector]
        program = plant(bug, build, build / "seeded_bugs" / str(i))
        return bug, run([program, bug.tests]).stdout

    wanted = [(i, bug) for i, bug in enumerate(BUGS) if options.only in bug.name]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for bug, said in pool.map(look_for, wanted):
            found = re.search(bug.says or FOUND[bug.detector], said) is not None
            missed += not found
            print(f"{'found' if found else 'MISSED':6}  {bug.detector:8}{bug.name}", flush=True)
            if not found:
                print(said[-1500:])
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
