// The GPU operator for CUDA and HIP: checks and layouts around the kernels of roi_align_gpu.cu.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "checks.h"
#include "roi_align_gpu.h"

namespace labkit {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void* current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return stream;
}

Element element_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Element::kFloat;
    case ScalarType::Double: return Element::kDouble;
    case ScalarType::Half: return Element::kHalf;
    default: return Element::kBFloat16;
  }
}

Map map_of(const Tensor& tensor) {
  return {tensor.size(0), static_cast<int>(tensor.size(1)), static_cast<int>(tensor.size(2)),
          static_cast<int>(tensor.size(3))};
}

// One thread block is launched for every bin of every box.
void check_blocks(const Tensor& rois, const Pooling& pooling) {
  STD_TORCH_CHECK(
      rois.size(0) * pooling.height * pooling.width <= std::numeric_limits<int>::max(),
      "labkit::roi_align: too many boxes or bins for one call");
}

void check_launch(const char* error) {
  STD_TORCH_CHECK(error == nullptr, "labkit::roi_align: ", error ? error : "");
}

Tensor roi_align(const Tensor& input, const Tensor& rois, double spatial_scale,
                 int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio,
                 bool aligned) {
  const Pooling pooling =
      check_call(input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned);
  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  const Tensor map = torch::stable::contiguous(input, MemoryFormat::ChannelsLast);
  const Tensor boxes = torch::stable::contiguous(rois);
  Tensor output =
      empty_like_layout(input, {rois.size(0), input.size(1), pooled_height, pooled_width}, true);
  check_blocks(boxes, pooling);
  if (output.numel() > 0)
    check_launch(launch_pool(element_of(map), map.const_data_ptr(), boxes.const_data_ptr(),
                             boxes.size(0), pooling, map_of(map), output.mutable_data_ptr(),
                             current_stream(map)));
  return channels_last(input) ? output : torch::stable::contiguous(output);
}

Tensor roi_align_backward(const Tensor& grad, const Tensor& rois, double spatial_scale,
                          int64_t batch_size, int64_t channels, int64_t height, int64_t width,
                          int64_t sampling_ratio, bool aligned, bool channels_last) {
  const Pooling pooling = check_backward(grad, rois, spatial_scale, channels, height, width,
                                         sampling_ratio, aligned);
  const torch::stable::accelerator::DeviceGuard guard(grad.get_device_index());
  const Tensor pooled = torch::stable::contiguous(grad, MemoryFormat::ChannelsLast);
  const Tensor boxes = torch::stable::contiguous(rois);
  // The boxes' type is the type to accumulate in.
  Tensor result = empty_like_layout(rois, {batch_size, channels, height, width}, true);
  torch::stable::zero_(result);
  check_blocks(boxes, pooling);
  if (pooled.numel() > 0)
    check_launch(launch_unpool(element_of(pooled), pooled.const_data_ptr(), boxes.const_data_ptr(),
                               boxes.size(0), pooling, map_of(result), result.mutable_data_ptr(),
                               current_stream(pooled)));
  if (grad.scalar_type() != result.scalar_type())
    result = torch::stable::to(result, grad.scalar_type());
  return channels_last ? result : torch::stable::contiguous(result);
}

}  // namespace
}  // namespace labkit

// A ROCm build of torch calls its GPUs CUDA as well.
STABLE_TORCH_LIBRARY_IMPL(labkit, CUDA, m) {
  m.impl("roi_align", TORCH_BOX(&labkit::roi_align));
  m.impl("roi_align_backward", TORCH_BOX(&labkit::roi_align_backward));
}
