// Rows of the ladder: a Markdown table on stdout as they are measured, raw figures in a CSV file.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/kernels/cases.h"

namespace tandem::bench {

// One entry for each round in every vector.
struct Measured {
  std::vector<double> seconds;    // of a call
  std::vector<double> read_gbps;  // the machine's limits beside it
  std::vector<double> peak_gops;
};

void print_table_head();
void print_row(const Case& c, const Measured& m);

// file: nullptr for none.
void write_csv_head(std::FILE* file, const std::string& command);
void write_csv_row(std::FILE* file, const Case& c, const Measured& m);

double median(std::vector<double> values);

}  // namespace tandem::bench
