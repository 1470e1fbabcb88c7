// What stands for onednn_gemm.cc where the build found no oneDNN.
#include "kernels/onednn_gemm.h"

namespace tandem {

const char* onednn_missing() { return "this build has no oneDNN (Debian: libdnnl-dev)"; }
const char* onednn_version() { return ""; }
bool onednn_gemm(const GemmShape&, const void*, const void*, float*) { return false; }
int64_t onednn_packed_bytes(const GemmShape&) { return 0; }
bool onednn_pack(const GemmShape&, const void*, void*) { return false; }

}  // namespace tandem
