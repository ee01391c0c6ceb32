// The product of a linear layer in bytes: uint8 tokens times int8 weights, given out in float32.
//
// Packed: the scales of the sums (columns), the bias (columns), their starts (columns), and the
// weights, (panels, inputs / 4, columns of the panel, 4), zeros beyond the last input and output.
#pragma once

#include "products.h"

namespace dvfl {
namespace DVFL_ISA {
namespace linear {

DVFL_INLINE int64_t columns(const Linear& l) { return round_up(l.outputs, kLanes); }
DVFL_INLINE int64_t groups(const Linear& l) { return (l.inputs + 3) / 4; }

// Where the parts lie.
struct Packed {
  float* scales;
  float* bias;
  int32_t* starts;
  int8_t* weights;

  Packed(const Linear& l, const void* packed)
      : scales(static_cast<float*>(const_cast<void*>(packed))),
        bias(scales + columns(l)),
        starts(reinterpret_cast<int32_t*>(bias + columns(l))),
        weights(reinterpret_cast<int8_t*>(starts + columns(l))) {}
};

inline int64_t packed_bytes(const Linear& l) { return columns(l) * (3 + groups(l)) * 4; }

inline void pack(const Linear& l, void* memory) {
  Packed to(l, memory);
  const int32_t zero = kSigned ? l.zero_point - 128 : l.zero_point;
  for (int64_t n = 0; n < columns(l); ++n) {
    const bool inside = n < l.outputs;
    to.scales[n] = inside ? l.input_scale * l.weight_scales[n] : 0.0f;
    to.bias[n] = inside && l.bias ? l.bias[n] : 0.0f;
    int32_t sum = 0;
    for (int64_t k = 0; inside && k < l.inputs; ++k) sum += l.weights[k * l.outputs + n];
    to.starts[n] = -zero * sum;
  }
  for (int64_t first = 0; first < columns(l); first += kPanel) {
    const int64_t end = least(columns(l), first + kPanel);
    for (int64_t k = 0; k < groups(l) * 4; k += 4) {
      for (int64_t n = first; n < end; ++n) {
        for (int64_t i = k; i < k + 4; ++i) {
          const bool inside = n < l.outputs && i < l.inputs;
          *to.weights++ = inside ? l.weights[i * l.outputs + n] : int8_t{0};
        }
      }
    }
  }
}

// Rows are copied where the instructions want signed bytes or whole groups, and where they would lie
// a page apart: such rows evict each other from the first cache.
DVFL_INLINE bool staged(const Linear& l) {
  return kSigned || l.inputs % 4 != 0 || l.inputs % 4096 == 0;
}

DVFL_INLINE int64_t staged_row(const Linear& l) { return round_up(l.inputs, 64) + 64; }

inline int64_t scratch_bytes(const Linear& l, int64_t rows) {
  return staged(l) ? rows * staged_row(l) : 0;
}

inline void stage(const Linear& l, const uint8_t* from, int64_t rows, uint8_t* to) {
  for (int64_t row = 0; row < rows; ++row, from += l.inputs, to += staged_row(l)) {
    for (int64_t i = 0; i < l.inputs; ++i) to[i] = kSigned ? from[i] ^ 0x80 : from[i];
    std::memset(to + l.inputs, 0, static_cast<size_t>(groups(l) * 4 - l.inputs));
  }
}

// Writes a tile of V vectors of columns.
template <int V>
DVFL_INLINE void give_out(const int32_t* sums, const float* scales, const float* bias, int64_t rows,
                          int64_t valid, float* to, int64_t stride) {
  for (int64_t row = 0; row < rows; ++row) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      Vec x = __builtin_convertvector(load_ints(sums + row * kPanel + v * kLanes), Vec);
      x = x * load(scales + v * kLanes) + load(bias + v * kLanes);
      const int64_t count = valid - v * kLanes;
      float* at = to + row * stride + v * kLanes;
      count >= kLanes ? store(at, x) : store_some(at, x, count);
    }
  }
}

template <int V>
void panel(const Packed& w, int64_t column, int64_t depth, const uint8_t* bytes, int64_t row_bytes,
           int64_t rows, float* to, int64_t outputs) {
  alignas(kAlignment) int32_t sums[kRows * kPanel];
  for (int64_t row = 0; row < rows; row += kRows) {
    const int64_t count = least(kRows, rows - row);
    int8_product_of<V>(count)(bytes + row * row_bytes, row_bytes, 0, 1, depth,
                              w.weights + column * depth * 4, w.starts + column, sums);
    give_out<V>(sums, w.scales + column, w.bias + column, count, outputs - column,
                to + row * outputs + column, outputs);
  }
}

inline void run(const Linear& l, const void* packed, const uint8_t* bytes, int64_t rows, float* product,
                void* scratch) {
  const Packed w(l, packed);
  int64_t row_bytes = l.inputs;
  if (staged(l)) {
    stage(l, bytes, rows, static_cast<uint8_t*>(scratch));
    bytes = static_cast<uint8_t*>(scratch);
    row_bytes = staged_row(l);
  }
  for (int64_t column = 0; column < l.outputs; column += kPanel) {
    auto* compute = l.outputs - column > kLanes ? panel<2> : panel<1>;
    compute(w, column, groups(l), bytes, row_bytes, rows, product, l.outputs);
  }
}

}  // namespace linear
}  // namespace DVFL_ISA
}  // namespace dvfl
