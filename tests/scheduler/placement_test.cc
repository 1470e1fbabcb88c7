#include "scheduler/placement.h"

#include <cmath>
#include <numeric>
#include <string>

#include "tests/scheduler/placement_testing.h"
#include "tests/support/catch.h"
#include "tests/support/counted_new.h"

namespace tandem::test {
namespace {

constexpr double kSame = 1e-9;

double planned_end(LayerProblem* p) {
  const Clocks end = layer_end(p);
  return std::max(end.cpu, end.gpu);
}

// Room is kept and at most one expert is split that did not come so.
bool allowed(const LayerProblem& p, const std::vector<int>& gpu) {
  int room = p.room;
  int splits = p.may_split ? 1 : 0;
  for (size_t i = 0; i < gpu.size(); ++i) {
    const LayerItem& item = p.items[i];
    if (gpu[i] > 0 && item.present == 0) --room;
    if (gpu[i] != 0 && gpu[i] != item.present && gpu[i] != p.cost.pieces) --splits;
  }
  return room >= 0 && splits >= 0;
}

BruteEnd brute_best(const LayerProblem& p) {
  std::vector<int> gpu(p.items.size(), 0);
  BruteEnd best;
  for (;;) {
    if (allowed(p, gpu)) {
      const BruteEnd end = brute_end(p, gpu);
      const bool sooner = end.makespan < best.makespan * (1 - kSame);
      const bool less = end.makespan < best.makespan * (1 + kSame) && end.link < best.link;
      if (sooner || less) best = end;
    }
    size_t i = 0;
    while (i < gpu.size() && gpu[i] == p.cost.pieces) gpu[i++] = 0;
    if (i == gpu.size()) return best;
    ++gpu[i];
  }
}

// How many of the cases have what makes placement hard.
struct Seen {
  int in_flight = 0;  // the GPU would have to wait for an expert that is on its way
  int partly = 0;     // an expert is there in part
  int three_odd = 0;  // at least three are there in part or on their way
  int split = 0;      // the best placement found splits an expert anew
  int gpu_busy = 0;   // earlier layers have left the GPU's clock behind the CPU's,
  int link_busy = 0;  // or the link's
  int no_room = 0;    // fewer slots than absent experts
  int batches = 0;    // some expert has several tokens

  void note(const LayerProblem& p) {
    bool waits = false;
    bool in_part = false;
    bool anew = false;
    bool several = false;
    int absent = 0;
    int odd = 0;
    for (const LayerItem& item : p.items) {
      const bool part = item.present > 0 && item.present < p.cost.pieces;
      const bool comes = item.present > 0 && item.ready > p.now.gpu;
      waits |= comes;
      in_part |= part;
      odd += part || comes ? 1 : 0;
      anew |= item.gpu > 0 && item.gpu < p.cost.pieces && item.gpu != item.present;
      several |= item.count > 1;
      absent += item.present == 0 ? 1 : 0;
    }
    in_flight += waits ? 1 : 0;
    partly += in_part ? 1 : 0;
    three_odd += odd >= 3 ? 1 : 0;
    split += anew ? 1 : 0;
    gpu_busy += p.now.gpu > p.now.cpu ? 1 : 0;
    link_busy += p.now.link > p.now.cpu ? 1 : 0;
    no_room += p.room < absent ? 1 : 0;
    batches += several ? 1 : 0;
  }
};

// Layers of a batch of so many tokens, drawn anew for each.
struct Cases {
  uint32_t seed = 0;
  int n = 0;
  int fewest_tokens = 1;
  int most_tokens = 1;
  bool may_split = true;
  bool mostly_odd = false;  // four experts in five are there in part or on their way
  bool tiny = false;        // whose copies take less than waking the CPU
};

Seen compare_with_brute_force(const Cases& cases) {
  Dice dice(cases.seed);
  LayerProblem scratch;
  Seen seen;
  for (int n = 0; n < cases.n; ++n) {
    LayerProblem p = random_problem(&dice, 5, dice.from(cases.fewest_tokens, cases.most_tokens), 4);
    p.may_split = cases.may_split;
    if (cases.tiny) {
      p.cost.copy /= 100;
      p.cost.gpu_read /= 100;
      p.cost.gpu_launch /= 10;
      p.cost.copy_latency /= 10;
      p.now = {1000, 1000, 1000 + dice.real(0, 5)};
      p.room = static_cast<int32_t>(p.items.size());
    }
    for (LayerItem& item : p.items) {
      if (!cases.mostly_odd || dice.below(5) == 0) continue;
      item.present = dice.from(1, p.cost.pieces);
      item.ready = dice.below(4) == 0 ? 0 : dice.real(1000, p.now.link);
    }
    place_exact(&p, &scratch);
    INFO("seed " << cases.seed << ", case " << n);
    REQUIRE(allowed(p, chosen(p)));
    const BruteEnd best = brute_best(p);
    REQUIRE(planned_end(&p) <= best.makespan * (1 + kSame));
    REQUIRE(planned_end(&p) >= best.makespan * (1 - kSame));
    seen.note(p);
  }
  return seen;
}

// At least a tenth of the cases each.
void check_all_occur(const Seen& seen, int cases) {
  CHECK(seen.in_flight > cases / 10);
  CHECK(seen.partly > cases / 10);
  CHECK(seen.split > cases / 10);
  CHECK(seen.gpu_busy > cases / 10);
  CHECK(seen.link_busy > cases / 10);
  CHECK(seen.link_busy < cases * 9 / 10);  // an idle link as well
  CHECK(seen.no_room > cases / 10);
}

void compare_with_rules(uint32_t seed) {
  Dice dice(seed);
  LayerProblem scratch;
  for (int n = 0; n < 20'000; ++n) {
    const int experts = n % 100 == 0 ? 128 : 24;
    LayerProblem p = random_problem(&dice, experts, n % 3 == 0 ? 1 : 60, 8);
    place_exact(&p, &scratch);
    const double exact = planned_end(&p);
    for (const std::string_view name : placement_rule_names()) {
      LayerProblem other = p;
      placement_rule(name)(&other, &scratch);
      INFO("case " << n << ", " << name << ", " << p.items.size() << " experts");
      REQUIRE(exact <= planned_end(&other) * (1 + kSame));
    }
  }
}

}  // namespace

TEST_CASE("what a placement takes is what trying every order of copies gives") {
  Dice dice(5);
  for (int n = 0; n < 5000; ++n) {
    LayerProblem p = random_problem(&dice, 6, n % 2 == 0 ? 1 : 30, 4);
    for (LayerItem& item : p.items) item.gpu = dice.from(0, p.cost.pieces);
    INFO("case " << n);
    const BruteEnd best = brute_end(p, chosen(p));
    REQUIRE(planned_end(&p) == Approx(best.makespan).epsilon(kSame));
  }
}

// 17,000 layers with splits, 3,000 without.
TEST_CASE("decoding, the planner is as good as brute force on 4,000 random layers") {
  const Seen seen = compare_with_brute_force({.seed = 1, .n = 4000});
  check_all_occur(seen, 4000);
  CHECK(seen.batches == 0);
}

TEST_CASE("for 2 to 31 tokens the planner is as good as brute force on 6,000 random layers") {
  const Seen seen =
      compare_with_brute_force({.seed = 2, .n = 6000, .fewest_tokens = 2, .most_tokens = 31});
  check_all_occur(seen, 6000);
  CHECK(seen.batches > 6000 * 9 / 10);
}

TEST_CASE("without splitting the planner is as good as brute force on 2,000 random layers") {
  CHECK(compare_with_brute_force({.seed = 3, .n = 1000, .may_split = false}).split == 0);
  CHECK(compare_with_brute_force({4, 1000, 2, 31, false}).split == 0);
}

TEST_CASE("with most experts on their way the planner is as good as brute force on 2,000 layers") {
  for (const bool may_split : {true, false}) {
    const Seen seen = compare_with_brute_force(
        {.seed = 5, .n = 1000, .may_split = may_split, .mostly_odd = true});
    CHECK(seen.three_odd > 1000 / 5);
    CHECK(seen.in_flight > 1000 / 4);
    CHECK(seen.partly > 1000 / 4);
  }
}

TEST_CASE("where copies take less than waking the CPU the planner is as good as brute force") {
  compare_with_brute_force({.seed = 6, .n = 3000, .mostly_odd = true, .tiny = true});
  compare_with_brute_force({.seed = 7, .n = 3000, .tiny = true});
}

TEST_CASE("the rules to compare with are all-CPU, all-GPU and those of others") {
  const std::vector<std::string_view> names = placement_rule_names();
  CHECK(names == std::vector<std::string_view>{"adapmoe", "cpu", "exact", "fiddler", "hybrimoe",
                                               "ktransformers", "llama-ncmoe"});
  Dice dice(9);
  LayerProblem scratch;
  for (int n = 0; n < 1000; ++n) {
    LayerProblem p = random_problem(&dice, 12, 20, 4);
    p.room = static_cast<int32_t>(p.items.size());
    for (const auto& [name, pieces] : {std::pair{"adapmoe", p.cost.pieces}, {"cpu", 0}}) {
      placement_rule(name)(&p, &scratch);
      for (const LayerItem& item : p.items) REQUIRE(item.gpu == pieces);
    }
  }
}

// 5 x 20,000: in parts, so that each stays short under the sanitizers.
TEST_CASE("no named rule ever ends sooner than the planner: 20,000 larger layers, first part") {
  compare_with_rules(11);
}
TEST_CASE("no named rule ever ends sooner than the planner: 20,000 larger layers, second part") {
  compare_with_rules(12);
}
TEST_CASE("no named rule ever ends sooner than the planner: 20,000 larger layers, third part") {
  compare_with_rules(13);
}
TEST_CASE("no named rule ever ends sooner than the planner: 20,000 larger layers, fourth part") {
  compare_with_rules(14);
}
TEST_CASE("no named rule ever ends sooner than the planner: 20,000 larger layers, fifth part") {
  compare_with_rules(15);
}

TEST_CASE("all rules keep to the room that there is") {
  Dice dice(7);
  LayerProblem scratch;
  for (int n = 0; n < 2000; ++n) {
    LayerProblem p = random_problem(&dice, 12, 20, 4);
    for (const std::string_view name : placement_rule_names()) {
      LayerProblem other = p;
      placement_rule(name)(&other, &scratch);
      int taken = 0;
      for (const LayerItem& item : other.items) {
        taken += item.gpu > 0 && item.present == 0 ? 1 : 0;
        REQUIRE(item.gpu >= 0);
        REQUIRE(item.gpu <= p.cost.pieces);
      }
      INFO(name);
      REQUIRE(taken <= p.room);
    }
  }
}

// HybriMoE, arXiv 2504.05897, figure 5: A and B with one token and C with three are absent, E with
// one and D with four are cached; a token takes the CPU 1, an expert the GPU 1, a copy 3, and the
// shared expert keeps the GPU busy until 2.
TEST_CASE("HybriMoE's greedy makes the schedule of the paper's figure 5") {
  LayerProblem p;
  p.cost.cpu_read = 1;
  p.cost.cpu_read_shared = 1;
  p.cost.cpu_token = 1;
  p.cost.gpu_read = 1;
  p.cost.copy = 3;
  p.now.gpu = 2;
  p.room = 8;
  enum Name : size_t { kD, kC, kA, kB, kE };
  p.items = {{4, 1, 0, 0}, {3, 0, 0, 0}, {1, 0, 0, 0}, {1, 0, 0, 0}, {1, 1, 0, 0}};
  LayerProblem scratch;
  place_hybrimoe(&p, &scratch);
  CHECK(p.items[kA].gpu == 0);
  CHECK(p.items[kB].gpu == 0);
  CHECK(p.items[kE].gpu == 0);  // cached, and the idle CPU takes it all the same
  CHECK(p.items[kD].gpu == 1);
  CHECK(p.items[kC].gpu == 1);
  CHECK(planned_end(&p) == 4);
}

TEST_CASE("the planner never fetches what the CPU would finish sooner") {
  LayerProblem p;
  p.cost.cpu_read = 10;
  p.cost.cpu_read_shared = 10;
  p.cost.gpu_read = 5;
  p.cost.copy = 9;  // the copy is shorter than the CPU's work, with the computation it is not
  p.room = 4;
  p.items = {{1, 0, 0, 0}};
  LayerProblem scratch;
  place_exact(&p, &scratch);
  CHECK(p.items[0].gpu == 0);
  place_hybrimoe(&p, &scratch);
  CHECK(p.items[0].gpu == 1);  // the greedy does: its copy ends first
}

TEST_CASE("a CPU that saturates memory gains nothing from a fetch in the same layer") {
  LayerProblem p;
  p.cost.cpu_read = 100;
  p.cost.cpu_read_shared = 160;  // what the link takes, the CPU loses
  p.cost.gpu_read = 10;
  p.cost.copy = 100.0 * 160 / 60;
  p.room = 8;
  p.items.assign(6, {1, 0, 0, 0});
  LayerProblem scratch;
  place_exact(&p, &scratch);
  const double with_fetches = planned_end(&p);
  for (LayerItem& item : p.items) item.gpu = 0;
  CHECK(with_fetches >= planned_end(&p) * 0.999);
}

TEST_CASE("one missing expert is split so that CPU and GPU end together") {
  LayerProblem p;
  p.cost.cpu_read = 100;
  p.cost.cpu_read_shared = 100;
  p.cost.gpu_read = 1;
  p.cost.copy = 100;
  p.cost.pieces = 10;
  p.room = 1;
  p.items = {{1, 0, 0, 0}};
  LayerProblem scratch;
  place_exact(&p, &scratch);
  CHECK(p.items[0].gpu == 5);
  CHECK(planned_end(&p) == Approx(50.5));
  p.may_split = false;
  place_exact(&p, &scratch);
  CHECK(planned_end(&p) == 100);
}

TEST_CASE("planning a layer again allocates nothing") {
  Dice dice(8);
  LayerProblem scratch;
  std::vector<LayerProblem> problems;
  problems.reserve(50);
  for (int n = 0; n < 50; ++n) problems.push_back(random_problem(&dice, 128, 40, 8));
  for (const std::string_view name : placement_rule_names()) {
    for (LayerProblem& p : problems) {
      placement_rule(name)(&p, &scratch);
      layer_end(&p);
    }
    const int64_t before = allocation_count;
    for (LayerProblem& p : problems) {
      placement_rule(name)(&p, &scratch);
      layer_end(&p);
    }
    const int64_t after = allocation_count;  // noting the name allocates
    INFO(name);
    if (kCountsAllocations) CHECK(after == before);
  }
}

TEST_CASE("an unknown rule has no function") {
  CHECK(placement_rule("clever") == nullptr);
  CHECK(placement_rule("exact") == place_exact);
}

}  // namespace tandem::test
