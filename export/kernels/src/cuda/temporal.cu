// TemporalContext: dense convolutions over the frames of each pixel, gated and summed.
//
// One kernel for each level. A block computes 16 pixels of all frames and up to 128 output channels, so
// that the taps of a convolution read the same tokens in shared memory, frames outside the clip cost
// nothing, and the mean over the frames stays within a thread. float16 is multiplied by tensor cores
// (16 x 16 x 16, sums in float32), float32 by FMA.
//
// Bytes of DRAM, in units of one tensor (B, N, C), for L levels: 2 L for the levels and L - 1 for
// what the last one reads again, 5 for L = 2; input and output alone are 2. Blocks of other channels
// and the addition of the mean read what has just been read or written: L2.
#include <mma.h>

#include "contexts.h"
#include "device.h"

namespace dvfl {
namespace {

using namespace nvcuda;

constexpr int kPixels = 16;  // of a block
constexpr int kFrames = 8;   // that are accumulated at once
constexpr int kWarpChannels = 16;
constexpr int kMaxWarps = 8;
constexpr int kScratchRow = 20;  // floats; a row of a warp's 16 x 16 sums, padded for the banks

// Input channels of one step, and elements of a row in shared memory.
template <typename T>
constexpr int kStep = 8;
template <>
constexpr int kStep<__half> = 16;
constexpr int kHalfRow = 24;  // 16 channels, padded for the banks

template <typename T>
struct LevelArguments {
  const T* input;       // (B, N, C)
  const T* kernel;      // (C out, C in, taps)
  const T* frame_bias;  // (C, T); null but for the first level
  const T* gates;       // (B, N, all gates)
  T* output;            // (B, N, C); null for the last level
  const T* earlier;     // outputs of the levels before
  T* modulator;         // (B, N, C); written by the last level
  size_t stride;        // elements from one earlier level to the next
  int frames, pixels, channels, taps, levels, gates_per_token, gate_offset;
  bool whole;  // rows are multiples of eight, tensors aligned
};

// Where a block is: its part of the output, and the frames that it holds in shared memory.
struct Place {
  int pixel;         // the block's first one
  int channel;       // the block's first one
  int channels;      // of the block
  size_t token;      // of the clip's first one
  int frame, first, slots;  // the first frame computed, the first one held, frames held
};

template <typename T>
struct Sums;

// A thread holds one pixel and eight channels of each frame.
template <>
struct Sums<float> {
  __host__ __device__ static int held_rows(int taps, int channels) { return taps * kStep<float> * (channels + 4); }
  static size_t scratch(int) { return 0; }

  float values[kFrames][kEight] = {};

  // input [slot][channel in][pixel], kernel [tap][channel in][channel out]
  __device__ void add(const float* input, const float* kernel, const LevelArguments<float>& a,
                      const Place& at) {
    const int lane = threadIdx.x % 32, pixel = lane % kPixels;
    const int row = at.channels + 4;
    const int channel = threadIdx.x / 32 * kWarpChannels + lane / kPixels * kEight;
    for (int tap = 0; tap < a.taps; ++tap) {
      const int shift = at.frame + tap - a.taps / 2;  // frame that the first output reads

      for (int in = 0; in < kStep<float>; ++in) {
        float weights[kEight];
        read_eight(kernel + (tap * kStep<float> + in) * row + channel, kEight, true, weights);
#pragma unroll
        for (int t = 0; t < kFrames; ++t) {
          if (shift + t < 0 || shift + t >= a.frames || at.frame + t >= a.frames) continue;
          const int slot = shift + t - at.first;
          const float value = input[(slot * kStep<float> + in) * kPixels + pixel];
#pragma unroll
          for (int i = 0; i < kEight; ++i) values[t][i] += value * weights[i];
        }
      }
    }
  }

  __device__ void store(float*, int) const {}

  __device__ void frame(const float*, int t, float (&to)[kEight]) const {
    for (int i = 0; i < kEight; ++i) to[i] = values[t][i];
  }
};

// A warp holds 16 pixels x 16 channels of each frame.
template <>
struct Sums<__half> {
  __host__ __device__ static int held_rows(int taps, int channels) { return taps * channels * kHalfRow; }
  static size_t scratch(int warps) { return sizeof(float) * kPixels * kScratchRow * warps; }

  wmma::fragment<wmma::accumulator, 16, 16, 16, float> values[kFrames];

  __device__ Sums() {
#pragma unroll
    for (int t = 0; t < kFrames; ++t) wmma::fill_fragment(values[t], 0.0f);
  }

  // input [slot][pixel][channel in], kernel [tap][channel out][channel in]
  __device__ void add(const __half* input, const __half* kernel, const LevelArguments<__half>& a,
                      const Place& at) {
    const int channel = threadIdx.x / 32 * kWarpChannels;
    for (int tap = 0; tap < a.taps; ++tap) {
      const int shift = at.frame + tap - a.taps / 2;
      wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::col_major> weights;
      wmma::load_matrix_sync(weights, kernel + (tap * at.channels + channel) * kHalfRow, kHalfRow);
#pragma unroll
      for (int t = 0; t < kFrames; ++t) {
        if (shift + t < 0 || shift + t >= a.frames || at.frame + t >= a.frames) continue;
        const int slot = shift + t - at.first;
        wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> tokens;
        wmma::load_matrix_sync(tokens, input + slot * kPixels * kHalfRow, kHalfRow);
        wmma::mma_sync(values[t], tokens, weights, values[t]);
      }
    }
  }

  // Lay one frame out so that each thread finds its pixel and its eight channels.
  __device__ void store(float* scratch, int t) const {
    __syncwarp();
    float* const own = scratch + threadIdx.x / 32 * kPixels * kScratchRow;
    wmma::store_matrix_sync(own, values[t], kScratchRow, wmma::mem_row_major);
    __syncwarp();
  }

  __device__ void frame(const float* scratch, int, float (&to)[kEight]) const {
    const int lane = threadIdx.x % 32;
    const float* const own = scratch + threadIdx.x / 32 * kPixels * kScratchRow +
                             lane % kPixels * kScratchRow + lane / kPixels * kEight;
    for (int i = 0; i < kEight; ++i) to[i] = own[i];
  }
};

__device__ inline int input_place(const float*, int slot, int pixel, int channel) {
  return (slot * kStep<float> + channel) * kPixels + pixel;
}
__device__ inline int input_place(const __half*, int slot, int pixel, int channel) {
  return (slot * kPixels + pixel) * kHalfRow + channel;
}
__device__ inline int kernel_place(const float*, int tap, int out, int in, int channels) {
  return (tap * kStep<float> + in) * (channels + 4) + out;
}
__device__ inline int kernel_place(const __half*, int tap, int out, int in, int channels) {
  return (tap * channels + out) * kHalfRow + in;
}

// Bring kStep input channels of the block's tokens into shared memory, eight by eight.
template <typename T>
__device__ void hold_input(T* held, int from, const LevelArguments<T>& a, const Place& at) {
  constexpr int kParts = kStep<T> / kEight;
  for (int n = threadIdx.x; n < at.slots * kPixels * kParts; n += blockDim.x) {
    const int part = n % kParts * kEight, pixel = n / kParts % kPixels, slot = n / kParts / kPixels;
    const size_t token = at.token + size_t(at.first + slot) * a.pixels + at.pixel + pixel;
    const int left = at.pixel + pixel < a.pixels ? a.channels - from - part : 0;
    Eight<T> read = {};
    if (a.whole && left >= kEight) {
      read = *reinterpret_cast<const Eight<T>*>(a.input + token * a.channels + from + part);
    } else {
      for (int i = 0; i < kEight; ++i) {
        if (i < left) read.values[i] = a.input[token * a.channels + from + part + i];
      }
    }
    for (int i = 0; i < kEight; ++i) held[input_place(held, slot, pixel, part + i)] = read.values[i];
  }
}

// Bring all taps of kStep input channels into shared memory, in the order of the product. Eight
// input channels and their kTaps taps lie together, 16 kTaps bytes in float16, and are read at once.
template <typename T, int kTaps>
__device__ void hold_kernel_whole(T* held, int from, const LevelArguments<T>& a, const Place& at) {
  constexpr int kParts = kStep<T> / kEight;
  for (int n = threadIdx.x; n < at.channels * kParts; n += blockDim.x) {
    const int part = n % kParts * kEight, out = n / kParts;
    Eight<T> read[kTaps] = {};
    if (at.channel + out < a.channels && from + part < a.channels) {
      const size_t start = size_t(at.channel + out) * a.channels + from + part;
      const auto* const source = reinterpret_cast<const Eight<T>*>(a.kernel + start * kTaps);
#pragma unroll
      for (int i = 0; i < kTaps; ++i) read[i] = source[i];
    }
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
#pragma unroll
      for (int i = 0; i < kEight; ++i) {
        const int n_read = i * kTaps + tap;
        held[kernel_place(held, tap, out, part + i, at.channels)] =
            read[n_read / kEight].values[n_read % kEight];
      }
    }
  }
}

template <typename T>
__device__ void hold_kernel(T* held, int from, const LevelArguments<T>& a, const Place& at) {
  if (a.whole && a.taps == 3) return hold_kernel_whole<T, 3>(held, from, a, at);
  if (a.whole && a.taps == 5) return hold_kernel_whole<T, 5>(held, from, a, at);
  const int run = kStep<T> * a.taps;  // elements that lie together for one output channel
  for (int n = threadIdx.x; n < at.channels * run; n += blockDim.x) {
    const int out = n / run, in = n % run / a.taps, tap = n % a.taps;
    T value = from_float<T>(0.0f);
    if (at.channel + out < a.channels && from + in < a.channels) {
      value = a.kernel[(size_t(at.channel + out) * a.channels + from + in) * a.taps + tap];
    }
    held[kernel_place(held, tap, out, in, at.channels)] = value;
  }
}

// Elements of shared memory that hold the input of a step.
template <typename T>
__host__ __device__ inline int input_elements(int slots) {
  return slots * kPixels * (sizeof(T) == 2 ? kHalfRow : kStep<T>);
}

// The output of a thread: one pixel, eight channels, frame by frame.
template <typename T>
struct Output {
  const LevelArguments<T>& a;
  size_t token;  // of this pixel in the clip's first frame
  int channel, count;
  float sum[kEight] = {};  // over the frames

  __device__ float gate(size_t at, int index) const {
    return to_float(a.gates[at * a.gates_per_token + a.gate_offset + index]);
  }

  // Take the sums of a frame: bias, Gelu, then the next level's input or the gated sum.
  __device__ void frame(int t, float (&values)[kEight]) {
    const size_t at = token + size_t(t) * a.pixels;
    for (int i = 0; i < kEight; ++i) {
      if (a.frame_bias && i < count) {
        values[i] += to_float(a.frame_bias[size_t(channel + i) * a.frames + t]);
      }
      values[i] = gelu(values[i]);
      sum[i] += values[i];
    }
    if (a.output) return write_eight(a.output + at * a.channels + channel, count, a.whole, values);
    for (int i = 0; i < kEight; ++i) values[i] *= gate(at, a.levels - 1);
    for (int level = 0; level < a.levels - 1; ++level) {
      float before[kEight];
      const T* const from = a.earlier + level * a.stride + at * a.channels + channel;
      read_eight(from, count, a.whole, before);
      for (int i = 0; i < kEight; ++i) values[i] += before[i] * gate(at, level);
    }
    write_eight(a.modulator + at * a.channels + channel, count, a.whole, values);
  }

  // Add the mean over the frames to what the last level has written.
  __device__ void everywhere() {
    for (int i = 0; i < kEight; ++i) sum[i] = gelu(sum[i] / a.frames);
    for (int t = 0; t < a.frames; ++t) {
      const size_t at = token + size_t(t) * a.pixels;
      T* const to = a.modulator + at * a.channels + channel;
      float values[kEight];
      read_eight(static_cast<const T*>(to), count, a.whole, values);
      for (int i = 0; i < kEight; ++i) values[i] += sum[i] * gate(at, a.levels);
      write_eight(to, count, a.whole, values);
    }
  }
};

template <typename T>
__global__ void __launch_bounds__(kMaxWarps * 32, 1) temporal_level(LevelArguments<T> a) {
  DVFL_SHARED(memory);
  Place at;
  at.channels = blockDim.x / 32 * kWarpChannels;
  at.pixel = blockIdx.x * kPixels;
  at.channel = blockIdx.y * at.channels;
  at.token = size_t(blockIdx.z) * a.frames * a.pixels;
  const int pad = a.taps / 2, lane = threadIdx.x % 32;
  const int most_slots = min(a.frames, kFrames + 2 * pad);
  T* const input = reinterpret_cast<T*>(memory);
  T* const kernel = input + input_elements<T>(most_slots);
  const int kernel_elements = Sums<T>::held_rows(a.taps, at.channels);
  float* const scratch = reinterpret_cast<float*>(kernel + kernel_elements);
  const int pixel = at.pixel + lane % kPixels;
  const int channel = at.channel + threadIdx.x / 32 * kWarpChannels + lane / kPixels * kEight;
  const int count = pixel < a.pixels ? min(kEight, a.channels - channel) : 0;
  Output<T> out{a, at.token + pixel, channel, count};
  for (at.frame = 0; at.frame < a.frames; at.frame += kFrames) {
    at.first = max(0, at.frame - pad);
    at.slots = min(a.frames, at.frame + kFrames + pad) - at.first;
    Sums<T> sums;
    for (int from = 0; from < a.channels; from += kStep<T>) {
      __syncthreads();  // the step before is computed
      hold_input(input, from, a, at);
      hold_kernel(kernel, from, a, at);
      __syncthreads();
      sums.add(input, kernel, a, at);
    }
#pragma unroll
    for (int t = 0; t < kFrames; ++t) {
      if (at.frame + t >= a.frames) break;
      float values[kEight];
      sums.store(scratch, t);
      sums.frame(scratch, t, values);
      if (count > 0) out.frame(at.frame + t, values);
    }
  }
  if (!a.output && count > 0) out.everywhere();
}

template <typename T>
size_t shared_bytes(int frames, int taps, int warps) {
  const int slots = frames < kFrames + taps - 1 ? frames : kFrames + taps - 1;
  const int kernel = Sums<T>::held_rows(taps, warps * kWarpChannels);
  return (input_elements<T>(slots) + kernel) * sizeof(T) + Sums<T>::scratch(warps);
}

// Warps of a block: as few blocks as fit the shared memory, with equal work.
template <typename T>
int warps_of(const ContextSizes& sizes, int taps) {
  const int parts = ceil_div(sizes.channels, kWarpChannels);
  int blocks = ceil_div(parts, kMaxWarps);
  int warps = ceil_div(parts, blocks);
  while (warps > 1 && shared_bytes<T>(sizes.frames, taps, warps) > kSharedBytes) {
    warps = ceil_div(parts, ++blocks);
  }
  return warps;
}

template <typename T>
cudaError_t run(const ContextSizes& sizes, const ContextTensors& tensors, cudaStream_t stream) {
  const size_t elements =
      size_t(sizes.batch) * sizes.frames * sizes.pixels() * sizes.channels;
  const size_t stride = aligned(elements * sizeof(T)) / sizeof(T);
  LevelArguments<T> a = {};
  a.gates = static_cast<const T*>(tensors.gates);
  a.earlier = static_cast<const T*>(tensors.workspace);
  a.modulator = static_cast<T*>(tensors.modulator);
  a.stride = stride;
  a.frames = sizes.frames;
  a.pixels = sizes.pixels();
  a.channels = sizes.channels;
  a.levels = sizes.levels;
  a.gates_per_token = sizes.gates();
  a.gate_offset = sizes.gate_offset;
  a.whole = sizes.channels % kEight == 0 && is_aligned(tensors.context) &&
            is_aligned(tensors.modulator) && is_aligned(tensors.workspace);
  for (int level = 0; level < sizes.levels; ++level) {
    a.whole = a.whole && is_aligned(tensors.kernels[level]);
  }
  T* const outputs = static_cast<T*>(tensors.workspace);
  a.input = static_cast<const T*>(tensors.context);
  for (int level = 0; level < sizes.levels; ++level) {
    const int taps = sizes.kernel_sizes[level], warps = warps_of<T>(sizes, taps);
    a.kernel = static_cast<const T*>(tensors.kernels[level]);
    a.frame_bias = level == 0 ? static_cast<const T*>(tensors.frame_bias) : nullptr;
    a.taps = taps;
    a.output = level + 1 < sizes.levels ? outputs + level * stride : nullptr;
    const dim3 grid(ceil_div(a.pixels, kPixels),
                    ceil_div(sizes.channels, warps * kWarpChannels), sizes.batch);
    const size_t shared = shared_bytes<T>(sizes.frames, taps, warps);
    const cudaError_t error = launch(temporal_level<T>, grid, warps * 32, shared, stream, a);
    if (error != cudaSuccess) return error;
    a.input = a.output;
  }
  return cudaSuccess;
}

}  // namespace

size_t temporal_workspace(const ContextSizes& sizes, Element element) {
  const size_t bytes = element == Element::kFloat16 ? 2 : 4;
  const size_t tokens = size_t(sizes.batch) * sizes.frames * sizes.pixels();
  return (sizes.levels - 1) * aligned(tokens * sizes.channels * bytes);
}

cudaError_t temporal_context(const ContextSizes& sizes, Element element,
                             const ContextTensors& tensors, cudaStream_t stream) {
  if (sizes.batch < 1 || sizes.batch > 65535 || why_not(sizes)) return cudaErrorInvalidValue;
  if (element == Element::kFloat16) return run<__half>(sizes, tensors, stream);
  return run<float>(sizes, tensors, stream);
}

}  // namespace dvfl
