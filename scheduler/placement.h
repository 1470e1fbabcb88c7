// Rules that choose, for every activated expert of one layer, how many of its pieces the GPU
// computes. Pure functions on a LayerProblem; named, so that they can be compared.
#pragma once

#include <string_view>
#include <vector>

#include "scheduler/layer_problem.h"

namespace tandem {

// Fills items[i].gpu. The rule may use scratch as it likes; those other than place_exact use no
// more than its lists.
using PlacementRule = void (*)(LayerProblem* problem, LayerProblem* scratch);

// nullptr for an unknown name.
PlacementRule placement_rule(std::string_view name);
std::vector<std::string_view> placement_rule_names();

// The smallest max(CPU end, GPU end); of equal ones the fewest bytes over the link. At most one
// expert is split anew; experts that are partly there may also be used as they are. Exact when the
// distinct choices number at most a few thousand (decoding, small batches), otherwise a threshold
// search over sorted loads with local repair; see README.
void place_exact(LayerProblem* problem, LayerProblem* scratch);

// HybriMoE, arXiv 2504.05897 section IV-B: three queues, always the option that ends first; a
// copy's option ends without the computation that has to follow it.
void place_hybrimoe(LayerProblem* problem, LayerProblem* scratch);
// Residents on the GPU, the rest on the CPU, nothing fetched: ktransformers' static placement and
// llama.cpp's -ncmoe (they differ in what is resident: Contents::kHot and kLayers).
void place_static(LayerProblem* problem, LayerProblem* scratch);
// Everything on the GPU, fetched on demand: AdapMoE, arXiv 2408.10284, and other GPU-only systems.
void place_gpu_only(LayerProblem* problem, LayerProblem* scratch);
// Fiddler, arXiv 2402.07033: each absent expert goes where it alone would end sooner.
void place_fiddler(LayerProblem* problem, LayerProblem* scratch);
// Everything on the CPU.
void place_cpu_only(LayerProblem* problem, LayerProblem* scratch);

}  // namespace tandem
