// The kernels of one instruction set. CMakeLists.txt compiles this file once for each, with its
// flags and DVFL_ISA, its name; see vector.h for what the headers make of them.
#include "elementwise.h"
#include "epilogue.h"
#include "kernels.h"
#include "linear.h"
#include "spatial.h"
#include "temporal_fp32.h"
#include "temporal_int8.h"

#define DVFL_TEXT_OF(name) #name
#define DVFL_TEXT(name) DVFL_TEXT_OF(name)

namespace dvfl {
namespace DVFL_ISA {

constexpr ContextKernel spatial = {spatial_packed_bytes, spatial_pack, spatial_scratch_bytes,
                                   spatial_parts, spatial_run};
constexpr ContextKernel temporal_fp32 = {
    temporal::fp32_packed_bytes, temporal::fp32_pack, temporal::scratch_bytes<temporal::Fp32Level>,
    temporal::parts, temporal::run<temporal::Fp32Level>};
constexpr ContextKernel temporal_int8 = {
    temporal::int8_packed_bytes, temporal::int8_pack, temporal::scratch_bytes<temporal::Int8Level>,
    temporal::parts, temporal::run<temporal::Int8Level>};

constexpr LinearKernel linear_int8 = {kRows, linear::packed_bytes, linear::pack, linear::scratch_bytes,
                                      linear::run};

extern const Kernels kernels;
const Kernels kernels = {DVFL_TEXT(DVFL_ISA), &spatial, &temporal_fp32, &temporal_int8,
                         bias_gelu, modulate, add_norm, embed_norm, add_patches,
                         &linear_int8};

}  // namespace DVFL_ISA
}  // namespace dvfl
