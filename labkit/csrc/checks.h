// What an operator refuses, and how it allocates, on the CPU and the GPU alike.
//
// labkit.ops.roi_align words these errors for its callers; here they keep a direct call of
// torch.ops.labkit.roi_align from reading out of bounds.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <limits>
#include <vector>

#include "box.h"

namespace labkit {

using torch::stable::Tensor;

inline Pooling check_call(const Tensor& input, const Tensor& rois, double spatial_scale,
                          int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio,
                          bool aligned) {
  using torch::headeronly::ScalarType;
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  STD_TORCH_CHECK(input.dim() == 4, "labkit::roi_align: input must have 4 dimensions");
  STD_TORCH_CHECK(input.size(1) <= kMost && input.size(2) <= kMost && input.size(3) <= kMost,
                  "labkit::roi_align: input is too large");
  STD_TORCH_CHECK(rois.dim() == 2 && rois.size(1) == 5, "labkit::roi_align: rois must be (K, 5)");
  STD_TORCH_CHECK(rois.get_device() == input.get_device() && rois.is_cpu() == input.is_cpu(),
                  "labkit::roi_align: input and rois are on different devices");
  const ScalarType type = input.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double ||
                      type == ScalarType::Half || type == ScalarType::BFloat16,
                  "labkit::roi_align: input must be float16, bfloat16, float32 or float64");
  STD_TORCH_CHECK(
      rois.scalar_type() == (type == ScalarType::Double ? ScalarType::Double : ScalarType::Float),
      "labkit::roi_align: rois must be float32, or float64 where input is");
  STD_TORCH_CHECK(pooled_height > 0 && pooled_width > 0 && pooled_height <= 65535 &&
                      pooled_width <= 65535,
                  "labkit::roi_align: pooled_height and pooled_width must be 1 to 65535");
  STD_TORCH_CHECK(sampling_ratio <= 65535, "labkit::roi_align: sampling_ratio is above 65535");
  STD_TORCH_CHECK(rois.size(0) == 0 || (input.size(2) > 0 && input.size(3) > 0),
                  "labkit::roi_align: input has no cells");
  return {spatial_scale, static_cast<int>(pooled_height), static_cast<int>(pooled_width),
          static_cast<int>(sampling_ratio > 0 ? sampling_ratio : 0), aligned};
}

inline Pooling check_backward(const Tensor& grad, const Tensor& rois, double spatial_scale,
                              int64_t channels, int64_t height, int64_t width,
                              int64_t sampling_ratio, bool aligned) {
  STD_TORCH_CHECK(grad.dim() == 4, "labkit::roi_align_backward: grad must have 4 dimensions");
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  STD_TORCH_CHECK(height <= kMost && width <= kMost && channels <= kMost,
                  "labkit::roi_align_backward: the feature map is too large");
  STD_TORCH_CHECK(grad.size(0) == rois.size(0) && grad.size(1) == channels,
                  "labkit::roi_align_backward: grad does not fit rois and channels");
  STD_TORCH_CHECK(rois.size(0) == 0 || (height > 0 && width > 0),
                  "labkit::roi_align_backward: the feature map has no cells");
  return check_call(grad, rois, spatial_scale, grad.size(2), grad.size(3), sampling_ratio, aligned);
}

template <typename T>
inline void check_boxes_of(const T* rois, int64_t count, int64_t batch) {
  for (int64_t k = 0; k < count; ++k)
    STD_TORCH_CHECK(valid_roi(rois + 5 * k, batch), "labkit::roi_align: rois row ", k,
                    " has a batch index outside the batch or a coordinate that is not finite");
}

// For rois on the CPU, contiguous. On a GPU looking at the boxes would wait for it.
inline void check_boxes(const Tensor& rois, int64_t batch) {
  const int64_t count = rois.size(0);
  if (rois.scalar_type() == torch::headeronly::ScalarType::Double)
    check_boxes_of(static_cast<const double*>(rois.const_data_ptr()), count, batch);
  else
    check_boxes_of(static_cast<const float*>(rois.const_data_ptr()), count, batch);
}

// Whether results shall be channels-last: the tensor is, and is not contiguous as well. As in torch,
// the stride of a dimension of size 1 says nothing.
inline bool channels_last(const Tensor& tensor) {
  if (tensor.is_contiguous()) return false;
  int64_t expected = 1;
  for (const int64_t dim : {1, 3, 2, 0}) {
    if (tensor.size(dim) == 1) continue;
    if (tensor.stride(dim) != expected) return false;
    expected *= tensor.size(dim);
  }
  return true;
}

// An uninitialised tensor of the type and on the device of `like`.
inline Tensor empty_like_layout(const Tensor& like, const std::vector<int64_t>& size,
                                bool channels_last) {
  using torch::headeronly::MemoryFormat;
  return torch::stable::empty(
      torch::headeronly::IntHeaderOnlyArrayRef(size.data(), size.size()), like.scalar_type(),
      std::nullopt, like.device(), std::nullopt,
      channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

}  // namespace labkit
