// Reads NumPy files of format 1.0 as numpy.lib.format documents it; float32 matrices only.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace tandem::test {

struct Npy {
  std::string header;
  size_t data_at = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<float> values;  // [rows, cols]
  std::span<const float> row(int64_t i) const {
    return std::span(values).subspan(static_cast<size_t>(i * cols), static_cast<size_t>(cols));
  }
};

inline Npy parse_npy(const std::string& bytes) {
  Npy npy;
  if (bytes.size() < 10 || bytes.compare(0, 8, std::string("\x93NUMPY\x01\x00", 8)) != 0) {
    throw std::runtime_error("no .npy file of format 1.0");
  }
  const size_t length = static_cast<unsigned char>(bytes[8]) |
                        static_cast<size_t>(static_cast<unsigned char>(bytes[9])) << 8;
  npy.header = bytes.substr(10, length);
  npy.data_at = 10 + length;
  long long rows = 0;
  long long cols = 0;
  const char* const shape = std::strstr(npy.header.c_str(), "'shape': (");
  if (shape == nullptr || std::sscanf(shape, "'shape': (%lld, %lld)", &rows, &cols) != 2) {
    throw std::runtime_error("no matrix: " + npy.header);
  }
  npy.rows = rows;
  npy.cols = cols;
  npy.values.resize(static_cast<size_t>(rows * cols));
  if (bytes.size() != npy.data_at + npy.values.size() * sizeof(float)) {
    throw std::runtime_error("the data has another size than the shape");
  }
  std::memcpy(npy.values.data(), bytes.data() + npy.data_at, npy.values.size() * sizeof(float));
  return npy;
}

inline Npy read_npy(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  return parse_npy({std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()});
}

}  // namespace tandem::test
