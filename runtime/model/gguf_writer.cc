#include "runtime/model/gguf_writer.h"

#include <fmt/format.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>
#include <utility>

#include "kernels/check.h"
#include "runtime/error.h"
#include "runtime/model/gguf_metadata.h"

namespace tandem {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF scalars are written as they are");

constexpr uint64_t kAlignment = 32;  // of the specification, where no key says another
constexpr uint32_t kVersion = 3;

namespace fs = std::filesystem;

template <typename T>
void put(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void put_text(std::string* out, std::string_view text) {
  put(out, uint64_t{text.size()});
  out->append(text);
}

uint64_t padding(uint64_t position) { return (kAlignment - position % kAlignment) % kAlignment; }

// A file under a name of its own, removed unless it was renamed.
class PartFile {
 public:
  explicit PartFile(const fs::path& path)
      : path_(path), part_(fmt::format("{}.{}.part", path.string(), getpid())) {
    errno = 0;
    out_.open(part_, std::ios::binary | std::ios::trunc);
    check();
  }
  ~PartFile() {
    out_.close();
    std::error_code ignored;
    if (!done_) fs::remove(part_, ignored);
  }
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  void write(std::string_view bytes) {
    out_.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    check();
  }
  void rename() {
    out_.close();
    check();
    std::error_code error;
    fs::rename(part_, path_, error);
    if (error) throw FileError(path_.string(), "cannot be written: " + error.message());
    done_ = true;
  }

 private:
  void check() {
    if (out_) return;
    const int code = errno != 0 ? errno : EIO;
    throw FileError(path_.string(), fmt::format("cannot be written: {}", std::strerror(code)));
  }

  fs::path path_;
  fs::path part_;
  std::ofstream out_;
  bool done_ = false;
};

}  // namespace

void GgufWriter::add_u32(std::string_view key, uint32_t value) {
  std::string payload;
  put(&payload, value);
  add_raw(key, {static_cast<uint32_t>(GgufType::kUint32), std::as_bytes(std::span(payload))});
}

void GgufWriter::add_string(std::string_view key, std::string_view value) {
  std::string payload;
  put_text(&payload, value);
  add_raw(key, {static_cast<uint32_t>(GgufType::kString), std::as_bytes(std::span(payload))});
}

void GgufWriter::add_raw(std::string_view key, const GgufRawValue& value) {
  TANDEM_CHECK(key != "general.alignment" && !key.starts_with("split."), "key %.*s",
               static_cast<int>(key.size()), key.data());
  put_text(&metadata_, key);
  put(&metadata_, value.type);
  metadata_.append(reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size());
  ++n_entries_;
}

void GgufWriter::add_tensor(std::string_view name, uint32_t type_id, std::vector<uint64_t> ne,
                            Source source) {
  const GgmlTypeInfo* type = ggml_type_info(type_id);
  TANDEM_CHECK(type != nullptr && !ne.empty() && ne[0] % type->block_elems == 0, "type %u",
               type_id);
  uint64_t bytes = ne[0] / type->block_elems * type->block_bytes;
  for (size_t i = 1; i < ne.size(); ++i) bytes *= ne[i];
  TANDEM_CHECK(bytes > 0, "an empty tensor");
  tensors_.push_back({std::string(name), type_id, std::move(ne), bytes, std::move(source)});
}

int64_t GgufWriter::tensor_bytes() const {
  uint64_t bytes = 0;
  for (const Tensor& tensor : tensors_) bytes += tensor.size_bytes;
  return static_cast<int64_t>(bytes);
}

std::string GgufWriter::header() const {
  std::string out = "GGUF";
  put(&out, kVersion);
  put(&out, uint64_t{tensors_.size()});
  put(&out, n_entries_);
  out += metadata_;
  uint64_t offset = 0;
  for (const Tensor& tensor : tensors_) {
    put_text(&out, tensor.name);
    put(&out, static_cast<uint32_t>(tensor.ne.size()));
    for (const uint64_t ne : tensor.ne) put(&out, ne);
    put(&out, tensor.type_id);
    put(&out, offset);
    offset += tensor.size_bytes + padding(tensor.size_bytes);
  }
  return out;
}

bool GgufWriter::write(const fs::path& path, const Hooks& hooks) const {
  constexpr const char kZeros[kAlignment] = {};
  const std::string head = header();
  PartFile file(path);
  file.write(head);
  file.write({kZeros, padding(head.size())});
  int64_t done = 0;
  for (const Tensor& tensor : tensors_) {
    if (hooks.interrupted && hooks.interrupted()) return false;
    uint64_t written = 0;
    tensor.source([&](std::span<const std::byte> bytes) {
      file.write({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
      written += bytes.size();
    });
    TANDEM_CHECK(written == tensor.size_bytes, "%s: %llu bytes of %llu", tensor.name.c_str(),
                 static_cast<unsigned long long>(written),
                 static_cast<unsigned long long>(tensor.size_bytes));
    file.write({kZeros, padding(written)});
    done += static_cast<int64_t>(written);
    if (hooks.progress) hooks.progress(done, tensor_bytes());
  }
  file.rename();
  return true;
}

}  // namespace tandem
