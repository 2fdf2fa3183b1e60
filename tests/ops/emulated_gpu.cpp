// The GPU kernels compiled for the CPU: every thread of every block in turn. The kernels use no
// shared memory and no barrier, so one after the other is one of the orders a GPU may choose.
#include <cmath>
#include <cstdint>

#define __global__
#define __device__
#define __forceinline__ inline

namespace {
struct {
  unsigned int x;
} blockIdx, threadIdx;

template <typename T>
void atomicAdd(T* address, T value) {
  *address += value;
}
}  // namespace

#include "roi_align_gpu.cuh"

namespace {
template <typename Kernel>
void run(int64_t blocks, const Kernel& kernel) {
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < labkit::kThreads; ++threadIdx.x) kernel();
}
}  // namespace

extern "C" void pool_double(const double* features, const double* rois, int64_t boxes, double scale,
                            int height, int width, int ratio, bool aligned, int64_t batch,
                            int channels, int rows, int columns, double* pooled) {
  const labkit::Pooling pooling{scale, height, width, ratio, aligned};
  const labkit::Map map{batch, channels, rows, columns};
  run(boxes * height * width,
      [&] { labkit::pool<double, double>(features, rois, pooling, map, pooled); });
}

extern "C" void unpool_double(const double* grad, const double* rois, int64_t boxes, double scale,
                              int height, int width, int ratio, bool aligned, int64_t batch,
                              int channels, int rows, int columns, double* sum) {
  const labkit::Pooling pooling{scale, height, width, ratio, aligned};
  const labkit::Map map{batch, channels, rows, columns};
  run(boxes * height * width,
      [&] { labkit::unpool<double, double>(grad, rois, pooling, map, sum); });
}
