// What a node computes with in a session; onnxruntime_nodes.cc has the kinds.
#pragma once

#include "onnxruntime_api.h"

namespace dvfl {
namespace ort {

inline void require_instructions(const Kernels* set) {
  require(set != nullptr, "DVFL_KERNELS_CPU names an instruction set that this CPU or library has not");
}

class Kernel {
 public:
  Kernel(const OrtApi* api, const char* name)
      : api_(api), name_(name), set_(dvfl::chosen_kernels()) {
    require_instructions(set_);
  }
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
  const dvfl::Kernels* set_;  // of the instruction set that was chosen
};

// Returns the kernel of an operator by its name, which must stay.
std::unique_ptr<Kernel> make_kernel(const OrtApi* api, const OrtKernelInfo* info, const char* name);

}  // namespace ort
}  // namespace dvfl
