// Products with register tiles: the sizes of a tile, and the sums of bytes, uint8 times int8 in int32.
//
// Weights have 7 bits (-64 to 64): without VNNI two products are added in 16 bits, which hold no
// more.
// The sums of bytes hold the zero point times the sum of the weights too much; they start at minus
// that instead of zero.
#pragma once

#include "vector.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace dvfl {
namespace DVFL_ISA {

// Rows of a tile: with two vectors of columns each, their sums, two weights and a value fit the
// registers.
constexpr int kRows = kRegisters == 16 ? 6 : kLanes == 16 ? 14 : 10;
constexpr int kPanel = 2 * kLanes;  // columns that are computed together

DVFL_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
DVFL_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
DVFL_INLINE int64_t round_up(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }
#if defined(__ARM_NEON)
constexpr bool kSigned = true;  // the instructions multiply signed bytes alone
#else
constexpr bool kSigned = false;
#endif

typedef IntVec UnalignedIntVec __attribute__((aligned(4), may_alias));

DVFL_INLINE IntVec load_ints(const int32_t* from) {
  return *reinterpret_cast<const UnalignedIntVec*>(from);
}

// Four bytes from `from`, for add_products.
DVFL_INLINE IntVec four_bytes(const uint8_t* from) {
#if defined(__ARM_FEATURE_DOTPROD)
  typedef uint32_t Four __attribute__((aligned(1), may_alias));
  IntVec first;  // the instruction takes them from the first lane; GCC would fill the others, too
  asm("ldr %s0, %1" : "=w"(first) : "m"(*reinterpret_cast<const Four*>(from)));
  return first;
#else
  int32_t four;
  std::memcpy(&four, from, sizeof(four));
  return four - IntVec{};
#endif
}

// sum + the products of the four bytes of each lane. Before the intrinsics of VNNI, GCC 12 copies each
// sum, and has no registers for that.
DVFL_INLINE IntVec add_products(IntVec sum, IntVec bytes, IntVec weights) {
#if defined(__AVX512VNNI__)
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(weights));
  return sum;
#elif defined(__AVXVNNI__)
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(bytes), "x"(weights));
  return sum;
#elif defined(__AVX512BW__)
  __m512i pairs = _mm512_maddubs_epi16((__m512i)bytes, (__m512i)weights);
  return sum + (IntVec)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif defined(__AVX2__)
  __m256i pairs = _mm256_maddubs_epi16((__m256i)bytes, (__m256i)weights);
  return sum + (IntVec)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(__ARM_FEATURE_DOTPROD)
  return (IntVec)vdotq_laneq_s32((int32x4_t)sum, (int8x16_t)weights, (int8x16_t)bytes, 0);
#elif defined(__ARM_NEON)
  int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)weights), vget_low_s8((int8x16_t)bytes));
  int16x8_t high = vmull_high_s8((int8x16_t)weights, (int8x16_t)bytes);
  return (IntVec)vpadalq_s16((int32x4_t)sum, vpaddq_s16(low, high));
#else
  uint8_t value[sizeof(IntVec)];
  int8_t weight[sizeof(IntVec)];
  std::memcpy(value, &bytes, sizeof(bytes));
  std::memcpy(weight, &weights, sizeof(weights));
  for (int i = 0; i < static_cast<int>(sizeof(IntVec)); ++i) sum[i / 4] += value[i] * weight[i];
  return sum;
#endif
}

// Rows i = 0 .. R - 1 of `a` begin at a + i * row. Sums over `depth` groups of four bytes of each of
// `taps` rows that are `frame` apart; they start at `starts`. Five pointers reach 14 rows: a machine
// has not 14 registers for them.
template <int R, int V>
void int8_product(const uint8_t* a, int64_t row, int64_t frame, int64_t taps, int64_t depth,
                  const int8_t* weights, const int32_t* starts, int32_t* sums) {
  IntVec acc[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[i][v] = load_ints(starts + v * kLanes);
  }
  for (int64_t tap = 0; tap < taps; ++tap) {
    const uint8_t* rows[(R + 2) / 3];
#pragma GCC unroll 16
    for (int i = 0; i < R; i += 3) rows[i / 3] = a + tap * frame + i * row;
    for (int64_t k = 0; k < depth; ++k) {
      IntVec w[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) std::memcpy(&w[v], weights + v * sizeof(IntVec), sizeof(IntVec));
      weights += V * sizeof(IntVec);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        IntVec value = four_bytes(rows[i / 3] + i % 3 * row);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[i][v] = add_products(acc[i][v], value, w[v]);
      }
#pragma GCC unroll 16
      for (int i = 0; i < R; i += 3) rows[i / 3] += 4;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      std::memcpy(sums + i * kPanel + v * kLanes, &acc[i][v], sizeof(IntVec));
    }
  }
}

using Int8Product = void (*)(const uint8_t*, int64_t, int64_t, int64_t, int64_t, const int8_t*,
                             const int32_t*, int32_t*);

// The product for so many rows.
template <int V, int R = kRows>
DVFL_INLINE Int8Product int8_product_of(int64_t rows) {
  if constexpr (R > 0) {
    return rows == R ? int8_product<R, V> : int8_product_of<V, R - 1>(rows);
  } else {
    return nullptr;
  }
}

}  // namespace DVFL_ISA
}  // namespace dvfl
