#include "runtime/model/gguf_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "runtime/error.h"
#include "runtime/model/file_image.h"
#include "runtime/model/gguf_metadata.h"
#include "runtime/model/gguf_parser.h"
#include "runtime/model/gguf_split.h"

namespace tandem {

struct GgufFile::Impl {
  std::string name;
  FileAccess access = FileAccess::kMapped;
  std::vector<FileImage> parts;  // none for memory
  uint64_t file_bytes = 0;
  uint32_t version = 0;  // this and what follows: of the first part
  uint64_t alignment = 0;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;                            // of all parts
  std::unordered_map<std::string_view, size_t> tensor_index;  // name -> place in tensors

  void add_part(GgufImage image, uint32_t part, const std::string& where);
  void add_file(FileImage file, GgufImage image, uint32_t part, const std::string& where);
  void add_split_part(const std::filesystem::path& path, uint32_t part, const SplitKeys& keys);
  void check_tensor_count(const SplitKeys& keys) const;
};

namespace {

void check_same(const std::string& where, const char* key, uint64_t expected, uint64_t got) {
  if (expected != got) {
    fail_key(where, key, fmt::format("{}", expected), fmt::format("{}", got));
  }
}

// The split convention's name for a part, or an error: without it, the others cannot be found.
SplitName checked_split_name(const std::filesystem::path& path, const SplitKeys& keys) {
  const auto name = parse_split_name(path);
  if (!name) {
    throw FileError(path.string(),
                    fmt::format("it is part {0} of {1}; expected a name that ends in "
                                "-{0:05}-of-{1:05}.gguf, so that the other parts can be found",
                                keys.no + 1, keys.count));
  }
  check_same(path.string(), "split.count", name->count, keys.count);
  check_same(path.string(), "split.no", name->part - 1, keys.no);
  return *name;
}

// All that is not data of tensors and stands in front of it: what views of metadata point into.
size_t header_bytes(const FileImage& file, const GgufImage& image) {
  size_t n = file.bytes().size();
  for (const GgufTensor& tensor : image.tensors) {
    n = std::min(n, static_cast<size_t>(tensor.data - file.bytes().data()));
  }
  return n;
}

}  // namespace

// Parts come in order: the first brings the metadata.
void GgufFile::Impl::add_part(GgufImage image, uint32_t part, const std::string& where) {
  for (GgufTensor& tensor : image.tensors) {
    tensor.part = part;
    if (!tensor_index.emplace(tensor.name, tensors.size()).second) {
      throw FileError(where,
                      fmt::format("tensor {} is in an earlier part too", quoted(tensor.name)));
    }
    tensors.push_back(tensor);
  }
  if (part > 0) return;
  version = image.version;
  alignment = image.alignment;
  metadata = std::move(image.metadata);
}

void GgufFile::Impl::add_file(FileImage file, GgufImage image, uint32_t part,
                              const std::string& where) {
  if (access == FileAccess::kRead) file.detach(header_bytes(file, image));
  file_bytes += file.bytes().size();
  parts.push_back(std::move(file));
  add_part(std::move(image), part, where);
}

// `keys` are those of the part that was named: the others must agree.
void GgufFile::Impl::add_split_part(const std::filesystem::path& path, uint32_t part,
                                    const SplitKeys& keys) {
  const std::string where = path.string();
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    throw FileError(where, error ? fmt::format("cannot look for part {} of {}: {}", part + 1,
                                               keys.count, error.message())
                                 : fmt::format("part {} of {} is missing; expected it here",
                                               part + 1, keys.count));
  }
  FileImage file(path);
  GgufImage image = parse_gguf(file.bytes(), where);
  const SplitKeys part_keys = read_split_keys(image.metadata, where);
  check_same(where, "split.count", keys.count, part_keys.count);
  check_same(where, "split.no", part, part_keys.no);
  if (part_keys.n_tensors && keys.n_tensors) {
    check_same(where, "split.tensors.count", *keys.n_tensors, *part_keys.n_tensors);
  }
  add_file(std::move(file), std::move(image), part, where);
}

void GgufFile::Impl::check_tensor_count(const SplitKeys& keys) const {
  const char* key = "split.tensors.count";
  if (!keys.n_tensors) fail_key(name, key, "an integer", "nothing: the key is missing");
  if (*keys.n_tensors != tensors.size()) {
    fail_key(name, key, fmt::format("the {} tensors of the {} parts", tensors.size(), keys.count),
             fmt::format("{}", *keys.n_tensors));
  }
}

GgufFile GgufFile::open(const std::filesystem::path& path, FileAccess access) {
  auto impl = std::make_unique<Impl>();
  impl->name = path.string();
  impl->access = access;
  FileImage named(path);
  GgufImage image = parse_gguf(named.bytes(), impl->name);
  const SplitKeys keys = read_split_keys(image.metadata, impl->name);
  if (keys.count > 1) {
    // The named part is read again in its turn: headers are small.
    const SplitName name = checked_split_name(path, keys);
    for (uint32_t part = 0; part < keys.count; ++part) {
      impl->add_split_part(split_path(path, name, part + 1), part, keys);
    }
    impl->check_tensor_count(keys);
    return GgufFile(std::move(impl));
  }
  const auto name = parse_split_name(path);
  if (name && name->count > 1) {
    throw FileError(impl->name,
                    "its name says that it is one of several parts, but it has no key "
                    "\"split.count\" that agrees");
  }
  impl->add_file(std::move(named), std::move(image), 0, impl->name);
  return GgufFile(std::move(impl));
}

GgufFile GgufFile::from_memory(std::span<const std::byte> bytes, std::string name) {
  auto impl = std::make_unique<Impl>();
  impl->name = std::move(name);
  GgufImage image = parse_gguf(bytes, impl->name);
  const SplitKeys keys = read_split_keys(image.metadata, impl->name);
  if (keys.count > 1) {
    throw FileError(
        impl->name,
        fmt::format("it is one of {} parts; a model in memory must be whole", keys.count));
  }
  impl->file_bytes = bytes.size();
  impl->add_part(std::move(image), 0, impl->name);
  return GgufFile(std::move(impl));
}

GgufFile::GgufFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;
GgufFile::~GgufFile() = default;

const std::string& GgufFile::name() const { return impl_->name; }
uint32_t GgufFile::version() const { return impl_->version; }
uint64_t GgufFile::file_bytes() const { return impl_->file_bytes; }
uint64_t GgufFile::alignment() const { return impl_->alignment; }

uint32_t GgufFile::n_parts() const {
  return impl_->parts.empty() ? 1 : static_cast<uint32_t>(impl_->parts.size());
}

const std::vector<std::pair<std::string_view, GgufValue>>& GgufFile::metadata() const {
  return impl_->metadata.entries;
}

const std::vector<GgufRawValue>& GgufFile::raw_metadata() const { return impl_->metadata.raw; }

const GgufValue* GgufFile::find(std::string_view key) const { return impl_->metadata.find(key); }

const std::vector<GgufTensor>& GgufFile::tensors() const { return impl_->tensors; }

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  const auto it = impl_->tensor_index.find(name);
  return it == impl_->tensor_index.end() ? nullptr : &impl_->tensors[it->second];
}

bool GgufFile::in_memory() const { return impl_->parts.empty(); }

FileAccess GgufFile::access() const { return impl_->access; }

FileImage* GgufFile::part_of(ByteRange range) const {
  for (FileImage& part : impl_->parts) {
    const std::byte* begin = part.bytes().data();
    if (range.data() >= begin && range.data() < begin + part.bytes().size()) return &part;
  }
  return nullptr;
}

void GgufFile::fill(ByteRange range) {
  FileImage* part = part_of(range);
  if (part != nullptr && part->detached()) part->fill(range);
}

const std::byte* GgufFile::bytes_of(ByteRange range, std::vector<std::byte>* scratch) const {
  const FileImage* part = part_of(range);
  if (part == nullptr) return range.data();
  if (scratch->size() < range.size()) scratch->resize(range.size());
  part->read(range, scratch->data());
  return scratch->data();
}

void GgufFile::advise_will_need(ByteRange range) const {
  if (const FileImage* part = part_of(range)) part->will_need(range);
}

void GgufFile::touch(ByteRange range) const {
  if (const FileImage* part = part_of(range)) part->touch(range);
}

void GgufFile::advise_dont_need(ByteRange range) const {
  if (const FileImage* part = part_of(range)) part->advise_dont_need(range);
}

}  // namespace tandem
