// The kernels of one instruction set. CMakeLists.txt compiles this file once for each, with its
// flags and DVFL_ISA, its name; see vector.h for what the headers make of them.
#include "epilogue.h"
#include "kernels.h"
#include "spatial.h"

#define DVFL_TEXT_OF(name) #name
#define DVFL_TEXT(name) DVFL_TEXT_OF(name)

namespace dvfl {
namespace DVFL_ISA {

constexpr ContextKernel spatial = {spatial_packed_bytes, spatial_pack, spatial_scratch_bytes,
                                   spatial_parts, spatial_run};

extern const Kernels kernels;
const Kernels kernels = {DVFL_TEXT(DVFL_ISA), &spatial, &plain_temporal, &plain_temporal, bias_gelu};

}  // namespace DVFL_ISA
}  // namespace dvfl
