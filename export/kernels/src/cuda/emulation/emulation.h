// CUDA on a CPU, as far as the kernels in src/cuda use it, so that sanitizers see them.
//
// The threads of a block are fibers. They run one after the other up to the next barrier, in an order
// that changes from barrier to barrier: a missing barrier gives wrong results. A block's shared
// memory is an allocation of just the bytes that the launch asked for.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid argument";
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline dim3 blockIdx, threadIdx, blockDim, gridDim;

using std::max;
using std::min;

namespace emulation {

constexpr size_t kStack = 64 * 1024;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  void* asan = nullptr;
  bool is_done = false;
};

struct Block {
  std::vector<Fiber> fibers;
  void* memory = nullptr;
  std::function<void()> body;
  ucontext_t scheduler;
  void* asan = nullptr;
  const void* bottom = nullptr;
  size_t size = 0;
  unsigned now = 0;
};
inline Block* block = nullptr;

inline unsigned char* shared_memory() {
  return static_cast<unsigned char*>(block->memory);
}

inline void entered([[maybe_unused]] void* asan) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(asan, &block->bottom, &block->size);
#endif
}

inline void to_scheduler([[maybe_unused]] bool is_done) {
  Fiber& fiber = block->fibers[block->now];
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(is_done ? nullptr : &fiber.asan, block->bottom, block->size);
#endif
  swapcontext(&fiber.context, &block->scheduler);
  entered(fiber.asan);
}

inline void barrier() { to_scheduler(false); }

inline void run_fiber() {
  entered(nullptr);
  block->body();
  block->fibers[block->now].is_done = true;
  to_scheduler(true);
}

inline void resume(unsigned thread) {
  Fiber& fiber = block->fibers[thread];
  block->now = thread;
  threadIdx = dim3(thread, 0, 0);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&block->asan, fiber.stack.get(), kStack);
#endif
  swapcontext(&block->scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(block->asan, nullptr, nullptr);
#endif
}

inline void run_block(Block& one) {
  block = &one;
  for (Fiber& fiber : one.fibers) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    fiber.is_done = false;
    makecontext(&fiber.context, run_fiber, 0);
  }
  const unsigned count = unsigned(one.fibers.size());
  for (unsigned round = 0; !one.fibers[0].is_done; ++round) {
    // forwards, backwards, and each from another thread on
    for (unsigned n = 0; n < count; ++n) {
      const unsigned thread = (n + round * 37) % count;
      resume(round % 2 ? count - 1 - thread : thread);
    }
  }
}

}  // namespace emulation

inline void __syncthreads() { emulation::barrier(); }
inline void __syncwarp() { emulation::barrier(); }

template <typename Kernel, typename Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, Kernel kernel,
                               const Arguments& arguments) {
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  emulation::Block one;
  one.fibers.resize(blockDim.x);
  for (auto& fiber : one.fibers) fiber.stack.reset(new char[emulation::kStack]);
  one.body = [&] { kernel(arguments); };
  for (unsigned z = 0; z < gridDim.z; ++z) {
    for (unsigned y = 0; y < gridDim.y; ++y) {
      for (unsigned x = 0; x < gridDim.x; ++x) {
        // what the block before has left there is no longer known
        if (posix_memalign(&one.memory, 32, config->dynamicSmemBytes)) std::abort();
        std::memset(one.memory, 0xff, config->dynamicSmemBytes);
        blockIdx = dim3(x, y, z);
        emulation::run_block(one);
        std::free(one.memory);
      }
    }
  }
  return cudaSuccess;
}
