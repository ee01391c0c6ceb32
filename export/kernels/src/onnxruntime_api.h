// onnxruntime's C API with owners and exceptions, which end before they reach onnxruntime.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"
#include "onnxruntime_errors.h"

namespace dvfl {
namespace ort {

constexpr ONNXTensorElementDataType kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr ONNXTensorElementDataType kByte = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
constexpr ONNXTensorElementDataType kInt8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
constexpr ONNXTensorElementDataType kAny = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;

// Memory.

struct Free {
  void operator()(void* data) const { std::free(data); }
};
using Buffer = std::unique_ptr<void, Free>;

inline Buffer aligned_buffer(int64_t bytes) {
  auto size = static_cast<size_t>((bytes / dvfl::kAlignment + 1) * dvfl::kAlignment);
  Buffer buffer(std::aligned_alloc(dvfl::kAlignment, size));
  if (!buffer) throw std::bad_alloc();
  return buffer;
}

// Returns memory of this thread that stays until a larger piece is asked for; null if there is
// none. It runs where nobody catches an exception.
inline void* scratch_of_thread(int64_t bytes) noexcept {
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

// Tensors.

struct Tensor {
  const void* data;
  std::vector<int64_t> shape;
  ONNXTensorElementDataType type;

  const float* floats() const { return static_cast<const float*>(data); }
};

inline std::string text(const std::vector<int64_t>& shape) {
  std::string out = "(";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + ")";
}

inline Tensor tensor_of(const OrtApi* api, const OrtValue* value) {
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

inline Tensor input_of(const OrtApi* api, const OrtKernelContext* context, size_t index) {
  const OrtValue* value = nullptr;
  check(api, api->KernelContext_GetInput(context, index, &value));
  require(value != nullptr, "input " + std::to_string(index) + " is missing");
  return tensor_of(api, value);
}

inline Tensor constant_of(const OrtApi* api, const OrtKernelInfo* info, size_t index, const char* name,
                          ONNXTensorElementDataType type) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api, api->KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value));
  require(is_constant && value != nullptr, std::string(name) + " must be an initializer");
  Tensor tensor = tensor_of(api, value);
  require(tensor.type == type, std::string(name) + " has the wrong type");
  return tensor;
}

inline Tensor constant_of(const OrtApi* api, const OrtKernelInfo* info, size_t index, const char* name,
                          const std::vector<int64_t>& shape, ONNXTensorElementDataType type) {
  Tensor tensor = constant_of(api, info, index, name, type);
  require(tensor.shape == shape, std::string(name) + " must have the shape " + text(shape) +
                                     ", not " + text(tensor.shape));
  return tensor;
}

inline int64_t attribute(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  int64_t value = 0;
  check(api, api->KernelInfoGetAttribute_int64(info, name, &value));
  return value;
}

inline size_t input_count(const OrtApi* api, const OrtKernelInfo* info) {
  size_t count = 0;
  check(api, api->KernelInfo_GetInputCount(info, &count));
  return count;
}

struct Quantisation {
  float scale;  // 0: float32
  int32_t zero_point;
};

inline int32_t zero_point_of(const OrtApi* api, const OrtKernelInfo* info, size_t index) {
  return *static_cast<const uint8_t*>(constant_of(api, info, index, "zero_point", {}, kByte).data);
}

inline Quantisation quantisation_of(const OrtApi* api, const OrtKernelInfo* info, size_t first) {
  float scale = *constant_of(api, info, first, "the scale of the output", {}, kFloat).floats();
  require(scale > 0.0f, "the scale of the output must be positive");
  return {scale, zero_point_of(api, info, first + 1)};
}

}  // namespace ort
}  // namespace dvfl
