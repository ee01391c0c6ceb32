// The context aggregations of focal modulation on an NVIDIA GPU, without any engine.
//
// export/README.md has the contract of the nodes. Tensors are contiguous and channels last, tokens
// in the order (T, H, W), N = T * H * W. Elements are float32 or float16; sums are float32 always.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace dvfl {

constexpr int kMaxLevels = 8;

enum class Element { kFloat32, kFloat16 };

// The attributes of a node, and the batch.
struct ContextSizes {
  int batch;
  int frames;
  int height;
  int width;
  int channels;
  int levels;
  int gate_offset;  // of this node's first gate
  int kernel_sizes[kMaxLevels];

  int pixels() const { return height * width; }
  int gates() const { return 2 * (levels + 1); }
};

// The names of the context nodes. A file whose stages differ in their levels has the number in the
// names: SpatialContext, SpatialContext1, ..., TemporalContext, ...
constexpr int kNames = 2 * (kMaxLevels + 1);

struct ContextName {
  char text[20];
  bool is_temporal;
};

inline ContextName context_name(int index) {
  const bool is_temporal = index > kMaxLevels;
  const int levels = index % (kMaxLevels + 1);
  ContextName name = {"SpatialContext", false};
  if (is_temporal) name = {"TemporalContext", true};
  static_assert(kMaxLevels < 10, "the number has one digit");
  if (levels) name.text[is_temporal ? 15 : 14] = static_cast<char>('0' + levels);
  return name;
}

// The tensors of a node; the frame bias belongs to the temporal one alone.
struct ContextTensors {
  const void* context;     // (B, N, C)
  const void* gates;       // (B, N, 2 (L + 1))
  const void* frame_bias;  // (1, C, T, 1)
  const void* kernels[kMaxLevels];
  void* modulator;  // (B, N, C)
  void* workspace;
};

// Whether the kernels can run with these sizes, batch aside; if not, why.
const char* why_not(const ContextSizes& sizes);

// Bytes of the workspace that a call needs.
size_t spatial_workspace(const ContextSizes& sizes, Element element);
size_t temporal_workspace(const ContextSizes& sizes, Element element);

// Start a node on a stream. A batch of 0 is an invalid value.
cudaError_t spatial_context(const ContextSizes& sizes, Element element,
                            const ContextTensors& tensors, cudaStream_t stream);
cudaError_t temporal_context(const ContextSizes& sizes, Element element,
                             const ContextTensors& tensors, cudaStream_t stream);

// Gelu(product + bias): product (rows, features), bias (features).
cudaError_t bias_gelu(const void* product, const void* bias, void* output, size_t rows,
                      int features, Element element, cudaStream_t stream);

}  // namespace dvfl
