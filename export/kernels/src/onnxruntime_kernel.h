// What a node computes with in a session; onnxruntime_contexts.cc and onnxruntime_rows.cc have the kinds.
#pragma once

#include <algorithm>

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

// Two products of such a weight and a byte can be added in 16 bits.
inline void require_seven_bits(const int8_t* weights, int64_t count, const std::string& name) {
  const int8_t* wrong = std::find_if(weights, weights + count, [](int8_t w) { return w < -64 || w > 64; });
  if (wrong != weights + count) {
    require(false, name + " must have weights from -64 to 64, not " + std::to_string(*wrong));
  }
}

// Return the kernel of an operator by its name, which must stay.
std::unique_ptr<Kernel> make_context(const OrtApi* api, const OrtKernelInfo* info, const char* name);
std::unique_ptr<Kernel> make_rows(const OrtApi* api, const OrtKernelInfo* info, const char* name);

}  // namespace ort
}  // namespace dvfl
