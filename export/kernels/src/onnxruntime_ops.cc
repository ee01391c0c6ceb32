// The nodes of domain dvfl as custom operators of onnxruntime, in plain C ABI.
//
// Nothing links onnxruntime: its functions come with the table that RegisterCustomOps is given.
// It asks for the API of the oldest version that is supported; every newer one has it, too.
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kernels.h"

namespace {

constexpr uint32_t kApiVersion = 21;
constexpr ONNXTensorElementDataType kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr ONNXTensorElementDataType kByte = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
constexpr ONNXTensorElementDataType kInt8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
constexpr ONNXTensorElementDataType kAny = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;

// What onnxruntime is told of an operator, and which inputs have which meaning.
struct Signature {
  const char* name;
  std::vector<ONNXTensorElementDataType> inputs;
  std::vector<ONNXTensorElementDataType> outputs;
  bool variadic;  // the last input may be repeated
};

struct Op : OrtCustomOp {
  const Signature* signature;
};

const Signature& signature_of(const OrtCustomOp* op) {
  return *static_cast<const Op*>(op)->signature;
}

// ---- errors: they become a status before they reach onnxruntime ----

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void check(const OrtApi* api, OrtStatus* status) {
  if (status == nullptr) return;
  std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw Failure(message);
}

void require(bool holds, const std::string& otherwise) {
  if (!holds) throw Failure(otherwise);
}

template <typename Work>
OrtStatus* guarded(const OrtApi* api, const char* name, Work work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    try {
      return api->CreateStatus(ORT_FAIL, (std::string("dvfl::") + name + ": " + error.what()).c_str());
    } catch (...) {
    }
  } catch (...) {
  }
  return api->CreateStatus(ORT_FAIL, "dvfl: out of memory");
}

// ---- memory ----

struct Free {
  void operator()(void* data) const { std::free(data); }
};
using Buffer = std::unique_ptr<void, Free>;

Buffer aligned_buffer(int64_t bytes) {
  auto size = static_cast<size_t>((bytes / dvfl::kAlignment + 1) * dvfl::kAlignment);
  Buffer buffer(std::aligned_alloc(dvfl::kAlignment, size));
  if (!buffer) throw std::bad_alloc();
  return buffer;
}

// Returns memory of this thread that stays until a larger piece is asked for; null if there is
// none. It runs where nobody catches an exception.
void* scratch_of_thread(int64_t bytes) noexcept {
  thread_local Buffer buffer;
  thread_local int64_t size = 0;
  if (bytes > size) {
    size = 0;
    buffer.reset();
    try {
      buffer = aligned_buffer(bytes);
    } catch (...) {
      return nullptr;
    }
    size = bytes;
  }
  return buffer.get();
}

// ---- tensors ----

struct Tensor {
  const void* data;
  std::vector<int64_t> shape;
  ONNXTensorElementDataType type;

  const float* floats() const { return static_cast<const float*>(data); }
};

std::string text(const std::vector<int64_t>& shape) {
  std::string out = "(";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + ")";
}

Tensor tensor_of(const OrtApi* api, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api->GetTensorTypeAndShape(value, &info));
  std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(api->ReleaseTensorTypeAndShapeInfo)> owned(
      info, api->ReleaseTensorTypeAndShapeInfo);
  Tensor tensor{};
  size_t rank = 0;
  check(api, api->GetDimensionsCount(info, &rank));
  tensor.shape.resize(rank);
  check(api, api->GetDimensions(info, tensor.shape.data(), rank));
  check(api, api->GetTensorElementType(info, &tensor.type));
  void* data = nullptr;
  check(api, api->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  tensor.data = data;
  return tensor;
}

Tensor input_of(const OrtApi* api, const OrtKernelContext* context, size_t index) {
  const OrtValue* value = nullptr;
  check(api, api->KernelContext_GetInput(context, index, &value));
  require(value != nullptr, "input " + std::to_string(index) + " is missing");
  return tensor_of(api, value);
}

Tensor constant_of(const OrtApi* api, const OrtKernelInfo* info, size_t index, const char* name,
                   const std::vector<int64_t>& shape, ONNXTensorElementDataType type) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api, api->KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value));
  require(is_constant && value != nullptr, std::string(name) + " must be an initializer");
  Tensor tensor = tensor_of(api, value);
  require(tensor.type == type, std::string(name) + " has the wrong type");
  require(tensor.shape == shape, std::string(name) + " must have the shape " + text(shape) +
                                     ", not " + text(tensor.shape));
  return tensor;
}

int64_t attribute(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  int64_t value = 0;
  check(api, api->KernelInfoGetAttribute_int64(info, name, &value));
  return value;
}

size_t input_count(const OrtApi* api, const OrtKernelInfo* info) {
  size_t count = 0;
  check(api, api->KernelInfo_GetInputCount(info, &count));
  return count;
}

struct Quantisation {
  float scale;  // 0: float32
  int32_t zero_point;
};

Quantisation quantisation_of(const OrtApi* api, const OrtKernelInfo* info, size_t first) {
  float scale = *constant_of(api, info, first, "the scale of the output", {}, kFloat).floats();
  Tensor zero = constant_of(api, info, first + 1, "zero_point", {}, kByte);
  require(scale > 0.0f, "the scale of the output must be positive");
  return {scale, *static_cast<const uint8_t*>(zero.data)};
}

// ---- kernels ----

class Kernel {
 public:
  Kernel(const OrtApi* api, const char* name) : api_(api), name_(name) {}
  virtual ~Kernel() = default;
  OrtStatus* compute(OrtKernelContext* context) const noexcept {
    return guarded(api_, name_, [&] { run(context); });
  }

 protected:
  virtual void run(OrtKernelContext* context) const = 0;

  void* output(OrtKernelContext* context, const std::vector<int64_t>& shape, size_t index = 0) const {
    OrtValue* value = nullptr;
    void* data = nullptr;
    check(api_, api_->KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value));
    check(api_, api_->GetTensorMutableData(value, &data));
    return data;
  }

  // Does work(0) to work(total - 1) in the threads of the session.
  template <typename Work>
  void in_parallel(const OrtKernelContext* context, int64_t total, Work& work) const {
    auto one = [](void* data, size_t index) { (*static_cast<Work*>(data))(static_cast<int64_t>(index)); };
    check(api_, api_->KernelContext_ParallelFor(context, one, static_cast<size_t>(total), 0, &work));
  }

  const OrtApi* api_;
  const char* name_;
};

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
    const dvfl::Kernels& kernels = *dvfl::chosen_kernels();
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
    dvfl::BiasGelu kernel = dvfl::chosen_kernels()->bias_gelu;
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
    dvfl::Modulate kernel = dvfl::chosen_kernels()->modulate;
    over_rows(context, first.shape,
              [&](int64_t begin, int64_t end) { kernel(call, features, begin, end, out); });
  }
};

class AddNormNode : public RowsNode {
 public:
  AddNormNode(const OrtApi* api, const OrtKernelInfo* info, const char* name, bool bytes)
      : RowsNode(api, info, name, bytes, 5) {
    check(api, api->KernelInfoGetAttribute_float(info, "epsilon", &epsilon_));
    require(epsilon_ > 0.0f, "epsilon must be positive");
  }

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
    dvfl::AddNorm kernel = dvfl::chosen_kernels()->add_norm;
    over_rows(context, x.shape,
              [&](int64_t begin, int64_t end) { kernel(call, features, begin, end, normalised); });
  }

 private:
  float epsilon_ = 0.0f;
};

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
  bool spatial = op.find("Spatial") != std::string::npos;
  return std::make_unique<ContextNode>(api, info, name, spatial ? Kind::spatial : Kind::temporal, bytes);
}

// ---- what onnxruntime calls ----

OrtStatus* create(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  *kernel = nullptr;
  const char* name = signature_of(op).name;
  return guarded(api, name, [&] { *kernel = make_kernel(api, info, name).release(); });
}

OrtCustomOpInputOutputCharacteristic input_kind(const OrtCustomOp* op, size_t index) {
  const Signature& s = signature_of(op);
  return s.variadic && index + 1 == s.inputs.size() ? INPUT_OUTPUT_VARIADIC : INPUT_OUTPUT_REQUIRED;
}

Op make_op(const Signature& signature) {
  Op op{};
  op.signature = &signature;
  op.version = kApiVersion;
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    return static_cast<const Kernel*>(kernel)->compute(context);
  };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op.GetName = [](const OrtCustomOp* self) { return signature_of(self).name; };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };  // the CPU
  op.GetInputTypeCount = [](const OrtCustomOp* self) { return signature_of(self).inputs.size(); };
  op.GetInputType = [](const OrtCustomOp* self, size_t index) { return signature_of(self).inputs[index]; };
  op.GetInputCharacteristic = input_kind;
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op.GetOutputTypeCount = [](const OrtCustomOp* self) { return signature_of(self).outputs.size(); };
  op.GetOutputType = [](const OrtCustomOp* self, size_t index) { return signature_of(self).outputs[index]; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp* self) {
    return signature_of(self).inputs.back() == kAny ? 0 : 1;
  };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 2147483647; };
  return op;
}

// Returns the context nodes again, with the number of levels in their names: a file whose stages
// differ in it names its nodes so.
std::vector<Signature> with_levels(const std::vector<Signature>& signatures) {
  static std::vector<std::unique_ptr<std::string>> names;
  std::vector<Signature> numbered;
  for (const Signature& signature : signatures) {
    for (int64_t levels = 1; signature.variadic && levels <= dvfl::kMostLevels; ++levels) {
      names.push_back(std::make_unique<std::string>(signature.name + std::to_string(levels)));
      numbered.push_back(signature);
      numbered.back().name = names.back()->c_str();
    }
  }
  return numbered;
}

// They live as long as the process: sessions refer to them.
OrtCustomOpDomain* domain(const OrtApi* api) {
  static const std::vector<Signature> signatures = {
      {"SpatialContext", {kFloat, kFloat, kFloat}, {kFloat}, true},
      {"TemporalContext", {kFloat, kFloat, kFloat, kFloat}, {kFloat}, true},
      {"BiasGelu", {kFloat, kFloat}, {kFloat}, false},
      {"QSpatialContext", {kFloat, kFloat, kFloat, kByte, kFloat}, {kByte}, true},
      {"QTemporalContext", {kByte, kFloat, kFloat, kFloat, kByte, kAny}, {kByte}, true},
      {"QBiasGelu", {kFloat, kFloat, kFloat, kByte}, {kByte}, false},
      {"Modulate", {kFloat, kFloat, kFloat, kFloat, kFloat, kFloat}, {kFloat}, false},
      {"QModulate", {kFloat, kFloat, kFloat, kFloat, kFloat, kFloat, kFloat, kByte}, {kByte}, false},
      {"AddNorm", {kFloat, kFloat, kFloat, kFloat, kFloat}, {kFloat, kFloat}, false},
      {"QAddNorm", {kFloat, kFloat, kFloat, kFloat, kFloat, kFloat, kByte}, {kFloat, kByte}, false},
  };
  static const std::vector<Signature> numbered = with_levels(signatures);
  static const std::vector<Op> ops(
      [] {
        std::vector<Op> made;
        for (const Signature& signature : signatures) made.push_back(make_op(signature));
        for (const Signature& signature : numbered) made.push_back(make_op(signature));
        return made;
      }());
  static OrtCustomOpDomain* const made = [api] {
    OrtCustomOpDomain* created = nullptr;
    check(api, api->CreateCustomOpDomain("dvfl", &created));
    for (const Op& op : ops) check(api, api->CustomOpDomain_Add(created, &op));
    return created;
  }();
  return made;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kApiVersion);
  if (api == nullptr) {
    const OrtApi* oldest = base->GetApi(1);  // every version has it; without a status this passes for success
    return oldest->CreateStatus(ORT_FAIL, "the kernels of dvfl need onnxruntime 1.21 or newer");
  }
  return guarded(api, "kernels", [&] {
    require(dvfl::chosen_kernels() != nullptr,
            "DVFL_KERNELS_CPU names an instruction set that this CPU or library has not");
    check(api, api->AddCustomOpDomain(options, domain(api)));
  });
}
