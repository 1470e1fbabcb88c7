// Expert tables in a side-car: what is written comes back, and what cannot be is refused by name.
#include "runtime/pregate/tables_file.h"

#include <fmt/format.h>

#include <cmath>
#include <functional>

#include "kernels/quant.h"
#include "runtime/pregate/pregate_file.h"
#include "tests/support/catch.h"
#include "tests/support/file_error.h"

namespace tandem::test {
namespace {

// Three layers of four experts, top 1, two distances; rows of two tokens list two experts.
Pregate with_tables() {
  Pregate p;
  p.model.append("a model");
  p.router_hash.append(64, 'a');
  p.n_layers = 3;
  p.n_experts = 4;
  p.top_k = 1;
  p.d_model = 2;
  p.n_distances = 2;
  ExpertTables t;
  t.n_experts = 4;
  t.top_k = 1;
  t.hot = {{0.1F, 0.2F, 0.3F, 0.4F}, {1, 0, 0, 0}, {0.25F, 0.25F, 0.25F, 0.25F}};
  for (const auto& [source, distance] : {std::pair{0, 1}, {0, 2}, {1, 1}}) {
    PregateLink link;
    link.source = source;
    link.distance = distance;
    link.weight.assign(8, 0x3C00);
    link.bias.assign(4, 0.5F);
    p.links.push_back(link);
    PairLink pair;
    pair.source = source;
    pair.distance = distance;
    for (int i = 0; i < 16; ++i) {
      pair.adds.push_back(f32_to_f16(static_cast<float>(i + 20 * source + 50 * distance)));
    }
    pair.calib_scale = 0.5F + static_cast<float>(distance);
    pair.calib_offset = -1;
    t.pairs.push_back(pair);
  }
  t.tokens.ids = {3, 9};
  t.tokens.experts = {0, 1, 2, 3, 1, 0, 3, 2, 0, 2, 1, 3};
  t.tokens.use = {200, 9, 100, 50, 255, 0, 1, 1, 77, 66, 55, 44};
  p.tables = t;
  return p;
}

std::string fault(const std::string& bytes) {
  return error_of([&] { parse_pregate(std::as_bytes(std::span(bytes)), "f"); });
}

std::string fault_of(const std::function<void(ExpertTables*)>& change) {
  Pregate p = with_tables();
  change(&*p.tables);
  return fault(pregate_bytes(p));
}

std::string fault_in(const std::function<void(SafeTensors*)>& change) {
  const std::string whole = pregate_bytes(with_tables());
  SafeTensors content = parse_safetensors(std::as_bytes(std::span(whole)), "f");
  change(&content);
  return fault(safetensors_bytes(content));
}

}  // namespace

TEST_CASE("expert tables are read as they were written") {
  const std::string bytes = pregate_bytes(with_tables());
  const Pregate back = parse_pregate(std::as_bytes(std::span(bytes)), "f");
  REQUIRE(back.tables);
  const ExpertTables& a = *back.tables;
  const Pregate written = with_tables();
  const ExpertTables& b = *written.tables;
  CHECK(a.n_experts == 4);
  CHECK(a.top_k == 1);
  CHECK(a.hot == b.hot);
  REQUIRE(a.pairs.size() == 3);
  for (size_t i = 0; i < 3; ++i) {
    CHECK(a.pairs[i].source == b.pairs[i].source);
    CHECK(a.pairs[i].distance == b.pairs[i].distance);
    CHECK(a.pairs[i].adds == b.pairs[i].adds);
    CHECK(a.pairs[i].calib_scale == b.pairs[i].calib_scale);
    CHECK(a.pairs[i].calib_offset == b.pairs[i].calib_offset);
  }
  CHECK(a.tokens.ids == b.tokens.ids);
  CHECK(a.tokens.experts == b.tokens.experts);
  CHECK(a.tokens.use == b.tokens.use);
  CHECK(a.pair(1, 1) == &a.pairs[2]);
  CHECK(a.pair(2, 1) == nullptr);
}

TEST_CASE("a table of no token at all is one") {
  Pregate p = with_tables();
  p.tables->tokens = {};
  const std::string bytes = pregate_bytes(p);
  const Pregate back = parse_pregate(std::as_bytes(std::span(bytes)), "f");
  REQUIRE(back.tables);
  CHECK(back.tables->tokens.row(3) == -1);
}

TEST_CASE("a side-car of version 1 has no tables") {
  Pregate p = with_tables();
  p.tables.reset();
  const std::string whole = pregate_bytes(p);
  SafeTensors content = parse_safetensors(std::as_bytes(std::span(whole)), "f");
  content.metadata["version"] = std::string(1, '1');
  const std::string bytes = safetensors_bytes(content);
  CHECK_FALSE(parse_pregate(std::as_bytes(std::span(bytes)), "f").tables);
  CHECK_THAT(fault_in([](SafeTensors* c) { c->metadata["version"] = std::string(1, '1'); }),
             contains("expected 12 tensors, got 24"));
}

TEST_CASE("tables that lack something, or of another shape, are refused by name") {
  CHECK(fault_in([](SafeTensors*) {}) == "no error");
  for (const char* name :
       {"hot.2", "pair.2.d1", "pair.2.d2.calib", "token.ids", "token.experts", "token.use"}) {
    CHECK_THAT(fault_in([&](SafeTensors* c) { c->tensors.erase(name); }),
               contains(fmt::format("there is no tensor {}", name)));
  }
  CHECK_THAT(fault_in([](SafeTensors* c) {
               c->tensors["hot.3"] = {"U8", {0}, {}};
             }),
             contains("expected 24 tensors, got 25"));
  CHECK_THAT(fault_in([](SafeTensors* c) { c->tensors["token.use"].dtype = std::string("I8"); }),
             contains("token.use: expected U8 [2, 3, 2], got I8 [2, 3, 2]"));
  CHECK_THAT(fault_in([](SafeTensors* c) {
               c->tensors["token.experts"].shape = {2, 2, 3};
             }),
             contains("token.experts: expected U16 [2, 3, 2], got U16 [2, 2, 3]"));
  CHECK_THAT(fault_in([](SafeTensors* c) {
               c->tensors["token.ids"].shape = {1, 2};
             }),
             contains("token.ids: expected one dimension of at most 32768"));
  CHECK_THAT(fault_of([](ExpertTables* t) {
               t->tokens.ids.resize(32769);
               t->tokens.experts.resize(6 * 32769);
               t->tokens.use.resize(6 * 32769);
             }),
             contains("token.ids: expected one dimension of at most 32768"));
}

TEST_CASE("tables with numbers that cannot be are refused") {
  CHECK_THAT(fault_of([](ExpertTables* t) { t->hot[1][2] = -0.1F; }),
             contains("hot.1: expected rates from 0 to 1"));
  CHECK_THAT(fault_of([](ExpertTables* t) { t->hot[0][0] = NAN; }),
             contains("hot.0: a number is not finite"));
  CHECK_THAT(fault_of([](ExpertTables* t) { t->pairs[1].adds[7] = 0xFC00; }),
             contains("pair.2.d2: a number is not finite"));
  CHECK_THAT(fault_of([](ExpertTables* t) { t->pairs[0].calib_scale = INFINITY; }),
             contains("pair.1.d1.calib: a number is not finite"));
  CHECK_THAT(fault_of([](ExpertTables* t) {
               t->tokens.ids = {9, 9};
             }),
             contains("token.ids: expected token ids that rise from 0 on, got 9 at 1"));
  CHECK_THAT(fault_of([](ExpertTables* t) { t->tokens.ids[0] = -1; }), contains("got -1 at 0"));
  CHECK_THAT(fault_of([](ExpertTables* t) { t->tokens.experts[5] = 4; }),
             contains("token.experts: expected different experts below 4, got 4 at 5"));
  CHECK_THAT(fault_of([](ExpertTables* t) { t->tokens.experts[3] = 2; }),
             contains("expected different experts below 4, got 2 at 3"));
}

}  // namespace tandem::test
