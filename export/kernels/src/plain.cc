// The nodes in plain scalar arithmetic, as the bodies of their functions have it.
#include <cmath>
#include <cstring>

#include "kernels.h"

namespace dvfl {
namespace {

float gelu(float x) { return 0.5f * x * (1.0f + std::erf(x * 0.70710678f)); }

int32_t quantised(float value, float scale, int32_t zero_point) {
  float rounded = std::nearbyint(value / scale) + static_cast<float>(zero_point);
  if (!(rounded > 0.0f)) return 0;
  return rounded < 255.0f ? static_cast<int32_t>(rounded) : 255;
}

void store(const Output& out, int64_t index, float value) {
  if (out.scale == 0.0f) {
    static_cast<float*>(out.data)[index] = value;
  } else {
    static_cast<uint8_t*>(out.data)[index] =
        static_cast<uint8_t>(quantised(value, out.scale, out.zero_point));
  }
}

Output output_of(const Context& c, const ContextCall& call) {
  return {call.modulator, c.output_scale, c.zero_point};
}

// Spatial: a part is one channel of one frame. The kernels lie one after the other, (C, k, k).

int64_t spatial_packed_bytes(const Context& c) {
  int64_t floats = 0;
  for (int64_t l = 0; l < c.levels; ++l) {
    floats += c.channels * c.kernel_sizes[l] * c.kernel_sizes[l];
  }
  return floats * static_cast<int64_t>(sizeof(float));
}

void spatial_pack(const Context& c, void* packed) {
  float* to = static_cast<float*>(packed);
  for (int64_t l = 0; l < c.levels; ++l) {
    int64_t floats = c.channels * c.kernel_sizes[l] * c.kernel_sizes[l];
    std::memcpy(to, c.kernels[l], static_cast<size_t>(floats) * sizeof(float));
    to += floats;
  }
}

int64_t spatial_scratch_bytes(const Context& c) {
  return 3 * c.pixels() * static_cast<int64_t>(sizeof(float));
}

int64_t spatial_parts(const Context& c) { return c.frames * c.channels; }

void spatial_conv(const float* in, const float* kernel, int64_t size, const Context& c,
                  float* out) {
  int64_t pad = size / 2;
  for (int64_t y = 0; y < c.height; ++y) {
    for (int64_t x = 0; x < c.width; ++x) {
      float sum = 0.0f;
      for (int64_t i = 0; i < size; ++i) {
        for (int64_t j = 0; j < size; ++j) {
          int64_t row = y + i - pad, column = x + j - pad;
          if (row < 0 || row >= c.height || column < 0 || column >= c.width) continue;
          sum += in[row * c.width + column] * kernel[i * size + j];
        }
      }
      out[y * c.width + x] = sum;
    }
  }
}

void spatial_run(const Context& c, const void* packed, const ContextCall& call, int64_t part,
                 void* scratch) {
  int64_t pixels = c.pixels(), frame = part / c.channels, channel = part % c.channels;
  const float* context = static_cast<const float*>(call.context) + frame * pixels * c.channels;
  const float* gates = call.gates + frame * pixels * c.gates() + c.gate_offset;
  const float* kernels = static_cast<const float*>(packed);
  float* x = static_cast<float*>(scratch);
  float* next = x + pixels;
  float* total = next + pixels;
  for (int64_t p = 0; p < pixels; ++p) {
    x[p] = context[p * c.channels + channel];
    total[p] = 0.0f;
  }
  float mean = 0.0f;
  for (int64_t l = 0; l < c.levels; ++l) {
    int64_t taps = c.kernel_sizes[l] * c.kernel_sizes[l];
    spatial_conv(x, kernels + channel * taps, c.kernel_sizes[l], c, next);
    kernels += c.channels * taps;
    mean = 0.0f;
    for (int64_t p = 0; p < pixels; ++p) {
      x[p] = gelu(next[p]);
      mean += x[p];
      total[p] += x[p] * gates[p * c.gates() + l];
    }
  }
  float everywhere = gelu(mean / static_cast<float>(pixels));
  Output out = output_of(c, call);
  for (int64_t p = 0; p < pixels; ++p) {
    float sum = total[p] + everywhere * gates[p * c.gates() + c.levels];
    store(out, (frame * pixels + p) * c.channels + channel, sum);
  }
}

// Temporal: a part is one pixel of a clip. Packed: the biases (C, T), the kernels (C, C, k) one
// after the other in float32 and, of quantised inputs, the scales of the levels.

int64_t temporal_packed_bytes(const Context& c) {
  int64_t floats = c.channels * c.frames + c.levels;
  for (int64_t l = 0; l < c.levels; ++l) floats += c.channels * c.channels * c.kernel_sizes[l];
  return floats * static_cast<int64_t>(sizeof(float));
}

void temporal_pack(const Context& c, void* packed) {
  float* to = static_cast<float*>(packed);
  for (int64_t l = 0; l < c.levels; ++l) *to++ = c.input_scales ? c.input_scales[l] : 0.0f;
  for (int64_t i = 0; i < c.channels * c.frames; ++i) *to++ = c.frame_bias[i];
  for (int64_t l = 0; l < c.levels; ++l) {
    int64_t taps = c.channels * c.kernel_sizes[l];  // of one output channel
    for (int64_t i = 0; i < c.channels * taps; ++i) {
      if (c.input_scales) {
        auto weight = static_cast<float>(static_cast<const int8_t*>(c.kernels[l])[i]);
        *to++ = weight * c.kernel_scales[l][i / taps];
      } else {
        *to++ = static_cast<const float*>(c.kernels[l])[i];
      }
    }
  }
}

int64_t temporal_scratch_bytes(const Context& c) {
  return 3 * c.frames * c.channels * static_cast<int64_t>(sizeof(float));
}

int64_t temporal_parts(const Context& c) { return c.pixels(); }

void temporal_conv(const float* in, const float* kernel, int64_t size, const Context& c,
                   float* out) {
  for (int64_t t = 0; t < c.frames; ++t) {
    for (int64_t o = 0; o < c.channels; ++o) {
      float sum = 0.0f;
      for (int64_t i = 0; i < c.channels; ++i) {
        for (int64_t j = 0; j < size; ++j) {
          int64_t frame = t + j - size / 2;
          if (frame < 0 || frame >= c.frames) continue;
          sum += in[frame * c.channels + i] * kernel[(o * c.channels + i) * size + j];
        }
      }
      out[t * c.channels + o] = sum;
    }
  }
}

// What QuantizeLinear and DequantizeLinear make of a value together.
float through_bytes(float value, float scale, int32_t zero_point) {
  return static_cast<float>(quantised(value, scale, zero_point) - zero_point) * scale;
}

void temporal_run(const Context& c, const void* packed, const ContextCall& call, int64_t part,
                  void* scratch) {
  int64_t pixels = c.pixels(), clip = part / pixels, pixel = part % pixels;
  int64_t values = c.frames * c.channels;
  const float* scales = static_cast<const float*>(packed);
  const float* bias = scales + c.levels;
  const float* kernel = bias + values;
  float* x = static_cast<float*>(scratch);  // (T, C), as the next two
  float* next = x + values;
  float* total = next + values;
  auto token = [&](int64_t t) { return (clip * c.frames + t) * pixels + pixel; };
  for (int64_t i = 0; i < values; ++i) {
    int64_t at = token(i / c.channels) * c.channels + i % c.channels;
    if (scales[0] == 0.0f) {
      x[i] = static_cast<const float*>(call.context)[at];
    } else {
      int32_t byte = static_cast<const uint8_t*>(call.context)[at];
      x[i] = static_cast<float>(byte - c.zero_point) * scales[0];
    }
    total[i] = 0.0f;
  }
  for (int64_t l = 0; l < c.levels; ++l) {
    if (l > 0 && scales[l] != 0.0f) {
      for (int64_t i = 0; i < values; ++i) x[i] = through_bytes(x[i], scales[l], c.zero_point);
    }
    temporal_conv(x, kernel, c.kernel_sizes[l], c, next);
    kernel += c.channels * c.channels * c.kernel_sizes[l];
    for (int64_t i = 0; i < values; ++i) {
      int64_t t = i / c.channels, channel = i % c.channels;
      float level_bias = l == 0 ? bias[channel * c.frames + t] : 0.0f;
      x[i] = gelu(next[i] + level_bias);
      total[i] += x[i] * call.gates[token(t) * c.gates() + c.gate_offset + l];
    }
  }
  Output out = output_of(c, call);
  for (int64_t channel = 0; channel < c.channels; ++channel) {
    float mean = 0.0f;
    for (int64_t t = 0; t < c.frames; ++t) mean += x[t * c.channels + channel];
    float everywhere = gelu(mean / static_cast<float>(c.frames));
    for (int64_t t = 0; t < c.frames; ++t) {
      float gate = call.gates[token(t) * c.gates() + c.gate_offset + c.levels];
      store(out, token(t) * c.channels + channel,
            total[t * c.channels + channel] + everywhere * gate);
    }
  }
}

// Writes the layer normalisation of a row, from `at` on; the row may be where it writes.
void normalise(const float* row, int64_t features, float epsilon, const float* scale,
               const float* shift, const Output& out, int64_t at) {
  float mean = 0.0f, squares = 0.0f;
  for (int64_t f = 0; f < features; ++f) mean += row[f];
  mean /= static_cast<float>(features);
  for (int64_t f = 0; f < features; ++f) squares += (row[f] - mean) * (row[f] - mean);
  float factor = 1.0f / std::sqrt(squares / static_cast<float>(features) + epsilon);
  for (int64_t f = 0; f < features; ++f) {
    store(out, at + f, (row[f] - mean) * factor * scale[f] + shift[f]);
  }
}

// Linear. Packed: the scales of the products, the bias, and the weights.

int64_t linear_packed_bytes(const Linear& l) {
  return l.outputs * (2 * static_cast<int64_t>(sizeof(float)) + l.inputs);
}

void linear_pack(const Linear& l, void* packed) {
  float* to = static_cast<float*>(packed);
  for (int64_t n = 0; n < l.outputs; ++n) {
    to[n] = l.input_scale * l.weight_scales[n];
    to[l.outputs + n] = l.bias ? l.bias[n] : 0.0f;
  }
  std::memcpy(to + 2 * l.outputs, l.weights, static_cast<size_t>(l.inputs * l.outputs));
}

int64_t linear_scratch_bytes(const Linear&, int64_t) { return 0; }

void linear_run(const Linear& l, const void* packed, const uint8_t* bytes, int64_t rows, float* product,
                void*) {
  const float* scales = static_cast<const float*>(packed);
  const auto* weights = reinterpret_cast<const int8_t*>(scales + 2 * l.outputs);
  for (int64_t i = 0; i < rows * l.outputs; ++i) {
    const int64_t row = i / l.outputs, n = i % l.outputs;
    int32_t sum = 0;
    for (int64_t k = 0; k < l.inputs; ++k) {
      sum += (bytes[row * l.inputs + k] - l.zero_point) * weights[k * l.outputs + n];
    }
    product[i] = static_cast<float>(sum) * scales[n] + scales[l.outputs + n];
  }
}

}  // namespace

void plain_bias_gelu(const float* product, const float* bias, int64_t features, int64_t rows, const Output& out) {
  for (int64_t i = 0; i < rows * features; ++i) {
    store(out, i, gelu(product[i] + bias[i % features]));
  }
}

void plain_modulate(const ModulateCall& call, int64_t features, int64_t rows, const Output& out) {
  for (int64_t i = 0; i < rows * features; ++i) {
    float x = 1.0f;
    for (int term = 0; term < 3; ++term) x *= call.products[term][i] + call.biases[term][i % features];
    store(out, i, x);
  }
}

void plain_add_norm(const AddNormCall& call, int64_t features, int64_t rows, const Output& normalised) {
  for (int64_t row = 0; row < rows; ++row) {
    int64_t at = row * features;
    float* sum = call.sum + at;
    for (int64_t f = 0; f < features; ++f) {
      sum[f] = call.x[at + f] + (call.product[at + f] + call.bias[f]);
    }
    normalise(sum, features, call.epsilon, call.scale, call.shift, normalised, at);
  }
}

void plain_embed_norm(const EmbedNormCall& call, int64_t features, int64_t rows, const Output& normalised) {
  for (int64_t row = 0; row < rows; ++row) {
    int64_t at = row * features;
    float* tokens = call.tokens + at;
    for (int64_t f = 0; f < features; ++f) tokens[f] = call.product[at + f] + call.bias[f];
    normalise(tokens, features, call.epsilon, call.embed_scale, call.embed_shift, {tokens, 0.0f, 0}, 0);
    normalise(tokens, features, call.epsilon, call.scale, call.shift, normalised, at);
  }
}

void plain_add_patches(const AddPatchesCall& call, int64_t features, int64_t rows, const Output& out) {
  for (int64_t row = 0; row < rows; ++row) {
    int64_t from = call.source(row) * features;
    for (int64_t f = 0; f < features; ++f) {
      store(out, row * features + f, call.x[from + f] + call.product[from + f]);
    }
  }
}

const ContextKernel plain_spatial = {spatial_packed_bytes, spatial_pack, spatial_scratch_bytes,
                                     spatial_parts, spatial_run};
const ContextKernel plain_temporal = {temporal_packed_bytes, temporal_pack, temporal_scratch_bytes,
                                      temporal_parts, temporal_run};
const LinearKernel plain_linear = {1, linear_packed_bytes, linear_pack, linear_scratch_bytes, linear_run};
const Kernels plain = {"plain", &plain_spatial, &plain_temporal, &plain_temporal,
                       plain_bias_gelu, plain_modulate, plain_add_norm, plain_embed_norm, plain_add_patches,
                       &plain_linear};

}  // namespace dvfl
