#include "runtime/pregate/decoupled_file.h"

#include <cmath>
#include <fstream>
#include <limits>

#include "runtime/pregate/pregate_file.h"
#include "runtime/pregate/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/decoupled_reference.h"
#include "tests/support/file_error.h"
#include "tests/support/temp_dir.h"

namespace tandem::test {
namespace {

DecoupledRouter small_router() {
  DecoupledShape shape;
  shape.n_vocab = 5;
  shape.width = 4;
  shape.n_heads = 2;
  shape.n_blocks = 2;
  shape.ff = 3;
  shape.n_experts = 6;
  shape.top_k = 2;
  shape.n_layers = 7;
  shape.rope_base = 1234.5F;
  shape.attention_scale = 0.1F;
  shape.window = 11;
  DecoupledRouter router = made_up_router(shape, 1);
  router.model.append("a model");
  router.training_tokens = 4321;
  router.validation_accuracy = 0.7F;
  return router;
}

std::string fault(const std::string& bytes) {
  return error_of([&] { parse_decoupled(std::as_bytes(std::span(bytes)), "f"); });
}

// The file with something changed in it.
template <typename Change>
std::string fault_after(Change change) {
  const std::string whole = decoupled_bytes(small_router());
  SafeTensors content = parse_safetensors(std::as_bytes(std::span(whole)), "f");
  change(&content);
  return fault(safetensors_bytes(content));
}

std::string fault_with(const char* key, const char* value) {
  return fault_after([&](SafeTensors* c) { c->metadata[key] = value; });
}

std::string linear_bytes() {
  Pregate p;
  p.n_layers = 1;
  p.n_experts = 1;
  p.top_k = 1;
  p.d_model = 1;
  p.n_distances = 1;
  return pregate_bytes(p);
}

}  // namespace

TEST_CASE("a decoupled router is read as it was written, to the bit") {
  const DecoupledRouter router = small_router();
  const TempDir dir;
  const std::string path = dir / "r.safetensors";
  std::ofstream(path, std::ios::binary) << decoupled_bytes(router);
  const DecoupledRouter back = read_decoupled(path);
  CHECK(back.shape == router.shape);
  CHECK(back.model == "a model");
  CHECK(back.training_tokens == 4321);
  CHECK(back.validation_accuracy == 0.7F);
  CHECK(decoupled_hash(back) == decoupled_hash(router));
  CHECK(back.embed == router.embed);
  CHECK(back.blocks[1].w2 == router.blocks[1].w2);
  CHECK(back.out == router.out);
  CHECK(decoupled_bytes(back) == decoupled_bytes(router));
}

TEST_CASE("the tensors of a decoupled router have these names") {
  const std::string whole = decoupled_bytes(small_router());
  const SafeTensors content = parse_safetensors(std::as_bytes(std::span(whole)), "f");
  const auto shape = [&](const char* name) { return content.tensors.at(name).shape; };
  CHECK(content.tensors.size() == 29);
  CHECK(shape("router.embed") == std::vector<int64_t>{5, 4});
  CHECK(shape("router.blk.1.wq") == std::vector<int64_t>{4, 4});
  CHECK(shape("router.blk.1.w1") == std::vector<int64_t>{3, 4});
  CHECK(shape("router.blk.0.w2") == std::vector<int64_t>{4, 3});
  CHECK(shape("router.norm") == std::vector<int64_t>{4});
  CHECK(shape("router.out") == std::vector<int64_t>{6, 4});
  CHECK(content.metadata.at("scope") == "shared-all-layers");
}

TEST_CASE("a decoupled router's file that lacks something or has too much is refused by name") {
  CHECK(fault_after([](SafeTensors*) {}) == "no error");
  CHECK(fault_after([](SafeTensors* c) { c->metadata.erase("scope"); }) ==
        "f: __metadata__: expected the key scope");
  CHECK(fault_with("scope", "per-layer") ==
        "f: __metadata__: scope: expected shared-all-layers, got \"per-layer\"");
  CHECK(fault_with("version", "3") == "f: __metadata__: version: expected 2, got \"3\"");
  CHECK(fault_with("format", "x") == "f: __metadata__: format: expected tandem-pregate, got \"x\"");
  for (const char* number : {"", "0", "-1", "1e3", "3 ", "99999999999999999999", "2147483648"}) {
    CHECK_THAT(fault_with("width", number), contains("width: expected a whole number from 1 to"));
  }
  for (const char* number : {"", "nan", "inf", "1e99", "0x1", "1 ", "1,5"}) {
    CHECK_THAT(fault_with("rope_base", number), contains("rope_base: expected a number, got"));
  }
  CHECK_THAT(fault_with("window", "-1"), contains("window: expected a whole number from 0 to"));
  CHECK(fault_with("window", "2000000000") ==
        "f: __metadata__: window: expected 0 to 16777216, got 2000000000");
  CHECK(fault_with("vocab", "2000000000") ==
        "f: __metadata__: vocab: expected 1 to 16777216, got 2000000000");
  CHECK(fault_with("heads", "3") == "f: __metadata__: heads: expected 1 to 2, got 3");
  CHECK(fault_with("attention_scale", "-1") ==
        "f: __metadata__: attention_scale: expected more than 0 and at most 1000000, got -1");
  CHECK(fault_with("top_k", "7") == "f: __metadata__: top_k: expected 1 to 6, got 7");
  CHECK(fault_with("validation_accuracy", "1.5") ==
        "f: __metadata__: validation_accuracy: expected 0 to 1, got 1.5");
  CHECK(fault_with("vocab", "6") == "f: tensor router.embed: expected F32 [6, 4], got F32 [5, 4]");
  CHECK(fault_with("blocks", "3") == "f: there is no tensor router.blk.2.attn_norm");
  CHECK(fault_with("blocks", "1") == "f: expected 16 tensors, got 29");
  CHECK(fault_after([](SafeTensors* c) { c->tensors.erase("router.norm"); }) ==
        "f: there is no tensor router.norm");
  CHECK(fault_after([](SafeTensors* c) { c->tensors["router.norm"].dtype = "I32"; }) ==
        "f: tensor router.norm: expected F32 [4], got I32 [4]");
}

TEST_CASE("a decoupled router with numbers that are not finite is refused") {
  size_t n_tensors = 0;
  const DecoupledRouter whole = small_router();
  for_each_decoupled_tensor(whole, [&](const auto&, const auto&, const auto&) { ++n_tensors; });
  for (size_t damaged = 0; damaged < n_tensors; ++damaged) {
    DecoupledRouter router = whole;
    std::string expected;
    size_t i = 0;
    for_each_decoupled_tensor(router, [&](const std::string& name, const auto&, auto& values) {
      if (i++ != damaged) return;
      values.back() = damaged % 2 == 0 ? std::numeric_limits<float>::quiet_NaN()
                                       : -std::numeric_limits<float>::infinity();
      expected.append("f: tensor ").append(name).append(": a number is not finite");
    });
    CHECK(fault(decoupled_bytes(router)) == expected);
  }
}

TEST_CASE("kinds of side-cars are told apart, and readers refuse each other's") {
  const std::string decoupled = decoupled_bytes(small_router());
  const std::string linear = linear_bytes();
  const auto kind = [](const std::string& bytes) {
    return pregate_kind(std::as_bytes(std::span(bytes)), "f");
  };
  CHECK(kind(decoupled) == kDecoupledKind);
  CHECK(kind(linear) == kLinearKind);
  CHECK(fault(linear) ==
        "f: __metadata__: kind: expected decoupled-transformer (the router of a refactored model), "
        "got linear (a fitted lookahead)");
  CHECK(error_of([&] { parse_pregate(std::as_bytes(std::span(decoupled)), "f"); }) ==
        "f: __metadata__: kind: expected linear (a fitted lookahead), "
        "got decoupled-transformer (the router of a refactored model)");
  SafeTensors content = parse_safetensors(std::as_bytes(std::span(linear)), "f");
  content.metadata["kind"] = "mlp";
  const std::string other = safetensors_bytes(content);
  CHECK(error_of([&] { kind(other); }) ==
        "f: __metadata__: kind: expected linear or decoupled-transformer, got \"mlp\"");
}

TEST_CASE("a decoupled router's file that is cut anywhere is refused") {
  const std::string whole = decoupled_bytes(small_router());
  for (size_t n = 0; n < whole.size(); n += 7) {
    CHECK_THAT(fault(whole.substr(0, n)), contains("f: "));
  }
}

}  // namespace tandem::test
