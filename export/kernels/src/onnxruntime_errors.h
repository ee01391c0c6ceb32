// Errors of the libraries for onnxruntime: they become a status before they reach it.
#pragma once

#include <onnxruntime_c_api.h>

#include <exception>
#include <stdexcept>
#include <string>

namespace dvfl {
namespace ort {

constexpr uint32_t kApiVersion = 21;  // of onnxruntime 1.21, the oldest supported

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void check(const OrtApi* api, OrtStatus* status) {
  if (status == nullptr) return;
  std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw Failure(message);
}

inline void require(bool holds, const std::string& otherwise) {
  if (!holds) throw Failure(otherwise);
}

// Run work whose exceptions become a status: none may reach onnxruntime.
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

}  // namespace ort
}  // namespace dvfl
