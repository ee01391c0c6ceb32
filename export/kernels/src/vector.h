// Vectors of the instruction set that a file is compiled for, by the compiler's vector extension.
//
// Everything here and in the headers above it is in the namespace DVFL_ISA and includes nothing of
// the standard library but what has no code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace dvfl {
namespace DVFL_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kRegisters = 16;
#else
constexpr int kLanes = 4;
constexpr int kRegisters = 32;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));
typedef uint8_t ByteVec __attribute__((vector_size(kLanes)));

// at any address: tensors of the engines are aligned to no more than their elements
typedef float UnalignedVec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

DVFL_INLINE Vec load(const float* from) {
  return *reinterpret_cast<const UnalignedVec*>(from);
}

DVFL_INLINE void store(float* to, Vec value) { *reinterpret_cast<UnalignedVec*>(to) = value; }

// The first `count` lanes, of 1 to kLanes; the others are zero.
DVFL_INLINE Vec load_some(const float* from, int64_t count) {
  Vec value = {};
  std::memcpy(&value, from, static_cast<size_t>(count) * sizeof(float));
  return value;
}

DVFL_INLINE void store_some(float* to, Vec value, int64_t count) {
  std::memcpy(to, &value, static_cast<size_t>(count) * sizeof(float));
}

// Not Vec{} + value: that is another number for -0, so the compiler would add.
DVFL_INLINE Vec all(float value) { return value - Vec{}; }

DVFL_INLINE Vec absolute(Vec a) {
  IntVec bits;
  std::memcpy(&bits, &a, sizeof(bits));
  bits &= 0x7FFFFFFF;
  std::memcpy(&a, &bits, sizeof(bits));
  return a;
}

DVFL_INLINE Vec min(Vec a, Vec b) { return a < b ? a : b; }
DVFL_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }

}  // namespace DVFL_ISA
}  // namespace dvfl
