// The nodes of domain dvfl as custom operators of onnxruntime, in plain C ABI.
//
// Nothing links onnxruntime: its functions come with the table that RegisterCustomOps is given.
// It asks for the API of the oldest version that is supported; every newer one has it, too.
#include <memory>
#include <string>
#include <vector>

#include "onnxruntime_kernel.h"

namespace dvfl {
namespace ort {
namespace {

using Types = std::vector<ONNXTensorElementDataType>;

// What onnxruntime is told of an operator, and which inputs have which meaning.
struct Signature {
  const char* name;
  Types inputs;
  Types outputs;
  bool variadic;  // the last input may be repeated
};

struct Op : OrtCustomOp {
  const Signature* signature;
};

const Signature& signature_of(const OrtCustomOp* op) {
  return *static_cast<const Op*>(op)->signature;
}

OrtStatus* create(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  *kernel = nullptr;
  const char* name = signature_of(op).name;
  const bool context = std::string(name).find("Context") != std::string::npos;
  return guarded(api, name, [&] { *kernel = (context ? make_context : make_rows)(api, info, name).release(); });
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

// The inputs of a node that computes products: what comes before them, the five parts of each, vectors,
// and at the end what says how its bytes are made.
Types linear(size_t before, size_t products, size_t vectors, bool to_bytes = true) {
  Types types(before, kFloat);
  for (size_t i = 0; i < products; ++i) {
    for (auto type : {kByte, kFloat, kInt8, kFloat, kInt8}) types.push_back(type);
  }
  types.insert(types.end(), vectors + (to_bytes ? 1 : 0), kFloat);
  types.push_back(kByte);
  return types;
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
      {"AddPatches", {kFloat, kFloat}, {kFloat}, false},
      {"QAddPatches", {kFloat, kFloat, kFloat, kByte}, {kByte}, false},
      {"EmbedNorm", {kFloat, kFloat, kFloat, kFloat, kFloat, kFloat}, {kFloat, kFloat}, false},
      {"QEmbedNorm", {kFloat, kFloat, kFloat, kFloat, kFloat, kFloat, kFloat, kByte}, {kFloat, kByte}, false},
      {"QLinearBias", linear(0, 1, 1, false), {kFloat}, false},
      {"QLinearBiasGelu", linear(0, 1, 1), {kByte}, false},
      {"QLinearModulate", linear(0, 3, 3), {kByte}, false},
      {"QLinearAddNorm", linear(1, 1, 3), {kFloat, kByte}, false},
      {"QLinearAddPatches", linear(1, 1, 0), {kByte}, false},
      {"QLinearEmbedNorm", linear(0, 1, 5), {kFloat, kByte}, false},
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
}  // namespace ort
}  // namespace dvfl

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(dvfl::ort::kApiVersion);
  if (api == nullptr) {
    const OrtApi* oldest = base->GetApi(1);  // every version has it; without a status this passes for success
    return oldest->CreateStatus(ORT_FAIL, "the kernels of dvfl need onnxruntime 1.21 or newer");
  }
  return dvfl::ort::guarded(api, "kernels", [&] {
    dvfl::ort::require_instructions(dvfl::chosen_kernels());
    dvfl::ort::check(api, api->AddCustomOpDomain(options, dvfl::ort::domain(api)));
  });
}
