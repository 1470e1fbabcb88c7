#include "runtime/pregate/tables_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "runtime/error.h"

namespace tandem {
namespace {

constexpr const char* kTokenIds = "token.ids";
constexpr const char* kTokenExperts = "token.experts";
constexpr const char* kTokenUse = "token.use";

std::string hot_name(size_t layer) { return fmt::format("hot.{}", layer); }
std::string pair_name(int32_t target, int32_t distance) {
  return fmt::format("pair.{}.d{}", target, distance);
}
std::string calib_name(int32_t target, int32_t distance) {
  return fmt::format("pair.{}.d{}.calib", target, distance);
}

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

std::vector<float> read_rates(const SafeTensors& content, size_t layer, int64_t n_experts,
                              const std::string& where) {
  const std::string name = hot_name(layer);
  std::vector<float> rates = tensor_values<float>(content, name, "F32", {n_experts}, where);
  for (const float rate : rates) {
    if (rate >= 0 && rate <= 1) continue;
    throw FileError(where,
                    fmt::format("tensor {}: expected rates from 0 to 1, got {}", name, rate));
  }
  return rates;
}

PairLink read_pair(const SafeTensors& content, const Pregate& shape, int32_t source,
                   int32_t distance, const std::string& where) {
  const int32_t target = source + distance;
  PairLink link;
  link.source = source;
  link.distance = distance;
  link.adds = tensor_values<uint16_t>(content, pair_name(target, distance), "F16",
                                      {shape.n_experts, shape.n_experts}, where);
  const std::vector<float> calib =
      tensor_values<float>(content, calib_name(target, distance), "F32", {2}, where);
  link.calib_scale = calib[0];
  link.calib_offset = calib[1];
  return link;
}

void check_ids(const std::vector<int32_t>& ids, const std::string& where) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && (i == 0 || ids[i] > ids[i - 1])) continue;
    throw FileError(where, fmt::format("tensor {}: expected token ids that rise from 0 on, got {} "
                                       "at {}",
                                       kTokenIds, ids[i], i));
  }
}

// Each row of a layer lists different experts of the model.
void check_experts(const std::vector<uint16_t>& experts, size_t listed, int32_t n_experts,
                   const std::string& where) {
  std::vector<size_t> seen_in(static_cast<size_t>(n_experts), 0);
  for (size_t i = 0; i < experts.size(); ++i) {
    const size_t list = i / listed + 1;
    if (experts[i] < n_experts && seen_in[experts[i]] != list) {
      seen_in[experts[i]] = list;
      continue;
    }
    throw FileError(where, fmt::format("tensor {}: expected different experts below {}, got {} at "
                                       "{}",
                                       kTokenExperts, n_experts, experts[i], i));
  }
}

TokenTable read_tokens(const SafeTensors& content, const Pregate& shape, const std::string& where) {
  const auto ids = content.tensors.find(kTokenIds);
  if (ids == content.tensors.end()) {
    throw FileError(where, fmt::format("there is no tensor {}", kTokenIds));
  }
  const int64_t n = ids->second.shape.size() == 1 ? ids->second.shape[0] : -1;
  if (n < 0 || n > TokenTable::kMostTokens) {
    throw FileError(where, fmt::format("tensor {}: expected one dimension of at most {}", kTokenIds,
                                       TokenTable::kMostTokens));
  }
  const int64_t listed = listed_experts(shape.n_experts, shape.top_k);
  const std::vector<int64_t> rows{n, shape.n_layers, listed};
  TokenTable table;
  table.ids = tensor_values<int32_t>(content, kTokenIds, "I32", {n}, where);
  table.experts = tensor_values<uint16_t>(content, kTokenExperts, "U16", rows, where);
  table.use = tensor_values<uint8_t>(content, kTokenUse, "U8", rows, where);
  check_ids(table.ids, where);
  check_experts(table.experts, static_cast<size_t>(listed), shape.n_experts, where);
  return table;
}

}  // namespace

bool has_tables(const SafeTensors& content) {
  return std::any_of(content.tensors.begin(), content.tensors.end(), [](const auto& tensor) {
    const std::string& name = tensor.first;
    return name.starts_with("hot.") || name.starts_with("pair.") || name.starts_with("token.");
  });
}

ExpertTables read_tables(const SafeTensors& content, const Pregate& shape,
                         const std::string& where) {
  ExpertTables tables;
  tables.n_experts = shape.n_experts;
  tables.top_k = shape.top_k;
  for (int32_t layer = 0; layer < shape.n_layers; ++layer) {
    tables.hot.push_back(read_rates(content, static_cast<size_t>(layer), shape.n_experts, where));
  }
  for (int32_t s = 0; s < shape.n_layers; ++s) {
    for (int32_t d = 1; d <= shape.n_distances && s + d < shape.n_layers; ++d) {
      tables.pairs.push_back(read_pair(content, shape, s, d, where));
    }
  }
  tables.tokens = read_tokens(content, shape, where);
  return tables;
}

size_t n_table_tensors(const ExpertTables& tables) {
  return tables.hot.size() + 2 * tables.pairs.size() + 3;
}

TableStorage add_tables(const Pregate& pregate, SafeTensors* content) {
  TableStorage calibs;
  if (!pregate.tables) return calibs;
  const ExpertTables& tables = *pregate.tables;
  const int64_t n_experts = tables.n_experts;
  for (size_t layer = 0; layer < tables.hot.size(); ++layer) {
    content->tensors[hot_name(layer)] = {"F32", {n_experts}, bytes_of(tables.hot[layer])};
  }
  calibs.reserve(tables.pairs.size());
  for (const PairLink& link : tables.pairs) {
    const int32_t target = link.source + link.distance;
    content->tensors[pair_name(target, link.distance)] = {
        "F16", {n_experts, n_experts}, bytes_of(link.adds)};
    calibs.push_back({link.calib_scale, link.calib_offset});
    content->tensors[calib_name(target, link.distance)] = {"F32", {2}, bytes_of(calibs.back())};
  }
  const TokenTable& tokens = tables.tokens;
  const auto n = static_cast<int64_t>(tokens.ids.size());
  const std::vector<int64_t> rows{n, static_cast<int64_t>(tables.hot.size()),
                                  listed_experts(tables.n_experts, tables.top_k)};
  content->tensors[kTokenIds] = {"I32", {n}, bytes_of(tokens.ids)};
  content->tensors[kTokenExperts] = {"U16", rows, bytes_of(tokens.experts)};
  content->tensors[kTokenUse] = {"U8", rows, bytes_of(tokens.use)};
  return calibs;
}

}  // namespace tandem
