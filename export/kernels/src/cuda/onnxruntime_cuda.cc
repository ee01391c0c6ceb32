// The float nodes of domain dvfl as custom operators of onnxruntime's CUDA provider, in plain C ABI.
//
// Nothing links onnxruntime: its functions come with the table that RegisterCustomOps is given.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "../onnxruntime_errors.h"
#include "contexts.h"

#ifndef DVFL_PROVIDER
#define DVFL_PROVIDER "CUDAExecutionProvider"
#endif

namespace {

using dvfl::ort::check;
using dvfl::ort::guarded;
using dvfl::ort::kApiVersion;
using dvfl::ort::require;

enum class Node { kSpatial, kTemporal, kBiasGelu };

struct Op : OrtCustomOp {
  const char* name;
  Node node;
  size_t inputs;  // the last may be repeated in the context nodes
  ONNXTensorElementDataType type;  // of all tensors; onnxruntime chooses among ops of one name by it
};

struct Tensor {
  const OrtValue* value;
  void* data;
  std::vector<int64_t> shape;

  int64_t elements() const {
    int64_t product = 1;
    for (const int64_t size : shape) product *= size;
    return product;
  }
};

Tensor tensor_of(const OrtApi* api, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api->GetTensorTypeAndShape(value, &info));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(api->ReleaseTensorTypeAndShapeInfo)>
      owned(info, api->ReleaseTensorTypeAndShapeInfo);
  Tensor tensor = {value, nullptr, {}};
  size_t rank = 0;
  check(api, api->GetDimensionsCount(info, &rank));
  tensor.shape.resize(rank);
  check(api, api->GetDimensions(info, tensor.shape.data(), rank));
  check(api, api->GetTensorMutableData(const_cast<OrtValue*>(value), &tensor.data));
  return tensor;
}

// Memory of the device that a tensor lies on, for the length of a call. Where there is a stream, the
// allocator knows that what was started on it may still use the memory.
class Workspace {
 public:
  Workspace(const OrtApi* api, OrtKernelContext* context, const OrtValue* beside, void* stream,
            size_t bytes)
      : api_(api) {
    if (!bytes) return;
    const OrtMemoryInfo* info = nullptr;
    check(api, api->GetTensorMemoryInfo(beside, &info));
    check(api, api->KernelContext_GetAllocator(context, info, &allocator_));
    if (stream) {
      check(api, api->KernelContext_GetScratchBuffer(context, info, bytes, &data));
    } else {
      check(api, api->AllocatorAlloc(allocator_, bytes, &data));
    }
  }
  ~Workspace() {
    if (data) api_->ReleaseStatus(api_->AllocatorFree(allocator_, data));
    if (allocator_) api_->ReleaseAllocator(allocator_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void* data = nullptr;

 private:
  const OrtApi* api_;
  OrtAllocator* allocator_ = nullptr;
};

class Kernel {
 public:
  Kernel(const OrtApi* api, const Op& op, const OrtKernelInfo* info) : api_(api), op_(op) {
    if (op.node == Node::kBiasGelu) return;
    sizes_.batch = 1;
    sizes_.frames = attribute(info, "frames");
    sizes_.height = attribute(info, "height");
    sizes_.width = attribute(info, "width");
    sizes_.channels = attribute(info, "channels");
    sizes_.levels = attribute(info, "levels");
    sizes_.gate_offset = attribute(info, "gate_offset");
    size_t count = 0;
    check(api, api->KernelInfoGetAttributeArray_int64(info, "kernel_sizes", nullptr, &count));
    std::vector<int64_t> given(count);
    check(api, api->KernelInfoGetAttributeArray_int64(info, "kernel_sizes", given.data(), &count));
    require(int(count) == sizes_.levels, "kernel_sizes must be one for each of the levels");
    for (size_t l = 0; l < count && l < dvfl::kMaxLevels; ++l) sizes_.kernel_sizes[l] = int(given[l]);
    const char* const reason = dvfl::why_not(sizes_);
    require(!reason, reason ? reason : "");
  }

  OrtStatus* guarded_compute(OrtKernelContext* context) const noexcept {
    return guarded(api_, op_.name, [&] { compute(context); });
  }

 private:
  void compute(OrtKernelContext* context) const {
    size_t count = 0;
    check(api_, api_->KernelContext_GetInputCount(context, &count));
    std::vector<Tensor> inputs;
    for (size_t n = 0; n < count; ++n) {
      const OrtValue* value = nullptr;
      check(api_, api_->KernelContext_GetInput(context, n, &value));
      require(value, "input " + std::to_string(n) + " is missing");
      inputs.push_back(tensor_of(api_, value));
    }
    require(inputs[0].shape.size() == 3 && inputs[0].elements() > 0,
            "the first input must be (B, N, C), B at least 1");
    OrtValue* output = nullptr;
    void *to = nullptr, *stream = nullptr;
    const std::vector<int64_t>& shape = inputs[0].shape;
    check(api_, api_->KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &output));
    check(api_, api_->GetTensorMutableData(output, &to));
    check(api_, api_->KernelContext_GetGPUComputeStream(context, &stream));
    const cudaError_t error = op_.node == Node::kBiasGelu
                                  ? bias_gelu(inputs, to, stream)
                                  : aggregate(context, inputs, to, stream);
    require(error == cudaSuccess, cudaGetErrorString(error));
  }

  int attribute(const OrtKernelInfo* info, const char* name) const {
    int64_t value = 0;
    check(api_, api_->KernelInfoGetAttribute_int64(info, name, &value));
    require(value >= 0 && value <= INT32_MAX, std::string(name) + " is out of range");
    return int(value);
  }

  dvfl::Element element() const {
    return op_.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? dvfl::Element::kFloat32
                                                           : dvfl::Element::kFloat16;
  }

  cudaError_t bias_gelu(const std::vector<Tensor>& inputs, void* to, void* stream) const {
    const int64_t features = inputs[0].shape[2];
    require(inputs[1].elements() == features, "the bias must have one value for each feature");
    const size_t rows = size_t(inputs[0].elements() / features);
    return dvfl::bias_gelu(inputs[0].data, inputs[1].data, to, rows, int(features),
                           element(), static_cast<cudaStream_t>(stream));
  }

  cudaError_t aggregate(OrtKernelContext* context, const std::vector<Tensor>& inputs, void* to,
                        void* stream) const {
    const bool is_temporal = op_.node == Node::kTemporal;
    dvfl::ContextSizes sizes = sizes_;
    const int64_t tokens = int64_t(sizes.frames) * sizes.pixels(), channels = sizes.channels;
    sizes.batch = int(std::min<int64_t>(inputs[0].shape[0], INT32_MAX));
    require(inputs[0].shape[1] == tokens && inputs[0].shape[2] == channels,
            "the context does not have the shape of the attributes");
    require(inputs[1].elements() == sizes.batch * tokens * sizes.gates(),
            "the gates must be (B, N, 2 (levels + 1))");
    const size_t first = is_temporal ? 3 : 2;
    require(inputs.size() == first + size_t(sizes.levels), "there must be a kernel for each level");
    dvfl::ContextTensors tensors = {};
    tensors.context = inputs[0].data;
    tensors.gates = inputs[1].data;
    tensors.modulator = to;
    if (is_temporal) {
      require(inputs[2].elements() == channels * sizes.frames, "frame_bias must be (1, C, T, 1)");
      tensors.frame_bias = inputs[2].data;
    }
    for (int l = 0; l < sizes.levels; ++l) {
      const int64_t size = sizes.kernel_sizes[l];
      require(inputs[first + l].elements() == channels * size * (is_temporal ? channels : size),
              "a kernel does not have the shape of kernel_sizes");
      tensors.kernels[l] = inputs[first + l].data;
    }
    const size_t bytes = is_temporal ? dvfl::temporal_workspace(sizes, element())
                                     : dvfl::spatial_workspace(sizes, element());
    const Workspace workspace(api_, context, inputs[0].value, stream, bytes);
    tensors.workspace = workspace.data;
    const auto on = static_cast<cudaStream_t>(stream);
    return is_temporal ? dvfl::temporal_context(sizes, element(), tensors, on)
                       : dvfl::spatial_context(sizes, element(), tensors, on);
  }

  const OrtApi* api_;
  const Op& op_;
  dvfl::ContextSizes sizes_ = {};
};

const Op& op_of(const OrtCustomOp* op) { return *static_cast<const Op*>(op); }

Op make_op(const char* name, Node node, size_t inputs, ONNXTensorElementDataType type) {
  Op op = {};
  op.type = type;
  op.name = name;
  op.node = node;
  op.inputs = inputs;
  op.version = kApiVersion;
  op.GetName = [](const OrtCustomOp* self) { return op_of(self).name; };
  op.GetExecutionProviderType = [](const OrtCustomOp*) { return DVFL_PROVIDER; };
  op.GetInputTypeCount = [](const OrtCustomOp* self) { return op_of(self).inputs; };
  op.GetInputType = [](const OrtCustomOp* self, size_t) { return op_of(self).type; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) { return size_t(1); };
  op.GetOutputType = [](const OrtCustomOp* self, size_t) { return op_of(self).type; };
  op.GetInputCharacteristic = [](const OrtCustomOp* self, size_t index) {
    const bool repeats = op_of(self).node != Node::kBiasGelu && index + 1 == op_of(self).inputs;
    return repeats ? INPUT_OUTPUT_VARIADIC : INPUT_OUTPUT_REQUIRED;
  };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  op.CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi* api, const OrtKernelInfo* info,
                         void** kernel) {
    return guarded(api, op_of(self).name, [&] { *kernel = new Kernel(api, op_of(self), info); });
  };
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    return static_cast<const Kernel*>(kernel)->guarded_compute(context);
  };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  return op;
}

// The domain and its operators serve all sessions, and stay.
OrtCustomOpDomain* make_domain(const OrtApi* api) {
  static dvfl::ContextName names[dvfl::kNames];
  static std::vector<Op> ops;
  for (int n = 0; n < dvfl::kNames; ++n) names[n] = dvfl::context_name(n);
  for (const auto type : {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16}) {
    for (const dvfl::ContextName& name : names) {
      const Node node = name.is_temporal ? Node::kTemporal : Node::kSpatial;
      ops.push_back(make_op(name.text, node, name.is_temporal ? 4 : 3, type));
    }
    ops.push_back(make_op("BiasGelu", Node::kBiasGelu, 2, type));
  }
  OrtCustomOpDomain* domain = nullptr;
  check(api, api->CreateCustomOpDomain("dvfl", &domain));
  for (const Op& op : ops) check(api, api->CustomOpDomain_Add(domain, &op));
  return domain;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* const api = base->GetApi(kApiVersion);
  if (!api) {
    return base->GetApi(1)->CreateStatus(ORT_FAIL, "dvfl's kernels need onnxruntime 1.21 or newer");
  }
  return guarded(api, "RegisterCustomOps", [&] {
    static OrtCustomOpDomain* const domain = make_domain(api);
    check(api, api->AddCustomOpDomain(options, domain));
  });
}
