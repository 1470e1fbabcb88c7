// libFuzzer target: whatever the bytes, the GGUF reader ends in a FileError or in views that stay
// inside the bytes, and so does loading them as a model. README.md says how to run it.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <variant>

#include "kernels/check.h"
#include "runtime/error.h"
#include "runtime/model/gguf_file.h"
#include "runtime/model/model.h"

namespace tandem {
namespace {

class Prober {
 public:
  explicit Prober(std::span<const std::byte> image) : image_(image) {}

  void probe() {
    const GgufFile file = GgufFile::from_memory(image_, "fuzz");
    for (const auto& [key, value] : file.metadata()) {
      touch_text(key);
      TANDEM_CHECK(file.find(key) == &value, "a key that is not found");
      std::visit([this](const auto& held) { touch(held); }, value);
      call_getters(file, key);
    }
    for (const GgufTensor& tensor : file.tensors()) {
      touch_text(tensor.name);
      touch_range(tensor.data, tensor.size_bytes);
      TANDEM_CHECK(file.find_tensor(tensor.name) == &tensor, "a tensor that is not found");
      file.advise_dont_need(tensor.bytes());
    }
    check_disjoint(file);
  }

  // Separate, since a model owns its file.
  void load() {
    const Model model = Model::load(GgufFile::from_memory(image_, "fuzz"));
    const ModelWeights& w = model.weights();
    touch_matrix(w.embedding);
    touch_matrix(w.output);
    for (const LayerWeights& layer : w.layers) {
      for (const WeightView& view : {layer.wq, layer.wk, layer.wv, layer.wo, layer.router}) {
        touch_matrix(view);
      }
      if (layer.shared) touch_expert(layer.shared->ffn);
      for (const ExpertWeights& expert : layer.experts) touch_expert(expert);
    }
    call([&] { model.check_finite(); });
  }

 private:
  void touch_matrix(const WeightView& view) {
    touch_range(view.data, static_cast<size_t>(view.bytes()));
  }
  void touch_expert(const ExpertWeights& expert) {
    touch_matrix(expert.gate);
    touch_matrix(expert.up);
    touch_matrix(expert.down);
  }
  void touch_range(const std::byte* data, size_t size) {
    TANDEM_CHECK(data >= image_.data() && data + size <= image_.data() + image_.size(),
                 "%zu bytes outside the image", size);
    if (size == 0) return;
    sink_ = data[0];
    sink_ = data[size - 1];
  }
  void touch_text(std::string_view text) {
    touch_range(reinterpret_cast<const std::byte*>(text.data()), text.size());
  }
  void touch(std::string_view text) { touch_text(text); }
  void touch(const GgufArray& array) {
    const auto* strings = std::get_if<std::vector<std::string_view>>(&array.values);
    if (strings == nullptr) return;
    for (const std::string_view text : *strings) touch_text(text);
  }
  template <typename Number>
  void touch(Number) {}

  template <typename Getter>
  void call(const Getter& getter) {
    try {
      getter();
    } catch (const FileError&) {
      ++n_refused_;
    }
  }
  void call_getters(const GgufFile& file, std::string_view key) {
    call([&] { file.get_uint(key); });
    call([&] { file.get_float(key); });
    call([&] { file.get_bool(key); });
    call([&] { file.get_string(key); });
    call([&] { file.get_string_array(key); });
    call([&] { file.get_float_array(key); });
    call([&] { file.get_int_array(key); });
  }

  void check_disjoint(const GgufFile& file) {
    for (const GgufTensor& a : file.tensors()) {
      for (const GgufTensor& b : file.tensors()) {
        TANDEM_CHECK(&a == &b || a.data + a.size_bytes <= b.data || b.data + b.size_bytes <= a.data,
                     "tensors overlap");
      }
    }
  }

  std::span<const std::byte> image_;
  volatile std::byte sink_{};
  size_t n_refused_ = 0;
};

}  // namespace
}  // namespace tandem

// NOLINTNEXTLINE(readability-identifier-naming): the name is libFuzzer's.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A copy of exactly this size, so that the sanitizer sees a read past either end.
  const auto copy = std::make_unique<std::byte[]>(size);
  if (size > 0) std::memcpy(copy.get(), data, size);
  try {
    tandem::Prober prober({copy.get(), size});
    prober.probe();
    prober.load();
  } catch (const tandem::FileError&) {
    return 0;
  }
  return 0;
}
