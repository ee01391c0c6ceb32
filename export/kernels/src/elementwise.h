// What stands between two products beside the contexts: the product of the three modulation terms,
// a residual sum with the normalisation after it or in patches for the next embedding, and what
// follows the product of an embedding. Each value is read and written once.
#pragma once

#include "vector_math.h"

namespace dvfl {
namespace DVFL_ISA {

// Calls work(f, count) for the vectors of a row: whole ones, then what is left.
template <typename Work>
DVFL_INLINE void over_features(int64_t features, const Work& work) {
  int64_t f = 0;
  for (; f + kLanes <= features; f += kLanes) work(f, static_cast<int64_t>(kLanes));
  if (f < features) work(f, features - f);
}

DVFL_INLINE Vec load_lanes(const float* from, int64_t count) {
  return count == kLanes ? load(from) : load_some(from, count);
}

DVFL_INLINE void store_lanes(float* to, Vec value, int64_t count) {
  count == kLanes ? store(to, value) : store_some(to, value, count);
}

// The others are zero.
DVFL_INLINE Vec first_lanes(Vec value, int64_t count) {
  return count == kLanes ? value : load_some(reinterpret_cast<const float*>(&value), count);
}

template <bool bytes>
DVFL_INLINE void store_result(const Output& out, int64_t at, Vec value, int64_t count,
                              const Quantiser& quantiser) {
  if (bytes) {
    store_bytes(static_cast<uint8_t*>(out.data) + at, quantiser(value), count);
  } else {
    store_lanes(static_cast<float*>(out.data) + at, value, count);
  }
}

template <bool bytes>
void modulate_rows(const ModulateCall& call, int64_t features, int64_t rows, const Output& out) {
  const Quantiser quantiser(bytes ? out.scale : 1.0f, out.zero_point);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * features;
    over_features(features, [&](int64_t f, int64_t count) {
      Vec x = load_lanes(call.products[0] + at + f, count) + load_lanes(call.biases[0] + f, count);
      x *= load_lanes(call.products[1] + at + f, count) + load_lanes(call.biases[1] + f, count);
      x *= load_lanes(call.products[2] + at + f, count) + load_lanes(call.biases[2] + f, count);
      store_result<bytes>(out, at + f, x, count, quantiser);
    });
  }
}

inline void modulate(const ModulateCall& call, int64_t features, int64_t rows, const Output& out) {
  auto* compute = out.scale == 0.0f ? modulate_rows<false> : modulate_rows<true>;
  compute(call, features, rows, out);
}

template <bool bytes>
void add_patches_rows(const AddPatchesCall& call, int64_t features, int64_t rows, const Output& out) {
  const Quantiser quantiser(bytes ? out.scale : 1.0f, out.zero_point);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t from = call.source(row) * features, to = row * features;
    over_features(features, [&](int64_t f, int64_t count) {
      Vec x = load_lanes(call.x + from + f, count) + load_lanes(call.product + from + f, count);
      store_result<bytes>(out, to + f, x, count, quantiser);
    });
  }
}

inline void add_patches(const AddPatchesCall& call, int64_t features, int64_t rows, const Output& out) {
  auto* compute = out.scale == 0.0f ? add_patches_rows<false> : add_patches_rows<true>;
  compute(call, features, rows, out);
}

template <int lanes>
struct Floats {
  typedef float Type __attribute__((vector_size(lanes * 4)));
};

// One half is added to the other: the compiler's own sum of lanes waits for each before the next.
template <int lanes>
DVFL_INLINE float sum_of_lanes(const typename Floats<lanes>::Type& value) {
  typename Floats<lanes / 2>::Type halves[2];
  std::memcpy(&halves, &value, sizeof(halves));
  return sum_of_lanes<lanes / 2>(halves[0] + halves[1]);
}

template <>
DVFL_INLINE float sum_of_lanes<2>(const Floats<2>::Type& value) {
  return value[0] + value[1];
}

// Normalises rows of so many features.
struct Norm {
  int64_t features;
  float inverse, epsilon;

  DVFL_INLINE Norm(int64_t count, float e)
      : features(count), inverse(1.0f / static_cast<float>(count)), epsilon(e) {}

  // Calls work(f, count, x) for the vectors of a row, scaled and shifted; `total` is their sum.
  template <typename Work>
  DVFL_INLINE void operator()(const float* row, Vec total, const float* scale, const float* shift,
                              const Work& work) const {
    const float mean = sum_of_lanes<kLanes>(total) * inverse;
    Vec squares = {};
    over_features(features, [&](int64_t f, int64_t count) {
      Vec d = first_lanes(load_lanes(row + f, count) - mean, count);
      squares += d * d;
    });
    const float factor = 1.0f / __builtin_sqrtf(sum_of_lanes<kLanes>(squares) * inverse + epsilon);
    over_features(features, [&](int64_t f, int64_t count) {
      Vec x = (load_lanes(row + f, count) - mean) * factor;
      work(f, count, x * load_lanes(scale + f, count) + load_lanes(shift + f, count));
    });
  }
};

template <bool bytes>
void add_norm_rows(const AddNormCall& call, int64_t features, int64_t rows, const Output& out) {
  const Quantiser quantiser(bytes ? out.scale : 1.0f, out.zero_point);
  const Norm norm(features, call.epsilon);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * features;
    float* sum = call.sum + at;
    Vec total = {};
    over_features(features, [&](int64_t f, int64_t count) {
      Vec x = load_lanes(call.product + at + f, count) + load_lanes(call.bias + f, count);
      x += load_lanes(call.x + at + f, count);  // lanes beyond `count` are zero
      store_lanes(sum + f, x, count);
      total += x;
    });
    norm(sum, total, call.scale, call.shift, [&](int64_t f, int64_t count, Vec x) {
      store_result<bytes>(out, at + f, x, count, quantiser);
    });
  }
}

inline void add_norm(const AddNormCall& call, int64_t features, int64_t rows, const Output& out) {
  auto* compute = out.scale == 0.0f ? add_norm_rows<false> : add_norm_rows<true>;
  compute(call, features, rows, out);
}

template <bool bytes>
void embed_norm_rows(const EmbedNormCall& call, int64_t features, int64_t rows, const Output& out) {
  const Quantiser quantiser(bytes ? out.scale : 1.0f, out.zero_point);
  const Norm norm(features, call.epsilon);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * features;
    float* tokens = call.tokens + at;
    Vec total = {};
    over_features(features, [&](int64_t f, int64_t count) {
      Vec x = load_lanes(call.product + at + f, count) + load_lanes(call.bias + f, count);
      store_lanes(tokens + f, x, count);  // for now: they stay in the cache
      total += x;
    });
    Vec embedded = {};
    norm(tokens, total, call.embed_scale, call.embed_shift, [&](int64_t f, int64_t count, Vec x) {
      store_lanes(tokens + f, x, count);
      embedded += x;
    });
    norm(tokens, embedded, call.scale, call.shift, [&](int64_t f, int64_t count, Vec x) {
      store_result<bytes>(out, at + f, x, count, quantiser);
    });
  }
}

inline void embed_norm(const EmbedNormCall& call, int64_t features, int64_t rows, const Output& out) {
  auto* compute = out.scale == 0.0f ? embed_norm_rows<false> : embed_norm_rows<true>;
  compute(call, features, rows, out);
}

}  // namespace DVFL_ISA
}  // namespace dvfl
