// Gelu(product + bias), what stands between the two products of an MLP.
#pragma once

#include "vector_math.h"

namespace dvfl {
namespace DVFL_ISA {

template <bool bytes, int count>
DVFL_INLINE void bias_gelu_group(const float* product, const float* bias, int64_t at,
                                 const Output& out, const Quantiser& quantiser) {
  Vec x[count];
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i) x[i] = load(product + i * kLanes) + load(bias + i * kLanes);
  gelu(x, tail_for<bytes>());
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i) {
    if (bytes) {
      store_bytes(static_cast<uint8_t*>(out.data) + at + i * kLanes, quantiser(x[i]), kLanes);
    } else {
      store(static_cast<float*>(out.data) + at + i * kLanes, x[i]);
    }
  }
}

template <bool bytes>
void bias_gelu_rows(const float* product, const float* bias, int64_t features, int64_t rows,
                    const Output& out) {
  constexpr int kGroup = kRegisters / 4;
  const Quantiser quantiser(bytes ? out.scale : 1.0f, out.zero_point);
  for (int64_t row = 0; row < rows; ++row) {
    int64_t at = row * features, f = 0;
    for (; f + kGroup * kLanes <= features; f += kGroup * kLanes) {
      bias_gelu_group<bytes, kGroup>(product + at + f, bias + f, at + f, out, quantiser);
    }
    for (; f + kLanes <= features; f += kLanes) {
      bias_gelu_group<bytes, 1>(product + at + f, bias + f, at + f, out, quantiser);
    }
    if (f < features) {
      Vec x[1] = {load_some(product + at + f, features - f) + load_some(bias + f, features - f)};
      gelu(x, tail_for<bytes>());
      if (bytes) {
        store_bytes(static_cast<uint8_t*>(out.data) + at + f, quantiser(x[0]), features - f);
      } else {
        store_some(static_cast<float*>(out.data) + at + f, x[0], features - f);
      }
    }
  }
}

inline void bias_gelu(const float* product, const float* bias, int64_t features, int64_t rows,
                      const Output& out) {
  auto* compute = out.scale == 0.0f ? bias_gelu_rows<false> : bias_gelu_rows<true>;
  compute(product, bias, features, rows, out);
}

}  // namespace DVFL_ISA
}  // namespace dvfl
