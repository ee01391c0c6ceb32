// The aggregation over time, for float32 and bytes alike.
//
// A convolution over time is a matrix product for each frame and tap: the tokens (pixels, C) of
// the frame t + j, times the tap's weights (C, C), summed over the taps that lie inside the clip.
// A part of the work is a block of pixels with all its frames, small enough that what the levels
// hand to each other stays in the second cache. In it the columns of the result are computed panel
// by panel, in tiles of some pixels; a tile's accumulators are registers, and Gelu, gates and the
// mean over the frames follow while it is in the first cache.
//
// `Numbers` is the arithmetic of a level:
//   kBytes            whether it gives bytes
//   Value, Sum, Out   what is read and handed on, what products are summed in, what comes out
//   sums              the products of a tile in one frame
//   floats            a vector of these sums as real numbers, bias included
//   keep, emit        hand a vector on to the next level; give it out
//   stage             copy tokens for the first level, where `kStaged` or `staged` ask for it
#pragma once

#include "products.h"
#include "vector_math.h"

namespace dvfl {
namespace DVFL_ISA {
namespace temporal {

constexpr int64_t kBlockBytes = 256 * 1024;     // of the float32 tokens of a block
constexpr int64_t kLeastPixels = 28;            // of a block

DVFL_INLINE int64_t columns(const Context& c) { return round_up(c.channels, kLanes); }

// Those of the lanes that are columns of the tensor: `valid` may be more than there are lanes.
DVFL_INLINE Vec load_valid(const float* from, int64_t valid) {
  return valid >= kLanes ? load(from) : load_some(from, valid);
}

DVFL_INLINE void store_valid(float* to, Vec value, int64_t valid) {
  if (valid >= kLanes) {
    store(to, value);
  } else {
    store_some(to, value, valid);
  }
}

// Parts of a clip: blocks of pixels, as many for each thread. As each block reads all weights, it has
// kLeastPixels, unless there would be threads without one.
inline int64_t parts(const Context& c) {
  int64_t pixel_bytes = c.frames * c.channels * static_cast<int64_t>(sizeof(float));
  int64_t block = most(kLeastPixels, kBlockBytes / pixel_bytes) / kRows * kRows;
  int64_t blocks = (c.pixels() + block - 1) / block;
  return least(round_up(blocks, most(1, c.threads)), (c.pixels() + 3) / 4);
}

inline int64_t block_pixels(const Context& c) { return (c.pixels() + parts(c) - 1) / parts(c); }

// Rows of tokens: `first` is the first pixel's of the first frame.
template <typename T>
struct Tokens {
  T* first;
  int64_t row, frame;  // strides in values
  DVFL_INLINE T* at(int64_t t, int64_t pixel) const { return first + t * frame + pixel * row; }
};

// Rows of a buffer do not start at the same place of a page: such rows evict each other.
template <typename T>
DVFL_INLINE int64_t buffer_row(const Context& c) {
  constexpr int64_t kLine = 64 / sizeof(T);
  return round_up(c.channels, kLine) + kLine;
}

template <typename T>
DVFL_INLINE int64_t buffer_values(const Context& c) {
  return c.frames * block_pixels(c) * buffer_row<T>(c);
}

template <typename T>
DVFL_INLINE Tokens<T> buffer(const Context& c, void* memory, int64_t index) {
  T* first = static_cast<T*>(memory) + index * buffer_values<T>(c);
  return {first, buffer_row<T>(c), block_pixels(c) * buffer_row<T>(c)};
}

// The frames that the taps of a frame reach inside the clip.
struct Reach {
  int64_t begin, end, tap;  // the frames, and the tap of the first of them
};

DVFL_INLINE Reach reach(const Context& c, int64_t level, int64_t t) {
  int64_t first = t - c.kernel_sizes[level] / 2;
  int64_t begin = most(0, first);
  return {begin, least(c.frames, first + c.kernel_sizes[level]), begin - first};
}

// (C, T) -> (T, columns), zeros beyond the last channel.
inline void pack_bias(const Context& c, float* to) {
  for (int64_t t = 0; t < c.frames; ++t) {
    for (int64_t n = 0; n < columns(c); ++n) {
      *to++ = n < c.channels ? c.frame_bias[n * c.frames + t] : 0.0f;
    }
  }
}

// What a block is computed with.
template <typename Numbers>
struct Block {
  const Context& c;
  const void* packed;
  int64_t pixels;
  const float* gates;                       // of the block's first pixel in the first frame
  Tokens<const typename Numbers::Value> in;  // of the level
  Tokens<typename Numbers::Value> next;      // what it hands on
  Tokens<float> total;                      // the sum of the gated levels
  Tokens<typename Numbers::Out> out;

  DVFL_INLINE float gate(int64_t t, int64_t pixel, int64_t level) const {
    return gates[(t * c.pixels() + pixel) * c.gates() + c.gate_offset + level];
  }
};

// A tile's place: rows from `pixel`, columns from `column`.
struct Place {
  int64_t pixel, rows, column;
};

// Gelu, gates and sums of one frame of a tile of V vectors; `mean` gets the sum over the frames.
template <typename Numbers, int V, bool last>
DVFL_INLINE void finish_frame(const Block<Numbers>& b, int64_t level, int64_t t, const Place& at,
                              const Numbers& numbers, const typename Numbers::Sum* tile,
                              float* mean) {
  for (int64_t i = 0; i < at.rows; ++i) {
    int64_t pixel = at.pixel + i;
    float gate = b.gate(t, pixel, level);
    float* total = b.total.at(t, pixel) + at.column;
    Vec x[V];
    for (int v = 0; v < V; ++v) {
      x[v] = numbers.floats(tile + i * kPanel + v * kLanes, t, at.column + v * kLanes);
    }
    gelu(x, tail_for<Numbers::kBytes>());
    for (int v = 0; v < V; ++v) {
      int64_t offset = v * kLanes, valid = b.c.channels - at.column - offset;
      if (!last) numbers.keep(x[v], b.next.at(t, pixel) + at.column + offset);
      Vec part = x[v] * gate;
      if (level > 0) part += load_valid(total + offset, valid);
      store_valid(total + offset, part, valid);
      float* sum = mean + i * kPanel + offset;
      if (last) store(sum, t > 0 ? load(sum) + x[v] : x[v]);
    }
  }
}

// Adds the gated mean over the frames, and gives the modulator out.
template <typename Numbers, int V>
DVFL_INLINE void finish_mean(const Block<Numbers>& b, const Place& at, const Numbers& numbers,
                             const float* mean) {
  float share = 1.0f / static_cast<float>(b.c.frames);
  for (int64_t i = 0; i < at.rows; ++i) {
    int64_t pixel = at.pixel + i;
    Vec everywhere[V];
    for (int v = 0; v < V; ++v) everywhere[v] = load(mean + i * kPanel + v * kLanes) * share;
    gelu(everywhere, tail_for<Numbers::kBytes>());
    for (int64_t t = 0; t < b.c.frames; ++t) {
      float gate = b.gate(t, pixel, b.c.levels);
      for (int v = 0; v < V; ++v) {
        int64_t column = at.column + v * kLanes, valid = b.c.channels - column;
        Vec total = load_valid(b.total.at(t, pixel) + column, valid) + everywhere[v] * gate;
        numbers.emit(total, b.out.at(t, pixel) + column, valid);
      }
    }
  }
}

template <typename Numbers, int V, bool last>
void compute_tile(const Block<Numbers>& b, int64_t level, const Place& at, const Numbers& numbers) {
  alignas(kAlignment) typename Numbers::Sum tile[kRows * kPanel];
  alignas(kAlignment) float mean[kRows * kPanel];
  for (int64_t t = 0; t < b.c.frames; ++t) {
    numbers.template sums<V>(b.in, reach(b.c, level, t), t, at, tile);
    finish_frame<Numbers, V, last>(b, level, t, at, numbers, tile, mean);
  }
  if (last) finish_mean<Numbers, V>(b, at, numbers, mean);
}

template <typename Numbers>
void compute_level(const Block<Numbers>& b, int64_t level) {
  const Numbers numbers(b.c, b.packed, level);
  bool last = level + 1 == b.c.levels;
  int64_t tiles = (b.pixels + kRows - 1) / kRows;
  for (int64_t column = 0; column < b.c.channels; column += kPanel) {
    bool whole = b.c.channels - column > kLanes;
    auto* compute = whole ? last ? compute_tile<Numbers, 2, true> : compute_tile<Numbers, 2, false>
                    : last ? compute_tile<Numbers, 1, true>
                           : compute_tile<Numbers, 1, false>;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      int64_t first = b.pixels * tile / tiles, end = b.pixels * (tile + 1) / tiles;
      compute(b, level, {first, end - first, column}, numbers);
    }
  }
}

template <typename Numbers>
int64_t scratch_bytes(const Context& c) {
  using Value = typename Numbers::Value;
  int64_t totals = Numbers::kSeparateTotals ? buffer_values<float>(c) : 0;
  return 2 * buffer_values<Value>(c) * static_cast<int64_t>(sizeof(Value)) +
         totals * static_cast<int64_t>(sizeof(float));
}

template <typename Numbers>
void stage(const Context& c, const Tokens<const typename Numbers::Value>& from,
           const Tokens<typename Numbers::Value>& to, int64_t pixels) {
  for (int64_t t = 0; t < c.frames; ++t) {
    for (int64_t p = 0; p < pixels; ++p) Numbers::stage(c, from.at(t, p), to.at(t, p));
  }
}

template <typename Numbers>
void run(const Context& c, const void* packed, const ContextCall& call, int64_t part,
         void* scratch) {
  using Value = typename Numbers::Value;
  using Out = typename Numbers::Out;
  int64_t blocks = parts(c), clip = part / blocks, index = part % blocks;
  int64_t begin = c.pixels() * index / blocks, end = c.pixels() * (index + 1) / blocks;
  int64_t token = clip * c.tokens() + begin, frame = c.pixels() * c.channels;
  Tokens<Value> buffers[2] = {buffer<Value>(c, scratch, 0), buffer<Value>(c, scratch, 1)};
  Tokens<Out> out{static_cast<Out*>(call.modulator) + token * c.channels, c.channels, frame};
  Tokens<const Value> in{static_cast<const Value*>(call.context) + token * c.channels, c.channels,
                         frame};
  if (Numbers::staged(c)) {
    stage<Numbers>(c, in, buffers[1], end - begin);
    in = {buffers[1].first, buffers[1].row, buffers[1].frame};
  }
  Tokens<float> total = Numbers::totals(c, out, buffer<Value>(c, scratch, 2).first);
  const float* gates = call.gates + token * c.gates();
  for (int64_t level = 0; level < c.levels; ++level) {
    Tokens<Value> next = buffers[level % 2];
    compute_level(Block<Numbers>{c, packed, end - begin, gates, in, next, total, out}, level);
    in = {next.first, next.row, next.frame};
  }
}

}  // namespace temporal
}  // namespace DVFL_ISA
}  // namespace dvfl
