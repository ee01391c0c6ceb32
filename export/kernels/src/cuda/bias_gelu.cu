// BiasGelu: Gelu(product + bias), one read and one write of each element.
#include "contexts.h"
#include "device.h"

namespace dvfl {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxBlocks = 16384;

template <typename T>
struct Arguments {
  const T* product;  // (rows, features)
  const T* bias;     // (features)
  T* output;
  size_t rows;
  int features;
  bool whole;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) biased_gelu(Arguments<T> a) {
  const int parts = (a.features + kEight - 1) / kEight;
  const size_t all = a.rows * parts, step = size_t(gridDim.x) * kThreads;
  for (size_t n = size_t(blockIdx.x) * kThreads + threadIdx.x; n < all; n += step) {
    const int feature = int(n % parts) * kEight, count = a.features - feature;
    const size_t at = n / parts * a.features + feature;
    float values[kEight], bias[kEight];
    read_eight(a.product + at, count, a.whole, values);
    read_eight(a.bias + feature, count, a.whole, bias);
    for (int i = 0; i < kEight; ++i) values[i] = gelu(values[i] + bias[i]);
    write_eight(a.output + at, count, a.whole, values);
  }
}

template <typename T>
cudaError_t run(const void* product, const void* bias, void* output, size_t rows, int features,
                cudaStream_t stream) {
  Arguments<T> a = {};
  a.product = static_cast<const T*>(product);
  a.bias = static_cast<const T*>(bias);
  a.output = static_cast<T*>(output);
  a.rows = rows;
  a.features = features;
  a.whole =
      features % kEight == 0 && is_aligned(product) && is_aligned(bias) && is_aligned(output);
  const size_t blocks = (rows * ceil_div(features, kEight) + kThreads - 1) / kThreads;
  const dim3 grid(blocks < kMaxBlocks ? unsigned(blocks) : unsigned(kMaxBlocks));
  return launch(biased_gelu<T>, grid, kThreads, 0, stream, a);
}

}  // namespace

cudaError_t bias_gelu(const void* product, const void* bias, void* output, size_t rows,
                      int features, Element element, cudaStream_t stream) {
  if (rows < 1 || features < 1) return cudaErrorInvalidValue;
  if (element == Element::kFloat16) {
    return run<__half>(product, bias, output, rows, features, stream);
  }
  return run<float>(product, bias, output, rows, features, stream);
}

}  // namespace dvfl
