#include "runtime/cli/svg_timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <string_view>

#include "runtime/cli/html.h"
#include "runtime/cli/svg_chart.h"

namespace tandem {
namespace {

constexpr double kLeft = 44;
constexpr double kRight = 24;
constexpr double kLayerWidth = 26;
constexpr double kLane = 24;
constexpr double kHead = 40;  // name and layers
constexpr double kStrip = kHead + 3 * kLane + 18;
constexpr const char* kLanes[] = {"CPU", "GPU", "link"};

struct Kind {
  std::string_view what;
  int colour;
};
constexpr Kind kKinds[] = {{"attention", 5}, {"shared expert", 2}, {"experts", 0},
                           {"output", 6},    {"fetch", 1},         {"prefetch", 3}};

int colour_of(std::string_view what) {
  for (const Kind& kind : kKinds) {
    if (kind.what == what) return kind.colour;
  }
  return static_cast<int>(kColours) - 1;
}

// From the first to the last thing that CPU or GPU do in the step.
struct Extent {
  double begin = std::numeric_limits<double>::infinity();
  double end = -std::numeric_limits<double>::infinity();
  int32_t n_layers = 0;
  bool empty() const { return end <= begin; }
};

Extent extent_of(const TimelineStrip& strip) {
  Extent extent;
  for (const TimelineSpan& span : strip.timeline.spans) {
    if (span.step != strip.step || span.resource == Resource::kLink) continue;
    extent.begin = std::min(extent.begin, span.begin);
    extent.end = std::max(extent.end, span.end);
    extent.n_layers = std::max(extent.n_layers, span.key.layer.value);  // the output is one more
  }
  return extent;
}

struct Scale {
  double us_per_px = 1;
  double x(double us) const { return kLeft + us / us_per_px; }
};

std::string title_of(const TimelineSpan& span, double begin) {
  std::string what = span.what;
  if (what != "output") what += fmt::format(", layer {}", span.key.layer.value);
  if (span.key.expert.valid()) what += fmt::format(", expert {}", span.key.expert.value);
  return fmt::format("{}: {:.1f} µs, from {:.3f} ms", what, span.end - span.begin,
                     (span.begin - begin) / 1000);
}

std::string bar(const TimelineSpan& span, const Extent& extent, const Scale& scale, double top) {
  const double begin = std::max(span.begin, extent.begin) - extent.begin;
  const double end = std::min(span.end, extent.end) - extent.begin;
  if (end <= begin) return {};
  return fmt::format(
      "<rect x=\"{:.2f}\" y=\"{:.0f}\" width=\"{:.2f}\" height=\"{:.0f}\" class=\"f{}\">"
      "<title>{}</title></rect>\n",
      scale.x(begin), top + kLane * static_cast<double>(span.resource) + 3,
      std::max(0.3, (end - begin) / scale.us_per_px - 0.4), kLane - 6, colour_of(span.what),
      escape_html(title_of(span, extent.begin)));
}

// A rule where each layer begins; numbers where there is room for them.
std::string layers(const TimelineStrip& strip, const Extent& extent, const Scale& scale,
                   double top) {
  constexpr double kRoom = 24;
  std::string svg;
  double free = 0;
  for (const TimelineSpan& span : strip.timeline.spans) {
    if (span.step != strip.step || std::string_view(span.what) != "attention") continue;
    const double x = scale.x(span.begin - extent.begin);
    svg += fmt::format("<path class=\"rule\" d=\"M{0:.2f} {1:.0f}V{2:.0f}\"/>\n", x, top - 4,
                       top + 3 * kLane);
    if (x < free) continue;
    free = x + kRoom;
    svg += fmt::format("<text x=\"{:.2f}\" y=\"{:.0f}\">{}</text>\n", x, top - 7,
                       span.key.layer.value);
  }
  return svg;
}

std::string strip_svg(const TimelineStrip& strip, const Extent& extent, const Scale& scale,
                      double y) {
  const double top = y + kHead;
  std::string svg = fmt::format(
      "<text x=\"0\" y=\"{:.0f}\" class=\"strong\">{}</text>\n", y + 14,
      escape_html(fmt::format("{}: {:.2f} ms", strip.name, (extent.end - extent.begin) / 1000)));
  svg += fmt::format("<text x=\"0\" y=\"{:.0f}\">layer</text>\n", top - 7);
  for (size_t lane = 0; lane < std::size(kLanes); ++lane) {
    svg += fmt::format("<text x=\"0\" y=\"{:.0f}\">{}</text>\n",
                       top + kLane * (static_cast<double>(lane) + 0.5) + 4, kLanes[lane]);
  }
  svg += layers(strip, extent, scale, top);
  for (const TimelineSpan& span : strip.timeline.spans) {
    const bool before = span.step == strip.step - 1 && span.resource == Resource::kLink;
    if (span.step == strip.step || before) svg += bar(span, extent, scale, top);
  }
  return svg;
}

std::string time_axis(double us, const Scale& scale, double y) {
  const double step = tick_step(us, static_cast<int>(us / scale.us_per_px / 80) + 1);
  std::string svg;
  for (double t = 0; t <= us; t += step) {
    svg += fmt::format("<path class=\"rule\" d=\"M{:.2f} {:.0f}v5\"/>\n", scale.x(t), y);
    svg += fmt::format("<text x=\"{:.2f}\" y=\"{:.0f}\" class=\"m\">{:.4g}</text>\n", scale.x(t),
                       y + 18, t / 1000);
  }
  return svg + fmt::format("<text x=\"0\" y=\"{:.0f}\">ms</text>\n", y + 18);
}

}  // namespace

std::string timeline_svg(const std::vector<TimelineStrip>& strips) {
  double us = 0;
  int32_t n_layers = 0;
  std::vector<Extent> extents;
  for (const TimelineStrip& strip : strips) {
    extents.push_back(extent_of(strip));
    if (extents.back().empty()) continue;
    us = std::max(us, extents.back().end - extents.back().begin);
    n_layers = std::max(n_layers, extents.back().n_layers);
  }
  if (us <= 0) return {};
  const double plot = std::clamp(kLayerWidth * n_layers, 860.0, 2400.0);
  const Scale scale{us / plot};
  std::string svg;
  double y = 0;
  for (size_t i = 0; i < strips.size(); ++i) {
    if (extents[i].empty()) continue;
    svg += strip_svg(strips[i], extents[i], scale, y);
    y += kStrip;
  }
  svg += time_axis(us, scale, y - 8);
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
             "width=\"{0:.0f}\" height=\"{1:.0f}\" role=\"img\" "
             "aria-label=\"CPU, GPU and link during one decoded token\">\n",
             kLeft + plot + kRight, y + 20) +
         svg + "</svg>\n";
}

std::string timeline_legend_html() {
  std::string html = "<ul class=\"legend\">\n";
  for (const Kind& kind : kKinds) {
    html += fmt::format(
        "<li><svg xmlns=\"http://www.w3.org/2000/svg\" width=\"14\" height=\"12\" "
        "aria-hidden=\"true\"><rect width=\"14\" height=\"12\" class=\"f{}\"/></svg>{}</li>\n",
        kind.colour, kind.what);
  }
  return html + "</ul>\n";
}

}  // namespace tandem
