#include "runtime/pregate/pregate_file.h"

#include <cmath>
#include <limits>

#include "kernels/quant.h"
#include "runtime/model/router_hash.h"
#include "runtime/pregate/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/file_error.h"

namespace tandem::test {
namespace {

// Three layers of four experts and a width of two, two distances: three links.
Pregate small_pregate() {
  Pregate p;
  p.model.append("a model");
  p.router_hash.append(64, 'a');
  p.n_layers = 3;
  p.n_experts = 4;
  p.top_k = 2;
  p.d_model = 2;
  p.n_distances = 2;
  p.training_tokens = 1234;
  for (const auto& [source, distance] : {std::pair{0, 1}, {0, 2}, {1, 1}}) {
    PregateLink link;
    link.source = source;
    link.distance = distance;
    for (int i = 0; i < 8; ++i) {
      link.weight.push_back(f32_to_f16(static_cast<float>(10 * source + 100 * distance + i)));
    }
    link.bias = {1, 2, 3, static_cast<float>(source)};
    link.calib_scale = 1.5F;
    link.calib_offset = -0.5F;
    link.recall = 0.75F;
    link.reuse_recall = 0.5F;
    p.links.push_back(link);
  }
  return p;
}

std::string fault(const std::string& bytes) {
  return error_of([&] { parse_pregate(std::as_bytes(std::span(bytes)), "f"); });
}

// The file with something changed in it.
template <typename Change>
std::string fault_after(Change change) {
  const std::string whole = pregate_bytes(small_pregate());
  SafeTensors content = parse_safetensors(std::as_bytes(std::span(whole)), "f");
  change(&content);
  return fault(safetensors_bytes(content));
}

}  // namespace

TEST_CASE("a fitted lookahead is read as it was written") {
  const Pregate p = small_pregate();
  const std::string bytes = pregate_bytes(p);
  const Pregate back = parse_pregate(std::as_bytes(std::span(bytes)), "f");
  CHECK(back.model == p.model);
  CHECK(back.router_hash == p.router_hash);
  CHECK(back.n_layers == 3);
  CHECK(back.n_experts == 4);
  CHECK(back.top_k == 2);
  CHECK(back.d_model == 2);
  CHECK(back.n_distances == 2);
  CHECK(back.training_tokens == 1234);
  REQUIRE(back.links.size() == 3);
  for (size_t i = 0; i < 3; ++i) {
    CHECK(back.links[i].source == p.links[i].source);
    CHECK(back.links[i].distance == p.links[i].distance);
    CHECK(back.links[i].weight == p.links[i].weight);
    CHECK(back.links[i].bias == p.links[i].bias);
    CHECK(back.links[i].calib_scale == 1.5F);
    CHECK(back.links[i].calib_offset == -0.5F);
    CHECK(back.links[i].recall == 0.75F);
    CHECK(back.links[i].reuse_recall == 0.5F);
  }
  CHECK(back.link(1, 1) == &back.links[2]);
  CHECK(back.link(1, 2) == nullptr);
}

TEST_CASE("a side-car that lacks something or has too much is refused by name") {
  CHECK(fault_after([](SafeTensors*) {}) == "no error");
  CHECK_THAT(fault_after([](SafeTensors* c) { c->metadata.erase("format"); }),
             contains("expected the key format"));
  CHECK_THAT(fault_after([](SafeTensors* c) { c->metadata["version"] = "3"; }),
             contains("version: expected 2, got \"3\""));
  CHECK_THAT(fault_after([](SafeTensors* c) { c->metadata["kind"] = "mlp"; }),
             contains("kind: expected linear"));
  CHECK_THAT(fault_after([](SafeTensors* c) { c->metadata["tap"] = "nowhere"; }),
             contains("tap: expected router-input"));
  for (const char* number : {"", "0", "-1", "1e3", "3 ", "99999999999999999999", "0x3"}) {
    CHECK_THAT(fault_after([&](SafeTensors* c) { c->metadata["layers"] = number; }),
               contains("layers: expected a whole number"));
  }
  CHECK_THAT(fault_after([](SafeTensors* c) { c->metadata["layers"] = "4"; }),
             contains("there is no tensor pregate.3.d2.weight"));
  CHECK_THAT(fault_after([](SafeTensors* c) { c->metadata["top_k"] = "5"; }),
             contains("top_k: expected a whole number from 1 to 4"));
  CHECK_THAT(fault_after([](SafeTensors* c) { c->metadata["width"] = "3"; }),
             contains("pregate.1.d1.weight: expected F16 [4, 3], got F16 [4, 2]"));
  CHECK_THAT(fault_after([](SafeTensors* c) { c->tensors.erase("pregate.2.d1.bias"); }),
             contains("there is no tensor pregate.2.d1.bias"));
  CHECK_THAT(fault_after([](SafeTensors* c) {
               c->tensors["more"] = {"U8", {0}, {}};
             }),
             contains("expected 12 tensors, got 13"));
  CHECK_THAT(fault_after([](SafeTensors* c) { c->tensors["pregate.2.d1.weight"].dtype = "BF16"; }),
             contains("expected F16 [4, 2], got BF16 [4, 2]"));
}

TEST_CASE("a side-car with numbers that are not finite is refused") {
  Pregate p = small_pregate();
  p.links[1].weight[3] = 0x7C00;
  CHECK_THAT(fault(pregate_bytes(p)), contains("pregate.2.d2.weight: a number is not finite"));
  p = small_pregate();
  p.links[0].bias[0] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THAT(fault(pregate_bytes(p)), contains("pregate.1.d1.bias: a number is not finite"));
  p = small_pregate();
  p.links[0].calib_scale = std::numeric_limits<float>::infinity();
  CHECK_THAT(fault(pregate_bytes(p)), contains("pregate.1.d1.calib: a number is not finite"));
}

TEST_CASE("a side-car of another model is refused") {
  const Model model = Model::load(GgufFile::open(TANDEM_SOURCE_DIR "/demo/hearthside-q8_0.gguf"));
  Pregate p = small_pregate();
  const auto error = [&] { return error_of([&] { check_pregate_fits(p, model, "f"); }); };
  CHECK_THAT(error(), contains("f: it is for another model: layers: expected 6, got 3"));
  p.n_layers = 6;
  p.n_experts = 32;
  p.top_k = 4;
  p.d_model = 256;
  CHECK_THAT(error(), contains("SHA-256 of the routers: expected"));
  p.router_hash = router_hash(model);
  CHECK(error() == "no error");
}

}  // namespace tandem::test
