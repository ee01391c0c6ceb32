// The aggregation over time in bytes: uint8 tokens times int8 weights, summed in int32.
//
// A frame outside of the clip is a zero, not a byte 0: the sums of such frames start at another value.
//
// Packed: scale_1 to scale_L, the bias (T, columns), then for each level the scales of its sums
// (columns), their starts (T, columns), and the weights, (panels, k, C in / 4, columns of the panel,
// 4).
#pragma once

#include "temporal.h"

namespace dvfl {
namespace DVFL_ISA {
namespace temporal {

DVFL_INLINE int64_t groups(const Context& c) { return (c.channels + 3) / 4; }

// Where the parts of a level lie.
struct Int8Packed {
  float* scales;    // (columns)
  int32_t* starts;  // (T, columns)
  int8_t* weights;

  Int8Packed(const Context& c, const void* packed, int64_t level) {
    char* at = static_cast<char*>(const_cast<void*>(packed));
    at += round_up(c.levels * 4, 64) + c.frames * columns(c) * 4;
    for (int64_t l = 0; l < level; ++l) at += bytes(c, l);
    scales = reinterpret_cast<float*>(at);
    starts = reinterpret_cast<int32_t*>(at + columns(c) * 4);
    weights = reinterpret_cast<int8_t*>(at + columns(c) * (c.frames + 1) * 4);
  }
  static int64_t bytes(const Context& c, int64_t level) {
    int64_t weights = columns(c) * c.kernel_sizes[level] * groups(c) * 4;
    return round_up(columns(c) * (c.frames + 1) * 4 + weights, 64);
  }
};

struct Int8Level {
  using Value = uint8_t;
  using Sum = int32_t;
  using Out = uint8_t;
  static constexpr bool kBytes = true;
  static constexpr bool kSeparateTotals = true;

  const float* bias;  // (T, columns) of the first level
  Int8Packed packed;
  int64_t depth, taps, row;  // groups of input channels, taps of a kernel, columns
  Quantiser next, output;    // of what is handed on and given out

  Int8Level(const Context& c, const void* memory, int64_t level)
      : bias(level == 0 ? static_cast<const float*>(memory) + round_up(c.levels, 16) : nullptr),
        packed(c, memory, level),
        depth(groups(c)),
        taps(c.kernel_sizes[level]),
        row(columns(c)),
        next(level + 1 < c.levels ? static_cast<const float*>(memory)[level + 1] : 1.0f,
             c.zero_point),
        output(c.output_scale, c.zero_point) {}

  // A product reads whole groups.
  static bool staged(const Context& c) { return kSigned || c.channels % 4 != 0; }
  static void stage(const Context& c, const uint8_t* from, uint8_t* to) {
    for (int64_t n = 0; n < c.channels; ++n) to[n] = kSigned ? from[n] ^ 0x80 : from[n];
    std::memset(to + c.channels, 0, static_cast<size_t>(groups(c) * 4 - c.channels));
  }
  static Tokens<float> totals(const Context& c, const Tokens<uint8_t>&, void* memory) {
    return buffer<float>(c, memory, 0);
  }

  template <int V>
  DVFL_INLINE void sums(const Tokens<const uint8_t>& in, const Reach& frames, int64_t t,
                        const Place& at, int32_t* tile) const {
    const int8_t* w = packed.weights + (at.column * taps + frames.tap * V * kLanes) * depth * 4;
    int8_product_of<V>(at.rows)(in.at(frames.begin, at.pixel), in.row, in.frame,
                                frames.end - frames.begin, depth, w,
                                packed.starts + t * row + at.column, tile);
  }
  DVFL_INLINE Vec floats(const int32_t* sums, int64_t t, int64_t column) const {
    Vec x = __builtin_convertvector(load_ints(sums), Vec) * load(packed.scales + column);
    return bias ? x + load(bias + t * row + column) : x;
  }
  DVFL_INLINE void keep(Vec x, uint8_t* to) const {
    IntVec bytes = next(x);
    if (kSigned) bytes ^= 0x80;
    store_bytes(to, bytes, kLanes);
  }
  DVFL_INLINE void emit(Vec x, uint8_t* to, int64_t valid) const {
    store_bytes(to, output(x), least(kLanes, valid));
  }
};

inline int64_t int8_packed_bytes(const Context& c) {
  return static_cast<int64_t>(
      reinterpret_cast<uintptr_t>(Int8Packed(c, nullptr, c.levels).scales));
}

// (C out, C in, k) -> (panel, k, groups, columns of the panel, 4), zeros beyond the last channels.
inline void int8_pack_weights(const Context& c, int64_t level, int8_t* to) {
  const int8_t* kernel = static_cast<const int8_t*>(c.kernels[level]);
  int64_t k = c.kernel_sizes[level];
  for (int64_t first = 0; first < columns(c); first += kPanel) {
    int64_t end = least(columns(c), first + kPanel);
    for (int64_t tap = 0; tap < k; ++tap) {
      for (int64_t group = 0; group < groups(c); ++group) {
        for (int64_t n = first; n < end; ++n) {
          for (int64_t i = group * 4; i < group * 4 + 4; ++i) {
            bool inside = n < c.channels && i < c.channels;
            *to++ = inside ? kernel[(n * c.channels + i) * k + tap] : int8_t{0};
          }
        }
      }
    }
  }
}

// Minus what the zero point adds to the sums of each frame, (T, columns).
inline void int8_pack_starts(const Context& c, int64_t level, int32_t* to) {
  const int8_t* kernel = static_cast<const int8_t*>(c.kernels[level]);
  int64_t k = c.kernel_sizes[level];
  int32_t zero = kSigned ? c.zero_point - 128 : c.zero_point;
  for (int64_t t = 0; t < c.frames; ++t) {
    Reach frames = reach(c, level, t);
    int64_t end = frames.tap + frames.end - frames.begin;
    for (int64_t n = 0; n < columns(c); ++n) {
      int32_t sum = 0;
      for (int64_t i = 0; n < c.channels && i < c.channels; ++i) {
        const int8_t* taps = kernel + (n * c.channels + i) * k;
        for (int64_t tap = frames.tap; tap < end; ++tap) sum += taps[tap];
      }
      to[t * columns(c) + n] = -zero * sum;
    }
  }
}

inline void int8_pack(const Context& c, void* memory) {
  float* scales = static_cast<float*>(memory);
  float* bias = scales + round_up(c.levels, 16);
  for (int64_t l = 0; l < c.levels; ++l) scales[l] = c.input_scales[l];
  pack_bias(c, bias);
  for (int64_t level = 0; level < c.levels; ++level) {
    Int8Packed to(c, memory, level);
    for (int64_t n = 0; n < columns(c); ++n) {
      to.scales[n] = n < c.channels ? c.input_scales[level] * c.kernel_scales[level][n] : 0.0f;
    }
    int8_pack_starts(c, level, to.starts);
    int8_pack_weights(c, level, to.weights);
  }
}

}  // namespace temporal
}  // namespace DVFL_ISA
}  // namespace dvfl
