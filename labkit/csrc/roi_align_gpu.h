// The line between the GPU compiler's file and the host compiler's: plain pointers, no torch.
#pragma once

#include <cstdint>

#include "box.h"

namespace labkit {

enum class Element { kFloat, kDouble, kHalf, kBFloat16 };

// A channels-last feature map (batch, height, width, channels).
struct Map {
  int64_t batch;
  int channels, height, width;
};

// Queue the kernels of roi_align_gpu.cuh on `stream` (a cudaStream_t or hipStream_t). `pooled` is
// (boxes, pooling.height, pooling.width, channels); `rois`, and the sum that `launch_unpool` adds
// to, are double where the elements are and float elsewhere. Return the error's text, or nullptr.
const char* launch_pool(Element element, const void* features, const void* rois, int64_t boxes,
                        const Pooling& pooling, const Map& map, void* pooled, void* stream);
const char* launch_unpool(Element element, const void* grad, const void* rois, int64_t boxes,
                          const Pooling& pooling, const Map& map, void* sum, void* stream);

}  // namespace labkit
