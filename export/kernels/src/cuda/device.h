// What all kernels share: conversions, Gelu, eight elements at once, a launch.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

// The block's shared memory, as many bytes as the launch asked for.
#ifdef __CUDACC__
#define DVFL_SHARED(name) extern __shared__ __align__(32) unsigned char name[]
#else
#define DVFL_SHARED(name) unsigned char* const name = emulation::shared_memory()
#endif

namespace dvfl {

constexpr size_t kSharedBytes = 48 * 1024;  // what every GPU gives a block without being asked
constexpr int kEight = 8;                   // elements that a thread reads or writes at once

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }

template <typename T>
__device__ inline T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline __half from_float<__half>(float value) {
  return __float2half_rn(value);
}

__device__ inline float gelu(float value) {
  return 0.5f * value * (1.0f + erff(value * 0.70710678118654752f));
}

template <typename T>
struct alignas(16) Eight {
  T values[kEight];
};

// Read `count` elements, the rest as 0. Eight of them are read at once where `whole` says that rows
// are multiples of eight elements and tensors aligned to 16 bytes.
template <typename T>
__device__ inline void read_eight(const T* from, int count, bool whole, float (&to)[kEight]) {
  Eight<T> read = {};
  if (whole && count >= kEight) {
    read = *reinterpret_cast<const Eight<T>*>(from);
  } else {
    for (int i = 0; i < kEight; ++i) {
      if (i < count) read.values[i] = from[i];
    }
  }
  for (int i = 0; i < kEight; ++i) to[i] = to_float(read.values[i]);
}

template <typename T>
__device__ inline void write_eight(T* to, int count, bool whole, const float (&from)[kEight]) {
  Eight<T> written;
  for (int i = 0; i < kEight; ++i) written.values[i] = from_float<T>(from[i]);
  if (whole && count >= kEight) {
    *reinterpret_cast<Eight<T>*>(to) = written;
  } else {
    for (int i = 0; i < kEight; ++i) {
      if (i < count) to[i] = written.values[i];
    }
  }
}

inline int ceil_div(int value, int by) { return (value + by - 1) / by; }

inline size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

template <typename Arguments>
cudaError_t launch(void (*kernel)(Arguments), dim3 grid, int threads, size_t shared,
                   cudaStream_t stream, const Arguments& arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments);
}

}  // namespace dvfl
