// The kinds of nodes: their constants are checked and packed once, their inputs in every call.
#include <algorithm>
#include <thread>

#include "onnxruntime_kernel.h"

namespace dvfl {
namespace ort {
namespace {

// The constants of a context node, read from the model.
struct ContextConstants {
  dvfl::Context context{};
  std::vector<int64_t> sizes;
  std::vector<const void*> kernels;
  std::vector<const float*> kernel_scales;
  std::vector<float> input_scales;
  std::vector<float> frame_bias;
};

enum class Kind { spatial, temporal };

void read_sizes(const OrtApi* api, const OrtKernelInfo* info, ContextConstants& read) {
  dvfl::Context& c = read.context;
  c.frames = attribute(api, info, "frames");
  c.height = attribute(api, info, "height");
  c.width = attribute(api, info, "width");
  c.channels = attribute(api, info, "channels");
  c.levels = attribute(api, info, "levels");
  c.gate_offset = attribute(api, info, "gate_offset");
  c.threads = std::thread::hardware_concurrency();
  require(std::min({c.frames, c.height, c.width, c.channels, c.levels}) > 0,
          "frames, height, width, channels and levels must be positive");
  require(c.levels <= dvfl::kMostLevels,
          "at most " + std::to_string(dvfl::kMostLevels) + " levels are supported, not " + std::to_string(c.levels));
  require(c.gate_offset >= 0 && c.gate_offset <= c.levels + 1,
          "gate_offset must be from 0 to levels + 1, not " + std::to_string(c.gate_offset));
  size_t count = 0;
  check(api, api->KernelInfoGetAttributeArray_int64(info, "kernel_sizes", nullptr, &count));
  read.sizes.resize(count);
  check(api, api->KernelInfoGetAttributeArray_int64(info, "kernel_sizes", read.sizes.data(), &count));
  require(static_cast<int64_t>(count) == c.levels, "kernel_sizes must have a size for each level");
  for (int64_t size : read.sizes) {
    require(size > 0 && size % 2 == 1, "kernel_sizes must be odd, not " + std::to_string(size));
  }
}

// Two products of such a weight and a byte can be added in 16 bits.
void require_seven_bits(const int8_t* weights, int64_t count, const std::string& name) {
  for (int64_t i = 0; i < count; ++i) {
    require(weights[i] >= -64 && weights[i] <= 64,
            name + " must have weights from -64 to 64, not " + std::to_string(weights[i]));
  }
}

// Reads what follows the inputs `first`..: a kernel for each level, or (scale, kernel, its scales).
void read_levels(const OrtApi* api, const OrtKernelInfo* info, Kind kind, bool bytes, size_t first,
                 ContextConstants& read) {
  const dvfl::Context& c = read.context;
  size_t inputs = first + read.sizes.size() * (bytes ? 3 : 1);
  require(input_count(api, info) == inputs,
          "must have " + std::to_string(inputs) + " inputs with so many levels, not " +
              std::to_string(input_count(api, info)));
  for (size_t level = 0; level < read.sizes.size(); ++level) {
    int64_t k = read.sizes[level];
    std::string name = "kernel_" + std::to_string(level + 1);
    std::vector<int64_t> shape = kind == Kind::spatial
                                     ? std::vector<int64_t>{c.channels, 1, k, k}
                                     : std::vector<int64_t>{c.channels, c.channels, k, 1};
    size_t at = first + level * (bytes ? 3 : 1);
    if (bytes) {
      std::string scale = "scale_" + std::to_string(level + 1);
      read.input_scales.push_back(*constant_of(api, info, at, scale.c_str(), {}, kFloat).floats());
      require(read.input_scales.back() > 0.0f, scale + " must be positive");
      ++at;
    }
    read.kernels.push_back(constant_of(api, info, at, name.c_str(), shape, bytes ? kInt8 : kFloat).data);
    if (bytes) {
      require_seven_bits(static_cast<const int8_t*>(read.kernels.back()), c.channels * c.channels * k, name);
      std::string scales = "kernel_scale_" + std::to_string(level + 1);
      read.kernel_scales.push_back(
          constant_of(api, info, at + 1, scales.c_str(), {c.channels}, kFloat).floats());
    }
  }
}

class ContextNode : public Kernel {
 public:
  ContextNode(const OrtApi* api, const OrtKernelInfo* info, const char* name, Kind kind, bool bytes)
      : Kernel(api, name) {
    ContextConstants read;
    read_sizes(api, info, read);
    dvfl::Context& c = read.context;
    size_t next = 2;
    if (kind == Kind::temporal) {
      c.frame_bias = constant_of(api, info, next, "frame_bias", {1, c.channels, c.frames, 1}, kFloat).floats();
      ++next;
    }
    if (bytes) {
      Quantisation output = quantisation_of(api, info, next);
      c.output_scale = output.scale;
      c.zero_point = output.zero_point;
      next += 2;
    }
    bool bytes_in = bytes && kind == Kind::temporal;
    read_levels(api, info, kind, bytes_in, next, read);
    sizes_ = std::move(read.sizes);
    c.kernel_sizes = sizes_.data();
    c.kernels = read.kernels.data();
    if (bytes_in) {
      c.input_scales = read.input_scales.data();
      c.kernel_scales = read.kernel_scales.data();
    }
    const dvfl::Kernels& kernels = *set_;
    kernel_ = kind == Kind::spatial ? kernels.spatial
              : bytes_in            ? kernels.temporal_int8
                                    : kernels.temporal;
    packed_ = aligned_buffer(kernel_->packed_bytes(c));
    kernel_->pack(c, packed_.get());
    // of the model's own memory, which onnxruntime may give back after this
    c.kernels = nullptr;
    c.frame_bias = c.input_scales = nullptr;
    c.kernel_scales = nullptr;
    constants_ = c;
  }

 protected:
  void run(OrtKernelContext* context) const override {
    const dvfl::Context& c = constants_;
    Tensor input = input_of(api_, context, 0), gates = input_of(api_, context, 1);
    int64_t batch = input.shape.empty() ? 0 : input.shape[0];
    require(batch > 0, "the batch is empty");
    std::vector<int64_t> wanted{batch, c.tokens(), c.channels};
    require(input.shape == wanted, "context must have the shape " + text(wanted) + ", not " + text(input.shape));
    std::vector<int64_t> gated{batch, c.tokens(), c.gates()};
    require(gates.shape == gated, "gates must have the shape " + text(gated) + ", not " + text(gates.shape));
    dvfl::ContextCall call{input.data, gates.floats(), output(context, wanted)};
    int64_t bytes = kernel_->scratch_bytes(c);
    bool failed = false;
    auto work = [&](int64_t part) {
      void* scratch = scratch_of_thread(bytes);
      if (scratch == nullptr) {
        __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
      } else {
        kernel_->run(c, packed_.get(), call, part, scratch);
      }
    };
    in_parallel(context, batch * kernel_->parts(c), work);
    require(!failed, "out of memory");
  }

 private:
  dvfl::Context constants_{};
  std::vector<int64_t> sizes_;
  const dvfl::ContextKernel* kernel_ = nullptr;
  Buffer packed_;
};

// A node that computes each row, the last dimension, on its own.
class RowsNode : public Kernel {
 public:
  RowsNode(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool bytes, size_t fixed)
      : Kernel(api, name) {
    if (bytes) quantisation_ = quantisation_of(api, info, fixed);
  }

 protected:
  static constexpr int64_t kPartValues = 16384;  // 64 KB, so that threads share the work evenly

  Tensor rows_of(OrtKernelContext* context) const {
    Tensor first = input_of(api_, context, 0);
    int64_t values = 1;
    for (int64_t size : first.shape) values *= size;
    require(!first.shape.empty() && values > 0, "the batch is empty");
    return first;
  }

  const float* of_shape(OrtKernelContext* context, size_t index, const char* name,
                        const std::vector<int64_t>& shape) const {
    Tensor tensor = input_of(api_, context, index);
    require(tensor.shape == shape, std::string(name) + " must have the shape " + text(shape) +
                                       ", not " + text(tensor.shape));
    return tensor.floats();
  }

  // Calls work(begin, end) for pieces of the rows.
  template <typename Work>
  void over_rows(const OrtKernelContext* context, const std::vector<int64_t>& shape, const Work& work) const {
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
    int64_t step = std::max<int64_t>(1, kPartValues / shape.back());
    auto part = [&](int64_t index) { work(index * step, std::min(rows, (index + 1) * step)); };
    in_parallel(context, (rows + step - 1) / step, part);
  }

  dvfl::Output result(void* data) const { return {data, quantisation_.scale, quantisation_.zero_point}; }

 private:
  Quantisation quantisation_{};
};

class BiasGeluNode : public RowsNode {
 public:
  BiasGeluNode(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool bytes)
      : RowsNode(api, info, name, bytes, 2) {}

 protected:
  void run(OrtKernelContext* context) const override {
    Tensor product = rows_of(context);
    int64_t features = product.shape.back();
    const float* bias = of_shape(context, 1, "bias", {features});
    dvfl::Output out = result(output(context, product.shape));
    dvfl::BiasGelu kernel = set_->bias_gelu;
    over_rows(context, product.shape, [&](int64_t begin, int64_t end) {
      kernel(product.floats(), bias, features, begin, end, out);
    });
  }
};

class ModulateNode : public RowsNode {
 public:
  ModulateNode(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool bytes)
      : RowsNode(api, info, name, bytes, 6) {}

 protected:
  void run(OrtKernelContext* context) const override {
    Tensor first = rows_of(context);
    int64_t features = first.shape.back();
    dvfl::ModulateCall call{};
    for (size_t i = 0; i < 3; ++i) {
      call.products[i] = of_shape(context, i, "a product", first.shape);
      call.biases[i] = of_shape(context, i + 3, "a bias", {features});
    }
    dvfl::Output out = result(output(context, first.shape));
    dvfl::Modulate kernel = set_->modulate;
    over_rows(context, first.shape,
              [&](int64_t begin, int64_t end) { kernel(call, features, begin, end, out); });
  }
};

// A node that ends in a layer normalisation.
class NormNode : public RowsNode {
 public:
  NormNode(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool bytes, size_t fixed)
      : RowsNode(api, info, name, bytes, fixed) {
    check(api, api->KernelInfoGetAttribute_float(info, "epsilon", &epsilon_));
    require(epsilon_ > 0.0f, "epsilon must be positive");
  }

 protected:
  float epsilon_ = 0.0f;
};

class AddNormNode : public NormNode {
 public:
  AddNormNode(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool bytes)
      : NormNode(api, info, name, bytes, 5) {}

 protected:
  void run(OrtKernelContext* context) const override {
    Tensor x = rows_of(context);
    int64_t features = x.shape.back();
    dvfl::AddNormCall call{};
    call.x = x.floats();
    call.product = of_shape(context, 1, "product", x.shape);
    call.bias = of_shape(context, 2, "bias", {features});
    call.scale = of_shape(context, 3, "the scale of the norm", {features});
    call.shift = of_shape(context, 4, "the shift of the norm", {features});
    call.epsilon = epsilon_;
    call.sum = static_cast<float*>(output(context, x.shape));
    dvfl::Output normalised = result(output(context, x.shape, 1));
    dvfl::AddNorm kernel = set_->add_norm;
    over_rows(context, x.shape,
              [&](int64_t begin, int64_t end) { kernel(call, features, begin, end, normalised); });
  }
};

class EmbedNormNode : public NormNode {
 public:
  EmbedNormNode(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool bytes)
      : NormNode(api, info, name, bytes, 6) {}

 protected:
  void run(OrtKernelContext* context) const override {
    Tensor product = rows_of(context);
    int64_t features = product.shape.back();
    dvfl::EmbedNormCall call{};
    call.product = product.floats();
    call.bias = of_shape(context, 1, "bias", {features});
    call.embed_scale = of_shape(context, 2, "the scale of the embedding's norm", {features});
    call.embed_shift = of_shape(context, 3, "the shift of the embedding's norm", {features});
    call.scale = of_shape(context, 4, "the scale of the norm", {features});
    call.shift = of_shape(context, 5, "the shift of the norm", {features});
    call.epsilon = epsilon_;
    call.tokens = static_cast<float*>(output(context, product.shape));
    dvfl::Output normalised = result(output(context, product.shape, 1));
    dvfl::EmbedNorm kernel = set_->embed_norm;
    over_rows(context, product.shape,
              [&](int64_t begin, int64_t end) { kernel(call, features, begin, end, normalised); });
  }
};

class AddPatchesNode : public RowsNode {
 public:
  AddPatchesNode(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool bytes)
      : RowsNode(api, info, name, bytes, 2) {
    rows_ = attribute(api, info, "rows");
    columns_ = attribute(api, info, "columns");
    stride_ = attribute(api, info, "stride");
    channels_ = attribute(api, info, "channels");
    require(std::min({rows_, columns_, stride_, channels_}) > 0,
            "rows, columns, stride and channels must be positive");
  }

 protected:
  void run(OrtKernelContext* context) const override {
    Tensor x = rows_of(context);
    int64_t batch = x.shape[0], lines = rows_ * columns_ * stride_, features = stride_ * channels_;
    std::vector<int64_t> wanted{batch, lines * stride_, channels_};
    require(x.shape == wanted, "x must have the shape " + text(wanted) + ", not " + text(x.shape));
    dvfl::AddPatchesCall call{x.floats(), of_shape(context, 1, "product", wanted), columns_, stride_};
    dvfl::Output out = result(output(context, {batch, rows_ * columns_, stride_ * features}));
    dvfl::AddPatches kernel = set_->add_patches;
    over_rows(context, {batch, lines, features},
              [&](int64_t begin, int64_t end) { kernel(call, features, begin, end, out); });
  }

 private:
  int64_t rows_, columns_, stride_, channels_;
};

}  // namespace

std::unique_ptr<Kernel> make_kernel(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  std::string op = name;
  bool bytes = op[0] == 'Q';
  if (op == "BiasGelu" || op == "QBiasGelu") {
    return std::make_unique<BiasGeluNode>(api, info, name, bytes);
  }
  if (op == "Modulate" || op == "QModulate") {
    return std::make_unique<ModulateNode>(api, info, name, bytes);
  }
  if (op == "AddNorm" || op == "QAddNorm") {
    return std::make_unique<AddNormNode>(api, info, name, bytes);
  }
  if (op == "AddPatches" || op == "QAddPatches") {
    return std::make_unique<AddPatchesNode>(api, info, name, bytes);
  }
  if (op == "EmbedNorm" || op == "QEmbedNorm") {
    return std::make_unique<EmbedNormNode>(api, info, name, bytes);
  }
  bool spatial = op.find("Spatial") != std::string::npos;
  return std::make_unique<ContextNode>(api, info, name, spatial ? Kind::spatial : Kind::temporal, bytes);
}

}  // namespace ort
}  // namespace dvfl
