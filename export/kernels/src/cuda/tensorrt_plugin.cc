// SpatialContext and TemporalContext as plugins of TensorRT 10.3 and newer (IPluginV3).
//
// A node's name may end in its number of levels, as context_name() says. TensorRT finds them with IPluginRegistry::loadLibrary, so that nothing links libnvinfer. Engines
// of TensorRT 10.0 to 10.6 prefer the function in the file, newer ones these plugins.
#include <NvInferRuntime.h>

#include <cstring>
#include <new>
#include <string>

#include "contexts.h"

namespace {

using namespace nvinfer1;

constexpr const char* kNamespace = "dvfl";
constexpr const char* kVersion = "1";
constexpr int kAttributes = 7;

// The attributes of a node, by name; kernel_sizes has one number for each level.
struct Attribute {
  const char* name;
  int32_t dvfl::ContextSizes::* number;  // null: kernel_sizes
};
constexpr Attribute kNamed[kAttributes] = {
    {"frames", &dvfl::ContextSizes::frames},     {"height", &dvfl::ContextSizes::height},
    {"width", &dvfl::ContextSizes::width},       {"channels", &dvfl::ContextSizes::channels},
    {"levels", &dvfl::ContextSizes::levels},     {"gate_offset", &dvfl::ContextSizes::gate_offset},
    {"kernel_sizes", nullptr},
};

dvfl::Element element_of(DataType type) {
  return type == DataType::kHALF ? dvfl::Element::kFloat16 : dvfl::Element::kFloat32;
}

class ContextPlugin final : public IPluginV3,
                            public IPluginV3OneCore,
                            public IPluginV3OneBuild,
                            public IPluginV3OneRuntime {
 public:
  ContextPlugin(const dvfl::ContextSizes& sizes, const dvfl::ContextName& name)
      : sizes_(sizes), name_(name), is_temporal_(name.is_temporal) {}

  IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    switch (type) {
      case PluginCapabilityType::kCORE:
        return static_cast<IPluginV3OneCore*>(this);
      case PluginCapabilityType::kBUILD:
        return static_cast<IPluginV3OneBuild*>(this);
      case PluginCapabilityType::kRUNTIME:
        return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  IPluginV3* clone() noexcept override { return new (std::nothrow) ContextPlugin(*this); }

  AsciiChar const* getPluginName() const noexcept override {
    return name_.text;
  }
  AsciiChar const* getPluginVersion() const noexcept override { return kVersion; }
  AsciiChar const* getPluginNamespace() const noexcept override { return kNamespace; }

  int32_t getNbOutputs() const noexcept override { return 1; }

  int32_t configurePlugin(DynamicPluginTensorDesc const* inputs, int32_t count,
                          DynamicPluginTensorDesc const*, int32_t) noexcept override {
    return count == first_kernel() + sizes_.levels && matches(inputs[0].desc.dims) ? 0 : -1;
  }

  int32_t getOutputDataTypes(DataType* outputs, int32_t, DataType const* inputs,
                             int32_t) const noexcept override {
    outputs[0] = inputs[0];
    return 0;
  }

  int32_t getOutputShapes(DimsExprs const* inputs, int32_t, DimsExprs const*, int32_t,
                          DimsExprs* outputs, int32_t, IExprBuilder&) noexcept override {
    outputs[0] = inputs[0];
    return 0;
  }

  // float32 or float16, the same for all tensors
  bool supportsFormatCombination(int32_t at, DynamicPluginTensorDesc const* tensors, int32_t,
                                 int32_t) noexcept override {
    const PluginTensorDesc& one = tensors[at].desc;
    return one.format == TensorFormat::kLINEAR &&
           (one.type == DataType::kFLOAT || one.type == DataType::kHALF) &&
           one.type == tensors[0].desc.type;
  }

  size_t getWorkspaceSize(DynamicPluginTensorDesc const* inputs, int32_t,
                          DynamicPluginTensorDesc const*, int32_t) const noexcept override {
    dvfl::ContextSizes sizes = sizes_;
    sizes.batch = int(inputs[0].max.d[0]);
    const dvfl::Element element = element_of(inputs[0].desc.type);
    return is_temporal_ ? dvfl::temporal_workspace(sizes, element)
                        : dvfl::spatial_workspace(sizes, element);
  }

  int32_t onShapeChange(PluginTensorDesc const* inputs, int32_t count, PluginTensorDesc const*,
                        int32_t) noexcept override {
    return count == first_kernel() + sizes_.levels && matches(inputs[0].dims) ? 0 : -1;
  }

  int32_t enqueue(PluginTensorDesc const* descriptions, PluginTensorDesc const*,
                  void const* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override {
    dvfl::ContextSizes sizes = sizes_;
    sizes.batch = int(descriptions[0].dims.d[0]);
    dvfl::ContextTensors tensors = {};
    tensors.context = inputs[0];
    tensors.gates = inputs[1];
    tensors.frame_bias = is_temporal_ ? inputs[2] : nullptr;
    for (int l = 0; l < sizes.levels; ++l) tensors.kernels[l] = inputs[first_kernel() + l];
    tensors.modulator = outputs[0];
    tensors.workspace = workspace;
    const dvfl::Element element = element_of(descriptions[0].type);
    return is_temporal_ ? dvfl::temporal_context(sizes, element, tensors, stream)
                        : dvfl::spatial_context(sizes, element, tensors, stream);
  }

  IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }

  PluginFieldCollection const* getFieldsToSerialize() noexcept override {
    for (int n = 0; n < kAttributes; ++n) {
      const Attribute& one = kNamed[n];
      const int32_t* const data = one.number ? &(sizes_.*one.number) : sizes_.kernel_sizes;
      fields_[n] = {one.name, data, PluginFieldType::kINT32, one.number ? 1 : sizes_.levels};
    }
    collection_ = {kAttributes, fields_};
    return &collection_;
  }

 private:
  int first_kernel() const { return is_temporal_ ? 3 : 2; }

  // whether the context is (B, N, C)
  bool matches(const Dims& context) const {
    return context.nbDims == 3 && context.d[1] == sizes_.frames * sizes_.pixels() &&
           context.d[2] == sizes_.channels;
  }

  dvfl::ContextSizes sizes_;
  dvfl::ContextName name_;
  bool is_temporal_;
  PluginField fields_[kAttributes] = {};
  PluginFieldCollection collection_ = {};
};

ILoggerFinder* logger_finder = nullptr;

void log_error(const char* message) {
  ILogger* const logger = logger_finder ? logger_finder->findLogger() : nullptr;
  if (logger) logger->log(ILogger::Severity::kERROR, message);
}

// Take one number of a field, which TensorRT hands over in 32 or 64 bits.
bool number_of(const PluginField& field, int index, int32_t& to) {
  if (!field.data || index >= field.length) return false;
  if (field.type == PluginFieldType::kINT32) {
    to = static_cast<const int32_t*>(field.data)[index];
    return true;
  }
  const char* const bytes = static_cast<const char*>(field.data);
  int64_t wide = 0;
  if (field.type != PluginFieldType::kINT64) return false;
  std::memcpy(&wide, bytes + index * sizeof wide, sizeof wide);
  to = int32_t(wide);
  return wide == to;
}

class ContextCreator final : public IPluginCreatorV3One {
 public:
  void set_name(const dvfl::ContextName& name) { name_ = name; }

  ContextCreator() {
    for (int n = 0; n < kAttributes; ++n) {
      fields_[n] = {kNamed[n].name, nullptr, PluginFieldType::kINT32, 1};
    }
    collection_ = {kAttributes, fields_};
  }

  AsciiChar const* getPluginName() const noexcept override {
    return name_.text;
  }
  AsciiChar const* getPluginVersion() const noexcept override { return kVersion; }
  AsciiChar const* getPluginNamespace() const noexcept override { return kNamespace; }
  PluginFieldCollection const* getFieldNames() noexcept override { return &collection_; }

  IPluginV3* createPlugin(AsciiChar const*, PluginFieldCollection const* given,
                          TensorRTPhase) noexcept override {
    dvfl::ContextSizes sizes = {};
    sizes.batch = 1;
    int found = 0, kernels = 0;
    for (int n = 0; given && n < given->nbFields; ++n) {
      const PluginField& field = given->fields[n];
      for (const Attribute& one : kNamed) {
        if (!field.name || std::strcmp(field.name, one.name) != 0) continue;
        if (one.number) {
          found += number_of(field, 0, sizes.*one.number);
          continue;
        }
        while (kernels < dvfl::kMaxLevels &&
               number_of(field, kernels, sizes.kernel_sizes[kernels])) {
          ++kernels;
        }
      }
    }
    const char* reason = nullptr;
    if (found != kAttributes - 1 || kernels != sizes.levels) {
      reason = "attributes are missing, or kernel_sizes is not one for each of the levels";
    } else {
      reason = dvfl::why_not(sizes);
    }
    if (!reason) return new (std::nothrow) ContextPlugin(sizes, name_);
    try {
      log_error((std::string("dvfl::") + getPluginName() + ": " + reason).c_str());
    } catch (...) {
    }
    return nullptr;
  }

 private:
  dvfl::ContextName name_ = {};
  PluginField fields_[kAttributes] = {};
  PluginFieldCollection collection_ = {};
};

}  // namespace

#define DVFL_API extern "C" __attribute__((visibility("default")))

DVFL_API void setLoggerFinder(ILoggerFinder* finder) { logger_finder = finder; }

DVFL_API IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static ContextCreator creators[dvfl::kNames];
  static IPluginCreatorInterface* pointers[dvfl::kNames];
  static const bool is_made = [] {
    for (int n = 0; n < dvfl::kNames; ++n) {
      creators[n].set_name(dvfl::context_name(n));
      pointers[n] = &creators[n];
    }
    return true;
  }();
  count = is_made ? dvfl::kNames : 0;
  return pointers;
}
