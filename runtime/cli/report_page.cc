#include "runtime/cli/report_page.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <optional>
#include <utility>

#include "runtime/cli/html.h"
#include "runtime/cli/svg_chart.h"
#include "runtime/cli/version.h"

namespace tandem {
namespace {

// Sizes of caches as the reader gave them, if all are shares, else in GiB.
struct CacheAxis {
  bool shares = true;

  const char* name() const { return shares ? "cache, share of all experts" : "cache, GiB"; }
  ChartPoint point(const std::string& cache, int64_t bytes, double y) const {
    if (shares) return {std::strtod(cache.c_str(), nullptr), y, cache};
    const double gib = static_cast<double>(bytes) / (1 << 30);
    return {gib, y, fmt::format("{:.3g}", gib)};
  }
};

// Series by name, in the order in which they are first wanted.
class SeriesList {
 public:
  void add(const std::string& name, LineStyle style, ChartPoint point) {
    auto at = std::find_if(list_.begin(), list_.end(),
                           [&](const ChartSeries& one) { return one.name == name; });
    if (at == list_.end()) {
      const size_t index = list_.size();
      at = list_.insert(at, ChartSeries{name, index, style, {}});
    }
    // References come once for each policy.
    const bool known = std::any_of(at->points.begin(), at->points.end(),
                                   [&](const ChartPoint& one) { return one.x == point.x; });
    if (!known) at->points.push_back(std::move(point));
  }
  // By x; references behind the others, so that colours do not depend on them.
  std::vector<ChartSeries> take() {
    for (ChartSeries& one : list_) {
      std::stable_sort(one.points.begin(), one.points.end(),
                       [](const ChartPoint& a, const ChartPoint& b) { return a.x < b.x; });
    }
    std::stable_partition(list_.begin(), list_.end(),
                          [](const ChartSeries& one) { return one.style == LineStyle::kPlain; });
    for (size_t i = 0; i < list_.size(); ++i) list_[i].index = i;
    return std::move(list_);
  }

 private:
  std::vector<ChartSeries> list_;
};

// Rows of one policy may differ in what was asked for instead of its own planner or predictor.
std::string series_name(const SimulateRow& row, const std::vector<SimulateRow>& rows) {
  const SchedulingSettings& s = row.settings;
  bool planners = false;
  bool predictors = false;
  for (const SimulateRow& other : rows) {
    if (other.settings.name != s.name) continue;
    planners |= other.settings.planner != s.planner;
    predictors |= other.settings.predictor != s.predictor;
  }
  return s.name + (planners ? ", planner " + s.planner : "") +
         (predictors ? ", predictor " + s.predictor : "");
}

std::string figure(const std::string& caption, const Chart& chart) {
  return fmt::format("<figure><figcaption>{}</figcaption>\n{}</figure>\n", escape_html(caption),
                     chart_svg(chart));
}

// What to draw of a row, and how fast the references are. No number: no chart.
struct Speed {
  std::optional<double> own;
  std::optional<double> clairvoyant;
  std::optional<double> strict;
};

Speed decode_speed(const SimulateRow& row) {
  if (!row.decode) return {};
  return {row.decode->tokens_per_second(), row.clairvoyant_decode_tps, row.bound_decode_tps};
}

Speed prefill_speed(const SimulateRow& row) {
  if (!row.prefill) return {};
  return {row.prefill->tokens_per_second(), row.clairvoyant_prefill_tps, row.bound_prefill_tps};
}

// One chart for each machine, model, trace and length of prompts.
std::string speed_charts(const Report& report, const CacheAxis& axis, const std::string& title,
                         const std::function<Speed(const SimulateRow&)>& speed_of, bool by_prompt) {
  std::vector<std::pair<std::string, SeriesList>> charts;
  for (const SimulateRow& row : report.rows) {
    const Speed speed = speed_of(row);
    if (!speed.own) continue;
    std::string name = fmt::format("{} · {} · {}", row.machine, row.model, row.trace);
    if (by_prompt) name += fmt::format(" · prompts of {} tokens", row.prefill_tokens);
    auto at = std::find_if(charts.begin(), charts.end(),
                           [&](const auto& chart) { return chart.first == name; });
    if (at == charts.end()) at = charts.insert(at, {name, {}});
    const auto add = [&](const std::string& series, LineStyle style, std::optional<double> y) {
      if (y) at->second.add(series, style, axis.point(row.cache, row.cache_bytes, *y));
    };
    add(series_name(row, report.rows), LineStyle::kPlain, speed.own);
    add("clairvoyant: future known", LineStyle::kDashed, speed.clairvoyant);
    add("strict bound: no miss ever", LineStyle::kDotted, speed.strict);
  }
  if (charts.empty()) return {};
  std::string html;
  std::string legend;
  for (auto& [name, list] : charts) {
    Chart chart{fmt::format("{}: {}", title, name), axis.name(), "tokens/s", list.take()};
    if (legend.empty()) legend = legend_html(chart.series);
    html += figure(name, chart);
  }
  return fmt::format("<h2>{}</h2>\n{}<div class=\"grid\">\n{}</div>\n", title, legend, html);
}

std::string hit_charts(const Report& report, const CacheAxis& axis) {
  std::vector<std::pair<std::string, SeriesList>> charts;
  for (const HitRate& rate : report.hit_rates) {
    const std::string name = fmt::format("{} · {}", rate.model, rate.trace);
    auto at = std::find_if(charts.begin(), charts.end(),
                           [&](const auto& chart) { return chart.first == name; });
    if (at == charts.end()) at = charts.insert(at, {name, {}});
    const bool per_layer = rate.policy.find("per layer") != std::string::npos;
    at->second.add(rate.policy,
                   !rate.bound ? LineStyle::kPlain
                   : per_layer ? LineStyle::kDotted
                               : LineStyle::kDashed,
                   axis.point(rate.cache, rate.cache_bytes, 100 * rate.value));
  }
  if (charts.empty()) return {};
  std::string html;
  std::string legend;
  for (auto& [name, list] : charts) {
    Chart chart{"Hit rates: " + name, axis.name(), "hits, %", list.take()};
    if (legend.empty()) legend = legend_html(chart.series);
    html += figure(name, chart);
  }
  return "<h2>Hit rates of eviction policies</h2>\n"
         "<p class=\"note\">The cache alone, in decoding: every miss is fetched and stays, nothing "
         "is prefetched, all start with the same experts. Belady knows the future; while the "
         "experts of one token fit no policy can hit more often. The table's rates differ: there "
         "the planner may leave a miss to the CPU, and the idle link brings experts.</p>\n" +
         legend + "<div class=\"grid\">\n" + html + "</div>\n";
}

std::string timelines(const Report& report) {
  const std::string svg = timeline_svg(report.strips);
  if (svg.empty()) return {};
  return fmt::format(
      "<h2>One token</h2>\n<p class=\"note\">{}: the decoding of one token halfway through what is "
      "measured, not an average. Rules mark where a layer begins. Point at a bar to read what it "
      "is.</p>\n"
      "{}<div class=\"wide\">{}</div>\n",
      escape_html(report.timeline_of), timeline_legend_html(), svg);
}

// Whose guesses the rows' predictors read.
std::string lookaheads(const std::vector<SimulateRow>& rows) {
  std::vector<std::string> names;
  for (const SimulateRow& row : rows) {
    if (row.lookahead && std::find(names.begin(), names.end(), *row.lookahead) == names.end()) {
      names.push_back(*row.lookahead);
    }
  }
  if (names.empty()) return {};
  return fmt::format(
      "<p class=\"note\">Lookahead: {}. An oracle knows the true routing and errs "
      "as often as it is told to; what is recorded was guessed by an engine that "
      "ran.</p>\n",
      escape_html(fmt::format("{}", fmt::join(names, ", "))));
}

std::string table(const std::vector<SimulateRow>& rows) {
  std::string html = "<h2>All rows</h2>\n<div class=\"wide\"><table>\n";
  const SimulateTable table = simulate_table(rows);
  for (size_t r = 0; r < table.cells.size(); ++r) {
    html += "<tr>";
    const char* tag = r == 0 ? "th" : "td";
    for (size_t c = 0; c < table.cells[r].size(); ++c) {
      html += fmt::format("<{0}{1}>{2}</{0}>", tag, table.is_number[c] ? " class=\"n\"" : "",
                          escape_html(table.cells[r][c]));
    }
    html += "</tr>\n";
  }
  return html + "</table></div>\n";
}

}  // namespace

std::string report_page(const Report& report) {
  CacheAxis axis;
  for (const SimulateRow& row : report.rows) axis.shares &= row.cache.back() == '%';
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      // Nothing is loaded and nothing runs, whatever got past the escaping.
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
      "style-src 'unsafe-inline'\">\n<title>tandem simulate</title>\n";
  html += page_style();
  html += fmt::format(
      "</head>\n<body>\n<h1>tandem simulate</h1>\n<p><code>{}</code></p>\n"
      "<p class=\"note\">All times and speeds on this page are modelled, never measured. Seed {}. "
      "{}.</p>\n",
      escape_html(report.command), report.seed, escape_html(version_text()));
  html += lookaheads(report.rows);
  html += speed_charts(report, axis, "Decoding", decode_speed, false);
  html += speed_charts(report, axis, "Reading prompts", prefill_speed, true);
  html += hit_charts(report, axis);
  html += timelines(report);
  html += table(report.rows);
  return html + "</body>\n</html>\n";
}

}  // namespace tandem
