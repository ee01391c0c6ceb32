// What a node computes with, and the table of functions that each instruction set offers for it.
//
// The files that are compiled for one instruction set include this and headers of their own alone:
// a template of the standard library that they instantiate could be linked into code that runs on
// every CPU. So there are only plain structures here, and functions take pointers.
#pragma once

#include <cstddef>
#include <cstdint>

#define DVFL_INLINE inline __attribute__((always_inline))

namespace dvfl {

constexpr int64_t kAlignment = 64;  // of packed weights and scratch, bytes

constexpr int64_t kMostLevels = 16;

// Where a result goes: float32, or with a scale quantised to uint8.
struct Output {
  void* data;
  float scale;  // 0: float32
  int32_t zero_point;
};

// All that is constant in a context node; export/README.md has the contract.
struct Context {
  int64_t frames, height, width, channels, levels, gate_offset;
  int64_t threads;                    // that may share a call, about
  const int64_t* kernel_sizes;        // (levels); all odd
  const void* const* kernels;         // (levels); float32, or int8 where there are scales
  const float* frame_bias;            // (channels, frames); of temporal nodes
  const float* input_scales;          // (levels); null: the context is float32
  const float* const* kernel_scales;  // (levels, channels)
  float output_scale;                 // 0: the modulator is float32
  int32_t zero_point;                 // of quantised inputs and outputs

  DVFL_INLINE int64_t pixels() const { return height * width; }
  DVFL_INLINE int64_t tokens() const { return frames * height * width; }
  DVFL_INLINE int64_t gates() const { return 2 * (levels + 1); }
};

// The tensors of one call.
struct ContextCall {
  const void* context;  // (B, tokens, channels) float32 or uint8
  const float* gates;   // (B, tokens, gates)
  void* modulator;      // (B, tokens, channels) float32 or uint8
};

// A context aggregation: the weights are packed once, the parts of a call run in any order.
struct ContextKernel {
  int64_t (*packed_bytes)(const Context&);
  void (*pack)(const Context&, void* packed);
  int64_t (*scratch_bytes)(const Context&);  // of one part
  int64_t (*parts)(const Context&);          // of one clip
  // Computes one of the B * parts pieces. After `pack`, kernels, frame_bias and scales of the
  // context may be gone: a kernel keeps what it needs of them in `packed`.
  void (*run)(const Context&, const void* packed, const ContextCall&, int64_t part, void* scratch);
};

// A linear layer in bytes: (rows, inputs) uint8 times (inputs, outputs) int8.
struct Linear {
  int64_t inputs, outputs;
  const int8_t* weights;       // (inputs, outputs)
  const float* weight_scales;  // (outputs)
  const float* bias;           // (outputs), or null
  float input_scale;
  int32_t zero_point;
};

// As ContextKernel; a call takes any number of rows, best a multiple of `tile`.
struct LinearKernel {
  int64_t tile;
  int64_t (*packed_bytes)(const Linear&);
  void (*pack)(const Linear&, void* packed);
  int64_t (*scratch_bytes)(const Linear&, int64_t rows);
  // Writes the product (rows, outputs) and what the bias adds to it.
  void (*run)(const Linear&, const void* packed, const uint8_t* bytes, int64_t rows, float* product,
              void* scratch);
};

// What follows computes each of `rows` rows on its own, and writes float32 or bytes.

// Gelu(product + bias); product (rows, features), bias (features).
using BiasGelu = void (*)(const float* product, const float* bias, int64_t features, int64_t rows, const Output&);

// (products[0] + biases[0]) * (products[1] + biases[1]) * (products[2] + biases[2]).
struct ModulateCall {
  const float* products[3];  // (rows, features)
  const float* biases[3];    // (features)
};
using Modulate = void (*)(const ModulateCall&, int64_t features, int64_t rows, const Output&);

// sum = x + (product + bias), and the layer normalisation of each row of it.
struct AddNormCall {
  const float* x;        // (rows, features)
  const float* product;  // (rows, features)
  const float* bias;     // (features), as the next two
  const float* scale;
  const float* shift;
  float epsilon;
  float* sum;  // (rows, features)
};
using AddNorm = void (*)(const AddNormCall&, int64_t features, int64_t rows, const Output& normalised);

// tokens = the layer normalisation of each row of product + bias, and the normalisation of that.
struct EmbedNormCall {
  const float* product;      // (rows, features)
  const float* bias;         // (features), as the next four
  const float* embed_scale;  // of the first normalisation
  const float* embed_shift;
  const float* scale;  // of the second
  const float* shift;
  float epsilon;
  float* tokens;  // (rows, features)
};
using EmbedNorm = void (*)(const EmbedNormCall&, int64_t features, int64_t rows, const Output& normalised);

// x + product, in another order: a row is one line of a patch of `stride` x `stride` tokens.
struct AddPatchesCall {
  const float* x;  // (rows of patches, stride, columns, features), as the next
  const float* product;
  int64_t columns, stride;

  // Which row of the inputs is written as row `row` of (rows of patches, columns, stride, features).
  DVFL_INLINE int64_t source(int64_t row) const {
    const int64_t line = row % stride, column = row / stride % columns;
    return (row / (stride * columns) * stride + line) * columns + column;
  }
};
using AddPatches = void (*)(const AddPatchesCall&, int64_t features, int64_t rows, const Output&);

// What one instruction set offers. All of it is known when it is compiled: nothing of such a file
// may run while the library is loaded.
struct Kernels {
  const char* name;
  const ContextKernel* spatial;        // float32 in, float32 or uint8 out
  const ContextKernel* temporal;       // float32 in and out
  const ContextKernel* temporal_int8;  // uint8 in and out
  BiasGelu bias_gelu;
  Modulate modulate;
  AddNorm add_norm;
  EmbedNorm embed_norm;
  AddPatches add_patches;
  const LinearKernel* linear;
};

// Scalar arithmetic, for any CPU; what the others are compared with.
extern const ContextKernel plain_spatial;
extern const ContextKernel plain_temporal;  // of both types
void plain_bias_gelu(const float* product, const float* bias, int64_t features, int64_t rows, const Output&);
void plain_modulate(const ModulateCall&, int64_t features, int64_t rows, const Output&);
void plain_add_norm(const AddNormCall&, int64_t features, int64_t rows, const Output& normalised);
void plain_embed_norm(const EmbedNormCall&, int64_t features, int64_t rows, const Output& normalised);
void plain_add_patches(const AddPatchesCall&, int64_t features, int64_t rows, const Output&);
extern const LinearKernel plain_linear;
extern const Kernels plain;

constexpr int kMostKernels = 8;

// Writes those that run on this CPU, the best first; returns their number.
int available_kernels(const Kernels* found[kMostKernels]);

// Returns the best of this CPU, or the one that the environment variable DVFL_KERNELS_CPU names;
// null if it names none that runs here.
const Kernels* chosen_kernels();

}  // namespace dvfl
