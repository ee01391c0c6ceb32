// TensorRT's side of the plugins, as far as it needs no TensorRT: a plugin is found, made, asked for its
// formats, its output and its workspace, written, made again, attached and run.
//
// It has the functions of c_api.cu, so that the same tests drive both.
#include "tensorrt_plugin.cc"

#include <cstdlib>
#include <memory>
#include <vector>

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

// The creator for nodes of a kind and a number of levels, which is in the name if that is odd.
IPluginCreatorV3One* creator_of(int temporal, int levels) {
  std::string name = temporal ? "TemporalContext" : "SpatialContext";
  if (levels % 2) name += std::to_string(levels);
  int32_t count = 0;
  IPluginCreatorInterface* const* const creators = getCreators(count);
  require(count == 18);
  for (int n = 0; n < count; ++n) {
    auto* const one = static_cast<IPluginCreatorV3One*>(creators[n]);
    require(!std::strcmp(one->getPluginNamespace(), "dvfl"));
    require(!std::strcmp(one->getPluginVersion(), "1"));
    require(one->getFieldNames()->nbFields == 7);
    if (one->getPluginName() == name) return one;
  }
  return nullptr;
}

// What TensorRT would log.
struct Log final : ILogger, ILoggerFinder {
  std::string text;
  void log(Severity, AsciiChar const* message) noexcept override { text = message; }
  ILogger* findLogger() noexcept override { return this; }
} said;

template <typename Capability>
Capability* as(IPluginV3* plugin, PluginCapabilityType type) {
  return static_cast<Capability*>(plugin->getCapabilityInterface(type));
}

DynamicPluginTensorDesc description(std::vector<int64_t> shape, DataType type) {
  DynamicPluginTensorDesc one = {};
  one.desc.type = type;
  one.desc.format = TensorFormat::kLINEAR;
  one.desc.dims.nbDims = int(shape.size());
  for (size_t n = 0; n < shape.size(); ++n) one.desc.dims.d[n] = shape[n];
  one.min = one.max = one.opt = one.desc.dims;
  one.min.d[0] = 1;
  return one;
}

// The plugin as the parser makes it; with 64 bits for numbers, as newer ones may.
IPluginV3* parsed(int temporal, const int* numbers) {
  static const char* const names[] = {"frames",   "height", "width",
                                      "channels", "levels", "gate_offset"};
  const int levels = numbers[5];
  std::vector<int64_t> wide(numbers + 1, numbers + 7);
  std::vector<PluginField> fields;
  for (int n = 0; n < 6; ++n) {
    fields.emplace_back(names[n], &wide[n], PluginFieldType::kINT64, 1);
  }
  fields.emplace_back("kernel_sizes", numbers + 7, PluginFieldType::kINT32, levels);
  fields.emplace_back("plugin_version", "1", PluginFieldType::kCHAR, 1);
  const PluginFieldCollection given = {int32_t(fields.size()), fields.data()};
  return creator_of(temporal, levels)->createPlugin("node", &given, TensorRTPhase::kBUILD);
}

}  // namespace

DVFL_API const char* dvfl_why_not(const int* numbers) {
  setLoggerFinder(&said);
  const std::unique_ptr<IPluginV3> made(parsed(0, numbers));
  return made ? nullptr : said.text.c_str();
}

DVFL_API const char* dvfl_error(int) { return "the plugin refuses it"; }
DVFL_API size_t dvfl_workspace(int, const int*, int) { return 0; }
DVFL_API int dvfl_bias_gelu(const void*, const void*, void*, size_t, int, int, void*) { return 1; }

DVFL_API int dvfl_context(int temporal, const int* numbers, int half, void* const* tensors,
                          void* stream) {
  const int64_t batch = numbers[0], tokens = int64_t(numbers[1]) * numbers[2] * numbers[3];
  const int64_t channels = numbers[4], levels = numbers[5];
  const DataType type = half ? DataType::kHALF : DataType::kFLOAT;
  std::vector<DynamicPluginTensorDesc> all = {
      description({batch, tokens, channels}, type),
      description({batch, tokens, 2 * (levels + 1)}, type)};
  std::vector<const void*> inputs = {tensors[0], tensors[1]};
  if (temporal) {
    all.push_back(description({1, channels, numbers[1], 1}, type));
    inputs.push_back(tensors[2]);
  }
  for (int l = 0; l < levels; ++l) {
    const int64_t size = numbers[7 + l];
    all.push_back(temporal ? description({channels, channels, size, 1}, type)
                           : description({channels, 1, size, size}, type));
    inputs.push_back(tensors[5 + l]);
  }
  const int count = int(inputs.size());
  all.push_back(all[0]);  // the output
  const std::unique_ptr<IPluginV3> built(parsed(temporal, numbers));
  require(built != nullptr);
  auto* const build = as<IPluginV3OneBuild>(built.get(), PluginCapabilityType::kBUILD);
  DataType output = DataType::kINT8;
  std::vector<DataType> types(count, type);
  require(build->getOutputDataTypes(&output, 1, types.data(), count) == 0 && output == type);
  for (int n = 0; n <= count; ++n) {
    require(build->supportsFormatCombination(n, all.data(), count, 1));
    all[n].desc.type = DataType::kINT8;
    require(!build->supportsFormatCombination(n, all.data(), count, 1));
    all[n].desc.type = type;
    all[n].desc.format = TensorFormat::kCHW32;
    require(!build->supportsFormatCombination(n, all.data(), count, 1));
    all[n].desc.format = TensorFormat::kLINEAR;
  }
  if (build->configurePlugin(all.data(), count, &all[count], 1)) return 1;
  const size_t bytes = build->getWorkspaceSize(all.data(), count, &all[count], 1);
  // what is written into a plan makes the plugin again
  auto* const written = as<IPluginV3OneRuntime>(built.get(), PluginCapabilityType::kRUNTIME);
  const std::unique_ptr<IPluginV3> read(creator_of(temporal, int(levels))->createPlugin(
      "node", written->getFieldsToSerialize(), TensorRTPhase::kRUNTIME));
  require(read != nullptr);
  auto* const core = as<IPluginV3OneCore>(read.get(), PluginCapabilityType::kCORE);
  require(!std::strcmp(core->getPluginName(), creator_of(temporal, int(levels))->getPluginName()));
  const std::unique_ptr<IPluginV3> attached(
      as<IPluginV3OneRuntime>(read.get(), PluginCapabilityType::kRUNTIME)->attachToContext(nullptr));
  auto* const run = as<IPluginV3OneRuntime>(attached.get(), PluginCapabilityType::kRUNTIME);
  std::vector<PluginTensorDesc> shapes;
  for (const auto& one : all) shapes.push_back(one.desc);
  if (run->onShapeChange(shapes.data(), count, &shapes[count], 1)) return 1;
  const std::unique_ptr<char[]> workspace(new char[bytes]);
  void* const outputs[] = {tensors[3]};
  return run->enqueue(shapes.data(), &shapes[count], inputs.data(), outputs, workspace.get(),
                      static_cast<cudaStream_t>(stream));
}
