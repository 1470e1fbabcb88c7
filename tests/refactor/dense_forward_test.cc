// The dense forward pass against float64, and what a file must have to be read.
#include "runtime/refactor/dense_forward.h"

#include <algorithm>
#include <cmath>

#include "tests/refactor/tiny_dense.h"
#include "tests/support/catch.h"
#include "tests/support/file_error.h"

namespace tandem::test {
namespace {

struct Pass {
  std::vector<std::vector<float>> hidden;  // a layer
  std::vector<float> logits;
};

Pass run(const DenseModel& model, const std::vector<int32_t>& tokens) {
  const auto n = static_cast<int64_t>(tokens.size());
  DenseForward forward(model, n + 3);
  Pass pass;
  const float* rows = forward.run_dense(
      tokens,
      [&](int64_t layer, const float* hidden, int64_t count) {
        CHECK(layer == static_cast<int64_t>(pass.hidden.size()));
        pass.hidden.emplace_back(hidden, hidden + count * model.ff());
      },
      {}, serial_for);
  pass.logits.resize(static_cast<size_t>(n * model.config().n_vocab));
  forward.logits(rows, n, pass.logits.data(), serial_for);
  return pass;
}

double worst_error(const std::vector<float>& got, const Rows& expected) {
  double worst = 0;
  size_t i = 0;
  for (const auto& row : expected) {
    for (const double value : row) worst = std::max(worst, std::abs(got.at(i++) - value));
  }
  CHECK(i == got.size());
  return worst;
}

void agrees(TinyDense tiny) {
  const Bytes image = tiny.file().build();
  const DenseModel model = DenseModel::load(GgufFile::from_memory(image, "tiny.gguf"));
  const std::vector<int32_t> tokens = some_tokens(11, tiny.vocab, 5);
  const Pass pass = run(model, tokens);
  const DenseReference expected = ReferencePass(tiny).run(tokens);
  for (size_t layer = 0; layer < expected.hidden.size(); ++layer) {
    CHECK(worst_error(pass.hidden.at(layer), expected.hidden[layer]) < 2e-5);
  }
  CHECK(worst_error(pass.logits, expected.logits) < 2e-5);
}

TEST_CASE("a dense llama computes what float64 does") {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) agrees({.type = type});
  agrees({.tied = true});
  agrees({.d = 33, .heads = 3, .kv = 1, .head_dim = 10, .ff = 65});
}

TEST_CASE("a dense qwen3 computes what float64 does") {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    agrees({.arch = "qwen3", .type = type});
  }
}

DenseModel load(const GgufBuilder& builder, Bytes* image) {
  *image = builder.build();
  return DenseModel::load(GgufFile::from_memory(*image, "tiny.gguf"));
}

std::string refusal(const GgufBuilder& builder) {
  Bytes image;
  return error_of([&] { load(builder, &image); });
}

TEST_CASE("a model that is not dense, or not of a known family, is refused") {
  TinyDense tiny;
  CHECK(refusal(tiny.file().add_u32("llama.expert_count", 8)) ==
        "tiny.gguf: llama.expert_count is 8; a model to refactor has none");
  tiny.arch = "gemma";
  CHECK(refusal(tiny.file()) ==
        "tiny.gguf: general.architecture is \"gemma\"; a dense model to refactor is llama or "
        "qwen3");
}

TEST_CASE("tensors that nothing is computed with are refused by name") {
  TinyDense tiny;
  CHECK(refusal(tiny.file().add_tensor_f32("blk.0.attn_q.bias", {24}, std::vector<float>(24))) ==
        "tiny.gguf: tensor \"blk.0.attn_q.bias\" is none that a dense model of this family has "
        "here");
}

TEST_CASE("quantised weights are refused by name") {
  TinyDense tiny;
  tiny.tied = true;
  GgufBuilder builder = tiny.file();
  builder.add_tensor("output.weight", static_cast<uint32_t>(DType::kQ8_0), {32, 1}, Bytes(34));
  CHECK(refusal(builder) ==
        "tiny.gguf: tensor output.weight has type q8_0; a model to refactor has f32, f16 or bf16");
}

TEST_CASE("a matrix of another shape is refused by name") {
  TinyDense tiny;
  tiny.tied = true;
  GgufBuilder builder = tiny.file();
  builder.add_tensor_f32("output.weight", {20, 22}, std::vector<float>(440));
  CHECK(refusal(builder) == "tiny.gguf: tensor output.weight is 20 x 22 x 1 x 1; expected 20 x 23");
}

TEST_CASE("a pass that is interrupted gives nothing") {
  TinyDense tiny;
  Bytes image;
  const DenseModel model = load(tiny.file(), &image);
  DenseForward forward(model, 4);
  int asked = 0;
  CHECK(forward.run_dense(
            some_tokens(4, tiny.vocab, 1), [](int64_t, const float*, int64_t) {},
            [&] { return ++asked == 2; }, serial_for) == nullptr);
  CHECK(asked == 2);
}

}  // namespace
}  // namespace tandem::test
