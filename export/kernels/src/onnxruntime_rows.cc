// The nodes that compute each row, the last dimension, on its own. Those whose name begins with QLinear
// compute the products as well that they read, a block of rows at a time, so that these stay in the cache.
#include <algorithm>
#include <cstring>
#include <thread>

#include "onnxruntime_kernel.h"

namespace dvfl {
namespace ort {
namespace {

constexpr int64_t kPartValues = 16384;       // 64 KB, so that threads share the work evenly
constexpr int64_t kBlockBytes = 256 * 1024;  // of products that are computed and read at once

constexpr size_t kParts = 5;  // of a linear layer: bytes, their scale, weights, their scales and zero points

// A linear layer whose parts are the inputs from `first` on; `bias` is another input, or 0.
class Linear {
 public:
  Linear(const OrtApi* api, const OrtKernelInfo* info, const dvfl::LinearKernel& kernel, size_t first,
         size_t bias, int32_t zero_point)
      : kernel_(kernel) {
    Tensor weight = constant_of(api, info, first + 2, "a weight", kInt8);
    require(weight.shape.size() == 2 && weight.shape[0] > 0 && weight.shape[1] > 0,
            "a weight must have the shape (inputs, outputs), not " + text(weight.shape));
    dvfl::Linear& l = constants_;
    l.inputs = weight.shape[0];
    l.outputs = weight.shape[1];
    l.weights = static_cast<const int8_t*>(weight.data);
    require_seven_bits(l.weights, l.inputs * l.outputs, "a weight");
    l.input_scale = *constant_of(api, info, first + 1, "the scale of bytes", {}, kFloat).floats();
    require(l.input_scale > 0.0f, "the scale of bytes must be positive");
    l.weight_scales = constant_of(api, info, first + 3, "the scales of a weight", {l.outputs}, kFloat).floats();
    Tensor zeros = constant_of(api, info, first + 4, "the zero points of a weight", {l.outputs}, kInt8);
    const int8_t* zero = static_cast<const int8_t*>(zeros.data);
    require(std::all_of(zero, zero + l.outputs, [](int8_t value) { return value == 0; }),
            "the zero points of a weight must be 0");
    if (bias > 0) l.bias = constant_of(api, info, bias, "bias", {l.outputs}, kFloat).floats();
    l.zero_point = zero_point;
    packed_ = aligned_buffer(kernel_.packed_bytes(l));
    kernel_.pack(l, packed_.get());
    l.weights = nullptr;  // of the model's own memory, which onnxruntime may give back after this
    l.weight_scales = l.bias = nullptr;
  }

  int64_t inputs() const { return constants_.inputs; }
  int64_t outputs() const { return constants_.outputs; }
  int64_t scratch_bytes(int64_t rows) const { return kernel_.scratch_bytes(constants_, rows); }
  void run(const uint8_t* bytes, int64_t rows, float* product, void* scratch) const {
    kernel_.run(constants_, packed_.get(), bytes, rows, product, scratch);
  }

 private:
  const dvfl::LinearKernel& kernel_;
  dvfl::Linear constants_{};
  Buffer packed_;
};

// An input that is a product: float32, or the bytes of a linear layer.
struct Product {
  size_t input;
  std::unique_ptr<Linear> linear;
};

// The tensors of a call.
struct Rows {
  std::vector<int64_t> shape;        // of a product
  int64_t count, features;           // rows and their values
  std::vector<const void*> sources;  // of each product
};

// Some rows of a call.
struct Piece {
  int64_t begin, rows, features;
  const float* products[3];

  template <typename T>
  T* of(T* tensor) const {
    return tensor + begin * features;
  }
  dvfl::Output of(const dvfl::Output& out) const {
    const int64_t size = out.scale == 0.0f ? static_cast<int64_t>(sizeof(float)) : 1;
    return {static_cast<char*>(out.data) + begin * features * size, out.scale, out.zero_point};
  }
};

class RowsNode : public Kernel {
 public:
  RowsNode(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool to_bytes)
      : Kernel(api, name), linear_(std::strncmp(name, "QLinear", 7) == 0) {
    const size_t inputs = input_count(api, info);
    if (linear_) quantisation_.zero_point = zero_point_of(api, info, inputs - 1);
    if (to_bytes) quantisation_ = quantisation_of(api, info, inputs - 2);
  }

 protected:
  // For the constructors of the nodes: the products are the inputs from `first` on, vectors follow.
  void takes_products(const OrtKernelInfo* info, size_t first, size_t count, bool with_bias = false) {
    const size_t parts = linear_ ? kParts : 1;
    vectors_ = first + count * parts;
    for (size_t input = first; input < vectors_; input += parts) {
      products_.push_back({input, nullptr});
      if (linear_) {
        products_.back().linear = std::make_unique<Linear>(api_, info, *set_->linear, input,
                                                           with_bias ? vectors_ : 0, quantisation_.zero_point);
      }
    }
  }

  Rows rows_of(OrtKernelContext* context) const {
    Rows rows{};
    for (const Product& product : products_) {
      Tensor tensor = input_of(api_, context, product.input);
      require(!tensor.shape.empty(), "a product must not be a scalar");
      if (product.linear) {
        require(tensor.shape.back() == product.linear->inputs(),
                "a product must have " + std::to_string(product.linear->inputs()) + " inputs, not the shape " +
                    text(tensor.shape));
        tensor.shape.back() = product.linear->outputs();
      }
      if (rows.sources.empty()) rows.shape = tensor.shape;
      require_shape("a product", tensor, rows.shape);
      rows.sources.push_back(tensor.data);
    }
    rows.features = rows.shape.back();
    rows.count = 1;
    for (size_t i = 0; i + 1 < rows.shape.size(); ++i) rows.count *= rows.shape[i];
    require(rows.count * rows.features > 0, "the batch is empty");
    return rows;
  }

  const float* vector(OrtKernelContext* context, size_t index, const char* name, const Rows& rows) const {
    Tensor tensor = input_of(api_, context, vectors_ + index);
    require_shape(name, tensor, {rows.features});
    return tensor.floats();
  }

  const float* tensor(OrtKernelContext* context, size_t index, const char* name, const Rows& rows) const {
    Tensor tensor = input_of(api_, context, index);
    require_shape(name, tensor, rows.shape);
    return tensor.floats();
  }

  dvfl::Output result(void* data) const { return {data, quantisation_.scale, quantisation_.zero_point}; }

  // Calls work(piece) for pieces of the rows, each but the last of a multiple of `unit` rows. A product that
  // is computed here is written to `to` if that is given.
  template <typename Work>
  void over_rows(const OrtKernelContext* context, const Rows& rows, const Work& work, int64_t unit = 1,
                 float* to = nullptr) const {
    const int64_t step = step_of(rows, unit);
    int64_t product_bytes = (step * rows.features * 4 / dvfl::kAlignment + 1) * dvfl::kAlignment;
    int64_t linear_bytes = 0;
    for (const Product& product : products_) {
      if (product.linear) linear_bytes = std::max(linear_bytes, product.linear->scratch_bytes(step));
    }
    const auto computed = static_cast<int64_t>(linear_ && to == nullptr ? products_.size() : 0);
    const int64_t bytes = computed * product_bytes + linear_bytes;
    bool failed = false;
    auto part = [&](int64_t index) {
      Piece piece{index * step, std::min(step, rows.count - index * step), rows.features, {}};
      char* scratch = static_cast<char*>(bytes > 0 ? scratch_of_thread(bytes) : nullptr);
      if (bytes > 0 && scratch == nullptr) {
        __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
        return;
      }
      for (size_t i = 0; i < products_.size(); ++i) {
        if (const Linear* linear = products_[i].linear.get()) {
          auto* own = reinterpret_cast<float*>(scratch + static_cast<int64_t>(i) * product_bytes);
          float* product = to ? piece.of(to) : own;
          const auto* source = static_cast<const uint8_t*>(rows.sources[i]);
          linear->run(source + piece.begin * linear->inputs(), piece.rows, product,
                      scratch + computed * product_bytes);
          piece.products[i] = product;
        } else {
          piece.products[i] = piece.of(static_cast<const float*>(rows.sources[i]));
        }
      }
      work(piece);
    };
    in_parallel(context, (rows.count + step - 1) / step, part);
    require(!failed, "out of memory");
  }

  void require_shape(const char* name, const Tensor& tensor, const std::vector<int64_t>& shape) const {
    require(tensor.shape == shape,
            std::string(name) + " must have the shape " + text(shape) + ", not " + text(tensor.shape));
  }

  // Rows of a piece. Each reads all weights, so those that compute products are as large as the cache
  // allows, and as many for each thread.
  int64_t step_of(const Rows& rows, int64_t unit) const {
    int64_t step = std::max<int64_t>(1, kPartValues / rows.features);
    if (linear_) {
      int64_t row_bytes = 0;
      for (const Product& product : products_) row_bytes += product.linear->outputs() * 4 + product.linear->inputs();
      const int64_t tile = set_->linear->tile, threads = std::max(1u, std::thread::hardware_concurrency());
      step = std::max(2 * tile, kBlockBytes / row_bytes);
      const int64_t pieces = up((rows.count + step - 1) / step, threads);
      step = up((rows.count + pieces - 1) / pieces, tile);
    }
    return up(step, unit);
  }

  static int64_t up(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

  const bool linear_;
  Quantisation quantisation_{};
  std::vector<Product> products_;
  size_t vectors_ = 0;  // the first of them
};

// Nothing follows the products: their linear layer adds the bias.
class BiasNode : public RowsNode {
 public:
  BiasNode(const OrtApi* api, const OrtKernelInfo* info, const char* name) : RowsNode(api, info, name, false) {
    takes_products(info, 0, 1, true);
  }

 protected:
  void run(OrtKernelContext* context) const override {
    const Rows rows = rows_of(context);
    auto* total = static_cast<float*>(output(context, rows.shape));
    over_rows(context, rows, [](const Piece&) {}, 1, total);
  }
};

class BiasGeluNode : public RowsNode {
 public:
  BiasGeluNode(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool to_bytes)
      : RowsNode(api, info, name, to_bytes) {
    takes_products(info, 0, 1);
  }

 protected:
  void run(OrtKernelContext* context) const override {
    const Rows rows = rows_of(context);
    const float* bias = vector(context, 0, "bias", rows);
    const dvfl::Output out = result(output(context, rows.shape));
    over_rows(context, rows, [&](const Piece& piece) {
      set_->bias_gelu(piece.products[0], bias, rows.features, piece.rows, piece.of(out));
    });
  }
};

class ModulateNode : public RowsNode {
 public:
  ModulateNode(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool to_bytes)
      : RowsNode(api, info, name, to_bytes) {
    takes_products(info, 0, 3);
  }

 protected:
  void run(OrtKernelContext* context) const override {
    const Rows rows = rows_of(context);
    const float* biases[3];
    for (size_t i = 0; i < 3; ++i) biases[i] = vector(context, i, "a bias", rows);
    const dvfl::Output out = result(output(context, rows.shape));
    over_rows(context, rows, [&](const Piece& piece) {
      const dvfl::ModulateCall call{{piece.products[0], piece.products[1], piece.products[2]},
                                    {biases[0], biases[1], biases[2]}};
      set_->modulate(call, rows.features, piece.rows, piece.of(out));
    });
  }
};

// A node that ends in a layer normalisation.
class NormNode : public RowsNode {
 public:
  NormNode(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool to_bytes)
      : RowsNode(api, info, name, to_bytes) {
    check(api, api->KernelInfoGetAttribute_float(info, "epsilon", &epsilon_));
    require(epsilon_ > 0.0f, "epsilon must be positive");
  }

 protected:
  float epsilon_ = 0.0f;
};

class AddNormNode : public NormNode {
 public:
  AddNormNode(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool to_bytes)
      : NormNode(api, info, name, to_bytes) {
    takes_products(info, 1, 1);
  }

 protected:
  void run(OrtKernelContext* context) const override {
    const Rows rows = rows_of(context);
    const float* x = tensor(context, 0, "x", rows);
    const float* bias = vector(context, 0, "bias", rows);
    const float* scale = vector(context, 1, "the scale of the norm", rows);
    const float* shift = vector(context, 2, "the shift of the norm", rows);
    auto* sum = static_cast<float*>(output(context, rows.shape));
    const dvfl::Output normalised = result(output(context, rows.shape, 1));
    over_rows(context, rows, [&](const Piece& piece) {
      const dvfl::AddNormCall call{piece.of(x), piece.products[0], bias, scale, shift, epsilon_, piece.of(sum)};
      set_->add_norm(call, rows.features, piece.rows, piece.of(normalised));
    });
  }
};

class EmbedNormNode : public NormNode {
 public:
  EmbedNormNode(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool to_bytes)
      : NormNode(api, info, name, to_bytes) {
    takes_products(info, 0, 1);
  }

 protected:
  void run(OrtKernelContext* context) const override {
    const Rows rows = rows_of(context);
    const float* bias = vector(context, 0, "bias", rows);
    const float* embed_scale = vector(context, 1, "the scale of the embedding's norm", rows);
    const float* embed_shift = vector(context, 2, "the shift of the embedding's norm", rows);
    const float* scale = vector(context, 3, "the scale of the norm", rows);
    const float* shift = vector(context, 4, "the shift of the norm", rows);
    auto* tokens = static_cast<float*>(output(context, rows.shape));
    const dvfl::Output normalised = result(output(context, rows.shape, 1));
    over_rows(context, rows, [&](const Piece& piece) {
      const dvfl::EmbedNormCall call{piece.products[0], bias, embed_scale, embed_shift, scale,
                                     shift, epsilon_, piece.of(tokens)};
      set_->embed_norm(call, rows.features, piece.rows, piece.of(normalised));
    });
  }
};

class AddPatchesNode : public RowsNode {
 public:
  AddPatchesNode(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool to_bytes)
      : RowsNode(api, info, name, to_bytes) {
    takes_products(info, 1, 1);
    rows_ = attribute(api, info, "rows");
    columns_ = attribute(api, info, "columns");
    stride_ = attribute(api, info, "stride");
    channels_ = attribute(api, info, "channels");
    require(std::min({rows_, columns_, stride_, channels_}) > 0,
            "rows, columns, stride and channels must be positive");
  }

 protected:
  void run(OrtKernelContext* context) const override {
    const Rows rows = rows_of(context);
    const int64_t batch = rows.shape[0], patches = rows_ * columns_, tokens = stride_ * stride_;
    const std::vector<int64_t> wanted{batch, patches * tokens, channels_};
    require(rows.shape == wanted, "a product must have the shape " + text(wanted) + ", not " + text(rows.shape));
    const float* x = tensor(context, 0, "x", rows);
    const dvfl::Output out = result(output(context, {batch, patches, tokens * channels_}));
    auto part = [&](const Piece& piece) {
      const dvfl::AddPatchesCall call{piece.of(x), piece.products[0], columns_, stride_};
      set_->add_patches(call, stride_ * channels_, piece.rows / stride_, piece.of(out));
    };
    over_rows(context, rows, part, columns_ * tokens);
  }

 private:
  int64_t rows_, columns_, stride_, channels_;
};

}  // namespace

std::unique_ptr<Kernel> make_rows(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  std::string kind = name;
  const bool to_bytes = kind[0] == 'Q';
  for (const char* beginning : {"QLinear", "Q"}) {
    if (kind.rfind(beginning, 0) == 0) kind.erase(0, std::strlen(beginning));
  }
  if (kind == "Bias") return std::make_unique<BiasNode>(api, info, name);
  if (kind == "BiasGelu") return std::make_unique<BiasGeluNode>(api, info, name, to_bytes);
  if (kind == "Modulate") return std::make_unique<ModulateNode>(api, info, name, to_bytes);
  if (kind == "AddNorm") return std::make_unique<AddNormNode>(api, info, name, to_bytes);
  if (kind == "EmbedNorm") return std::make_unique<EmbedNormNode>(api, info, name, to_bytes);
  return std::make_unique<AddPatchesNode>(api, info, name, to_bytes);
}

}  // namespace ort
}  // namespace dvfl
