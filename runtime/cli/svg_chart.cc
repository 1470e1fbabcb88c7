#include "runtime/cli/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "runtime/cli/html.h"

namespace tandem {
namespace {

constexpr double kWidth = 400;
constexpr double kLeft = 46;
constexpr double kRight = 14;
constexpr double kTop = 26;
constexpr double kBottom = 40;
constexpr double kPlotHeight = 200;

// A generous width of 12 px text.
double text_width(const std::string& text) { return 7.2 * static_cast<double>(text.size()); }

std::string stroke(const ChartSeries& series) {
  if (series.style == LineStyle::kDashed) return "ref dash";
  if (series.style == LineStyle::kDotted) return "ref fine";
  return fmt::format("c{}", series.index % kColours);
}

std::string number(double value) { return fmt::format("{:.4g}", value); }

// Shapes differ as well as colours.
std::string marker(const ChartSeries& series, double x, double y, const std::string& title) {
  const std::string end =
      title.empty() ? "/>" : fmt::format("><title>{}</title></path>", escape_html(title));
  if (series.style != LineStyle::kPlain) {
    // Nothing to see, but something to point at.
    return fmt::format(
        "<path fill=\"none\" pointer-events=\"all\" d=\"M{:.1f} {:.1f}h12v12h-12z\"{}", x - 6,
        y - 6, end);
  }
  constexpr const char* kShapes[] = {"m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
                                     "m-3.5 -3.5h7v7h-7z",
                                     "m0 -4.5l4.5 8h-9z",
                                     "m0 -5l5 5l-5 5l-5 -5z",
                                     "m0 4.5l4.5 -8h-9z",
                                     "m-4.5 -1.5h9v3h-9z"};
  return fmt::format("<path class=\"dot {0} f{1}\" d=\"M{2:.1f} {3:.1f}{4}\"{5}", stroke(series),
                     series.index % kColours, x, y, kShapes[series.index % std::size(kShapes)],
                     end);
}

std::string open_svg(const Chart& chart, double height) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
      "width=\"{0:.0f}\" height=\"{1:.0f}\" role=\"img\" aria-label=\"{2}\">\n",
      kWidth, height, escape_html(chart.name));
}

std::string text(double x, double y, const char* style, const std::string& what) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"{}\">{}</text>\n", x, y, style,
                     escape_html(what));
}

std::string line(double x0, double y0, double x1, double y1) {
  return fmt::format("<path class=\"rule\" d=\"M{:.1f} {:.1f}L{:.1f} {:.1f}\"/>\n", x0, y0, x1, y1);
}

double largest_y(const ChartSeries& series) {
  double most = 0;
  for (const ChartPoint& point : series.points) most = std::max(most, point.y);
  return most;
}

// A reference far above everything else would press the lines that matter together.
bool off_scale(const ChartSeries& series, const Chart& chart) {
  constexpr double kFar = 2.5;
  double plain = 0;
  for (const ChartSeries& one : chart.series) {
    if (one.style == LineStyle::kPlain) plain = std::max(plain, largest_y(one));
  }
  return series.style != LineStyle::kPlain && plain > 0 && largest_y(series) > kFar * plain;
}

double largest_y(const Chart& chart) {
  double most = 0;
  for (const ChartSeries& series : chart.series) {
    if (!off_scale(series, chart)) most = std::max(most, largest_y(series));
  }
  return most > 0 ? most : 1;
}

std::string off_scale_note(const ChartSeries& series) {
  double least = largest_y(series);
  for (const ChartPoint& point : series.points) least = std::min(least, point.y);
  const std::string from = number(least);
  const std::string to = number(largest_y(series));
  return fmt::format("{} at {}{} ↑", series.name, from, from == to ? "" : " to " + to);
}

double x_at(double share) {
  constexpr double kInset = 12;  // so that no point lies on the axis
  return kLeft + kInset + share * (kWidth - kRight - kLeft - 2 * kInset);
}

// Where the sizes that occur are marked: those whose labels do not run into one another.
std::string x_axis(const Chart& chart, double least, double most) {
  std::vector<ChartPoint> marks;
  for (const ChartSeries& series : chart.series) {
    marks.insert(marks.end(), series.points.begin(), series.points.end());
  }
  std::stable_sort(marks.begin(), marks.end(),
                   [](const ChartPoint& a, const ChartPoint& b) { return a.x < b.x; });
  std::string svg;
  double free = -std::numeric_limits<double>::infinity();
  for (const ChartPoint& mark : marks) {
    const double x = x_at((mark.x - least) / (most - least));
    const double half = text_width(mark.x_label) / 2;
    if (x - half < free) continue;
    free = x + half + 6;
    svg += line(x, kTop + kPlotHeight, x, kTop + kPlotHeight + 4);
    svg += text(std::min(x, kWidth - half), kTop + kPlotHeight + 17, "m", mark.x_label);
  }
  return svg + text((kLeft + kWidth - kRight) / 2, kTop + kPlotHeight + 35, "m", chart.x_name);
}

std::string lines_svg(const Chart& chart, double least, double most) {
  const double step = tick_step(largest_y(chart), 7);
  const double top = step * std::ceil(largest_y(chart) / step - 1e-9);
  const auto y_at = [&](double y) { return kTop + kPlotHeight * (1 - y / top); };
  std::string svg = open_svg(chart, kTop + kPlotHeight + kBottom);
  for (double y = 0; y < top + step / 2; y += step) {
    svg += line(kLeft, y_at(y), kWidth - kRight, y_at(y));
    svg += text(kLeft - 6, y_at(y) + 4, "e", number(y));
  }
  svg += text(0, 12, "", chart.y_name) + x_axis(chart, least, most);
  std::string markers;  // above all lines
  double note_y = kTop - 5;
  for (const ChartSeries& series : chart.series) {
    if (off_scale(series, chart)) {
      svg += text(kWidth - kRight, note_y += 15, "e", off_scale_note(series));
      continue;
    }
    std::string path;
    for (const ChartPoint& point : series.points) {
      const double x = x_at((point.x - least) / (most - least));
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x, y_at(point.y));
      markers += marker(series, x, y_at(point.y),
                        fmt::format("{}, {}: {} {}", series.name, point.x_label, number(point.y),
                                    chart.y_name)) +
                 "\n";
    }
    if (series.points.size() > 1) {
      svg += fmt::format("<path class=\"line {}\" d=\"{}\"/>\n", stroke(series), path);
    }
  }
  return svg + markers + "</svg>\n";
}

// One value of x: a bar for each series, its name above it.
std::string bars_svg(const Chart& chart) {
  constexpr double kRow = 34;
  constexpr double kBar = 12;
  constexpr size_t kNameLength = 50;
  size_t n = 0;
  for (const ChartSeries& series : chart.series) n += series.points.size();
  std::string svg = open_svg(chart, kRow * static_cast<double>(n) + 24);
  double y = 0;
  std::string at;
  for (const ChartSeries& series : chart.series) {
    for (const ChartPoint& point : series.points) {
      at = point.x_label;
      const double width = std::clamp((kWidth - 60) * point.y / largest_y(chart), 1.0, kWidth - 60);
      svg += text(0, y + 12, "", clip_text(series.name, kNameLength));
      svg += fmt::format(
          "<rect x=\"0.5\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.0f}\" "
          "class=\"{}\"><title>{}</title></rect>\n",
          y + 16.5, width, kBar,
          series.style == LineStyle::kPlain ? fmt::format("f{}", series.index % kColours)
                                            : fmt::format("f{}", stroke(series)),
          escape_html(series.name));
      svg += text(width + 6, y + 27, "strong",
                  number(point.y) + (off_scale(series, chart) ? " ↑" : ""));
      y += kRow;
    }
  }
  return svg + text(0, y + 14, "", fmt::format("{}; {}: {}", chart.y_name, chart.x_name, at)) +
         "</svg>\n";
}

}  // namespace

double tick_step(double most, int n) {
  const double least = most / n;
  const double power = std::pow(10, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= least * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

std::string chart_svg(const Chart& chart) {
  double least = std::numeric_limits<double>::infinity();
  double most = -least;
  for (const ChartSeries& series : chart.series) {
    for (const ChartPoint& point : series.points) {
      least = std::min(least, point.x);
      most = std::max(most, point.x);
    }
  }
  return least < most ? lines_svg(chart, least, most) : bars_svg(chart);
}

std::string legend_html(const std::vector<ChartSeries>& series) {
  std::string html = "<ul class=\"legend\">\n";
  for (const ChartSeries& one : series) {
    html += fmt::format(
        "<li><svg xmlns=\"http://www.w3.org/2000/svg\" width=\"30\" height=\"12\" "
        "aria-hidden=\"true\"><path class=\"line {}\" d=\"M0 6h30\"/>{}</svg>{}</li>\n",
        stroke(one), one.style == LineStyle::kPlain ? marker(one, 15, 6, "") : "",
        escape_html(one.name));
  }
  return html + "</ul>\n";
}

}  // namespace tandem
