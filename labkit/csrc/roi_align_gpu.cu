// Launches the kernels of roi_align_gpu.cuh: for CUDA by nvcc, for HIP by hipcc.
#if defined(__HIPCC__)
#include <hip/hip_runtime.h>
#else
#include <cuda_runtime.h>
#endif

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "roi_align_gpu.cuh"
#include "roi_align_gpu.h"

namespace labkit {
namespace {

#if defined(__HIPCC__)
using Stream = hipStream_t;
const char* launch_error() {
  const hipError_t error = hipGetLastError();
  return error == hipSuccess ? nullptr : hipGetErrorString(error);
}
#else
using Stream = cudaStream_t;
const char* launch_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
#endif

template <typename scalar, typename T>
const char* pool_as(const void* features, const void* rois, int64_t boxes, const Pooling& pooling,
                    const Map& map, void* pooled, void* stream) {
  const auto blocks = static_cast<unsigned int>(boxes * pooling.height * pooling.width);
  pool<scalar, T><<<blocks, kThreads, 0, static_cast<Stream>(stream)>>>(
      static_cast<const scalar*>(features), static_cast<const T*>(rois), pooling, map,
      static_cast<scalar*>(pooled));
  return launch_error();
}

template <typename scalar, typename T>
const char* unpool_as(const void* grad, const void* rois, int64_t boxes, const Pooling& pooling,
                      const Map& map, void* sum, void* stream) {
  const auto blocks = static_cast<unsigned int>(boxes * pooling.height * pooling.width);
  unpool<scalar, T><<<blocks, kThreads, 0, static_cast<Stream>(stream)>>>(
      static_cast<const scalar*>(grad), static_cast<const T*>(rois), pooling, map,
      static_cast<T*>(sum));
  return launch_error();
}

}  // namespace

const char* launch_pool(Element element, const void* features, const void* rois, int64_t boxes,
                        const Pooling& pooling, const Map& map, void* pooled, void* stream) {
  auto* launch = element == Element::kFloat    ? pool_as<float, float>
                 : element == Element::kDouble ? pool_as<double, double>
                 : element == Element::kHalf   ? pool_as<c10::Half, float>
                                               : pool_as<c10::BFloat16, float>;
  return launch(features, rois, boxes, pooling, map, pooled, stream);
}

const char* launch_unpool(Element element, const void* grad, const void* rois, int64_t boxes,
                          const Pooling& pooling, const Map& map, void* sum, void* stream) {
  auto* launch = element == Element::kFloat    ? unpool_as<float, float>
                 : element == Element::kDouble ? unpool_as<double, double>
                 : element == Element::kHalf   ? unpool_as<c10::Half, float>
                                               : unpool_as<c10::BFloat16, float>;
  return launch(grad, rois, boxes, pooling, map, sum, stream);
}

}  // namespace labkit
