// Compares the kernels of every instruction set of this CPU with the scalar ones, at odd sizes, and
// GELU with the exact one. Prints a line for each finding; the exit status is 1 if there is one.
//
// Tensors lie at addresses that are aligned to their elements alone, scratch and outputs are filled
// with rubbish before each part, and buffers have the exact size, for the address sanitizer.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../src/kernels.h"

namespace {

using dvfl::Context;
using dvfl::ContextKernel;
using dvfl::Kernels;

int findings = 0;

void report(const std::string& what) {
  std::printf("%s\n", what.c_str());
  ++findings;
}

struct Free {
  void operator()(void* data) const { std::free(data); }
};

// Memory that begins at a multiple of 64 bytes and ends behind the last of `bytes`.
std::unique_ptr<void, Free> exactly(int64_t bytes) {
  void* data = nullptr;
  if (posix_memalign(&data, 64, static_cast<size_t>(bytes > 0 ? bytes : 1)) != 0) std::abort();
  return std::unique_ptr<void, Free>(data);
}

// A tensor whose address is no multiple of more than the size of its elements.
template <typename T>
class Tensor {
 public:
  explicit Tensor(int64_t count)
      : size_(count), bytes_(exactly((count + 1) * static_cast<int64_t>(sizeof(T)))) {}
  T* data() const { return static_cast<T*>(bytes_.get()) + 1; }
  int64_t size() const { return size_; }

 private:
  int64_t size_;
  std::unique_ptr<void, Free> bytes_;
};

std::mt19937 random_bits(1);

Tensor<float> floats(int64_t count, float spread) {
  std::normal_distribution<float> normal(0.0f, spread);
  Tensor<float> tensor(count);
  for (int64_t i = 0; i < count; ++i) tensor.data()[i] = normal(random_bits);
  return tensor;
}

template <typename T>
Tensor<T> integers(int64_t count, int lowest, int highest) {
  std::uniform_int_distribution<int> uniform(lowest, highest);
  Tensor<T> tensor(count);
  for (int64_t i = 0; i < count; ++i) tensor.data()[i] = static_cast<T>(uniform(random_bits));
  return tensor;
}

struct Sizes {
  int64_t frames, height, width, channels;
  std::vector<int64_t> kernels;
};

enum class Kind { spatial, spatial_to_bytes, temporal, temporal_int8 };
constexpr const char* kNames[] = {"SpatialContext", "QSpatialContext", "TemporalContext",
                                  "QTemporalContext"};

// A node with random weights, and what it is given.
struct Node {
  Node(Kind kind, const Sizes& sizes) : kind(kind), kernel_sizes(sizes.kernels) {
    bool temporal = kind == Kind::temporal || kind == Kind::temporal_int8;
    bool bytes_in = kind == Kind::temporal_int8;
    auto levels = static_cast<int64_t>(kernel_sizes.size());
    for (int64_t k : kernel_sizes) {
      int64_t inputs = temporal ? sizes.channels * k : k * k;
      float spread = 1.0f / std::sqrt(static_cast<float>(inputs));
      weights.push_back(floats(sizes.channels * inputs, spread));
      bytes.push_back(integers<int8_t>(sizes.channels * inputs, -63, 63));
      weight_scales.push_back(floats(sizes.channels, 0.0f));
      for (int64_t i = 0; i < sizes.channels; ++i) {
        weight_scales.back().data()[i] = spread / 63.0f * (1.0f + 0.1f * static_cast<float>(i % 7));
      }
      input_scales.push_back(0.03f + 0.001f * static_cast<float>(k));
    }
    for (size_t l = 0; l < kernel_sizes.size(); ++l) {
      kernels.push_back(bytes_in ? static_cast<const void*>(bytes[l].data()) : weights[l].data());
      kernel_scales.push_back(weight_scales[l].data());
    }
    context = {};
    context.frames = sizes.frames;
    context.height = sizes.height;
    context.width = sizes.width;
    context.channels = sizes.channels;
    context.levels = levels;
    context.gate_offset = temporal ? levels + 1 : 0;
    context.threads = 3;
    context.kernel_sizes = kernel_sizes.data();
    context.kernels = kernels.data();
    context.frame_bias = bias.data();
    context.input_scales = bytes_in ? input_scales.data() : nullptr;
    context.kernel_scales = bytes_in ? kernel_scales.data() : nullptr;
    context.output_scale = kind == Kind::spatial || kind == Kind::temporal ? 0.0f : 0.02f;
    context.zero_point = 128;
  }

  const ContextKernel& of(const Kernels& set) const {
    if (kind == Kind::temporal) return *set.temporal;
    return kind == Kind::temporal_int8 ? *set.temporal_int8 : *set.spatial;
  }

  Kind kind;
  std::vector<int64_t> kernel_sizes;
  std::vector<Tensor<float>> weights, weight_scales;
  std::vector<Tensor<int8_t>> bytes;
  std::vector<float> input_scales;
  std::vector<const void*> kernels;
  std::vector<const float*> kernel_scales;
  Tensor<float> bias = floats(8 * 256, 1.0f);  // enough for all sizes below
  Context context;
};

constexpr int64_t kBatch = 2;

// Returns the modulator, its parts done from the last to the first.
std::vector<float> run(const ContextKernel& kernel, const Context& c, const void* input,
                       const float* gates) {
  int64_t values = kBatch * c.tokens() * c.channels;
  bool to_bytes = c.output_scale != 0.0f;
  Tensor<float> as_floats(to_bytes ? 0 : values);
  Tensor<uint8_t> as_bytes(to_bytes ? values : 0);
  for (int64_t i = 0; i < as_floats.size(); ++i) as_floats.data()[i] = NAN;
  void* out = to_bytes ? static_cast<void*>(as_bytes.data()) : as_floats.data();
  int64_t scratch_bytes = kernel.scratch_bytes(c);
  auto packed = exactly(kernel.packed_bytes(c));
  auto scratch = exactly(scratch_bytes);
  kernel.pack(c, packed.get());
  Context kept = c;  // after packing, the weights may be gone
  kept.kernels = nullptr;
  kept.frame_bias = kept.input_scales = nullptr;
  kept.kernel_scales = nullptr;
  for (int64_t part = kBatch * kernel.parts(kept); part-- > 0;) {
    std::memset(scratch.get(), 0xFF, static_cast<size_t>(scratch_bytes));
    kernel.run(kept, packed.get(), {input, gates, out}, part, scratch.get());
  }
  std::vector<float> result(static_cast<size_t>(values));
  for (int64_t i = 0; i < values; ++i) {
    result[static_cast<size_t>(i)] = to_bytes ? as_bytes.data()[i] : as_floats.data()[i];
  }
  return result;
}

// Compares floats, or bytes, of which few may differ by a step or two beside a tie: 1 % for each level that
// rounds, because a byte of one level has a part in many of the next.
void compare(const std::string& name, const std::vector<float>& got,
             const std::vector<float>& wanted, bool bytes, float largest, size_t levels = 1) {
  size_t different = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    float difference = std::fabs(got[i] - wanted[i]);
    different += difference != 0.0f;
    if (!(difference <= largest)) {
      report(name + ": value " + std::to_string(i) + " is " + std::to_string(got[i]) + ", not " +
             std::to_string(wanted[i]));
      return;
    }
  }
  if (bytes && different * 100 > got.size() * levels + 100) {
    report(name + ": " + std::to_string(different) + " of " + std::to_string(got.size()) +
           " bytes differ");
  }
}

void check_contexts(const Kernels& set) {
  const Sizes all[] = {
      {4, 9, 15, 16, {3, 5}}, {3, 2, 3, 24, {3, 5, 7}},        {8, 6, 1, 21, {3, 5}},
      {1, 1, 1, 1, {3}},      {5, 3, 8, 35, {3, 5, 7, 9, 11}}, {2, 14, 17, 40, {1}},
      {8, 5, 7, 64, {7, 3}},  {6, 1, 4, 50, {3, 3, 3, 3}},     {7, 10, 2, 33, {5, 3}},
      {2, 1, 2, 1024, {3}},
  };
  for (const Sizes& sizes : all) {
    for (int kind = 0; kind < 4; ++kind) {
      Node node(static_cast<Kind>(kind), sizes);
      const Context& c = node.context;
      Tensor<float> gates = floats(kBatch * c.tokens() * c.gates(), 1.0f);
      Tensor<float> context = floats(kBatch * c.tokens() * c.channels, 1.0f);
      Tensor<uint8_t> bytes = integers<uint8_t>(kBatch * c.tokens() * c.channels, 90, 160);
      bool bytes_in = c.input_scales != nullptr, bytes_out = c.output_scale != 0.0f;
      const void* input = bytes_in ? static_cast<const void*>(bytes.data()) : context.data();
      std::string name = std::string(set.name) + " " + kNames[kind] + " " +
                         std::to_string(c.frames) + "x" + std::to_string(c.height) + "x" +
                         std::to_string(c.width) + "x" + std::to_string(c.channels);
      std::vector<float> wanted = run(node.of(dvfl::plain), c, input, gates.data());
      std::vector<float> got = run(node.of(set), c, input, gates.data());
      float rounding = 2e-5f * std::max(1.0f, static_cast<float>(c.channels) / 512.0f);
      compare(name, got, wanted, bytes_out, bytes_in ? 2.0f : bytes_out ? 1.0f : rounding,
              bytes_in ? sizes.kernels.size() : 1);
    }
  }
}

// The sums of QTemporalContext, for so many equal pixels. All scales are 1, and a bias takes each sum
// to 100, which GELU leaves alone: a sum that is off by one gives another byte.
void check_sums(const Kernels& set, int64_t channels, int64_t pixels) {
  constexpr int64_t kFrames = 4, kTaps = 5;
  Node node(Kind::temporal_int8, {kFrames, 1, pixels, channels, {kTaps}});
  Context& c = node.context;
  Tensor<uint8_t> token = integers<uint8_t>(kFrames * channels, 0, 255);
  Tensor<int8_t> weights = integers<int8_t>(channels * channels * kTaps, -64, 64);
  for (int64_t i = 0; i < token.size(); i += 2) token.data()[i] = i % 3 ? 255 : 0;
  for (int64_t i = 0; i < weights.size(); ++i) {  // channels with the largest sums there are
    if (i / (channels * kTaps) % 2 == 0) weights.data()[i] = i % 3 ? 64 : -64;
  }
  Tensor<float> bias = floats(channels * kFrames, 0.0f), ones = floats(channels, 0.0f);
  for (int64_t n = 0; n < channels; ++n) {
    ones.data()[n] = 1.0f;
    for (int64_t t = 0; t < kFrames; ++t) {
      int32_t sum = 0;
      for (int64_t tap = 0; tap < kTaps; ++tap) {
        int64_t frame = t + tap - kTaps / 2;
        if (frame < 0 || frame >= kFrames) continue;
        for (int64_t i = 0; i < channels; ++i) {
          int32_t value = token.data()[frame * channels + i] - c.zero_point;
          sum += value * weights.data()[(n * channels + i) * kTaps + tap];
        }
      }
      bias.data()[n * kFrames + t] = static_cast<float>(100 - sum);
    }
  }
  const void* kernel = weights.data();
  const float *scales = ones.data(), *scale = ones.data();
  c.threads = 1;  // tiles of all numbers of rows
  c.kernels = &kernel;
  c.kernel_scales = &scales;
  c.frame_bias = bias.data();
  c.input_scales = scale;
  c.output_scale = 1.0f;
  Tensor<uint8_t> tokens(kBatch * c.tokens() * channels);
  for (int64_t i = 0; i < tokens.size(); ++i) {
    int64_t frame = i / (channels * pixels) % kFrames;
    tokens.data()[i] = token.data()[frame * channels + i % channels];
  }
  Tensor<float> gates = floats(kBatch * c.tokens() * c.gates(), 0.0f);
  for (int64_t i = c.gate_offset; i < gates.size(); i += c.gates()) gates.data()[i] = 1.0f;
  std::vector<float> got = run(node.of(set), c, tokens.data(), gates.data());
  std::vector<float> wanted(got.size(), static_cast<float>(c.zero_point + 100));
  compare(std::string(set.name) + " sums of bytes, " + std::to_string(channels) + " channels, " +
              std::to_string(pixels) + " pixels",
          got, wanted, true, 0.0f);
}

void check_bias_gelu(const Kernels& set) {
  for (int64_t features : {1, 7, 16, 33, 130, 384}) {
    for (float scale : {0.0f, 0.02f}) {
      constexpr int64_t kRows = 5;
      Tensor<float> product = floats(kRows * features, 3.0f), bias = floats(features, 1.0f);
      std::vector<float> results[2];
      for (int which = 0; which < 2; ++which) {
        Tensor<float> as_floats(scale == 0.0f ? kRows * features : 0);
        Tensor<uint8_t> as_bytes(scale == 0.0f ? 0 : kRows * features);
        void* to = scale == 0.0f ? static_cast<void*>(as_floats.data()) : as_bytes.data();
        dvfl::BiasGelu kernel = which ? set.bias_gelu : dvfl::plain.bias_gelu;
        kernel(product.data(), bias.data(), features, kRows, {to, scale, 128});
        for (int64_t i = 0; i < kRows * features; ++i) {
          results[which].push_back(scale == 0.0f ? as_floats.data()[i] : as_bytes.data()[i]);
        }
      }
      compare(std::string(set.name) + " BiasGelu " + std::to_string(features), results[1],
              results[0], scale != 0.0f, scale == 0.0f ? 1e-6f : 1.0f);
    }
  }
}

// Modulate, AddNorm, EmbedNorm and AddPatches.
void check_rows(const Kernels& set, int64_t features, float scale) {
  constexpr int64_t kRows = 12, kNodes = 4;
  constexpr const char* kNodeNames[] = {"Modulate", "AddNorm", "EmbedNorm", "AddPatches"};
  const int64_t values = kRows * features;
  const Tensor<float> products[] = {floats(values, 2.0f), floats(values, 2.0f), floats(values, 2.0f)};
  const Tensor<float> biases[] = {floats(features, 1.0f), floats(features, 1.0f), floats(features, 1.0f)};
  std::vector<float> results[2][kNodes], sums[2][kNodes];  // sums of those that end in a norm
  for (int which = 0; which < 2; ++which) {
    const Kernels& kernels = which ? set : dvfl::plain;
    for (int node = 0; node < kNodes; ++node) {
      Tensor<float> as_floats(scale == 0.0f ? values : 0), first(values);
      Tensor<uint8_t> as_bytes(scale == 0.0f ? 0 : values);
      void* to = scale == 0.0f ? static_cast<void*>(as_floats.data()) : as_bytes.data();
      dvfl::ModulateCall modulate{{products[0].data(), products[1].data(), products[2].data()},
                                  {biases[0].data(), biases[1].data(), biases[2].data()}};
      dvfl::AddNormCall norm{products[0].data(), products[1].data(), biases[0].data(),
                             biases[1].data(),   biases[2].data(),   1e-5f,
                             first.data()};
      dvfl::EmbedNormCall embed{products[0].data(), biases[0].data(), biases[1].data(), biases[2].data(),
                                biases[2].data(),   biases[1].data(), 1e-5f,            first.data()};
      dvfl::AddPatchesCall patches{products[0].data(), products[1].data(), 3, 2};
      if (node == 0) {
        kernels.modulate(modulate, features, kRows, {to, scale, 128});
      } else if (node == 1) {
        kernels.add_norm(norm, features, kRows, {to, scale, 128});
      } else if (node == 2) {
        kernels.embed_norm(embed, features, kRows, {to, scale, 128});
      } else {
        kernels.add_patches(patches, features, kRows, {to, scale, 128});
      }
      for (int64_t i = 0; i < values; ++i) {
        results[which][node].push_back(scale == 0.0f ? as_floats.data()[i] : as_bytes.data()[i]);
      }
      if (node == 1 || node == 2) sums[which][node].assign(first.data(), first.data() + values);
    }
  }
  const std::string name = std::string(set.name) + " features " + std::to_string(features);
  const float allowed = scale == 0.0f ? 1e-5f : 1.0f;
  for (int node = 0; node < kNodes; ++node) {
    compare(name + " " + kNodeNames[node], results[1][node], results[0][node], scale != 0.0f, allowed);
    compare(name + " " + kNodeNames[node] + ", first output", sums[1][node], sums[0][node], false, 1e-5f);
  }
}

// A linear layer in bytes, with the largest sums there are in some columns. All scales are 1 and the bias is
// whole, so the sums are exact while float32 holds them.
void check_linear(const Kernels& set, int64_t rows, int64_t inputs, int64_t outputs) {
  Tensor<uint8_t> bytes = integers<uint8_t>(rows * inputs, 0, 255);
  Tensor<int8_t> weights = integers<int8_t>(inputs * outputs, -64, 64);
  for (int64_t i = 0; i < bytes.size(); i += 2) bytes.data()[i] = i % 3 ? 255 : 0;
  for (int64_t i = 0; i < weights.size(); i += 3) weights.data()[i] = i % 2 ? 64 : -64;
  Tensor<float> scales = floats(outputs, 0.0f), bias = floats(outputs, 0.0f);
  for (int64_t n = 0; n < outputs; ++n) {
    scales.data()[n] = 1.0f;
    bias.data()[n] = static_cast<float>(n % 7);
  }
  for (int32_t zero_point : {0, 128}) {
    std::vector<float> results[2];
    for (int which = 0; which < 2; ++which) {
      const dvfl::LinearKernel& kernel = which ? *set.linear : dvfl::plain_linear;
      dvfl::Linear l{inputs, outputs, weights.data(), scales.data(), bias.data(), 1.0f, zero_point};
      auto packed = exactly(kernel.packed_bytes(l));
      kernel.pack(l, packed.get());
      l.weights = nullptr;  // after packing they may be gone
      l.weight_scales = l.bias = nullptr;
      const int64_t scratch_bytes = kernel.scratch_bytes(l, rows);
      auto scratch = exactly(scratch_bytes);
      std::memset(scratch.get(), 0xFF, static_cast<size_t>(scratch_bytes));
      Tensor<float> product = floats(rows * outputs, 0.0f);
      for (int64_t i = 0; i < product.size(); ++i) product.data()[i] = NAN;
      kernel.run(l, packed.get(), bytes.data(), rows, product.data(), scratch.get());
      results[which].assign(product.data(), product.data() + product.size());
    }
    compare(std::string(set.name) + " linear " + std::to_string(rows) + "x" + std::to_string(inputs) + "x" +
                std::to_string(outputs),
            results[1], results[0], false, 0.0f);
  }
}

// GELU through BiasGelu against the exact one, over all magnitudes, and what is no number.
void check_gelu(const Kernels& set) {
  std::vector<float> x;
  for (double value = -9.0; value <= 9.0; value += 1.7e-5) x.push_back(static_cast<float>(value));
  for (float value = 1e-38f; value < 1e30f; value *= 1.37f) {
    x.push_back(value);
    x.push_back(-value);
  }
  x.insert(x.end(), {0.0f, -0.0f, INFINITY, NAN});
  std::vector<float> zeros(x.size()), out(x.size());
  auto count = static_cast<int64_t>(x.size());
  set.bias_gelu(x.data(), zeros.data(), count, 1, {out.data(), 0.0f, 0});
  double worst_ulp = 0.0;  // of x; far on the negative side 4e-7 is allowed besides
  for (size_t i = 0; i < x.size(); ++i) {
    double value = x[i], exact = 0.5 * value * std::erfc(-value / std::sqrt(2.0));
    if (!std::isnormal(x[i])) continue;
    double ulp = std::ldexp(1.0, std::ilogb(value) - 23);
    double beyond = (std::fabs(out[i] - exact) - (value < -4.0 ? 4e-7 : 0.0)) / ulp;
    worst_ulp = std::max(worst_ulp, beyond);
  }
  size_t last = x.size();
  bool ends = out[last - 4] == 0.0f && out[last - 3] == 0.0f && out[last - 2] == INFINITY &&
              std::isnan(out[last - 1]);
  if (!ends) report(std::string(set.name) + ": gelu of 0, -0, infinity or NaN");
  std::printf("%s: gelu within %.2f ulp of its argument\n", set.name, worst_ulp);
  if (!(worst_ulp <= 2.0)) report(std::string(set.name) + ": gelu is off");
}

}  // namespace

int main() {
  const Kernels* found[dvfl::kMostKernels];
  int count = dvfl::available_kernels(found);
  for (int i = 0; i < count; ++i) {
    check_contexts(*found[i]);
    for (int64_t pixels = 1; pixels < 18; ++pixels) check_sums(*found[i], 64, pixels);
    for (int64_t channels : {1, 6, 37}) check_sums(*found[i], channels, 5);
    check_bias_gelu(*found[i]);
    for (int64_t features : {1, 7, 16, 33, 130, 384}) {
      for (float scale : {0.0f, 0.02f}) check_rows(*found[i], features, scale);
    }
    for (int64_t rows = 1; rows < 31; ++rows) check_linear(*found[i], rows, 52, 48);
    for (int64_t size : {1, 3, 6, 15, 33, 130}) {
      check_linear(*found[i], 5, size, 37);
      check_linear(*found[i], 16, 64, size);
    }
    check_linear(*found[i], 15, 4096, 20);  // rows a page apart
    check_gelu(*found[i]);
  }
  std::printf("%d findings\n", findings);
  return findings ? 1 : 0;
}
