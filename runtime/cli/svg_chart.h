// Small charts as SVG for our pages (html.h has the style): lines over a quantity or, where there
// is only one value of it, bars. Pure functions. Every text that comes in is escaped here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tandem {

struct ChartPoint {
  double x = 0;
  double y = 0;         // not negative
  std::string x_label;  // as the reader knows it: "25%"
};

enum class LineStyle : uint8_t { kPlain, kDashed, kDotted };

struct ChartSeries {
  std::string name;
  size_t index = 0;                     // colour and marker of a plain one
  LineStyle style = LineStyle::kPlain;  // others are references, in grey
  std::vector<ChartPoint> points;       // by x
};

struct Chart {
  std::string name;  // for those who cannot see it
  std::string x_name;
  std::string y_name;
  std::vector<ChartSeries> series;
};

std::string chart_svg(const Chart& chart);
// A list of the series' names with a piece of their lines.
std::string legend_html(const std::vector<ChartSeries>& series);

// The smallest of 1, 2, 5, 10, 20, 50 … (and 0.5, 0.2 …) that reaches `most` in n steps. most > 0.
double tick_step(double most, int n);

}  // namespace tandem
