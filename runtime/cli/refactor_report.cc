#include "runtime/cli/refactor_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/cli/text_io.h"
#include "runtime/words.h"

namespace tandem {
namespace {

std::string name_of(const DomainText& domain) { return printable(domain.name); }

// Of the tokens that the router saw of a domain, those that it gave to the domain's own expert.
double own_share(const DomainPerplexity& result, size_t domain) {
  int64_t all = 0;
  for (const int64_t n : result.routed_tokens) all += n;
  return all == 0 ? 0
                  : static_cast<double>(result.routed_tokens[domain]) / static_cast<double>(all);
}

nlohmann::ordered_json domains_json(const RefactorReport& report) {
  auto rows = nlohmann::ordered_json::array();
  for (size_t d = 0; d < report.domains.size(); ++d) {
    const DomainText& domain = report.domains[d];
    nlohmann::ordered_json row = {{"domain", domain.name},
                                  {"training_tokens", domain.training.size()},
                                  {"held_out_tokens", domain.held_out.size()}};
    if (d < report.perplexities.size()) {
      const DomainPerplexity& result = report.perplexities[d];
      row["windows"] = result.windows;
      row["perplexity_dense"] = result.dense;
      row["perplexity_own_expert"] = result.own;
      row["perplexity_routed"] = result.routed;
      row["routed_tokens"] = result.routed_tokens;
    }
    rows.push_back(row);
  }
  return rows;
}

}  // namespace

std::string refactor_begin_text(const RefactorReport& report) {
  std::string text = fmt::format("  model         {}\n", printable(report.model));
  text += fmt::format("  threads       {}\n", report.threads);
  text +=
      fmt::format("  memory        {} at most, beside the file\n", bytes_text(report.memory_bytes));
  text += fmt::format("  windows       {} tokens\n", report.window);
  text += "  domain           to learn from  held out\n";
  for (const DomainText& domain : report.domains) {
    text += fmt::format("  {:<16} {:>14}  {:>8}\n", name_of(domain), domain.training.size(),
                        domain.held_out.size());
  }
  return text;
}

std::string refactor_end_text(const RefactorReport& report) {
  const ExpertMasks& m = report.masks;
  std::string text = fmt::format(
      "  channels      {} of {} kept of each layer (--keep {}): {} shared, {} an expert; two masks "
      "have {:.1f} % in common\n",
      m.kept, m.ff, report.keep, m.residual, m.width, 100 * mask_overlap(m));
  const RouterTrainingResult& r = report.router;
  text += fmt::format(
      "  router        width {}, {} steps of {} windows; of held-out tokens {:.1f} % as their "
      "activations say, {:.1f} % were it always the commonest\n",
      r.router.shape.width, report.training.steps, report.training.batch,
      100 * r.validation_accuracy, 100 * r.majority_accuracy);
  if (!report.perplexities.empty()) {
    text +=
        "  perplexity           dense  own expert    routed  routed to the own, held-out text\n";
  }
  for (size_t d = 0; d < report.perplexities.size(); ++d) {
    const DomainPerplexity& p = report.perplexities[d];
    text +=
        fmt::format("  {:<16} {:>9.3f}  {:>10.3f}  {:>8.3f}  {:>6.1f} %\n",
                    name_of(report.domains[d]), p.dense, p.own, p.routed, 100 * own_share(p, d));
  }
  text += fmt::format("  wrote         {}: {} (the dense file: {})\n", printable(report.out),
                      bytes_text(report.out_bytes), bytes_text(report.dense_bytes));
  text += fmt::format("  wrote         {}: {}\n", printable(report.side_car),
                      bytes_text(report.side_car_bytes));
  return text;
}

nlohmann::ordered_json refactor_json(const RefactorReport& report) {
  const RouterTrainingResult& r = report.router;
  return {{"file", report.out},
          {"bytes", report.out_bytes},
          {"dense_bytes", report.dense_bytes},
          {"side_car", report.side_car},
          {"side_car_bytes", report.side_car_bytes},
          {"model", report.model},
          {"threads", report.threads},
          {"memory_bytes", report.memory_bytes},
          {"window", report.window},
          {"feed_forward", report.masks.ff},
          {"keep", report.keep},
          {"kept_channels", report.masks.kept},
          {"shared_channels", report.masks.residual},
          {"expert_channels", report.masks.width},
          {"mask_overlap", mask_overlap(report.masks)},
          {"router",
           {{"width", r.router.shape.width},
            {"heads", r.router.shape.n_heads},
            {"blocks", r.router.shape.n_blocks},
            {"ff", r.router.shape.ff},
            {"steps", report.training.steps},
            {"batch", report.training.batch},
            {"training_tokens", r.router.training_tokens},
            {"validation_loss", r.validation_loss},
            {"validation_accuracy", r.validation_accuracy},
            {"majority_accuracy", r.majority_accuracy}}},
          {"scored", report.perplexities.size() == report.domains.size()},
          {"domains", domains_json(report)}};
}

}  // namespace tandem
