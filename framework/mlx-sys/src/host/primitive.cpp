// A primitive of MLX's whose work is a plain function on memory of the host. Its derivatives are those of a function of
// arrays that computes the same.
#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/primitives.h"
#include "mlx/transforms.h"

#include <memory>
#include <stdexcept>
#include <vector>

namespace {

using namespace mlx::core;

// An array as `host.rs` knows it.
struct Operand {
  void* data;
  const int* shape;
  const int64_t* strides;
  size_t axes;
};

// Answers anything but 0 when it failed.
using Function = int (*)(const Operand* inputs, size_t count, const Operand* output, const void* kernel);
using Fallback = std::function<std::vector<array>(const std::vector<array>&)>;

Operand operand(array& x) {
  return {x.data<void>(), x.shape().data(), x.strides().data(), x.ndim()};
}

class Host : public Primitive {
 public:
  Host(Stream stream, Function function, std::shared_ptr<void> kernel, Fallback fallback)
      : Primitive(stream), function_(function), kernel_(std::move(kernel)), fallback_(std::move(fallback)) {}

  // The buffers outlive the task: MLX holds them until what it dispatches next.
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    auto& output = outputs.at(0);
    output.set_data(allocator::malloc(output.nbytes()));
    std::vector<array> views;
    for (auto& input : inputs) {
      views.push_back(array::unsafe_weak_copy(input));
    }
    auto task = [function = function_, kernel = kernel_, views, view = array::unsafe_weak_copy(output)]() mutable {
      std::vector<Operand> operands;
      for (auto& input : views) {
        operands.push_back(operand(input));
      }
      auto written = operand(view);
      if (function(operands.data(), operands.size(), &written, kernel.get()) != 0) {
        throw std::runtime_error("a function on host memory failed");
      }
    };
    cpu::get_command_encoder(stream()).dispatch(std::move(task));
  }

  void eval_gpu(const std::vector<array>&, std::vector<array>&) override {
    throw std::runtime_error("a function on host memory has no GPU implementation");
  }

  std::vector<array> jvp(
      const std::vector<array>& primals,
      const std::vector<array>& tangents,
      const std::vector<int>& argnums) override {
    std::vector<array> all;
    for (auto& primal : primals) {
      all.push_back(zeros_like(primal, stream()));
    }
    for (size_t i = 0; i < argnums.size(); ++i) {
      all.at(argnums[i]) = tangents.at(i);
    }
    return mlx::core::jvp(fallback_, primals, all).second;
  }

  std::vector<array> vjp(
      const std::vector<array>& primals,
      const std::vector<array>& cotangents,
      const std::vector<int>& argnums,
      const std::vector<array>&) override {
    auto all = mlx::core::vjp(fallback_, primals, cotangents).second;
    std::vector<array> wanted;
    for (auto argument : argnums) {
      wanted.push_back(all.at(argument));
    }
    return wanted;
  }

  std::pair<std::vector<array>, std::vector<int>> vmap(
      const std::vector<array>& inputs,
      const std::vector<int>& axes) override {
    auto outputs = mlx::core::vmap(fallback_, axes)(inputs);
    std::vector<int> first(outputs.size(), 0);
    return {outputs, first};
  }

  const char* name() const override {
    return "Host";
  }

 private:
  Function function_;
  std::shared_ptr<void> kernel_;
  Fallback fallback_;
};

} // namespace

// One output of the given shape, in the dtype of the first input. Takes `kernel`, also when it fails.
extern "C" int mlx_host_apply(
    mlx_array* result,
    Function function,
    void* kernel,
    void (*release)(void*),
    mlx_closure fallback,
    const mlx_vector_array inputs,
    const int* shape,
    size_t axes,
    const mlx_stream stream) {
  try {
    std::shared_ptr<void> owned(kernel, release);
    auto& arrays = mlx_vector_array_get_(inputs);
    auto primitive = std::make_shared<Host>(
        mlx_stream_get_(stream), function, std::move(owned), mlx_closure_get_(fallback));
    mlx_array_set_(
        *result, array(Shape(shape, shape + axes), arrays.at(0).dtype(), std::move(primitive), arrays));
  } catch (std::exception& error) {
    mlx_error(error.what());
    return 1;
  }
  return 0;
}
