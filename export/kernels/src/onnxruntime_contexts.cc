// The context nodes: their constants are checked and packed once, their inputs in every call.
#include <algorithm>
#include <thread>

#include "onnxruntime_kernel.h"

namespace dvfl {
namespace ort {
namespace {

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
    const dvfl::Kernels& kernels = *set_;
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

}  // namespace

std::unique_ptr<Kernel> make_context(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  const std::string op = name;
  const Kind kind = op.find("Spatial") != std::string::npos ? Kind::spatial : Kind::temporal;
  return std::make_unique<ContextNode>(api, info, name, kind, op[0] == 'Q');
}

}  // namespace ort
}  // namespace dvfl
