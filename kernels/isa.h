// Which instruction set the CPU kernels run on. Chosen once, at first use, for the whole process.
#pragma once

namespace tandem {

// "avx2" (AVX2 + FMA + F16C) or "scalar". The environment variable TANDEM_ISA set to one of these
// names forces it; empty is as good as unset; any other value, or one that this CPU cannot run, ends
// the process with a line on stderr. Any thread.
const char* kernel_isa();

}  // namespace tandem
