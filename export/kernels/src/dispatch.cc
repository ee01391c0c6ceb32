// Which instruction set runs here. CMakeLists.txt says which files were compiled: DVFL_HAVE_*.
#include <cstdlib>
#include <cstring>

#ifdef DVFL_HAVE_AVX2
#include <cpuid.h>
#endif
#ifdef DVFL_HAVE_NEONDOT
#include <sys/auxv.h>
#endif

#include "kernels.h"

namespace dvfl {

#ifdef DVFL_HAVE_AVX2
namespace avx2 {
extern const Kernels kernels;
}
namespace avxvnni {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx512vnni {
extern const Kernels kernels;
}
#endif
#ifdef DVFL_HAVE_NEON
namespace neon {
extern const Kernels kernels;
}
#endif
#ifdef DVFL_HAVE_NEONDOT
namespace neondot {
extern const Kernels kernels;
}
#endif

#ifdef DVFL_HAVE_AVX2
namespace {

// Not every compiler has a name for it.
bool has_avxvnni() {
  unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 4 & 1) != 0;
}

}  // namespace
#endif

int available_kernels(const Kernels* found[kMostKernels]) {
  int count = 0;
#ifdef DVFL_HAVE_AVX2
  // these ask for the registers that the system saves, too
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && __builtin_cpu_supports("avx512vnni")) found[count++] = &avx512vnni::kernels;
  if (avx512) found[count++] = &avx512::kernels;
  if (avx2 && has_avxvnni()) found[count++] = &avxvnni::kernels;
  if (avx2) found[count++] = &avx2::kernels;
#endif
#ifdef DVFL_HAVE_NEONDOT
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  if (getauxval(AT_HWCAP) & kDotProduct) found[count++] = &neondot::kernels;
#endif
#ifdef DVFL_HAVE_NEON
  found[count++] = &neon::kernels;
#endif
  found[count++] = &plain;
  return count;
}

const Kernels* chosen_kernels() {
  const Kernels* found[kMostKernels];
  int count = available_kernels(found);
  const char* wanted = std::getenv("DVFL_KERNELS_CPU");
  if (wanted == nullptr || *wanted == '\0') return found[0];
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(found[i]->name, wanted) == 0) return found[i];
  }
  return nullptr;
}

}  // namespace dvfl
