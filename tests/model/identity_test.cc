// What identifies a model, and what the simulator is told of it. Digests computed with Python's
// hashlib.
#include <cstring>
#include <string>
#include <vector>

#include "runtime/model/router_hash.h"
#include "runtime/model/sha256.h"
#include "runtime/model/shape_of_model.h"
#include "tests/model/gguf_test_util.h"
#include "tests/support/catch.h"
#include "tests/support/tiny_model.h"

namespace tandem::test {
namespace {

// Added in pieces of so many bytes.
std::string digest(const std::string& text, size_t piece) {
  Sha256 hash;
  const auto bytes = std::as_bytes(std::span(text));
  for (size_t at = 0; at < bytes.size(); at += piece) {
    hash.add(bytes.subspan(at, std::min(piece, bytes.size() - at)));
  }
  return hash.hex();
}

struct Known {
  size_t n;  // letters a
  const char* digest;
};

std::string hash_of(const TinyModel& model) {
  const Bytes image = model.file().build();
  return router_hash(Model::load(GgufFile::from_memory(image, "tiny.gguf")));
}

}  // namespace

TEST_CASE("SHA-256 has the published digests, however the bytes come") {
  const std::vector<Known> cases{
      {0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {3, "9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0"},
      {55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318"},
      {56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a"},
      {63, "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34"},
      {64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"},
      {65, "635361c48bb9eab14198e76ea8ab7f1a41685d6ad62aa9146d301d4f17eb0ae0"},
      {119, "31eba51c313a5c08226adf18d4a359cfdfd8d2e816b13f4af952f7ea6584dcfb"},
      {120, "2f3d335432c70b580af0e8e1b3674a7c020d683aa5f73aaaedfdc55af904c21c"},
      {1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"}};
  for (const Known& known : cases) {
    const std::string text(known.n, 'a');
    for (const size_t piece : {1, 7, 64, 100, 1 << 20}) CHECK(digest(text, piece) == known.digest);
  }
  CHECK(digest("abc", 3) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_CASE("a model's hash is that of its routers' shapes and bytes") {
  // Type 0, 2 rows of 8, all 0.5.
  CHECK(hash_of(TinyModel{}) == "2b4d45755ce625e4312161cfd4f31181606688ada4d931d8e56923588c81c757");
  TinyModel other;
  other.values["blk.0.ffn_gate_inp.weight"] = std::vector<float>(16, 0.25F);
  CHECK(hash_of(other) != hash_of(TinyModel{}));
  TinyModel same;
  same.values["blk.0.attn_q.weight"] = std::vector<float>(64, 0.25F);
  CHECK(hash_of(same) == hash_of(TinyModel{}));
}

TEST_CASE("the shape of a model has its file's bytes and weights") {
  const Bytes image = TinyModel{}.file().build();
  const ModelShape shape = shape_of(Model::load(GgufFile::from_memory(image, "tiny.gguf")));
  CHECK(shape.n_layers == 1);
  CHECK(shape.n_experts == 2);
  CHECK(shape.top_k == 1);
  CHECK(shape.expert_bytes == std::vector<int64_t>{3 * 16 * 8 * 4});
  CHECK(shape.expert_params == 3 * 16 * 8);
  CHECK(shape.split_pieces == 1);                              // cut between groups of 16 rows
  CHECK(shape.attention.params == 4 * 8 * 8 + 2 * 8 + 2 * 8);  // matrices, router, norms
  CHECK(shape.attention.bytes == 4 * shape.attention.params);
  CHECK(shape.shared_expert.bytes == 0);
  CHECK(shape.kv_bytes_per_token == 2 * (8 + 8));
  CHECK(shape.attention_width == 8);
  CHECK(shape.other.params == 4 * 8 + 8);  // the embedding as head, and its norm
  CHECK(shape.other.bytes == 4 * shape.other.params);
}

}  // namespace tandem::test
