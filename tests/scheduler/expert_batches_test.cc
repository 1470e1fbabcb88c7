#include "scheduler/expert_batches.h"

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/counted_new.h"
#include "tests/support/dies.h"

namespace tandem::test {
namespace {

std::vector<int64_t> ids(std::span<const BatchToken> batch) {
  std::vector<int64_t> list;
  for (const BatchToken& token : batch) list.push_back(token.id);
  return list;
}

// Tokens of one letter each, "A" is expert 0; every request has its own text.
void add_all(ExpertBatches* batches, const std::vector<std::string>& requests) {
  int64_t id = 0;
  for (size_t r = 0; r < requests.size(); ++r) {
    for (const char c : requests[r]) {
      REQUIRE(batches->add({static_cast<int32_t>(r), ExpertId{c - 'A'}, id++}));
    }
  }
}

int distinct(std::span<const BatchToken> batch) {
  std::set<int> experts;
  for (const BatchToken& token : batch) experts.insert(token.expert.value);
  return static_cast<int>(experts.size());
}

// The same rule from its words, with nothing kept between batches.
class Reference {
 public:
  explicit Reference(const ExpertBatchLimits& limits) : limits_(limits) {}

  void add(const BatchToken& token) { waiting_.push_back({token, n_batches_}); }

  std::vector<int64_t> next() {
    most_ = std::min(waiting_.size(), static_cast<size_t>(limits_.max_tokens));
    chosen_.clear();
    experts_.clear();
    for (size_t i = 0; i < waiting_.size(); ++i) {
      if (n_batches_ - waiting_[i].arrived == limits_.max_age) choose(i);
    }
    bool free = take(experts_);
    while (free && chosen_.size() < most_) {
      size_t longest = 0;
      int best = -1;
      for (size_t i = 0; i < waiting_.size(); ++i) {  // the oldest first
        std::set<int> more = experts_;
        more.insert(expert(i));
        const size_t length = chosen_.count(i) > 0 ? 0 : takeable(more).size();
        if (length > longest) {
          longest = length;
          best = expert(i);
        }
      }
      experts_.insert(best);
      free = take(experts_);
    }
    for (size_t i = 0; i < waiting_.size() && chosen_.size() < most_; ++i) choose(i);
    std::vector<int64_t> batch;
    std::deque<Item> left;
    for (size_t i = 0; i < waiting_.size(); ++i) {
      if (chosen_.count(i) > 0) {
        batch.push_back(waiting_[i].token.id);
      } else {
        left.push_back(waiting_[i]);
      }
    }
    waiting_ = left;
    ++n_batches_;
    return batch;
  }

 private:
  struct Item {
    BatchToken token;
    int arrived;
  };
  int expert(size_t i) const { return waiting_[i].token.expert.value; }

  void choose(size_t i) {
    chosen_.insert(i);
    experts_.insert(expert(i));
  }

  // Whether all others are in time when this one goes now: the oldest of them in what is left of
  // this batch, then as many as a batch takes, in the order of arrival.
  bool others_in_time(size_t chosen) const {
    size_t room = most_ - chosen_.size() - 1;
    int batch = n_batches_;
    for (size_t i = 0; i < waiting_.size(); ++i) {
      if (i == chosen || chosen_.count(i) > 0) continue;
      for (; room == 0; ++batch) room = static_cast<size_t>(limits_.max_tokens);
      --room;
      if (batch - waiting_[i].arrived > limits_.max_age) return false;
    }
    return true;
  }

  bool take(const std::set<int>& experts) {
    for (const size_t i : takeable(experts)) {
      if (chosen_.size() == most_) return true;
      if (!others_in_time(i)) return false;
      choose(i);
    }
    return true;
  }

  // Tokens with these experts and none before them that stays.
  std::vector<size_t> takeable(const std::set<int>& experts) const {
    std::vector<size_t> list;
    std::set<int> stopped;
    for (size_t i = 0; i < waiting_.size(); ++i) {
      const int request = waiting_[i].token.request;
      if (chosen_.count(i) > 0 || stopped.count(request) > 0) continue;
      if (experts.count(expert(i)) > 0) {
        list.push_back(i);
      } else {
        stopped.insert(request);
      }
    }
    return list;
  }

  ExpertBatchLimits limits_;
  std::deque<Item> waiting_;
  size_t most_ = 0;
  std::set<size_t> chosen_;
  std::set<int> experts_;
  int n_batches_ = 0;
};

struct Pattern {
  std::mt19937 random;
  ExpertBatchLimits limits;
  int favourite = 0;  // of ten tokens

  explicit Pattern(unsigned seed) : random(seed) {
    limits.n_experts = draw(1, 6);
    limits.max_tokens = draw(1, 6);
    limits.max_age = draw(0, 9);
    limits.max_requests = draw(1, 5);
    favourite = draw(0, 2) * 4;
  }
  int draw(int least, int most) { return std::uniform_int_distribution<>(least, most)(random); }
  // In some patterns one queue is nearly always the longest.
  BatchToken token(int64_t id) {
    if (draw(0, 9) < favourite) return {0, ExpertId{0}, id};
    return {draw(0, limits.max_requests - 1), ExpertId{draw(0, limits.n_experts - 1)}, id};
  }
};

}  // namespace

TEST_CASE("a batch is filled from the longest queue, then from the next longest") {
  ExpertBatches batches({4, 4, 100, 8});
  add_all(&batches, {"A", "B", "C", "C", "B", "C", "D"});
  CHECK(ids(batches.next()) == std::vector<int64_t>{1, 2, 3, 5});  // three C, the first B
  CHECK(ids(batches.next()) == std::vector<int64_t>{0, 4, 6});
  CHECK(batches.next().empty());
}

TEST_CASE("a token that needs what the batch has already goes along for nothing") {
  ExpertBatches batches({3, 5, 100, 2});
  add_all(&batches, {"AABAC", "BB"});
  // With two A first, then B: of the first request another B and A follow, of the second two B.
  CHECK(ids(batches.next()) == std::vector<int64_t>{0, 1, 2, 3, 5});
  CHECK(ids(batches.next()) == std::vector<int64_t>{4, 6});
}

TEST_CASE("tokens behind one that has to wait wait as well") {
  ExpertBatches batches({2, 2, 100, 3});
  add_all(&batches, {"BAAAA", "A", "A"});
  CHECK(ids(batches.next()) == std::vector<int64_t>{5, 6});
  CHECK(ids(batches.next()) == std::vector<int64_t>{0, 1});
  CHECK(ids(batches.next()) == std::vector<int64_t>{2, 3});
}

TEST_CASE("a lone expert is not passed by for longer than its age allows") {
  for (const int32_t age : {0, 2, 3, 8}) {
    ExpertBatches batches({2, 2, age, 2});
    REQUIRE(batches.add({0, ExpertId{1}, -1}));
    int64_t id = 0;
    int waited = 0;
    for (;; ++waited) {  // two A for each batch, as far as there is room
      for (int i = 0; i < 2; ++i) batches.add({1, ExpertId{0}, id++});
      if (ids(batches.next()).front() == -1) break;
    }
    CHECK(waited == age);
  }
}

TEST_CASE("tokens that would all be due at once begin to go before") {
  ExpertBatches batches({6, 2, 7, 6});  // room for 8
  add_all(&batches, {"A", "A", "B", "C", "D", "E"});
  int64_t id = 10;
  std::vector<std::vector<int64_t>> all;
  for (int batch = 0; batch < 8; ++batch) {
    all.push_back(ids(batches.next()));
    for (int i = 0; i < 2; ++i) batches.add({0, ExpertId{0}, id++});
  }
  CHECK(all[0] == std::vector<int64_t>{0, 1});
  CHECK(all[5] == std::vector<int64_t>{18, 19});
  CHECK(all[6] == std::vector<int64_t>{2, 3});  // four due at once are too many for one batch
  CHECK(all[7] == std::vector<int64_t>{4, 5});
}

TEST_CASE("with no age a batch is in the order of arrival") {
  ExpertBatches batches({3, 3, 0, 3});
  add_all(&batches, {"A", "BC"});
  CHECK(ids(batches.next()) == std::vector<int64_t>{0, 1, 2});
  CHECK(batches.capacity() == 3);
}

TEST_CASE("batches are those of the rule's own words on small random patterns") {
  for (unsigned seed = 0; seed < 1500; ++seed) {
    Pattern pattern(seed);
    ExpertBatches batches(pattern.limits);
    Reference reference(pattern.limits);
    for (int64_t id = 0; id < 60;) {
      for (int n = pattern.draw(0, 8); n > 0; --n, ++id) {
        const BatchToken token = pattern.token(id);
        if (batches.add(token)) reference.add(token);
      }
      INFO("pattern " << seed << ", token " << id);
      REQUIRE(ids(batches.next()) == reference.next());
    }
  }
}

TEST_CASE("every token comes once, in its request's order, in time, in batches of the limit") {
  for (unsigned seed = 0; seed < 10000; ++seed) {
    Pattern pattern(seed);
    const ExpertBatchLimits& limits = pattern.limits;
    ExpertBatches batches(limits);
    std::map<int64_t, int> arrived;  // that wait
    std::vector<int64_t> last(static_cast<size_t>(limits.max_requests), -1);
    bool good = true;
    int64_t id = 0;
    for (int batch = 0; batch < 30 || !arrived.empty(); ++batch) {
      for (int n = batch < 30 ? pattern.draw(0, 2 * limits.max_tokens) : 0; n > 0; --n, ++id) {
        const bool room =
            arrived.size() < static_cast<size_t>(std::max(
                                 limits.max_tokens, limits.max_tokens * (limits.max_age + 1) / 2));
        good &= batches.add(pattern.token(id)) == room;
        if (room) arrived[id] = batch;
      }
      const auto expected = std::min(arrived.size(), static_cast<size_t>(limits.max_tokens));
      const auto got = batches.next();
      good &= got.size() == expected;
      for (const BatchToken& token : got) {
        const auto at = arrived.find(token.id);
        good &= at != arrived.end() && batch - at->second <= limits.max_age;
        if (at != arrived.end()) arrived.erase(at);
        good &= std::exchange(last[static_cast<size_t>(token.request)], token.id) < token.id;
      }
    }
    INFO("pattern " << seed);
    REQUIRE(good);
  }
}

TEST_CASE("batches need fewer experts than in the order of arrival") {
  Pattern pattern(1);
  const auto experts = [&](int32_t max_age) {
    std::mt19937 random(5);
    ExpertBatches batches({8, 8, max_age, 64});
    int64_t id = 0;
    int sum = 0;
    for (int batch = 0; batch < 400; ++batch) {
      for (int i = 0; i < 8; ++i, ++id) {
        batches.add({static_cast<int32_t>(id % 64), ExpertId{static_cast<int>(random() % 8)}, id});
      }
      // As many come as go, so a backlog stays only where it is made.
      if (batch >= 4) sum += distinct(batches.next());
    }
    return sum / 396.0;
  };
  CHECK(experts(0) > 5);
  CHECK(experts(10) < 3.5);
}

TEST_CASE("batching allocates nothing after it was made") {
  ExpertBatches batches({8, 16, 4, 4});
  Pattern pattern(3);
  const int64_t before = allocation_count.load();
  for (int64_t id = 0; id < 5000; ++id) {
    batches.add({static_cast<int32_t>(id % 4), ExpertId{pattern.draw(0, 7)}, id});
    if (id % 10 == 0) batches.next();
  }
  CHECK(allocation_count == before);
}

TEST_CASE("ids that are none, and limits that are none, are the caller's bug") {
  CHECK(dies([] { ExpertBatches({0, 1, 1, 1}); }, "0 experts"));
  CHECK(dies([] { ExpertBatches({1, 1, -1, 1}); }, "age -1"));
  ExpertBatches batches({2, 2, 2, 2});
  CHECK(dies([&] { batches.add({2, ExpertId{0}, 0}); }, "request 2 of 2"));
  CHECK(dies([&] { batches.add({0, ExpertId{2}, 0}); }, "expert 2 of 2"));
  CHECK(dies([&] { batches.add({0, ExpertId{}, 0}); }, "expert -1 of 2"));
}

}  // namespace tandem::test
