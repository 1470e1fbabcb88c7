#include "runtime/model/gguf_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <string_view>
#include <unordered_set>

#include "runtime/model/byte_reader.h"

namespace tandem {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF scalars are read as stored");

constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr std::string_view kAlignmentKey = "general.alignment";
constexpr auto kMaxElements = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
constexpr uint64_t kMaxTensorNameBytes = 127;
constexpr uint32_t kMaxDims = 4;
// The smallest entry: an 8-byte length, a one-byte name, one dimension, a type id, an offset.
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

struct Header {
  uint32_t version;
  uint64_t n_tensors;
  uint64_t n_entries;
};

Header read_header(ByteReader& in) {
  const auto magic = in.read_bytes(4, "the magic");
  if (magic != "GGUF") {
    in.fail(
        fmt::format("not a GGUF file: expected it to begin with \"GGUF\", got {}", quoted(magic)));
  }
  const auto version = in.read<uint32_t>("the version");
  // Versions are small: with the low half zero, the bytes are in the other order.
  if (version != 0 && (version & 0xffff) == 0) {
    in.fail("a big-endian GGUF file; expected little-endian");
  }
  if (version != 2 && version != 3) {
    in.fail(fmt::format("GGUF version {} is not supported; expected 2 or 3", version));
  }
  const auto n_tensors = in.read<uint64_t>("the number of tensors");
  const auto n_entries = in.read<uint64_t>("the number of metadata entries");
  return {version, n_tensors, n_entries};
}

uint64_t read_alignment(const GgufMetadata& metadata, const std::string& where) {
  const uint64_t alignment = get_uint(metadata, kAlignmentKey, where).value_or(kDefaultAlignment);
  if (alignment < 8 || alignment > kMaxAlignment || alignment % 8 != 0) {
    fail_key(where, kAlignmentKey, fmt::format("a multiple of 8 from 8 to {}", kMaxAlignment),
             fmt::format("{}", alignment));
  }
  return alignment;
}

// A tensor as its entry describes it; its data is placed when all entries are read.
struct TensorEntry {
  GgufTensor tensor;
  uint64_t offset;  // from the start of the data section
};

// Bytes of the tensor; fails when a dimension or a product does not fit.
uint64_t tensor_bytes(const GgufTensor& tensor, const ByteReader& in, const std::string& what) {
  const GgmlTypeInfo* type = ggml_type_info(tensor.type_id);
  if (type == nullptr) in.fail(fmt::format("{}: unknown ggml type id {}", what, tensor.type_id));
  uint64_t n_elements = 1;
  uint64_t n_bytes = type->block_bytes;
  for (uint32_t i = 0; i < tensor.n_dims; ++i) {
    const uint64_t ne = tensor.ne[i];
    if (ne == 0) in.fail(fmt::format("{}: dimension {} is zero", what, i));
    if (i == 0 && ne % type->block_elems != 0) {
      in.fail(fmt::format("{}: expected a row length that is a multiple of {} ({}), got {}", what,
                          type->block_elems, type->name, ne));
    }
    const uint64_t blocks = i == 0 ? ne / type->block_elems : ne;
    if (__builtin_mul_overflow(n_elements, ne, &n_elements) || n_elements > kMaxElements ||
        __builtin_mul_overflow(n_bytes, blocks, &n_bytes)) {
      in.fail(fmt::format("{}: its size overflows ({} x {} x {} x {} of {})", what, tensor.ne[0],
                          tensor.ne[1], tensor.ne[2], tensor.ne[3], type->name));
    }
  }
  return n_bytes;
}

TensorEntry read_tensor_entry(ByteReader& in, uint64_t i) {
  TensorEntry entry = {};
  GgufTensor& tensor = entry.tensor;
  tensor.name = in.read_string(fmt::format("the name of tensor {}", i));
  if (tensor.name.empty() || tensor.name.size() > kMaxTensorNameBytes) {
    in.fail(fmt::format("tensor {}: expected a name of 1 to {} bytes, got {}", i,
                        kMaxTensorNameBytes, tensor.name.size()));
  }
  const std::string what = fmt::format("tensor {}", quoted(tensor.name));
  tensor.n_dims = in.read<uint32_t>(what);
  if (tensor.n_dims < 1 || tensor.n_dims > kMaxDims) {
    in.fail(fmt::format("{}: expected 1 to {} dimensions, got {}", what, kMaxDims, tensor.n_dims));
  }
  for (uint32_t d = 0; d < tensor.n_dims; ++d) tensor.ne[d] = in.read<uint64_t>(what);
  tensor.type_id = in.read<uint32_t>(what);
  entry.offset = in.read<uint64_t>(what);
  tensor.size_bytes = tensor_bytes(tensor, in, what);
  return entry;
}

std::vector<TensorEntry> read_tensor_entries(ByteReader& in, uint64_t n_tensors) {
  in.need(n_tensors, kMinTensorBytes, "tensors");
  std::vector<TensorEntry> entries;
  std::unordered_set<std::string_view> names;
  for (uint64_t i = 0; i < n_tensors; ++i) {
    entries.push_back(read_tensor_entry(in, i));
    const std::string_view name = entries.back().tensor.name;
    if (!names.insert(name).second) {
      in.fail(fmt::format("tensor {} appears twice", quoted(name)));
    }
  }
  return entries;
}

void check_no_overlap(const std::vector<TensorEntry>& entries, const ByteReader& in) {
  std::vector<size_t> order(entries.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return entries[a].offset < entries[b].offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    const TensorEntry& before = entries[order[i - 1]];
    const TensorEntry& after = entries[order[i]];
    // No overflow: both lie inside the file.
    if (before.offset + before.tensor.size_bytes > after.offset) {
      in.fail(fmt::format("tensors {} (offset {}, {} bytes) and {} (offset {}) overlap",
                          quoted(before.tensor.name), before.offset, before.tensor.size_bytes,
                          quoted(after.tensor.name), after.offset));
    }
  }
}

// Points every tensor at its data. `data_begin` may lie past the end only when there is no tensor:
// padding after the last entry or the last tensor may be missing, tensor bytes may not.
std::vector<GgufTensor> place_tensors(std::vector<TensorEntry>& entries,
                                      std::span<const std::byte> image, uint64_t data_begin,
                                      uint64_t alignment, const ByteReader& in) {
  const uint64_t data_size = image.size() - std::min<uint64_t>(data_begin, image.size());
  for (const TensorEntry& entry : entries) {
    const GgufTensor& tensor = entry.tensor;
    if (entry.offset % alignment != 0) {
      in.fail(fmt::format("tensor {}: expected an offset that is a multiple of {}, got {}",
                          quoted(tensor.name), alignment, entry.offset));
    }
    if (entry.offset > data_size || tensor.size_bytes > data_size - entry.offset) {
      in.fail(fmt::format(
          "tensor {}: expected {} bytes at offset {} of the data, but the file holds {} bytes of "
          "data (truncated?)",
          quoted(tensor.name), tensor.size_bytes, entry.offset, data_size));
    }
  }
  check_no_overlap(entries, in);
  std::vector<GgufTensor> tensors;
  tensors.reserve(entries.size());
  for (TensorEntry& entry : entries) {
    entry.tensor.data = image.data() + data_begin + entry.offset;
    tensors.push_back(entry.tensor);
  }
  return tensors;
}

}  // namespace

GgufImage parse_gguf(std::span<const std::byte> image, const std::string& where) {
  ByteReader in(image, where);
  const Header header = read_header(in);
  GgufImage result;
  result.version = header.version;
  result.metadata = read_metadata(in, header.n_entries);
  result.alignment = read_alignment(result.metadata, where);
  std::vector<TensorEntry> entries = read_tensor_entries(in, header.n_tensors);
  // No overflow: the position is at most the image's size, the alignment at most kMaxAlignment.
  const uint64_t data_begin =
      (in.position() + result.alignment - 1) / result.alignment * result.alignment;
  result.tensors = place_tensors(entries, image, data_begin, result.alignment, in);
  return result;
}

}  // namespace tandem
