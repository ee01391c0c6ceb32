// SpatialContext: depthwise convolutions over the pixels of each frame, gated and summed.
//
// A block computes all levels of a tile of pixels, for as many channels as make a sector of 32 bytes:
// the levels stay in shared memory, with the border that the next ones need. Where the tile is the
// whole frame, the mean over the frame is known in the block, and DRAM sees the input and the output
// alone. Otherwise a second kernel adds the mean: it reads and writes the output once more, 4 tensors
// (B, N, C) instead of 2, where the nodes one by one move about 20.
#include "contexts.h"
#include "device.h"

namespace dvfl {
namespace {

constexpr int kThreads = 256;
constexpr int kOwned = 32;  // outputs of a thread
constexpr int kRun = 4;     // outputs below each other that share what they read

// Channels of a block: a sector, or a quarter of one where many levels need wide borders.
template <typename T>
constexpr int kSector = 32 / sizeof(T);
template <typename T>
constexpr int kQuarter = 8 / sizeof(T);

struct Region {
  int top, left, height, width;
};

__host__ __device__ inline int lesser(int a, int b) { return a < b ? a : b; }
__host__ __device__ inline int greater(int a, int b) { return a > b ? a : b; }

// A region and so many pixels around it, inside a frame.
__host__ __device__ inline Region around(const Region& core, int by, int height, int width) {
  const int top = greater(0, core.top - by), left = greater(0, core.left - by);
  return {top, left, lesser(height, core.top + core.height + by) - top,
          lesser(width, core.left + core.width + by) - left};
}

// A region and so many pixels around it, also outside the frame.
__host__ __device__ inline Region padded(const Region& region, int by) {
  return {region.top - by, region.left - by, region.height + 2 * by, region.width + 2 * by};
}

template <typename T>
struct TileArguments {
  const T* context;  // (B, N, C)
  const T* gates;    // (B, N, all gates)
  const T* kernels[kMaxLevels];
  int kernel_sizes[kMaxLevels];
  T* modulator;  // (B, N, C)
  float* sums;   // (B * T, tiles, C) over each tile's pixels of the last level
  int height, width, channels, levels, gates_per_token, gate_offset;
  int tile_height, tile_width, tiles_across, tiles;
  int second;  // elements before the second of the two buffers
  int taps;    // of the largest kernel
};

// Convolve a column of four outputs for each item of work, from `in` to `out` in shared memory.
// `in` begins at the first tap of the first output of `region`; kSize 0 is any size.
template <typename T, int kGroup, int kSize>
__device__ void convolve(const T* in, T* out, const Region& region, const Region& buffer,
                         const float* weights, int any_size) {
  const int size = kSize ? kSize : any_size;
  const int row = (region.width + size - 1) * kGroup;
  const int runs = (region.height + kRun - 1) / kRun;
  for (int n = threadIdx.x; n < runs * region.width * kGroup; n += kThreads) {
    const int c = n % kGroup, x = n / kGroup % region.width, y = n / kGroup / region.width * kRun;
    const T* const column = in + y * row + x * kGroup + c;
    float sums[kRun] = {};
    if constexpr (kSize > 0) {
#pragma unroll
      for (int dx = 0; dx < kSize; ++dx) {
        float values[kRun + kSize - 1];
#pragma unroll
        for (int i = 0; i < kRun + kSize - 1; ++i) {
          values[i] = to_float(column[i * row + dx * kGroup]);
        }
#pragma unroll
        for (int dy = 0; dy < kSize; ++dy) {
          const float weight = weights[(dy * kSize + dx) * kGroup + c];
#pragma unroll
          for (int i = 0; i < kRun; ++i) sums[i] += values[i + dy] * weight;
        }
      }
    } else {
      for (int tap = 0; tap < size * size; ++tap) {
        const T* const first = column + tap / size * row + tap % size * kGroup;
        for (int i = 0; i < kRun; ++i) {
          sums[i] += to_float(first[i * row]) * weights[tap * kGroup + c];
        }
      }
    }
    const int top = region.top - buffer.top + y, left = region.left - buffer.left + x;
    for (int i = 0; i < kRun; ++i) {
      if (y + i >= region.height) break;
      out[((top + i) * buffer.width + left) * kGroup + c] = from_float<T>(gelu(sums[i]));
    }
  }
}

// Fill a buffer with a function of (row, column, channel) of the frame; 0 outside the frame.
template <typename T, int kGroup, typename Value>
__device__ void fill(T* out, const Region& buffer, const TileArguments<T>& a, bool inside,
                     Value value) {
  for (int n = threadIdx.x; n < buffer.height * buffer.width * kGroup; n += kThreads) {
    const int c = n % kGroup, pixel = n / kGroup;
    const int y = buffer.top + pixel / buffer.width, x = buffer.left + pixel % buffer.width;
    if (y < 0 || y >= a.height || x < 0 || x >= a.width) {
      out[n] = from_float<T>(0.0f);
    } else if (inside) {
      out[n] = value(y, x, c);
    }
  }
}

// What a thread gathers for its own outputs: every kThreads-th element of the tile.
template <typename T, int kGroup>
struct Gathered {
  const TileArguments<T>& a;
  const Region& core;
  size_t token;  // of the frame's first pixel
  int channel;
  float totals[kOwned] = {};

  __device__ int pixel(int n) const { return (threadIdx.x + n * kThreads) / kGroup; }
  __device__ size_t place(int pixel) const {
    const int y = core.top + pixel / core.width, x = core.left + pixel % core.width;
    return token + y * a.width + x;
  }
  __device__ float gate(int pixel, int index) const {
    return to_float(a.gates[place(pixel) * a.gates_per_token + a.gate_offset + index]);
  }

  // Add a level, and return the sum of its values.
  __device__ float add(const T* level, const Region& buffer, int index) {
    const int pixels = core.height * core.width;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kOwned; ++n) {
      const int own = pixel(n);
      if (own >= pixels) continue;
      const int y = core.top - buffer.top + own / core.width;
      const int x = core.left - buffer.left + own % core.width;
      const float value =
          to_float(level[(y * buffer.width + x) * kGroup + threadIdx.x % kGroup]);
      totals[n] += value * gate(own, index);
      sum += value;
    }
    return sum;
  }

  __device__ void write(float everywhere) {
    const int pixels = core.height * core.width;
#pragma unroll
    for (int n = 0; n < kOwned; ++n) {
      const int own = pixel(n);
      if (own >= pixels || channel >= a.channels) continue;
      if (a.tiles == 1) totals[n] += everywhere * gate(own, a.levels);
      a.modulator[place(own) * a.channels + channel] = from_float<T>(totals[n]);
    }
  }
};

// Add what the threads of each channel hold; thread c of the first kGroup holds channel c's sum.
template <int kGroup>
__device__ void reduce(float* sums, float value) {
  sums[threadIdx.x] = value;
  __syncthreads();
  for (unsigned half = kThreads / 2; half >= kGroup; half /= 2) {
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
}

template <typename T, int kGroup>
__device__ void level(const TileArguments<T>& a, int index, const T* in, T* out,
                      const Region& region, const Region& buffer, float* weights) {
  const int size = a.kernel_sizes[index], first = blockIdx.x / a.tiles * kGroup;
  for (int n = threadIdx.x; n < size * size * kGroup; n += kThreads) {
    const int channel = first + n % kGroup;  // kernels are (C, 1, size, size)
    const bool is_one = channel < a.channels;
    weights[n] =
        is_one ? to_float(a.kernels[index][channel * size * size + n / kGroup]) : 0.0f;
  }
  fill<T, kGroup>(out, buffer, a, false, [](int, int, int) { return T(); });
  __syncthreads();
  switch (size) {
    case 3:
      return convolve<T, kGroup, 3>(in, out, region, buffer, weights, size);
    case 5:
      return convolve<T, kGroup, 5>(in, out, region, buffer, weights, size);
    case 7:
      return convolve<T, kGroup, 7>(in, out, region, buffer, weights, size);
    default:
      return convolve<T, kGroup, 0>(in, out, region, buffer, weights, size);
  }
}

// Grid: (tiles x groups of channels, frames). Shared memory: sums, weights, the two buffers.
template <typename T, int kGroup>
__global__ void __launch_bounds__(kThreads) spatial_tile(TileArguments<T> a) {
  DVFL_SHARED(memory);
  float* const sums = reinterpret_cast<float*>(memory);
  float* const weights = sums + kThreads;
  T* in = reinterpret_cast<T*>(weights + a.taps * kGroup);
  T* out = in + a.second;
  const int tile = blockIdx.x % a.tiles, first = blockIdx.x / a.tiles * kGroup;
  const int top = tile / a.tiles_across * a.tile_height;
  const int left = tile % a.tiles_across * a.tile_width;
  const Region core = {top, left, lesser(a.tile_height, a.height - top),
                       lesser(a.tile_width, a.width - left)};
  const size_t token = size_t(blockIdx.y) * a.height * a.width;
  const int channel = first + threadIdx.x % kGroup;
  int border = 0;
  for (int l = 0; l < a.levels; ++l) border += a.kernel_sizes[l] / 2;
  border -= a.kernel_sizes[0] / 2;
  Region region = around(core, border, a.height, a.width);
  Region buffer = padded(region, a.kernel_sizes[0] / 2);
  fill<T, kGroup>(in, buffer, a, true, [&](int y, int x, int c) {
    const size_t pixel = token + y * a.width + x;
    return first + c < a.channels ? a.context[pixel * a.channels + first + c] : T();
  });
  Gathered<T, kGroup> gathered{a, core, token, channel};
  float sum = 0;
  for (int l = 0; l < a.levels; ++l) {
    const bool is_last = l + 1 == a.levels;
    const int pad = is_last ? 0 : a.kernel_sizes[l + 1] / 2;
    border -= pad;
    const Region next = around(core, border, a.height, a.width);
    buffer = padded(next, pad);
    level<T, kGroup>(a, l, in, out, region, buffer, weights);
    __syncthreads();
    sum = gathered.add(out, buffer, l);
    region = next;
    T* const swapped = in;
    in = out;
    out = swapped;
  }
  reduce<kGroup>(sums, sum);
  const float total = sums[threadIdx.x % kGroup];
  gathered.write(gelu(total / (a.height * a.width)));
  if (a.tiles > 1 && threadIdx.x < kGroup && channel < a.channels) {
    a.sums[(size_t(blockIdx.y) * a.tiles + tile) * a.channels + channel] = total;
  }
}

template <typename T>
struct MeanArguments {
  const float* sums;  // (B * T, tiles, C)
  const T* gates;     // (B, N, all gates)
  T* modulator;       // (B, N, C)
  int pixels, channels, tiles, gates_per_token, gate;
  bool whole;  // C is a multiple of eight, the modulator aligned
};

constexpr int kMeanPixels = 32;  // of a block

// Add Gelu(mean over the frame) * gate. Grid: (parts of a frame, frames).
template <typename T>
__global__ void __launch_bounds__(kThreads) spatial_mean(MeanArguments<T> a) {
  DVFL_SHARED(memory);
  float* const everywhere = reinterpret_cast<float*>(memory);
  const int width = (a.channels + kEight - 1) / kEight * kEight;
  for (int c = threadIdx.x; c < width; c += kThreads) {
    float sum = 0;
    for (int tile = 0; tile < a.tiles && c < a.channels; ++tile) {
      sum += a.sums[(size_t(blockIdx.y) * a.tiles + tile) * a.channels + c];
    }
    everywhere[c] = gelu(sum / a.pixels);
  }
  __syncthreads();
  const int first = blockIdx.x * kMeanPixels, parts = width / kEight;
  const int count = lesser(kMeanPixels, a.pixels - first);
  for (int n = threadIdx.x; n < count * parts; n += kThreads) {
    const int channel = n % parts * kEight;
    const size_t token = size_t(blockIdx.y) * a.pixels + first + n / parts;
    const float gate = to_float(a.gates[token * a.gates_per_token + a.gate]);
    T* const to = a.modulator + token * a.channels + channel;
    float values[kEight];
    read_eight(static_cast<const T*>(to), a.channels - channel, a.whole, values);
    for (int i = 0; i < kEight; ++i) values[i] += everywhere[channel + i] * gate;
    write_eight(to, a.channels - channel, a.whole, values);
  }
}

// How a frame is cut into tiles.
struct Plan {
  int height = 0, width = 0;  // of a tile; 0 if nothing fits
  int group = 0;              // channels of a block
  int first = 0, second = 0;  // elements of the two buffers
  double cost = 0;

  int tiles(const ContextSizes& sizes) const {
    return ceil_div(sizes.height, height) * ceil_div(sizes.width, width);
  }
};

int most_taps(const ContextSizes& sizes) {
  int most = 1;
  for (int l = 0; l < sizes.levels; ++l) most = greater(most, sizes.kernel_sizes[l]);
  return most * most;
}

size_t tile_bytes(const ContextSizes& sizes, const Plan& plan, size_t element) {
  const size_t floats = kThreads + most_taps(sizes) * plan.group;
  return floats * sizeof(float) + (plan.first + plan.second) * element;
}

// Measure a tile: buffers for the tile with the most pixels around it, and instructions per channel.
Plan measured(const ContextSizes& sizes, int height, int width, int group) {
  Plan plan{height, width, group};
  int border = 0;
  for (int l = 0; l < sizes.levels; ++l) border += sizes.kernel_sizes[l] / 2;
  for (int l = 0; l <= sizes.levels; ++l) {
    const int size = l < sizes.levels ? sizes.kernel_sizes[l] : 1;
    border -= l < sizes.levels ? size / 2 : 0;
    // the last run of outputs below each other reads up to kRun - 1 rows that nobody needs
    const int rows = lesser(sizes.height, height + 2 * border) + size - 1;
    const int columns = lesser(sizes.width, width + 2 * border) + size - 1;
    int& elements = l % 2 ? plan.second : plan.first;
    elements = greater(elements, (rows + kRun - 1) * columns * group);
    const double outputs = double(rows - size + 1) * (columns - size + 1);
    plan.cost += rows * columns * 4.0 + (l < sizes.levels ? outputs * (size * size * 1.4 + 40) : 0);
  }
  const int tiles = plan.tiles(sizes);
  plan.cost *= tiles;
  if (tiles > 1) plan.cost += sizes.pixels() * 8.0;
  return plan;
}

// Choose the cheapest tile that fits, of a sector's channels if there is one.
Plan planned(const ContextSizes& sizes, size_t element) {
  Plan best;
  for (int group = int(32 / element); group >= int(8 / element) && !best.height; group /= 4) {
    for (int rows = 1; rows <= sizes.height; rows += greater(1, rows / 4)) {
      for (int columns = 1; columns <= sizes.width; columns += greater(1, columns / 4)) {
        const Plan plan = measured(sizes, ceil_div(sizes.height, rows),
                                   ceil_div(sizes.width, columns), group);
        if (plan.height * plan.width * group > kOwned * kThreads) continue;
        if (tile_bytes(sizes, plan, element) > kSharedBytes) continue;
        if (!best.height || plan.cost < best.cost) best = plan;
      }
    }
  }
  return best;
}

template <typename T>
cudaError_t add_mean(const TileArguments<T>& tile, int frames, cudaStream_t stream) {
  MeanArguments<T> a = {};
  a.sums = tile.sums;
  a.gates = tile.gates;
  a.modulator = tile.modulator;
  a.pixels = tile.height * tile.width;
  a.channels = tile.channels;
  a.tiles = tile.tiles;
  a.gates_per_token = tile.gates_per_token;
  a.gate = tile.gate_offset + tile.levels;
  a.whole = tile.channels % kEight == 0 && is_aligned(tile.modulator);
  const dim3 grid(ceil_div(a.pixels, kMeanPixels), frames);
  const size_t shared = ceil_div(a.channels, kEight) * kEight * sizeof(float);
  return launch(spatial_mean<T>, grid, kThreads, shared, stream, a);
}

template <typename T>
cudaError_t run(const ContextSizes& sizes, const ContextTensors& tensors, cudaStream_t stream) {
  const Plan plan = planned(sizes, sizeof(T));
  TileArguments<T> a = {};
  a.context = static_cast<const T*>(tensors.context);
  a.gates = static_cast<const T*>(tensors.gates);
  a.modulator = static_cast<T*>(tensors.modulator);
  a.sums = static_cast<float*>(tensors.workspace);
  for (int l = 0; l < sizes.levels; ++l) {
    a.kernels[l] = static_cast<const T*>(tensors.kernels[l]);
    a.kernel_sizes[l] = sizes.kernel_sizes[l];
  }
  a.height = sizes.height;
  a.width = sizes.width;
  a.channels = sizes.channels;
  a.levels = sizes.levels;
  a.gates_per_token = sizes.gates();
  a.gate_offset = sizes.gate_offset;
  a.tile_height = plan.height;
  a.tile_width = plan.width;
  a.tiles_across = ceil_div(sizes.width, plan.width);
  a.tiles = plan.tiles(sizes);
  a.second = plan.first;
  a.taps = most_taps(sizes);
  const int frames = sizes.batch * sizes.frames;
  const dim3 grid(a.tiles * ceil_div(sizes.channels, plan.group), frames);
  const auto kernel =
      plan.group == kSector<T> ? spatial_tile<T, kSector<T>> : spatial_tile<T, kQuarter<T>>;
  const size_t shared = tile_bytes(sizes, plan, sizeof(T));
  const cudaError_t error = launch(kernel, grid, kThreads, shared, stream, a);
  if (error != cudaSuccess || a.tiles == 1) return error;
  return add_mean(a, frames, stream);
}

}  // namespace

const char* why_not(const ContextSizes& sizes) {
  if (sizes.levels < 1 || sizes.levels > kMaxLevels) return "levels must be 1 to 8";
  if (sizes.frames < 1 || sizes.height < 1 || sizes.width < 1 || sizes.channels < 1) {
    return "frames, height, width and channels must be at least 1";
  }
  if (sizes.channels > 8192) return "channels must be at most 8192";
  if (sizes.gate_offset < 0 || sizes.gate_offset + sizes.levels >= sizes.gates()) {
    return "gate_offset must leave a gate for each level and one for the mean";
  }
  for (int l = 0; l < sizes.levels; ++l) {
    const int size = sizes.kernel_sizes[l];
    if (size < 1 || size > 25 || size % 2 == 0) return "kernel_sizes must be odd and at most 25";
  }
  return planned(sizes, 4).height ? nullptr : "kernel_sizes are too large together";
}

size_t spatial_workspace(const ContextSizes& sizes, Element element) {
  const Plan plan = planned(sizes, element == Element::kFloat16 ? 2 : 4);
  const int tiles = plan.tiles(sizes);
  if (tiles == 1) return 0;
  return aligned(size_t(sizes.batch) * sizes.frames * tiles * sizes.channels * sizeof(float));
}

cudaError_t spatial_context(const ContextSizes& sizes, Element element,
                            const ContextTensors& tensors, cudaStream_t stream) {
  if (sizes.batch < 1 || sizes.batch * sizes.frames > 65535 || why_not(sizes)) {
    return cudaErrorInvalidValue;
  }
  if (element == Element::kFloat16) return run<__half>(sizes, tensors, stream);
  return run<float>(sizes, tensors, stream);
}

}  // namespace dvfl
