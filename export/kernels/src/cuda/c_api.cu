// The kernels as plain C functions, for programs that hold device pointers: the check on a GPU, tests.
#include "contexts.h"

namespace {

// numbers: batch, frames, height, width, channels, levels, gate offset, the kernels' sizes
dvfl::ContextSizes sizes_of(const int* numbers) {
  dvfl::ContextSizes sizes = {numbers[0], numbers[1], numbers[2], numbers[3],
                              numbers[4], numbers[5], numbers[6], {}};
  for (int l = 0; l < sizes.levels && l < dvfl::kMaxLevels; ++l) {
    sizes.kernel_sizes[l] = numbers[7 + l];
  }
  return sizes;
}

dvfl::Element element_of(int half) {
  return half ? dvfl::Element::kFloat16 : dvfl::Element::kFloat32;
}

}  // namespace

#define DVFL_API extern "C" __attribute__((visibility("default")))

DVFL_API const char* dvfl_why_not(const int* numbers) { return dvfl::why_not(sizes_of(numbers)); }

DVFL_API size_t dvfl_workspace(int temporal, const int* numbers, int half) {
  const dvfl::ContextSizes sizes = sizes_of(numbers);
  return temporal ? dvfl::temporal_workspace(sizes, element_of(half))
                  : dvfl::spatial_workspace(sizes, element_of(half));
}

// tensors: context, gates, frame bias, modulator, workspace, the kernels
DVFL_API int dvfl_context(int temporal, const int* numbers, int half, void* const* tensors,
                          void* stream) {
  const dvfl::ContextSizes sizes = sizes_of(numbers);
  dvfl::ContextTensors found = {tensors[0], tensors[1], tensors[2], {}, tensors[3], tensors[4]};
  for (int l = 0; l < sizes.levels && l < dvfl::kMaxLevels; ++l) found.kernels[l] = tensors[5 + l];
  const auto on = static_cast<cudaStream_t>(stream);
  return temporal ? dvfl::temporal_context(sizes, element_of(half), found, on)
                  : dvfl::spatial_context(sizes, element_of(half), found, on);
}

DVFL_API int dvfl_bias_gelu(const void* product, const void* bias, void* output, size_t rows,
                            int features, int half, void* stream) {
  return dvfl::bias_gelu(product, bias, output, rows, features, element_of(half),
                         static_cast<cudaStream_t>(stream));
}

DVFL_API const char* dvfl_error(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}
