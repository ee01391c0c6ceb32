// The aggregation over time in float32.
//
// Packed: the bias (T, columns), then the weights of each level, (panels, k, C in, columns of the
// panel), so that a product reads them in order.
#pragma once

#include "temporal.h"

namespace dvfl {
namespace DVFL_ISA {
namespace temporal {

DVFL_INLINE int64_t fp32_level_floats(const Context& c, int64_t level) {
  return columns(c) * c.kernel_sizes[level] * c.channels;
}

// Rows i = 0 .. R - 1 of `a` begin at a + i * row. Sums over `depth` values of each of `taps` rows
// that are `frame` apart. Five pointers reach 14 rows: a machine has not 14 registers for them.
template <int R, int V>
void fp32_product(const float* a, int64_t row, int64_t frame, int64_t taps, int64_t depth,
                  const float* weights, float* sums) {
  Vec acc[R][V] = {};
  for (int64_t tap = 0; tap < taps; ++tap) {
    const float* rows[(R + 2) / 3];
#pragma GCC unroll 16
    for (int i = 0; i < R; i += 3) rows[i / 3] = a + tap * frame + i * row;
    for (int64_t k = 0; k < depth; ++k) {
      Vec w[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) w[v] = load(weights + v * kLanes);
      weights += V * kLanes;
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        Vec value = all(rows[i / 3][i % 3 * row]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[i][v] += value * w[v];
      }
#pragma GCC unroll 16
      for (int i = 0; i < R; i += 3) ++rows[i / 3];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(sums + i * kPanel + v * kLanes, acc[i][v]);
  }
}

using Fp32Product = void (*)(const float*, int64_t, int64_t, int64_t, int64_t, const float*,
                             float*);

// The product for so many rows.
template <int V, int R = kRows>
DVFL_INLINE Fp32Product fp32_product_of(int64_t rows) {
  if constexpr (R > 0) {
    return rows == R ? fp32_product<R, V> : fp32_product_of<V, R - 1>(rows);
  } else {
    return nullptr;
  }
}

struct Fp32Level {
  using Value = float;
  using Sum = float;
  using Out = float;
  static constexpr bool kBytes = false;
  static constexpr bool kSeparateTotals = false;

  const float* bias;  // (T, columns) of the first level
  const float* weights;
  int64_t channels, taps, bias_row;

  Fp32Level(const Context& c, const void* packed, int64_t level)
      : bias(level == 0 ? static_cast<const float*>(packed) : nullptr),
        weights(static_cast<const float*>(packed) + c.frames * columns(c)),
        channels(c.channels), taps(c.kernel_sizes[level]), bias_row(columns(c)) {
    for (int64_t l = 0; l < level; ++l) weights += fp32_level_floats(c, l);
  }

  // Rows a page apart evict each other from the first cache.
  static bool staged(const Context& c) { return c.channels % 1024 == 0; }
  static void stage(const Context& c, const float* from, float* to) {
    std::memcpy(to, from, static_cast<size_t>(c.channels) * sizeof(float));
  }
  static Tokens<float> totals(const Context&, const Tokens<float>& out, void*) { return out; }

  template <int V>
  DVFL_INLINE void sums(const Tokens<const float>& in, const Reach& frames, int64_t,
                        const Place& at, float* tile) const {
    const float* w = weights + at.column * taps * channels + frames.tap * channels * V * kLanes;
    fp32_product_of<V>(at.rows)(in.at(frames.begin, at.pixel), in.row, in.frame,
                                frames.end - frames.begin, channels, w, tile);
  }
  DVFL_INLINE Vec floats(const float* sums, int64_t t, int64_t column) const {
    Vec x = load(sums);
    return bias ? x + load(bias + t * bias_row + column) : x;
  }
  DVFL_INLINE void keep(Vec x, float* to) const { store(to, x); }
  DVFL_INLINE void emit(Vec x, float* to, int64_t valid) const { store_valid(to, x, valid); }
};

inline int64_t fp32_packed_bytes(const Context& c) {
  int64_t floats = c.frames * columns(c);
  for (int64_t l = 0; l < c.levels; ++l) floats += fp32_level_floats(c, l);
  return floats * static_cast<int64_t>(sizeof(float));
}

// (C out, C in, k) -> (panel, k, C in, columns of the panel), zeros beyond the last column.
inline void fp32_pack(const Context& c, void* packed) {
  float* to = static_cast<float*>(packed);
  pack_bias(c, to);
  to += c.frames * columns(c);
  for (int64_t level = 0; level < c.levels; ++level) {
    const float* kernel = static_cast<const float*>(c.kernels[level]);
    int64_t k = c.kernel_sizes[level];
    for (int64_t first = 0; first < columns(c); first += kPanel) {
      int64_t end = least(columns(c), first + kPanel);
      for (int64_t tap = 0; tap < k; ++tap) {
        for (int64_t i = 0; i < c.channels; ++i) {
          for (int64_t n = first; n < end; ++n) {
            *to++ = n < c.channels ? kernel[(n * c.channels + i) * k + tap] : 0.0f;
          }
        }
      }
    }
  }
}

}  // namespace temporal
}  // namespace DVFL_ISA
}  // namespace dvfl
