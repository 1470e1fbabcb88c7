// The rungs of the ladder: products of one matrix, by every kernel that can make them, and experts.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/kernels/limits.h"
#include "kernels/kv_cache.h"
#include "kernels/simd.h"
#include "runtime/device/thread_pool.h"

namespace tandem::bench {

using Pools = std::vector<std::unique_ptr<ThreadPool>>;

struct Case {
  std::string kernel;
  std::string type;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t tokens = 0;
  ThreadPool* pool = nullptr;
  int64_t weight_bytes = 0;      // of a call, each weight counted once
  int64_t ops = 0;               // of a call; a multiply-add is two
  Peak peak = Peak::kF32;        // what its arithmetic is held against
  const SimdOps* isa = nullptr;  // forced while it runs; nullptr: the process's own choice
  std::function<void()> call{};  // with the next weights of the ring
  // After a call: "", or where it is wrong.
  std::function<std::string()> check{};
};

// What a case runs on, and owns.
class Bench {
 public:
  Bench() = default;
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;
  virtual ~Bench() = default;
  // Valid until the next call.
  virtual std::vector<Case> cases(int64_t tokens) = 0;
};

struct Wanted {
  std::vector<std::string> kernels;
  int64_t ring_bytes = 0;
  int64_t most_tokens = 0;
  bool has(const std::string& kernel) const;
};

inline constexpr const char* kMatmul = "matmul";           // dense.h, packed weights
inline constexpr const char* kScalar = "scalar";           // the same with the reference's table
inline constexpr const char* kOnednn = "onednn";           // its own order of weights, made before
inline constexpr const char* kOnednnTile = "onednn-tile";  // rows, dequantised on the way
inline constexpr const char* kExpertFfn = "expert_ffn";
inline constexpr const char* kMoeLayer = "moe_layer";
inline constexpr const char* kAttention = "attention";
inline constexpr const char* kLookahead = "lookahead";  // beside a router, one token
inline constexpr const char* kU8S8 = "u8s8";            // a type: bytes without scales

Peak peak_of(DType type);

// type: a name of quant.h or kU8S8. Throws std::invalid_argument for another.
std::unique_ptr<Bench> matmul_bench(std::mt19937& rng, const std::string& type, int64_t rows,
                                    int64_t cols, const Pools& pools, const Wanted& wanted);
std::unique_ptr<Bench> onednn_bench(std::mt19937& rng, const std::string& type, int64_t rows,
                                    int64_t cols, const Pools& pools, const Wanted& wanted);
// Routed experts of one layer; each token goes to top_k of the n, drawn evenly.
struct Experts {
  const char* kernel;
  int64_t n;
  int64_t top_k;
  int64_t ff;
  int64_t d;
};
// On the last of the pools.
std::unique_ptr<Bench> ffn_bench(std::mt19937& rng, const std::string& type, const Experts& experts,
                                 const Pools& pools, const Wanted& wanted);

// A layer's router in f32, and with three distances of a fitted lookahead; `type`: its weights. On
// the last of the pools; of experts.top_k and ff nothing is used.
std::unique_ptr<Bench> lookahead_bench(std::mt19937& rng, const std::string& type,
                                       const Experts& shape, const Pools& pools,
                                       const Wanted& wanted);

// One layer's attention of tokens behind `depth` others, each head of n_kv read by n / n_kv heads.
// Rows are heads and columns the depth; tokens are at most as many. On the last of the pools.
struct Heads {
  int64_t n;
  int64_t n_kv;
  int64_t dim;
  int64_t depth;
};
std::unique_ptr<Bench> attention_bench(std::mt19937& rng, KvType type, const Heads& heads,
                                       const Pools& pools, const Wanted& wanted);

DType type_named(const std::string& name);

}  // namespace tandem::bench
