// The matrix fragments of a warp. The first lane holds all of one; a barrier stands before and after.
#pragma once

#include "cuda_fp16.h"
#include "emulation.h"

namespace nvcuda::wmma {

struct row_major {};
struct col_major {};
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
enum layout_t { mem_row_major };

template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment {
  float values[16][16];  // rows and columns of the matrix
};

// What CUDA asks of a pointer and of the distance between rows.
inline void check(const void* pointer, bool is_whole) {
  if (reinterpret_cast<uintptr_t>(pointer) % 32 || !is_whole) std::abort();
}

inline bool is_first_lane() { return threadIdx.x % 32 == 0; }

template <typename Fragment>
void fill_fragment(Fragment& to, float value) {
  for (auto& row : to.values) {
    for (float& one : row) one = value;
  }
}

template <typename Use, typename T, typename Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout>& to, const T* from, unsigned row) {
  check(from, row % 8 == 0);
  if (!is_first_lane()) return;
  for (unsigned i = 0; i < 16; ++i) {
    for (unsigned j = 0; j < 16; ++j) {
      const float value = __half2float(from[i * row + j]);
      (std::is_same_v<Layout, row_major> ? to.values[i][j] : to.values[j][i]) = value;
    }
  }
}

template <typename A, typename B, typename Sum>
void mma_sync(Sum& to, const A& a, const B& b, const Sum& sum) {
  if (!is_first_lane()) return;
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) {
      float total = sum.values[i][j];
      for (int k = 0; k < 16; ++k) total += a.values[i][k] * b.values[k][j];
      to.values[i][j] = total;
    }
  }
}

template <typename Sum>
void store_matrix_sync(float* to, const Sum& from, unsigned row, layout_t) {
  check(to, row % 4 == 0);
  if (!is_first_lane()) return;
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) to[i * row + j] = from.values[i][j];
  }
}

}  // namespace nvcuda::wmma
