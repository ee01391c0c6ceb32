// GELU and quantisation of vectors.
#pragma once

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "vector.h"

namespace dvfl {
namespace DVFL_ISA {

// gelu(x) = max(x, 0) - |x| Q(|x|), where Q(a) = (1 - erf(a / sqrt 2)) / 2 is the tail of the normal
// distribution. It costs no division and no exponential: Q on [0, end] is the polynomial with the least
// largest error, in t = 2 a / end - 1; beyond it |x| Q(|x|) stays what it is at the end.
template <int count>
struct Tail {
  float end;
  float polynomial[count];
};

// Q within 2.5e-8, and |x| Q(|x|) below 8e-7 at the end. With rounding the error is below 2 ulp of x, and
// below -4, where GELU vanishes, 4e-7 more: a GELU by an erf that is right within 2 ulp has no better bound.
constexpr Tail<17> kTail = {
    5.25f,
    {0.00433244137f, -0.0334013887f, 0.115077838f,   -0.225937679f,  0.257063508f,  -0.121047691f,
     -0.097263895f,  0.196974009f,   -0.0973429605f, -0.0638304129f, 0.102197379f,  -0.015996471f,
     -0.0418765284f, 0.0170721058f,  0.00846141577f, -0.00383246015f, -0.000649162917f}};

// Where the result is rounded to bytes, whose steps are hundreds of times as large: within 1.5e-5.
constexpr Tail<10> kTailForBytes = {
    4.5f,
    {0.0122210849f, -0.071345143f, 0.180929497f, -0.246440902f, 0.156382799f, 0.0372243114f, -0.128872246f,
     0.0499204695f, 0.0293145049f, -0.0193342511f}};

template <bool bytes>
DVFL_INLINE constexpr auto& tail_for() {
  if constexpr (bytes) {
    return kTailForBytes;
  } else {
    return kTail;
  }
}

// Replaces each of `count` vectors by its GELU; they are independent, which hides latency.
template <int terms, int count>
DVFL_INLINE void gelu(Vec (&x)[count], const Tail<terms>& tail) {
  Vec t[count], p[count];
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) {
    t[i] = min(absolute(x[i]), all(tail.end)) * (2.0f / tail.end) - 1.0f;
    p[i] = all(tail.polynomial[terms - 1]);
  }
#pragma GCC unroll 32
  for (int term = terms - 2; term >= 0; --term) {
    Vec coefficient = all(tail.polynomial[term]);
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) p[i] = p[i] * t[i] + coefficient;
  }
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) {
    // in this order max gives NaN for NaN
    x[i] = max(Vec{}, x[i]) - min(absolute(x[i]), all(tail.end)) * p[i];
  }
}

// QuantizeLinear to bytes. It multiplies by 1 / scale where the operator divides, so a value whose
// quotient lies within an ulp of a tie may get the other neighbour.
struct Quantiser {
  float inverse, lowest, highest;
  int32_t zero_point;

  DVFL_INLINE Quantiser(float scale, int32_t zero)
      : inverse(1.0f / scale),
        lowest(static_cast<float>(-zero)),
        highest(static_cast<float>(255 - zero)),
        zero_point(zero) {}

  // Integers from 0 to 255.
  DVFL_INLINE IntVec operator()(Vec x) const {
    // a sum with 1.5 * 2^23 has the number rounded to even in its last bits
    constexpr float kRound = 12582912.0f;
    Vec sum = min(max(x * inverse, all(lowest)), all(highest)) + kRound;
    IntVec bits;
    std::memcpy(&bits, &sum, sizeof(bits));
    return bits - (0x4B400000 - zero_point);
  }
};

// The first `count` of integers from 0 to 255.
DVFL_INLINE void store_bytes(uint8_t* to, IntVec values, int64_t count) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  // the compiler would take the vector apart
  __m256i whole;
  std::memcpy(&whole, &values, sizeof(whole));
  __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  __m128i bytes = _mm_packus_epi16(words, words);
#else
  ByteVec bytes = __builtin_convertvector(values, ByteVec);
#endif
  std::memcpy(to, &bytes, static_cast<size_t>(count));
}

}  // namespace DVFL_ISA
}  // namespace dvfl
