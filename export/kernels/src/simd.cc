// The kernels of one instruction set. CMakeLists.txt compiles this file once for each, with its
// flags and DVFL_ISA, its name; see vector.h for what the headers make of them.
#include "kernels.h"
#include "vector.h"

#define DVFL_TEXT_OF(name) #name
#define DVFL_TEXT(name) DVFL_TEXT_OF(name)

namespace dvfl {
namespace DVFL_ISA {

extern const Kernels kernels;
const Kernels kernels = {DVFL_TEXT(DVFL_ISA), &plain_spatial, &plain_temporal, &plain_temporal,
                         plain_bias_gelu};

}  // namespace DVFL_ISA
}  // namespace dvfl
