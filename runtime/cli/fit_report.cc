#include "runtime/cli/fit_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "runtime/cli/text_io.h"
#include "runtime/words.h"

namespace tandem {
namespace {

// Of the token table, over the layers from this one on: those that have so many before them.
double token_recall(const FitResult& result, int32_t first) {
  double sum = 0;
  for (int32_t l = first; l < result.pregate.n_layers; ++l) {
    sum += result.token_scores[static_cast<size_t>(l)].recall;
  }
  return sum / (result.pregate.n_layers - first);
}

// Means over source layers, by distance.
std::map<int32_t, LinkScore> by_distance(const FitResult& result) {
  std::map<int32_t, LinkScore> means;
  for (const LinkScore& s : result.scores) {
    LinkScore& mean = means[s.distance];
    const double links = result.pregate.n_layers - s.distance;  // with a layer so far ahead
    mean.fitted += s.fitted / links;
    mean.gate_reuse += s.gate_reuse / links;
    mean.previous_token += s.previous_token / links;
    mean.hot_list += s.hot_list / links;
    mean.pair_table += s.pair_table / links;
    mean.brier += s.brier / links;
  }
  return means;
}

nlohmann::ordered_json ridge_json(double ridge) {
  return std::isinf(ridge) ? nlohmann::ordered_json("none") : nlohmann::ordered_json(ridge);
}

// A guess that refinement has not made better is as it was.
std::string refined_text(const FitReport& report) {
  if (!report.result.refines) return "no guess: its router's selection has a bias";
  const std::vector<LinkScore>& all = report.result.scores;
  const auto refined = std::count_if(all.begin(), all.end(), [](auto& s) { return s.epochs > 0; });
  return fmt::format("{} of {} guesses, {} epochs at most", refined, all.size(), report.epochs);
}

nlohmann::ordered_json token_table_json(const FitResult& result) {
  auto layers = nlohmann::ordered_json::array();
  for (const TokenTableScore& s : result.token_scores) {
    layers.push_back({{"layer", layers.size()}, {"recall", s.recall}, {"brier", s.brier}});
  }
  return {{"ids", result.pregate.tables->tokens.ids.size()},
          {"known", result.known_tokens},
          {"layers", std::move(layers)}};
}

// Of what is known before the first layer, in the columns of report_fit().
std::string distance_zero(const FitResult& result) {
  return fmt::format("  {:<13} {:>6}  {:>10}  {:>14}  {:>8}  {:>6}  {:>10}  {:>11.3f}\n", 0, "-",
                     "-", "-", "-", "-", "-", token_recall(result, 0));
}

}  // namespace

nlohmann::ordered_json fit_json(const FitReport& report) {
  const FitResult& result = report.result;
  auto links = nlohmann::ordered_json::array();
  for (const LinkScore& s : result.scores) {
    links.push_back({{"layer", s.source + s.distance},
                     {"distance", s.distance},
                     {"fitted", s.fitted},
                     {"gate_reuse", s.gate_reuse},
                     {"previous_token", s.previous_token},
                     {"hot_list", s.hot_list},
                     {"brier", s.brier},
                     {"ridge", ridge_json(s.ridge)},
                     {"epochs", s.epochs},
                     {"pair_table", s.pair_table},
                     {"pair_brier", s.pair_brier}});
  }
  return {{"file", report.file},
          {"bytes", report.file_bytes},
          {"threads", report.threads},
          {"thread_bytes", report.thread_bytes},
          {"training_tokens", result.training_tokens},
          {"validation_tokens", result.validation_tokens},
          {"test_tokens", result.test_tokens},
          {"recall", links},
          {"token_table", token_table_json(result)}};
}

std::string fit_text(const FitReport& report) {
  const FitResult& result = report.result;
  std::string text = fmt::format("  threads       {}, {} each at most\n", report.threads,
                                 bytes_text(report.thread_bytes));
  text += fmt::format(
      "  tokens        {} fitted, {} to choose with, {} held back\n"
      "  token table   {} ids, which are {:.1f} % of the tokens held back\n"
      "  recall on those held back (distance 0: before the first layer):\n"
      "  distance      fitted  gate reuse  previous token  hot list   Brier  pair table  token "
      "table\n",
      result.training_tokens, result.validation_tokens, result.test_tokens,
      result.pregate.tables->tokens.ids.size(), 100 * result.known_tokens);
  const std::map<int32_t, LinkScore> all = by_distance(result);
  if (!all.contains(0)) text += distance_zero(result);
  for (const auto& [distance, mean] : all) {
    const std::string pairs = distance == 0 ? "-" : fmt::format("{:.3f}", mean.pair_table);
    text += fmt::format(
        "  {:<13} {:>6.3f}  {:>10.3f}  {:>14.3f}  {:>8.3f}  {:>6.4f}  {:>10}  {:>11.3f}\n",
        distance, mean.fitted, mean.gate_reuse, mean.previous_token, mean.hot_list, mean.brier,
        pairs, token_recall(result, distance));
  }
  if (all.contains(0)) {
    text +=
        "  0: fitted and gate reuse of the residual before the layer's own attention. Not in the "
        "file: no run uses it\n";
  }
  text += fmt::format("  refined       {}\n", refined_text(report));
  return text + fmt::format("  wrote         {}: {}\n", printable(report.file),
                            bytes_text(report.file_bytes));
}

}  // namespace tandem
