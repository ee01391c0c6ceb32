// SpatialContext and QSpatialContext: a part is 16 channels of one frame, the width of a cache line,
// and is done in blocks of as many channels as a vector holds.
//
// The planes of all levels lie in the scratch, with a border of zeros, as wide as the next kernel
// needs: of a 56 x 56 frame they take 0.6 MB with 16 lanes, which stays in the cache. A plane is
// (height + 2 pad, width + 2 pad) vectors. The context is read and the modulator written where they
// lie.
#pragma once

#include "vector_math.h"

namespace dvfl {
namespace DVFL_ISA {

// The plane that a level reads, or, without a kernel after it, the last level's output.
struct Plane {
  float* data;
  int64_t pad, stride;  // of a row, in floats

  DVFL_INLINE float* row(int64_t y) const { return data + (y + pad) * stride + pad * kLanes; }
  // of the row that the first tap of output row y reads
  DVFL_INLINE const float* taps(int64_t y) const { return data + y * stride; }
};

DVFL_INLINE int64_t plane_floats(const Context& c, int64_t level) {
  int64_t pad = level < c.levels ? c.kernel_sizes[level] / 2 : 0;
  return (c.height + 2 * pad) * (c.width + 2 * pad) * kLanes;
}

DVFL_INLINE Plane plane_at(const Context& c, int64_t level, float* data) {
  int64_t pad = level < c.levels ? c.kernel_sizes[level] / 2 : 0;
  return {data, pad, (c.width + 2 * pad) * kLanes};
}

DVFL_INLINE int64_t channel_blocks(const Context& c) { return (c.channels + kLanes - 1) / kLanes; }

inline int64_t spatial_packed_bytes(const Context& c) {
  int64_t vectors = 0;
  for (int64_t l = 0; l < c.levels; ++l) vectors += c.kernel_sizes[l] * c.kernel_sizes[l];
  return channel_blocks(c) * vectors * kLanes * static_cast<int64_t>(sizeof(float));
}

// (C, 1, k, k) of each level -> (blocks, levels, k, k, kLanes)
inline void spatial_pack(const Context& c, void* packed) {
  float* to = static_cast<float*>(packed);
  for (int64_t block = 0; block < channel_blocks(c); ++block) {
    for (int64_t l = 0; l < c.levels; ++l) {
      const float* kernel = static_cast<const float*>(c.kernels[l]);
      int64_t taps = c.kernel_sizes[l] * c.kernel_sizes[l];
      for (int64_t tap = 0; tap < taps; ++tap) {
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          int64_t channel = block * kLanes + lane;
          *to++ = channel < c.channels ? kernel[channel * taps + tap] : 0.0f;
        }
      }
    }
  }
}

inline int64_t spatial_scratch_bytes(const Context& c) {
  int64_t floats = 0;
  for (int64_t l = 0; l <= c.levels; ++l) floats += plane_floats(c, l);
  return floats * static_cast<int64_t>(sizeof(float));
}

constexpr int64_t kPartBlocks = 16 / kLanes;

DVFL_INLINE int64_t frame_parts(const Context& c) {
  return (channel_blocks(c) + kPartBlocks - 1) / kPartBlocks;
}

inline int64_t spatial_parts(const Context& c) { return c.frames * frame_parts(c); }

DVFL_INLINE void clear(float* begin, const float* end) {
  for (; begin < end; begin += kLanes) store(begin, Vec{});
}

DVFL_INLINE void clear_border(const Context& c, const Plane& plane) {
  const int64_t side = plane.pad * kLanes, above = plane.pad * plane.stride;
  clear(plane.data, plane.data + above);
  for (int64_t y = 0; y < c.height; ++y) {
    float* begin = plane.row(y);
    float* end = begin + c.width * kLanes;
    clear(begin - side, begin);
    clear(end, end + side);
  }
  float* below = plane.data + above + c.height * plane.stride;
  clear(below, below + above);
}

// The context of the frame, (pixels, channels), into the first plane.
DVFL_INLINE void read_context(const Context& c, const float* from, int64_t lanes,
                              const Plane& plane) {
  for (int64_t y = 0; y < c.height; ++y) {
    float* to = plane.row(y);
    for (int64_t x = 0; x < c.width; ++x, from += c.channels, to += kLanes) {
      store(to, lanes == kLanes ? load(from) : load_some(from, lanes));
    }
  }
}

// The convolution and GELU of `count` pixels beside each other; size 0: `taps` says how large the
// kernel is. Returns their sum.
template <bool bytes, int size, int count>
DVFL_INLINE Vec conv_gelu(const float* in, int64_t stride, const float* kernel, int64_t taps,
                          float* out) {
  const int64_t width = size ? size : taps;
  Vec sum[count] = {};
  for (int64_t i = 0; i < width; ++i, in += stride, kernel += width * kLanes) {
    if constexpr (size > 0) {
      Vec weight[size];
#pragma GCC unroll 8
      for (int j = 0; j < size; ++j) weight[j] = load(kernel + j * kLanes);
#pragma GCC unroll 16
      for (int x = 0; x < count + size - 1; ++x) {
        Vec value = load(in + x * kLanes);
#pragma GCC unroll 8
        for (int j = 0; j < size; ++j) {
          if (x - j >= 0 && x - j < count) sum[x - j] += value * weight[j];
        }
      }
    } else {
      for (int64_t j = 0; j < width; ++j) {
        Vec weight = load(kernel + j * kLanes);
#pragma GCC unroll 8
        for (int p = 0; p < count; ++p) sum[p] += load(in + (j + p) * kLanes) * weight;
      }
    }
  }
  gelu(sum, tail_for<bytes>());
  Vec total = sum[0];
#pragma GCC unroll 8
  for (int p = 0; p < count; ++p) {
    store(out + p * kLanes, sum[p]);
    if (p > 0) total += sum[p];
  }
  return total;
}

// One level from its plane into the next; returns the sum over the pixels.
template <bool bytes, int size>
Vec spatial_level(const Context& c, const Plane& in, const float* kernel, int64_t taps,
                  const Plane& out) {
  constexpr int kTile = 7;  // divides 14, 28 and 56; its sums and the weights fit 16 registers
  Vec total = {};
  for (int64_t y = 0; y < c.height; ++y) {
    const float* from = in.taps(y);
    float* to = out.row(y);
    Vec row = {};
    int64_t x = 0;
    for (; x + kTile <= c.width; x += kTile) {
      row += conv_gelu<bytes, size, kTile>(from + x * kLanes, in.stride, kernel, taps, to + x * kLanes);
    }
    for (; x + 2 <= c.width; x += 2) {
      row += conv_gelu<bytes, size, 2>(from + x * kLanes, in.stride, kernel, taps, to + x * kLanes);
    }
    for (; x < c.width; ++x) {
      row += conv_gelu<bytes, size, 1>(from + x * kLanes, in.stride, kernel, taps, to + x * kLanes);
    }
    total += row;
  }
  return total;
}

template <bool bytes>
DVFL_INLINE Vec any_level(const Context& c, const Plane& in, const float* kernel, int64_t taps,
                          const Plane& out) {
  switch (taps) {
    case 3:
      return spatial_level<bytes, 3>(c, in, kernel, taps, out);
    case 5:
      return spatial_level<bytes, 5>(c, in, kernel, taps, out);
    default:
      return spatial_level<bytes, 0>(c, in, kernel, taps, out);
  }
}

// Where a frame's part of the modulator goes, and the gates of its first pixel.
struct GatedSum {
  const float* gates;
  int64_t first;  // index of the modulator's first value
  int64_t lanes;
  Vec everywhere;
};

// The levels' outputs times their gates, and the mean's; levels 0: the context says how many.
template <bool bytes, int levels>
void write_modulator(const Context& c, const Plane* outputs, const GatedSum& sum, void* modulator) {
  const int64_t number = levels ? levels : c.levels, gates = c.gates();
  const Quantiser quantiser(bytes ? c.output_scale : 1.0f, c.zero_point);
  const float* gate = sum.gates;
  int64_t at = sum.first;
  for (int64_t y = 0; y < c.height; ++y) {
    for (int64_t x = 0; x < c.width; ++x, gate += gates, at += c.channels) {
      Vec total = sum.everywhere * gate[number];
#pragma GCC unroll 4
      for (int64_t l = 0; l < number; ++l) {
        total += load(outputs[l].row(y) + x * kLanes) * gate[l];
      }
      if (bytes) {
        store_bytes(static_cast<uint8_t*>(modulator) + at, quantiser(total), sum.lanes);
      } else if (sum.lanes == kLanes) {
        store(static_cast<float*>(modulator) + at, total);
      } else {
        store_some(static_cast<float*>(modulator) + at, total, sum.lanes);
      }
    }
  }
}

// Computes one block of channels of one frame, counted over the batch.
template <bool bytes>
void spatial_block(const Context& c, const float* kernel, const ContextCall& call,
                          int64_t frame, int64_t first, float* scratch) {
  int64_t lanes = c.channels - first < kLanes ? c.channels - first : kLanes;
  int64_t tokens = frame * c.pixels();
  Plane planes[kMostLevels + 1];
  for (int64_t l = 0; l <= c.levels; ++l) {
    planes[l] = plane_at(c, l, scratch);
    scratch += plane_floats(c, l);
    clear_border(c, planes[l]);
  }
  read_context(c, static_cast<const float*>(call.context) + tokens * c.channels + first, lanes,
               planes[0]);
  Vec total = {};
  for (int64_t l = 0; l < c.levels; ++l) {
    int64_t taps = c.kernel_sizes[l];
    total = any_level<bytes>(c, planes[l], kernel, taps, planes[l + 1]);
    kernel += taps * taps * kLanes;
  }
  Vec everywhere[1] = {total * (1.0f / static_cast<float>(c.pixels()))};
  gelu(everywhere, tail_for<bytes>());
  GatedSum sum{call.gates + tokens * c.gates() + c.gate_offset, tokens * c.channels + first, lanes,
               everywhere[0]};
  switch (c.levels) {
    case 2:
      return write_modulator<bytes, 2>(c, planes + 1, sum, call.modulator);
    case 3:
      return write_modulator<bytes, 3>(c, planes + 1, sum, call.modulator);
    default:
      return write_modulator<bytes, 0>(c, planes + 1, sum, call.modulator);
  }
}

inline void spatial_run(const Context& c, const void* packed, const ContextCall& call, int64_t part,
                        void* scratch) {
  int64_t blocks = channel_blocks(c), parts = frame_parts(c);
  int64_t floats = spatial_packed_bytes(c) / blocks / static_cast<int64_t>(sizeof(float));
  int64_t begin = part % parts * kPartBlocks;
  int64_t end = begin + kPartBlocks < blocks ? begin + kPartBlocks : blocks;
  auto* compute = c.output_scale == 0.0f ? spatial_block<false> : spatial_block<true>;
  for (int64_t block = begin; block < end; ++block) {
    compute(c, static_cast<const float*>(packed) + block * floats, call, part / parts,
                  block * kLanes, static_cast<float*>(scratch));
  }
}

}  // namespace DVFL_ISA
}  // namespace dvfl
